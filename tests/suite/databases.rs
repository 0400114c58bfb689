//! Unusable databases: a clear message, exit code 1, no request, no change.

use std::fs;

use rusqlite::TransactionBehavior;

use crate::shop::Shop;

#[test]
fn missing_database_is_not_created() {
    let shop = Shop::open();
    let missing = shop.path("typo.db");
    let name = missing.to_str().unwrap();
    for dry in [false, true] {
        let run = shop.reconcile().option("--database", name);
        let run = if dry { run.flag("-n") } else { run };
        run.exits(1).prints("").warns(&format!(
            "error: no database at {name}. [..] sqlite3 '{name}' < /usr/share/doc/reconcile/schema.sql [..]"
        ));
        assert!(!missing.exists());
    }
}

#[test]
fn non_database_is_reported_as_such() {
    let shop = Shop::open();
    let letter = shop.path("letter.txt");
    fs::write(&letter, "Dear customer, ".repeat(1000)).unwrap();
    shop.reconcile()
        .option("--database", letter.to_str().unwrap())
        .exits(1)
        .warns("error: cannot read the database [..]letter.txt: file is not a database. [..]");
    let folder = shop.path("");
    shop.reconcile()
        .option("--database", folder.to_str().unwrap())
        .exits(1)
        .warns("error: [..] is a folder. [..]");
    let below_a_file = shop.path("letter.txt/licenses.db");
    shop.reconcile()
        .option("--database", below_a_file.to_str().unwrap())
        .exits(1)
        .warns("error: cannot access the database [..]: not a directory. Set --database [..]");
}

#[test]
fn missing_table_or_column_is_named_before_any_request() {
    for (spoil, named) in [
        ("DROP TABLE audit_log", "table audit_log is missing"),
        (
            "DROP TABLE audit_log; DROP TABLE discount_codes",
            "table discount_codes is missing, table audit_log is missing",
        ),
        (
            "ALTER TABLE invoices RENAME COLUMN amount_sats TO price",
            "column invoices.amount_sats is missing",
        ),
        (
            "ALTER TABLE policies DROP COLUMN is_trial; ALTER TABLE licenses DROP COLUMN is_trial",
            "column policies.is_trial is missing, column licenses.is_trial is missing",
        ),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.sql(spoil);
        shop.reconcile()
            .exits(1)
            .warns(&format!("error: [..]: {named}. [..]"));
        assert_eq!(shop.btcpay.requests(), [""; 0]);
    }
    let shop = Shop::open();
    let empty = shop.path("empty.db");
    fs::write(&empty, "").unwrap();
    shop.reconcile()
        .option("--database", empty.to_str().unwrap())
        .exits(1)
        .warns("error: [..]table invoices is missing, [..]table audit_log is missing. [..]");
    assert_eq!(fs::read(&empty).unwrap(), b"");
}

/// A shop in which only `index` can make `licenses.invoice_id` unique.
fn with_licenses_unique_by(index: &str) -> Shop {
    let shop = Shop::open();
    shop.sql(&format!(
        "DROP TABLE licenses;
         CREATE TABLE licenses (
           id TEXT PRIMARY KEY, product_id TEXT, invoice_id TEXT, policy_id TEXT, status TEXT,
           issued_at TEXT, expires_at TEXT, grace_seconds INTEGER, max_machines INTEGER,
           entitlements_json TEXT, is_trial INTEGER, buyer_email TEXT, metadata_json TEXT);
         {index}"
    ));
    shop.sale("a").made();
    shop
}

#[test]
fn nothing_is_issued_unless_invoice_id_is_unique() {
    for index in [
        "",
        "CREATE INDEX i ON licenses (invoice_id)",
        "CREATE UNIQUE INDEX i ON licenses (invoice_id, product_id)",
        "CREATE UNIQUE INDEX i ON licenses (invoice_id) WHERE status = 'active'",
        "CREATE UNIQUE INDEX i ON licenses (lower(invoice_id))",
    ] {
        let shop = with_licenses_unique_by(index);
        shop.reconcile()
            .exits(1)
            .warns("error: [..]: licenses.invoice_id is not UNIQUE ([..]). [..]");
        assert_eq!(shop.btcpay.requests(), [""; 0], "{index}");
    }
    for index in [
        "CREATE UNIQUE INDEX i ON licenses (invoice_id)",
        "CREATE UNIQUE INDEX i ON licenses (invoice_id) WHERE invoice_id IS NOT NULL",
        "CREATE UNIQUE INDEX i ON licenses (\"invoice_id\") where ( Invoice_Id  is not null )",
    ] {
        let shop = with_licenses_unique_by(index);
        shop.reconcile().exits(0);
        assert_eq!(shop.state("a"), "settled, licensed", "{index}");
    }
}

