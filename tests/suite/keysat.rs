//! Keysat's database: what a purchase is owed there, and what is left to Keysat.

use serde_json::{Value, json};

use crate::btcpay::STORE;
use crate::program::what_needs_a_person;
use crate::shop::{BTC, Shop};

/// In the format that Keysat writes.
const AN_HOUR_AGO: &str = "strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '-1 hour')";

impl Shop {
    /// Makes the sale `id` a tier change: it moves the license `old` to another policy.
    pub fn is_a_tier_change(&self, id: &str) {
        self.sql(&format!(
            "INSERT INTO policies (id, product_id, name, slug, created_at, updated_at)
             VALUES ('plus', 'pro', 'Plus', 'plus', {AN_HOUR_AGO}, {AN_HOUR_AGO});
             INSERT INTO licenses (id, product_id, status, issued_at, policy_id, buyer_email)
             VALUES ('old', 'pro', 'active', '2026-01-01T00:00:00+00:00', 'pro-default', 'old@example.com');
             INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                       invoice_id, effective_at, actor, created_at)
             VALUES ('change', 'old', 'pro-default', 'plus', 'upgrade', 'SAT', '{id}', {AN_HOUR_AGO}, 'buyer', {AN_HOUR_AGO});
             UPDATE invoices SET policy_id = 'plus', buyer_note = 'tier upgrade' WHERE id = '{id}'"
        ));
    }

    /// Makes the sale `id` a renewal: it pays for the next cycle, now due, of the subscription of
    /// the license `old`.
    pub fn is_a_renewal(&self, id: &str) {
        self.sql(&format!(
            "INSERT INTO licenses (id, product_id, status, issued_at, policy_id)
             VALUES ('old', 'pro', 'active', '2026-01-01T00:00:00+00:00', 'pro-default');
             INSERT INTO subscriptions (id, license_id, policy_id, product_id, period_days, listed_currency,
                                        listed_value, status, started_at, created_at, updated_at)
             VALUES ('sub', 'old', 'pro-default', 'pro', 30, 'SAT', 21000, 'past_due', {AN_HOUR_AGO}, {AN_HOUR_AGO}, {AN_HOUR_AGO});
             INSERT INTO subscription_invoices (id, subscription_id, invoice_id, cycle_number, cycle_start_at,
                                                cycle_end_at, created_at)
             VALUES ('cycle', 'sub', '{id}', 2, {AN_HOUR_AGO}, {AN_HOUR_AGO}, {AN_HOUR_AGO})"
        ));
    }

    /// Makes the product's policy recurring and sets the additional columns.
    pub fn sells_subscriptions(&self, columns: &str) {
        self.sql(&format!(
            "UPDATE policies SET is_recurring = 1, renewal_period_days = 30 {columns}"
        ));
    }

    pub fn has_endpoint(&self, id: &str, event_types: &str, active: bool) {
        self.sql(&format!(
            "INSERT INTO webhook_endpoints (id, url, secret, event_types, active)
             VALUES ('{id}', 'https://example.com', 's', '{event_types}', {active})"
        ));
    }
}

type SetUp = fn(&Shop, &str);

const NON_PURCHASES: [(SetUp, &str); 2] = [
    (Shop::is_a_tier_change, "tier_change_paid"),
    (Shop::is_a_renewal, "renewal_paid"),
];

#[test]
fn paid_non_purchase_is_reported_and_never_changed() {
    for (set_up, reason) in NON_PURCHASES {
        for here in ["pending", "settled", "expired", "invalid"] {
            let shop = Shop::of_keysat();
            shop.sale("a").here(here).redemption("pending").made();
            set_up(&shop, "a");
            let before = shop.everything();
            for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
                let report = run.flag("--recheck").json(0);
                assert_eq!(report["changes"], json!([]), "{here}");
                assert_eq!(report["attention"][0]["reason"], reason, "{here}");
                let detail = report["attention"][0]["detail"].as_str().unwrap();
                assert!(
                    detail.contains("Redeliver the invoice's InvoiceSettled webhook"),
                    "{detail}"
                );
                let url = report["attention"][0]["url"].as_str().unwrap();
                assert!(url.ends_with("/invoices/btc-a"), "{url}");
                assert_eq!(shop.everything(), before, "{here}");
            }
        }
    }
}

#[test]
fn manually_applied_payment_is_no_longer_reported() {
    for (set_up, manual_fix) in [
        (
            Shop::is_a_tier_change as SetUp,
            "UPDATE licenses SET policy_id = 'plus'",
        ),
        (
            Shop::is_a_renewal,
            "UPDATE subscriptions SET status = 'active'",
        ),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").made();
        set_up(&shop, "a");
        shop.sql(manual_fix);
        let ran = shop.reconcile().exits(0);
        shop.sql(&ran.advised("UPDATE invoices"));
        shop.sql(&format!("UPDATE invoices SET updated_at = {AN_HOUR_AGO}"));
        shop.reconcile().exits(0).says_nothing();
    }
}

#[test]
fn renewal_paid_before_due_is_reported() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.is_a_renewal("a");
    shop.sql("UPDATE subscriptions SET status = 'active'");
    let report = shop.reconcile().json(0);
    assert_eq!(report["attention"][0]["reason"], "renewal_paid");
}

