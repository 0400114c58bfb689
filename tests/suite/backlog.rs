//! Many invoices at once: a run asks for them in groups of order ids, or pages through the store's list
//! where most of it is in question, and fetches by id any invoice that neither shows.

use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use crate::btcpay::{self, Fault, Invoice, STORE};
use crate::shop::{BTC, Shop};
use crate::stops::start;

const ALL_SETTLED: fn(i64) -> &'static str = |_| "Settled";

/// The number of requests for pages of the list, and for single invoices.
fn pages_and_single(shop: &Shop) -> (usize, usize) {
    let mut requests = shop.btcpay.requests();
    requests.retain(|path| !path.contains("api-keys") && !path.contains("payment-methods"));
    let pages = requests
        .iter()
        .filter(|path| path.contains("/invoices?"))
        .count();
    (pages, requests.len() - pages)
}

#[test]
fn many_invoices_are_listed_and_few_fetched_by_id() {
    let shop = Shop::open();
    shop.many_sales(10, ALL_SETTLED);
    shop.reconcile().flag("-n").exits(0);
    assert_eq!(pages_and_single(&shop), (0, 10));

    let shop = Shop::open();
    shop.many_sales(1200, |place| {
        ["Settled", "Expired", "Invalid", "New"][usize::try_from(place % 4).unwrap()]
    });
    let dry = shop.reconcile().flag("-n").json(0);
    assert_eq!(shop.statuses(), "1200 pending");
    let report = shop.reconcile().json(0);
    let (pages, single) = pages_and_single(&shop);
    // One that is left over is not worth a page.
    assert!(pages <= 24 && single <= 1, "{pages}, {single}");
    for report in [&dry, &report] {
        assert_eq!(report["checked"], 1200);
        assert_eq!(report["changes"].as_array().unwrap().len(), 900);
    }
    assert_eq!(
        shop.statuses(),
        "300 expired, 300 invalid, 300 pending, 300 settled"
    );
    assert_eq!(
        shop.query(
            "SELECT count(*) FROM licenses JOIN invoices ON invoices.id = invoice_id
              WHERE invoices.status = 'settled' AND btcpay_invoice_id = 'btc-' || invoice_id"
        ),
        "300"
    );
    shop.reconcile().exits(0).says_nothing();
}

#[test]
fn group_request_has_the_expected_query() {
    let shop = Shop::open();
    shop.many_sales(11, ALL_SETTLED);
    shop.sql("UPDATE invoices SET id = 'a b&c' WHERE id = '5'");
    let oldest: i64 = shop
        .query("SELECT min(unixepoch(created_at)) FROM invoices")
        .parse()
        .unwrap();
    shop.btcpay.change("btc-5", |invoice| {
        invoice.order_id = Some("a b&c".into());
    });
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), "11 settled");
    let requests = shop.btcpay.requests();
    let ids: Vec<&str> = requests
        .iter()
        .flat_map(|path| path.split('&'))
        .filter_map(|pair| pair.strip_prefix("orderId="))
        .collect();
    let singles = requests
        .iter()
        .filter(|path| path.contains("/btc-"))
        .count();
    assert_eq!(ids.len() + singles, 11, "{requests:?}");
    for path in requests.iter().filter(|path| !path.contains("/btc-")) {
        let (path, query) = path.split_once('?').unwrap();
        assert_eq!(path, format!("/api/v1/stores/{STORE}/invoices"));
        let value = |name: &str| -> i64 {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(found, _)| *found == name)
                .unwrap()
                .1
                .parse()
                .unwrap()
        };
        assert!((oldest - 3600..=oldest + 10).contains(&value("startDate")));
        assert!((oldest..=oldest + 10 + 3600).contains(&value("endDate")));
        assert!(query.contains("&includeArchived=true&"), "{query}");
        assert!(!query.contains("take="), "{query}");
    }
}

#[test]
fn paging_stops_once_every_candidate_is_seen() {
    let shop = Shop::open();
    shop.many_sales(600, ALL_SETTLED);
    shop.sql(
        "UPDATE invoices SET created_at = '2020-01-01T00:00:00Z' WHERE CAST(id AS INTEGER) >= 400",
    );
    shop.sale("old")
        .here("settled")
        .created("'2020-01-01T00:00:00Z'")
        .made();
    shop.reconcile().exits(0);
    let (pages, single) = pages_and_single(&shop);
    assert!(pages <= 10 && single <= 1, "{pages}, {single}");
    assert_eq!(shop.query("SELECT count(*) FROM licenses"), "400");
}

