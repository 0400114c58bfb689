//! What a buyer is owed and was not given: parts of a sale that the service did not get to, slots of
//! codes, and payments that no ordinary run would notice.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::btcpay::{self, Btcpay, Fault, STORE, Version};
use crate::program::{Run, what_needs_a_person};
use crate::shop::{BTC, SHOPS, Shop};

/// SQL: a time in the format that Keysat writes, such as `-50 minutes` from now.
fn at(when: &str) -> String {
    format!("strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '{when}')")
}

const LOST_SUBSCRIPTION: &str = "DELETE FROM subscription_invoices; DELETE FROM subscriptions";
const LOST_CYCLE: &str = "DELETE FROM subscription_invoices";
const LOST_DELIVERY: &str = "DELETE FROM webhook_deliveries WHERE event_type = 'license.issued'";

impl Shop {
    /// A Keysat shop that has sold the subscription `a` 50 minutes ago. It has everything, because a
    /// run has settled it. An endpoint has heard of everything for two days.
    fn with_subscription_sold(terms: &str) -> Self {
        let shop = Self::of_keysat();
        shop.sells_subscriptions(terms);
        shop.has_endpoint("all", "[\"*\"]", true);
        shop.has_heard("all", "-2 days");
        shop.sale("a").made();
        shop.sql(
            "UPDATE invoices SET payment_provider_id = 'btcpay', listed_currency = 'EUR', listed_value = 1999",
        );
        shop.reconcile().exits(0);
        shop
    }

    /// Moves the license and the last change of its invoice to another time.
    fn was_settled(&self, when: &str) {
        let time = at(when);
        self.sql(&format!(
            "UPDATE invoices SET updated_at = {time}; UPDATE licenses SET issued_at = {time}"
        ));
    }

    fn has_heard(&self, endpoint: &str, when: &str) {
        let time = at(when);
        self.sql(&format!(
            "INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, next_attempt_at,
                                             delivered_at, created_at)
             VALUES (hex(randomblob(8)), '{endpoint}', 'machine.activated', '{{}}', {time}, {time}, {time})"
        ));
    }

    /// The service notes something in `audit_log`.
    fn notes(&self, action: &str, target: &str, details: &Value, when: &str) {
        let time = at(when);
        self.sql(&format!(
            "INSERT INTO audit_log (actor_kind, action, target_id, details_json, occurred_at)
             VALUES ('system', '{action}', '{target}', '{details}', {time})"
        ));
    }

    /// The subscription, its cycles and the news of the license, without what differs from one sale to
    /// the next. Times are relative to the license's.
    fn parts(&self) -> [String; 3] {
        [
            self.query(
                "SELECT s.license_id = l.id, s.policy_id, s.product_id, s.period_days, s.listed_currency,
                        s.listed_value, s.status, unixepoch(s.started_at) - unixepoch(l.issued_at),
                        unixepoch(s.next_renewal_at) - unixepoch(l.issued_at), s.consecutive_failures,
                        s.cancelled_at, s.last_renewal_attempt_at, s.merchant_profile_id, s.payment_provider_id,
                        substr(s.started_at, 20), substr(s.next_renewal_at, 20), substr(s.created_at, 20)
                   FROM subscriptions s, licenses l",
            ),
            self.query(
                "SELECT c.subscription_id = s.id, c.invoice_id, c.cycle_number,
                        unixepoch(c.cycle_start_at) - unixepoch(l.issued_at),
                        unixepoch(c.cycle_end_at) - unixepoch(l.issued_at),
                        substr(c.cycle_start_at, 20), substr(c.cycle_end_at, 20), substr(c.created_at, 20)
                   FROM subscription_invoices c, subscriptions s, licenses l",
            ),
            self.query(
                "SELECT endpoint_id, attempt_count, delivered_at, next_attempt_at = created_at,
                        substr(created_at, 20), payload_json ->> '$.data', payload_json ->> '$.event_type',
                        payload_json ->> '$.timestamp' = created_at,
                        (SELECT group_concat(key) FROM json_each(payload_json))
                   FROM webhook_deliveries WHERE event_type = 'license.issued'",
            ),
        ]
    }

    /// A dry run with these options and then a real one, which agree. A third has nothing to do.
    fn predicts_and_does(&self, options: &[&str]) -> Value {
        let run = || {
            options
                .iter()
                .fold(self.reconcile(), |run, one| run.flag(one))
        };
        let before = self.everything();
        let predicted = run().flag("-n").json(0);
        assert_eq!(self.everything(), before, "a dry run writes nothing");
        let done = run().json(0);
        assert_eq!(without_new_ids(&predicted), without_new_ids(&done));
        assert_eq!(what_needs_a_person(&predicted), what_needs_a_person(&done));
        assert_eq!(predicted["out_of_window"], done["out_of_window"]);
        let after = self.everything();
        let again = run().json(0);
        assert_eq!(again["changes"], json!([]));
        assert_eq!(self.everything(), after, "another run has nothing to do");
        done
    }

    /// Neither a plain run nor a `--recheck` finds anything to do or to say.
    fn stays_as_it_is(&self, why: &str) {
        let before = self.everything();
        for options in [&[][..], &["--recheck"]] {
            for option in [None, Some("-n")] {
                let run = options.iter().copied().chain(option);
                let report = run.fold(self.reconcile(), Run::flag).json(0);
                assert_eq!(report["changes"], json!([]), "{why}");
                assert_eq!(report["attention"], json!([]), "{why}");
            }
        }
        assert_eq!(self.everything(), before, "{why}");
    }
}

/// The changes of a report, without the ids of licenses that a dry run does not issue.
fn without_new_ids(report: &Value) -> Value {
    let mut changes = report["changes"].clone();
    for change in changes.as_array_mut().unwrap() {
        if change["license_issued"] == true {
            change["license_id"].take();
        }
    }
    // Older invoices come in another order each time.
    let by_id = |change: &Value| change["invoice_id"].as_str().unwrap().to_owned();
    changes.as_array_mut().unwrap().sort_by_key(by_id);
    changes
}

