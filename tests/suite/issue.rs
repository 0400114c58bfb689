//! `--issue`: a person decides a doubt, and the buyer gets the license.

use std::thread;

use serde_json::{Value, json};

use crate::btcpay::{Fault, KEY, STORE};
use crate::program::Run;
use crate::shop::{BTC, SHOPS, Shop, at_once};

type SetUp = fn(&Shop);

impl Shop {
    fn person_issues(&self, id: &str) -> Run {
        self.reconcile().option("--issue", id)
    }

    fn has_license_by_hand(&self) {
        self.sql(
            "INSERT INTO licenses (id, product_id, status, issued_at, buyer_email, metadata_json)
             VALUES ('gift', 'pro', 'active', datetime(), 'a@example.com', '{\"source\":\"admin_issue\"}')",
        );
    }

    fn has_lost_the_policy(&self) {
        self.sql("UPDATE invoices SET policy_id = 'gone'");
    }

    fn has_deleted_a_policy(&self) {
        self.sql(
            "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, occurred_at)
             VALUES ('admin_api_key', 'policy.delete', 'policy', 'gone', strftime('%Y-%m-%dT%H:%M:%f+00:00'));
             UPDATE invoices SET status = 'settled'",
        );
    }

    fn notes_a_tier_change(&self) {
        self.sql("UPDATE invoices SET buyer_note = 'tier upgrade'");
    }

    fn notes_a_renewal(&self) {
        self.sql("UPDATE invoices SET buyer_note = 'Renewal cycle for subscription sub'");
    }

    fn began_an_upgrade_in_the_log(&self) {
        self.sql(
            "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, details_json, occurred_at)
             VALUES ('buyer', 'subscription.upgrade.started', 'subscription', 'change', '{\"invoice_id\":\"a\"}', datetime())",
        );
    }

    fn has_a_tier_change(&self) {
        self.sql(
            "INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                       invoice_id, effective_at, actor, created_at)
             VALUES ('change', 'old', 'pro-default', 'plus', 'upgrade', 'SAT', 'a', datetime(), 'buyer', datetime())",
        );
    }

    fn has_a_renewal(&self) {
        self.sql(
            "INSERT INTO subscription_invoices (id, subscription_id, invoice_id, cycle_number, cycle_start_at,
                                                cycle_end_at, created_at)
             VALUES ('cycle', 'sub', 'a', 2, datetime(), datetime(), datetime())",
        );
    }

    fn has_lost_the_product(&self) {
        self.sql("UPDATE invoices SET product_id = 'gone'");
    }

    fn was_free(&self) {
        self.sql(
            "UPDATE invoices SET btcpay_invoice_id = 'free-a', amount_sats = 0, status = 'settled'",
        );
    }

    /// Everything that a purchase can be owed: a subscription and deliveries.
    fn owes_everything(&self) {
        if self.is_of_keysat() {
            self.sql(
                "UPDATE policies SET is_recurring = 1, renewal_period_days = 30, trial_days = 14;
                 INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's')",
            );
        }
    }

    fn is_of_keysat(&self) -> bool {
        self.query("SELECT count(*) FROM sqlite_schema WHERE name = 'tier_changes'") == "1"
    }

    /// All rows of the sale `a` as far as they do not depend on when and by whom it was settled.
    fn settlement(&self) -> String {
        let mut queries = vec![
            "SELECT id, status, updated_at = (SELECT issued_at FROM licenses WHERE invoice_id = 'a') FROM invoices",
            "SELECT product_id, policy_id, status, unixepoch(expires_at) - unixepoch(issued_at), grace_seconds,
                    max_machines, entitlements_json, is_trial, buyer_email, metadata_json
               FROM licenses WHERE invoice_id = 'a'",
            "SELECT r.status, r.license_id = l.id, used_count
               FROM discount_redemptions r JOIN discount_codes c ON c.id = code_id JOIN licenses l USING (invoice_id)",
            "SELECT actor_kind, action, target_kind, replace(target_id, l.id, 'LICENSE'),
                    replace(json_remove(details_json, '$.decided_by'), l.id, 'LICENSE')
               FROM audit_log, licenses l WHERE invoice_id = 'a'
              ORDER BY audit_log.id",
        ];
        if self.is_of_keysat() {
            queries.extend([
                "SELECT s.license_id = l.id, s.policy_id, s.product_id, period_days, listed_currency, listed_value,
                        s.status, unixepoch(next_renewal_at) - unixepoch(started_at), merchant_profile_id,
                        cycle_number, c.invoice_id, cycle_start_at = started_at, cycle_end_at = next_renewal_at
                   FROM subscriptions s
                   JOIN subscription_invoices c ON c.subscription_id = s.id
                   JOIN licenses l ON l.id = s.license_id",
                "SELECT endpoint_id, event_type, attempt_count, delivered_at,
                        replace(json_remove(payload_json, '$.timestamp', '$.data.expires_at'), l.id, 'LICENSE')
                   FROM webhook_deliveries, licenses l WHERE invoice_id = 'a'
                  ORDER BY event_type",
            ]);
        }
        let rows: Vec<String> = queries.into_iter().map(|sql| self.query(sql)).collect();
        rows.join("\n")
    }
}

