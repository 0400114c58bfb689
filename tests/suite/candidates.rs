//! Which invoices a run looks up.

use crate::btcpay::{Fault, STORE};
use crate::shop::Shop;

/// The invoices looked up since the last call, in order.
fn looked_up(shop: &Shop) -> Vec<String> {
    let requests = shop.btcpay.requests();
    let invoices = requests.iter().filter(|path| !path.contains("api-keys"));
    invoices
        .map(|path| path.rsplit("/btc-").next().unwrap().to_owned())
        .collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[test]
fn no_candidates_means_no_requests() {
    let shop = Shop::open();
    shop.sale("sold")
        .here("settled")
        .licensed()
        .redemption("redeemed")
        .made();
    shop.sale("dead")
        .here("expired")
        .there("Expired")
        .redemption("cancelled")
        .made();
    shop.reconcile().exits(0).says_nothing();
    assert_eq!(looked_up(&shop), [""; 0]);
}

#[test]
fn dry_run_without_candidates_still_checks_access() {
    let shop = Shop::open();
    shop.reconcile()
        .flag("-n")
        .exits(0)
        .warns("")
        .prints("20[..]Z dry run: 0 checked, nothing to do; [..]");
    let asked = shop.btcpay.requests();
    assert!(asked[0].ends_with("/invoices?take=1"), "{asked:?}");
    assert_eq!(asked[1..], ["/api/v1/api-keys/current"]);
    for (settings, expected) in [
        (
            shop.reconcile().env("BTCPAY_API_KEY", "revoked"),
            "error: BTCPay Server refused the API key (401): [..]",
        ),
        (
            shop.reconcile().option("--store-id", "misspelt"),
            &format!(
                "error: the API key may see the invoices of store {STORE}, not of misspelt (403). [..]"
            ),
        ),
        (
            shop.reconcile()
                .option("--btcpay-url", "http://127.0.0.1:1"),
            "error: cannot reach BTCPay Server at http://127.0.0.1:1/: [..]",
        ),
    ] {
        settings.flag("-n").exits(1).warns(expected);
    }
    for odd in [
        Fault::Answer(302, "Location: https://example.com\r\n", String::new()),
        Fault::Answer(200, "", "<html>".into()),
        Fault::Answer(200, "", "{}".into()),
        Fault::Answer(418, "", String::new()),
    ] {
        shop.btcpay.fails_times(1, "list", odd);
        shop.reconcile().flag("-n").exits(1);
    }
}

#[test]
fn oldest_invoice_comes_first_in_any_time_format() {
    let shop = Shop::open();
    let forms = [
        ("c", "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-10 minutes')"),
        ("a", "strftime('%Y-%m-%d %H:%M:%S', 'now', '-30 minutes')"),
        (
            "b",
            "strftime('%Y-%m-%dT%H:%M:%S.123456+00:00', 'now', '-20 minutes')",
        ),
        (
            "d",
            "strftime('%Y-%m-%dT%H:%M:%S.123456789+00:00', 'now', '-5 minutes')",
        ),
    ];
    for (id, created) in forms {
        shop.sale(id).there("New").created(created).made();
    }
    shop.reconcile().exits(0);
    let order = looked_up(&shop).concat();
    assert!(
        "abcdabc".contains(&order) && order.len() == 4,
        "oldest first from any of them on, going round: {order}"
    );
}

#[test]
fn only_invoices_within_the_window_are_looked_up() {
    let shop = Shop::open();
    let old = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-73 hours')";
    let young = "strftime('%Y-%m-%d %H:%M:%S', 'now', '-71 hours')";
    let future = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+1 hour')";
    shop.sale("old").there("New").created(old).made();
    shop.sale("old-half-done")
        .here("settled")
        .created(old)
        .made();
    shop.sale("old-slot")
        .here("expired")
        .redemption("pending")
        .created(old)
        .made();
    shop.sale("young").there("New").created(young).made();
    shop.sale("future").there("New").created(future).made();
    let report = shop.reconcile().json(0);
    assert_eq!(sorted(looked_up(&shop)), ["future", "young"]);
    assert_eq!(
        report["out_of_window"], 1,
        "only the pending one is counted"
    );
    assert_eq!(report["checked"], 2);

    let report = shop
        .reconcile()
        .option("--max-age-hours", "74")
        .flag("--dry-run")
        .json(0);
    assert_eq!(
        sorted(looked_up(&shop)),
        ["future", "old", "old-half-done", "old-slot", "young"]
    );
    assert_eq!(report["out_of_window"], 0);
}

#[test]
fn huge_max_age_covers_every_invoice() {
    let shop = Shop::open();
    let old = "'2024-01-01T00:00:00Z'";
    shop.sale("pending").there("New").created(old).made();
    shop.sale("half-done").here("settled").created(old).made();
    shop.sale("closed").here("expired").created(old).made();
    shop.reconcile()
        .flag("--recheck")
        .option("--max-age-hours", "4294967295")
        .exits(0);
    assert_eq!(sorted(looked_up(&shop)), ["closed", "half-done", "pending"]);
}

#[test]
fn service_gets_a_minute_to_finish() {
    let shop = Shop::open();
    let now = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-20 seconds')";
    shop.sale("settling").here("settled").updated(now).made();
    shop.sale("closing")
        .here("expired")
        .there("Expired")
        .redemption("pending")
        .updated(now)
        .made();
    shop.sale("pending").there("New").updated(now).made();
    shop.reconcile().exits(0);
    assert_eq!(looked_up(&shop), ["pending"]);

    let minute_ago = "strftime('%Y-%m-%d %H:%M:%S', 'now', '-61 seconds')";
    shop.sql(&format!("UPDATE invoices SET updated_at = {minute_ago}"));
    shop.reconcile().exits(0);
    assert_eq!(looked_up(&shop).len(), 3);
}

#[test]
fn recheck_looks_up_closed_invoices_without_delay() {
    let shop = Shop::open();
    let now = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')";
    shop.sale("expired")
        .here("expired")
        .there("Expired")
        .updated(now)
        .made();
    shop.sale("invalid")
        .here("invalid")
        .there("Invalid")
        .redemption("pending")
        .updated(now)
        .made();
    shop.sale("settled").here("settled").licensed().made();
    shop.sale("old")
        .here("expired")
        .created("'2024-01-01T00:00:00Z'")
        .made();
    shop.reconcile().flag("--recheck").exits(0);
    assert_eq!(
        sorted(looked_up(&shop)),
        ["expired", "invalid", "invalid/payment-methods", "settled"]
    );
}

#[test]
fn unreadable_created_at_fails_only_its_invoice() {
    for time in [
        "''",
        "'now'",
        "'12345'",
        "'20/11/2026'",
        "'2026-13-45T00:00:00Z'",
        "x'00ff'",
    ] {
        let shop = Shop::open();
        shop.sale("pending").created(time).made();
        shop.sale("half-done").here("settled").created(time).made();
        shop.sale("slot")
            .here("expired")
            .redemption("pending")
            .created(time)
            .made();
        shop.sale("good").made();
        let report = shop.reconcile().json(3);
        let failed: Vec<_> = report["failures"].as_array().unwrap().iter().collect();
        assert_eq!(failed.len(), 3, "{time}: {report}");
        for failure in failed {
            let error = failure["error"].as_str().unwrap();
            assert!(error.contains("created_at"), "{error}");
        }
        assert_eq!(report["checked"], 1, "only the good one is looked up");
        assert_eq!(shop.state("good"), "settled, licensed");
        assert_eq!(shop.state("pending"), "pending");

        let report = shop.reconcile().flag("--recheck").json(3);
        assert_eq!(report["failures"].as_array().unwrap().len(), 3, "{time}");
    }
}

#[test]
fn unreadable_updated_at_fails_only_if_needed() {
    let shop = Shop::open();
    shop.sale("half-done")
        .here("settled")
        .updated("'soon'")
        .made();
    shop.sale("pending").updated("'soon'").made();
    shop.sale("closed")
        .here("expired")
        .there("Expired")
        .redemption("pending")
        .updated("''")
        .made();
    let report = shop.reconcile().json(3);
    assert_eq!(report["failures"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(shop.state("pending"), "settled, licensed");

    shop.reconcile().flag("--recheck").exits(3).warns(
        "error: invoice half-done (BTCPay invoice btc-half-done): its updated_at is not a time [..]",
    );
    assert_eq!(shop.state("closed"), "expired, cancelled, used 0");
}

#[test]
fn invalid_row_fails_alone() {
    let shop = Shop::open();
    shop.sale("text").made();
    shop.sale("good").made();
    shop.sale("empty").made();
    shop.sale("dots").made();
    shop.sql(
        "UPDATE invoices SET amount_sats = 'many' WHERE id = 'text';
         UPDATE invoices SET btcpay_invoice_id = '' WHERE id = 'empty';
         UPDATE invoices SET btcpay_invoice_id = '..' WHERE id = 'dots';",
    );
    let report = shop.reconcile().json(3);
    assert_eq!(report["failures"].as_array().unwrap().len(), 3, "{report}");
    assert_eq!(looked_up(&shop), ["good"]);
    assert_eq!(shop.state("good"), "settled, licensed");
    shop.reconcile().exits(3).warns(
        "error: invoice dots (BTCPay invoice ..): its btcpay_invoice_id is a relative path
         error: invoice empty (BTCPay invoice ): its btcpay_invoice_id is empty
         error: invoice text (BTCPay invoice btc-text): its amount_sats does not match [..] it is Text 'many'",
    );
}

#[test]
fn bad_value_fails_its_row_alone_and_by_id() {
    for spoiled in [
        "amount_sats = 'many'",
        "amount_sats = 2.5",
        "amount_sats = x'00'",
        "btcpay_invoice_id = CAST(x'ff61' AS TEXT)",
        "btcpay_invoice_id = x'61'",
        "btcpay_invoice_id = ''",
        "btcpay_invoice_id = replace(hex(zeroblob(500000)), '0', 'a')",
        "btcpay_invoice_id = 'a' || char(10) || 'b'",
        "created_at = 1795000000",
        "created_at = CAST(x'ff' AS TEXT)",
        "created_at = '2026-13-45T99:99:99Z'",
        "product_id = CAST(x'ff' AS TEXT)",
        "product_id = x'00'",
        "policy_id = CAST(x'ff' AS TEXT)",
        "buyer_email = CAST(x'ff' AS TEXT)",
    ] {
        let shop = Shop::open();
        for id in ["bad", "good"] {
            shop.sale(id).redemption("pending").made();
        }
        // A service with fewer constraints may hold such values.
        shop.sql(&format!(
            "PRAGMA ignore_check_constraints = ON;
             UPDATE invoices SET {spoiled} WHERE id = 'bad'"
        ));
        let before = shop.query("SELECT * FROM invoices WHERE id = 'bad'");
        let ran = shop.reconcile().exits(3);
        assert!(
            ran.stderr.starts_with("error: invoice bad "),
            "{spoiled}: {}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{spoiled}: {}", ran.stderr);
        assert!(
            ran.stderr.len() < 1_500,
            "{spoiled}: the message stays short"
        );
        assert_eq!(
            shop.query("SELECT * FROM invoices WHERE id = 'bad'"),
            before,
            "{spoiled}"
        );
        assert_eq!(
            shop.query("SELECT count(*) FROM licenses"),
            "1",
            "{spoiled}"
        );
        assert_eq!(
            shop.state("good"),
            "settled, licensed, redeemed with it, used 2"
        );
    }
}
