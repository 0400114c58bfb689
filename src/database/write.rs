//! One invoice's change: all of it or nothing.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, Savepoint, Transaction, TransactionBehavior, named_params};
use serde_json::json;
use uuid::Uuid;

use super::clock::Clock;
use super::errors::{concerns_the_file, explain, refused};
use super::invoice_row::{read_invoice, read_sale};
use super::keysat::{self, AlsoOwed, Keysat};
use super::license::NewLicense;
use super::locks::wait_for_locks;
use super::redemption::RedemptionChange;
use super::row::{column_value, execute_one};
use super::{Access, Database, audit};
use crate::decide::{Change, Written};
use crate::invoice::{Invoice, InvoiceId, License, LicenseId, LocalStatus, Sale};

/// Why something could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// This invoice is to blame; the transaction goes on without it.
    Invoice(anyhow::Error),
    /// The transaction is undone; another with fewer invoices in it may succeed.
    Transaction(anyhow::Error),
    /// Nothing more can be written.
    Database(anyhow::Error),
}

const REREAD: &str = "SELECT * FROM invoice_rows WHERE id = ?1";

const SET_STATUS: &str = "
UPDATE invoices
   SET status     = :status,
       updated_at = :now
 WHERE id = :id";

#[cfg(test)]
pub const QUERIES: [&str; 2] = [REREAD, SET_STATUS];

/// A transaction in which invoices are read again and written. Undone unless it is committed.
pub struct Writing<'database> {
    transaction: Transaction<'database>,
    access: Access,
    path: &'database Path,
    keysat: Option<&'database Keysat>,
    clock: Clock,
    now: String,
}

/// A [`Change`] with everything that it takes to write it.
struct Plan {
    to: LocalStatus,
    license: Option<NewLicense>,
    redemption: Option<RedemptionChange>,
    keysat: AlsoOwed,
}

impl Database {
    /// The invoice as it is now, outside any transaction. See [`Writing::reread`].
    ///
    /// # Errors
    ///
    /// Its row does not fit the contract, or cannot be read.
    pub fn reread(&self, id: &InvoiceId) -> Result<Option<(Invoice, Sale)>> {
        reread(&self.connection, self.keysat.as_ref(), self.clock, id)
    }

