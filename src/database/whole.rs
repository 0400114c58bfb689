//! All that the database says of one invoice, for a person.

use anyhow::Result;
use rusqlite::{OptionalExtension, Row, named_params};

use super::Database;
use super::candidates::GRACE_SECONDS;
use super::errors::explain;
use super::row::shown;
use crate::decide::is_complete;
use crate::invoice::{Event, Here, Invoice, InvoiceId};

const HISTORY: &str = "
SELECT occurred_at, actor_kind, action, details_json
  FROM audit_log
 WHERE target_id IN (:id, :btcpay_id, :license_id, :redemption_id)
    OR instr(details_json, json_quote(:id))
 ORDER BY rowid";

const WAS_JUST_TOUCHED: &str = "
SELECT status = 'settled'
         AND updated_seconds > :untouched_since
         AND updated_seconds <= :now + 600
  FROM invoice_rows
 WHERE id = :id";

impl Database {
    /// Whether the service may still be at work on `invoice`: it is settled and incomplete, and was
    /// touched within the last minute.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn may_be_at_work_on(&self, invoice: &Invoice) -> Result<bool> {
        if is_complete(invoice) {
            return Ok(false);
        }
        let values = named_params! {
            ":id": invoice.id.0,
            ":now": self.clock.now,
            ":untouched_since": self.clock.now - GRACE_SECONDS,
        };
        let touched: rusqlite::Result<Option<bool>> = self
            .connection
            .query_row(WAS_JUST_TOUCHED, values, |row| row.get(0))
            .optional()
            .map(Option::flatten);
        match touched {
            Ok(touched) => Ok(touched == Some(true)),
            Err(error) => Err(explain(
                &error,
                "read an invoice of",
                &self.path,
                self.deadline,
            )),
        }
    }

    /// What its rows say, and its history, oldest first; None if it is gone.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn whole(&self, id: &InvoiceId) -> Result<Option<(Here, Vec<Event>)>> {
        let read = || -> rusqlite::Result<Option<(Here, Vec<Event>)>> {
            let subscription = match &self.keysat {
                Some(keysat) => keysat.subscription_of_license(),
                None => ["NULL", "NULL"],
            };
            let [status, next] = subscription;
            let mut statement = self.connection.prepare(&format!(
                "SELECT invoice_rows.*,
                        invoices.created_at, invoices.updated_at,
                        licenses.status AS license_status, licenses.issued_at, licenses.expires_at,
                        discount_redemptions.id AS redemption_id,
                        code_rows.code AS code,
                        {status} AS subscription_status, {next} AS next_renewal_at
                   FROM invoice_rows
                   JOIN main.invoices ON invoices.id = invoice_rows.id
                   LEFT JOIN main.licenses ON licenses.id = invoice_rows.license_id
                   LEFT JOIN main.discount_redemptions
                          ON discount_redemptions.invoice_id = invoice_rows.id
                   LEFT JOIN code_rows ON code_rows.id = discount_redemptions.code_id
                  WHERE invoice_rows.id = ?1"
            ))?;
            let found = statement.query_row([&id.0], |row| {
                let ids = ["btcpay_invoice_id", "license_id", "redemption_id"];
                let ids = ids.map(|column| text(row, column));
                Ok((read_here(row), ids))
            });
            let Some((here, ids)) = found.optional()? else {
                return Ok(None);
            };
            let [btcpay_id, license_id, redemption_id] = ids;
            let mut statement = self.connection.prepare(HISTORY)?;
            let history = statement.query_map(
                named_params! {
                    ":id": id.0,
                    ":btcpay_id": btcpay_id,
                    ":license_id": license_id,
                    ":redemption_id": redemption_id,
                },
                |row| Ok(read_event(row)),
            )?;
            Ok(Some((here, history.collect::<rusqlite::Result<_>>()?)))
        };
        read().map_err(|error| explain(&error, "read an invoice of", &self.path, self.deadline))
    }
}

/// Whatever the column holds; None for NULL.
fn text(row: &Row, column: &str) -> Option<String> {
    let value = row.get_ref(column).ok()?;
    (!matches!(value, rusqlite::types::ValueRef::Null)).then(|| shown(value).into())
}

fn read_here(row: &Row) -> Here {
    Here {
        status: text(row, "status"),
        buyer_email: text(row, "buyer_email"),
        product: text(row, "product"),
        amount_sats: row.get("amount_sats").ok(),
        created_at: text(row, "created_at"),
        updated_at: text(row, "updated_at"),
        license_id: text(row, "license_id"),
        license_status: text(row, "license_status"),
        license_issued_at: text(row, "issued_at"),
        license_expires_at: text(row, "expires_at"),
        discount_code: text(row, "code"),
        redemption_status: text(row, "redemption_status"),
        subscription_status: text(row, "subscription_status"),
        next_renewal_at: text(row, "next_renewal_at"),
    }
}

fn read_event(row: &Row) -> Event {
    let column = |column| text(row, column).unwrap_or_default();
    let details = column("details_json");
    Event {
        occurred_at: column("occurred_at"),
        actor_kind: column("actor_kind"),
        action: column("action"),
        details: serde_json::from_str(&details).unwrap_or(details.into()),
    }
}