/// The error that is the only thing to report.
#[track_caller]
fn refusal(report: &Value) -> &str {
    assert_eq!(report["changes"], json!([]), "{report}");
    assert_eq!(report["attention"], json!([]), "{report}");
    assert_eq!(report["failures"].as_array().unwrap().len(), 1, "{report}");
    report["failures"][0]["error"].as_str().unwrap()
}

/// The doubts that any database can raise, and those that only Keysat's can.
const DOUBTS: [(SetUp, &str); 2] = [
    (Shop::has_license_by_hand, "license_by_hand"),
    (Shop::has_lost_the_policy, "policy_missing"),
];
const DOUBTS_OF_KEYSAT: [(SetUp, &str); 3] = [
    (Shop::has_deleted_a_policy, "license_deleted"),
    (Shop::notes_a_tier_change, "tier_change_paid"),
    (Shop::notes_a_renewal, "renewal_paid"),
];

fn every_doubt() -> impl Iterator<Item = (fn() -> Shop, SetUp, &'static str)> {
    let of_any = SHOPS.into_iter().flat_map(|open| {
        DOUBTS
            .into_iter()
            .map(move |(doubt, reason)| (open, doubt, reason))
    });
    let of_keysat = DOUBTS_OF_KEYSAT
        .into_iter()
        .map(|(doubt, reason)| (Shop::of_keysat as fn() -> Shop, doubt, reason));
    of_any.chain(of_keysat)
}

#[test]
fn person_issues_license_despite_each_doubt() {
    at_once(every_doubt(), |(open, doubt, reason)| {
        for (id, here) in [("a", "pending"), ("btc-a", "expired"), ("a", "settled")] {
            let shop = open();
            shop.sale("a").here(here).redemption("pending").made();
            doubt(&shop);
            let before = shop.everything();
            let report = shop.reconcile().flag("--recheck").json(0);
            assert_eq!(report["attention"][0]["reason"], reason);
            let detail = report["attention"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("(reconcile --issue=a)"), "{detail}");

            let foreseen = shop.person_issues(id).flag("-n").json(0);
            assert_eq!(shop.everything(), before, "{reason}");
            let done = shop.person_issues(id).json(0);
            for (report, dry) in [(&foreseen, true), (&done, false)] {
                assert_eq!(report["dry_run"], dry);
                assert_eq!(report["checked"], 1);
                assert_eq!(report["attention"], json!([]), "{reason}");
                assert_eq!(report["failures"], json!([]), "{reason}");
                let changes = report["changes"].as_array().unwrap();
                assert_eq!(changes.len(), 1, "{reason}");
                assert_eq!(changes[0]["invoice_id"], "a");
                assert_eq!(changes[0]["btcpay_invoice_id"], "btc-a");
                assert_eq!(changes[0]["to"], "settled");
                assert_eq!(changes[0]["license_issued"], true);
                assert_eq!(changes[0]["redemption"], "redeemed");
                assert_eq!(changes[0]["license_id"].is_null(), dry);
            }
            assert_eq!(
                shop.state("a"),
                "settled, licensed, redeemed with it, used 1",
                "{reason}"
            );

            shop.sql("UPDATE invoices SET updated_at = created_at");
            let after = shop.everything();
            let report = shop.person_issues(id).json(3);
            assert!(refusal(&report).contains("it has license "), "{report}");
            shop.reconcile().flag("--recheck").exits(0).says_nothing();
            assert_eq!(shop.everything(), after, "{reason}");
        }
    });
}

