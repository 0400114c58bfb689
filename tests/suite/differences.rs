//! What a run makes of a local state and a status in BTCPay, one row per combination.

use crate::program::what_needs_a_person;
use crate::shop::{SHOPS, Shop};

/// (local status, licensed, redemption, status in BTCPay, exit code, state afterwards).
type Row = (
    &'static str,
    bool,
    Option<&'static str>,
    &'static str,
    i32,
    &'static str,
);

const PENDING: Option<&str> = Some("pending");
const REDEEMED: Option<&str> = Some("redeemed");
const CANCELLED: Option<&str> = Some("cancelled");

const TABLE: &[Row] = &[
    // A buyer paid and the webhook was lost.
    ("pending", false, None, "Settled", 0, "settled, licensed"),
    ("pending", false, None, "Complete", 0, "settled, licensed"),
    (
        "pending",
        false,
        PENDING,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "pending",
        false,
        CANCELLED,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "pending",
        false,
        REDEEMED,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "pending",
        true,
        PENDING,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    // A dead invoice holds a slot of its discount code.
    ("pending", false, None, "Expired", 0, "expired"),
    (
        "pending",
        false,
        PENDING,
        "Expired",
        0,
        "expired, cancelled, used 0",
    ),
    (
        "pending",
        false,
        REDEEMED,
        "Expired",
        0,
        "expired, redeemed, used 1",
    ),
    (
        "pending",
        false,
        CANCELLED,
        "Expired",
        0,
        "expired, cancelled, used 0",
    ),
    ("pending", false, None, "Invalid", 0, "invalid"),
    (
        "pending",
        false,
        PENDING,
        "Invalid",
        0,
        "invalid, cancelled, used 0",
    ),
    // The buyer may still pay.
    (
        "pending",
        false,
        PENDING,
        "New",
        0,
        "pending, pending, used 1",
    ),
    (
        "pending",
        false,
        PENDING,
        "Processing",
        0,
        "pending, pending, used 1",
    ),
    // The service died between two statements.
    ("settled", false, None, "Settled", 0, "settled, licensed"),
    (
        "settled",
        false,
        PENDING,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "settled",
        true,
        PENDING,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "settled",
        false,
        CANCELLED,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "settled",
        false,
        PENDING,
        "Expired",
        0,
        "settled, pending, used 1",
    ),
    (
        "settled",
        false,
        PENDING,
        "Invalid",
        0,
        "settled, pending, used 1",
    ),
    (
        "settled",
        false,
        PENDING,
        "New",
        0,
        "settled, pending, used 1",
    ),
    (
        "settled",
        false,
        PENDING,
        "Processing",
        0,
        "settled, pending, used 1",
    ),
    (
        "expired",
        false,
        PENDING,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "expired",
        false,
        PENDING,
        "Expired",
        0,
        "expired, cancelled, used 0",
    ),
    (
        "expired",
        false,
        PENDING,
        "Invalid",
        0,
        "expired, cancelled, used 0",
    ),
    (
        "expired",
        false,
        PENDING,
        "New",
        0,
        "expired, pending, used 1",
    ),
    (
        "expired",
        false,
        PENDING,
        "Processing",
        0,
        "expired, pending, used 1",
    ),
    (
        "invalid",
        false,
        PENDING,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "invalid",
        false,
        PENDING,
        "Expired",
        0,
        "invalid, cancelled, used 0",
    ),
    (
        "invalid",
        false,
        PENDING,
        "Invalid",
        0,
        "invalid, cancelled, used 0",
    ),
    (
        "invalid",
        false,
        PENDING,
        "New",
        0,
        "invalid, pending, used 1",
    ),
    (
        "invalid",
        false,
        PENDING,
        "Processing",
        0,
        "invalid, pending, used 1",
    ),
    // An unknown status changes nothing.
    (
        "pending",
        false,
        PENDING,
        "Paid",
        3,
        "pending, pending, used 1",
    ),
    (
        "settled",
        false,
        PENDING,
        "Confirmed",
        3,
        "settled, pending, used 1",
    ),
    (
        "expired",
        false,
        PENDING,
        "settled",
        3,
        "expired, pending, used 1",
    ),
];

/// Rows that only `--recheck` looks up: closed locally, with nothing left to do.
const RECHECKED: &[Row] = &[
    ("expired", false, None, "Settled", 0, "settled, licensed"),
    (
        "expired",
        false,
        CANCELLED,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "invalid",
        false,
        CANCELLED,
        "Settled",
        0,
        "settled, licensed, redeemed with it, used 1",
    ),
    (
        "expired",
        false,
        CANCELLED,
        "Expired",
        0,
        "expired, cancelled, used 0",
    ),
    (
        "expired",
        false,
        CANCELLED,
        "Invalid",
        0,
        "expired, cancelled, used 0",
    ),
    (
        "invalid",
        false,
        CANCELLED,
        "Expired",
        0,
        "invalid, cancelled, used 0",
    ),
    (
        "expired",
        false,
        REDEEMED,
        "Expired",
        0,
        "expired, redeemed, used 1",
    ),
    (
        "expired",
        false,
        CANCELLED,
        "New",
        0,
        "expired, cancelled, used 0",
    ),
    (
        "invalid",
        false,
        CANCELLED,
        "Processing",
        0,
        "invalid, cancelled, used 0",
    ),
];

/// Tests each row in a new shop of each schema: a dry run, a real run, and a second real run.
fn check(table: &[Row], recheck: bool) {
    for (row, open) in table.iter().flat_map(|row| SHOPS.map(|open| (row, open))) {
        let (here, licensed, redemption, there, code, after) = *row;
        let shop = open();
        let mut sale = shop.sale("a").here(here).there(there);
        if licensed {
            sale = sale.licensed();
        }
        if let Some(redemption) = redemption {
            sale = sale.redemption(redemption);
        }
        sale.made();
        let reconcile = |dry: bool| {
            let mut run = shop.reconcile();
            if recheck {
                run = run.flag("--recheck");
            }
            if dry {
                run = run.flag("--dry-run");
            }
            run.json(code)
        };
        let before = (shop.state("a"), shop.everything());

        let predicted = reconcile(true);
        assert_eq!(shop.everything(), before.1, "{row:?}: the dry run wrote");
        let done = reconcile(false);
        assert_eq!(shop.state("a"), after, "{row:?}");
        assert_eq!(predicted["failures"], done["failures"], "{row:?}");
        assert_eq!(
            what_needs_a_person(&predicted),
            what_needs_a_person(&done),
            "{row:?}"
        );
        assert_eq!(
            predicted["changes"].as_array().unwrap().len(),
            done["changes"].as_array().unwrap().len(),
            "{row:?}"
        );
        assert_eq!(
            done["changes"] == serde_json::json!([]),
            after == before.0,
            "{row:?}: every change is reported, and nothing else"
        );

        let after_first_run = shop.everything();
        let again = reconcile(false);
        assert_eq!(
            shop.everything(),
            after_first_run,
            "{row:?}: the second run wrote"
        );
        assert_eq!(again["changes"], serde_json::json!([]), "{row:?}");
    }
}

#[test]
fn every_difference_is_resolved_in_one_run() {
    check(TABLE, false);
}

#[test]
fn recheck_resolves_closed_invoices() {
    check(RECHECKED, true);
}

#[test]
fn closed_invoices_are_ignored_without_recheck() {
    let shop = Shop::open();
    shop.sale("expired").here("expired").made();
    shop.sale("invalid")
        .here("invalid")
        .redemption("cancelled")
        .made();
    shop.reconcile().exits(0).says_nothing();
    assert_eq!(shop.btcpay.requests(), [""; 0]);
    assert_eq!(shop.state("expired"), "expired");
}

#[test]
fn one_run_fixes_every_invoice() {
    let shop = Shop::open();
    shop.sale("paid").redemption("pending").made();
    shop.sale("dead")
        .there("Expired")
        .redemption("pending")
        .made();
    shop.sale("open").there("New").redemption("pending").made();
    shop.reconcile().exits(0);
    assert_eq!(
        shop.state("paid"),
        "settled, licensed, redeemed with it, used 2"
    );
    assert_eq!(shop.state("dead"), "expired, cancelled, used 2");
    assert_eq!(shop.state("open"), "pending, pending, used 2");
}

#[test]
fn only_changed_rows_get_a_new_updated_at() {
    let shop = Shop::open();
    shop.sale("paid").redemption("cancelled").made();
    shop.sale("half-done")
        .here("expired")
        .there("Expired")
        .redemption("pending")
        .made();
    shop.sale("open").there("New").redemption("pending").made();
    shop.sql("UPDATE discount_codes SET updated_at = '2020-01-01T00:00:00Z'");
    shop.reconcile().exits(0);
    let moved = "unixepoch() - unixepoch(updated_at) < 600";
    assert_eq!(
        shop.query(&format!("SELECT id, {moved} FROM invoices ORDER BY id")),
        "half-done|0\nopen|0\npaid|1"
    );
    assert_eq!(
        shop.query(&format!(
            "SELECT id, {moved} FROM discount_redemptions ORDER BY id"
        )),
        "red-half-done|1\nred-open|0\nred-paid|1"
    );
    assert_eq!(
        shop.query(&format!("SELECT {moved} FROM discount_codes")),
        "1"
    );
}

#[test]
fn used_count_never_drops_below_zero() {
    let shop = Shop::open();
    shop.sale("dead")
        .there("Expired")
        .redemption("pending")
        .made();
    shop.sql("UPDATE discount_codes SET used_count = 0");
    shop.reconcile().exits(0);
    assert_eq!(shop.state("dead"), "expired, cancelled, used 0");
}

#[test]
fn late_sale_is_redeemed_even_over_the_cap() {
    let shop = Shop::open();
    shop.sale("late").redemption("cancelled").made();
    shop.sql("UPDATE discount_codes SET used_count = 5, max_uses = 5");
    shop.reconcile().exits(0);
    assert_eq!(
        shop.state("late"),
        "settled, licensed, redeemed with it, used 6"
    );
}

#[test]
fn every_change_is_in_the_audit_log() {
    let shop = Shop::open();
    shop.sale("paid").redemption("pending").made();
    shop.sale("dead")
        .there("Invalid")
        .redemption("pending")
        .made();
    shop.sale("half").here("settled").there("Settled").made();
    shop.reconcile().exits(0);
    shop.sql("UPDATE audit_log SET target_id = 'a license' WHERE target_kind = 'license'");
    assert_eq!(
        shop.query(
            "SELECT actor_kind, action, target_kind, target_id,
                    details_json ->> 'invoice_id', details_json ->> 'btcpay_invoice_id',
                    details_json ->> 'from', details_json ->> 'to'
               FROM audit_log ORDER BY details_json ->> 'invoice_id', id"
        ),
        "reconcile|invoice.invalid|invoice|dead|dead|btc-dead|pending|invalid\n\
         reconcile|redemption.cancelled|redemption|red-dead|dead|btc-dead|pending|invalid\n\
         reconcile|attention.noted|invoice|dead|dead|btc-dead|NULL|NULL\n\
         reconcile|license.issued|license|a license|half|btc-half|settled|settled\n\
         reconcile|invoice.settled|invoice|paid|paid|btc-paid|pending|settled\n\
         reconcile|license.issued|license|a license|paid|btc-paid|pending|settled\n\
         reconcile|redemption.redeemed|redemption|red-paid|paid|btc-paid|pending|settled"
    );
    assert_eq!(
        shop.query(
            "SELECT count(*) FROM audit_log WHERE unixepoch() - unixepoch(occurred_at) < 600"
        ),
        "7"
    );
}
