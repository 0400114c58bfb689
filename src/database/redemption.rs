//! A discount redemption's change, and what it does to its code's count.

use anyhow::{Context, Result};
use rusqlite::{Connection, Savepoint, named_params};

use super::row::{column_value, execute_one, one};
use crate::decide::Redeem;
use crate::invoice::{InvoiceId, LicenseId, RedemptionStatus};

const REDEMPTION: &str = "
SELECT id, code_id
  FROM discount_redemptions
 WHERE invoice_id = ?1";

const USED_COUNT: &str = "
SELECT used_count
  FROM discount_codes
 WHERE id = ?1";

const MOVE_REDEMPTION: &str = "
UPDATE discount_redemptions
   SET status     = :status,
       license_id = coalesce(:license_id, license_id),
       updated_at = :now
 WHERE id = :id";

const COUNT_USES: &str = "
UPDATE discount_codes
   SET used_count = :used_count,
       updated_at = :now
 WHERE id = :id";

#[cfg(test)]
pub const QUERIES: [&str; 4] = [REDEMPTION, USED_COUNT, MOVE_REDEMPTION, COUNT_USES];

/// A redemption on its way to another status, read and checked.
pub struct RedemptionChange {
    pub id: String,
    pub to: RedemptionStatus,
    code_id: String,
    /// The code's new count, if it changes.
    used_count: Option<i64>,
}

impl RedemptionChange {
    /// # Errors
    ///
    /// A row of it is missing or does not fit the contract.
    pub fn redeem(connection: &Connection, invoice: &InvoiceId, how: Redeem) -> Result<Self> {
        let slots = match how {
            Redeem::KeepSlot => 0,
            Redeem::TakeSlot => 1,
        };
        Self::read(connection, invoice, RedemptionStatus::Redeemed, slots)
    }

    /// Frees its slot.
    ///
    /// # Errors
    ///
    /// As of [`Self::redeem`].
    pub fn cancel(connection: &Connection, invoice: &InvoiceId) -> Result<Self> {
        Self::read(connection, invoice, RedemptionStatus::Cancelled, -1)
    }

    fn read(
        connection: &Connection,
        invoice: &InvoiceId,
        to: RedemptionStatus,
        slots: i64,
    ) -> Result<Self> {
        let (id, code_id) = one(connection, REDEMPTION, &[&invoice.0], |row| {
            Ok((
                column_value::<String>(row, "id")?,
                column_value::<String>(row, "code_id")?,
            ))
        })
        .context("its redemption cannot be used")?
        .context("its redemption is gone")?;
        let used_count = if slots == 0 {
            None
        } else {
            let used: i64 = one(connection, USED_COUNT, &[&code_id], |row| {
                column_value(row, "used_count")
            })
            .with_context(|| format!("its discount code {code_id} cannot be used"))?
            .with_context(|| format!("its discount code {code_id} does not exist"))?;
            Some(used.saturating_add(slots).max(0))
        };
        Ok(Self {
            id,
            to,
            code_id,
            used_count,
        })
    }

    /// # Errors
    ///
    /// The database refuses it.
    pub fn write(
        &self,
        savepoint: &Savepoint,
        license_id: Option<&LicenseId>,
        now: &str,
    ) -> Result<()> {
        execute_one(
            savepoint,
            "its redemption",
            MOVE_REDEMPTION,
            named_params! {
                ":id": self.id,
                ":status": self.to.word(),
                ":license_id": license_id.map(|id| &id.0),
                ":now": now,
            },
        )?;
        let Some(used_count) = self.used_count else {
            return Ok(());
        };
        execute_one(
            savepoint,
            "its discount code's count",
            COUNT_USES,
            named_params! { ":id": self.code_id, ":used_count": used_count, ":now": now },
        )
    }
}
