//! One invoice's change: all of it or nothing.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, Savepoint, Transaction, TransactionBehavior, named_params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::Log;
use super::clock::Clock;
use super::doubt::doubts;
use super::errors::{concerns_the_file, explain, is_interrupted, is_locked, refused};
use super::invoice_row::{read_invoice, read_sale};
use super::keysat::{self, AlsoOwed, Keysat};
use super::license::LicenseRow;
use super::redemption::RedemptionChange;
use super::row::{column_value, execute_one, one};
use super::{Access, Database, audit};
use crate::attention::{NoteRow, Past};
use crate::decide::{Change, Doubt, Issue, Written};
use crate::invoice::{Invoice, InvoiceId, License, LicenseId, LocalStatus, Missing, Sale};
use crate::stop::Deadline;

/// Why something could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// This invoice is to blame; the transaction goes on without it.
    Invoice(anyhow::Error),
    /// The transaction is undone; another with fewer invoices in it may succeed.
    Transaction(anyhow::Error),
    /// Another program has kept the commit waiting for as long as others may be kept waiting. The
    /// transaction is undone and may be repeated.
    Locked(anyhow::Error),
    /// The deadline was reached in the midst of this invoice.
    Interrupted,
    /// Nothing more can be written.
    Database(anyhow::Error),
}

const REREAD: &str = "SELECT * FROM invoice_rows WHERE id = ?1";

pub const SET_STATUS: &str = "
UPDATE invoices
   SET status     = :status,
       updated_at = :now
 WHERE id = :id";

#[cfg(test)]
pub const QUERIES: [&str; 3] = [REREAD, SET_STATUS, LICENSE_OF];

/// A transaction in which invoices are read again and written. Undone unless it is committed.
pub struct Writing<'database> {
    transaction: Transaction<'database>,
    access: Access,
    path: &'database Path,
    deadline: Deadline,
    keysat: Option<&'database Keysat>,
    log: &'database RefCell<Log>,
    clock: Clock,
    now: String,
}

/// A [`Change`] with everything that it takes to write it.
struct Plan {
    to: LocalStatus,
    issue: Option<Issue>,
    complete: Missing,
    /// To be issued, or completed.
    license: Option<LicenseRow>,
    redemption: Option<RedemptionChange>,
    keysat: AlsoOwed,
}

impl Database {
    /// The invoice as it is now, outside any transaction. None as of [`Writing::reread`], and if its row
    /// does not fit the contract any more: the next run says why.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn reread(&self, id: &InvoiceId) -> Result<Option<(Invoice, Sale)>> {
        let read = reread(&self.connection, self.keysat.as_ref(), self.clock, id);
        read.or_else(|error| match error.downcast() {
            Ok(error) if is_interrupted(&error) || concerns_the_file(&error) => {
                Err(explain(&error, "read", &self.path, self.deadline))
            }
            Ok(_) | Err(_) => Ok(None),
        })
    }

    /// What was noted of an invoice when the log was last read.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn past(&self, id: &InvoiceId) -> Result<Past> {
        let mut log = self.log.borrow_mut();
        log.read_once(&self.connection)
            .map_err(|error| explain(&error, "read", &self.path, self.deadline))?;
        Ok(log.past(id))
    }

    /// Whether the log was read.
    pub fn knows_the_past(&self) -> bool {
        self.log.borrow().is_read()
    }

    /// Begins a transaction; in a dry run, one that only reads.
    pub(super) fn begin(&mut self) -> Result<Writing<'_>> {
        let unavailable = |error| explain(&error, "write to", &self.path, self.deadline);
        let behavior = match self.access {
            Access::Read => TransactionBehavior::Deferred,
            Access::Write => TransactionBehavior::Immediate,
        };
        let transaction = self.connection.transaction_with_behavior(behavior);
        let transaction = transaction.map_err(unavailable)?;
        self.waiting.has_lock(self.access == Access::Write);
        let log = &*self.log;
        log.borrow_mut()
            .read_on(&transaction)
            .map_err(unavailable)?;
        Ok(Writing {
            transaction,
            access: self.access,
            path: &self.path,
            deadline: self.deadline,
            keysat: self.keysat.as_ref(),
            log,
            clock: self.clock,
            now: self
                .clock
                .text_after(0)
                .context("the system's clock is outside the calendar")?,
        })
    }
}

