//! What Keysat's database has beyond schema.sql. Keysat is the licensing service in the field; its
//! tables are recognized one by one, so that its databases of any age work alike. The other files of
//! the database call this module in three places, opening, listing and writing, and know none of its
//! tables.
//!
//! - `providers`: whose an invoice is, if the service has several payment providers
//! - `tier_changes`, `renewals`: invoices that are no purchases, and whether the service applied them
//! - `owed`: what a purchase is owed beside its license: `subscriptions`, `deliveries`, a tip
//! - `trail`: what `audit_log` says of things whose rows are gone
//! - `tables`: the columns that are used

mod deliveries;
mod owed;
mod providers;
mod renewals;
mod subscriptions;
mod tables;
mod tier_changes;
mod trail;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use anyhow::Result;
use rusqlite::{Connection, Savepoint, ToSql};
use serde_json::{Value, json};

use super::audit::Log;
use super::clock::Clock;
use super::row::execute_one;
use super::views::Views;
use crate::invoice::{BtcpayInvoiceId, Invoice, License, Purpose, Store};

pub use owed::AlsoOwed;
use providers::UnknownStore;
pub use trail::{ACTIONS, Trail};

/// A database with tables of Keysat's.
pub struct Keysat {
    /// Those of the tables that matter, as `table.column`, in lower case.
    columns: HashSet<String>,
    log: Rc<RefCell<Log>>,
    /// The newest row of `webhook_deliveries` that was searched for undelivered licenses.
    deliveries_read_to: Cell<i64>,
    /// Unix second of the first delivery to each endpoint, once they were searched.
    first_heard: RefCell<HashMap<String, i64>>,
}

const COLUMNS: &str = "
SELECT lower(tables.name || '.' || columns.name)
  FROM sqlite_schema AS tables
  JOIN pragma_table_xinfo(tables.name) AS columns
 WHERE tables.type = 'table'
   AND lower(tables.name) IN (
         'tier_changes', 'subscriptions', 'subscription_invoices', 'payment_providers',
         'btcpay_config', 'webhook_endpoints', 'webhook_deliveries',
         'invoices', 'policies', 'products')";

/// Fills in whether the service has applied what `invoice` pays for, if it is no purchase; and takes
/// back what its license does not lack after all.
///
/// # Errors
///
/// A row of Keysat's cannot be used.
pub fn fill_in_applied(
    invoice: &mut Invoice,
    keysat: Option<&Keysat>,
    connection: &Connection,
    clock: Clock,
) -> Result<()> {
    let Some(keysat) = keysat else { return Ok(()) };
    invoice.purpose = match invoice.purpose {
        Purpose::Purchase => Purpose::Purchase,
        Purpose::TierChange { .. } => Purpose::TierChange {
            applied: keysat.tier_change_is_applied(connection, invoice, clock)?,
        },
        Purpose::Renewal { .. } => Purpose::Renewal {
            applied: renewals::renewal_is_applied(connection, invoice, clock)?,
        },
    };
    if let License::Issued { id, .. } = &invoice.license {
        let missing = &mut invoice.missing;
        if missing.subscription {
            missing.subscription = keysat.was_issued_as_recurring(connection, id)?;
        }
        if missing.delivery {
            let left_out = keysat.endpoints_left_out(connection, id, invoice.created)?;
            missing.delivery = !left_out.is_empty();
        }
    }
    Ok(())
}

/// Where a license says that it comes from. Keysat's pages and its operators' programs know
/// sales by `purchase`.
pub fn license_metadata(btcpay_id: &BtcpayInvoiceId) -> Value {
    json!({"source": "purchase", "btcpay_invoice_id": btcpay_id, "issued_by": "reconcile"})
}

impl Keysat {
    /// None in a database without any table of Keysat's, older ones included.
    pub fn recognize(
        connection: &Connection,
        log: Rc<RefCell<Log>>,
    ) -> rusqlite::Result<Option<Self>> {
        let mut statement = connection.prepare(COLUMNS)?;
        let columns = statement.query_map([], |row| row.get(0))?;
        let keysat = Self {
            columns: columns.collect::<rusqlite::Result<_>>()?,
            log,
            deliveries_read_to: Cell::default(),
            first_heard: RefCell::default(),
        };
        let is_keysats = keysat.has_tier_changes()
            || keysat.has_subscriptions()
            || keysat.has_providers()
            || keysat.has_webhooks()
            || keysat.has("btcpay_config", "store_id");
        Ok(is_keysats.then_some(keysat))
    }

    /// Changes the views' SQL to what this database says.
    ///
    /// # Errors
    ///
    /// None of the service's payment providers is `store`.
    pub fn change_views(
        &self,
        views: &mut Views,
        connection: &Connection,
        store: &Store,
    ) -> rusqlite::Result<Result<(), UnknownStore>> {
        if self.has_providers() {
            views.is_ours = match providers::note_ours(connection, store)? {
                Ok(unnamed_are_ours) => self.is_ours(unnamed_are_ours),
                Err(unknown) => return Ok(Err(unknown)),
            };
        }
        let mut purposes = Vec::new();
        let mut incomplete = Vec::new();
        if self.has_tier_changes() {
            purposes.push(("tier_change", tier_changes::IS_TIER_CHANGE));
            incomplete.push(tier_changes::SETTLED_TIER_CHANGES);
        }
        if self.has_subscriptions() {
            purposes.push(("renewal", renewals::IS_RENEWAL));
            incomplete.push(renewals::RENEWALS_PAST_DUE);
        }
        if self.has_recurring_policies() {
            incomplete.push(subscriptions::SALES_WITHOUT_SUBSCRIPTION);
            views.is_recurring = "is_recurring".into();
            views.trial_days = "trial_days".into();
        }
        if self.has_webhooks() {
            connection.execute_batch(deliveries::UNDELIVERED)?;
            incomplete.push(deliveries::SALES_UNDELIVERED);
        }
        if !incomplete.is_empty() {
            views.incomplete = incomplete.join(" UNION ALL ");
        }
        if !purposes.is_empty() {
            let whens = purposes
                .iter()
                .map(|(purpose, applies)| format!("WHEN {applies} THEN '{purpose}'"));
            views.purpose = format!("CASE {} END", whens.collect::<Vec<_>>().join(" "));
        }
        // Only a purchase is owed these, and a license that has not changed since.
        let is_purchase = format!(
            "invoices.status = 'settled' AND ({}) IS NULL",
            views.purpose
        );
        let unchanged = if self.has_tier_changes() {
            "NOT EXISTS (SELECT 1 FROM main.tier_changes WHERE license_id = licenses.id)"
        } else {
            "1"
        };
        if self.has_recurring_policies() {
            let missing = |what: &str| format!("{is_purchase} AND {unchanged} AND {what}");
            views.missing_subscription = missing(subscriptions::HAS_NO_SUBSCRIPTION);
            views.missing_cycle = missing(subscriptions::HAS_NO_CYCLE);
        }
        if self.has_webhooks() {
            views.missing_delivery = format!("{is_purchase} AND {}", deliveries::IS_UNDELIVERED);
        }
        Ok(Ok(()))
    }

    // Another service may have a table of the same name; columns that refer to invoices, or most of
    // the columns, tell them apart.

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
        self.has_most_of(tables::ENDPOINTS) && self.has_most_of(tables::DELIVERIES)
    }

    fn has(&self, table: &str, column: &str) -> bool {
        self.columns.contains(&format!("{table}.{column}"))
    }

    /// Inserts one row, without the columns that this database is too old for.
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
