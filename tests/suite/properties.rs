//! Every local state of an invoice, combined with every answer that BTCPay Server can give for it.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use crate::btcpay::Invoice;
use crate::mixed::soak;
use crate::shop::{BTC, SATS, SHOPS, Shop};

const LOCAL_STATUSES: [&str; 4] = ["pending", "settled", "expired", "invalid"];
const LICENSE_KINDS: [&str; 3] = ["none", "issued", "by hand"];
const REDEMPTION_KINDS: [&str; 5] = ["none", "pending", "redeemed", "tied", "cancelled"];
const BTCPAY_STATUSES: [&str; 5] = ["New", "Processing", "Settled", "Expired", "Invalid"];
const ADDITIONAL_STATUSES: [&str; 7] = [
    "None",
    "PaidLate",
    "PaidPartial",
    "PaidOver",
    "Marked",
    "Invalid",
    "OfALaterRelease",
];

/// A shop with an invoice for each combination, created in random order.
fn shop_with_all_combinations(open: fn() -> Shop, rng: &mut fastrand::Rng) -> Shop {
    let shop = open();
    let now: i64 = shop.query("SELECT unixepoch()").parse().unwrap();
    let mut sql = String::from("BEGIN;");
    let mut ages: Vec<i64> = (0..6_300).collect();
    rng.shuffle(&mut ages);
    let mut ages = ages.into_iter();
    for local_status in LOCAL_STATUSES {
        for license in LICENSE_KINDS {
            for redemption in REDEMPTION_KINDS {
                for btcpay_status in BTCPAY_STATUSES {
                    for additional in ADDITIONAL_STATUSES {
                        for paid in ["0", BTC, "other"] {
                            let id = format!(
                                "{local_status} {license} {redemption} {btcpay_status} {additional} {paid}"
                            );
                            let created = now - 3600 - ages.next().unwrap();
                            sql += &row(&id, local_status, license, redemption, created);
                            let mut invoice =
                                Invoice::new(&format!("btc-{id}"), btcpay_status, BTC);
                            invoice.additional = additional.into();
                            match paid {
                                "other" => invoice.amount = "1.5".into(),
                                paid => invoice.paid = paid.into(),
                            }
                            invoice.created = created;
                            shop.btcpay.add(invoice);
                        }
                    }
                }
            }
        }
    }
    shop.sql(&(sql + "COMMIT"));
    shop.sql(
        "UPDATE discount_codes SET max_uses = NULL,
                used_count = (SELECT count(*) FROM discount_redemptions WHERE status <> 'cancelled')",
    );
    shop
}

fn row(id: &str, local_status: &str, license: &str, redemption: &str, created: i64) -> String {
    let mut sql = format!(
        "INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, buyer_email, amount_sats, checkout_url, created_at, updated_at)
         VALUES ('{id}', 'btc-{id}', 'pro', '{local_status}', '{id}@example.com', {SATS}, '',
                 datetime({created}, 'unixepoch'), datetime({created}, 'unixepoch'));"
    );
    let issued_for = match license {
        "issued" => Some(format!("'{id}'")),
        "by hand" => Some("NULL".into()),
        _ => None,
    };
    if let Some(invoice_id) = issued_for {
        let _ = write!(
            sql,
            "INSERT INTO licenses (id, product_id, invoice_id, status, issued_at, buyer_email)
             VALUES ('lic-{id}', 'pro', {invoice_id}, 'active', datetime(), '{id}@example.com');"
        );
    }
    let (status, license_id) = match redemption {
        "none" => return sql,
        "tied" => (
            "redeemed",
            format!("(SELECT id FROM licenses WHERE id = 'lic-{id}')"),
        ),
        status => (status, "NULL".into()),
    };
    let _ = write!(
        sql,
        "INSERT INTO discount_redemptions (id, code_id, invoice_id, status, license_id, discount_applied_sats,
                                           base_price_sats, final_price_sats, created_at, updated_at)
         VALUES ('red-{id}', 'launch', '{id}', '{status}', {license_id}, 1000, 22000, {SATS}, datetime(), datetime());"
    );
    sql
}

/// The state of the database without generated ids and times.
fn outcome(shop: &Shop) -> String {
    shop.query(
        "SELECT i.id, i.status, l.id IS NOT NULL, r.status, r.license_id = l.id, c.used_count
           FROM invoices i
           LEFT JOIN licenses l ON l.invoice_id = i.id
           LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
           LEFT JOIN discount_codes c
          ORDER BY i.id",
    )
}

/// The entries of a list in the report, without the ids of new licenses, which a dry run cannot
/// know.
fn entries(report: &Value, list: &str) -> BTreeSet<String> {
    report[list]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let mut entry = entry.clone();
            if entry["license_issued"] == true {
                entry["license_id"] = Value::Null;
            }
            entry.to_string()
        })
        .collect()
}

/// A second real run changes nothing, and neither the order of the invoices nor the schema matters.
#[test]
fn dry_run_predicts_real_run_for_every_combination() {
    for _ in 0..soak() {
        // Once with each schema, each time in another order.
        let outcomes = SHOPS.map(|open| {
            let seed = fastrand::u64(..);
            let shop = shop_with_all_combinations(open, &mut fastrand::Rng::with_seed(seed));
            let recheck = || shop.reconcile().flag("--recheck").flag("-q");
            let before = outcome(&shop);
            let predicted = recheck().flag("-n").json(0);
            assert_eq!(outcome(&shop), before);
            let done = recheck().json(0);
            for list in ["changes", "attention", "failures"] {
                assert!(
                    entries(&predicted, list) == entries(&done, list),
                    "{list}, seed {seed}"
                );
            }
            assert!(entries(&done, "changes").len() > 1_000);
            let after = shop.everything();
            let again = recheck().json(0);
            assert_eq!(again["changes"], serde_json::json!([]), "seed {seed}");
            assert!(shop.everything() == after, "seed {seed}");
            outcome(&shop)
        });
        assert!(
            outcomes[0] == outcomes[1],
            "the outcome depends on the order or the schema"
        );
    }
}