/// What a report says was completed, an invoice a line.
fn completed(report: &Value) -> Vec<String> {
    let changes = report["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            let parts = change["completed"].as_array().unwrap().iter();
            let parts: Vec<&str> = parts.map(|part| part.as_str().unwrap()).collect();
            format!(
                "{}: {}",
                change["invoice_id"].as_str().unwrap(),
                parts.join(" ")
            )
        })
        .collect()
}

fn reasons(report: &Value) -> Vec<&str> {
    let attention = report["attention"].as_array().unwrap().iter();
    attention
        .map(|item| item["reason"].as_str().unwrap())
        .collect()
}

// The parts of a sale.

#[test]
fn lost_parts_are_completed_as_they_were() {
    for terms in [
        "",
        ", trial_days = 14, duration_seconds = 86400 * 37",
        ", renewal_period_days = NULL",
    ] {
        for (lost, plain, with_recheck) in [
            (vec![LOST_SUBSCRIPTION], "subscription", "subscription"),
            (vec![LOST_CYCLE], "cycle", "cycle"),
            (vec![LOST_DELIVERY], "", "delivery"),
            (
                vec![LOST_SUBSCRIPTION, LOST_DELIVERY],
                "subscription",
                "subscription delivery",
            ),
            (vec![LOST_CYCLE, LOST_DELIVERY], "cycle", "cycle delivery"),
        ] {
            for (option, expected) in [(None, plain), (Some("--recheck"), with_recheck)] {
                let shop = Shop::with_subscription_sold(terms);
                let mut whole = shop.parts();
                assert!(whole.iter().all(|part| !part.is_empty()), "{whole:?}");
                shop.sql(&lost.join(";"));
                shop.was_settled("-50 minutes");
                if lost == [LOST_CYCLE] || lost == [LOST_CYCLE, LOST_DELIVERY] {
                    // The subscription that is there began with the license.
                    shop.sql(
                        "UPDATE subscriptions SET started_at = (SELECT issued_at FROM licenses)",
                    );
                    whole[0].clone_from(&shop.parts()[0]);
                } else if lost == [LOST_DELIVERY] {
                    let parts = shop.parts();
                    whole[..2].clone_from_slice(&parts[..2]);
                }
                if !expected.contains("delivery") {
                    whole[2] = shop.parts()[2].clone();
                }

                let options: Vec<&str> = option.into_iter().collect();
                let report = shop.predicts_and_does(&options);
                let all = if expected.is_empty() {
                    vec![]
                } else {
                    vec![format!("a: {expected}")]
                };
                assert_eq!(completed(&report), all, "{lost:?} {option:?}");
                assert_eq!(shop.parts(), whole, "{terms} {lost:?} {option:?}");
                assert_eq!(shop.state("a"), "settled, licensed");
            }
        }
    }
}

#[test]
fn completion_is_reported_and_audited_as_such() {
    let shop = Shop::with_subscription_sold("");
    shop.sql(&[LOST_SUBSCRIPTION, LOST_DELIVERY].join(";"));
    shop.was_settled("-50 minutes");
    let before = shop.query("SELECT max(id) FROM audit_log");
    let license = shop.query("SELECT id FROM licenses");
    let report = shop.reconcile().flag("--recheck").flag("-n").json(0);
    let change = &report["changes"][0];
    assert_eq!(change["license_issued"], false);
    assert_eq!(change["license_id"], license);
    assert_eq!(
        (&change["from"], &change["to"]),
        (&json!("settled"), &json!("settled"))
    );
    shop.reconcile().flag("--recheck").exits(0).warns("");
    assert_eq!(
        shop.query(&format!(
            "SELECT actor_kind, action, target_kind, target_id = '{license}',
                    details_json ->> 'invoice_id', details_json ->> 'btcpay_invoice_id',
                    details_json ->> 'from', details_json ->> 'to', details_json ->> 'completed'
               FROM audit_log WHERE id > {before}"
        )),
        r#"reconcile|sale.completed|license|1|a|btc-a|settled|settled|["subscription","delivery"]"#
    );
}

#[test]
fn sale_of_this_run_counts_nothing_as_completed() {
    let shop = Shop::of_keysat();
    shop.sells_subscriptions("");
    shop.has_endpoint("all", "[\"*\"]", true);
    shop.has_heard("all", "-2 days");
    shop.sale("a").made();
    let report = shop.predicts_and_does(&["--recheck"]);
    assert_eq!(completed(&report), ["a: "]);
    assert_eq!(
        shop.query("SELECT count(*) FROM audit_log WHERE action = 'sale.completed'"),
        "0"
    );
}

#[test]
fn service_gets_a_minute_to_complete() {
    for lost in [LOST_SUBSCRIPTION, LOST_CYCLE, LOST_DELIVERY] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(lost);
        shop.was_settled("-20 seconds");
        shop.stays_as_it_is(lost);
        shop.was_settled("-61 seconds");
        let report = shop.predicts_and_does(&["--recheck"]);
        assert_eq!(completed(&report).len(), 1, "{lost}");
    }
}

#[test]
fn only_sales_within_the_window_are_completed() {
    for lost in [LOST_SUBSCRIPTION, LOST_CYCLE, LOST_DELIVERY] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(lost);
        shop.was_settled("-73 hours");
        shop.sql("UPDATE invoices SET created_at = updated_at");
        shop.has_heard("all", "-100 hours");
        shop.stays_as_it_is(lost);
        let report = shop
            .reconcile()
            .flag("--recheck")
            .option("--max-age-hours", "74")
            .json(0);
        assert_eq!(completed(&report).len(), 1, "{lost}");
    }
}