#[test]
fn payment_applied_during_the_request_is_not_reported() {
    for (set_up, done) in [
        (
            Shop::is_a_tier_change as SetUp,
            "UPDATE invoices SET status = 'settled'; UPDATE licenses SET policy_id = 'plus'",
        ),
        (
            Shop::is_a_renewal,
            "UPDATE invoices SET status = 'settled'; UPDATE subscriptions SET status = 'active'",
        ),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").made();
        set_up(&shop, "a");
        let daemon = shop.connection();
        shop.btcpay
            .when_asked_for("btc-a", move || daemon.execute_batch(done).unwrap());
        shop.reconcile().exits(0).says_nothing();
    }
}

#[test]
fn expired_non_purchase_is_closed_as_usual() {
    for (set_up, _) in NON_PURCHASES {
        let shop = Shop::of_keysat();
        shop.sale("a")
            .there("Expired")
            .additional("PaidLate", BTC)
            .redemption("pending")
            .made();
        set_up(&shop, "a");
        shop.reconcile().exits(0).tells(&[("a", "paid_late")]).says(
            "To accept the sale, mark the invoice settled in BTCPay: its webhook lets the service do the rest.",
        );
        assert_eq!(shop.state("a"), "expired, cancelled, used 0");
    }
}

#[test]
fn applied_payment_is_not_checked_again() {
    for (set_up, done) in [
        (
            Shop::is_a_tier_change as SetUp,
            "UPDATE licenses SET policy_id = 'plus'",
        ),
        (
            Shop::is_a_tier_change,
            "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, occurred_at)
             VALUES ('system', 'subscription.upgrade.applied', 'subscription', 'change', '2026-11-24T00:00:00+00:00')",
        ),
        (
            Shop::is_a_renewal,
            "UPDATE subscriptions SET status = 'active'",
        ),
        // Keysat does this against its own design: a second license with its own subscription.
        (
            Shop::is_a_renewal,
            "UPDATE subscriptions SET status = 'active';
             INSERT INTO licenses (id, product_id, invoice_id, status, issued_at) VALUES ('new', 'pro', 'a', 'active', datetime());
             INSERT INTO subscriptions (id, license_id, policy_id, product_id, period_days, listed_currency,
                                        listed_value, status, started_at, created_at, updated_at)
             SELECT 'sub2', 'new', policy_id, product_id, period_days, listed_currency,
                    listed_value, 'active', started_at, created_at, updated_at FROM subscriptions;
             INSERT INTO subscription_invoices (id, subscription_id, invoice_id, cycle_number, cycle_start_at,
                                                cycle_end_at, created_at)
             SELECT 'cycle2', 'sub2', invoice_id, 1, cycle_start_at, cycle_end_at, created_at FROM subscription_invoices",
        ),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").here("settled").made();
        set_up(&shop, "a");
        shop.sql(done);
        let before = shop.everything();
        shop.reconcile().exits(0).says_nothing();
        assert_eq!(shop.btcpay.requests(), [""; 0], "{done}");
        assert_eq!(shop.everything(), before, "{done}");
    }
}

impl Shop {
    /// Creates the history of the license `old`: tier changes one after another, an hour apart. The
    /// invoice of a change, if it has one, has the change's position in `history` as its id.
    fn has_history(&self, history: &str, policy: &str) {
        self.sql(&format!(
            "INSERT INTO licenses (id, product_id, status, issued_at, policy_id)
             VALUES ('old', 'pro', 'active', '2026-01-01T00:00:00+00:00', '{policy}')"
        ));
        for (place, change) in (0..).zip(history.split(", ")) {
            let (policies, cause) = change.split_once(' ').unwrap();
            let (from, to) = policies.split_once('>').unwrap();
            let time = |minutes: i32| {
                format!("strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '{minutes} minutes')")
            };
            let begun = 60 * place - 600;
            let (created, paid) = (time(begun), time(begun + 1));
            let (at_the_end, in_future) = (time(-10), time(600));
            let (invoice, effective, actor, noted) = match cause {
                "paid" => (Some("settled"), &created, "buyer", None),
                "noted" => (Some("settled"), &created, "buyer", Some(&paid)),
                "noted late" => (Some("settled"), &created, "buyer", Some(&at_the_end)),
                "begun" => (Some("expired"), &at_the_end, "buyer", None),
                "begun by admin" => (Some("expired"), &at_the_end, "admin", None),
                "free" => (None, &created, "buyer", None),
                "free by admin" => (None, &created, "admin", None),
                "scheduled" => (None, &at_the_end, "admin", None),
                "some day" => (None, &in_future, "admin", None),
                unknown => panic!("{unknown}"),
            };
            let id = place.to_string();
            if let Some(status) = invoice {
                self.sale(&id)
                    .here(status)
                    .created(&created)
                    .updated(&paid)
                    .made();
            }
            let invoice_id = invoice.map_or("NULL".into(), |_| format!("'{id}'"));
            self.sql(&format!(
                "INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                           invoice_id, effective_at, actor, created_at)
                 VALUES ('change {id}', 'old', '{from}', '{to}', 'upgrade', 'SAT', {invoice_id}, {effective}, '{actor}', {created})"
            ));
            if let Some(noted) = noted {
                self.sql(&format!(
                    "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, occurred_at)
                     VALUES ('system', 'subscription.upgrade.applied', 'subscription', 'change {id}', {noted})"
                ));
            }
        }
    }
}

