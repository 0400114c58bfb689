//! Keysat's daemon and several runs work on the same file. The daemon's webhook handler,
//! reconciler, reaper and delivery worker each use a pooled connection, which waits five seconds
//! for a lock. The operator issues licenses by hand and deletes policies meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use crate::mixed::{is_lost, soak};
use crate::shop::Shop;
use crate::webhooks::{close, dies, redeem, set_status};

const INVOICES: i64 = 400;

/// What a person has to decide in the end, and so in between.
const DOUBTS: [&str; 4] = [
    "invalid_but_paid",
    "tier_change_paid",
    "license_by_hand",
    "license_deleted",
];

#[test]
fn runs_beside_keysat_daemon_lose_or_duplicate_nothing() {
    for _ in 0..soak() {
        let shop = Shop::of_keysat();
        shop.mixed_backlog(INVOICES);
        let finished = AtomicBool::new(false);
        thread::scope(|scope| {
            for cron_line in ["", "", "--recheck"] {
                let shop = &shop;
                let finished = &finished;
                scope.spawn(move || {
                    while !finished.load(Ordering::Relaxed) {
                        let run = shop.reconcile();
                        let run = if cron_line.is_empty() {
                            run
                        } else {
                            run.flag(cron_line)
                        };
                        for (id, why) in run.exits(0).told() {
                            assert!(DOUBTS.contains(&&*why), "{id}: {why}");
                        }
                    }
                });
            }
            scope.spawn(|| shop.operate(INVOICES));
            let repeat = |part: fn(&Connection) -> usize| {
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
        while reap(&shop.connection()) > 0 {}
        // The service's grace period is over.
        shop.sql("UPDATE invoices SET updated_at = created_at");
        let report = shop.reconcile().flag("--recheck").json(0);
        assert_eq!(shop.broken_promises(), "");
        assert_eq!(shop.incomplete_licenses(), "");
        // The reaper does not care whether an old invoice is still open.
        let reaped = shop
            .reconciled()
            .replace("4|pending, pending", "4|pending, cancelled");
        assert_eq!(shop.kinds_where("CAST(i.id AS INTEGER) % 16 <> 1"), reaped);
        for (reason, undecided) in [
            (
                "license_by_hand",
                "SELECT CAST(buyer_email AS INTEGER) FROM licenses WHERE id LIKE 'gift%' ORDER BY 1",
            ),
            (
                "license_deleted",
                "SELECT CAST(id AS INTEGER) FROM invoices WHERE product_id = 'basic' ORDER BY 1",
            ),
        ] {
            let attention = report["attention"].as_array().unwrap().iter();
            let mut told: Vec<i64> = attention
                .filter(|attention| attention["reason"] == reason)
                .map(|attention| attention["invoice_id"].as_str().unwrap().parse().unwrap())
                .collect();
            told.sort_unstable();
            let told: Vec<String> = told.iter().map(ToString::to_string).collect();
            assert_eq!(told.join("\n"), shop.query(undecided), "{reason}");
        }
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
    let mut places: Vec<i64> = (0..INVOICES).filter(|place| !is_lost(*place)).collect();
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

/// Does for a purchase what it is owed, if it is still pending. When the daemon has died in between,
/// it is back a minute later and knows nothing of it.
fn settle(connection: &Connection, place: i64) {
    let settled = connection
        .execute(
            "UPDATE invoices SET status = 'settled', updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00')
              WHERE id = ?1 AND status = 'pending'",
            [place.to_string()],
        )
        .unwrap();
    if settled == 0 {
        return;
    }
    for step in STEPS {
        if dies() {
            connection
                .execute(
                    "UPDATE invoices SET updated_at = created_at WHERE id = ?1",
                    [place.to_string()],
                )
                .unwrap();
            return;
        }
        connection.execute(step, [place.to_string()]).unwrap();
    }
    redeem(connection, place);
}

/// What a purchase is owed beside its status and redemption: a license, a subscription, its first
/// cycle, and a delivery.
const STEPS: [&str; 4] = [
    "INSERT INTO licenses (id, product_id, invoice_id, status, issued_at, policy_id)
     SELECT 'daemon-' || id, product_id, id, 'active', updated_at, 'pro-default' FROM invoices WHERE id = ?1",
    "INSERT INTO subscriptions (id, license_id, policy_id, product_id, period_days, listed_currency,
                                listed_value, status, started_at, created_at, updated_at)
     SELECT 'sub-' || id, id, policy_id, product_id, 30, 'SAT', 21000, 'active', issued_at, issued_at, issued_at
       FROM licenses WHERE invoice_id = ?1",
    "INSERT INTO subscription_invoices (id, subscription_id, invoice_id, cycle_number, cycle_start_at,
                                        cycle_end_at, created_at)
     SELECT 'cycle-' || id, 'sub-' || id, invoice_id, 1, issued_at, issued_at, issued_at
       FROM licenses WHERE invoice_id = ?1",
    "INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, next_attempt_at, created_at)
     SELECT 'event-' || id, 'all', 'license.issued', json_object('data', json_object('license_id', id)),
            issued_at, issued_at
       FROM licenses WHERE invoice_id = ?1",
];

fn change_tier(connection: &Connection, place: i64) {
    set_status(connection, place, "settled");
    if dies() {
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
fn reap(connection: &Connection) -> usize {
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
    let ids = ids.unwrap();
    let found = ids.len();
    for id in ids {
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
    found
}

/// Marks the deliveries that are due as delivered.
fn deliver(connection: &Connection) -> usize {
    connection
        .execute(
            "UPDATE webhook_deliveries
                SET delivered_at = strftime('%Y-%m-%dT%H:%M:%f+00:00'), attempt_count = 1, next_attempt_at = NULL
              WHERE delivered_at IS NULL
                AND next_attempt_at <= strftime('%Y-%m-%dT%H:%M:%f+00:00')",
            [],
        )
        .unwrap()
}
