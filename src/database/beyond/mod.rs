//! What a database may hold beyond the contract of schema.sql, and what that means: the tables of
//! Keysat, the licensing service in the field.
//!
//! They are recognised one by one, so that Keysat's databases of any age, and databases without any
//! of it, go the same way. What they say reaches the other modules through temporary views, which
//! live and die with the connection and are made in every database:
//!
//! - `invoices_beyond`: what an invoice is for (`purpose`, NULL: a purchase), whether the service has
//!   done its part (`is_done`), whether the invoice is of our store (`is_ours`), and whether its
//!   license may have been deleted (`license_deleted`);
//! - `half_done_beyond`: settled invoices that may lack something even if they have a license, and
//!   when they were made;
//! - `policies_beyond`: whether a policy is `archived`, and how many days of trial its licenses begin
//!   with (`trial_days`, NULL: none).

mod owed;
mod providers;
mod tables;
mod views;

use std::collections::HashSet;

use anyhow::Result;
use rusqlite::{Connection, Savepoint, ToSql};
use serde_json::{Value, json};

use super::row::execute_one;
use crate::invoice::BtcpayInvoiceId;

pub use owed::AlsoOwed;
pub use providers::NoProvider;

/// Which of it a database has.
pub struct Beyond {
    /// Of the tables that matter; as `table.column`, in lower case.
    columns: HashSet<String>,
    /// Whether any of it is there, or what older databases have in its place.
    is_keysats: bool,
}

const COLUMNS: &str = "
SELECT lower(tables.name || '.' || columns.name)
  FROM sqlite_schema AS tables
  JOIN pragma_table_info(tables.name) AS columns
 WHERE tables.type = 'table'
   AND lower(tables.name) IN (
         'tier_changes', 'subscriptions', 'subscription_invoices', 'payment_providers',
         'btcpay_config', 'webhook_endpoints', 'webhook_deliveries',
         'invoices', 'policies', 'products')";

impl Beyond {
    pub fn look(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare(COLUMNS)?;
        let columns = statement.query_map([], |row| row.get(0))?;
        let mut beyond = Self {
            columns: columns.collect::<rusqlite::Result<_>>()?,
            is_keysats: false,
        };
        beyond.is_keysats = beyond.has_tier_changes()
            || beyond.has_subscriptions()
            || beyond.has_providers()
            || beyond.has_webhooks()
            || beyond.has("btcpay_config", "store_id");
        Ok(beyond)
    }

    /// Keysat writes its times with `+00:00` and compares them as text.
    pub fn writes_times_with_offset(&self) -> bool {
        self.is_keysats
    }

    /// What a license says of where it comes from. Keysat's pages and its operators' own programs
    /// know sales by `purchase`.
    pub fn license_metadata(&self, btcpay_id: &BtcpayInvoiceId) -> Value {
        if self.is_keysats {
            json!({"source": "purchase", "btcpay_invoice_id": btcpay_id, "issued_by": "reconcile"})
        } else {
            json!({"source": "reconcile", "btcpay_invoice_id": btcpay_id})
        }
    }

    // A table of such a name may be of a service of another kind: what ties it to invoices tells, or
    // that it has most of the columns.

    fn has_tier_changes(&self) -> bool {
        self.has("tier_changes", "invoice_id")
    }

    fn has_subscriptions(&self) -> bool {
        self.has("subscription_invoices", "invoice_id")
            && self.has("subscription_invoices", "cycle_number")
    }

    fn has_recurring_policies(&self) -> bool {
        self.has_subscriptions() && self.has("policies", "is_recurring")
    }

    fn has_tips(&self) -> bool {
        self.has("policies", "tip_recipient")
    }

    fn has_providers(&self) -> bool {
        self.has("invoices", "payment_provider_id") && self.has_most_of(tables::PROVIDERS)
    }

    fn has_webhooks(&self) -> bool {
        self.has_most_of(tables::WEBHOOKS)
    }

    fn has(&self, table: &str, column: &str) -> bool {
        self.columns.contains(&format!("{table}.{column}"))
    }

    /// Inserts one row; columns that this database is too old for are left out.
    fn insert(
        &self,
        savepoint: &Savepoint,
        table: &str,
        values: &[(&str, &dyn ToSql)],
    ) -> Result<()> {
        let known = values.iter().filter(|(column, _)| self.has(table, column));
        let (columns, values): (Vec<&str>, Vec<&dyn ToSql>) = known.copied().unzip();
        let places = vec!["?"; columns.len()].join(", ");
        let columns = columns.join(", ");
        let sql = format!("INSERT INTO {table} ({columns}) VALUES ({places})");
        execute_one(savepoint, &format!("a row of {table}"), &sql, &values[..])
    }
}