/// Histories of a license, its policy in the end, and the payments that were never applied. A
/// change that the service noted was applied.
const HISTORIES: &[(&str, &str, &str)] = &[
    ("A>B paid", "A", "0"),
    ("A>B paid", "B", ""),
    ("A>B noted", "A", ""),
    // Tried again, with or without success.
    ("A>B paid, A>B begun", "A", "0"),
    ("A>B begun, A>B paid", "B", ""),
    ("A>B paid, A>B paid", "B", "0"),
    ("A>B paid, A>B noted", "B", "0"),
    ("A>B noted late, A>B paid", "B", "1"),
    ("A>B paid, A>C paid", "A", "0 1"),
    ("A>B paid, A>C paid", "C", "0"),
    ("A>C noted late, A>B paid", "B", ""),
    ("A>C noted late, A>B begun, A>B paid", "B", ""),
    // A later change starts from the policy that was paid for.
    ("A>B paid, B>C begun", "A", ""),
    ("A>B paid, B>C noted, C>B begun", "C", ""),
    // Up, down and up again.
    ("A>B paid, B>A free, A>B paid", "B", ""),
    ("A>B paid, B>A free, A>B noted", "B", ""),
    ("A>B noted, B>A free, A>B paid", "B", ""),
    ("A>B free by admin, B>A free, A>B paid", "B", ""),
    // The license got the policy another way.
    ("A>B paid, A>C noted, C>B free", "B", "0"),
    ("A>B paid, A>C paid, C>B paid", "B", "0"),
    ("A>B scheduled, A>B paid", "B", "1"),
    ("A>B some day, A>B paid", "B", ""),
    // The operator assigned this policy or another one.
    ("A>B paid, A>B begun by admin", "A", "0"),
    ("A>B paid, A>B free by admin", "B", ""),
    ("A>B paid, A>B free", "B", "0"),
    ("A>B paid, A>B some day", "A", "0"),
    ("A>B free by admin, A>B paid", "A", "1"),
    ("A>B paid, A>C free by admin", "C", "0"),
];

#[test]
fn only_unapplied_tier_changes_are_reported() {
    for (history, policy, unapplied) in HISTORIES {
        let shop = Shop::of_keysat();
        shop.has_history(history, policy);
        let report = shop.reconcile().json(0);
        let attention = report["attention"].as_array().unwrap().iter();
        let reported: Vec<&str> = attention
            .map(|attention| {
                assert_eq!(attention["reason"], "tier_change_paid");
                attention["invoice_id"].as_str().unwrap()
            })
            .collect();
        assert_eq!(reported.join(" "), *unapplied, "{history}; now {policy}");
    }
}

#[test]
fn change_by_operator_does_not_hide_a_pending_one() {
    let shop = Shop::of_keysat();
    shop.has_history("A>B paid, A>B free by admin", "B");
    shop.reconcile().exits(0).says_nothing();
    shop.sql("UPDATE invoices SET status = 'pending'");
    let report = shop.reconcile().json(0);
    assert_eq!(report["attention"][0]["reason"], "tier_change_paid");
}

#[test]
fn history_of_another_license_is_ignored() {
    let shop = Shop::of_keysat();
    shop.has_history("A>B noted late, A>B paid, A>B free by admin", "A");
    shop.sql("UPDATE tier_changes SET license_id = 'another' WHERE id <> 'change 1'");
    let report = shop.reconcile().json(0);
    assert_eq!(report["attention"][0]["invoice_id"], "1");
    shop.sql("UPDATE licenses SET policy_id = 'B'");
    shop.reconcile().exits(0).says_nothing();
}

#[test]
fn pending_tier_change_is_reported_despite_matching_policy() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.is_a_tier_change("a");
    shop.sql("UPDATE licenses SET policy_id = 'plus'");
    let report = shop.reconcile().json(0);
    assert_eq!(report["attention"][0]["reason"], "tier_change_paid");
}

#[test]
fn mistaken_license_does_not_hide_paid_non_purchase() {
    for (set_up, reason) in NON_PURCHASES {
        let shop = Shop::of_keysat();
        shop.sale("a").here("settled").licensed().made();
        set_up(&shop, "a");
        let before = shop.everything();
        let report = shop.reconcile().json(0);
        assert_eq!(report["attention"][0]["reason"], reason);
        assert_eq!(shop.everything(), before);
    }
}

#[test]
fn settled_renewal_is_reported_while_subscription_is_overdue() {
    for (status, expected) in [
        ("past_due", 1),
        ("lapsed", 1),
        ("active", 0),
        ("cancelled", 0),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").here("settled").made();
        shop.is_a_renewal("a");
        shop.sql(&format!("UPDATE subscriptions SET status = '{status}'"));
        let report = shop.reconcile().json(0);
        assert_eq!(
            report["attention"].as_array().unwrap().len(),
            expected,
            "{status}"
        );
    }
}