#[test]
fn extra_tables_and_columns_do_no_harm() {
    let shop = Shop::open();
    shop.sql(
        "CREATE TABLE sessions (id TEXT);
         ALTER TABLE invoices ADD COLUMN provider TEXT NOT NULL DEFAULT 'btcpay';
         ALTER TABLE licenses ADD COLUMN serial INTEGER NOT NULL DEFAULT 7;
         DROP TABLE products;
         CREATE TABLE products (id TEXT PRIMARY KEY);
         INSERT INTO products VALUES ('pro');
         ALTER TABLE policies DROP COLUMN metadata_json;",
    );
    shop.sale("a").made();
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn journal_mode_is_left_unchanged() {
    for mode in ["wal", "delete", "truncate"] {
        let shop = Shop::open();
        shop.sql(&format!("PRAGMA journal_mode = {mode}"));
        shop.sale("a").made();
        shop.reconcile().flag("-n").exits(0);
        shop.reconcile().exits(0);
        let kept = if mode == "wal" { "wal" } else { "delete" };
        assert_eq!(shop.query("PRAGMA journal_mode"), kept);
        assert_eq!(shop.state("a"), "settled, licensed");
    }
}

#[test]
fn persistent_lock_is_reported() {
    let shop = Shop::open();
    shop.sale("a").made();
    let mut service = shop.connection();
    let lock = service
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .unwrap();
    shop.reconcile()
        .option("--deadline", "1")
        .exits(1)
        .warns("error: deadline reached: could not read the database [..], which another program has locked (fuser -v '[..]', of the package psmisc, shows which). [..]");
    drop(lock);
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn uri_like_path_is_taken_literally() {
    let shop = Shop::open();
    let mut command = shop
        .reconcile()
        .option("--database", "file:licenses.db?mode=memory")
        .command();
    let output = command.current_dir(shop.path("")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no database at file:"));
}

#[test]
fn missing_index_is_harmless_and_named_with_verbose() {
    const INDEXES: [&str; 4] = [
        "invoices_status_created",
        "invoices_created_unreadable",
        "licenses_without_invoice",
        "discount_redemptions_pending",
    ];
    let schema = include_str!("../../schema.sql");
    let shop = Shop::open();
    shop.reconcile().flag("-v").exits(0).warns("");

    for name in INDEXES {
        let shop = Shop::open();
        shop.sql(&format!("DROP INDEX {name}"));
        for id in ["a", "b"] {
            shop.sale(id).redemption("pending").made();
        }
        let dry = shop.reconcile().flag("-n").flag("-v").exits(0);
        let (hint, _) = dry.stderr.split_once('\n').unwrap();
        let (_, sql) = hint
            .split_once("lacks an index of schema.sql that makes runs faster: ")
            .unwrap();
        assert!(
            sql.starts_with(&format!("CREATE INDEX {name} ON ")),
            "{sql}"
        );
        shop.reconcile().exits(0).warns("");
        assert_eq!(
            shop.state("b"),
            "settled, licensed, redeemed with it, used 2"
        );
        shop.sql(sql);
        shop.reconcile().flag("-v").exits(0).warns("");
    }

    // The index behind a UNIQUE column has no CREATE statement in schema.sql.
    let loose = schema.replace(
        "invoice_id            TEXT NOT NULL UNIQUE",
        "invoice_id            TEXT NOT NULL",
    );
    assert_ne!(loose, schema);
    let shop = Shop::open_with(&loose);
    shop.reconcile().flag("-v").exits(0).warns(
        "info: the database [..]: CREATE UNIQUE INDEX discount_redemptions_invoice_id ON \
         discount_redemptions (invoice_id);",
    );
}

#[test]
fn equivalent_index_is_accepted() {
    let schema = include_str!("../../schema.sql");
    let by_index = schema.replace("TEXT UNIQUE REFERENCES invoices (id)", "TEXT");
    assert_ne!(by_index, schema);
    let shop = Shop::open_with(&by_index);
    shop.sql(
        "CREATE UNIQUE INDEX one_each ON licenses (invoice_id) WHERE invoice_id IS NOT NULL;
         DROP INDEX invoices_status_created;
         CREATE INDEX wider ON invoices (status, created_at, product_id)",
    );
    shop.reconcile().flag("-v").exits(0).warns("");
}
