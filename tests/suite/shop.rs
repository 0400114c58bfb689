//! The shared fixture: a shop with a database created from schema.sql, a BTCPay Server on loopback,
//! and the built program.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;

use crate::btcpay::{self, Btcpay};
use crate::program::{Ran, Run};

/// The price of every sale, in sats and as BTCPay writes it.
pub const SATS: i64 = 21_000;
pub const BTC: &str = "0.00021";

/// The summary of a run that stopped before it changed anything.
pub const STOPPED: &str = "20[..]Z [..]checked; [..]; stopped early[..]";

const DATABASE: &str = "licenses.db";

pub struct Shop {
    pub btcpay: Btcpay,
    folder: TempDir,
    /// Stays open from one statement of a test to the next, since opening a database costs more than
    /// most of them. Never during a run, see [`Shop::path`].
    open: Mutex<Option<Connection>>,
    /// An SQL expression, fixed when the shop opens, so that all sales of a test have the same
    /// time, however long the test takes.
    an_hour_ago: String,
}

/// A shop with each schema: schema.sql and Keysat's.
pub const SHOPS: [fn() -> Shop; 2] = [Shop::open, Shop::of_keysat];

impl Shop {
    /// A shop that sells `pro` with one policy and has the discount code LAUNCH.
    pub fn open() -> Self {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.sql");
        Self::open_with(&fs::read_to_string(schema).unwrap())
    }

    /// The same shop with another schema.
    pub fn open_with(schema: &str) -> Self {
        let shop = Self {
            btcpay: Btcpay::start(),
            folder: TempDir::new().unwrap(),
            open: Mutex::new(None),
            an_hour_ago: an_hour_ago(),
        };
        shop.sql(schema);
        shop.sql(
            "INSERT INTO products (id, slug, name, price_sats, created_at, updated_at)
             VALUES ('pro', 'pro', 'Pro', 21000, datetime(), datetime());
             INSERT INTO policies (id, product_id, name, slug, max_machines, entitlements_json, created_at, updated_at)
             VALUES ('pro-default', 'pro', 'Standard', 'default', 3, '[\"updates\"]', datetime(), datetime());
             INSERT INTO discount_codes (id, code, kind, amount, max_uses, used_count, created_at, updated_at)
             VALUES ('launch', 'LAUNCH', 'percent', 10, 5, 0, datetime(), datetime());",
        );
        shop
    }

    /// The same shop in Keysat's database, with this BTCPay Server as its only payment provider.
    pub fn of_keysat() -> Self {
        let shop = Self::open_with(include_str!("keysat.sql"));
        shop.sql(
            "PRAGMA journal_mode = wal;
             INSERT INTO merchant_profiles (id, name, is_default) VALUES ('shop', 'Shop', 1);
             UPDATE products SET merchant_profile_id = 'shop'",
        );
        shop.has_provider("btcpay", "btcpay", &shop.btcpay.url(), btcpay::STORE);
        shop
    }

    /// Adds a payment provider to Keysat, for a merchant profile of the same name.
    pub fn has_provider(&self, id: &str, kind: &str, url: &str, store_id: &str) {
        self.sql(&format!(
            "INSERT OR IGNORE INTO merchant_profiles (id, name) VALUES ('shop', 'Shop'), ('{id}', '{id}');
             INSERT INTO payment_providers (id, merchant_profile_id, kind, label, api_key, base_url, store_id, connected_at)
             VALUES ('{id}', '{id}', '{kind}', '{id}', 'secret', '{url}', '{store_id}', datetime())"
        ));
    }

    pub fn database(&self) -> PathBuf {
        self.path(DATABASE)
    }

    /// Whoever asks for a path is about to use the file, and finds it as closed as a test leaves it.
    pub fn path(&self, name: &str) -> PathBuf {
        *self.open.lock().unwrap() = None;
        self.folder.path().join(name)
    }

