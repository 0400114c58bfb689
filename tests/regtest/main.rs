//! The smoke test. It creates, marks and archives invoices through the API of a BTCPay Server, lets
//! one expire, pays some, and checks how the built program reconciles them. The same code runs
//! against the loopback BTCPay Server and, with `--ignored`, against a real one. The script `run` in
//! this folder starts a real one on regtest. Beside it: whether the loopback server is a true one.

#[path = "../btcpay/mod.rs"]
mod btcpay;
mod node;
#[path = "../suite/program.rs"]
#[allow(dead_code, reason = "the suite uses all of it")]
mod program;
#[path = "../recorded/mod.rs"]
mod recorded;
mod server;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tempfile::TempDir;

use btcpay::{Btcpay, OWNERS_KEY, Version};
use node::Node;
use program::{Ran, Run};
use server::{LentStore, Made, VIEW_INVOICES};

/// Together with the other sales, more candidates than the program checks one by one.
const CROWD: usize = 8;

/// The variables needed to reach a server behind Tor, a proxy or a private certificate authority.
const CONNECTION_VARIABLES: [&str; 4] = ["SSL_CERT_FILE", "ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"];

#[test]
fn loopback_btcpay_is_reconciled_and_left_unchanged() {
    let new_store = Version::ALL.map(|version| (None, version));
    let lent_store = (Some(btcpay::STORE), Version::From2_4);
    for (store, version) in new_store.into_iter().chain([lent_store]) {
        let btcpay = Btcpay::start();
        btcpay.is_version(version);
        btcpay.is_in_a_hurry();
        btcpay.gives(OWNERS_KEY, &["unrestricted"]);
        let before = btcpay.inventory();
        smoke(LentStore::of(&btcpay.url(), OWNERS_KEY, store));
        let lent = LentStore::of(&btcpay.url(), OWNERS_KEY, store);
        smoke_with_money(lent, &Node::at(&btcpay.bitcoind()));
        assert_eq!(btcpay.inventory(), before);
    }
}

#[test]
#[ignore = "needs a BTCPay Server: BTCPAY_URL, an owner's key in BTCPAY_API_KEY, optionally BTCPAY_STORE_ID; \
            BITCOIND_URL of its node on regtest, to pay"]
fn real_btcpay_is_reconciled_and_left_unchanged() {
    let setting = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let needed = |name: &str| setting(name).unwrap_or_else(|| panic!("{name} is not set"));
    let lent = || {
        LentStore::of(
            &needed("BTCPAY_URL"),
            &needed("BTCPAY_API_KEY"),
            setting("BTCPAY_STORE_ID").as_deref(),
        )
    };
    smoke(lent());
    match setting("BITCOIND_URL") {
        Some(url) => smoke_with_money(lent(), &Node::at(&url)),
        None => println!("BITCOIND_URL is not set: nothing was paid"),
    }
}

/// Runs the script with a stub for Docker and a fresh server on loopback. The script in turn runs
/// the test above.
#[test]
fn script_sets_up_server_runs_smoke_test_and_cleans_up() {
    let btcpay = Btcpay::start();
    btcpay.is_version(Version::From2_4);
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
        .env("REGTEST_URL", btcpay.url())
        .env("REGTEST_BITCOIND_URL", btcpay.bitcoind());
    let ran = Ran::of(script, 0);
    assert!(ran.stdout.contains("1 passed"), "{}", ran.stdout);
    let has_paid = |path: &String| path.ends_with("/payment-methods");
    assert!(btcpay.requests().iter().any(has_paid), "{}", ran.stdout);
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

    /// Dry, which only says what the real run then does. Returns the report of that.
    fn is_reconciled(&self, store: &LentStore, key: &str) -> Value {
        let before = self.state();
        let dry = self.reconcile(store, key).flag("--dry-run").json(0);
        assert_eq!(self.state(), before, "a dry run writes nothing");
        let real = self.reconcile(store, key).json(0);
        assert_eq!(what_changes(&dry), what_changes(&real));
        assert_eq!(what_needs_a_person(&dry), what_needs_a_person(&real));
        real
    }
}

