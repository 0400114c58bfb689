//! What a settled purchase is owed beside its license and redemption: a subscription, deliveries to
//! the operator's programs, and a note of a tip.

use anyhow::{Context, Result};
use rusqlite::{Connection, Row, Savepoint};
use serde_json::{Value, json};

use super::Keysat;
use super::deliveries::{CODE_REDEEMED, LICENSE_ISSUED};
use super::subscriptions::{Cycle, Subscription};
use crate::database::audit;
use crate::database::license::LicenseRow;
use crate::database::row::{column_value, one};
use crate::invoice::{Invoice, License, LicenseId, Missing, Tip};

/// All of it, read and checked.
#[derive(Default)]
pub struct AlsoOwed {
    subscription: Option<Subscription>,
    /// Of this subscription, which has none.
    first_cycle: Option<(String, Cycle)>,
    redeemed: Option<Redeemed>,
    /// The endpoints that hear of the license, and of the redemption.
    told_of_license: Vec<String>,
    told_of_redemption: Vec<String>,
    pub tip: Option<Tip>,
}

struct Redeemed {
    id: String,
    code_id: String,
    code: String,
    product_id: String,
    discount_applied_sats: i64,
    base_price_sats: i64,
    final_price_sats: i64,
}

const REDEEMED: &str = "
SELECT redemptions.id,
       redemptions.code_id,
       discount_codes.code,
       invoices.product_id,
       redemptions.discount_applied_sats,
       redemptions.base_price_sats,
       redemptions.final_price_sats
  FROM discount_redemptions AS redemptions
  JOIN discount_codes ON discount_codes.id = redemptions.code_id
  JOIN invoices       ON invoices.id = redemptions.invoice_id
 WHERE redemptions.id = ?1";

impl Keysat {
    /// What is owed for a new license of `invoice`, with the redemption of this id.
    ///
    /// # Errors
    ///
    /// A row that it needs cannot be used.
    pub fn owed_with_license(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        license: &LicenseRow,
        redemption_id: Option<&str>,
    ) -> Result<AlsoOwed> {
        Ok(AlsoOwed {
            subscription: self.subscription(connection, invoice, license)?,
            told_of_license: self.endpoints(connection, LICENSE_ISSUED)?,
            tip: self.tip(connection, invoice, license)?,
            ..self.owed_with_redemption(connection, redemption_id)?
        })
    }

    /// What is owed for the redemption of this id.
    ///
    /// # Errors
    ///
    /// A row that it needs cannot be used.
    pub fn owed_with_redemption(
        &self,
        connection: &Connection,
        redemption_id: Option<&str>,
    ) -> Result<AlsoOwed> {
        let mut owed = AlsoOwed::default();
        if let Some(id) = redemption_id {
            owed.told_of_redemption = self.endpoints(connection, CODE_REDEEMED)?;
            owed.redeemed = one(connection, REDEEMED, &[id], read_redeemed)
                .context("its redemption cannot be used")?;
        }
        Ok(owed)
    }

    /// Adds what the invoice's license lacks to `owed`.
    ///
    /// # Errors
    ///
    /// A row that it needs cannot be used.
    pub fn add_missing(
        &self,
        owed: &mut AlsoOwed,
        connection: &Connection,
        invoice: &Invoice,
        license: &LicenseRow,
        missing: Missing,
    ) -> Result<()> {
        let License::Issued { id, .. } = &invoice.license else {
            return Ok(());
        };
        if missing.subscription {
            owed.subscription = self.subscription(connection, invoice, license)?;
        }
        if missing.cycle {
            owed.first_cycle = Self::missing_cycle(connection, license, id)?;
        }
        if missing.delivery {
            owed.told_of_license = self.endpoints_left_out(connection, id, invoice.created)?;
        }
        Ok(())
    }

