//! What the service noted in `audit_log` of things whose rows are gone. The log may be long and have
//! no index, so it is read once a run, when a license is about to be issued, and then only what has
//! come since.

use std::collections::HashMap;

use anyhow::Result;
use rusqlite::{Connection, Row};
use serde_json::Value;

use super::Keysat;
use crate::database::clock::unix_seconds;
use crate::database::row::{column_value, one};
use crate::decide::Doubt;
use crate::invoice::{Deletion, Invoice, LicenseId, LocalStatus, Purpose};

const TRAIL: &str = "
SELECT action, target_id, details_json, occurred_at
  FROM audit_log
 WHERE rowid > ?1
   AND action IN ('subscription.upgrade.started', 'subscription.upgrade.applied',
                  'license.change_tier.invoice_created', 'policy.update',
                  'policy.delete', 'policy.force_delete',
                  'license.delete', 'license.force_delete')";

const NEWEST_ROW: &str = "SELECT coalesce(max(rowid), 0) FROM audit_log";

const ISSUED: &str = "
SELECT policy_id, unixepoch(issued_at) AS issued_seconds
  FROM licenses
 WHERE id = ?1";

const SUBSCRIBED_BEFORE: &str = "
SELECT 1
  FROM subscriptions
 WHERE policy_id = ?1
   AND unixepoch(started_at) <= ?2
 LIMIT 1";

struct Note {
    action: String,
    target: String,
    details: Value,
    at: String,
}

fn read_note(row: &Row) -> Note {
    let text = |column| row.get::<_, String>(column).unwrap_or_default();
    Note {
        action: text("action"),
        target: text("target_id"),
        details: serde_json::from_str(&text("details_json")).unwrap_or_default(),
        at: text("occurred_at"),
    }
}

#[derive(Default)]
pub struct Trail {
    read_to: i64,
    /// When each change of tier was applied, by its id.
    applied: HashMap<String, String>,
    /// Whether the change that an invoice pays for was applied, by whatever the details name.
    paid: HashMap<String, bool>,
    /// A policy that was set to be recurring, and the Unix second, if it can be read.
    set_recurring: Vec<(String, Option<i64>)>,
    deletions: Vec<(Deletion, Option<String>)>,
}

impl Trail {
    fn read_on(&mut self, connection: &Connection) -> Result<()> {
        let newest = connection
            .prepare_cached(NEWEST_ROW)?
            .query_row([], |row| row.get(0))?;
        let mut statement = connection.prepare_cached(TRAIL)?;
        let mut rows = statement.query([self.read_to])?;
        while let Some(row) = rows.next()? {
            self.add(read_note(row));
        }
        self.read_to = newest;
        Ok(())
    }

    fn add(&mut self, note: Note) {
        match note.action.as_str() {
            "subscription.upgrade.applied" => {
                for named in texts(&note.details) {
                    self.paid.insert(named.into(), true);
                }
                let last = self.applied.entry(note.target).or_default();
                if note.at > *last {
                    *last = note.at;
                }
            }
            "subscription.upgrade.started" | "license.change_tier.invoice_created" => {
                for named in texts(&note.details) {
                    self.paid.entry(named.into()).or_insert(false);
                }
            }
            "policy.update" => {
                if note.details.get("is_recurring") == Some(&Value::Bool(true)) {
                    self.set_recurring
                        .push((note.target, unix_seconds(&note.at)));
                }
            }
            _ => {
                let product = note.details.get("product_id").and_then(Value::as_str);
                let product = product.map(String::from);
                let deletion = Deletion {
                    action: note.action,
                    target: note.target,
                    at: note.at,
                };
                self.deletions.push((deletion, product));
            }
        }
    }
}

/// All texts in a JSON value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

impl Keysat {
    /// When each change of tier was applied, by its id.
    pub(super) fn applied_changes(
        &self,
        connection: &Connection,
    ) -> Result<std::cell::Ref<'_, HashMap<String, String>>> {
        self.trail.borrow_mut().read_on(connection)?;
        Ok(std::cell::Ref::map(self.trail.borrow(), |trail| {
            &trail.applied
        }))
    }

    /// Whether a license without a subscription was issued on a recurring policy. The policy may have
    /// become recurring later, and a change of tier whose row is gone may have given the license its
    /// policy.
    pub(super) fn was_issued_as_recurring(
        &self,
        connection: &Connection,
        license_id: &LicenseId,
    ) -> Result<bool> {
        self.trail.borrow_mut().read_on(connection)?;
        let trail = self.trail.borrow();
        if trail.paid.contains_key(&*license_id.0) {
            return Ok(false);
        }
        let license = one(connection, ISSUED, &[&license_id.0], |row| {
            let policy_id: Option<String> = column_value(row, "policy_id")?;
            let issued: Option<i64> = column_value(row, "issued_seconds")?;
            Ok((policy_id, issued))
        })?;
        let Some((Some(policy_id), issued)) = license else {
            return Ok(false);
        };
        let set_since = trail.set_recurring.iter().any(|(policy, at)| {
            let before = at.is_some_and(|at| issued.is_some_and(|issued| at < issued));
            *policy == policy_id && !before
        });
        let mut subscribed_before = connection.prepare_cached(SUBSCRIBED_BEFORE)?;
        Ok(!set_since || subscribed_before.exists((policy_id, issued))?)
    }

    /// What an invoice paid for whose rows do not say it any more.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn doubt_of_purchase(
        &self,
        connection: &Connection,
        invoice: &Invoice,
    ) -> Result<Option<Doubt>> {
        self.trail.borrow_mut().read_on(connection)?;
        if let Some(applied) = self.trail.borrow().paid.get(&*invoice.id.0) {
            let applied = *applied;
            return Ok(Some(Doubt::NoPurchase(Purpose::TierChange { applied })));
        }
        if !self.has("invoices", "buyer_note") {
            return Ok(None);
        }
        let note = one(
            connection,
            "SELECT buyer_note FROM invoices WHERE id = ?1",
            &[&invoice.id.0],
            |row| Ok(row.get::<_, String>("buyer_note").unwrap_or_default()),
        )?;
        Ok(match note.unwrap_or_default().as_str() {
            "tier upgrade" | "admin tier-change" => {
                Some(Doubt::NotedAs(Purpose::TierChange { applied: false }))
            }
            note if note.starts_with("Renewal cycle for subscription") => {
                Some(Doubt::NotedAs(Purpose::Renewal { applied: false }))
            }
            _ => None,
        })
    }

    /// A deletion that may have taken the license of a sale that was settled before.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn deletion(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        product_id: &str,
    ) -> Result<Option<Deletion>> {
        if invoice.status != LocalStatus::Settled {
            return Ok(None);
        }
        self.trail.borrow_mut().read_on(connection)?;
        let trail = self.trail.borrow();
        let suspect = trail.deletions.iter().find(|(deletion, product)| {
            let before_the_sale = unix_seconds(&deletion.at).is_some_and(|at| at < invoice.created);
            let other_product = product
                .as_ref()
                .is_some_and(|product| product != product_id);
            !before_the_sale && !other_product
        });
        Ok(suspect.map(|(deletion, _)| deletion.clone()))
    }
}