/// What a report says that a person has to do; when it was noted, only a real run can tell.
fn what_needs_a_person(report: &Value) -> Value {
    let mut attention = report["attention"].clone();
    for item in attention.as_array_mut().unwrap() {
        item["since"].take();
    }
    attention
}

/// Tests the main job from start to end against the server of this store.
fn smoke(lent: LentStore) {
    let store = &lent;
    let other = store.another();
    let key = store.new_key(&[&format!("{VIEW_INVOICES}:{}", store.id)]);
    let shop = Shop::open();
    // Created first, because it takes a minute to expire.
    let expiring = store.new_invoice("expiring", 1);
    let [settled, invalid, archived, open] =
        ["settled", "invalid", "archived", "open"].map(|id| store.new_invoice(id, 60));
    let elsewhere = other.new_invoice("elsewhere", 60);
    store.mark(&settled, "Settled");
    store.mark(&invalid, "Invalid");
    store.mark(&archived, "Settled");
    store.archive(&archived);
    other.mark(&elsewhere, "Settled");
    for (name, invoice) in [
        ("expiring", &expiring),
        ("settled", &settled),
        ("invalid", &invalid),
        ("archived", &archived),
        ("open", &open),
        ("elsewhere", &elsewhere),
    ] {
        shop.sells(name, invoice);
    }
    store.wait_until(&expiring, "Expired", "None");

    let found = |order_ids: &[&str]| store.with_order_ids(&key, order_ids, &expiring, &open);
    let asked = [
        "archived",
        "expiring",
        "Open",
        "sett",
        "elsewhere",
        "nobody's",
    ];
    assert_eq!(
        in_any_order(&found(&asked)),
        in_any_order(&[&archived.id, &expiring.id]),
        "an order id is found as it is, and in this store only"
    );

    let before = shop.state();
    let dry = shop.reconcile(store, &key).flag("--dry-run").json(0);
    assert_eq!(shop.state(), before, "a dry run writes nothing");
    assert_eq!(dry["checked"], 6);
    assert!(
        dry["requests"].as_u64().unwrap() <= 8,
        "each invoice is asked for once at most, and what the key may see: {dry}"
    );

    for place in 0..CROWD {
        let id = format!("crowd {place}");
        shop.sells(&id, &store.new_invoice(&id, 60));
    }
    let real = shop.reconcile(store, &key).json(0);
    assert_eq!(
        shop.state(),
        "expiring: expired, cancelled\n\
         settled: settled, licensed, redeemed\n\
         invalid: invalid, cancelled\n\
         archived: settled, licensed, redeemed\n\
         open: pending, pending\n\
         elsewhere: pending, pending\n\
         used 12"
    );
    assert_eq!(real["checked"], 6 + CROWD);
    assert!(
        real["requests"].as_u64().unwrap() < 8,
        "many invoices are asked for in groups: {real}"
    );
    assert_eq!(what_changes(&dry), what_changes(&real));
    assert_eq!(for_a_person(&real), ["elsewhere: not_in_btcpay"]);
    let again = shop.reconcile(store, &key).json(0);
    assert_eq!(again["changes"], json!([]));

    other_store_has_what_this_one_lacks(&other, &elsewhere);

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

    keys_that_see_nothing_are_refused(&shop, store, &other.id, &key);
    other.give_back();
    lent.give_back();
}

fn other_store_has_what_this_one_lacks(other: &LentStore, elsewhere: &Made) {
    let shop = Shop::open();
    shop.sells("elsewhere", elsewhere);
    let key = other.new_key(&[&format!("{VIEW_INVOICES}:{}", other.id)]);
    shop.is_reconciled(other, &key);
    assert_eq!(
        shop.state(),
        "elsewhere: settled, licensed, redeemed\nused 1"
    );
}

