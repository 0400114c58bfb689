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
        "error: no database and no server given. Set --database (RECONCILE_DATABASE),
         error: --btcpay-url (BTCPAY_URL), --store-id (BTCPAY_STORE_ID) and --api-key-file
         error: (BTCPAY_API_KEY_FILE). README.md explains them under 'Set it up'",
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
        .warns(
            "error: no BTCPay Server API at [..]/btcpay (404: [..]). Should --btcpay-url be [..]/?",
        );

    // http instead of https: a proxy redirects to https.
    let shop = shop_with_a_sale();
    let moved = Fault::Answer(301, "Location: https://btcpay.local/\r\n", String::new());
    shop.btcpay.fails("btc-a", moved.clone());
    shop.btcpay.fails("list", moved);
    shop.reconcile()
        .exits(1)
        .warns("error: BTCPay Server redirects to https://btcpay.local/ [..]. Set --btcpay-url to https://btcpay.local/");

    // The web page of another service.
    let shop = shop_with_a_sale();
    let page = Fault::Answer(200, "", "<!doctype html><title>Umbrel</title>".into());
    shop.btcpay.fails("btc-a", page.clone());
    shop.btcpay.fails("list", page);
    shop.reconcile().exits(1).warns(
        "error: got a web page instead of an invoice. Is --btcpay-url the address of BTCPay Server itself, path included?",
    );

    // A key for another store, or a misspelled store id.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--store-id", "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K777")
        .exits(1)
        .warns("error: the API key may see the invoices of store 9CiN[..]776, not of 9CiN[..]777 (403). Correct --store-id, or create a key for this store");

    // A key without the permission.
    let shop = shop_with_a_sale();
    shop.btcpay.take_permission_from(KEY);
    shop.reconcile().exits(1).warns(&format!(
        "error: the API key lacks btcpay.store.canviewinvoices; it has none (403). Create one with the permission 'View invoices' for store {STORE}"
    ));

    // A key that the server does not know.
    let shop = shop_with_a_sale();
    shop.btcpay.revoke(KEY);
    shop.reconcile().exits(1).warns(
        "error: BTCPay Server refused the API key (401): [..]. Create one under Account, API Keys, with the permission [..]",
    );

    // This machine's clock is wrong.
    let shop = shop_with_a_sale();
    let answer =
        json!({"id": "btc-a", "storeId": STORE, "status": "New", "currency": "BTC", "amount": BTC});
    let then = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
    shop.btcpay
        .fails("btc-a", Fault::Answer(200, then, answer.to_string()));
    shop.reconcile().exits(0).warns(
        "warning: this machine's clock is [..] minutes ahead of BTCPay Server's. Correct it [..]",
    );

    // The path to the database is wrong.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--database", "/var/lib/licencing/licenses.db")
        .exits(1)
        .warns("error: no database at /var/lib/licencing/licenses.db. Set --database to the licensing service's file, or create a new one: [..]");

    // The schema is outdated.
    let shop = shop_with_a_sale();
    shop.sql("ALTER TABLE licenses DROP COLUMN is_trial");
    shop.reconcile()
        .exits(1)
        .warns("error: [..]column licenses.is_trial is missing. [..] update the service");

    // The service holds the lock.
    let shop = shop_with_a_sale();
    let mut service = shop.connection();
    let lock = service
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .unwrap();
    shop.reconcile()
        .option("--deadline", "1")
        .exits(1)
        .warns("error: deadline reached: could not read the database /[..]/licenses.db, which another program has locked (fuser -v '/[..]/licenses.db', of the package psmisc, shows which). The next run continues; [..]");
    drop(lock);

    // A host name that does not resolve.
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--btcpay-url", "http://btcpay-nowhere.internal")
        .exits(1)
        .warns("error: cannot reach BTCPay Server at http://btcpay-nowhere.internal/: lookup of btcpay-nowhere.internal failed ([..]). Is --btcpay-url right? 'getent hosts btcpay-nowhere.internal' shows [..]");
}