    /// Creates a file that only its owner can read, and returns its path.
    pub fn private_file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().into()
    }

    pub fn connection(&self) -> Connection {
        open(&self.database())
    }

    pub fn sql(&self, sql: &str) {
        self.with_connection(|connection| connection.execute_batch(sql).unwrap());
    }

    fn with_connection<T>(&self, act: impl FnOnce(&Connection) -> T) -> T {
        let mut open_now = self.open.lock().unwrap();
        act(open_now.get_or_insert_with(|| open(&self.folder.path().join(DATABASE))))
    }

    /// The result of a query in the format of the sqlite3 shell: `|` between cells, a line per row.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        self.with_connection(|connection| {
            let mut statement = connection.prepare(sql).unwrap();
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                let cells: Vec<String> = (0..columns)
                    .map(|column| match row.get_ref(column).unwrap() {
                        ValueRef::Null => "NULL".into(),
                        ValueRef::Integer(number) => number.to_string(),
                        ValueRef::Real(number) => number.to_string(),
                        ValueRef::Text(text) | ValueRef::Blob(text) => {
                            String::from_utf8_lossy(text).into_owned()
                        }
                    })
                    .collect();
                Ok(cells.join("|"))
            });
            let rows: Result<Vec<String>, _> = rows.unwrap().collect();
            rows.unwrap().join("\n")
        })
    }

    /// A sale of `pro` from an hour ago, not updated since, pending locally and settled in BTCPay.
    pub fn sale<'a>(&'a self, id: &'a str) -> Sale<'a> {
        Sale {
            shop: self,
            id,
            here: "pending",
            there: "Settled",
            additional: "None",
            paid: None,
            redemption: None,
            licensed: false,
            created: &self.an_hour_ago,
            updated: &self.an_hour_ago,
        }
    }

    /// Adds `count` sales `0`, `1`, …, each a second older than the one before. They are pending
    /// locally; `there` gives the status in BTCPay.
    pub fn many_sales(&self, count: i64, there: fn(i64) -> &'static str) {
        self.sql(&format!(
            "WITH RECURSIVE sale (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM sale WHERE n + 1 < {count})
             INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, amount_sats, checkout_url, created_at, updated_at)
             SELECT n, 'btc-' || n, 'pro', 'pending', {SATS}, '',
                    strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-1 hour', -n || ' seconds'), strftime('%Y-%m-%dT%H:%M:%SZ')
               FROM sale"
        ));
        let newest: i64 = self
            .query("SELECT max(unixepoch(created_at)) FROM invoices")
            .parse()
            .unwrap();
        for place in 0..count {
            let mut there = btcpay::Invoice::new(&format!("btc-{place}"), there(place), BTC);
            there.created = newest - place;
            self.btcpay.add(there);
        }
    }

    /// The number of invoices by status, such as `2 pending, 3 settled`.
    #[track_caller]
    pub fn statuses(&self) -> String {
        self.query(
            "SELECT coalesce(group_concat(count || ' ' || status, ', '), '')
               FROM (SELECT status, count(*) AS count FROM invoices GROUP BY status ORDER BY status)",
        )
    }

    /// The state of an invoice: its status, license and redemption, and the use count of LAUNCH.
    #[track_caller]
    pub fn state(&self, id: &str) -> String {
        self.query(&format!(
            "SELECT i.status || iif(l.id IS NULL, '', ', licensed') || coalesce(', ' || r.status, '')
                    || coalesce(iif(r.license_id = l.id, ' with it', NULL), '')
                    || coalesce(', used ' || c.used_count, '')
               FROM invoices i
               LEFT JOIN licenses l ON l.invoice_id = i.id
               LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
               LEFT JOIN discount_codes c ON c.id = r.code_id
              WHERE i.id = '{id}'"
        ))
    }

    /// All rows of the database but notes of what needs a person, to prove that nothing changed.
    pub fn everything(&self) -> String {
        let tables = self.query(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
        );
        let rows = tables.lines().map(|table| {
            let notes = "WHERE action NOT LIKE 'attention.%'";
            let kept = if table == "audit_log" { notes } else { "" };
            self.query(&format!("SELECT '{table}', * FROM {table} {kept}"))
        });
        rows.collect::<Vec<_>>().join("\n")
    }

    /// Everything becomes older by this, in the database and in BTCPay.
    pub fn seconds_pass(&self, seconds: i64) {
        self.sql(&format!("BEGIN; {} COMMIT", self.older_by(seconds)));
        self.btcpay.later(move |invoices| {
            for invoice in invoices {
                invoice.created -= seconds;
                invoice.expires = invoice.expires.map(|expires| expires - seconds);
                for payment in &mut invoice.payments {
                    payment.received -= seconds;
                }
            }
        })();
    }

    /// SQL that makes every time in the database earlier.
    fn older_by(&self, seconds: i64) -> String {
        self.query(&format!(
            "SELECT 'UPDATE ' || tables.name || ' SET ' || group_concat(
                      replace('COLUMN = coalesce(strftime(''%Y-%m-%dT%H:%M:%SZ'', COLUMN, ''-{seconds} seconds''), COLUMN)',
                              'COLUMN', columns.name), ', ') || ';'
               FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
              WHERE tables.type = 'table' AND columns.name GLOB '*_at'
              GROUP BY tables.name"
        ))
    }

    /// A person types this line into a shell where the program and its settings are known.
    #[track_caller]
    pub fn person_types(&self, line: &str) -> Ran {
        let program = Path::new(env!("CARGO_BIN_EXE_reconcile"));
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", line])
            .env_clear()
            .env("PATH", program.parent().unwrap())
            .env("RECONCILE_DATABASE", self.database())
            .env("BTCPAY_URL", self.btcpay.url())
            .env("BTCPAY_STORE_ID", btcpay::STORE)
            .env("BTCPAY_API_KEY", btcpay::KEY);
        Ran::of(shell, 0)
    }

    /// A run of the program configured for this shop.
    pub fn reconcile(&self) -> Run {
        Run::bare()
            .option("--database", self.database().to_str().unwrap())
            .option("--btcpay-url", &self.btcpay.url())
            .option("--store-id", btcpay::STORE)
            .env("BTCPAY_API_KEY", btcpay::KEY)
    }
}

