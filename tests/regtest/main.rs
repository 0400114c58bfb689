//! The smoke test. It creates, marks and archives invoices through the API of a BTCPay Server, lets
//! one expire, and checks how the built program reconciles them. The same code runs against the
//! loopback BTCPay Server and, with `--ignored`, against a real one. The script `run` in this
//! folder starts a real one on regtest.

#[path = "../btcpay/mod.rs"]
mod btcpay;
#[path = "../suite/program.rs"]
#[allow(dead_code, reason = "the suite uses all of it")]
mod program;
mod server;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rusqlite::{Connection, params};
use serde_json::json;
use tempfile::TempDir;

use btcpay::{Btcpay, OWNERS_KEY, Version};
use program::{Ran, Run};
use server::{LentStore, Made, VIEW_INVOICES};

/// Together with the other sales, more candidates than the program checks one by one.
const CROWD: usize = 8;

/// The variables needed to reach a server behind Tor, a proxy or a private certificate authority.
const CONNECTION_VARIABLES: [&str; 4] = ["SSL_CERT_FILE", "ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"];

#[test]
fn loopback_btcpay_is_reconciled_and_left_unchanged() {
    for (store, version) in [
        (None, Version::From2_4),
        (None, Version::UpTo2_3),
        (Some(btcpay::STORE), Version::From2_4),
    ] {
        let btcpay = Btcpay::start();
        btcpay.is_version(version);
        btcpay.is_in_a_hurry();
        btcpay.gives(OWNERS_KEY, &["unrestricted"]);
        let before = btcpay.inventory();
        smoke(LentStore::of(&btcpay.url(), OWNERS_KEY, store));
        assert_eq!(btcpay.inventory(), before);
    }
}

#[test]
#[ignore = "needs a BTCPay Server: BTCPAY_URL, an owner's key in BTCPAY_API_KEY, optionally BTCPAY_STORE_ID"]
fn real_btcpay_is_reconciled_and_left_unchanged() {
    let setting = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let needed = |name: &str| setting(name).unwrap_or_else(|| panic!("{name} is not set"));
    smoke(LentStore::of(
        &needed("BTCPAY_URL"),
        &needed("BTCPAY_API_KEY"),
        setting("BTCPAY_STORE_ID").as_deref(),
    ));
}

/// Runs the script with a stub for Docker and a fresh server on loopback. The script in turn runs
/// the test above.
#[test]
fn script_sets_up_server_runs_smoke_test_and_cleans_up() {
    let btcpay = Btcpay::start();
    btcpay.is_new();
    btcpay.is_in_a_hurry();
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");

    let mut script = Command::new("bash");
    script
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regtest/run"))
        .arg(env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "real_btcpay_is_reconciled_and_left_unchanged",
        ])
        // Exports a bash function, which takes precedence over any program of that name.
        .env(
            "BASH_FUNC_docker%%",
            "() { echo \"$@\" >> \"$DOCKER_LOG\"; }",
        )
        .env("DOCKER_LOG", &log)
        .env("REGTEST_URL", btcpay.url());
    let ran = Ran::of(script, 0);
    assert!(ran.stdout.contains("1 passed"), "{}", ran.stdout);
    assert_eq!(
        btcpay.inventory(),
        "1 stores, 1 keys, 0 invoices",
        "what the script itself created is removed with its server"
    );
    let log = fs::read_to_string(log).unwrap();
    let steps: Vec<&str> = log
        .lines()
        .filter(|line| *line != "compose version")
        .map(|line| line.rsplit_once("compose.yaml ").unwrap().1)
        .collect();
    let [node, block, all, down] = steps.as_slice() else {
        panic!("{log}");
    };
    assert_eq!(*node, "up --detach --wait bitcoind");
    assert!(block.starts_with("exec -T bitcoind bitcoin-cli"), "{block}");
    assert_eq!(*all, "up --detach --wait");
    assert_eq!(*down, "down --volumes");
}

/// A licensing database created from schema.sql, whose sales are invoices of a BTCPay Server.
struct Shop {
    folder: TempDir,
}

impl Shop {
    fn open() -> Self {
        let shop = Self {
            folder: TempDir::new().unwrap(),
        };
        let database = shop.connection();
        database
            .execute_batch(include_str!("../../schema.sql"))
            .unwrap();
        database
            .execute_batch(
                "INSERT INTO products (id, slug, name) VALUES ('pro', 'pro', 'Pro');
                 INSERT INTO discount_codes (id, code, kind, amount) VALUES ('launch', 'LAUNCH', 'percent', 10);",
            )
            .unwrap();
        shop
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("licenses.db")
    }