#[test]
fn linking_a_license_resolves_the_doubt_too() {
    for (open, doubt, reason) in every_doubt() {
        if reason.ends_with("_paid") {
            continue;
        }
        let shop = open();
        shop.sale("a").redemption("pending").made();
        doubt(&shop);
        let report = shop.reconcile().json(0);
        let detail = report["attention"][0]["detail"].as_str().unwrap();
        let (_, link) = detail.split_once("link it (").unwrap();
        let (link, _) = link.split_once(')').unwrap();
        if reason != "license_by_hand" {
            shop.has_license_by_hand();
        }
        shop.sql(&link.replace("ITS-ID", "gift"));
        let report = shop.person_issues("a").json(3);
        assert!(refusal(&report).contains("it has license gift"), "{report}");
        shop.reconcile().exits(0).warns("");
        assert_eq!(shop.query("SELECT id FROM licenses"), "gift", "{reason}");
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}

#[test]
fn person_issues_any_paid_purchase() {
    for open in SHOPS {
        for (id, here, redemption) in [
            ("a", "pending", "pending"),
            ("btc-a", "pending", "cancelled"),
            ("a", "expired", "cancelled"),
            ("btc-a", "invalid", "pending"),
            ("a", "settled", "redeemed"),
        ] {
            let shop = open();
            // Older than any run looks for.
            shop.sale("a")
                .here(here)
                .redemption(redemption)
                .created("'2020-02-29T12:00:00Z'")
                .made();
            shop.sale("b").made();
            let before = shop.everything();
            shop.person_issues(id).flag("-n").exits(0).warns("");
            assert_eq!(shop.everything(), before);
            shop.btcpay.requests();
            shop.person_issues(id).exits(0).warns("");
            assert_eq!(
                shop.state("a"),
                "settled, licensed, redeemed with it, used 1",
                "{here}, {redemption}"
            );
            assert_eq!(shop.state("b"), "pending", "nothing else of a run");
            assert_eq!(
                shop.btcpay.requests(),
                [format!("/api/v1/stores/{STORE}/invoices/btc-a")]
            );
        }
    }
}

#[test]
fn audit_log_says_that_person_decided() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").made();
        shop.sale("b").made();
        shop.person_issues("a").exits(0);
        shop.reconcile().exits(0);
        assert_eq!(
            shop.query(
                "SELECT details_json ->> 'invoice_id', actor_kind, details_json ->> 'decided_by',
                        target_id = (SELECT id FROM licenses WHERE invoice_id = details_json ->> 'invoice_id')
                   FROM audit_log WHERE action = 'license.issued' ORDER BY 1"
            ),
            "a|reconcile|person|1\nb|reconcile|NULL|1"
        );
        assert_eq!(
            shop.query("SELECT count(*) FROM audit_log WHERE details_json LIKE '%decided_by%'"),
            "1"
        );
    }
}

