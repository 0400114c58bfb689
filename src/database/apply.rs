//! Writing a decision: all of what one invoice is owed, or nothing of it.

use std::path::Path;

use anyhow::{Context, anyhow};
use rusqlite::{
    Connection, ErrorCode, Savepoint, ToSql, Transaction, TransactionBehavior, named_params,
};
use serde_json::json;
use uuid::Uuid;

use super::beyond::{AlsoOwed, Beyond};
use super::invoice_row::read_invoice;
use super::new_license::NewLicense;
use super::row::{column_value, execute_one, one};
use super::{Access, Clock, Database, audit, in_words, wait_for_locks};
use crate::decide::{Change, Redeem};
use crate::invoice::{Invoice, InvoiceId, License, LicenseId, LocalStatus, Tip};

/// What was written of one invoice; in a dry run, what would have been.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    pub from: LocalStatus,
    pub to: LocalStatus,
    pub license_issued: bool,
    /// None for a closed invoice, and for a license that a dry run did not issue.
    pub license_id: Option<LicenseId>,
    pub redemption: Option<RedemptionMoved>,
    /// What the license's policy promises to somebody and nobody has sent.
    pub tip: Option<Tip>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RedemptionMoved {
    Redeemed,
    Cancelled,
}

impl RedemptionMoved {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Redeemed => "redeemed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why something could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// This invoice's trouble; the transaction goes on without it.
    Invoice(anyhow::Error),
    /// The transaction's: nothing of it is written, though with fewer invoices in it another might
    /// be.
    Transaction(anyhow::Error),
    /// The database's: nothing more can be written.
    Database(anyhow::Error),
}

/// A transaction in which invoices are read again and written.
pub struct Writing<'database> {
    transaction: Transaction<'database>,
    access: Access,
    path: &'database Path,
    beyond: &'database Beyond,
    clock: Clock,
    now_text: String,
}

impl Database {
    /// Begins a transaction, at Unix second `now`. It holds the write lock from the start: a
    /// transaction that reads first can find that it may not write any more. In a dry run it only
    /// reads. Without [`Writing::commit`] nothing is written.
    ///
    /// # Errors
    ///
    /// The write lock is not to be had.
    pub fn begin(&mut self, now: i64) -> Result<Writing<'_>, WriteError> {
        self.begin_at(now).map_err(WriteError::Database)
    }

    /// Whether the service has touched an invoice since it was listed, as far as that can be read.
    pub fn has_moved(&self, listed: &Invoice) -> bool {
        read_again(&self.connection, &listed.id)
            .is_ok_and(|current| current.as_ref() != Some(listed))
    }

    fn begin_at(&mut self, now: i64) -> anyhow::Result<Writing<'_>> {
        wait_for_locks(&self.connection, self.deadline)
            .map_err(|error| in_words(error, "begin writing to", &self.path))?;
        let clock = Clock {
            now,
            with_offset: self.beyond.writes_times_with_offset(),
        };
        let behavior = match self.access {
            Access::Read => TransactionBehavior::Deferred,
            Access::Write => TransactionBehavior::Immediate,
        };
        Ok(Writing {
            transaction: self
                .connection
                .transaction_with_behavior(behavior)
                .map_err(|error| in_words(error, "begin writing to", &self.path))?,
            access: self.access,
            path: &self.path,
            beyond: &self.beyond,
            clock,
            now_text: clock
                .text_after(0)
                .context("the system's clock is outside the calendar")?,
        })
    }
}