    fn tip(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        license: &LicenseRow,
    ) -> Result<Option<Tip>> {
        const TIP: &str = "
            SELECT tip_recipient, tip_pct_bps
              FROM policies
             WHERE id = ?1 AND tip_recipient <> '' AND tip_pct_bps > 0";
        let (Some(policy_id), true) = (&license.terms.policy_id, self.has_tips()) else {
            return Ok(None);
        };
        let tip = one(connection, TIP, &[policy_id], |row| {
            let basis_points: i64 = column_value(row, "tip_pct_bps")?;
            let sats = i128::from(invoice.amount_sats) * i128::from(basis_points) / 10_000;
            Ok(Tip {
                recipient: column_value(row, "tip_recipient")?,
                sats: i64::try_from(sats).context("its tip is too large")?,
            })
        })
        .with_context(|| format!("the tip of its policy {policy_id} cannot be read"))?;
        Ok(tip.filter(|tip| tip.sats > 0))
    }

    /// Writes it. `license_id` is the license that the invoice has now, new or not; `license` is given
    /// if it is new or incomplete.
    ///
    /// # Errors
    ///
    /// The database refuses a row.
    pub fn write(
        &self,
        savepoint: &Savepoint,
        owed: &AlsoOwed,
        invoice: &Invoice,
        license: Option<&LicenseRow>,
        license_id: &LicenseId,
        now: &str,
    ) -> Result<()> {
        if let Some(license) = license {
            let data = license_data(invoice, license, license_id);
            self.queue(savepoint, &owed.told_of_license, LICENSE_ISSUED, &data, now)?;
            if let Some(started) = &owed.subscription {
                self.start_subscription(savepoint, started, invoice, license, license_id, now)?;
            }
            if let Some((subscription_id, cycle)) = &owed.first_cycle {
                self.add_first_cycle(savepoint, subscription_id, cycle, invoice, now)?;
            }
            if let Some(tip) = &owed.tip {
                let details = json!({
                    "invoice_id": invoice.id,
                    "recipient": tip.recipient,
                    "sats": tip.sats,
                });
                let note = ["reconcile", "tip.not_sent", "license", &license_id.0];
                audit::note(savepoint, note, &details.to_string(), now)?;
            }
        }
        if let Some(redeemed) = &owed.redeemed {
            let data = redeemed.data(invoice, license_id);
            let note = ["system", CODE_REDEEMED, "discount_code", &redeemed.code_id];
            audit::note(savepoint, note, &data.to_string(), now)?;
            self.queue(
                savepoint,
                &owed.told_of_redemption,
                CODE_REDEEMED,
                &data,
                now,
            )?;
        }
        Ok(())
    }
}

fn license_data(invoice: &Invoice, license: &LicenseRow, license_id: &LicenseId) -> Value {
    let terms = &license.terms;
    json!({
        "license_id": license_id,
        "product_id": license.product_id,
        "invoice_id": invoice.id,
        "policy_id": terms.policy_id,
        "is_trial": terms.is_trial,
        "expires_at": terms.expires_at,
        "entitlements": terms.entitlements,
        "source": "purchase",
    })
}

impl Redeemed {
    fn data(&self, invoice: &Invoice, license_id: &LicenseId) -> Value {
        json!({
            "redemption_id": self.id,
            "code_id": self.code_id,
            "code": self.code,
            "license_id": license_id,
            "product_id": self.product_id,
            "invoice_id": invoice.id,
            "discount_applied_sats": self.discount_applied_sats,
            "base_price_sats": self.base_price_sats,
            "final_price_sats": self.final_price_sats,
        })
    }
}

fn read_redeemed(row: &Row) -> Result<Redeemed> {
    Ok(Redeemed {
        id: column_value(row, "id")?,
        code_id: column_value(row, "code_id")?,
        code: column_value(row, "code")?,
        product_id: column_value(row, "product_id")?,
        discount_applied_sats: column_value(row, "discount_applied_sats")?,
        base_price_sats: column_value(row, "base_price_sats")?,
        final_price_sats: column_value(row, "final_price_sats")?,
    })
}
