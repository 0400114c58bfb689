//! What Keysat noted in `audit_log` of things whose rows are gone.

use std::cell::Ref;
use std::collections::HashMap;

use anyhow::Result;
use rusqlite::Connection;
use serde_json::Value;

use super::Keysat;
use crate::database::audit::Note;
use crate::database::clock::{Clock, unix_seconds};
use crate::database::row::{column_value, one};
use crate::decide::Doubt;
use crate::invoice::{Deletion, Invoice, LicenseId, LocalStatus, Purpose};

/// The actions of Keysat's that are read.
pub const ACTIONS: [&str; 8] = [
    "subscription.upgrade.started",
    "subscription.upgrade.applied",
    "license.change_tier.invoice_created",
    "policy.update",
    "policy.delete",
    "policy.force_delete",
    "license.delete",
    "license.force_delete",
];

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

#[derive(Default)]
pub struct Trail {
    /// When each change of tier was applied, by its id.
    applied: HashMap<String, String>,
    /// Whether the change that an invoice pays for was applied, by whatever the details name.
    paid: HashMap<String, bool>,
    /// A policy that was set to be recurring, and the Unix second, if it can be read.
    set_recurring: Vec<(String, Option<i64>)>,
    deletions: Vec<(Deletion, Option<String>)>,
}

impl Trail {
    pub fn add(&mut self, note: Note) {
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
    fn trail(&self, connection: &Connection) -> Result<Ref<'_, Trail>> {
        if !self.log.borrow().is_read() {
            self.log.borrow_mut().read_on(connection)?;
        }
        Ok(Ref::map(self.log.borrow(), |log| &log.keysat))
    }

    /// When each change of tier was applied, by its id.
    pub(super) fn applied_changes(
        &self,
        connection: &Connection,
    ) -> Result<Ref<'_, HashMap<String, String>>> {
        Ok(Ref::map(self.trail(connection)?, |trail| &trail.applied))
    }

    /// Whether a license without a subscription was issued on a recurring policy. The policy may have
    /// become recurring later, and a change of tier whose row is gone may have given the license its
    /// policy.
    pub(super) fn was_issued_as_recurring(
        &self,
        connection: &Connection,
        license_id: &LicenseId,
    ) -> Result<bool> {
        let trail = self.trail(connection)?;
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
        if let Some(applied) = self.trail(connection)?.paid.get(&*invoice.id.0) {
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
        clock: Clock,
    ) -> Result<Option<Deletion>> {
        if invoice.status != LocalStatus::Settled {
            return Ok(None);
        }
        let trail = self.trail(connection)?;
        let suspect = trail.deletions.iter().find(|(deletion, product)| {
            // A sale that claims to be of the future says nothing of when it was made.
            let is_dated = invoice.created <= clock.now;
            let before_the_sale =
                is_dated && unix_seconds(&deletion.at).is_some_and(|at| at < invoice.created);
            let other_product = product
                .as_ref()
                .is_some_and(|product| product != product_id);
            !before_the_sale && !other_product
        });
        Ok(suspect.map(|(deletion, _)| deletion.clone()))
    }
}
