//! Databases of any size, and the time that SQLite alone needs for the writes of a run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tempfile::TempDir;

/// The status in BTCPay of the invoice at a place, newest first: a typical backlog.
pub fn status(place: usize) -> &'static str {
    match place % 10 {
        0..=5 => "Settled",
        6..=7 => "Expired",
        8 => "Invalid",
        _ => "New",
    }
}

/// The service's id of the invoice at a place, as long as a UUID.
pub fn order_id(place: usize) -> String {
    format!("{place:036}")
}

pub struct Shop {
    folder: TempDir,
}

impl Shop {
    /// A shop with `count` pending invoices, the newest being `there-0`. Every second one used a
    /// discount code.
    pub fn with_pending(count: usize) -> Self {
        let shop = Self::new();
        shop.open()
            .execute_batch(&format!(
                "BEGIN;
                 INSERT INTO products (id, slug, name) VALUES ('pro', 'pro', 'Pro');
                 INSERT INTO policies (id, product_id, name, slug, duration_seconds, entitlements_json)
                 VALUES ('year', 'pro', 'A year', 'default', 31536000, '[\"updates\"]');
                 INSERT INTO discount_codes (id, code, kind) VALUES ('launch', 'LAUNCH', 'percent');
                 WITH RECURSIVE sale (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM sale WHERE n + 1 < {count})
                 INSERT INTO invoices (id, btcpay_invoice_id, product_id, buyer_email, amount_sats, created_at)
                 SELECT printf('%036d', n), 'there-' || n, 'pro', 'buyer' || n || '@example.com', 21000,
                        strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-1 hour', -n || ' seconds')
                   FROM sale;
                 INSERT INTO discount_redemptions (id, code_id, invoice_id)
                 SELECT 'red-' || id, 'launch', id FROM invoices WHERE rowid % 2;
                 UPDATE discount_codes SET used_count = (SELECT count(*) FROM discount_redemptions);
                 COMMIT"
            ))
            .unwrap();
        shop
    }

    /// A shop with `count` invoices, one every five minutes. Nine in ten are settled and have their
    /// license; the others are expired. Nothing is left to do.
    pub fn at_rest(count: usize) -> Self {
        let shop = Self::new();
        shop.open()
            .execute_batch(&format!(
                "PRAGMA synchronous = OFF;
                 BEGIN;
                 INSERT INTO products (id, slug, name) VALUES ('pro', 'pro', 'Pro');
                 WITH RECURSIVE sale (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM sale WHERE n + 1 < {count})
                 INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, buyer_email, amount_sats, created_at)
                 SELECT printf('%032x', n), 'there-' || n, 'pro', iif(n % 10, 'settled', 'expired'),
                        'buyer' || n || '@example.com', 21000,
                        strftime('%Y-%m-%dT%H:%M:%SZ', 'now', (-n * 5) || ' minutes')
                   FROM sale;
                 INSERT INTO licenses (id, product_id, invoice_id, issued_at, buyer_email)
                 SELECT 'lic-' || id, product_id, id, created_at, buyer_email FROM invoices WHERE status = 'settled';
                 COMMIT"
            ))
            .unwrap();
        shop
    }

    /// A shop without invoices, whose service has noted a million things.
    pub fn with_a_long_log() -> Self {
        let shop = Self::new();
        shop.open()
            .execute_batch(
                "PRAGMA synchronous = OFF;
                 WITH RECURSIVE note (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM note WHERE n < 1000000)
                 INSERT INTO audit_log (actor_kind, action, target_kind, target_id, details_json)
                 SELECT 'system', iif(n % 2, 'license.issued', 'invoice.settled'), 'invoice', n,
                        json_object('invoice_id', printf('%032x', n), 'btcpay_invoice_id', 'there-' || n)
                   FROM note",
            )
            .unwrap();
        shop
    }

    pub fn loses_the_index_of_the_log(&self) {
        self.open()
            .execute_batch("DROP INDEX audit_log_action")
            .unwrap();
    }

    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let shop = Self { folder };
        fs::write(shop.key_file(), "key").unwrap();
        fs::set_permissions(shop.key_file(), fs::Permissions::from_mode(0o600)).unwrap();
        shop.open()
            .execute_batch(include_str!("../../schema.sql"))
            .unwrap();
        shop
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("licenses.db")
    }

    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn open(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    /// The time that SQLite alone needs for the writes of a run over [`Shop::with_pending`], with
    /// `invoices_each` invoices per transaction. It works on a copy of the database.
    pub fn time_to_write(&self, invoices_each: usize) -> Duration {
        let copy = self.folder.path().join("copy.db");
        fs::copy(self.database(), &copy).unwrap();
        let mut connection = Connection::open(&copy).unwrap();
        connection
            .pragma_update(None, "foreign_keys", true)
            .unwrap();
        connection.set_prepared_statement_cache_capacity(32);
        let ids: Vec<String> = connection
            .prepare("SELECT id FROM invoices ORDER BY created_at DESC")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let started = Instant::now();
        for (page, ids) in ids.chunks(invoices_each).enumerate() {
            let transaction = connection.transaction().unwrap();
            for (place, id) in ids.iter().enumerate() {
                write(&transaction, id, status(page * invoices_each + place));
            }
            transaction.commit().unwrap();
        }
        started.elapsed()
    }
}

fn write(connection: &Connection, id: &str, status: &str) {
    let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        connection
            .prepare_cached(sql)
            .unwrap()
            .execute(params)
            .unwrap()
    };
    let audit = |action: &str, target: &str, id: &str| {
        run(
            "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, details_json)
             VALUES ('bench', ?1, ?2, ?3, '{\"invoice_id\":\"0123456789abcdef\",\"btcpay_invoice_id\":\"there-1000\",\"from\":\"pending\",\"to\":\"settled\"}')",
            params![action, target, id],
        );
    };
    if status == "New" {
        return;
    }
    run(
        "UPDATE invoices SET status = lower(?2), updated_at = datetime() WHERE id = ?1",
        params![id, status],
    );
    audit("invoice.closed", "invoice", id);
    let settled = status == "Settled";
    let license = settled.then(|| format!("{id}-lic"));
    if let Some(license) = &license {
        run(
            "INSERT INTO licenses (id, product_id, invoice_id, policy_id, entitlements_json, buyer_email, metadata_json)
             VALUES (?1, 'pro', ?2, 'year', '[\"updates\"]', 'buyer1000@example.com',
                     '{\"source\":\"reconcile\",\"btcpay_invoice_id\":\"there-1000\"}')",
            params![license, id],
        );
        audit("license.issued", "license", license);
    }
    let redemption = run(
        "UPDATE discount_redemptions SET status = ?2, license_id = ?3, updated_at = datetime() WHERE invoice_id = ?1",
        params![id, if settled { "redeemed" } else { "cancelled" }, license],
    );
    if redemption == 1 {
        audit("redemption.moved", "redemption", id);
        if !settled {
            run(
                "UPDATE discount_codes SET used_count = used_count - 1, updated_at = datetime() WHERE id = 'launch'",
                &[],
            );
        }
    }
}

/// The size of a file in bytes.
pub fn size(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len()
}