fn open(database: &Path) -> Connection {
    let connection = Connection::open(database).unwrap();
    // Tests insert rows that a careful service would not.
    connection
        .pragma_update(None, "foreign_keys", false)
        .unwrap();
    // No test pulls the plug.
    connection
        .pragma_update(None, "synchronous", "off")
        .unwrap();
    connection
}

fn an_hour_ago() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let then = now.as_secs() - 3600;
    format!("strftime('%Y-%m-%dT%H:%M:%SZ', {then}, 'unixepoch')")
}

/// A sale to add to the database and to BTCPay. `here` is the status in the database, `there` the
/// one in BTCPay.
pub struct Sale<'a> {
    shop: &'a Shop,
    id: &'a str,
    here: &'a str,
    there: &'a str,
    additional: &'a str,
    paid: Option<&'a str>,
    redemption: Option<&'a str>,
    licensed: bool,
    created: &'a str,
    updated: &'a str,
}

impl<'a> Sale<'a> {
    pub fn here(mut self, status: &'a str) -> Self {
        self.here = status;
        self
    }

    pub fn there(mut self, status: &'a str) -> Self {
        self.there = status;
        self
    }

    pub fn additional(mut self, status: &'a str, paid: &'a str) -> Self {
        self.additional = status;
        self.paid = Some(paid);
        self
    }

    /// The sale used LAUNCH, and its redemption has this status. It takes a slot unless cancelled.
    pub fn redemption(mut self, status: &'a str) -> Self {
        self.redemption = Some(status);
        self
    }

    pub fn licensed(mut self) -> Self {
        self.licensed = true;
        self
    }

    /// `created` and `updated` take SQL expressions.
    pub fn created(mut self, sql: &'a str) -> Self {
        self.created = sql;
        self
    }

    pub fn updated(mut self, sql: &'a str) -> Self {
        self.updated = sql;
        self
    }

    pub fn made(self) {
        let Self {
            id,
            here,
            created,
            updated,
            ..
        } = self;
        self.shop.sql(&format!(
            "INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, buyer_email,
                                   amount_sats, checkout_url, created_at, updated_at)
             VALUES ('{id}', 'btc-{id}', 'pro', '{here}', '{id}@example.com', {SATS}, '', {created}, {updated})"
        ));
        if self.licensed {
            self.shop.sql(&format!(
                "INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
                 VALUES ('lic-{id}', 'pro', '{id}', 'active', strftime('%Y-%m-%dT%H:%M:%SZ'))"
            ));
        }
        if let Some(status) = self.redemption {
            self.shop.sql(&format!(
                "INSERT INTO discount_redemptions (id, code_id, invoice_id, status, license_id, discount_applied_sats,
                                                   base_price_sats, final_price_sats, created_at, updated_at)
                 VALUES ('red-{id}', 'launch', '{id}', '{status}',
                         (SELECT id FROM licenses WHERE invoice_id = '{id}' AND '{status}' = 'redeemed'),
                         1000, 22000, {SATS}, {created}, {updated});
                 UPDATE discount_codes SET used_count = used_count + ('{status}' <> 'cancelled')"
            ));
        }
        let mut there = btcpay::Invoice::new(&format!("btc-{id}"), self.there, BTC);
        there.additional = self.additional.into();
        there.created = self
            .shop
            .query(&format!(
                "SELECT coalesce(unixepoch(created_at), 0) FROM invoices WHERE id = '{id}'"
            ))
            .parse()
            .unwrap();
        if let Some(paid) = self.paid {
            there.paid = paid.into();
        }
        self.shop.btcpay.add(there);
    }
}

/// Checks all cases in parallel, because a run that retries mostly waits.
pub fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let check = &check;
            scope.spawn(move || check(case));
        }
    });
}