#[test]
fn nothing_is_completed_without_btcpays_word() {
    for there in ["New", "Processing", "Expired", "Invalid"] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(&[LOST_SUBSCRIPTION, LOST_DELIVERY].join(";"));
        shop.was_settled("-50 minutes");
        shop.btcpay
            .change("btc-a", |invoice| invoice.status = there.into());
        let before = shop.everything();
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.flag("--recheck").json(0);
            assert_eq!(reasons(&report), ["settled_here_not_there"], "{there}");
            assert_eq!(shop.everything(), before, "{there}");
        }
    }
}

#[test]
fn license_that_is_not_active_is_left_alone() {
    for status in ["revoked", "suspended"] {
        for lost in [LOST_SUBSCRIPTION, LOST_CYCLE, LOST_DELIVERY] {
            let shop = Shop::with_subscription_sold("");
            shop.sql(lost);
            shop.was_settled("-50 minutes");
            shop.sql(&format!("UPDATE licenses SET status = '{status}'"));
            shop.stays_as_it_is(&format!("{status} {lost}"));
        }
    }
}

#[test]
fn ended_subscription_is_not_started_again() {
    for status in ["cancelled", "lapsed", "past_due"] {
        let shop = Shop::with_subscription_sold("");
        shop.was_settled("-50 minutes");
        shop.sql(&format!("UPDATE subscriptions SET status = '{status}'"));
        shop.stays_as_it_is(status);
    }
}

/// Why a license without a subscription may be owed none.
const OWED_NO_SUBSCRIPTION: [(&str, &str); 7] = [
    ("one-time purchase", "UPDATE policies SET is_recurring = 0"),
    ("license without a policy", "UPDATE licenses SET policy_id = NULL"),
    (
        "tier changed since",
        "INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                   effective_at, actor, created_at)
         SELECT 'change', id, 'gone', policy_id, 'upgrade', 'SAT', issued_at, 'admin', issued_at FROM licenses",
    ),
    (
        "tier changed, the row went with the old policy",
        "INSERT INTO audit_log (actor_kind, action, target_id, details_json, occurred_at)
         SELECT 'system', 'subscription.upgrade.applied', 'change', json_object('license_id', id), issued_at
           FROM licenses",
    ),
    (
        "another policy than the one that was bought",
        "UPDATE invoices SET policy_id = 'once'",
    ),
    (
        "policy became recurring after the sale",
        "INSERT INTO audit_log (actor_kind, action, target_id, details_json, occurred_at)
         VALUES ('admin_api_key', 'policy.update', 'pro-default', '{\"is_recurring\":true}',
                 strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-10 minutes'))",
    ),
    (
        "policy became recurring at a time that cannot be read",
        "INSERT INTO audit_log (actor_kind, action, target_id, details_json, occurred_at)
         VALUES ('admin_api_key', 'policy.update', 'pro-default', '{\"is_recurring\":true}', 'soon')",
    ),
];

#[test]
fn subscription_is_started_only_if_it_was_sold() {
    for (why, history) in OWED_NO_SUBSCRIPTION {
        let shop = Shop::with_subscription_sold("");
        shop.sql(LOST_SUBSCRIPTION);
        shop.was_settled("-50 minutes");
        shop.sql(history);
        shop.stays_as_it_is(why);
    }
}

#[test]
fn edited_policy_still_owes_what_it_sold() {
    for (details, when, others) in [
        (
            json!({"name": "Pro", "is_recurring": null}),
            "-10 minutes",
            false,
        ),
        (json!({"is_recurring": false}), "-10 minutes", false),
        (json!({"is_recurring": true}), "-2 hours", false),
        // Saved again; it had sold subscriptions before.
        (json!({"is_recurring": true}), "-10 minutes", true),
    ] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(LOST_SUBSCRIPTION);
        shop.was_settled("-50 minutes");
        shop.notes("policy.update", "pro-default", &details, when);
        shop.notes(
            "policy.update",
            "other",
            &json!({"is_recurring": true}),
            "-10 minutes",
        );
        if others {
            let time = at("-2 days");
            shop.sql(&format!(
                "INSERT INTO subscriptions (id, license_id, policy_id, product_id, period_days, listed_currency,
                                            listed_value, status, started_at, created_at, updated_at)
                 VALUES ('old', 'old', 'pro-default', 'pro', 30, 'SAT', 1, 'active', {time}, {time}, {time})"
            ));
        }
        let report = shop.predicts_and_does(&[]);
        assert_eq!(completed(&report), ["a: subscription"], "{details} {when}");
    }
}

#[test]
fn recurring_is_recognized_in_any_spelling() {
    for yes in ["'t'", "'TRUE'", "'Yes'", "'1'", "1"] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(LOST_SUBSCRIPTION);
        shop.was_settled("-50 minutes");
        shop.sql(&format!("UPDATE policies SET is_recurring = {yes}"));
        assert_eq!(
            completed(&shop.predicts_and_does(&[])),
            ["a: subscription"],
            "{yes}"
        );
    }
}

type History = Box<dyn Fn(&Shop)>;