#[test]
fn person_writes_same_rows_as_normal_run() {
    for open in SHOPS {
        for here in ["pending", "settled"] {
            let of_a_run = |run: fn(&Shop) -> Run, doubt: SetUp| {
                let shop = open();
                shop.owes_everything();
                shop.sale("a").here(here).redemption("pending").made();
                doubt(&shop);
                run(&shop).exits(0);
                shop.settlement()
            };
            let normal = of_a_run(Shop::reconcile, |_| {});
            assert!(normal.contains("pro|pro-default|active|"), "{normal}");
            let person = |shop: &Shop| shop.person_issues("a");
            assert_eq!(of_a_run(person, |_| {}), normal, "{here}");
            assert_eq!(
                of_a_run(person, Shop::has_license_by_hand),
                normal,
                "{here}"
            );
            assert_eq!(
                of_a_run(person, Shop::has_lost_the_policy),
                normal,
                "{here}"
            );
        }
    }
}

#[test]
fn person_issues_free_sale_without_a_request() {
    for open in SHOPS {
        for (redemption, id) in [
            ("cancelled", "a"),
            ("cancelled", "free-a"),
            ("pending", "a"),
        ] {
            let shop = open();
            shop.sale("a").redemption(redemption).made();
            shop.was_free();
            if redemption == "cancelled" {
                // The service undid it: nothing for a run to do.
                shop.reconcile().flag("--recheck").exits(0).says_nothing();
            }
            let before = shop.everything();
            for run in [
                shop.person_issues(id).flag("-n"),
                shop.person_issues(id)
                    .option("--btcpay-url", &shop.btcpay.url()),
            ] {
                assert_eq!(shop.everything(), before);
                let report = run.json(0);
                assert_eq!(report["requests"], 0);
                assert_eq!(report["changes"][0]["license_issued"], true);
            }
            assert_eq!(
                shop.state("a"),
                "settled, licensed, redeemed with it, used 1"
            );
            assert_eq!(shop.btcpay.requests(), [""; 0]);
            shop.reconcile().flag("--recheck").exits(0).says_nothing();
        }
    }
}

/// Checks that a person is refused, and why, in a dry run as in a real one.
#[track_caller]
fn refused(shop: &Shop, id: &str, why: &str) {
    refused_as(shop, "invoice [..] (BTCPay invoice [..])", id, why);
}

/// The same, where the error begins with `who`.
#[track_caller]
fn refused_as(shop: &Shop, who: &str, id: &str, why: &str) {
    let before = shop.everything();
    for run in [shop.person_issues(id).flag("-n"), shop.person_issues(id)] {
        let report = run.json(3);
        let error = refusal(&report);
        assert!(error.contains(why), "{error}");
        assert_eq!(report["error"], Value::Null);
        assert_eq!(shop.everything(), before, "{why}");
    }
    shop.person_issues(id)
        .exits(3)
        .warns(&format!("error: {who}: [..]{why}[..]"));
}

#[test]
fn unsettled_invoice_is_refused() {
    for open in SHOPS {
        for (there, additional) in [
            ("New", "None"),
            ("New", "PaidPartial"),
            ("Processing", "None"),
            ("Expired", "None"),
            ("Expired", "PaidLate"),
            ("Expired", "PaidPartial"),
            ("Invalid", "None"),
            ("Invalid", "Marked"),
        ] {
            for here in ["pending", "settled"] {
                let shop = open();
                shop.sale("a")
                    .here(here)
                    .there(there)
                    .additional(additional, BTC)
                    .redemption("pending")
                    .made();
                refused(
                    &shop,
                    "a",
                    &format!("no license was issued: BTCPay says {there}, not Settled"),
                );
            }
        }
    }
}

#[test]
fn licensed_invoice_is_refused() {
    for open in SHOPS {
        for status in ["active", "suspended", "revoked"] {
            for here in ["pending", "settled"] {
                let shop = open();
                shop.sale("a").here(here).licensed().made();
                shop.sql(&format!("UPDATE licenses SET status = '{status}'"));
                refused(
                    &shop,
                    "btc-a",
                    "no license was issued: it has license lic-a",
                );
            }
        }
    }
}