#[test]
fn overdue_subscription_ignores_long_settled_renewals() {
    for (cycle_ends, settled, expected) in [
        ("+1 day", "-20 days", 1),
        ("-1 day", "-2 days", 1),
        ("-1 day", "-4 days", 0),
    ] {
        let shop = Shop::of_keysat();
        let time = |when| format!("strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '{when}')");
        shop.sale("a")
            .here("settled")
            .licensed()
            .created(&time("-20 days"))
            .updated(&time(settled))
            .made();
        shop.is_a_renewal("a");
        let cycle_ends = time(cycle_ends);
        shop.sql(&format!(
            "UPDATE subscription_invoices SET cycle_end_at = {cycle_ends}"
        ));
        let report = shop.reconcile().option("--max-age-hours", "720").json(0);
        let attention = report["attention"].as_array().unwrap();
        assert_eq!(attention.len(), expected, "{cycle_ends} {settled}");
    }
}

#[test]
fn first_subscription_cycle_is_a_purchase() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.is_a_renewal("a");
    shop.sql("UPDATE subscription_invoices SET cycle_number = 1");
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn free_sale_is_licensed_without_a_request() {
    for (redemption, after) in [
        (None, "settled, licensed"),
        (
            Some("pending"),
            "settled, licensed, redeemed with it, used 1",
        ),
    ] {
        let shop = Shop::of_keysat();
        let sale = shop.sale("a").here("settled");
        redemption
            .map_or_else(
                || shop.sale("a").here("settled"),
                |status| sale.redemption(status),
            )
            .made();
        shop.sql("UPDATE invoices SET btcpay_invoice_id = 'free-' || id, amount_sats = 0");
        shop.sale("open").there("New").made();
        shop.sql("UPDATE invoices SET btcpay_invoice_id = 'free-' || id WHERE id = 'open'");
        let report = shop.reconcile().flag("--recheck").json(0);
        assert_eq!(shop.state("a"), after);
        assert_eq!(report["checked"], 0);
        assert_eq!(report["changes"][0]["license_issued"], true);
        assert_eq!(report["attention"], json!([]));
        assert_eq!(shop.btcpay.requests(), [""; 0]);
        shop.reconcile().exits(0).says_nothing();
    }
}

#[test]
fn free_sale_belongs_to_no_provider() {
    let shop = Shop::of_keysat();
    shop.has_provider("second", "btcpay", "https://btcpay.example.com", STORE);
    shop.sale("a").here("settled").made();
    shop.sale("tier").here("settled").made();
    shop.is_a_tier_change("tier");
    shop.sql("UPDATE invoices SET btcpay_invoice_id = 'free-' || id, amount_sats = 0");
    let report = shop.reconcile().json(0);
    assert_eq!(shop.state("a"), "settled, licensed");
    assert_eq!(shop.state("tier"), "settled");
    assert_eq!(report["attention"], json!([]));
}

#[test]
fn free_sale_with_manual_license_is_reported_without_link() {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").made();
    shop.sql(
        "UPDATE invoices SET btcpay_invoice_id = 'free-a', amount_sats = 0;
         INSERT INTO licenses (id, product_id, status, issued_at, buyer_email, metadata_json)
         VALUES ('gift', 'pro', 'active', datetime(), 'a@example.com', '{\"source\":\"admin_issue\"}')",
    );
    let ran = shop.reconcile().exits(0).tells(&[("a", "license_by_hand")]);
    assert_eq!(ran.advised("reconcile --issue"), "reconcile --issue=a");
    assert!(!ran.stderr.contains("http"), "{}", ran.stderr);
    assert_eq!(shop.state("a"), "settled");
}