#[test]
fn renewals_and_tier_changes_are_never_completed() {
    let by_audit = |action: &'static str| {
        move |shop: &Shop| shop.notes(action, "change", &json!({"invoice_id": "a"}), "-1 hour")
    };
    let by_note = |note: &'static str| {
        move |shop: &Shop| shop.sql(&format!("UPDATE invoices SET buyer_note = '{note}'"))
    };
    let histories: [(History, &str); 8] = [
        (
            Box::new(|shop| shop.is_a_tier_change("a")),
            "tier_change_paid",
        ),
        (
            Box::new(by_audit("subscription.upgrade.started")),
            "tier_change_paid",
        ),
        (
            Box::new(by_audit("subscription.upgrade.applied")),
            "tier_change_paid",
        ),
        (
            Box::new(by_audit("license.change_tier.invoice_created")),
            "tier_change_paid",
        ),
        (Box::new(by_note("tier upgrade")), "tier_change_paid"),
        (Box::new(by_note("admin tier-change")), "tier_change_paid"),
        (
            Box::new(by_note("Renewal cycle for subscription sub")),
            "renewal_paid",
        ),
        (Box::new(|shop| shop.is_a_renewal("a")), "renewal_paid"),
    ];
    for (place, (happened, reason)) in histories.iter().enumerate() {
        // The service has issued a license for it, and died.
        let shop = Shop::of_keysat();
        shop.sells_subscriptions("");
        shop.has_endpoint("all", "[\"*\"]", true);
        shop.has_heard("all", "-2 days");
        shop.sale("a").here("settled").licensed().made();
        shop.sql("UPDATE licenses SET policy_id = 'pro-default'");
        happened(&shop);
        let before = shop.everything();
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.flag("--recheck").json(0);
            assert_eq!(report["changes"], json!([]), "{place}");
            assert_eq!(reasons(&report), [*reason], "{place}");
            let detail = report["attention"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("Revoke license lic-a"), "{place}: {detail}");
            assert!(
                !detail.contains("--issue"),
                "{place}: it has a license, so this would be refused: {detail}"
            );
            assert_eq!(shop.everything(), before, "{place}");
        }
    }
}

#[test]
fn free_sale_is_completed_without_a_request() {
    let shop = Shop::with_subscription_sold(", trial_days = 14");
    let whole = shop.parts();
    shop.sql(&[LOST_SUBSCRIPTION, LOST_DELIVERY].join(";"));
    shop.was_settled("-50 minutes");
    shop.sql("UPDATE invoices SET btcpay_invoice_id = 'free-a', amount_sats = 0");
    shop.btcpay.requests();
    let report = shop.predicts_and_does(&["--recheck"]);
    assert_eq!(completed(&report), ["a: subscription delivery"]);
    assert_eq!(shop.parts(), whole);
    // A dry run without candidates tries the settings.
    assert!(
        shop.btcpay
            .requests()
            .iter()
            .all(|path| path.contains("/invoices?") || path.contains("api-keys"))
    );
}

#[test]
fn half_settled_sale_is_completed_after_its_minute() {
    for here in ["pending", "expired", "invalid"] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(&[LOST_SUBSCRIPTION, LOST_DELIVERY].join(";"));
        shop.was_settled("-50 minutes");
        shop.sql(&format!("UPDATE invoices SET status = '{here}'"));
        let report = shop.predicts_and_does(&["--recheck"]);
        assert_eq!(completed(&report), ["a: "], "{here}");
        assert_eq!(shop.state("a"), "settled, licensed", "{here}");
        shop.was_settled("-50 minutes");
        let report = shop.predicts_and_does(&["--recheck"]);
        assert_eq!(completed(&report), ["a: subscription delivery"], "{here}");
    }
}

#[test]
fn part_added_during_the_request_is_not_doubled() {
    let shop = Shop::with_subscription_sold("");
    shop.sql("CREATE TABLE kept AS SELECT * FROM subscriptions");
    shop.sql("CREATE TABLE kept_cycle AS SELECT * FROM subscription_invoices");
    shop.sql("CREATE TABLE kept_news AS SELECT * FROM webhook_deliveries WHERE event_type = 'license.issued'");
    shop.sql(&[LOST_SUBSCRIPTION, LOST_DELIVERY].join(";"));
    shop.was_settled("-50 minutes");
    let daemon = shop.connection();
    shop.btcpay.when_asked_for("btc-a", move || {
        daemon
            .execute_batch(
                "INSERT INTO subscriptions SELECT * FROM kept;
                 INSERT INTO subscription_invoices SELECT * FROM kept_cycle;
                 INSERT INTO webhook_deliveries SELECT * FROM kept_news",
            )
            .unwrap();
    });
    let report = shop.reconcile().flag("--recheck").json(0);
    assert_eq!(report["changes"], json!([]));
    assert_eq!(
        shop.query("SELECT count(*) FROM audit_log WHERE action = 'sale.completed'"),
        "0"
    );
    assert_eq!(shop.query("SELECT count(*) FROM subscriptions"), "1");
    assert_eq!(shop.parts()[2].lines().count(), 1);
}

#[test]
fn license_revoked_during_the_request_is_left_alone() {
    for lost in [LOST_SUBSCRIPTION, LOST_CYCLE, LOST_DELIVERY] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(lost);
        shop.was_settled("-50 minutes");
        let daemon = shop.connection();
        shop.btcpay.when_asked_for("btc-a", move || {
            daemon
                .execute_batch("UPDATE licenses SET status = 'revoked'")
                .unwrap();
        });
        let report = shop.reconcile().flag("--recheck").json(0);
        assert_eq!(shop.query("SELECT status FROM licenses"), "revoked");
        assert_eq!(report["changes"], json!([]), "{lost}");
    }
}

#[test]
fn older_keysat_is_completed_as_far_as_it_goes() {
    for (older, expected) in [
        ("", "subscription delivery"),
        ("DROP TABLE tier_changes", "subscription delivery"),
        ("DROP TABLE webhook_endpoints", "subscription"),
        ("DROP TABLE webhook_deliveries", "subscription"),
        ("DROP TABLE subscription_invoices", "delivery"),
        (
            "ALTER TABLE subscriptions DROP COLUMN merchant_profile_id;
             ALTER TABLE subscriptions DROP COLUMN payment_provider_id;
             ALTER TABLE products DROP COLUMN merchant_profile_id",
            "subscription delivery",
        ),
        (
            "ALTER TABLE policies DROP COLUMN is_recurring; ALTER TABLE policies DROP COLUMN trial_days;
             ALTER TABLE policies DROP COLUMN renewal_period_days",
            "delivery",
        ),
        ("ALTER TABLE invoices DROP COLUMN buyer_note", "subscription delivery"),
    ] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(&[LOST_SUBSCRIPTION, LOST_DELIVERY].join(";"));
        shop.was_settled("-50 minutes");
        shop.sql(&format!("PRAGMA foreign_keys = 0; {older}"));
        let report = shop.predicts_and_does(&["--recheck"]);
        assert_eq!(completed(&report), [format!("a: {expected}")], "{older}");
    }
}