impl Writing<'_> {
    /// The invoice as it is now. None if it is gone or has a status outside the contract, which makes
    /// it the service's alone.
    ///
    /// # Errors
    ///
    /// Its row does not fit the contract, or cannot be read.
    pub fn reread(&self, id: &InvoiceId) -> Result<Option<(Invoice, Sale)>, WriteError> {
        reread(&self.transaction, self.keysat, self.clock, id).map_err(|error| self.classify(error))
    }

    /// Writes `change` of `invoice`, which [`Self::reread`] gave, and then the audit rows of what that
    /// leaves to a person, each an action and its own details; in a dry run, does all but write.
    ///
    /// # Errors
    ///
    /// A row that it needs does not fit the contract, or the database refuses a row. Nothing of this
    /// invoice is written then.
    pub fn write(
        &mut self,
        invoice: &Invoice,
        change: Option<&Change>,
        notes: impl FnOnce(Option<&Written>) -> Vec<NoteRow>,
    ) -> Result<Option<Written>, WriteError> {
        self.try_to_write(invoice, change, notes)
            .map_err(|error| self.classify(error))
    }

    /// What was noted of an invoice until the transaction began.
    pub fn past(&self, id: &InvoiceId) -> Past {
        self.log.borrow().past(id)
    }

    /// Why the license that a decision gives for `invoice` may not be owed: what weighs most first.
    ///
    /// # Errors
    ///
    /// A row that could tell does not fit the contract.
    pub fn doubts(&self, invoice: &Invoice) -> Result<Vec<Doubt>, WriteError> {
        let log = self.log.borrow();
        doubts(&self.transaction, self.keysat, &log, invoice, self.clock)
            .map_err(|error| self.classify(error))
    }

    fn try_to_write(
        &mut self,
        invoice: &Invoice,
        change: Option<&Change>,
        notes: impl FnOnce(Option<&Written>) -> Vec<NoteRow>,
    ) -> Result<Option<Written>> {
        let plan = change
            .map(|change| self.plan(invoice, change))
            .transpose()?;
        match self.access {
            Access::Read => {
                let written = plan.map(|plan| plan.written(invoice));
                notes(written.as_ref());
                Ok(written)
            }
            Access::Write => {
                let (keysat, now) = (self.keysat, &self.now);
                let savepoint = self.transaction.savepoint()?;
                let written = plan
                    .map(|plan| plan.write(&savepoint, invoice, keysat, now))
                    .transpose()?;
                let btcpay_id = Some(&invoice.btcpay_id);
                for row in notes(written.as_ref()) {
                    audit::note_of_invoice(&savepoint, &invoice.id, btcpay_id, row, now)?;
                }
                savepoint.commit()?;
                Ok(written)
            }
        }
    }

    /// Writes audit rows of an invoice that is gone.
    ///
    /// # Errors
    ///
    /// The database refuses one. None is written then.
    pub fn note(&mut self, id: &InvoiceId, rows: Vec<NoteRow>) -> Result<(), WriteError> {
        if self.access == Access::Read {
            return Ok(());
        }
        let write = || -> Result<()> {
            let savepoint = self.transaction.savepoint()?;
            for row in rows {
                audit::note_of_invoice(&savepoint, id, None, row, &self.now)?;
            }
            Ok(savepoint.commit()?)
        };
        write().map_err(|error| self.classify(error))
    }

    /// Reads and checks everything that `change` needs.
    fn plan(&self, invoice: &Invoice, change: &Change) -> Result<Plan> {
        let connection = &self.transaction;
        match *change {
            Change::Settle {
                issue,
                complete,
                redeem,
            } => {
                let license = match (issue, &invoice.license) {
                    (Some(_), _) => Some(LicenseRow::read(connection, &invoice.id, self.clock)?),
                    (None, License::Issued { id, .. }) if complete != Missing::NOTHING => {
                        Some(LicenseRow::issued(connection, id)?)
                    }
                    (None, License::Issued { .. } | License::None) => None,
                };
                let redemption = redeem
                    .map(|how| RedemptionChange::redeem(connection, &invoice.id, how))
                    .transpose()?;
                let mut owed = AlsoOwed::default();
                if let Some(keysat) = self.keysat {
                    let redemption_id =
                        redemption.as_ref().map(|redemption| redemption.id.as_str());
                    owed = match (issue, &license) {
                        (Some(_), Some(new)) => {
                            keysat.owed_with_license(connection, invoice, new, redemption_id)?
                        }
                        _ => keysat.owed_with_redemption(connection, redemption_id)?,
                    };
                    if let (None, Some(issued)) = (issue, &license) {
                        keysat.add_missing(&mut owed, connection, invoice, issued, complete)?;
                    }
                }
                Ok(Plan {
                    to: LocalStatus::Settled,
                    issue,
                    complete,
                    license,
                    redemption,
                    keysat: owed,
                })
            }
            Change::Close {
                to,
                cancel_redemption,
            } => Ok(Plan {
                to,
                issue: None,
                complete: Missing::NOTHING,
                license: None,
                redemption: cancel_redemption
                    .then(|| RedemptionChange::cancel(connection, &invoice.id))
                    .transpose()?,
                keysat: AlsoOwed::default(),
            }),
        }
    }

    /// Makes the changes permanent.
    ///
    /// # Errors
    ///
    /// The database refuses or cannot keep them; nothing of this transaction is written then.
    pub(super) fn commit(self) -> Result<(), WriteError> {
        self.transaction.commit().map_err(|error| {
            if is_locked(&error) {
                WriteError::Locked(explain(&error, "write to", self.path, self.deadline))
            } else if concerns_the_file(&error) {
                WriteError::Database(explain(&error, "write to", self.path, self.deadline))
            } else {
                WriteError::Transaction(refused(&error))
            }
        })
    }

    fn classify(&self, error: anyhow::Error) -> WriteError {
        let error = match error.downcast::<rusqlite::Error>() {
            Ok(error) if is_interrupted(&error) => return WriteError::Interrupted,
            Ok(error) if concerns_the_file(&error) => {
                return WriteError::Database(explain(&error, "write to", self.path, self.deadline));
            }
            Ok(error) => refused(&error),
            Err(error) => error,
        };
        // A trigger's RAISE(ROLLBACK) undoes everything.
        if self.transaction.is_autocommit() {
            WriteError::Transaction(error)
        } else {
            WriteError::Invoice(error)
        }
    }
}

