//! A discount redemption's change, and what it does to its code's count.

use anyhow::{Context, Result};
use rusqlite::{Connection, Savepoint, named_params};

use super::row::{column_value, execute_one, one};
use crate::decide::Redeem;
use crate::invoice::{CodeUses, InvoiceId, LicenseId, RedemptionStatus};

const REDEMPTION: &str = "
SELECT id, code_id
  FROM discount_redemptions
 WHERE invoice_id = ?1";

const CODE: &str = "
SELECT code, used_count, max_uses
  FROM code_rows
 WHERE id = ?1";

pub const MOVE_REDEMPTION: &str = "
UPDATE discount_redemptions
   SET status     = :status,
       license_id = :license_id,
       updated_at = :now
 WHERE id = :id";

pub const COUNT_USES: &str = "
UPDATE discount_codes
   SET used_count = :used_count,
       updated_at = :now
 WHERE id = :id";

#[cfg(test)]
pub const QUERIES: [&str; 4] = [REDEMPTION, CODE, MOVE_REDEMPTION, COUNT_USES];

/// A redemption on its way to another status, read and checked.
pub struct RedemptionChange {
    pub id: String,
    pub to: RedemptionStatus,
    code_id: String,
    /// With the new count, if it changes.
    uses: Option<Uses>,
}

struct Uses {
    code: String,
    count: i64,
    /// None if there is no limit.
    most: Option<i64>,
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
    /// See [`Self::redeem`].
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
        let uses = if slots == 0 {
            None
        } else {
            let uses = one(connection, CODE, &[&code_id], |row| {
                let used: i64 = column_value(row, "used_count")?;
                Ok(Uses {
                    code: column_value(row, "code")?,
                    count: used.saturating_add(slots).max(0),
                    most: column_value(row, "max_uses")?,
                })
            })
            .with_context(|| format!("its discount code {code_id} cannot be used"))?
            .with_context(|| format!("its discount code {code_id} does not exist"))?;
            Some(uses)
        };
        Ok(Self {
            id,
            to,
            code_id,
            uses,
        })
    }

    /// The code's uses, if this one takes a slot beyond its limit.
    pub fn over_max_uses(&self) -> Option<CodeUses> {
        let uses = self.uses.as_ref()?;
        let max_uses = uses.most.filter(|most| uses.count > *most)?;
        (self.to == RedemptionStatus::Redeemed).then(|| CodeUses {
            code: uses.code.clone(),
            used_count: uses.count,
            max_uses,
        })
    }

    /// Writes it. Only a redeemed redemption names a license.
    ///
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
                ":license_id": match self.to {
                    RedemptionStatus::Redeemed => license_id.map(|id| &id.0),
                    RedemptionStatus::Pending | RedemptionStatus::Cancelled => None,
                },
                ":now": now,
            },
        )?;
        let Some(uses) = &self.uses else {
            return Ok(());
        };
        execute_one(
            savepoint,
            "its discount code's count",
            COUNT_USES,
            named_params! { ":id": self.code_id, ":used_count": uses.count, ":now": now },
        )
    }
}