/// Revokes `key`.
fn keys_that_see_nothing_are_refused(shop: &Shop, store: &LentStore, other: &str, key: &str) {
    for permission in [
        format!("btcpay.store.cancreateinvoice:{}", store.id),
        format!("{VIEW_INVOICES}:{other}"),
    ] {
        let blind = store.new_key(&[&permission]);
        let refused = shop.reconcile(store, &blind).exits(1);
        assert!(refused.stderr.contains("(403)"), "{}", refused.stderr);
    }
    store.revoke(key);
    let refused = shop.reconcile(store, key).exits(1);
    assert!(refused.stderr.contains("(401)"), "{}", refused.stderr);
}

/// The same with invoices that are paid. Some are paid before a block is mined, and some wait a minute
/// for their expiry, so this comes in two parts.
fn smoke_with_money(lent: LentStore, node: &Node) {
    let store = &lent;
    store.wait_until_synchronized();
    let key = store.new_key(&[&format!("{VIEW_INVOICES}:{}", store.id)]);
    let pay = |invoice: &Made, amount: &str| node.pay(&store.address(invoice), amount);

    let [full, over] = ["full", "over"].map(|id| store.new_invoice(id, 60));
    pay(&full, "0.00021");
    pay(&over, "0.0003");
    store.wait_until(&full, "Processing", "None");
    store.wait_until(&over, "Processing", "PaidOver");
    node.mine(1);
    store.wait_until(&full, "Settled", "None");
    store.wait_until(&over, "Settled", "PaidOver");

    let [part, late, unconfirmed] =
        ["part", "late", "unconfirmed"].map(|id| store.new_invoice(id, 1));
    pay(&part, "0.0001");
    pay(&unconfirmed, "0.00021");
    store.wait_until(&part, "New", "PaidPartial");
    store.wait_until(&late, "Expired", "None");
    pay(&late, "0.00021");
    store.wait_until(&late, "Expired", "PaidLate");
    store.wait_until(&part, "Expired", "PaidPartial");
    store.wait_until(&unconfirmed, "Processing", "None");

    let shop = Shop::open();
    for (name, invoice) in [
        ("full", &full),
        ("over", &over),
        ("part", &part),
        ("late", &late),
        ("unconfirmed", &unconfirmed),
    ] {
        shop.sells(name, invoice);
    }
    let paid = "full: settled, licensed, redeemed\n\
                over: settled, licensed, redeemed\n\
                part: expired, cancelled\n\
                late: expired, cancelled\n";
    let real = shop.is_reconciled(store, &key);
    assert_eq!(
        for_a_person(&real),
        ["late: paid_late", "part: paid_partial"]
    );
    assert_eq!(
        shop.state(),
        format!("{paid}unconfirmed: pending, pending\nused 3")
    );
    node.mine(1);
    store.wait_until(&unconfirmed, "Settled", "None");
    shop.is_reconciled(store, &key);
    assert_eq!(
        shop.state(),
        format!("{paid}unconfirmed: settled, licensed, redeemed\nused 3")
    );
    lent.give_back();
}

/// The changes of a run, whose new licenses a dry run cannot name.
fn what_changes(report: &Value) -> Vec<String> {
    let mut changes = report["changes"].as_array().unwrap().clone();
    for change in &mut changes {
        if change["license_issued"] == true {
            change["license_id"] = json!(null);
        }
    }
    in_any_order(&changes)
}

/// What a run leaves to a person, and why.
fn for_a_person(report: &Value) -> Vec<String> {
    let items = report["attention"].as_array().unwrap().iter();
    let named = items.map(|item| {
        let [sale, reason] = ["invoice_id", "reason"].map(|field| item[field].as_str().unwrap());
        format!("{sale}: {reason}")
    });
    in_any_order(&named.collect::<Vec<_>>())
}

fn in_any_order<T: ToString>(these: &[T]) -> Vec<String> {
    let mut these: Vec<String> = these.iter().map(T::to_string).collect();
    these.sort();
    these
}
