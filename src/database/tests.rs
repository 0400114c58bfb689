//! How SQLite runs the queries, and what a full disk does.

use rusqlite::Connection;

use super::views::Views;
use super::{Access, Database, WriteError, audit, candidates, doubt, license, redemption, write};
use crate::decide::Change;
use crate::invoice::{InvoiceId, Missing, Store};
use crate::stop::Deadline;

fn store() -> Store {
    Store {
        url: "https://btcpay.example.com".parse().unwrap(),
        id: "store".into(),
    }
}

/// The plan of `sql` in a database made from schema.sql and `indexes`.
fn plan(sql: &str, indexes: &str) -> String {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch(include_str!("../../schema.sql"))
        .unwrap();
    connection.execute_batch(indexes).unwrap();
    Views::of_the_contract(&connection)
        .unwrap()
        .create(&connection)
        .unwrap();
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let steps = statement
        .raw_query()
        .mapped(|row| row.get::<_, String>("detail"));
    steps.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
}

#[test]
fn full_disk_stops_the_run_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("licenses.db");
    let service = Connection::open(&path).unwrap();
    service
        .execute_batch(include_str!("../../schema.sql"))
        .unwrap();
    service
        .execute_batch(
            "INSERT INTO products (id, slug, name) VALUES ('pro', 'pro', 'Pro');
             INSERT INTO invoices (id, btcpay_invoice_id, product_id, amount_sats)
             VALUES ('a', 'there', 'pro', 21000);
             WITH RECURSIVE rows (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM rows WHERE n < 500)
             INSERT INTO audit_log (actor_kind, action) SELECT 'service', 'filler' FROM rows;",
        )
        .unwrap();
    let mut database = Database::open(
        &path,
        Access::Write,
        &store(),
        1_795_000_000,
        Deadline::after(0),
    )
    .unwrap();
    let pages: i64 = database
        .connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    database
        .connection
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let settle = Change::Settle {
        issue: None,
        complete: Missing::NOTHING,
        redeem: None,
    };
    let mut writing = database.begin().unwrap();
    let (invoice, _) = writing.reread(&InvoiceId("a".into())).unwrap().unwrap();
    // At some point the audit log needs another page.
    let refused = (0..1_000)
        .find_map(|_| writing.write(&invoice, Some(&settle), |_| Vec::new()).err())
        .unwrap();
    let WriteError::Database(error) = refused else {
        panic!("{refused:?}");
    };
    assert!(format!("{error:#}").contains("disk is full"), "{error:#}");
    drop(writing);
    let status: String = service
        .query_row("SELECT status FROM invoices", [], |row| row.get(0))
        .unwrap();
    assert_eq!(status, "pending");
}

#[test]
fn no_query_scans_invoices_or_licenses() {
    for sql in candidates::QUERIES
        .iter()
        .chain(&write::QUERIES)
        .chain(&license::QUERIES)
        .chain(&redemption::QUERIES)
        .chain(&doubt::QUERIES)
        .copied()
        .chain([audit::query().as_str()])
    {
        let plan = plan(sql, "");
        // Only the index of pending redemptions is meant to be read from end to end.
        let plan = plan.replace(
            "SCAN discount_redemptions USING COVERING INDEX discount_redemptions_pending",
            "",
        );
        // And a view that is empty here.
        let plan = plan
            .replace("SCAN incomplete_invoices", "")
            .replace("SCAN CONSTANT ROW", "");
        assert!(!plan.contains("SCAN"), "{sql}\n{plan}");
        assert!(!plan.contains("BLOOM FILTER"), "{sql}\n{plan}");
    }
}

#[test]
fn license_by_hand_is_found_without_scanning_its_product() {
    for ours in ["", "DROP INDEX licenses_without_invoice;"] {
        let indexes = format!(
            "{ours}
             CREATE INDEX of_product ON licenses (product_id);
             CREATE INDEX of_buyer ON licenses (buyer_email);"
        );
        for sql in doubt::QUERIES {
            let plan = plan(sql, &indexes);
            for step in plan.lines().filter(|step| step.contains("gift")) {
                assert!(
                    step.contains("(buyer_email=?)") || step.contains("(invoice_id=?)"),
                    "{step}"
                );
            }
        }
    }
}