#[test]
fn invoices_created_while_paging_do_no_harm() {
    let shop = Shop::open();
    shop.many_sales(1200, ALL_SETTLED);
    let head = shop.btcpay.later(|invoices| {
        let newest = invoices[0].created;
        for place in 0..7 {
            let mut new = Invoice::new(&format!("web-shop-{place}"), "New", BTC);
            new.created = newest + 1;
            invoices.push(new);
        }
    });
    shop.btcpay.when_asked_for("later page", head);
    let report = shop.reconcile().json(0);
    assert_eq!(report["checked"], 1200);
    assert_eq!(report["changes"].as_array().unwrap().len(), 1200);
    assert_eq!(shop.statuses(), "1200 settled");
}

#[test]
fn invoices_deleted_between_pages_lose_no_other() {
    let shop = Shop::open();
    shop.many_sales(1200, ALL_SETTLED);
    let deleted = shop.btcpay.later(|invoices| drop(invoices.drain(..5)));
    shop.btcpay.when_asked_for("later page", deleted);
    // Whether they were shown before they were deleted depends on where the run began.
    let report = shop.reconcile().json(0);
    let gone = report["attention"].as_array().unwrap().len();
    assert!(gone <= 5, "{report}");
    assert_eq!(report["checked"], 1200);
    assert_eq!(report["changes"].as_array().unwrap().len(), 1200 - gone);
}

#[test]
fn equal_creation_times_across_pages_lose_nothing() {
    let shop = Shop::open();
    shop.many_sales(1200, ALL_SETTLED);
    shop.btcpay.later(|invoices| {
        let newest = invoices[0].created;
        for invoice in invoices {
            invoice.created = newest;
        }
    })();
    let report = shop.reconcile().json(0);
    assert_eq!(report["checked"], 1200);
    assert_eq!(shop.statuses(), "1200 settled");
}

#[test]
fn archived_candidate_is_listed() {
    let shop = Shop::open();
    shop.many_sales(20, ALL_SETTLED);
    shop.btcpay
        .change("btc-7", |invoice| invoice.archived = true);
    shop.reconcile().exits(0);
    let (groups, single) = pages_and_single(&shop);
    assert!(groups <= 2 && single <= 1, "{groups}, {single}");
    assert_eq!(shop.state("7"), "settled, licensed");
}

#[test]
fn candidate_gone_from_btcpay_needs_attention_and_stays_pending() {
    for version in [btcpay::Version::UpTo2_3, btcpay::Version::From2_4] {
        let shop = Shop::open();
        shop.btcpay.is_version(version);
        shop.many_sales(20, ALL_SETTLED);
        shop.sql("UPDATE invoices SET btcpay_invoice_id = 'btc-gone' WHERE id = '7'");
        let report = shop.reconcile().json(0);
        assert_eq!(report["attention"][0]["invoice_id"], "7");
        assert_eq!(report["attention"][0]["reason"], "not_in_btcpay");
        assert_eq!(report["checked"], 20);
        assert_eq!(shop.statuses(), "1 pending, 19 settled");
    }
}

#[test]
fn unclear_list_entry_is_fetched_by_id() {
    let shop = Shop::open();
    shop.many_sales(20, ALL_SETTLED);
    shop.btcpay
        .change("btc-3", |invoice| invoice.status = "Odd".into());
    shop.btcpay
        .change("btc-5", |invoice| invoice.amount = json!([1]));
    let report = shop.reconcile().json(3);
    assert_eq!(report["failures"].as_array().unwrap().len(), 2);
    assert!(pages_and_single(&shop).1 >= 2);
    assert_eq!(shop.statuses(), "2 pending, 18 settled");
}