#[test]
fn free_sale_with_an_amount_fails() {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").made();
    shop.sql("UPDATE invoices SET btcpay_invoice_id = 'free-a'");
    shop.reconcile().exits(3).warns(
        "error: invoice a (BTCPay invoice free-a): its btcpay_invoice_id says that it was free, but its amount_sats is 21000. [..]",
    );
    assert_eq!(shop.state("a"), "settled");
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn recurring_policy_starts_subscription_with_first_cycle() {
    let shop = Shop::of_keysat();
    shop.sells_subscriptions(", duration_seconds = 86400 * 37");
    shop.sale("a").made();
    shop.sql("UPDATE invoices SET payment_provider_id = 'btcpay'");
    shop.reconcile().exits(0);
    assert_eq!(
        shop.query(
            "SELECT s.license_id = l.id, s.policy_id, s.product_id, s.period_days, s.listed_currency, s.listed_value,
                    s.status, s.consecutive_failures, s.merchant_profile_id, s.payment_provider_id,
                    s.started_at = l.issued_at, unixepoch(s.next_renewal_at) - unixepoch(s.started_at),
                    l.is_trial, unixepoch(l.expires_at) - unixepoch(l.issued_at)
               FROM subscriptions s, licenses l"
        ),
        "1|pro-default|pro|30|SAT|21000|active|0|shop|btcpay|1|2592000|0|3196800"
    );
    assert_eq!(
        shop.query(
            "SELECT c.subscription_id = s.id, c.invoice_id, c.cycle_number, c.cycle_start_at = s.started_at,
                    c.cycle_end_at = s.next_renewal_at
               FROM subscription_invoices c, subscriptions s"
        ),
        "1|a|1|1|1"
    );
    shop.reconcile().flag("--recheck").exits(0).says_nothing();
}

#[test]
fn subscription_keeps_the_listed_price() {
    for (listed, expected) in [
        ("listed_currency = 'USD', listed_value = 1999", "USD|1999"),
        ("listed_currency = 'USD'", "SAT|21000"),
        ("listed_value = 1999", "SAT|21000"),
    ] {
        let shop = Shop::of_keysat();
        shop.sells_subscriptions("");
        shop.sale("a").made();
        shop.sql(&format!("UPDATE invoices SET {listed}"));
        shop.reconcile().exits(0);
        assert_eq!(
            shop.query("SELECT listed_currency, listed_value FROM subscriptions"),
            expected
        );
    }
}

#[test]
fn renewal_period_is_at_least_one_day() {
    for period in ["NULL", "0", "-5"] {
        let shop = Shop::of_keysat();
        shop.sells_subscriptions(&format!(", renewal_period_days = {period}"));
        shop.sale("a").made();
        shop.reconcile().exits(0);
        assert_eq!(
            shop.query(
                "SELECT period_days, unixepoch(next_renewal_at) - unixepoch(started_at) FROM subscriptions"
            ),
            "1|86400"
        );
    }
}

#[test]
fn subscription_can_start_with_a_trial() {
    let shop = Shop::of_keysat();
    shop.sells_subscriptions(", trial_days = 14");
    shop.sale("a").made();
    shop.reconcile().exits(0);
    assert_eq!(
        shop.query(
            "SELECT l.is_trial, unixepoch(l.expires_at) - unixepoch(l.issued_at),
                    unixepoch(s.next_renewal_at) - unixepoch(s.started_at), s.period_days
               FROM licenses l, subscriptions s"
        ),
        "1|1209600|1209600|30"
    );
}

#[test]
fn subscription_with_impossible_dates_fails_with_reason() {
    for (column, why) in [
        ("renewal_period_days", "Correct renewal_period_days"),
        ("trial_days", "Correct trial_days"),
    ] {
        let shop = Shop::of_keysat();
        shop.sells_subscriptions(&format!(", {column} = 9223372036854775807"));
        shop.sale("a").redemption("pending").made();
        let before = shop.everything();
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.json(3);
            let error = report["failures"][0]["error"].as_str().unwrap();
            assert!(error.contains(why), "{error}");
            assert_eq!(shop.everything(), before);
        }
    }
}

/// The deliveries of an event: the endpoint and the event's data.
fn deliveries(shop: &Shop, event: &str) -> Vec<(String, Value)> {
    let rows = shop.query(&format!(
        "SELECT endpoint_id, payload_json FROM webhook_deliveries WHERE event_type = '{event}' ORDER BY endpoint_id"
    ));
    rows.lines()
        .map(|row| {
            let (endpoint, payload) = row.split_once('|').unwrap();
            let mut envelope: Value = serde_json::from_str(payload).unwrap();
            assert_eq!(envelope["event_type"], event);
            assert!(envelope["timestamp"].as_str().unwrap().ends_with("+00:00"));
            (endpoint.to_owned(), envelope["data"].take())
        })
        .collect()
}

#[test]
fn subscribed_endpoints_receive_license_and_code_events() {
    let shop = Shop::of_keysat();
    shop.has_endpoint("all", "[\"*\"]", true);
    shop.has_endpoint("codes", "[\"code.redeemed\", \"machine.activated\"]", true);
    shop.has_endpoint("licenses", "[\"license.issued\"]", true);
    shop.has_endpoint("nothing", "[]", true);
    shop.has_endpoint("odd", "license.issued", true);
    shop.has_endpoint("off", "[\"*\"]", false);
    shop.sale("a").redemption("pending").made();
    shop.sale("dead")
        .there("Expired")
        .redemption("pending")
        .made();
    shop.reconcile().exits(0);
    let license = shop.query("SELECT id FROM licenses");
    let issued = json!({
        "license_id": license, "product_id": "pro", "invoice_id": "a", "policy_id": "pro-default",
        "is_trial": false, "expires_at": null, "entitlements": ["updates"], "source": "purchase",
    });
    assert_eq!(
        deliveries(&shop, "license.issued"),
        [("all".into(), issued.clone()), ("licenses".into(), issued)]
    );
    let redeemed = json!({
        "redemption_id": "red-a", "code_id": "launch", "code": "LAUNCH", "license_id": license,
        "product_id": "pro", "invoice_id": "a", "discount_applied_sats": 1000,
        "base_price_sats": 22000, "final_price_sats": 21000,
    });
    assert_eq!(
        deliveries(&shop, "code.redeemed"),
        [("all".into(), redeemed.clone()), ("codes".into(), redeemed)]
    );
    assert_eq!(
        shop.query(
            "SELECT DISTINCT attempt_count, delivered_at, next_attempt_at = created_at,
                    abs(unixepoch() - unixepoch(created_at)) < 600 FROM webhook_deliveries"
        ),
        "0|NULL|1|1"
    );
    assert_eq!(
        shop.query(
            "SELECT actor_kind, target_kind, target_id, details_json ->> 'license_id' = (SELECT id FROM licenses)
               FROM audit_log WHERE action = 'code.redeemed'"
        ),
        "system|discount_code|launch|1"
    );
}