impl Writing<'_> {
    /// The invoice as it is now; none where it is gone, or has a status that is not in the
    /// contract: then it is the service's alone.
    ///
    /// # Errors
    ///
    /// Its row does not fit the contract, or cannot be read.
    pub fn reread(&self, id: &InvoiceId) -> Result<Option<Invoice>, WriteError> {
        read_again(&self.transaction, id).map_err(|error| self.sort_out(error))
    }

    /// Writes `change` of `invoice`, which [`Writing::reread`] gave; in a dry run, does all but
    /// write.
    ///
    /// # Errors
    ///
    /// Its policy, redemption or discount code does not fit the contract, or the database refuses
    /// a row. Nothing of this invoice is written then.
    pub fn write(&mut self, invoice: &Invoice, change: &Change) -> Result<Applied, WriteError> {
        self.prepare_and_write(invoice, change)
            .map_err(|error| self.sort_out(error))
    }

    fn prepare_and_write(&mut self, invoice: &Invoice, change: &Change) -> anyhow::Result<Applied> {
        let owed = self.owed(invoice, change)?;
        let license_id = match (&owed.license, self.access) {
            (Some(_), Access::Write) => Some(LicenseId(Uuid::new_v4().to_string().into())),
            (Some(_), Access::Read) => None,
            (None, _) => match &invoice.license {
                License::Issued(id) => Some(id.clone()),
                License::None | License::PerhapsByHand(_) | License::PerhapsDeleted => None,
            },
        };
        let applied = Applied {
            from: invoice.status,
            to: owed.to,
            license_issued: owed.license.is_some(),
            license_id,
            redemption: owed.redemption.as_ref().map(|owed| owed.moved),
            tip: owed.beyond.tip.clone(),
        };
        if self.access == Access::Write {
            let beyond = self.beyond;
            let savepoint = self.transaction.savepoint()?;
            write_all(&savepoint, beyond, invoice, &owed, &applied, &self.now_text)?;
            savepoint.commit()?;
        }
        Ok(applied)
    }

    /// Everything that `change` needs from the database, read and checked.
    fn owed(&self, invoice: &Invoice, change: &Change) -> anyhow::Result<Owed> {
        match *change {
            Change::Settle {
                issue_license,
                redemption,
            } => {
                let license = issue_license
                    .then(|| NewLicense::read(&self.transaction, &invoice.id, self.clock))
                    .transpose()?;
                let redemption = redemption
                    .map(|redeem| {
                        let slots = match redeem {
                            Redeem::HoldingItsSlot => 0,
                            Redeem::TakingItsSlotAgain => 1,
                        };
                        self.redemption(invoice, RedemptionMoved::Redeemed, slots)
                    })
                    .transpose()?;
                let beyond = self.beyond.also_owed(
                    &self.transaction,
                    invoice,
                    license.as_ref(),
                    redemption.as_ref().map(|owed| owed.id.as_str()),
                    self.clock,
                )?;
                Ok(Owed {
                    to: LocalStatus::Settled,
                    license,
                    redemption,
                    beyond,
                })
            }
            Change::Close {
                to,
                cancel_redemption,
            } => Ok(Owed {
                to,
                license: None,
                redemption: cancel_redemption
                    .then(|| self.redemption(invoice, RedemptionMoved::Cancelled, -1))
                    .transpose()?,
                beyond: AlsoOwed::default(),
            }),
        }
    }

    /// The invoice's redemption on its way to `moved`, which changes the used slots of its code by
    /// `slots`.
    fn redemption(
        &self,
        invoice: &Invoice,
        moved: RedemptionMoved,
        slots: i64,
    ) -> anyhow::Result<OwedRedemption> {
        const REDEMPTION: &str =
            "SELECT id, code_id FROM discount_redemptions WHERE invoice_id = ?1";
        const USES: &str = "SELECT used_count FROM discount_codes WHERE id = ?1";
        let (id, code_id) = one(&self.transaction, REDEMPTION, &[&invoice.id.0], |row| {
            Ok((
                column_value::<String>(row, "id")?,
                column_value::<String>(row, "code_id")?,
            ))
        })
        .context("its redemption's row cannot be used")?
        .context("its redemption is gone")?;
        let used_count = if slots == 0 {
            None
        } else {
            let used: i64 = one(&self.transaction, USES, &[&code_id], |row| {
                column_value(row, "used_count")
            })
            .with_context(|| format!("its discount code {code_id} cannot be used"))?
            .with_context(|| format!("its discount code {code_id} does not exist"))?;
            Some(used.saturating_add(slots).max(0))
        };
        Ok(OwedRedemption {
            id,
            moved,
            code_id,
            used_count,
        })
    }

    /// Makes what was written lasting.
    ///
    /// # Errors
    ///
    /// The database cannot keep it, or refuses it; then nothing of this transaction is written.
    pub fn commit(self) -> Result<(), WriteError> {
        self.transaction.commit().map_err(|error| {
            if concerns_the_file(&error) {
                WriteError::Database(in_words(error, "write to", self.path))
            } else {
                WriteError::Transaction(refused(error))
            }
        })
    }

    fn sort_out(&self, error: anyhow::Error) -> WriteError {
        let error = match error.downcast::<rusqlite::Error>() {
            Ok(error) if concerns_the_file(&error) => {
                return WriteError::Database(in_words(error, "write to", self.path));
            }
            Ok(error) => refused(error),
            Err(error) => error,
        };
        // A trigger's RAISE(ROLLBACK) takes everything with it.
        if self.transaction.is_autocommit() {
            WriteError::Transaction(error)
        } else {
            WriteError::Invoice(error)
        }
    }
}

fn read_again(connection: &Connection, id: &InvoiceId) -> anyhow::Result<Option<Invoice>> {
    let mut statement = connection.prepare_cached(REREAD)?;
    let mut rows = statement.query([&id.0])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let status: String = column_value(row, "status")?;
    match LocalStatus::from_word(&status) {
        Some(_) => read_invoice(row).map(Some),
        None => Ok(None),
    }
}

fn refused(error: rusqlite::Error) -> anyhow::Error {
    anyhow!(error).context(
        "the database refused what is to be written of it; see its triggers and constraints",
    )
}

/// Whether an error is the file's, so that every other invoice would meet it too. Constraints,
/// triggers and odd values are one row's.
fn concerns_the_file(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
                | ErrorCode::OutOfMemory
        )
    )
}