#[test]
fn unreadable_license_fails_alone() {
    let shop = Shop::with_subscription_sold("");
    shop.sql(LOST_SUBSCRIPTION);
    shop.was_settled("-50 minutes");
    shop.sql("UPDATE licenses SET issued_at = 'once'");
    shop.sale("good").made();
    for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
        let report = run.json(3);
        assert_eq!(report["failures"].as_array().unwrap().len(), 1);
        let error = report["failures"][0]["error"].as_str().unwrap();
        assert!(error.contains("licenses.issued_at is 'once'"), "{error}");
    }
    assert_eq!(shop.state("good"), "settled, licensed");
}

// Deliveries.

#[test]
fn news_goes_only_to_endpoints_that_would_have_had_it() {
    for (why, set_up, expected) in [
        ("heard before", "", "all"),
        ("nothing yet", "DELETE FROM webhook_deliveries", ""),
        (
            "only since the sale",
            "UPDATE webhook_deliveries SET created_at = strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '-30 minutes')",
            "",
        ),
        ("inactive", "UPDATE webhook_endpoints SET active = 0", ""),
        (
            "other events",
            "UPDATE webhook_endpoints SET event_types = '[\"code.redeemed\", \"machine.activated\"]'",
            "",
        ),
        (
            "this event",
            "UPDATE webhook_endpoints SET event_types = '[\"license.issued\"]'",
            "all",
        ),
        ("event types that are none", "UPDATE webhook_endpoints SET event_types = 'license.issued'", ""),
        (
            "another came later",
            "INSERT INTO webhook_endpoints (id, url, secret) VALUES ('new', 'https://example.com', 's')",
            "all",
        ),
        (
            "another heard only since the sale",
            "INSERT INTO webhook_endpoints (id, url, secret) VALUES ('new', 'https://example.com', 's');
             INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             SELECT 'd', 'new', 'x', '{}', updated_at FROM invoices",
            "all",
        ),
        (
            "another heard before",
            "INSERT INTO webhook_endpoints (id, url, secret) VALUES ('new', 'https://example.com', 's');
             INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             VALUES ('d', 'new', 'x', '{}', '2026-01-01 00:00:00')",
            "all\nnew",
        ),
        (
            "endpoint deleted since",
            "UPDATE webhook_deliveries SET endpoint_id = 'gone'",
            "",
        ),
        (
            "payloads that are no JSON",
            "INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             SELECT 'odd', 'all', 'license.issued', '{', created_at FROM invoices",
            "all",
        ),
        (
            "news of other licenses, and of its code",
            "INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             SELECT 'other', 'all', 'license.issued', '{\"data\":{\"license_id\":\"other\"}}', updated_at FROM invoices
              UNION ALL
             SELECT 'code', 'all', 'code.redeemed', json_object('data', json_object('license_id', licenses.id)), updated_at
               FROM invoices, licenses",
            "all",
        ),
        (
            "it was told to an endpoint that is gone",
            "INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             SELECT 'told', 'gone', 'license.issued', json_object('data', json_object('license_id', licenses.id)), updated_at
               FROM invoices, licenses",
            "",
        ),
    ] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(LOST_DELIVERY);
        shop.was_settled("-50 minutes");
        shop.sql(set_up);
        let known = shop.query("SELECT count(*) FROM webhook_deliveries");
        if expected.is_empty() {
            shop.stays_as_it_is(why);
        } else {
            let report = shop.predicts_and_does(&["--recheck"]);
            assert_eq!(completed(&report), ["a: delivery"], "{why}");
        }
        let new = format!(
            "SELECT endpoint_id FROM webhook_deliveries
              WHERE rowid IN (SELECT rowid FROM webhook_deliveries ORDER BY rowid LIMIT -1 OFFSET {known})
              ORDER BY 1"
        );
        assert_eq!(shop.query(&new), expected, "{why}");
    }
}

// Redemptions.

#[test]
fn cancelled_redemption_of_a_sale_takes_its_slot_again() {
    for open in SHOPS {
        for (max_uses, used, expected) in [
            ("5", 0, &[][..]),
            ("5", 4, &[]),
            ("NULL", 7, &[]),
            // Its slot was given away.
            ("5", 5, &["code_over_max_uses"]),
            ("0", 0, &["code_over_max_uses"]),
        ] {
            for tied in ["NULL", "'lic-a'"] {
                let shop = open();
                shop.sale("a")
                    .here("settled")
                    .licensed()
                    .redemption("cancelled")
                    .made();
                shop.sql(&format!(
                    "UPDATE discount_codes SET max_uses = {max_uses}, used_count = {used};
                     UPDATE discount_redemptions SET license_id = {tied}"
                ));
                let report = shop.predicts_and_does(&[]);
                assert_eq!(reasons(&report), expected, "{max_uses} {used}");
                let change = &report["changes"][0];
                assert_eq!(change["redemption"], "redeemed");
                assert_eq!(change["license_issued"], false);
                assert_eq!(change["completed"], json!([]));
                assert_eq!(
                    shop.state("a"),
                    format!("settled, licensed, redeemed with it, used {}", used + 1)
                );
                assert_eq!(
                    shop.query(
                        "SELECT action FROM audit_log
                          WHERE actor_kind = 'reconcile' AND action <> 'attention.noted'"
                    ),
                    "redemption.redeemed"
                );
            }
        }
    }
}

