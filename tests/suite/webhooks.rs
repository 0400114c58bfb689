//! The service's webhook handler and several runs process the same invoices in the same file.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::mixed::{is_lost, soak};
use crate::shop::{Shop, at_once};

const INVOICES: i64 = 400;

#[test]
fn parallel_runs_and_webhooks_lose_or_duplicate_nothing() {
    for _ in 0..soak() {
        at_once(["wal", "delete"], |journal| {
            let shop = Shop::open();
            shop.sql(&format!("PRAGMA journal_mode = {journal}"));
            shop.mixed_backlog(INVOICES);
            let done = AtomicBool::new(false);
            let cron = || {
                while !done.load(Ordering::Relaxed) {
                    for (id, why) in shop.reconcile().exits(0).told() {
                        let doubts = ["license_by_hand", "invalid_but_paid"];
                        assert!(doubts.contains(&&*why), "{id}: {why}");
                    }
                }
            };
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(cron);
                }
                scope.spawn(|| shop.operate(INVOICES));
                careless_service(&shop);
                done.store(true, Ordering::Relaxed);
            });
            // The service's grace period is over.
            shop.sql("UPDATE invoices SET updated_at = created_at");
            shop.reconcile().exits(0);
            assert_eq!(shop.kinds(), shop.reconciled());
            assert_eq!(shop.query("SELECT count(*) FROM licenses"), "150");
            assert_eq!(shop.broken_promises(), "");
        });
    }
}

/// Handles a webhook for each invoice, one statement at a time: first the status, then the license,
/// then the redemption. Sometimes it dies in between, and it does not always set `updated_at`.
fn careless_service(shop: &Shop) {
    let connection = shop.connection();
    connection.busy_timeout(Duration::from_mins(1)).unwrap();
    let mut places: Vec<i64> = (0..INVOICES).collect();
    fastrand::shuffle(&mut places);
    for place in places.into_iter().filter(|place| !is_lost(*place)) {
        match place % 8 {
            0 | 1 | 5 => settle(&connection, place),
            2 | 6 => close(&connection, place, "expired"),
            3 => close(&connection, place, "invalid"),
            _ => {}
        }
    }
}

/// Handles the webhook of a settled purchase, unless the service dies in between.
fn settle(connection: &Connection, place: i64) {
    set_status(connection, place, "settled");
    if dies() {
        return;
    }
    let licenses: i64 = connection
        .query_row(
            "SELECT count(*) FROM licenses WHERE invoice_id = ?1",
            [place.to_string()],
            |row| row.get(0),
        )
        .unwrap();
    if licenses == 0 {
        let issued = connection.execute(
            "INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
             VALUES ('webhook-' || ?1, 'pro', ?1, 'active', datetime())",
            [place.to_string()],
        );
        match issued {
            Ok(1) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
            other => panic!("{other:?}"),
        }
    }
    if !dies() {
        redeem(connection, place);
    }
}

pub fn dies() -> bool {
    fastrand::u8(0..4) == 0
}

pub fn redeem(connection: &Connection, place: i64) {
    connection
        .execute(
            "UPDATE discount_redemptions
                SET status = 'redeemed',
                    license_id = (SELECT id FROM licenses WHERE invoice_id = ?1)
              WHERE invoice_id = ?1 AND status = 'pending'",
            [place.to_string()],
        )
        .unwrap();
}

pub fn close(connection: &Connection, place: i64, status: &str) {
    set_status(connection, place, status);
    if dies() {
        return;
    }
    let cancelled = connection
        .execute(
            "UPDATE discount_redemptions SET status = 'cancelled'
              WHERE invoice_id = ?1 AND status = 'pending'",
            [place.to_string()],
        )
        .unwrap();
    if cancelled == 1 {
        connection
            .execute("UPDATE discount_codes SET used_count = used_count - 1", [])
            .unwrap();
    }
}

pub fn set_status(connection: &Connection, place: i64, status: &str) {
    let touched = if fastrand::bool() {
        "datetime()"
    } else {
        "updated_at"
    };
    connection
        .execute(
            &format!(
                "UPDATE invoices SET status = ?2, updated_at = {touched}
                  WHERE id = ?1 AND status = 'pending'"
            ),
            [&place.to_string(), status],
        )
        .unwrap();
}