/// A [`Change`] with all that it takes to write it.
struct Owed {
    to: LocalStatus,
    license: Option<NewLicense>,
    redemption: Option<OwedRedemption>,
    beyond: AlsoOwed,
}

struct OwedRedemption {
    id: String,
    moved: RedemptionMoved,
    code_id: String,
    /// The code's new count, where it changes.
    used_count: Option<i64>,
}

const REREAD: &str = concat!(select_invoice!(), "WHERE invoices.id = ?1");

#[cfg(test)]
pub const QUERIES: [&str; 5] = [
    REREAD,
    ISSUE_LICENSE,
    SET_STATUS,
    MOVE_REDEMPTION,
    COUNT_USES,
];

/// The WHERE after the conflict target lets a partial unique index do; a full one ignores it.
/// Plain VALUES: for a SELECT, SQLite would look through all redemptions for ones that wait for
/// this license's id.
pub const ISSUE_LICENSE: &str = "
INSERT INTO licenses (
          id,  product_id,  invoice_id,  policy_id,  status,   issued_at,  expires_at,
          grace_seconds,  max_machines,  entitlements_json,  is_trial,  buyer_email,  metadata_json)
VALUES (:id, :product_id, :invoice_id, :policy_id,  'active', :now,       :expires_at,
         :grace_seconds, :max_machines, :entitlements_json, :is_trial, :buyer_email, :metadata_json)
    ON CONFLICT (invoice_id) WHERE invoice_id IS NOT NULL DO NOTHING";

const SET_STATUS: &str = "
UPDATE invoices
   SET status = :status, updated_at = :now
 WHERE id = :id";

const MOVE_REDEMPTION: &str = "
UPDATE discount_redemptions
   SET status = :status, license_id = coalesce(:license_id, license_id), updated_at = :now
 WHERE id = :id";

const COUNT_USES: &str = "
UPDATE discount_codes
   SET used_count = :used_count, updated_at = :now
 WHERE id = :id";

fn write_all(
    savepoint: &Savepoint,
    beyond: &Beyond,
    invoice: &Invoice,
    owed: &Owed,
    applied: &Applied,
    now: &str,
) -> anyhow::Result<()> {
    let write = |what: &str, sql: &str, params: &[(&str, &dyn ToSql)]| {
        execute_one(savepoint, what, sql, params)
    };
    let details = json!({
        "invoice_id": invoice.id,
        "btcpay_invoice_id": invoice.btcpay_id,
        "from": applied.from,
        "to": applied.to,
    })
    .to_string();
    let audit = |action: &str, target_kind: &str, target_id: &str| {
        let note = ["reconcile", action, target_kind, target_id];
        audit::note(savepoint, note, &details, now)
    };

    if applied.from != applied.to {
        write(
            "its status",
            SET_STATUS,
            named_params! { ":id": invoice.id.0, ":status": applied.to.word(), ":now": now },
        )?;
        audit(
            &format!("invoice.{}", applied.to.word()),
            "invoice",
            &invoice.id.0,
        )?;
    }
    let license_id = applied.license_id.as_ref().map(|id| &id.0);
    if let (Some(license), Some(license_id)) = (&owed.license, license_id) {
        write(
            "the license",
            ISSUE_LICENSE,
            named_params! {
                ":id": license_id,
                ":product_id": license.product_id,
                ":invoice_id": invoice.id.0,
                ":buyer_email": license.buyer_email,
                ":policy_id": license.terms.policy_id,
                ":now": now,
                ":expires_at": license.terms.expires_at,
                ":grace_seconds": license.terms.grace_seconds,
                ":max_machines": license.terms.max_machines,
                ":entitlements_json": license.terms.entitlements_json,
                ":is_trial": license.terms.is_trial,
                ":metadata_json": beyond.license_metadata(&invoice.btcpay_id).to_string(),
            },
        )?;
        audit("license.issued", "license", license_id)?;
    }
    if let Some(redemption) = &owed.redemption {
        write(
            "its redemption",
            MOVE_REDEMPTION,
            named_params! {
                ":id": redemption.id,
                ":status": redemption.moved.word(),
                ":license_id": license_id,
                ":now": now,
            },
        )?;
        if let Some(used_count) = redemption.used_count {
            write(
                "the discount code's count",
                COUNT_USES,
                named_params! {
                    ":id": redemption.code_id,
                    ":used_count": used_count,
                    ":now": now,
                },
            )?;
        }
        audit(
            &format!("redemption.{}", redemption.moved.word()),
            "redemption",
            &redemption.id,
        )?;
    }
    if let (LocalStatus::Settled, Some(license_id)) = (owed.to, &applied.license_id) {
        let license = owed.license.as_ref();
        beyond.write(savepoint, &owed.beyond, invoice, license, license_id, now)?;
    }
    Ok(())
}