#[test]
fn retaken_slot_is_news_for_the_operator() {
    let shop = Shop::of_keysat();
    shop.has_endpoint("all", "[\"*\"]", true);
    shop.sale("a")
        .here("settled")
        .licensed()
        .redemption("cancelled")
        .made();
    shop.predicts_and_does(&[]);
    assert_eq!(
        shop.query(
            "SELECT event_type, payload_json ->> '$.data.license_id', payload_json ->> '$.data.redemption_id'
               FROM webhook_deliveries"
        ),
        "code.redeemed|lic-a|red-a"
    );
}

#[test]
fn redemption_of_a_license_that_is_not_active_stays_cancelled() {
    for open in SHOPS {
        for status in ["revoked", "suspended"] {
            let shop = open();
            shop.sale("a")
                .here("settled")
                .licensed()
                .redemption("cancelled")
                .made();
            shop.sql(&format!("UPDATE licenses SET status = '{status}'"));
            shop.stays_as_it_is(status);
            // Nor when the invoice is still to be settled.
            shop.sql("UPDATE invoices SET status = 'pending'");
            shop.predicts_and_does(&[]);
            assert_eq!(
                shop.state("a"),
                "settled, licensed, cancelled, used 0",
                "{status}"
            );
        }
    }
}

#[test]
fn slot_is_retaken_only_if_btcpay_calls_it_settled() {
    for there in ["New", "Processing", "Expired", "Invalid"] {
        let shop = Shop::open();
        shop.sale("a")
            .here("settled")
            .there(there)
            .licensed()
            .redemption("cancelled")
            .made();
        let before = shop.everything();
        let report = shop.reconcile().flag("--recheck").json(0);
        assert_eq!(reasons(&report), ["settled_here_not_there"], "{there}");
        assert_eq!(shop.everything(), before, "{there}");
    }
}

#[test]
fn cancelled_redemption_never_names_a_license() {
    for open in SHOPS {
        for here in ["pending", "expired", "invalid"] {
            for there in ["Expired", "Invalid"] {
                for (before, after) in [
                    ("pending", "cancelled, used 0"),
                    ("cancelled", "cancelled, used 0"),
                ] {
                    let shop = open();
                    shop.sale("a")
                        .here(here)
                        .there(there)
                        .licensed()
                        .redemption(before)
                        .made();
                    shop.predicts_and_does(&["--recheck"]);
                    let closed = match here {
                        "pending" => there.to_lowercase(),
                        closed => closed.into(),
                    };
                    assert_eq!(
                        shop.state("a"),
                        format!("{closed}, licensed, {after}"),
                        "{here} {there}"
                    );
                    assert_eq!(
                        shop.query("SELECT license_id FROM discount_redemptions"),
                        "NULL",
                        "{here} {there}"
                    );
                }
            }
        }
    }
}

// Times.

#[test]
fn updated_at_far_ahead_counts_as_long_ago() {
    for (when, is_left) in [
        ("datetime('now', '+8 minutes')", true),
        (&at("+8 minutes"), true),
        ("datetime('now', '+12 minutes')", false),
        (&at("+12 minutes"), false),
        ("'2099-01-01T00:00:00Z'", false),
    ] as [(&str, bool); 5]
    {
        for open in SHOPS {
            for option in [None, Some("--recheck")] {
                let shop = open();
                shop.sale("unlicensed").here("settled").updated(when).made();
                shop.sale("slot")
                    .here("settled")
                    .licensed()
                    .redemption("pending")
                    .updated(when)
                    .made();
                if option.is_none() {
                    shop.sale("closed")
                        .here("expired")
                        .there("Expired")
                        .redemption("pending")
                        .updated(when)
                        .made();
                }
                if is_left {
                    let report = option.into_iter().fold(shop.reconcile(), Run::flag);
                    assert_eq!(report.json(0)["changes"], json!([]), "{when}");
                    continue;
                }
                let options: Vec<&str> = option.into_iter().collect();
                shop.predicts_and_does(&options);
                assert_eq!(shop.state("unlicensed"), "settled, licensed", "{when}");
                assert!(shop.state("slot").contains("redeemed with it"), "{when}");
                if option.is_none() {
                    assert!(
                        shop.state("closed").starts_with("expired, cancelled"),
                        "{when}"
                    );
                }
            }
        }
    }
}

#[test]
fn parts_of_a_sale_updated_far_ahead_are_completed() {
    for lost in [LOST_SUBSCRIPTION, LOST_CYCLE, LOST_DELIVERY] {
        let shop = Shop::with_subscription_sold("");
        shop.sql(lost);
        shop.was_settled("-50 minutes");
        shop.sql(&format!(
            "UPDATE invoices SET updated_at = {}",
            at("+1 day")
        ));
        let report = shop.predicts_and_does(&["--recheck"]);
        assert_eq!(completed(&report).len(), 1, "{lost}");
    }
}

// Two stores.

const SECOND_STORE: &str = "Second1zKoANXXmk5ayZngSXrHTiVvvgCrwrpFQd4m2K7";

/// A Keysat shop that takes money in two stores of the same server; its runs are for the first.
fn with_two_stores(version: Version) -> Shop {
    let shop = Shop::of_keysat();
    shop.btcpay.is_version(version);
    shop.has_provider("second", "btcpay", &shop.btcpay.url(), SECOND_STORE);
    shop
}

#[test]
fn invoice_of_another_store_is_no_failure_in_any_state() {
    for version in [Version::UpTo2_3, Version::From2_4] {
        for (here, there) in [
            ("pending", "Settled"),
            ("settled", "Settled"),
            ("expired", "Settled"),
        ] {
            let shop = with_two_stores(version);
            shop.sale("ours").here(here).there(there).made();
            shop.sale("theirs").here(here).there(there).made();
            shop.btcpay.change("btc-theirs", |invoice| {
                invoice.store_id = SECOND_STORE.into();
            });
            let before = shop.state("theirs");
            for option in ["-n", "--recheck"] {
                let ran = shop
                    .reconcile()
                    .flag("--recheck")
                    .flag(option)
                    .exits(0)
                    .warns("");
                assert!(
                    ran.stdout.contains(", 1 not in this store; "),
                    "{}",
                    ran.stdout
                );
            }
            assert_eq!(shop.state("ours"), "settled, licensed", "{here}");
            assert_eq!(shop.state("theirs"), before, "{here}");
            shop.reconcile().exits(0).says_nothing();
        }
    }
}