#[test]
fn existing_license_sends_no_second_event() {
    let shop = Shop::of_keysat();
    shop.sells_subscriptions("");
    shop.has_endpoint("all", "[\"*\"]", true);
    shop.sale("a").licensed().redemption("pending").made();
    shop.reconcile().exits(0);
    assert_eq!(deliveries(&shop, "license.issued"), []);
    assert_eq!(deliveries(&shop, "code.redeemed").len(), 1);
    assert_eq!(shop.query("SELECT count(*) FROM subscriptions"), "0");
}

#[test]
fn license_names_purchase_as_its_source() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.reconcile().exits(0);
    assert_eq!(
        shop.query("SELECT metadata_json FROM licenses"),
        r#"{"btcpay_invoice_id":"btc-a","issued_by":"reconcile","source":"purchase"}"#
    );
}

#[test]
fn archived_policy_applies_only_if_invoice_names_it() {
    let shop = Shop::of_keysat();
    shop.sql(
        "UPDATE policies SET archived_at = '2026-11-01T00:00:00+00:00';
         INSERT INTO policies (id, product_id, name, slug, created_at, updated_at)
         VALUES ('other', 'pro', 'Zzz', 'zzz', datetime(), datetime())",
    );
    shop.sale("a").made();
    shop.sale("own").made();
    shop.sql("UPDATE invoices SET policy_id = 'pro-default' WHERE id = 'own'");
    shop.reconcile().exits(0);
    assert_eq!(
        shop.query("SELECT invoice_id, policy_id FROM licenses ORDER BY invoice_id"),
        "a|other\nown|pro-default"
    );
}

