//! The service processes the same invoices at the same time.

use rusqlite::{Connection, TransactionBehavior};

use crate::shop::Shop;

/// Runs `service` on its own connection during the request for invoice `id`.
fn meanwhile(shop: &Shop, id: &str, service: impl FnOnce(&mut Connection) + Send + 'static) {
    let mut connection = shop.connection();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    shop.btcpay
        .when_asked_for(&format!("btc-{id}"), move || service(&mut connection));
}

#[test]
fn invoice_is_skipped_if_service_gets_there_first() {
    for (sql, after) in [
        (
            "UPDATE invoices SET status = 'settled'",
            "settled, pending, used 1",
        ),
        (
            "UPDATE invoices SET status = 'expired'",
            "expired, pending, used 1",
        ),
        ("DELETE FROM discount_redemptions; DELETE FROM invoices", ""),
    ] {
        let shop = Shop::open();
        shop.sale("a").redemption("pending").made();
        meanwhile(&shop, "a", move |service| {
            service.execute_batch(sql).unwrap();
        });
        shop.reconcile().exits(0).says_nothing();
        assert_eq!(shop.state("a"), after, "{sql}");
        assert_eq!(shop.query("SELECT count(*) FROM licenses, audit_log"), "0");
    }
}

#[test]
fn license_issued_during_the_request_is_kept() {
    let shop = Shop::open();
    shop.sale("a").here("settled").redemption("pending").made();
    meanwhile(&shop, "a", |service| {
        service
            .execute_batch(
                "INSERT INTO licenses (id, product_id, invoice_id) VALUES ('webhook', 'pro', 'a')",
            )
            .unwrap();
    });
    let report = shop.reconcile().json(0);
    assert_eq!(report["changes"][0]["license_issued"], false);
    assert_eq!(shop.query("SELECT id FROM licenses"), "webhook");
    assert_eq!(
        shop.state("a"),
        "settled, licensed, redeemed with it, used 1"
    );
}

#[test]
fn invoice_completed_during_the_request_needs_no_change() {
    let shop = Shop::open();
    shop.sale("a").here("settled").redemption("pending").made();
    meanwhile(&shop, "a", |service| {
        service
            .execute_batch(
                "INSERT INTO licenses (id, product_id, invoice_id) VALUES ('webhook', 'pro', 'a');
                 UPDATE discount_redemptions SET status = 'redeemed', license_id = 'webhook';",
            )
            .unwrap();
    });
    shop.reconcile().exits(0).says_nothing();
    assert_eq!(shop.query("SELECT count(*) FROM audit_log"), "0");
}

#[test]
fn no_lock_is_held_during_a_request() {
    for mode in ["delete", "wal"] {
        let shop = Shop::open();
        shop.sql(&format!("PRAGMA journal_mode = {mode}"));
        shop.sale("a").made();
        shop.sale("b").made();
        meanwhile(&shop, "b", |service| {
            service
                .transaction_with_behavior(TransactionBehavior::Exclusive)
                .unwrap()
                .commit()
                .unwrap();
        });
        shop.reconcile().exits(0);
        assert_eq!(shop.state("b"), "settled, licensed");
    }
}

#[test]
fn run_waits_for_the_services_lock() {
    let shop = Shop::open();
    shop.sale("a").made();
    let mut service = shop.connection();
    let (locked, lock_taken) = std::sync::mpsc::channel();
    let (requested, release) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let lock = service
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .unwrap();
        locked.send(()).unwrap();
        release.recv().unwrap();
        // The program is about to take the lock; whether it has to wait depends on the scheduler.
        std::thread::yield_now();
        lock.commit().unwrap();
    });
    lock_taken.recv().unwrap();
    shop.btcpay
        .when_asked_for("btc-a", move || requested.send(()).unwrap());
    shop.reconcile().exits(0).warns("");
    holder.join().unwrap();
    assert_eq!(shop.state("a"), "settled, licensed");
}

const SALES: i64 = 20;

impl Shop {
    /// A shop with [`SALES`] sales whose database is slow to insert a license: a trigger counts to
    /// `counts` each time.
    fn slow(counts: u32) -> Self {
        let shop = Self::open();
        shop.sql(&format!(
            "PRAGMA journal_mode = wal;
             CREATE TRIGGER slow AFTER INSERT ON licenses BEGIN
               INSERT INTO audit_log (actor_kind, action, target_id)
               WITH RECURSIVE numbers (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < {counts})
               SELECT 'service', 'counted', max(n) FROM numbers;
             END"
        ));
        shop.many_sales(SALES, |_| "Settled");
        shop
    }
}

#[test]
fn slow_run_lets_the_service_write_in_between() {
    let rollback_trigger =
        "CREATE TRIGGER refusal BEFORE INSERT ON licenses WHEN NEW.invoice_id = '0' BEGIN
                              SELECT RAISE(ROLLBACK, 'not this one');
                            END";
    for (trigger, exit, sold) in [("", 0, SALES), (rollback_trigger, 3, SALES - 1)] {
        let shop = Shop::slow(700_000);
        shop.sql(trigger);
        let mut service = shop.connection();
        service
            .busy_timeout(std::time::Duration::from_mins(1))
            .unwrap();
        let settled = |service: &Connection| -> i64 {
            let sql = "SELECT count(*) FROM invoices WHERE status = 'settled'";
            service.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let service = std::thread::spawn(move || {
            while settled(&service) == 0 {
                std::thread::yield_now();
            }
            let lock = service
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .unwrap();
            settled(&lock)
        });
        shop.reconcile().exits(exit);
        let settled_before = service.join().unwrap();
        assert!(settled_before < sold, "{settled_before}");
        let settled = shop.query("SELECT count(*) FROM invoices WHERE status = 'settled'");
        assert_eq!(settled, sold.to_string());
    }
}

#[test]
fn slow_writes_stop_at_deadline() {
    let shop = Shop::slow(600_000);
    shop.reconcile()
        .option("--deadline", "1")
        .option("--format", "json")
        .exits(1)
        .warns(
            "error: deadline reached: [..] changes were not written. The next run continues; [..]",
        );
    let settled =
        shop.query("SELECT count(*) BETWEEN 1 AND 19 FROM invoices WHERE status = 'settled'");
    assert_eq!(settled, "1", "committed changes are kept");
    shop.sql("DROP TRIGGER slow");
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), format!("{SALES} settled"));
}

#[test]
fn invoices_unchecked_at_deadline_are_counted() {
    let shop = Shop::slow(600_000);
    shop.sql(
        "UPDATE invoices SET btcpay_invoice_id = 'free-' || id, status = 'settled', amount_sats = 0,
                             updated_at = created_at",
    );
    shop.sale("paid").made();
    let report = shop.reconcile().option("--deadline", "1").json(1);
    assert_eq!(report["not_asked"], 1, "{report}");
    assert_eq!(report["checked"], 0);
}
