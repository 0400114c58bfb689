//! The first run: nothing set up yet, and the ten likeliest mistakes in setting up. Each is told in a
//! way from which a person can mend it.

use rusqlite::TransactionBehavior;
use serde_json::json;

use crate::btcpay::{Fault, KEY, STORE};
use crate::program::Run;
use crate::shop::{BTC, Shop};

#[test]
fn without_any_setting_three_lines_say_what_is_needed() {
    Run::bare().exits(2).prints("").warns(
        "error: nothing is set up: give the licensing service's database (--database [..]),
         error: BTCPay Server and the store in it (--btcpay-url [..] --store-id [..]),
         error: and an API key (--api-key-file [..]). README.md leads through it: Set it up",
    );
}

#[test]
fn an_option_misspelt_is_told_its_likeliest_meaning() {
    let ran = Run::bare().flag("--dry-rum").exits(2);
    assert!(ran.stderr.contains("'--dry-run'"), "{}", ran.stderr);
}

/// A shop with one invoice to ask about.
fn shop() -> Shop {
    let shop = Shop::open();
    shop.sale("a").made();
    shop
}

#[test]
fn the_ten_likeliest_mistakes_are_told_so_that_they_can_be_mended() {
    // A wrong path in the URL.
    let it = shop();
    it.reconcile()
        .option("--btcpay-url", &(it.btcpay.url() + "/btcpay"))
        .exits(1)
        .warns("error: there is no store [..] at [..]/btcpay (404): correct --store-id, or --btcpay-url if BTCPay Server lives under another path");

    // http for https: a proxy sends everybody there.
    let it = shop();
    let moved = Fault::Answer(301, "Location: https://btcpay.local/\r\n", String::new());
    it.btcpay.fails("btc-a", moved.clone());
    it.btcpay.fails("list", moved);
    it.reconcile()
        .exits(1)
        .warns("error: the request was redirected to https://btcpay.local/ [..]: give --btcpay-url the address that answers itself");

    // The web page of something else.
    let it = shop();
    let page = Fault::Answer(200, "", "<!doctype html><title>Umbrel</title>".into());
    it.btcpay.fails("btc-a", page.clone());
    it.btcpay.fails("list", page);
    it.reconcile().exits(1).warns(
        "error: got a web page instead of an invoice: see that --btcpay-url is BTCPay Server's own address[..]",
    );

    // A key for another store, or a store id misspelt.
    let it = shop();
    it.reconcile()
        .option("--store-id", "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K777")
        .exits(1)
        .warns("error: BTCPay Server does not let this API key see the invoices of the store 9CiN[..]777 (403): correct --store-id, or give the key the permission [..] for this store");

    // A key without the permission.
    let it = shop();
    it.btcpay.take_permission_from(KEY);
    it.reconcile().exits(1).warns(&format!(
        "error: BTCPay Server does not let this API key see the invoices of the store {STORE} (403): [..]'View invoices' (btcpay.store.canviewinvoices) for this store"
    ));

    // No key of this server.
    let it = shop();
    it.btcpay.revoke(KEY);
    it.reconcile().exits(1).warns(
        "error: BTCPay Server refused the API key (401): make one under Account, API Keys, with the permission [..]",
    );

    // The clock off.
    let it = shop();
    let answer =
        json!({"id": "btc-a", "storeId": STORE, "status": "New", "currency": "BTC", "amount": BTC});
    let then = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
    it.btcpay
        .fails("btc-a", Fault::Answer(200, then, answer.to_string()));
    it.reconcile().exits(0).warns(
        "warning: this machine's clock is [..] minutes ahead of BTCPay Server's: set it right [..]",
    );

    // The database's path wrong.
    let it = shop();
    it.reconcile()
        .option("--database", "/var/lib/licencing/licenses.db")
        .exits(1)
        .warns("error: there is no database at /var/lib/licencing/licenses.db: give --database the licensing service's file, or make a new one with: [..]");

    // A schema of older days.
    let it = shop();
    it.sql("ALTER TABLE licenses DROP COLUMN is_trial");
    it.reconcile()
        .exits(1)
        .warns("error: [..]column licenses.is_trial is missing; [..] bring the service up to date");

    // The service holds the lock.
    let it = shop();
    let mut service = it.connection();
    let lock = service
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .unwrap();
    it.reconcile()
        .option("--deadline", "1")
        .exits(1)
        .warns("error: [..]another program held its lock [..]; the next run tries again, and if this lasts, fuser -v '/[..]/licenses.db' says who holds it[..]");
    drop(lock);

    // A name that nobody knows.
    let it = shop();
    it.reconcile()
        .option("--btcpay-url", "http://btcpay-nowhere.internal")
        .exits(1)
        .warns("error: could not connect to BTCPay Server at http://btcpay-nowhere.internal/; see that it runs and that --btcpay-url is right: [..]dns error[..]");
}
