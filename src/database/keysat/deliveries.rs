//! Deliveries to the operator's programs, which the service makes once they are queued. This is how
//! they hear that a license was issued or a code redeemed.

use std::collections::HashMap;

use anyhow::Result;
use rusqlite::{Connection, Savepoint, named_params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Keysat;
use crate::database::row::{column_value, flag};
use crate::invoice::LicenseId;

pub const LICENSE_ISSUED: &str = "license.issued";
pub const CODE_REDEEMED: &str = "code.redeemed";

const ENDPOINTS: &str = "
SELECT id, event_types, active
  FROM webhook_endpoints
 ORDER BY rowid";

/// Licenses of the window without a delivery of their issue, although an endpoint had one of any
/// event before the sale. Filled for closed invoices only: the table has no index that helps.
pub const UNDELIVERED: &str = "
CREATE TEMP TABLE undelivered (license_id TEXT PRIMARY KEY) WITHOUT ROWID";

pub const IS_UNDELIVERED: &str =
    "licenses.status = 'active' AND licenses.id IN (SELECT license_id FROM temp.undelivered)";

pub const SALES_UNDELIVERED: &str = "
SELECT invoices.id AS invoice_id, invoices.created_at
  FROM temp.undelivered
 CROSS JOIN main.licenses ON licenses.id = undelivered.license_id
 CROSS JOIN main.invoices ON invoices.id = licenses.invoice_id";

const FIND_UNDELIVERED: &str = "
INSERT INTO temp.undelivered
SELECT licenses.id
  FROM main.invoices
  JOIN main.licenses ON licenses.invoice_id = invoices.id
 WHERE invoices.status = 'settled'
   AND invoices.created_at >= date(:since, 'unixepoch', '-1 day')
   AND licenses.status = 'active'
   AND unixepoch(invoices.created_at) > :first_heard
   AND licenses.id NOT IN (
         SELECT payload_json ->> '$.data.license_id'
           FROM main.webhook_deliveries
          WHERE event_type = 'license.issued'
            AND created_at >= date(:since, 'unixepoch', '-1 day')
            AND json_valid(payload_json)
            AND payload_json ->> '$.data.license_id' IS NOT NULL)";

const WAS_DELIVERED: &str = "
SELECT 1
  FROM webhook_deliveries
 WHERE rowid > ?1
   AND event_type = 'license.issued'
   AND json_valid(payload_json)
   AND payload_json ->> '$.data.license_id' = ?2";

const FIRST_HEARD: &str = "
SELECT min(unixepoch(created_at))
  FROM main.webhook_deliveries
 WHERE endpoint_id = ?1";

impl Keysat {
    /// The active endpoints that hear of `event`.
    pub(super) fn endpoints(&self, connection: &Connection, event: &str) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        if !self.has_webhooks() {
            return Ok(ids);
        }
        let mut statement = connection.prepare_cached(ENDPOINTS)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let event_types: String = column_value(row, "event_types")?;
            let event_types: Vec<String> = serde_json::from_str(&event_types).unwrap_or_default();
            let hears = event_types.iter().any(|one| one == "*" || one == event);
            if flag(row, "webhook_endpoints", "active")? && hears {
                ids.push(column_value(row, "id")?);
            }
        }
        Ok(ids)
    }

    /// Fills `undelivered` with licenses of sales since Unix second `since`.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn find_undelivered(&self, connection: &Connection, since: i64) -> rusqlite::Result<()> {
        // What is wrong with an endpoint is said when a license is issued.
        let endpoints = self
            .endpoints(connection, LICENSE_ISSUED)
            .unwrap_or_default();
        if endpoints.is_empty() {
            return Ok(());
        }
        let mut statement = connection.prepare(FIRST_HEARD)?;
        let mut heard = HashMap::new();
        for endpoint in endpoints {
            let first: Option<i64> = statement.query_row([&endpoint], |row| row.get(0))?;
            heard.extend(first.map(|first| (endpoint, first)));
        }
        let Some(first_heard) = heard.values().min().copied() else {
            return Ok(());
        };
        self.first_heard.replace(heard);
        let newest = connection.query_row(
            "SELECT coalesce(max(rowid), 0) FROM main.webhook_deliveries",
            [],
            |row| row.get(0),
        )?;
        self.deliveries_read_to.set(newest);
        connection.execute(
            FIND_UNDELIVERED,
            named_params! { ":since": since, ":first_heard": first_heard },
        )?;
        Ok(())
    }

    /// The endpoints that still have to hear of a license issued for a sale of Unix second `sold`:
    /// none if the service has queued it meanwhile.
    pub(super) fn endpoints_left_out(
        &self,
        connection: &Connection,
        license_id: &LicenseId,
        sold: i64,
    ) -> Result<Vec<String>> {
        let read_to = self.deliveries_read_to.get();
        let mut was_delivered = connection.prepare_cached(WAS_DELIVERED)?;
        if was_delivered.exists((read_to, &license_id.0))? {
            return Ok(Vec::new());
        }
        let first_heard = self.first_heard.borrow();
        let mut left_out = self.endpoints(connection, LICENSE_ISSUED)?;
        left_out.retain(|id| first_heard.get(id).is_some_and(|first| *first < sold));
        Ok(left_out)
    }

    /// Queues one delivery per endpoint.
    pub(super) fn queue(
        &self,
        savepoint: &Savepoint,
        endpoints: &[String],
        event: &str,
        data: &Value,
        now: &str,
    ) -> Result<()> {
        let envelope = json!({"event_type": event, "timestamp": now, "data": data}).to_string();
        endpoints.iter().try_for_each(|endpoint_id| {
            self.insert(
                savepoint,
                "webhook_deliveries",
                &[
                    ("id", &Uuid::new_v4().to_string()),
                    ("endpoint_id", endpoint_id),
                    ("event_type", &event),
                    ("payload_json", &envelope),
                    ("attempt_count", &0),
                    ("next_attempt_at", &now),
                    ("created_at", &now),
                ],
            )
        })
    }
}
