//! The service's `audit_log`: who did what. It may be long and have no index, so it is read once a
//! run, and under the write lock only what has come since.

use std::collections::HashMap;

use anyhow::Result;
use rusqlite::{Connection, Row, Savepoint, named_params};
use serde_json::{Value, json};

use super::clock::unix_seconds;
use super::keysat;
use super::row::execute_one;
use crate::attention::{self, NoteRow, Past};
use crate::invoice::{BtcpayInvoiceId, Deletion, InvoiceId};

pub const AUDIT: &str = "
INSERT INTO audit_log ( actor_kind,  action,  target_kind,  target_id,  details_json, occurred_at)
VALUES                (:actor_kind, :action, :target_kind, :target_id, :details_json, :now)";

pub const OURS: &str = "reconcile";

const LICENSE_ISSUED: &str = "license.issued";

const NEWEST_ROW: &str = "SELECT coalesce(max(rowid), 0) FROM audit_log";

/// Adds one row; `details` is JSON.
pub fn note(
    savepoint: &Savepoint,
    [actor_kind, action, target_kind, target_id]: [&str; 4],
    details: &str,
    now: &str,
) -> Result<()> {
    execute_one(
        savepoint,
        "the audit row",
        AUDIT,
        named_params! {
            ":actor_kind": actor_kind,
            ":action": action,
            ":target_kind": target_kind,
            ":target_id": target_id,
            ":details_json": details,
            ":now": now,
        },
    )
}

/// Adds a row of this program's about an invoice, with what is known of its ids.
///
/// # Errors
///
/// The database refuses it.
pub fn note_of_invoice(
    savepoint: &Savepoint,
    id: &InvoiceId,
    btcpay_id: Option<&BtcpayInvoiceId>,
    (action, mut details): NoteRow,
    now: &str,
) -> Result<()> {
    if let Some(fields) = details.as_object_mut() {
        fields.insert("invoice_id".into(), json!(id));
        fields.extend(btcpay_id.map(|id| ("btcpay_invoice_id".into(), json!(id))));
    }
    let note_of = [OURS, action, "invoice", &id.0];
    note(savepoint, note_of, &details.to_string(), now)
}

/// A row that matters.
pub struct Note {
    pub action: String,
    pub target: String,
    pub details: Value,
    pub at: String,
    is_ours: bool,
}

fn read_note(row: &Row) -> Note {
    let text = |column| row.get::<_, String>(column).unwrap_or_default();
    Note {
        action: text("action"),
        target: text("target_id"),
        details: serde_json::from_str(&text("details_json")).unwrap_or_default(),
        at: text("occurred_at"),
        is_ours: text("actor_kind") == OURS,
    }
}

/// What was read of it.
#[derive(Default)]
pub struct Log {
    /// The newest row that was there; None before the first reading.
    read_to: Option<i64>,
    past: HashMap<InvoiceId, Past>,
    /// Licenses that this program issued and someone deleted, by their invoices.
    lost: HashMap<InvoiceId, Deletion>,
    pub keysat: keysat::Trail,
}

impl Log {
    pub fn is_read(&self) -> bool {
        self.read_to.is_some()
    }

    /// Reads it, if it was not read yet.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read_once(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.is_read() {
            return Ok(());
        }
        self.read_on(connection)
    }

    /// Reads what has come since. Never in a transaction that has written to the log: it may be
    /// undone.
    ///
    /// # Errors
    ///
    /// See [`Self::read_once`].
    pub fn read_on(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let newest = connection
            .prepare_cached(NEWEST_ROW)?
            .query_row([], |row| row.get(0))?;
        let mut read_to = self.read_to.unwrap_or(i64::MIN);
        if read_to == newest {
            return Ok(());
        }
        if read_to > newest {
            // Rows were deleted, and their numbers may be used again.
            *self = Self::default();
            read_to = i64::MIN;
        }
        let mut statement = connection.prepare_cached(&query())?;
        let mut rows = statement.query([read_to])?;
        while let Some(row) = rows.next()? {
            self.add(read_note(row));
        }
        self.read_to = Some(newest);
        Ok(())
    }

    fn add(&mut self, note: Note) {
        if !note.is_ours {
            self.keysat.add(note);
            return;
        }
        let invoice = note.details.get("invoice_id").and_then(Value::as_str);
        let Some(invoice) = invoice.map(|id| InvoiceId(id.into())) else {
            return;
        };
        if note.action == LICENSE_ISSUED {
            let Note {
                action, target, at, ..
            } = note;
            // Only a person's decision issues one in spite of an acknowledgement, and ends it.
            if let Some(past) = self.past.get_mut(&invoice) {
                past.acknowledged = None;
            }
            self.lost.insert(invoice, Deletion { action, target, at });
            return;
        }
        // A time that cannot be read is long ago.
        let at = unix_seconds(&note.at).unwrap_or_default();
        let past = self.past.entry(invoice).or_default();
        past.add(&note.action, &note.details, at);
    }

    /// What was noted of this invoice.
    pub fn past(&self, id: &InvoiceId) -> Past {
        self.past.get(id).cloned().unwrap_or_default()
    }

    /// The invoices of which something is open, in the order of their ids.
    pub fn open(&self) -> Vec<InvoiceId> {
        self.ids_where(|past| !past.open.is_empty())
    }

    /// The invoices that were acknowledged, in the order of their ids.
    pub fn acknowledged(&self) -> Vec<InvoiceId> {
        self.ids_where(|past| past.acknowledged.is_some())
    }

    fn ids_where(&self, is_wanted: impl Fn(&Past) -> bool) -> Vec<InvoiceId> {
        let wanted = self.past.iter().filter(|(_, past)| is_wanted(past));
        let mut ids: Vec<InvoiceId> = wanted.map(|(id, _)| id.clone()).collect();
        ids.sort_by(|one, other| one.0.cmp(&other.0));
        ids
    }

    /// The license that this program issued for the invoice, and that is gone.
    pub fn lost_license(&self, id: &InvoiceId) -> Option<&Deletion> {
        self.lost.get(id)
    }
}

/// The rows that matter, after a given one. Of the licenses that this program issued only those that
/// are gone.
pub fn query() -> String {
    let quoted = |actions: &[&str]| format!("'{}'", actions.join("', '"));
    format!(
        "SELECT actor_kind, action, target_id, details_json, occurred_at
           FROM audit_log
          WHERE rowid > ?1
            AND (action IN ({}) AND actor_kind = '{OURS}'
                 OR action = '{LICENSE_ISSUED}' AND actor_kind = '{OURS}'
                    AND NOT EXISTS (SELECT 1 FROM licenses WHERE id = audit_log.target_id)
                 OR action IN ({}))
          ORDER BY rowid",
        quoted(&attention::ACTIONS),
        quoted(&keysat::ACTIONS)
    )
}