#[test]
fn tier_change_or_renewal_is_refused() {
    for (set_up, why) in [
        (
            Shop::has_a_tier_change as SetUp,
            "it pays for a change of tier",
        ),
        (
            Shop::began_an_upgrade_in_the_log,
            "it pays for a change of tier",
        ),
        (Shop::has_a_renewal, "it pays for a renewal"),
    ] {
        for here in ["pending", "settled", "expired"] {
            for licensed in [false, true] {
                let shop = Shop::of_keysat();
                let sale = shop.sale("a").here(here);
                if licensed { sale.licensed() } else { sale }.made();
                set_up(&shop);
                refused(&shop, "a", &format!("no license was issued: {why}"));
            }
        }
    }
}

#[test]
fn sale_without_its_product_is_refused() {
    for (open, doubt, _) in every_doubt().chain(SHOPS.map(|open| (open, (|_| {}) as SetUp, ""))) {
        for set_up in [|_: &Shop| {}, Shop::was_free] {
            let shop = open();
            shop.sale("a").made();
            set_up(&shop);
            doubt(&shop);
            shop.has_lost_the_product();
            refused(
                &shop,
                "a",
                "no license was issued: its product gone does not exist",
            );
        }
    }
}

#[test]
fn id_must_fit_one_invoice() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").made();
        for none in ["b", "A", "", "btc-", "a'", "%", " a"] {
            let who = format!("'{none}'");
            refused_as(&shop, &who, none, "no invoice has this id");
        }
        shop.sale("b").made();
        shop.sql("UPDATE invoices SET btcpay_invoice_id = 'a' WHERE id = 'b'");
        refused_as(&shop, "'a'", "a", "several invoices have this id");
        assert_eq!(
            shop.btcpay.requests(),
            [""; 0],
            "there is nothing to look up"
        );
        shop.person_issues("btc-a").exits(0);
        assert_eq!(shop.state("a"), "settled, licensed");
        assert_eq!(shop.state("b"), "pending");
    }
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sql("UPDATE invoices SET btcpay_invoice_id = id");
    shop.btcpay
        .change("btc-a", |invoice| invoice.id = "a".into());
    shop.person_issues("a").exits(0);
    assert_eq!(shop.state("a"), "settled, licensed", "both ids of one row");
}

#[test]
fn unusable_row_is_refused() {
    for (spoil, why) in [
        (
            "UPDATE invoices SET status = 'paused'",
            "its status 'paused'",
        ),
        (
            "UPDATE invoices SET amount_sats = 'dear'",
            "its amount_sats",
        ),
        ("UPDATE invoices SET created_at = 'today'", "its created_at"),
        ("UPDATE policies SET active = 'maybe'", "policies.active"),
        (
            "UPDATE policies SET product_id = 'x'; UPDATE invoices SET policy_id = 'pro-default'",
            "belongs to another product",
        ),
    ] {
        for open in SHOPS {
            let shop = open();
            shop.sale("a").made();
            shop.sql(&format!("PRAGMA ignore_check_constraints = 1; {spoil}"));
            refused(&shop, "a", why);
        }
    }
}

#[test]
fn invoice_unknown_to_btcpay_is_refused() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").made();
        shop.btcpay
            .change("btc-a", |invoice| invoice.store_id = "another".into());
        refused(
            &shop,
            "a",
            "has no such invoice (404). Is --store-id right?",
        );
    }
}

#[test]
fn unsettled_free_sale_is_refused_without_a_request() {
    for open in SHOPS {
        for here in ["pending", "expired", "invalid"] {
            let shop = open();
            shop.sale("a").made();
            shop.was_free();
            shop.sql(&format!("UPDATE invoices SET status = '{here}'"));
            refused(
                &shop,
                "a",
                &format!("it was free, and the service calls it {here}"),
            );
            assert_eq!(shop.btcpay.requests(), [""; 0]);
        }
        let shop = open();
        shop.sale("a").made();
        shop.was_free();
        shop.sql("UPDATE invoices SET amount_sats = 21000");
        refused(
            &shop,
            "a",
            "says that it was free, but its amount_sats is 21000",
        );
    }
}