#[test]
fn each_stores_run_settles_what_is_in_its_store() {
    let shop = Shop::of_keysat();
    let second = Btcpay::start();
    shop.has_provider("second", "btcpay", &second.url(), STORE);
    for id in ["first", "second"] {
        shop.sale(id).made();
    }
    shop.btcpay.change("btc-second", |invoice| {
        invoice.store_id = "elsewhere".into();
    });
    second.add(btcpay::Invoice::new("btc-second", "Settled", BTC));
    let run = || shop.reconcile().flag("--recheck");
    assert_eq!(run().json(0)["not_in_store"], 1);
    assert_eq!(shop.statuses(), "1 pending, 1 settled");
    let report = run().option("--btcpay-url", &second.url()).json(0);
    assert_eq!(report["changes"][0]["invoice_id"], "second");
    assert_eq!(report["attention"], json!([]));
    assert_eq!(shop.statuses(), "2 settled");
}

#[test]
fn many_invoices_of_another_store_are_no_failure() {
    for version in Version::ALL {
        let shop = with_two_stores(version);
        shop.many_sales(30, |_| "Settled");
        shop.btcpay.later(|invoices| {
            for invoice in invoices.iter_mut().skip(15) {
                invoice.store_id = SECOND_STORE.into();
            }
        })();
        let report = shop.reconcile().json(0);
        assert_eq!(report["not_in_store"], 15);
        assert_eq!(report["checked"], 30);
        assert_eq!(shop.statuses(), "15 pending, 15 settled");
    }
}

#[test]
fn missing_invoice_of_a_named_provider_needs_attention() {
    for version in [Version::UpTo2_3, Version::From2_4] {
        let shop = with_two_stores(version);
        shop.sale("gone").made();
        shop.sale("here").made();
        shop.sql("UPDATE invoices SET payment_provider_id = 'btcpay'");
        shop.btcpay
            .change("btc-gone", |invoice| invoice.store_id = SECOND_STORE.into());
        let report = shop.reconcile().json(0);
        assert_eq!(report["attention"][0]["invoice_id"], "gone");
        assert_eq!(report["attention"][0]["reason"], "not_in_btcpay");
        assert_eq!(report["not_in_store"], Value::Null);
    }
}

#[test]
fn missing_invoice_of_a_single_store_needs_attention() {
    for open in SHOPS {
        let shop = open();
        shop.sale("gone").made();
        shop.sale("here").made();
        shop.btcpay
            .change("btc-gone", |invoice| invoice.store_id = SECOND_STORE.into());
        let report = shop.reconcile().json(0);
        assert_eq!(report["attention"][0]["invoice_id"], "gone");
        assert_eq!(report["attention"][0]["reason"], "not_in_btcpay");
    }
}

// A license too many.

#[test]
fn surplus_license_of_a_tier_change_is_named() {
    for (here, applied) in [("settled", true), ("settled", false), ("pending", false)] {
        let shop = Shop::of_keysat();
        shop.sale("a").here(here).licensed().made();
        shop.is_a_tier_change("a");
        if applied {
            shop.sql("UPDATE licenses SET policy_id = 'plus' WHERE id = 'old'");
        }
        let before = shop.everything();
        for option in ["-n", "--recheck"] {
            let report = shop.reconcile().flag(option).json(0);
            assert_eq!(reasons(&report), ["tier_change_paid"], "{here} {applied}");
            let detail = report["attention"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("Revoke license lic-a"), "{detail}");
            assert_eq!(detail.contains("Redeliver"), !applied, "{detail}");
            assert_eq!(detail.contains("has not applied"), !applied, "{detail}");
            assert_eq!(shop.everything(), before);
        }
        // Done as advised.
        for status in ["revoked", "suspended"] {
            shop.sql(&format!(
                "UPDATE licenses SET status = '{status}' WHERE id = 'lic-a'"
            ));
            let report = shop.reconcile().json(0);
            if applied {
                assert_eq!(reasons(&report), [""; 0], "{status}");
            } else {
                let detail = report["attention"][0]["detail"].as_str().unwrap();
                assert!(!detail.contains("lic-a"), "{detail}");
            }
        }
    }
}

#[test]
fn second_license_of_a_renewal_is_named_until_it_is_applied() {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").licensed().made();
    shop.is_a_renewal("a");
    let report = shop.reconcile().json(0);
    let detail = report["attention"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("License lic-a was issued"), "{detail}");
    shop.sql("UPDATE subscriptions SET status = 'active'");
    shop.stays_as_it_is("the service does so itself");
}

// Older pending invoices.

impl Shop {
    /// Makes all invoices too old for the window, in the database and in BTCPay.
    fn is_left_alone_for_days(&self) {
        self.sql(
            "UPDATE invoices SET created_at = strftime('%Y-%m-%dT%H:%M:%SZ', created_at, '-5 days'),
                                 updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', updated_at, '-5 days')",
        );
        self.btcpay.later(|invoices| {
            for invoice in invoices {
                invoice.created -= 5 * 86_400;
            }
        })();
    }
}

/// A shop with `count` pending invoices, an hour apart, all older than the window and paid.
fn with_old_sales(open: fn() -> Shop, count: i64) -> Shop {
    let shop = open();
    shop.many_sales(count, |_| "Settled");
    shop.is_left_alone_for_days();
    shop.sql(
        "UPDATE invoices SET created_at = strftime('%Y-%m-%dT%H:%M:%SZ', created_at, -id || ' hours')",
    );
    shop.btcpay.later(|invoices| {
        for (place, invoice) in (0..).zip(invoices) {
            invoice.created -= place * 3600;
        }
    })();
    shop
}

