//! Keysat's daemon and several runs work on the same file. The daemon's webhook handler,
//! reconciler, reaper and delivery worker each use a pooled connection, which waits five seconds
//! for a lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use crate::mixed::soak;
use crate::shop::Shop;
use crate::webhooks::{close, set_status, settle};

const INVOICES: i64 = 400;

#[test]
fn runs_beside_keysat_daemon_lose_or_duplicate_nothing() {
    for _ in 0..soak() {
        let shop = Shop::of_keysat();
        shop.mixed_backlog(INVOICES);
        let finished = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !finished.load(Ordering::Relaxed) {
                        let ran = shop.reconcile().exits(0);
                        for line in ran.stderr.lines() {
                            assert!(line.contains(": tier_change_paid: "), "{line}");
                        }
                    }
                });
            }
            let repeat = |part: fn(&Connection)| {
                let connection = pooled(&shop);
                while !finished.load(Ordering::Relaxed) {
                    part(&connection);
                    thread::yield_now();
                }
            };
            scope.spawn(move || repeat(reap));
            scope.spawn(move || repeat(deliver));
            let webhooks = scope.spawn(|| handle(&shop, change_tier, |_| true));
            // Keysat's reconciler looks only at pending invoices, and treats each as a purchase.
            let reconciler =
                scope.spawn(|| handle(&shop, settle, |place| is_pending(&shop, place)));
            webhooks.join().unwrap();
            reconciler.join().unwrap();
            finished.store(true, Ordering::Relaxed);
        });
        // The service's grace period is over.
        shop.sql("UPDATE invoices SET updated_at = created_at");
        shop.reconcile().exits(0);
        assert_eq!(shop.broken_promises(), "");
        assert_eq!(
            shop.query(
                "SELECT DISTINCT CAST(id AS INTEGER) % 16, status,
                        EXISTS (SELECT 1 FROM licenses WHERE invoice_id = invoices.id)
                   FROM invoices
                  WHERE CAST(id AS INTEGER) % 16 <> 1
                  ORDER BY CAST(id AS INTEGER) % 8, 1"
            ),
            "0|settled|1\n8|settled|1\n9|settled|1\n\
             2|expired|0\n10|expired|0\n3|invalid|0\n11|invalid|0\n4|pending|0\n12|pending|0\n\
             5|settled|1\n13|settled|1\n6|expired|0\n14|expired|0\n7|pending|0\n15|pending|0"
        );
    }
}

fn pooled(shop: &Shop) -> Connection {
    let connection = shop.connection();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

fn is_pending(shop: &Shop, place: i64) -> bool {
    shop.query(&format!("SELECT status FROM invoices WHERE id = '{place}'")) == "pending"
}

/// Handles the event of each relevant invoice, one statement at a time. Now and then it dies
/// between two statements.
fn handle(shop: &Shop, tier_change: fn(&Connection, i64), is_relevant: impl Fn(i64) -> bool) {
    let connection = pooled(shop);
    let mut places: Vec<i64> = (0..INVOICES).collect();
    fastrand::shuffle(&mut places);
    for place in places.into_iter().filter(|place| is_relevant(*place)) {
        match place % 8 {
            1 if place % 16 == 1 => tier_change(&connection, place),
            0 | 1 | 5 => settle(&connection, place),
            2 | 6 => close(&connection, place, "expired"),
            3 => close(&connection, place, "invalid"),
            _ => {}
        }
    }
}

fn change_tier(connection: &Connection, place: i64) {
    set_status(connection, place, "settled");
    if fastrand::u8(0..4) == 0 {
        return;
    }
    connection
        .execute(
            "UPDATE licenses SET policy_id = 'plus' WHERE id = 'old-' || ?1",
            [place],
        )
        .unwrap();
}

/// Cancels the redemptions of invoices that are dead, or pending for more than half an hour.
fn reap(connection: &Connection) {
    let mut statement = connection
        .prepare(
            "SELECT discount_redemptions.id
               FROM discount_redemptions
               JOIN invoices ON invoices.id = invoice_id
              WHERE discount_redemptions.status = 'pending'
                AND (invoices.status IN ('expired', 'invalid')
                     OR (invoices.status = 'pending' AND unixepoch(invoices.created_at) < unixepoch() - 1800))
              ORDER BY random()
              LIMIT 5",
        )
        .unwrap();
    let ids: Result<Vec<String>, _> = statement.query_map([], |row| row.get(0)).unwrap().collect();
    for id in ids.unwrap() {
        let cancelled = connection
            .execute(
                "UPDATE discount_redemptions SET status = 'cancelled', updated_at = datetime()
                  WHERE id = ?1 AND status = 'pending'",
                [id],
            )
            .unwrap();
        if cancelled == 1 {
            connection
                .execute("UPDATE discount_codes SET used_count = used_count - 1", [])
                .unwrap();
        }
    }
}

/// Marks the deliveries that are due as delivered.
fn deliver(connection: &Connection) {
    connection
        .execute(
            "UPDATE webhook_deliveries
                SET delivered_at = strftime('%Y-%m-%dT%H:%M:%f+00:00'), attempt_count = 1, next_attempt_at = NULL
              WHERE delivered_at IS NULL
                AND next_attempt_at <= strftime('%Y-%m-%dT%H:%M:%f+00:00')",
            [],
        )
        .unwrap();
}