fn reread(
    connection: &Connection,
    keysat: Option<&Keysat>,
    clock: Clock,
    id: &InvoiceId,
) -> Result<Option<(Invoice, Sale)>> {
    let mut statement = connection.prepare_cached(REREAD)?;
    let mut rows = statement.query([&id.0])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let status: String = column_value(row, "status")?;
    if LocalStatus::from_word(&status).is_none() {
        return Ok(None);
    }
    let mut invoice = read_invoice(row)?;
    keysat::fill_in_applied(&mut invoice, keysat, connection, clock)?;
    let sale = read_sale(row, &invoice);
    Ok(Some((invoice, sale)))
}

const LICENSE_OF: &str = "SELECT id FROM licenses WHERE invoice_id = ?1";

impl Plan {
    /// What is written, if everything is.
    fn written(&self, invoice: &Invoice) -> Written {
        let redemption = self.redemption.as_ref();
        Written {
            from: invoice.status,
            to: self.to,
            license_issued: self.issue.is_some(),
            license_id: match (self.to, &invoice.license) {
                (LocalStatus::Settled, License::Issued { id, .. }) => Some(id.clone()),
                (LocalStatus::Settled, License::None)
                | (LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid, _) => None,
            },
            completed: self.complete,
            redemption: redemption.map(|redemption| redemption.to),
            over_max_uses: redemption.and_then(RedemptionChange::over_max_uses),
            tip: self.keysat.tip.clone(),
        }
    }

    fn write(
        &self,
        savepoint: &Savepoint,
        invoice: &Invoice,
        keysat: Option<&Keysat>,
        now: &str,
    ) -> Result<Written> {
        let mut written = self.written(invoice);
        let details = json!({
            "invoice_id": invoice.id,
            "btcpay_invoice_id": invoice.btcpay_id,
            "from": written.from,
            "to": written.to,
        });
        let note =
            |action: &str, target_kind: &str, target_id: &str, more: Option<(&str, Value)>| {
                let mut details = details.clone();
                if let (Some(fields), Some((name, value))) = (details.as_object_mut(), more) {
                    fields.insert(name.into(), value);
                }
                let note = [audit::OURS, action, target_kind, target_id];
                audit::note(savepoint, note, &details.to_string(), now)
            };
        if written.from != written.to {
            let status = written.to.word();
            execute_one(
                savepoint,
                "its status",
                SET_STATUS,
                named_params! { ":id": invoice.id.0, ":status": status, ":now": now },
            )?;
            note(&format!("invoice.{status}"), "invoice", &invoice.id.0, None)?;
        }
        let mut license = self.license.as_ref();
        if let (Some(issue), Some(new)) = (self.issue, license) {
            // The service's own trigger may have issued one with the status.
            let by_service = one(savepoint, LICENSE_OF, &[&invoice.id.0], |row| {
                column_value(row, "id").map(LicenseId)
            })?;
            if by_service.is_some() {
                license = None;
                written.license_issued = false;
                written.tip = None;
                written.license_id = by_service;
            } else {
                let id = LicenseId(Uuid::new_v4().to_string().into());
                let metadata = match keysat {
                    Some(_) => keysat::license_metadata(&invoice.btcpay_id),
                    None => json!({"source": "reconcile", "btcpay_invoice_id": invoice.btcpay_id}),
                };
                new.write(savepoint, &id, &invoice.id, &metadata, now)?;
                let decided_by = match issue {
                    Issue::ByRule => None,
                    Issue::ByPerson => Some(("decided_by", json!("person"))),
                };
                note("license.issued", "license", &id.0, decided_by)?;
                written.license_id = Some(id);
            }
        }
        if let Some(redemption) = &self.redemption {
            redemption.write(savepoint, written.license_id.as_ref(), now)?;
            let action = format!("redemption.{}", redemption.to.word());
            note(&action, "redemption", &redemption.id, None)?;
        }
        if let (Some(license_id), Some(keysat)) = (&written.license_id, keysat) {
            keysat.write(savepoint, &self.keysat, invoice, license, license_id, now)?;
        }
        if let (Some(license_id), true) = (&written.license_id, self.complete != Missing::NOTHING) {
            let completed = json!(self.complete.words());
            let completed = Some(("completed", completed));
            note("sale.completed", "license", &license_id.0, completed)?;
        }
        Ok(written)
    }
}