#[test]
fn invoice_of_another_provider_is_refused() {
    let shop = Shop::of_keysat();
    shop.has_provider("zaprite", "zaprite", "https://api.zaprite.com", "");
    shop.sale("a").made();
    shop.sql("UPDATE invoices SET payment_provider_id = 'zaprite'");
    refused(&shop, "a", "it is of another payment provider");
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn differing_amount_is_still_reported() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").additional("None", "0.0001").made();
        shop.has_license_by_hand();
        for run in [shop.person_issues("a").flag("-n"), shop.person_issues("a")] {
            let report = run.json(0);
            assert_eq!(report["changes"][0]["license_issued"], true);
            assert_eq!(report["attention"][0]["reason"], "amount_mismatch");
        }
        assert_eq!(shop.state("a"), "settled, licensed");
    }
}

#[test]
fn code_beyond_its_limit_is_still_reported() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a")
            .here("expired")
            .redemption("cancelled")
            .made();
        shop.has_license_by_hand();
        shop.sql("UPDATE discount_codes SET used_count = 5");
        for run in [shop.person_issues("a").flag("-n"), shop.person_issues("a")] {
            let report = run.json(0);
            assert_eq!(report["attention"][0]["reason"], "code_over_max_uses");
        }
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 6"
        );
    }
}

#[test]
fn unavailable_btcpay_stops_it() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").made();
        let before = shop.everything();
        shop.btcpay.fails("btc-a", Fault::Reset);
        for run in [shop.person_issues("a").flag("-n"), shop.person_issues("a")] {
            let report = run.option("--deadline", "2").json(1);
            assert_eq!(report["changes"], json!([]));
            assert!(report["error"].is_string(), "{report}");
        }
        shop.btcpay.works_again();
        shop.btcpay.revoke(KEY);
        for run in [shop.person_issues("a").flag("-n"), shop.person_issues("a")] {
            let ran = run.exits(1);
            assert!(
                ran.stderr
                    .contains("error: BTCPay Server refused the API key (401): "),
                "{}",
                ran.stderr
            );
        }
        assert_eq!(shop.everything(), before);
    }
}

