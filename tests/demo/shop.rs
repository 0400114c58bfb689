//! The demo's shop, which lost its webhooks.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::btcpay::{Btcpay, Invoice, Payment};

const SALES: &str = "
INSERT INTO products (id, slug, name, price_sats) VALUES ('pro', 'pro', 'Editor Pro', 21000);
INSERT INTO policies (id, product_id, name, slug, max_machines) VALUES ('std', 'pro', 'Standard', 'default', 3);
INSERT INTO discount_codes (id, code, kind, amount, used_count) VALUES ('launch', 'LAUNCH', 'percent', 10, 2);
INSERT INTO invoices (id, btcpay_invoice_id, product_id, buyer_email, amount_sats, status, created_at, updated_at)
SELECT column1, 'btcpay-' || column1, 'pro', column2, 21000, column3,
       strftime('%Y-%m-%dT%H:%M:%SZ', 'now', column4), strftime('%Y-%m-%dT%H:%M:%SZ', 'now', column4)
  FROM (VALUES ('inv-1', 'alice@example.com', 'pending', '-9 hours'),
               ('inv-2', 'bob@example.com',   'pending', '-7 hours'),
               ('inv-3', 'carol@example.com', 'settled', '-5 hours'),
               ('inv-4', 'dave@example.com',  'pending', '-3 hours'),
               ('inv-5', 'erin@example.com',  'pending', '-5 minutes'));
INSERT INTO discount_redemptions (id, code_id, invoice_id)
VALUES ('red-1', 'launch', 'inv-1'), ('red-2', 'launch', 'inv-2');
";

/// Creates the database. Returns its path and a connection to it.
pub fn open_shop(folder: &Path) -> rusqlite::Result<(PathBuf, Connection)> {
    let database = folder.join("licenses.db");
    let shop = Connection::open(&database)?;
    shop.execute_batch(include_str!("../../schema.sql"))?;
    shop.execute_batch(SALES)?;
    Ok((database, shop))
}

/// What BTCPay Server says of its sales.
pub fn server() -> Btcpay {
    let btcpay = Btcpay::start();
    for (id, status) in [
        ("inv-1", "Settled"),
        ("inv-2", "Expired"),
        ("inv-3", "Settled"),
        ("inv-4", "Expired"),
        ("inv-5", "New"),
    ] {
        btcpay.add(Invoice::new(&format!("btcpay-{id}"), status, "0.00021"));
    }
    btcpay.change("btcpay-inv-4", |invoice| {
        invoice.additional = "PaidLate".into();
        invoice.paid = "0.00021".into();
        invoice.created -= 2 * 3600;
        let expires = invoice.created + 15 * 60;
        invoice.expires = Some(expires);
        let mut late = Payment::new("0.00021", expires + 40);
        late.status = "Settled".into();
        invoice.payments.push(late);
    });
    btcpay
}
