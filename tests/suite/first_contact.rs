//! The first run: nothing is set up yet, or setup went wrong in one of the likeliest ways. Each
//! message says how to fix the mistake.

use rusqlite::TransactionBehavior;
use serde_json::json;

use crate::btcpay::{Fault, KEY, STORE};
use crate::program::Run;
use crate::shop::{BTC, Shop};

#[test]
fn missing_setup_is_explained_in_three_lines() {
    Run::bare().exits(2).prints("").warns(
        "error: nothing is set up: give the licensing service's database (--database [..]),
         error: BTCPay Server and the store in it (--btcpay-url [..] --store-id [..]),
         error: and an API key (--api-key-file [..]). README.md leads through it: Set it up",
    );
}

#[test]
fn misspelled_option_gets_a_suggestion() {
    let ran = Run::bare().flag("--dry-rum").exits(2);
    assert!(ran.stderr.contains("'--dry-run'"), "{}", ran.stderr);
}

/// A shop with one pending invoice.
fn shop_with_a_sale() -> Shop {
    let shop = Shop::open();
    shop.sale("a").made();
    shop
}

#[test]
fn likeliest_setup_mistakes_come_with_a_fix() {
    // A wrong path in the URL.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--btcpay-url", &(shop.btcpay.url() + "/btcpay"))
        .exits(1)
        .warns("error: there is no store [..] at [..]/btcpay (404): correct --store-id, or --btcpay-url if BTCPay Server lives under another path");

    // http instead of https: a proxy redirects to https.
    let shop = shop_with_a_sale();
    let moved = Fault::Answer(301, "Location: https://btcpay.local/\r\n", String::new());
    shop.btcpay.fails("btc-a", moved.clone());
    shop.btcpay.fails("list", moved);
    shop.reconcile()
        .exits(1)
        .warns("error: the request was redirected to https://btcpay.local/ [..]: give --btcpay-url the address that answers itself");

    // The web page of another service.
    let shop = shop_with_a_sale();
    let page = Fault::Answer(200, "", "<!doctype html><title>Umbrel</title>".into());
    shop.btcpay.fails("btc-a", page.clone());
    shop.btcpay.fails("list", page);
    shop.reconcile().exits(1).warns(
        "error: got a web page instead of an invoice: see that --btcpay-url is BTCPay Server's own address[..]",
    );

    // A key for another store, or a misspelled store id.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--store-id", "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K777")
        .exits(1)
        .warns("error: BTCPay Server does not let this API key see the invoices of the store 9CiN[..]777 (403): correct --store-id, or give the key the permission [..] for this store");

    // A key without the permission.
    let shop = shop_with_a_sale();
    shop.btcpay.take_permission_from(KEY);
    shop.reconcile().exits(1).warns(&format!(
        "error: BTCPay Server does not let this API key see the invoices of the store {STORE} (403): [..]'View invoices' (btcpay.store.canviewinvoices) for this store"
    ));

    // A key that the server does not know.
    let shop = shop_with_a_sale();
    shop.btcpay.revoke(KEY);
    shop.reconcile().exits(1).warns(
        "error: BTCPay Server refused the API key (401): make one under Account, API Keys, with the permission [..]",
    );

    // This machine's clock is wrong.
    let shop = shop_with_a_sale();
    let answer =
        json!({"id": "btc-a", "storeId": STORE, "status": "New", "currency": "BTC", "amount": BTC});
    let then = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
    shop.btcpay
        .fails("btc-a", Fault::Answer(200, then, answer.to_string()));
    shop.reconcile().exits(0).warns(
        "warning: this machine's clock is [..] minutes ahead of BTCPay Server's: set it right [..]",
    );

    // The path to the database is wrong.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--database", "/var/lib/licencing/licenses.db")
        .exits(1)
        .warns("error: there is no database at /var/lib/licencing/licenses.db: give --database the licensing service's file, or make a new one with: [..]");

    // The schema is outdated.
    let shop = shop_with_a_sale();
    shop.sql("ALTER TABLE licenses DROP COLUMN is_trial");
    shop.reconcile()
        .exits(1)
        .warns("error: [..]column licenses.is_trial is missing; [..] bring the service up to date");

    // The service holds the lock.
    let shop = shop_with_a_sale();
    let mut service = shop.connection();
    let lock = service
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .unwrap();
    shop.reconcile()
        .option("--deadline", "1")
        .exits(1)
        .warns("error: [..]another program held its lock [..]; the next run tries again, and if this lasts, fuser -v '/[..]/licenses.db' says who holds it[..]");
    drop(lock);

    // A host name that does not resolve.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--btcpay-url", "http://btcpay-nowhere.internal")
        .exits(1)
        .warns("error: could not connect to BTCPay Server at http://btcpay-nowhere.internal/; see that it runs and that --btcpay-url is right: [..]dns error[..]");
}