fn changed(report: &Value) -> BTreeSet<String> {
    let changes = report["changes"].as_array().unwrap().iter();
    changes
        .map(|change| change["invoice_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn rechecks_reach_every_older_pending_invoice() {
    for open in SHOPS {
        let shop = with_old_sales(open, 520);
        shop.sale("young").there("New").made();
        for option in ["-n", "-v"] {
            let report = shop.reconcile().flag(option).json(0);
            assert_eq!(report["checked"], 1, "only a --recheck asks about them");
            assert_eq!(report["out_of_window"], 520);
        }
        // From another place each time.
        let mut reached = BTreeSet::new();
        let mut first = BTreeSet::new();
        for place in 0..10 {
            let report = shop.reconcile().flag("--recheck").flag("-n").json(0);
            assert_eq!(report["out_of_window"], 520);
            assert_eq!(report["checked"], 501);
            assert!(
                report["requests"].as_i64().unwrap() < 40,
                "they are asked for in bulk"
            );
            let changes = changed(&report);
            assert_eq!(changes.len(), 500);
            if place == 0 {
                first.clone_from(&changes);
            }
            reached.extend(changes);
        }
        assert_ne!(reached, first);
        assert_eq!(reached.len(), 520);

        for (left, done) in [(520, 500), (20, 20), (0, 0)] {
            let report = shop.reconcile().flag("--recheck").json(0);
            assert_eq!(report["out_of_window"], left);
            assert_eq!(report["changes"].as_array().unwrap().len(), done);
        }
        assert_eq!(shop.statuses(), "1 pending, 520 settled");
        assert_eq!(
            shop.query("SELECT count(*), count(DISTINCT invoice_id) FROM licenses"),
            "520|520"
        );
    }
}

#[test]
fn older_invoices_come_after_all_others() {
    let shop = Shop::open();
    shop.sale("old").made();
    shop.sale("closed-old")
        .there("Expired")
        .redemption("pending")
        .made();
    shop.is_left_alone_for_days();
    shop.sale("closed").here("expired").there("Settled").made();
    shop.sale("young").made();
    shop.reconcile().flag("--recheck").flag("-n").exits(0);
    let mut order = shop.btcpay.requests();
    order.truncate(2);
    order.sort_unstable();
    assert!(
        order[0].ends_with("/btc-closed") && order[1].ends_with("/btc-young"),
        "{order:?}"
    );
    let report = shop.predicts_and_does(&["--recheck"]);
    assert_eq!(report["out_of_window"], 2);
    assert_eq!(report["checked"], 4);
    assert_eq!(shop.state("old"), "settled, licensed");
    assert_eq!(shop.state("closed-old"), "expired, cancelled, used 0");
}

#[test]
fn older_invoices_left_at_the_deadline_are_no_failure() {
    for many in [3, 30] {
        let shop = with_old_sales(Shop::open, many);
        shop.sale("young").made();
        shop.btcpay.fails("list", Fault::Hang);
        for place in 0..many {
            shop.btcpay.fails(&format!("btc-{place}"), Fault::Hang);
        }
        let report = shop
            .reconcile()
            .flag("--recheck")
            .option("--deadline", "2")
            .json(0);
        assert_eq!(report["error"], Value::Null);
        assert_eq!(report["not_asked"], Value::Null);
        assert_eq!(report["failures"], json!([]));
        assert_eq!(report["out_of_window"], many);
        assert_eq!(shop.state("young"), "settled, licensed");
        shop.btcpay.works_again();
        shop.reconcile().flag("--recheck").exits(0);
        assert_eq!(shop.statuses(), format!("{} settled", many + 1));
    }
}

#[test]
fn deadline_among_the_others_still_stops_the_run() {
    let shop = Shop::open();
    shop.sale("old").made();
    shop.is_left_alone_for_days();
    shop.sale("young").made();
    shop.btcpay.fails("btc-young", Fault::Hang);
    let report = shop
        .reconcile()
        .flag("--recheck")
        .option("--deadline", "1")
        .json(1);
    assert_eq!(report["not_asked"], 1);
}

#[test]
fn older_invoice_gone_from_btcpay_needs_attention() {
    for version in [Version::UpTo2_3, Version::From2_4] {
        let shop = Shop::open();
        shop.btcpay.is_version(version);
        shop.sale("gone").made();
        shop.sale("old").made();
        shop.is_left_alone_for_days();
        shop.sale("young").made();
        shop.btcpay
            .later(|invoices| invoices.retain(|invoice| invoice.id != "btc-gone"))();
        let recheck = shop.reconcile().flag("--recheck").exits(0);
        recheck.tells(&[("gone", "not_in_btcpay")]);
        assert_eq!(shop.statuses(), "1 pending, 2 settled");
    }
}

#[test]
fn older_invoice_of_another_provider_is_left_alone() {
    let shop = Shop::of_keysat();
    shop.has_provider("zaprite", "zaprite", "https://api.zaprite.com", "");
    shop.sale("card").made();
    shop.sql("UPDATE invoices SET payment_provider_id = 'zaprite'");
    shop.is_left_alone_for_days();
    let report = shop.reconcile().flag("--recheck").json(0);
    assert_eq!(
        (&report["checked"], &report["out_of_window"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn older_invoice_in_doubt_waits_for_a_person() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.is_left_alone_for_days();
    shop.sql(
        "INSERT INTO licenses (id, product_id, status, issued_at, buyer_email)
         VALUES ('gift', 'pro', 'active', datetime(), 'a@example.com')",
    );
    let before = shop.everything();
    for option in ["-n", "-v"] {
        let report = shop.reconcile().flag("--recheck").flag(option).json(0);
        assert_eq!(reasons(&report), ["license_by_hand"]);
        assert_eq!(shop.everything(), before);
    }
}
