//! Every state that an invoice can be in here, with every answer that BTCPay Server can give of it.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use crate::btcpay::Invoice;
use crate::mixed::soak;
use crate::shop::{BTC, SATS, SHOPS, Shop};

const HERE: [&str; 4] = ["pending", "settled", "expired", "invalid"];
const LICENSES: [&str; 3] = ["none", "issued", "by hand"];
const REDEMPTIONS: [&str; 5] = ["none", "pending", "redeemed", "tied", "cancelled"];
const THERE: [&str; 5] = ["New", "Processing", "Settled", "Expired", "Invalid"];
const ADDITIONAL: [&str; 7] = [
    "None",
    "PaidLate",
    "PaidPartial",
    "PaidOver",
    "Marked",
    "Invalid",
    "OfALaterRelease",
];

/// A shop with an invoice for each combination, made in an order of chance.
fn shop_of_all(open: fn() -> Shop, chance: &mut fastrand::Rng) -> Shop {
    let shop = open();
    let now: i64 = shop.query("SELECT unixepoch()").parse().unwrap();
    let mut sql = String::from("BEGIN;");
    let mut ages: Vec<i64> = (0..6_300).collect();
    chance.shuffle(&mut ages);
    let mut ages = ages.into_iter();
    for here in HERE {
        for license in LICENSES {
            for redemption in REDEMPTIONS {
                for there in THERE {
                    for additional in ADDITIONAL {
                        for paid in ["0", BTC, "other"] {
                            let id = format!(
                                "{here} {license} {redemption} {there} {additional} {paid}"
                            );
                            let created = now - 3600 - ages.next().unwrap();
                            sql += &row(&id, here, license, redemption, created);
                            let mut invoice = Invoice::new(&format!("btc-{id}"), there, BTC);
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

fn row(id: &str, here: &str, license: &str, redemption: &str, created: i64) -> String {
    let mut sql = format!(
        "INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, buyer_email, amount_sats, checkout_url, created_at, updated_at)
         VALUES ('{id}', 'btc-{id}', 'pro', '{here}', '{id}@example.com', {SATS}, '',
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

/// How everything stands but for ids and times.
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

/// The entries of a list in the report, without the ids of licenses, which a dry run cannot know.
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

#[test]
fn a_dry_run_foretells_the_real_one_which_leaves_nothing_to_do_in_any_order() {
    for _ in 0..soak() {
        // Once in either shape, and in another order.
        let outcomes = SHOPS.map(|open| {
            let seed = fastrand::u64(..);
            let shop = shop_of_all(open, &mut fastrand::Rng::with_seed(seed));
            let recheck = || shop.reconcile().flag("--recheck").flag("-q");
            let before = outcome(&shop);
            let foretold = recheck().flag("-n").json(0);
            assert_eq!(outcome(&shop), before);
            let done = recheck().json(0);
            for list in ["changes", "attention", "failures"] {
                assert!(
                    entries(&foretold, list) == entries(&done, list),
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
        assert!(outcomes[0] == outcomes[1], "the order or the shape matters");
    }
}