#[test]
fn unsent_tip_is_reported_and_recorded_once() {
    let shop = Shop::of_keysat();
    shop.sql("UPDATE policies SET tip_recipient = 'artist@getalby.com', tip_pct_bps = 250");
    shop.sale("a").made();
    shop.sale("b").licensed().made();
    let predicted = shop.reconcile().flag("-n").json(0);
    let done = shop.reconcile().json(0);
    assert_eq!(what_needs_a_person(&predicted), what_needs_a_person(&done));
    assert_eq!(done["attention"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(done["attention"][0]["invoice_id"], "a");
    assert_eq!(done["attention"][0]["reason"], "tip_not_sent");
    let detail = done["attention"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("525 sats") && detail.contains("artist@getalby.com"),
        "{detail}"
    );
    shop.reconcile().exits(0).says_nothing();
    let recheck = || shop.reconcile().flag("--recheck").exits(0);
    recheck().tells(&[("a", "tip_not_sent")]);
    recheck().says_nothing();
    let noted = "SELECT details_json ->> 'invoice_id', details_json ->> 'recipient', details_json ->> 'sats',
                        target_id = (SELECT id FROM licenses WHERE invoice_id = 'a')
                   FROM audit_log WHERE action = 'tip.not_sent'";
    assert_eq!(shop.query(noted), "a|artist@getalby.com|525|1");
}

#[test]
fn only_invoices_of_our_store_are_checked() {
    let shop = Shop::of_keysat();
    shop.has_provider("zaprite", "zaprite", "https://api.zaprite.com", "");
    for id in ["ours", "unnamed", "card"] {
        shop.sale(id).made();
    }
    shop.sale("old-card")
        .created("'2026-01-01T00:00:00Z'")
        .made();
    shop.sql(
        "UPDATE invoices SET payment_provider_id = 'btcpay' WHERE id = 'ours';
         UPDATE invoices SET payment_provider_id = 'zaprite' WHERE id LIKE '%card'",
    );
    let ran = shop.reconcile().flag("-v").exits(0);
    assert!(
        ran.stderr.contains(
            "info: skipped invoices of another payment provider or store (other_provider): 1"
        ),
        "{}",
        ran.stderr
    );
    assert!(!ran.stdout.contains("pending older"), "{}", ran.stdout);
    assert_eq!(shop.state("ours"), "settled, licensed");
    assert_eq!(shop.state("unnamed"), "settled, licensed");
    assert_eq!(shop.state("card"), "pending");
    let report = shop.reconcile().json(0);
    assert_eq!(report["other_provider"], 1);
    shop.reconcile().exits(0).says_nothing();
}

#[test]
fn invoice_without_provider_is_looked_up_in_every_store() {
    let shop = Shop::of_keysat();
    shop.has_provider("second", "btcpay", "https://btcpay.example.com", STORE);
    shop.sale("unnamed").made();
    shop.sale("second").made();
    shop.sale("ours").made();
    shop.sql(
        "UPDATE invoices SET payment_provider_id = 'btcpay' WHERE id = 'ours';
         UPDATE invoices SET payment_provider_id = 'second' WHERE id = 'second'",
    );
    shop.sale("elsewhere").made();
    shop.btcpay.change("btc-elsewhere", |invoice| {
        invoice.store_id = "another".into();
    });
    let report = shop.reconcile().json(0);
    assert_eq!(report["checked"], 3);
    assert_eq!(report["other_provider"], 1);
    assert_eq!(report["not_in_store"], 1);
    assert_eq!(report["attention"], json!([]));
    assert_eq!(shop.state("ours"), "settled, licensed");
    assert_eq!(shop.state("unnamed"), "settled, licensed");
    assert_eq!(shop.state("elsewhere"), "pending");
    shop.reconcile().exits(0).says_nothing();
    for run in ["-n", "--recheck"] {
        let ran = shop.reconcile().flag(run).exits(0);
        assert!(
            ran.stdout.contains(", 1 not in this store; "),
            "{}",
            ran.stdout
        );
    }
}

#[test]
fn renewal_without_provider_uses_that_of_its_subscription() {
    for (provider, attention) in [("btcpay", 1), ("zaprite", 0)] {
        let shop = Shop::of_keysat();
        shop.has_provider("zaprite", "zaprite", "https://api.zaprite.com", "");
        shop.sale("a").made();
        shop.is_a_renewal("a");
        shop.sql(&format!(
            "UPDATE subscriptions SET payment_provider_id = '{provider}'"
        ));
        let report = shop.reconcile().json(0);
        assert_eq!(report["checked"], attention);
        assert_eq!(report["attention"].as_array().unwrap().len(), attention);
    }
}

#[test]
fn provider_is_recognized_by_equivalent_url() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    let url = shop.btcpay.url().replace("http", "HTTP") + "/";
    shop.sql(&format!(
        "UPDATE payment_providers SET base_url = '{url}';
         UPDATE invoices SET payment_provider_id = 'btcpay'"
    ));
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn unknown_store_stops_run_and_lists_providers() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.sql("UPDATE payment_providers SET base_url = 'https://admin:s3cret@btcpay.example.com/'");
    shop.reconcile().exits(1).warns(&format!(
        "error: cannot use the database [..]: none of its payment providers is store {STORE} at http://[..]. \
         Set --btcpay-url and --store-id as in the service: https://btcpay.example.com/ and {STORE}"
    ));
    shop.sql("DELETE FROM payment_providers");
    shop.reconcile()
        .exits(1)
        .warns("error: [..] It has none of kind btcpay; connect the service to BTCPay first");
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn redemption_cancelled_by_reaper_retakes_its_slot() {
    let shop = Shop::of_keysat();
    shop.sale("slow").redemption("cancelled").made();
    shop.reconcile().exits(0);
    assert_eq!(
        shop.state("slow"),
        "settled, licensed, redeemed with it, used 1"
    );
}

#[test]
fn times_are_written_in_keysats_format() {
    let shop = Shop::of_keysat();
    shop.sells_subscriptions(", duration_seconds = 86400");
    shop.has_endpoint("all", "[\"*\"]", true);
    shop.sale("a").redemption("pending").made();
    shop.reconcile().exits(0);
    for columns in [
        "issued_at, expires_at FROM licenses",
        "updated_at, updated_at FROM invoices",
        "updated_at, updated_at FROM discount_redemptions",
        "started_at, next_renewal_at FROM subscriptions",
        "cycle_start_at, cycle_end_at FROM subscription_invoices",
        "next_attempt_at, created_at FROM webhook_deliveries",
        "min(occurred_at), max(occurred_at) FROM audit_log",
    ] {
        for time in shop.query(&format!("SELECT {columns}")).split(['|', '\n']) {
            assert!(
                time.len() == 25 && time.starts_with("20") && time.ends_with("+00:00"),
                "{columns}: {time}"
            );
        }
    }
}

#[test]
fn license_deleted_with_its_policy_is_not_reissued() {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").made();
    shop.sql(
        "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, occurred_at)
         VALUES ('admin_api_key', 'policy.force_delete', 'policy', 'gone', strftime('%Y-%m-%dT%H:%M:%f+00:00'))",
    );
    let before = shop.everything();
    let report = shop.reconcile().json(0);
    assert_eq!(report["attention"][0]["reason"], "license_deleted");
    assert_eq!(shop.everything(), before);
    shop.sql("UPDATE audit_log SET occurred_at = '2020-01-01T00:00:00+00:00'");
    shop.reconcile().exits(0);
    assert_eq!(
        shop.state("a"),
        "settled, licensed",
        "the policy was deleted before the sale"
    );
}

/// What Keysat's databases of other versions lack, and the number of subscriptions, trial days and
/// deliveries that a sale still creates.
const OLDER: [(&str, &str); 9] = [
    ("", "1|3|2"),
    ("DROP TABLE tier_changes", "1|3|2"),
    (
        "DROP TABLE tier_changes; DROP TABLE subscription_invoices; DELETE FROM subscriptions",
        "0|NULL|2",
    ),
    (
        "ALTER TABLE invoices DROP COLUMN payment_provider_id",
        "1|3|2",
    ),
    (
        "ALTER TABLE subscriptions DROP COLUMN merchant_profile_id;
         ALTER TABLE subscriptions DROP COLUMN payment_provider_id;
         ALTER TABLE products DROP COLUMN merchant_profile_id",
        "1|3|2",
    ),
    (
        "ALTER TABLE invoices DROP COLUMN listed_currency; ALTER TABLE invoices DROP COLUMN listed_value",
        "1|3|2",
    ),
    (
        "ALTER TABLE policies DROP COLUMN archived_at; ALTER TABLE policies DROP COLUMN tip_recipient;
         ALTER TABLE policies DROP COLUMN tip_pct_bps",
        "1|3|2",
    ),
    (
        "DROP TABLE webhook_endpoints; DELETE FROM webhook_deliveries",
        "1|3|0",
    ),
    (
        "ALTER TABLE policies DROP COLUMN is_recurring; ALTER TABLE policies DROP COLUMN trial_days;
         ALTER TABLE policies DROP COLUMN renewal_period_days",
        "0|NULL|2",
    ),
];

#[test]
fn each_keysat_feature_works_without_the_others() {
    for (older, made) in OLDER {
        let shop = Shop::of_keysat();
        shop.sells_subscriptions(", trial_days = 3, tip_recipient = 'a', tip_pct_bps = 100");
        shop.has_endpoint("all", "[\"*\"]", true);
        shop.sale("a").redemption("pending").made();
        shop.sql(&format!("PRAGMA foreign_keys = 0; {older}"));
        let predicted = shop.reconcile().flag("-n").json(0);
        assert_eq!(predicted["changes"][0]["license_issued"], true, "{older}");
        shop.reconcile().exits(0);
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1",
            "{older}"
        );
        assert_eq!(
            shop.query(
                "SELECT (SELECT count(*) FROM subscriptions),
                        (unixepoch(expires_at) - unixepoch(issued_at)) / 86400,
                        (SELECT count(*) FROM webhook_deliveries)
                   FROM licenses"
            ),
            made,
            "{older}"
        );
        let time = shop.query("SELECT issued_at FROM licenses");
        assert!(time.ends_with("+00:00"), "{older}: {time}");
        shop.reconcile().exits(0).says_nothing();
    }
}

#[test]
fn unrelated_tables_with_keysat_names_do_no_harm() {
    let shop = Shop::open();
    shop.sql(
        "CREATE TABLE subscriptions (id INTEGER PRIMARY KEY, newsletter TEXT);
         CREATE TABLE payment_providers (id INTEGER PRIMARY KEY, name TEXT);
         ALTER TABLE invoices ADD COLUMN payment_provider_id INTEGER;
         CREATE TABLE webhook_endpoints (id TEXT PRIMARY KEY, url TEXT, event_types TEXT, enabled INTEGER);
         CREATE TABLE webhook_deliveries (id TEXT PRIMARY KEY, endpoint TEXT, body TEXT, created_at TEXT);
         PRAGMA writable_schema = 1;
         INSERT INTO sqlite_schema VALUES ('table', 'vectors', 'vectors', 0, 'CREATE VIRTUAL TABLE vectors USING vec0(v)')",
    );
    shop.sale("a").made();
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
    assert!(shop.query("SELECT issued_at FROM licenses").ends_with('Z'));
}

#[test]
fn unknown_keysat_schema_stops_the_run() {
    for (spoil, named) in [
        (
            "ALTER TABLE tier_changes RENAME COLUMN to_policy_id TO target",
            "column tier_changes.to_policy_id is missing",
        ),
        (
            "ALTER TABLE subscriptions RENAME COLUMN status TO state",
            "column subscriptions.status is missing",
        ),
        (
            "ALTER TABLE webhook_deliveries RENAME COLUMN payload_json TO payload",
            "column webhook_deliveries.payload_json is missing",
        ),
        (
            "ALTER TABLE policies DROP COLUMN trial_days",
            "column policies.trial_days is missing",
        ),
        (
            "ALTER TABLE policies DROP COLUMN tip_pct_bps",
            "column policies.tip_pct_bps is missing",
        ),
        (
            "ALTER TABLE payment_providers RENAME COLUMN base_url TO url",
            "column payment_providers.base_url is missing",
        ),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").made();
        shop.sql(spoil);
        shop.reconcile()
            .exits(1)
            .warns(&format!(
                "error: the database [..] has Keysat's tables, but in a form unknown to this version of reconcile: {named}. Update reconcile"
            ));
        assert_eq!(shop.btcpay.requests(), [""; 0]);
    }
}

#[test]
fn mixed_backlog_is_read_from_the_list() {
    let shop = Shop::of_keysat();
    shop.many_sales(40, |_| "Settled");
    shop.is_a_tier_change("7");
    shop.sql("DELETE FROM licenses WHERE id = 'old'");
    shop.is_a_renewal("8");
    let report = shop.reconcile().json(0);
    assert!(report["requests"].as_u64() <= Some(4), "{report}");
    assert_eq!(report["changes"].as_array().unwrap().len(), 38);
    let mut reasons: Vec<&str> = report["attention"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["reason"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["renewal_paid", "tier_change_paid"]);
    assert_eq!(shop.statuses(), "2 pending, 38 settled");
}