    fn connection(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    /// Adds a pending sale `name` with the discount code.
    fn sells(&self, name: &str, invoice: &Made) {
        let database = self.connection();
        database
            .execute(
                "INSERT INTO invoices (id, btcpay_invoice_id, product_id, amount_sats, created_at, updated_at)
                 VALUES (?1, ?2, 'pro', 21000, datetime(?3, 'unixepoch'), datetime(?3, 'unixepoch'))",
                params![name, invoice.id, invoice.created],
            )
            .unwrap();
        database
            .execute(
                "INSERT INTO discount_redemptions (id, code_id, invoice_id) VALUES ('red-' || ?1, 'launch', ?1)",
                [name],
            )
            .unwrap();
        database
            .execute("UPDATE discount_codes SET used_count = used_count + 1", [])
            .unwrap();
    }

    /// The state of every sale except the crowd's, one per line, and the use count of the code.
    fn state(&self) -> String {
        self.connection()
            .query_row(
                "SELECT group_concat(line, char(10)) || char(10)
                        || (SELECT 'used ' || used_count FROM discount_codes)
                   FROM (SELECT i.id || ': ' || i.status || iif(l.id IS NULL, '', ', licensed')
                                || ', ' || r.status || iif(r.license_id IS l.id, '', ' without it') AS line
                           FROM invoices i
                           LEFT JOIN licenses l ON l.invoice_id = i.id
                           LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
                          WHERE i.id NOT LIKE 'crowd%'
                          ORDER BY i.rowid)",
                [],
                |row| row.get(0),
            )
            .unwrap()
    }

    fn reconcile(&self, store: &LentStore, key: &str) -> Run {
        let passed_on = CONNECTION_VARIABLES
            .into_iter()
            .filter(|_| !store.is_on_loopback());
        passed_on
            .filter_map(|name| Some((name, env::var(name).ok()?)))
            .fold(Run::bare(), |run, (name, value)| run.env(name, &value))
            .option("--database", self.database().to_str().unwrap())
            .option("--btcpay-url", &store.url)
            .option("--store-id", &store.id)
            .env("BTCPAY_API_KEY", key)
    }
}

/// Tests the main job from start to end against the server of this store.
fn smoke(lent: LentStore) {
    let store = &lent;
    let key = store.new_key(&[&format!("{VIEW_INVOICES}:{}", store.id)]);
    let shop = Shop::open();
    // Created first, because it takes a minute to expire.
    let expiring = store.new_invoice("expiring", 1);
    let [settled, invalid, archived, open] =
        ["settled", "invalid", "archived", "open"].map(|id| store.new_invoice(id, 60));
    store.mark(&settled, "Settled");
    store.mark(&invalid, "Invalid");
    store.mark(&archived, "Settled");
    store.archive(&archived);
    for (name, invoice) in [
        ("expiring", &expiring),
        ("settled", &settled),
        ("invalid", &invalid),
        ("archived", &archived),
        ("open", &open),
    ] {
        shop.sells(name, invoice);
    }
    store.wait_until(&expiring, "Expired");

    let before = shop.state();
    let dry = shop.reconcile(store, &key).flag("--dry-run").json(0);
    assert_eq!(shop.state(), before, "a dry run writes nothing");
    assert_eq!(dry["checked"], 5);
    assert_eq!(
        dry["requests"], 5,
        "a few invoices are requested one by one"
    );

    for place in 0..CROWD {
        let id = format!("crowd {place}");
        shop.sells(&id, &store.new_invoice(&id, 60));
    }
    let mut real = shop.reconcile(store, &key).json(0);
    assert_eq!(
        shop.state(),
        "expiring: expired, cancelled\n\
         settled: settled, licensed, redeemed\n\
         invalid: invalid, cancelled\n\
         archived: settled, licensed, redeemed\n\
         open: pending, pending\n\
         used 11"
    );
    assert_eq!(real["checked"], 5 + CROWD);
    assert!(
        real["requests"].as_u64().unwrap() < 5,
        "many invoices are asked for in groups: {real}"
    );
    for change in real["changes"].as_array_mut().unwrap() {
        if change["license_issued"] == true {
            change["license_id"] = json!(null);
        }
    }
    assert_eq!(
        in_any_order(&dry["changes"]),
        in_any_order(&real["changes"])
    );
    let again = shop.reconcile(store, &key).json(0);
    assert_eq!(again["changes"], json!([]));

    store.mark(&expiring, "Settled");
    let unnoticed = shop.reconcile(store, &key).json(0);
    assert_eq!(
        unnoticed["changes"],
        json!([]),
        "a closed invoice is not checked without --recheck"
    );
    let noticed = shop.reconcile(store, &key).flag("--recheck").json(0);
    assert_eq!(noticed["changes"][0]["from"], "expired");
    assert_eq!(noticed["changes"][0]["license_issued"], true);
    assert!(
        shop.state()
            .starts_with("expiring: settled, licensed, redeemed\n"),
        "{}",
        shop.state()
    );

    let blind = store.new_key(&[&format!("btcpay.store.canviewstoresettings:{}", store.id)]);
    let refused = shop.reconcile(store, &blind).exits(1);
    assert!(refused.stderr.contains("(403)"), "{}", refused.stderr);
    store.revoke(&key);
    let refused = shop.reconcile(store, &key).exits(1);
    assert!(refused.stderr.contains("(401)"), "{}", refused.stderr);
    lent.give_back();
}

fn in_any_order(changes: &serde_json::Value) -> Vec<String> {
    let changes = changes.as_array().unwrap().iter();
    let mut changes: Vec<String> = changes.map(ToString::to_string).collect();
    changes.sort();
    changes
}
