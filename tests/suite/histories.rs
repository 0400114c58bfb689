//! Sales with a history: a license only where the database leaves no doubt that one is owed. Every
//! run is made over a year, closed invoices included: dry, for real and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::btcpay::{KEY, STORE};
use crate::program::{Ran, Run, what_needs_a_person};
use crate::shop::{BTC, SHOPS, Shop};

const LOCAL_STATUSES: [&str; 4] = ["pending", "settled", "expired", "invalid"];

/// In the format that Keysat writes.
const AN_HOUR_AGO: &str = "strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '-1 hour')";
const SINCE: &str = "strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '-10 minutes')";
const BEFORE: &str = "strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now', '-2 hours')";

/// What is said of an invoice: in JSON, and by a dry run.
struct Advice {
    detail: String,
    shown: Ran,
}

impl Shop {
    fn run_over_a_year(&self) -> Run {
        self.reconcile()
            .flag("--recheck")
            .option("--max-age-hours", "8760")
    }

    fn dry_and_real_and_again(&self) -> [Run; 3] {
        [
            self.run_over_a_year().flag("-n"),
            self.run_over_a_year(),
            self.run_over_a_year(),
        ]
    }

    /// Checks that each run changes nothing and asks about one invoice, for `reason`. Returns what a
    /// dry one says.
    #[track_caller]
    fn only_asks(&self, reason: &str) -> Advice {
        let before = self.everything();
        let [dry, real, again] = self.dry_and_real_and_again().map(|run| {
            let report = run.json(0);
            assert_eq!(report["changes"], json!([]));
            assert_eq!(report["attention"][0]["reason"], reason, "{report}");
            assert_eq!(report["attention"][1], Value::Null, "{report}");
            assert_eq!(self.everything(), before);
            report["attention"][0]["detail"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        assert_eq!(dry, real);
        assert_eq!(real, again);
        Advice {
            detail: real,
            shown: self.run_over_a_year().flag("-n").exits(0),
        }
    }

    /// Checks that each run changes nothing and says nothing.
    #[track_caller]
    fn leaves_alone(&self) {
        let before = self.everything();
        for run in self.dry_and_real_and_again() {
            let report = run.json(0);
            assert_eq!(report["changes"], json!([]));
            assert_eq!(report["attention"], json!([]));
            assert_eq!(self.everything(), before);
        }
    }

    /// Checks that the invoice `id` alone gets a license, as the dry run said. Returns what needs
    /// attention.
    #[track_caller]
    fn licenses_of(&self, id: &str) -> Value {
        let before = self.everything();
        let [dry, real, again] = self.dry_and_real_and_again();
        let predicted = dry.json(0);
        assert_eq!(self.everything(), before);
        let done = real.json(0);
        assert_eq!(what_needs_a_person(&predicted), what_needs_a_person(&done));
        for report in [&predicted, &done] {
            assert_eq!(report["changes"][0]["invoice_id"], id, "{report}");
            assert_eq!(report["changes"][0]["license_issued"], true, "{report}");
            assert_eq!(report["changes"][1], Value::Null, "{report}");
        }
        assert!(self.state(id).starts_with("settled, licensed"));
        self.is_finished(again);
        done["attention"].clone()
    }

    /// Checks that `run` finds nothing left to do or to say.
    #[track_caller]
    fn is_finished(&self, run: Run) {
        let before = self.everything();
        let report = run.json(0);
        assert_eq!(report["changes"], json!([]));
        assert_eq!(report["attention"], json!([]));
        assert_eq!(self.everything(), before);
    }

    /// Checks that after what a person did the sales are settled, with a license each, and nothing
    /// is said any more.
    #[track_caller]
    fn is_decided(&self) {
        let report = self.run_over_a_year().json(0);
        assert_eq!(report["attention"], json!([]));
        assert_eq!(
            self.query(
                "SELECT DISTINCT invoices.status, licenses.id IS NOT NULL
                   FROM invoices LEFT JOIN licenses ON licenses.invoice_id = invoices.id"
            ),
            "settled|1"
        );
        self.is_finished(self.run_over_a_year());
    }

    /// Types the command for a license of `advice` into a shell.
    #[track_caller]
    fn types_command_of(&self, advice: &Advice, exit: i32) -> Ran {
        let command = advice.shown.advised("reconcile --issue");
        let program = Path::new(env!("CARGO_BIN_EXE_reconcile"));
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &command])
            .env_clear()
            .env("PATH", program.parent().unwrap())
            .env("RECONCILE_DATABASE", self.database())
            .env("BTCPAY_URL", self.btcpay.url())
            .env("BTCPAY_STORE_ID", STORE)
            .env("BTCPAY_API_KEY", KEY);
        Ran::of(shell, exit)
    }

    /// Notes an action of the service's in its audit log.
    fn noted(&self, action: &str, target: &str, details: &str, at: &str) {
        self.sql(&format!(
            "INSERT INTO audit_log (actor_kind, action, target_id, details_json, occurred_at)
             VALUES ('admin_api_key', '{action}', '{target}', '{details}', {at})"
        ));
    }

    /// Adds a license that was issued by hand, for the buyer of sale `a`.
    fn has_license_issued_by_hand(&self, issued: &str) {
        self.sql(&format!(
            "INSERT INTO licenses (id, product_id, status, issued_at, buyer_email, metadata_json)
             VALUES ('gift', 'pro', 'active', {issued}, 'a@example.com', '{{\"source\":\"admin_issue\"}}')"
        ));
    }

    /// Makes the sale `id` free.
    fn is_free_sale(&self, id: &str) {
        self.sql(&format!(
            "UPDATE invoices SET btcpay_invoice_id = 'free-' || id, amount_sats = 0 WHERE id = '{id}'"
        ));
    }

    /// The service has the policy `gone` deleted, with its licenses.
    fn policy_was_deleted(&self) {
        self.sql(
            "DELETE FROM licenses WHERE policy_id = 'gone';
             DELETE FROM policies WHERE id = 'gone'",
        );
        self.noted("policy.delete", "gone", r#"{"product_id":"pro"}"#, SINCE);
    }
}

// A license was deleted.

/// A refunded sale: its license was revoked and later deleted with its policy.
fn refunded_sale() -> Shop {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").licensed().made();
    shop.sql(
        "INSERT INTO policies (id, product_id, name, slug, created_at, updated_at)
         VALUES ('gone', 'pro', 'Old', 'old', '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00');
         UPDATE licenses SET policy_id = 'gone', status = 'revoked'",
    );
    shop
}

#[test]
fn refunded_license_deleted_with_policy_stays_deleted() {
    let shop = refunded_sale();
    shop.leaves_alone();
    shop.policy_was_deleted();
    let at = shop.query("SELECT occurred_at FROM audit_log");
    let advice = shop.only_asks("license_deleted");
    assert!(
        advice
            .detail
            .contains(&format!("(policy.delete of gone at {at})")),
        "{}",
        advice.detail
    );
}

#[test]
fn every_deletion_after_the_sale_is_suspected() {
    let in_the_other_format = "datetime('now', '-10 minutes')";
    for (action, details, at) in [
        ("policy.delete", r#"{"product_id":"pro"}"#, SINCE),
        ("policy.force_delete", r#"{"product_id":"pro"}"#, SINCE),
        ("license.delete", r#"{"product_id":"pro"}"#, SINCE),
        // Of a product that cannot be told any more.
        ("policy.delete", "{}", SINCE),
        ("policy.force_delete", r#"{"product_id":null}"#, SINCE),
        ("policy.force_delete", "not JSON", SINCE),
        // At whatever time.
        ("policy.delete", "{}", in_the_other_format),
        ("policy.delete", "{}", "'some day'"),
    ] {
        for redemption in [None, Some("redeemed"), Some("cancelled")] {
            let shop = Shop::of_keysat();
            let sale = shop.sale("a").here("settled");
            match redemption {
                Some(status) => sale.redemption(status).made(),
                None => sale.made(),
            }
            shop.noted(action, "gone", details, at);
            let advice = shop.only_asks("license_deleted");
            assert!(
                advice.detail.contains(&format!("{action} of gone at ")),
                "{}",
                advice.detail
            );
        }
    }
}

#[test]
fn unrelated_deletion_is_not_suspected() {
    for (action, details, at) in [
        ("policy.delete", r#"{"product_id":"pro"}"#, BEFORE),
        ("policy.force_delete", "{}", BEFORE),
        ("policy.force_delete", "{}", "datetime('now', '-2 hours')"),
        ("policy.delete", r#"{"product_id":"other"}"#, SINCE),
        ("policy.force_delete", r#"{"product_id":"other"}"#, SINCE),
        ("policy.archive", r#"{"product_id":"pro"}"#, SINCE),
        ("discount_code.delete", "{}", SINCE),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").here("settled").made();
        shop.noted(action, "gone", details, at);
        assert_eq!(shop.licenses_of("a"), json!([]), "{action} {details}");
    }
}

#[test]
fn sale_never_settled_here_is_not_suspected() {
    for here in ["pending", "expired", "invalid"] {
        let shop = Shop::of_keysat();
        shop.sale("a").here(here).made();
        shop.noted("policy.force_delete", "gone", "{}", SINCE);
        assert_eq!(shop.licenses_of("a"), json!([]), "{here}");
    }
}

#[test]
fn deleted_license_of_free_sale_is_suspected() {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").redemption("redeemed").made();
    shop.is_free_sale("a");
    shop.noted("policy.delete", "gone", "{}", SINCE);
    shop.only_asks("license_deleted");
}

#[test]
fn deletion_during_the_run_is_noticed() {
    let shop = Shop::of_keysat();
    let two_hours_ago = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-2 hours')";
    let ids = ["a", "b", "c"];
    for id in ids {
        shop.sale(id).here("settled").created(two_hours_ago).made();
    }
    // Whichever is looked up third: the first is written by then, and the second perhaps not.
    let asked = Arc::new(AtomicUsize::new(0));
    for id in ids {
        let (daemon, asked) = (shop.connection(), Arc::clone(&asked));
        shop.btcpay.when_asked_for(&format!("btc-{id}"), move || {
            if asked.fetch_add(1, Ordering::Relaxed) == 2 {
                daemon
                    .execute_batch(&format!(
                        "INSERT INTO audit_log (actor_kind, action, target_id, occurred_at)
                         VALUES ('admin_api_key', 'policy.delete', 'gone', {SINCE})"
                    ))
                    .unwrap();
            }
        });
    }
    let report = shop.reconcile().json(0);
    assert_eq!(
        report["attention"][0]["reason"], "license_deleted",
        "{report}"
    );
    let mut states = ids.map(|id| shop.state(id));
    states.sort_unstable();
    assert_eq!(states[0], "settled");
    assert_eq!(states[2], "settled, licensed");
}

#[test]
fn older_keysat_notes_deletions_too() {
    let shop = Shop::open();
    shop.sale("a").here("settled").made();
    shop.sql(
        "CREATE TABLE btcpay_config (base_url TEXT, api_key TEXT, store_id TEXT, webhook_id TEXT, webhook_secret TEXT)",
    );
    shop.noted("policy.force_delete", "gone", "{}", SINCE);
    shop.only_asks("license_deleted");
}

// A change of tier or a renewal, of which the rows are gone.

/// What the service's log may still say of the change of tier that `a` pays for, if it was not
/// applied.
const CLUES: [(&str, &str); 5] = [
    (
        "subscription.upgrade.started",
        r#"{"license_id":"old","invoice_id":"a"}"#,
    ),
    (
        "license.change_tier.invoice_created",
        r#"{"license_id":"old","invoice_id":"a","to_policy_id":"pro-default"}"#,
    ),
    ("license.change_tier.invoice_created", r#""a""#),
    (
        "license.change_tier.invoice_created",
        r#"{"charge":{"invoices":["a"]}}"#,
    ),
    ("subscription.upgrade.started", r#"[{"invoice":"a"}]"#),
];

#[test]
fn applied_upgrade_without_its_row_is_left_alone() {
    for here in LOCAL_STATUSES {
        for clue in [None, Some(CLUES[0]), Some(CLUES[1])] {
            let shop = Shop::of_keysat();
            shop.sale("a").here(here).made();
            shop.sql("UPDATE invoices SET policy_id = 'pro-default', buyer_note = 'tier upgrade'");
            if let Some((action, details)) = clue {
                shop.noted(action, "old", details, AN_HOUR_AGO);
            }
            shop.noted(
                "subscription.upgrade.applied",
                "change",
                r#"{"invoice_id":"a"}"#,
                SINCE,
            );
            shop.leaves_alone();
        }
    }
}

#[test]
fn unapplied_upgrade_without_its_row_is_reported() {
    for here in LOCAL_STATUSES {
        for (action, details) in CLUES {
            let shop = Shop::of_keysat();
            shop.sale("a").here(here).redemption("pending").made();
            shop.noted(action, "old", details, AN_HOUR_AGO);
            let advice = shop.only_asks("tier_change_paid");
            assert!(!advice.detail.contains("--issue"), "{}", advice.detail);
            shop.reconcile().option("--issue", "a").exits(3).warns(
                "error: invoice a (BTCPay invoice btc-a): no license was issued: it pays for a change of tier",
            );
            assert_eq!(shop.query("SELECT count(*) FROM licenses"), "0");
        }
    }
}

#[test]
fn noted_upgrade_or_renewal_waits_for_a_person() {
    for (note, reason) in [
        ("tier upgrade", "tier_change_paid"),
        ("admin tier-change", "tier_change_paid"),
        ("Renewal cycle for subscription sub-1", "renewal_paid"),
        ("Renewal cycle for subscription", "renewal_paid"),
    ] {
        for here in LOCAL_STATUSES {
            let shop = Shop::of_keysat();
            shop.sale("a").here(here).redemption("pending").made();
            shop.sql(&format!("UPDATE invoices SET buyer_note = '{note}'"));
            let advice = shop.only_asks(reason);
            assert!(
                advice
                    .detail
                    .contains("Only its note says that it was not a purchase"),
                "{}",
                advice.detail
            );
            shop.types_command_of(&advice, 0);
            shop.is_decided();
            assert_eq!(
                shop.state("a"),
                "settled, licensed, redeemed with it, used 1"
            );
        }
    }
}

#[test]
fn recorded_upgrade_is_reported_within_the_window_only() {
    let shop = Shop::of_keysat();
    let four_days_ago = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-4 days')";
    let sale = shop.sale("a").created(four_days_ago);
    sale.updated(four_days_ago).made();
    let (action, details) = CLUES[0];
    shop.noted(action, "old", details, AN_HOUR_AGO);
    let advice = shop.only_asks("tier_change_paid");
    shop.sql(&advice.shown.advised("UPDATE invoices"));
    shop.only_asks("tier_change_paid");
    // What was noted is asked about, however old.
    let told = shop.reconcile().flag("-n").json(0);
    assert_eq!(told["attention"][0]["reason"], "tier_change_paid");
    shop.sql("DELETE FROM audit_log WHERE action LIKE 'attention.%'");
    shop.is_finished(shop.reconcile().flag("--recheck"));
}

#[test]
fn upgrade_is_known_without_its_tables() {
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").made();
    shop.sale("b").here("settled").made();
    shop.sql(
        "DROP TABLE tier_changes; DROP TABLE subscription_invoices;
         UPDATE invoices SET buyer_note = 'Renewal cycle for subscription s' WHERE id = 'b'",
    );
    let (action, details) = CLUES[1];
    shop.noted(action, "old", details, AN_HOUR_AGO);
    let report = shop.run_over_a_year().json(0);
    let mut reasons: Vec<&str> = report["attention"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["reason"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["renewal_paid", "tier_change_paid"]);
    assert_eq!(shop.query("SELECT count(*) FROM licenses"), "0");
}

#[test]
fn clue_about_another_invoice_does_not_count() {
    for (action, details) in [
        ("subscription.upgrade.applied", r#"{"invoice_id":"b"}"#),
        ("license.change_tier.invoice_created", r#"{"a":"b"}"#),
        ("subscription.upgrade.started", r#"{"note":"for a"}"#),
        ("license.issue_manual", r#"{"invoice_id":"a"}"#),
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").here("settled").made();
        shop.noted(action, "a", details, AN_HOUR_AGO);
        assert_eq!(shop.licenses_of("a"), json!([]), "{action}");
    }
}

#[test]
fn other_notes_do_not_count() {
    for note in [
        "",
        "tier upgrade please",
        "my Renewal cycle for subscription",
    ] {
        let shop = Shop::of_keysat();
        shop.sale("a").made();
        shop.sql(&format!("UPDATE invoices SET buyer_note = '{note}'"));
        assert_eq!(shop.licenses_of("a"), json!([]), "{note}");
    }
    // Only Keysat writes its own words there.
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sql("UPDATE invoices SET buyer_note = 'tier upgrade'");
    assert_eq!(shop.licenses_of("a"), json!([]));
}

// A license was issued by hand.

#[test]
fn license_by_hand_counts_whatever_the_local_status() {
    for open in SHOPS {
        for here in LOCAL_STATUSES {
            for (sold, issued) in [
                ("-1 hour", "-5 minutes"),
                ("-300 days", "-299 days"),
                ("-300 days", "-10 days"),
            ] {
                let shop = open();
                let time = |when| format!("strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '{when}')");
                let sold = time(sold);
                let sale = shop.sale("a").here(here).redemption("pending");
                sale.created(&sold).updated(&sold).made();
                shop.has_license_issued_by_hand(&time(issued));
                let advice = shop.only_asks("license_by_hand");
                assert!(advice.detail.contains("license gift "), "{}", advice.detail);
            }
        }
    }
}

#[test]
fn two_sales_and_one_license_by_hand_are_told_apart() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").made();
        shop.sale("b").here("settled").made();
        shop.sql("UPDATE invoices SET buyer_email = 'a@example.com'");
        shop.has_license_issued_by_hand("datetime('now', '-5 minutes')");
        let report = shop.run_over_a_year().json(0);
        assert_eq!(report["changes"], json!([]));
        assert_eq!(report["attention"].as_array().unwrap().len(), 2);
        let advice = shop.reconcile().flag("-n").exits(0);
        shop.sql(&advice.advised("UPDATE licenses SET invoice_id = 'a'"));
        // The other one is without doubt now.
        shop.is_decided();
        assert_eq!(
            shop.query("SELECT id = 'gift', invoice_id FROM licenses ORDER BY invoice_id"),
            "1|a\n0|b"
        );
    }
}

#[test]
fn license_by_hand_revoked_again_still_leaves_a_doubt() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.has_license_issued_by_hand("datetime('now', '-5 minutes')");
    shop.sql("UPDATE licenses SET status = 'revoked'");
    shop.only_asks("license_by_hand");
}

#[test]
fn nobody_is_tied_to_nobody() {
    for open in SHOPS {
        for here in ["pending", "settled"] {
            for (buyer, owner) in [
                ("NULL", "NULL"),
                ("''", "''"),
                ("NULL", "''"),
                ("''", "NULL"),
                ("'a@example.com'", "NULL"),
                ("'a@example.com'", "''"),
                ("NULL", "'a@example.com'"),
                ("''", "'a@example.com'"),
            ] {
                let shop = open();
                shop.sale("a").here(here).made();
                shop.has_license_issued_by_hand("datetime('now', '-5 minutes')");
                shop.sql(&format!(
                    "UPDATE invoices SET buyer_email = {buyer}; UPDATE licenses SET buyer_email = {owner}"
                ));
                assert_eq!(shop.licenses_of("a"), json!([]), "{buyer} {owner}");
            }
        }
    }
}

// A free sale was undone.

#[test]
fn undone_free_sale_is_left_alone() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a")
            .here("settled")
            .redemption("cancelled")
            .made();
        shop.is_free_sale("a");
        shop.leaves_alone();
        assert!(
            !shop
                .btcpay
                .requests()
                .iter()
                .any(|path| path.contains("free"))
        );
    }
}

#[test]
fn code_of_one_use_gives_one_license() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a")
            .here("settled")
            .redemption("cancelled")
            .made();
        // The buyer saw an error and redeemed again. The service died over that.
        shop.sale("b").here("settled").redemption("pending").made();
        shop.is_free_sale("a");
        shop.is_free_sale("b");
        shop.sql("UPDATE discount_codes SET max_uses = 1");
        assert_eq!(shop.licenses_of("b"), json!([]));
        assert_eq!(shop.state("a"), "settled, cancelled, used 1");
        assert_eq!(
            shop.state("b"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}

#[test]
fn paid_sale_with_cancelled_redemption_was_not_undone() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a")
            .here("settled")
            .redemption("cancelled")
            .made();
        assert_eq!(shop.licenses_of("a"), json!([]));
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}

// The product or the policy is gone.

#[test]
fn sale_of_missing_product_waits_dry_and_real_alike() {
    for open in SHOPS {
        for here in LOCAL_STATUSES {
            let shop = open();
            shop.sale("a").here(here).redemption("pending").made();
            // The sale beside it is not held up.
            shop.sale("b").licensed().here("settled").made();
            shop.sql(
                "DELETE FROM products; UPDATE invoices SET product_id = 'lost' WHERE id = 'a'",
            );
            let advice = shop.only_asks("product_missing");
            assert!(
                advice.detail.contains("its product lost "),
                "{}",
                advice.detail
            );
            shop.reconcile().option("--issue", "a").exits(3).warns(
                "error: invoice a (BTCPay invoice btc-a): no license was issued: its product lost does not exist",
            );
        }
    }
}

#[test]
fn restored_product_gets_its_license() {
    for open in SHOPS {
        let restore = "INSERT INTO products (id, slug, name, price_sats, created_at, updated_at)
                       VALUES ('pro', 'pro', 'Pro', 21000, datetime(), datetime())";
        let lost = || {
            let shop = open();
            shop.sale("a").made();
            shop.sql("DELETE FROM products");
            shop.only_asks("product_missing");
            shop.sql(restore);
            shop
        };
        let shop = lost();
        shop.person_types("reconcile --issue=a");
        shop.is_decided();
        assert_eq!(lost().licenses_of("a"), json!([]));
    }
}

#[test]
fn sale_that_claims_to_be_of_the_future_hides_no_doubt() {
    let in_two_days = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+2 days')";
    for open in SHOPS {
        let shop = open();
        shop.sale("a").here("settled").created(in_two_days).made();
        shop.has_license_issued_by_hand("datetime('now', '-5 minutes')");
        shop.only_asks("license_by_hand");
    }
    let shop = Shop::of_keysat();
    shop.sale("a").here("settled").created(in_two_days).made();
    shop.noted("policy.delete", "gone", "{}", AN_HOUR_AGO);
    shop.only_asks("license_deleted");
}

#[test]
fn sale_of_missing_policy_waits_dry_and_real_alike() {
    for open in SHOPS {
        for here in LOCAL_STATUSES {
            let shop = open();
            shop.sale("a").here(here).redemption("pending").made();
            shop.sql("UPDATE invoices SET policy_id = 'lost'");
            let advice = shop.only_asks("policy_missing");
            assert!(
                advice.detail.contains("its policy lost "),
                "{}",
                advice.detail
            );
        }
        let shop = open();
        shop.sale("a").here("settled").made();
        shop.is_free_sale("a");
        shop.sql("UPDATE invoices SET policy_id = 'lost'");
        shop.only_asks("policy_missing");
    }
}

#[test]
fn decided_sale_of_missing_policy_has_default_terms() {
    for open in SHOPS {
        for (policies, terms) in [("", "pro-default|3"), ("DELETE FROM policies", "NULL|1")] {
            let shop = open();
            shop.sale("a").made();
            shop.sql(&format!(
                "UPDATE invoices SET policy_id = 'lost'; {policies}"
            ));
            let advice = shop.only_asks("policy_missing");
            shop.types_command_of(&advice, 0);
            shop.is_decided();
            assert_eq!(
                shop.query("SELECT policy_id, max_machines FROM licenses"),
                terms
            );
        }
    }
}

#[test]
fn license_that_exists_needs_no_product_or_policy() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").licensed().redemption("pending").made();
        shop.sql(
            "DELETE FROM products; DELETE FROM policies; UPDATE invoices SET policy_id = 'lost'",
        );
        let report = shop.run_over_a_year().json(0);
        assert_eq!(report["attention"], json!([]));
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}

// BTCPay settled it for less.

#[test]
fn shortfall_under_tolerance_is_licensed_and_reported() {
    for open in SHOPS {
        for here in LOCAL_STATUSES {
            for (paid, counted, short) in [
                ("0", "0", "0.00021 BTC"),
                ("0.00000000", "0", "0.00021 BTC"),
                ("0.00020", "0.0002", "0.00001 BTC"),
                ("0.00020999", "0.00020999", "0.00000001 BTC"),
            ] {
                let shop = open();
                shop.sale("a").here(here).additional("None", paid).made();
                let attention = shop.licenses_of("a");
                assert_eq!(attention[0]["reason"], "amount_mismatch");
                let detail = attention[0]["detail"].as_str().unwrap();
                assert!(
                    detail.contains(&format!(
                        "but {short} less than its price came: BTCPay counts {counted} of 0.00021 BTC"
                    )),
                    "{detail}"
                );
            }
        }
    }
}

#[test]
fn shortfall_in_the_shops_currency_is_reported() {
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.btcpay.change("btc-a", |invoice| {
        invoice.amount = "19.90".into();
        invoice.paid = "19.4".into();
        invoice.currency = "USD".into();
    });
    let attention = shop.licenses_of("a");
    let detail = attention[0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("but 0.5 USD less than its price came: BTCPay counts 19.4 of 19.9 USD"),
        "{detail}"
    );
}

#[test]
fn merchants_own_mark_needs_no_warning() {
    for open in SHOPS {
        for paid in ["0", "0.0001"] {
            let shop = open();
            shop.sale("a").additional("Marked", paid).made();
            assert_eq!(shop.licenses_of("a"), json!([]), "{paid}");
        }
        // Nor does what was free, or what was paid in full or more.
        for paid in [BTC, "0.00022"] {
            let shop = open();
            shop.sale("a").additional("PaidOver", paid).made();
            assert_eq!(shop.licenses_of("a"), json!([]), "{paid}");
        }
        let shop = open();
        shop.sale("a").made();
        shop.sql("UPDATE invoices SET amount_sats = 0");
        shop.btcpay.change("btc-a", |invoice| {
            invoice.amount = "0".into();
            invoice.paid = "0".into();
        });
        assert_eq!(shop.licenses_of("a"), json!([]));
    }
}

// The service's own trigger issues the license.

impl Shop {
    /// The service issues a license by itself once an invoice is settled, and does `more`.
    fn issues_by_trigger(&self, more: &str) {
        self.sql(&format!(
            "CREATE TRIGGER issue AFTER UPDATE OF status ON invoices
             WHEN NEW.status = 'settled' AND OLD.status <> 'settled'
             BEGIN
               INSERT INTO licenses (id, product_id, invoice_id, policy_id, status, issued_at, buyer_email)
               VALUES ('own', NEW.product_id, NEW.id, 'pro-default', 'active',
                       strftime('%Y-%m-%dT%H:%M:%SZ'), NEW.buyer_email);
               {more}
             END"
        ));
    }
}

const REDEEMS: &str = "
UPDATE discount_codes SET used_count = used_count + 1
 WHERE EXISTS (SELECT 1 FROM discount_redemptions WHERE invoice_id = NEW.id AND status = 'cancelled');
UPDATE discount_redemptions SET status = 'redeemed', license_id = 'own' WHERE invoice_id = NEW.id;";

#[test]
fn license_of_the_services_trigger_is_the_license() {
    for open in SHOPS {
        for here in ["pending", "expired", "invalid"] {
            for redemption in ["pending", "cancelled"] {
                for more in ["", REDEEMS] {
                    let shop = open();
                    shop.issues_by_trigger(more);
                    shop.sale("a").here(here).redemption(redemption).made();
                    shop.run_over_a_year().flag("-n").json(0);
                    let report = shop.run_over_a_year().json(0);
                    assert_eq!(report["changes"][0]["to"], "settled", "{report}");
                    assert_eq!(report["changes"][0]["license_issued"], false);
                    assert_eq!(report["changes"][0]["license_id"], "own");
                    assert_eq!(report["attention"], json!([]));
                    assert_eq!(shop.query("SELECT id, invoice_id FROM licenses"), "own|a");
                    assert_eq!(
                        shop.state("a"),
                        "settled, licensed, redeemed with it, used 1"
                    );
                    shop.is_finished(shop.run_over_a_year());
                }
            }
        }
    }
}

#[test]
fn nothing_is_doubled_beside_keysats_own_trigger() {
    let shop = Shop::of_keysat();
    shop.sql(
        "UPDATE policies SET is_recurring = 1, renewal_period_days = 30, tip_recipient = 'artist', tip_pct_bps = 100;
         INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's')",
    );
    shop.issues_by_trigger(
        "INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
         VALUES ('news', 'all', 'license.issued', '{\"data\":{\"license_id\":\"own\"}}', NEW.updated_at);",
    );
    shop.sale("a").redemption("pending").made();
    let report = shop.run_over_a_year().json(0);
    assert_eq!(report["attention"], json!([]));
    let done = "SELECT (SELECT group_concat(id) FROM licenses),
                       (SELECT group_concat(event_type) FROM webhook_deliveries),
                       (SELECT group_concat(action) FROM (SELECT action FROM audit_log ORDER BY id))";
    assert_eq!(
        shop.query(done),
        "own|license.issued,code.redeemed|invoice.settled,redemption.redeemed,code.redeemed"
    );
    shop.is_finished(shop.run_over_a_year());
    // What the trigger left out follows, once the service has had its minute.
    shop.sql(&format!("UPDATE invoices SET updated_at = {AN_HOUR_AGO}"));
    let report = shop.run_over_a_year().json(0);
    assert_eq!(report["changes"][0]["completed"], json!(["subscription"]));
    assert_eq!(
        shop.query("SELECT license_id, cycle_number FROM subscriptions JOIN subscription_invoices"),
        "own|1"
    );
    shop.is_finished(shop.run_over_a_year());
    assert_eq!(
        shop.query("SELECT count(*) FROM webhook_deliveries WHERE event_type = 'license.issued'"),
        "1"
    );
}

#[test]
fn trigger_also_answers_a_persons_decision() {
    for open in SHOPS {
        let shop = open();
        shop.issues_by_trigger("");
        shop.sale("a").made();
        shop.has_license_issued_by_hand("datetime('now', '-5 minutes')");
        let advice = shop.only_asks("license_by_hand");
        shop.types_command_of(&advice, 0);
        shop.is_decided();
        assert_eq!(shop.query("SELECT count(*) FROM licenses"), "2");
    }
}

// What a person is told to do.

/// A reason, the shops that have it, and what happened to sale `a`.
type Doubt = (&'static str, &'static [fn() -> Shop], fn(&Shop));

/// Each doubt with two ways out: to issue the license, or to tie one that exists.
const DOUBTS: [Doubt; 4] = [
    ("license_by_hand", &SHOPS, |shop| {
        shop.has_license_issued_by_hand("datetime('now', '-5 minutes')");
    }),
    ("license_deleted", &[Shop::of_keysat], |shop| {
        shop.sql("UPDATE invoices SET status = 'settled'");
        shop.policy_was_deleted();
    }),
    ("license_deleted", &[Shop::of_keysat], |shop| {
        shop.sql("UPDATE invoices SET status = 'settled', policy_id = 'gone'");
        shop.policy_was_deleted();
    }),
    ("policy_missing", &SHOPS, |shop| {
        shop.sql("UPDATE invoices SET policy_id = 'gone'");
    }),
];

#[test]
fn either_advice_followed_to_the_letter_ends_the_doubt() {
    for (reason, shops, history) in DOUBTS {
        for open in shops {
            for id in ["a", "it's \"$(a)\" -n; b"] {
                let in_doubt = || {
                    let shop = open();
                    shop.sale("a").redemption("pending").made();
                    history(&shop);
                    let quoted = id.replace('\'', "''");
                    shop.sql(&format!(
                        "UPDATE invoices SET id = '{quoted}';
                         UPDATE discount_redemptions SET invoice_id = '{quoted}'"
                    ));
                    let advice = shop.only_asks(reason);
                    (shop, advice)
                };
                let redeemed = "SELECT status, license_id = (SELECT id FROM licenses WHERE invoice_id IS NOT NULL)
                                  FROM discount_redemptions";

                let (shop, advice) = in_doubt();
                shop.types_command_of(&advice, 0);
                shop.is_decided();
                assert_eq!(shop.query(redeemed), "redeemed|1");
                assert_eq!(
                    shop.query(
                        "SELECT details_json ->> 'decided_by' FROM audit_log WHERE action = 'license.issued'"
                    ),
                    "person"
                );
                // Decided once.
                shop.types_command_of(&advice, 3);

                let (shop, advice) = in_doubt();
                shop.sql(
                    "INSERT INTO licenses (id, product_id, status, issued_at)
                     VALUES ('found', 'pro', 'active', datetime())",
                );
                shop.sql(
                    &advice
                        .shown
                        .advised("UPDATE licenses")
                        .replace("ITS-ID", "found"),
                );
                shop.is_decided();
                assert_eq!(shop.query(redeemed), "redeemed|1");
                assert_eq!(
                    shop.query("SELECT count(*) FROM audit_log WHERE action = 'license.issued'"),
                    "0"
                );
            }
        }
    }
}

#[test]
fn every_kind_of_run_asks() {
    for (reason, shops, history) in DOUBTS {
        for open in shops {
            let shop = open();
            shop.sale("a").made();
            history(&shop);
            for run in [
                shop.reconcile(),
                shop.reconcile().flag("-n"),
                shop.reconcile().flag("--recheck"),
            ] {
                let report = run.json(0);
                assert_eq!(report["changes"], json!([]));
                assert_eq!(report["attention"][0]["reason"], reason, "{report}");
            }
            // It was told.
            shop.reconcile().exits(0).says_nothing();
        }
    }
}

#[test]
fn decision_can_be_seen_before_it_is_made() {
    for (reason, shops, history) in DOUBTS {
        for open in shops {
            let shop = open();
            shop.sale("a").made();
            history(&shop);
            shop.only_asks(reason);
            let before = shop.everything();
            let report = shop
                .reconcile()
                .option("--issue", "btc-a")
                .flag("-n")
                .json(0);
            assert_eq!(report["changes"][0]["license_issued"], true, "{report}");
            assert_eq!(report["attention"], json!([]));
            assert_eq!(shop.everything(), before);
        }
    }
}
