//! The service works on the same invoices at the same time.

use rusqlite::{Connection, TransactionBehavior};

use crate::shop::Shop;

/// Lets the service do something while BTCPay is being asked about `id`.
fn meanwhile(shop: &Shop, id: &str, service: impl FnOnce(&mut Connection) + Send + 'static) {
    let mut connection = shop.connection();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    shop.btcpay
        .when_asked_for(&format!("btc-{id}"), move || service(&mut connection));
}

#[test]
fn where_the_service_was_faster_it_is_let_be() {
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
fn a_license_that_came_in_between_is_kept() {
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
fn all_that_came_in_between_is_nothing_left_to_do() {
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
fn no_lock_is_held_while_btcpay_is_asked() {
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
fn a_lock_of_the_services_is_waited_for() {
    let shop = Shop::open();
    shop.sale("a").made();
    let mut service = shop.connection();
    let (locked, lock_is_there) = std::sync::mpsc::channel();
    let (asked, release) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let lock = service
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .unwrap();
        locked.send(()).unwrap();
        release.recv().unwrap();
        // The program is now on its way to the lock; whether it has to wait is up to the scheduler.
        std::thread::yield_now();
        lock.commit().unwrap();
    });
    lock_is_there.recv().unwrap();
    shop.btcpay
        .when_asked_for("btc-a", move || asked.send(()).unwrap());
    shop.reconcile().exits(0).warns("");
    holder.join().unwrap();
    assert_eq!(shop.state("a"), "settled, licensed");
}

const SALES: i64 = 20;

impl Shop {
    /// A shop whose database takes its time with each of [`SALES`] licenses: it counts so far.
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
fn a_slow_database_is_left_to_the_service_in_between() {
    let whole_is_refused =
        "CREATE TRIGGER refusal BEFORE INSERT ON licenses WHEN NEW.invoice_id = '0' BEGIN
                              SELECT RAISE(ROLLBACK, 'not this one');
                            END";
    for (trigger, exit, sold) in [("", 0, SALES), (whole_is_refused, 3, SALES - 1)] {
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
fn a_slow_database_does_not_keep_a_run_beyond_its_deadline() {
    let shop = Shop::slow(3_000_000);
    shop.reconcile()
        .option("--deadline", "1")
        .option("--format", "json")
        .exits(1)
        .warns("error: the run's time was over and [..] changes were not written; the next run goes on, [..]");
    let settled =
        shop.query("SELECT count(*) BETWEEN 1 AND 19 FROM invoices WHERE status = 'settled'");
    assert_eq!(settled, "1", "what was written is kept");
    shop.sql("DROP TRIGGER slow");
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), format!("{SALES} settled"));
}

#[test]
fn what_a_run_does_not_come_to_for_want_of_time_is_counted() {
    let shop = Shop::slow(3_000_000);
    shop.sql(
        "UPDATE invoices SET btcpay_invoice_id = 'free-' || id, status = 'settled', amount_sats = 0,
                             updated_at = created_at",
    );
    shop.sale("paid").made();
    let report = shop.reconcile().option("--deadline", "1").json(1);
    assert_eq!(report["not_asked"], 1, "{report}");
    assert_eq!(report["checked"], 0);
}