    /// Begins a transaction; in a dry run, one that only reads.
    pub(super) fn begin(&mut self) -> Result<Writing<'_>> {
        let unavailable = |error| explain(&error, "write to", &self.path);
        wait_for_locks(&self.connection, self.deadline).map_err(unavailable)?;
        let behavior = match self.access {
            Access::Read => TransactionBehavior::Deferred,
            Access::Write => TransactionBehavior::Immediate,
        };
        let transaction = self.connection.transaction_with_behavior(behavior);
        Ok(Writing {
            transaction: transaction.map_err(unavailable)?,
            access: self.access,
            path: &self.path,
            keysat: self.keysat.as_ref(),
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

    /// Writes `change` of `invoice`, which [`Self::reread`] gave; in a dry run, does all but write.
    ///
    /// # Errors
    ///
    /// A row that it needs does not fit the contract, or the database refuses a row. Nothing of this
    /// invoice is written then.
    pub fn write(&mut self, invoice: &Invoice, change: &Change) -> Result<Written, WriteError> {
        self.try_to_write(invoice, change)
            .map_err(|error| self.classify(error))
    }

    fn try_to_write(&mut self, invoice: &Invoice, change: &Change) -> Result<Written> {
        let plan = self.plan(invoice, change)?;
        let license_id = match (&plan.license, self.access, &invoice.license) {
            (Some(_), Access::Write, _) => Some(LicenseId(Uuid::new_v4().to_string().into())),
            (None, _, License::Issued(id)) => Some(id.clone()),
            (Some(_), Access::Read, _)
            | (None, _, License::None | License::MaybeByHand(_) | License::MaybeDeleted) => None,
        };
        let written = Written {
            from: invoice.status,
            to: plan.to,
            license_issued: plan.license.is_some(),
            license_id,
            redemption: plan.redemption.as_ref().map(|redemption| redemption.to),
            tip: plan.keysat.tip.clone(),
        };
        if self.access == Access::Write {
            let keysat = self.keysat;
            let savepoint = self.transaction.savepoint()?;
            plan.write(&savepoint, invoice, &written, keysat, &self.now)?;
            savepoint.commit()?;
        }
        Ok(written)
    }

    /// Reads and checks everything that `change` needs.
    fn plan(&self, invoice: &Invoice, change: &Change) -> Result<Plan> {
        let connection = &self.transaction;
        match *change {
            Change::Settle {
                issue_license,
                redeem,
            } => {
                let license = issue_license
                    .then(|| NewLicense::read(connection, &invoice.id, self.clock))
                    .transpose()?;
                let redemption = redeem
                    .map(|how| RedemptionChange::redeem(connection, &invoice.id, how))
                    .transpose()?;
                let keysat = self.keysat.map(|keysat| {
                    let redemption_id =
                        redemption.as_ref().map(|redemption| redemption.id.as_str());
                    keysat.also_owed(
                        connection,
                        invoice,
                        license.as_ref(),
                        redemption_id,
                        self.clock,
                    )
                });
                Ok(Plan {
                    to: LocalStatus::Settled,
                    license,
                    redemption,
                    keysat: keysat.transpose()?.unwrap_or_default(),
                })
            }
            Change::Close {
                to,
                cancel_redemption,
            } => Ok(Plan {
                to,
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
            if concerns_the_file(&error) {
                WriteError::Database(explain(&error, "write to", self.path))
            } else {
                WriteError::Transaction(refused(&error))
            }
        })
    }

    fn classify(&self, error: anyhow::Error) -> WriteError {
        let error = match error.downcast::<rusqlite::Error>() {
            Ok(error) if concerns_the_file(&error) => {
                return WriteError::Database(explain(&error, "write to", self.path));
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
    keysat::complete(&mut invoice, keysat, connection, clock)?;
    let sale = read_sale(row, &invoice);
    Ok(Some((invoice, sale)))
}

impl Plan {
    fn write(
        &self,
        savepoint: &Savepoint,
        invoice: &Invoice,
        written: &Written,
        keysat: Option<&Keysat>,
        now: &str,
    ) -> Result<()> {
        let details = json!({
            "invoice_id": invoice.id,
            "btcpay_invoice_id": invoice.btcpay_id,
            "from": written.from,
            "to": written.to,
        })
        .to_string();
        let audit = |action: &str, target_kind: &str, target_id: &str| {
            let note = ["reconcile", action, target_kind, target_id];
            audit::note(savepoint, note, &details, now)
        };
        if written.from != written.to {
            let status = written.to.word();
            execute_one(
                savepoint,
                "its status",
                SET_STATUS,
                named_params! { ":id": invoice.id.0, ":status": status, ":now": now },
            )?;
            audit(&format!("invoice.{status}"), "invoice", &invoice.id.0)?;
        }
        let license_id = written.license_id.as_ref();
        if let (Some(license), Some(license_id)) = (&self.license, license_id) {
            let metadata = match keysat {
                Some(_) => keysat::license_metadata(&invoice.btcpay_id),
                None => json!({"source": "reconcile", "btcpay_invoice_id": invoice.btcpay_id}),
            };
            license.write(savepoint, license_id, &invoice.id, &metadata, now)?;
            audit("license.issued", "license", &license_id.0)?;
        }
        if let Some(redemption) = &self.redemption {
            redemption.write(savepoint, license_id, now)?;
            let action = format!("redemption.{}", redemption.to.word());
            audit(&action, "redemption", &redemption.id)?;
        }
        if let (LocalStatus::Settled, Some(license_id), Some(keysat)) =
            (self.to, license_id, keysat)
        {
            let license = self.license.as_ref();
            keysat.write(savepoint, &self.keysat, invoice, license, license_id, now)?;
        }
        Ok(())
    }
}