#[test]
fn unavailable_list_falls_back_to_single_requests() {
    for fault in [
        Fault::Answer(500, "", String::new()),
        Fault::Answer(422, "", r#"[{"path":"startDate","message":"odd"}]"#.into()),
        Fault::Answer(200, "", "<html></html>".into()),
        Fault::Answer(200, "", r#"{"invoices":[]}"#.into()),
        Fault::Answer(200, "", "[".repeat(100_000)),
        Fault::HalfABody,
        Fault::EndlessBody,
    ] {
        let shop = Shop::open();
        shop.many_sales(12, ALL_SETTLED);
        shop.btcpay.fails("list", fault);
        shop.reconcile().exits(0).warns("");
        assert_eq!(pages_and_single(&shop).1, 12);
        assert_eq!(shop.statuses(), "12 settled");
    }
}

/// A shop whose store has a hundred other invoices for each of its 60.
fn busy_shop() -> Shop {
    let shop = Shop::open();
    shop.many_sales(60, ALL_SETTLED);
    shop.btcpay.later(|invoices| {
        for candidate in invoices.clone() {
            for other in 0..100 {
                let mut other = Invoice::new(&format!("web-{other}"), "Settled", BTC);
                other.created = candidate.created;
                invoices.push(other);
            }
        }
    })();
    shop
}

#[test]
fn busy_store_is_asked_by_order_id() {
    let shop = busy_shop();
    let report = shop.reconcile().json(0);
    let (groups, single) = pages_and_single(&shop);
    assert!(groups <= 3 && single <= 2, "{groups}, {single}");
    assert_eq!(report["checked"], 60);
    assert_eq!(shop.statuses(), "60 settled");
}

#[test]
fn busy_store_without_order_ids_is_not_listed_in_full() {
    let shop = busy_shop();
    shop.btcpay.later(|invoices| {
        for invoice in invoices {
            invoice.order_id = None;
        }
    })();
    let report = shop.reconcile().json(0);
    let (pages, single) = pages_and_single(&shop);
    assert!(single >= 40, "{pages}, {single}");
    assert!(pages + single <= 2 * 60, "{pages}, {single}");
    assert_eq!(report["checked"], 60);
    assert_eq!(shop.statuses(), "60 settled");
}

#[test]
fn each_page_is_written_while_the_next_is_asked_for() {
    let shop = Shop::open();
    shop.many_sales(1200, ALL_SETTLED);
    let service = shop.connection();
    let (written, is_written) = mpsc::channel();
    let (answered, is_answered) = mpsc::channel();
    shop.btcpay.when_asked_for("later page", move || {
        answered
            .send(is_written.recv_timeout(Duration::from_secs(5)))
            .unwrap();
        service
            .execute(
                "UPDATE invoices SET buyer_note = 'the service can write'",
                [],
            )
            .expect("no lock waits for an answer");
    });
    let mut run = start(shop.reconcile());
    let mut changes = BufReader::new(run.stdout.take().unwrap()).lines();
    assert_eq!(changes.by_ref().take(100).count(), 100);
    written.send(()).unwrap();
    is_answered.recv().unwrap().expect("written in time");
    assert_eq!(changes.count(), 1100 + 1);
    assert!(run.wait().unwrap().success());
    assert_eq!(shop.statuses(), "1200 settled");
}

#[test]
fn one_bad_row_rolls_back_only_itself() {
    for refusal in [
        "CREATE TRIGGER picky BEFORE INSERT ON licenses WHEN new.invoice_id = '7'
         BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        "CREATE TRIGGER picky BEFORE INSERT ON licenses WHEN new.invoice_id = '7'
         BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END",
        // Fails only at commit.
        "CREATE TABLE ledger (license_id TEXT REFERENCES products (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER picky AFTER INSERT ON licenses WHEN new.invoice_id = '7'
         BEGIN INSERT INTO ledger VALUES (new.id); END",
    ] {
        let shop = Shop::open();
        shop.many_sales(20, ALL_SETTLED);
        shop.sql(refusal);
        let report = shop.reconcile().json(3);
        assert_eq!(report["failures"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["failures"][0]["invoice_id"], "7");
        assert_eq!(report["changes"].as_array().unwrap().len(), 19);
        assert_eq!(shop.statuses(), "1 pending, 19 settled", "{refusal}");
        assert_eq!(shop.query("SELECT count(*) FROM licenses"), "19");
        assert_eq!(shop.query("SELECT count(*) FROM audit_log"), "38");
    }
}

#[test]
fn two_rows_sharing_a_btcpay_invoice_are_reconciled() {
    let schema = include_str!("../../schema.sql");
    let not_unique = schema.replace(
        "btcpay_invoice_id TEXT NOT NULL UNIQUE",
        "btcpay_invoice_id TEXT NOT NULL",
    );
    assert_ne!(schema, not_unique);
    let shop = Shop::open_with(&not_unique);
    shop.many_sales(20, ALL_SETTLED);
    shop.sql("UPDATE invoices SET btcpay_invoice_id = 'btc-6' WHERE id = '7'");
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), "20 settled");
}