#[test]
fn unusable_database_stops_it() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.sql("DELETE FROM payment_providers");
    shop.person_issues("a")
        .exits(1)
        .prints("")
        .warns("error: cannot use the database [..]: none of its payment providers is store [..]");
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn issue_excludes_recheck_and_itself() {
    let shop = Shop::open();
    shop.sale("a").made();
    let before = shop.everything();
    for run in [
        shop.person_issues("a").flag("--recheck"),
        shop.reconcile().flag("--recheck").option("--issue", "a"),
        shop.person_issues("a").option("--issue", "b"),
        shop.person_issues("a").option("--issue", "a"),
        shop.reconcile().flag("--issue"),
    ] {
        let ran = run.exits(2).prints("");
        assert!(ran.stderr.contains("--issue"), "{}", ran.stderr);
    }
    assert_eq!(shop.everything(), before);
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn text_report_names_issued_license() {
    let shop = Shop::open();
    shop.sale("a").made();
    let dry = shop.person_issues("a").flag("-n").exits(0).warns("");
    assert!(dry.stdout.contains("license issued"), "{}", dry.stdout);
    assert!(
        dry.stdout.contains("dry run: 1 checked, 1 changed; "),
        "{}",
        dry.stdout
    );
    let ran = shop.person_issues("btc-a").exits(0).warns("");
    let license = shop.query("SELECT id FROM licenses");
    ran.prints(&format!(
        "invoice a (BTCPay invoice btc-a): pending -> settled, license {license} issued
         20[..]Z 1 checked, 1 changed; 1 request, [..] ms"
    ));
}

#[test]
fn person_beside_normal_run_issues_once() {
    // Each waits for BTCPay while the other does all of its work.
    for open in SHOPS {
        for (first, second) in [
            (Shop::reconcile as fn(&Shop) -> Run, "person"),
            (|shop: &Shop| shop.person_issues("a"), "run"),
            (|shop: &Shop| shop.person_issues("btc-a"), "person"),
        ] {
            let shop = open();
            shop.owes_everything();
            shop.sale("a").redemption("pending").made();
            let other = match second {
                "run" => shop.reconcile(),
                _ => shop.person_issues("a"),
            };
            shop.btcpay.when_asked_for("btc-a", move || {
                other.exits(0);
            });
            let first = first(&shop).command().output().unwrap();
            let said = String::from_utf8(first.stderr).unwrap();
            match first.status.code() {
                Some(0) => assert_eq!(said, ""),
                Some(3) => assert!(said.contains("it has license "), "{said}"),
                other => panic!("{other:?}: {said}"),
            }
            assert_eq!(
                shop.state("a"),
                "settled, licensed, redeemed with it, used 1"
            );
            assert_eq!(issued(&shop), "1");
        }
    }
}

#[test]
fn many_persons_and_runs_issue_once() {
    for open in SHOPS {
        let shop = open();
        shop.owes_everything();
        shop.sale("a").redemption("pending").made();
        thread::scope(|scope| {
            for id in ["a", "btc-a"] {
                let shop = &shop;
                scope.spawn(move || shop.person_issues(id).command().output());
                scope.spawn(move || shop.reconcile().exits(0));
            }
        });
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
        assert_eq!(issued(&shop), "1");
    }
}

/// How many licenses were issued, by every trace of it.
#[track_caller]
fn issued(shop: &Shop) -> String {
    let licenses = shop.query("SELECT count(*) FROM licenses");
    let mut traces = vec!["audit_log WHERE action = 'license.issued'"];
    if shop.is_of_keysat() {
        traces.extend([
            "subscriptions",
            "subscription_invoices",
            "webhook_deliveries WHERE event_type = 'license.issued'",
            "webhook_deliveries WHERE event_type = 'code.redeemed'",
        ]);
    }
    for trace in traces {
        assert_eq!(
            shop.query(&format!("SELECT count(*) FROM {trace}")),
            licenses,
            "{trace}"
        );
    }
    licenses
}

#[test]
fn service_that_settles_meanwhile_wins() {
    for (service, after) in [
        (
            "UPDATE invoices SET status = 'settled';
             INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
             VALUES ('webhook', 'pro', 'a', 'active', datetime())",
            "no license was issued: it has license webhook",
        ),
        (
            "DELETE FROM discount_redemptions; DELETE FROM invoices",
            "no license was issued: the service has just changed it",
        ),
    ] {
        for open in SHOPS {
            let shop = open();
            shop.sale("a").redemption("pending").made();
            let daemon = shop.connection();
            shop.btcpay
                .when_asked_for("btc-a", move || daemon.execute_batch(service).unwrap());
            let report = shop.person_issues("a").json(3);
            assert_eq!(refusal(&report), after);
            assert_eq!(shop.query("SELECT count(*) FROM audit_log"), "0");
        }
    }
}

#[test]
fn license_by_the_services_trigger_is_taken() {
    for open in SHOPS {
        let shop = open();
        shop.owes_everything();
        shop.sale("a").redemption("pending").made();
        shop.has_license_by_hand();
        shop.sql(
            "CREATE TRIGGER own AFTER UPDATE OF status ON invoices WHEN new.status = 'settled' BEGIN
               INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
               VALUES ('by-trigger', 'pro', new.id, 'active', datetime());
             END",
        );
        let report = shop.person_issues("a").json(0);
        assert_eq!(report["changes"][0]["license_issued"], false);
        assert_eq!(report["changes"][0]["license_id"], "by-trigger");
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}
