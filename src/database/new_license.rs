//! The license that the buyer of an invoice bought, and on which terms.

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, Row};

use super::Clock;
use super::row::{column_value, one};
use crate::invoice::InvoiceId;

pub struct NewLicense {
    pub product_id: String,
    pub buyer_email: Option<String>,
    pub terms: Terms,
}

/// What a license grants, and until when.
pub struct Terms {
    pub policy_id: Option<String>,
    pub expires_at: Option<String>,
    pub grace_seconds: i64,
    pub max_machines: i64,
    pub entitlements_json: String,
    pub entitlements: Vec<String>,
    pub is_trial: i64,
    /// The license begins with a trial of so many days, whatever its terms are afterwards.
    pub trial_days: Option<i64>,
}

struct Sale {
    product_id: String,
    policy_id: Option<String>,
    buyer_email: Option<String>,
}

struct Policy {
    id: String,
    product_id: String,
    duration_seconds: i64,
    grace_seconds: i64,
    max_machines: i64,
    entitlements_json: String,
    is_trial: i64,
    trial_days: Option<i64>,
}

const SALE: &str = "
SELECT product_id, policy_id, buyer_email
  FROM invoices
 WHERE id = ?1";

/// SELECT and FROM of a policy as [`read_policy`] reads it.
macro_rules! select_policy {
    () => {
        "SELECT policies.id,
                policies.product_id,
                policies.duration_seconds,
                policies.grace_seconds,
                policies.max_machines,
                policies.entitlements_json,
                policies.is_trial,
                beyond.trial_days
           FROM policies
           JOIN policies_beyond AS beyond ON beyond.policy_id = policies.id "
    };
}

const POLICY: &str = concat!(select_policy!(), "WHERE policies.id = ?1");

const PRODUCTS_POLICY: &str = concat!(
    select_policy!(),
    "WHERE policies.product_id = ?1
       AND policies.active
       AND NOT beyond.archived
     ORDER BY policies.slug = 'default' DESC, policies.name, policies.id
     LIMIT 1"
);

#[cfg(test)]
pub const QUERIES: [&str; 3] = [SALE, POLICY, PRODUCTS_POLICY];

impl NewLicense {
    /// Issued now, on the terms of the invoice's own policy, else of its product's default.
    ///
    /// # Errors
    ///
    /// The policy is missing, another product's, or cannot be used.
    pub fn read(connection: &Connection, invoice_id: &InvoiceId, clock: Clock) -> Result<Self> {
        let sale =
            one(connection, SALE, &[&invoice_id.0], read_sale)?.context("its row is gone")?;
        let policy = match &sale.policy_id {
            Some(id) => {
                let policy = one(connection, POLICY, &[id], read_policy)
                    .with_context(|| format!("its policy {id} cannot be used"))?
                    .with_context(|| {
                        format!("its policy {id} does not exist; restore it or set another")
                    })?;
                ensure!(
                    policy.product_id == sale.product_id,
                    "its policy {id} belongs to another product; correct policy_id"
                );
                Some(policy)
            }
            None => one(
                connection,
                PRODUCTS_POLICY,
                &[&sale.product_id],
                read_policy,
            )
            .context("its product's policy cannot be used")?,
        };
        Ok(Self {
            product_id: sale.product_id,
            buyer_email: sale.buyer_email,
            terms: policy
                .map_or_else(|| Ok(Terms::without_policy()), |policy| policy.terms(clock))?,
        })
    }
}

impl Terms {
    fn without_policy() -> Self {
        Self {
            policy_id: None,
            expires_at: None,
            grace_seconds: 0,
            max_machines: 1,
            entitlements_json: "[]".into(),
            entitlements: Vec::new(),
            is_trial: 0,
            trial_days: None,
        }
    }
}

impl Policy {
    fn terms(self, clock: Clock) -> Result<Terms> {
        let id = &self.id;
        let entitlements = serde_json::from_str(&self.entitlements_json)
            .ok()
            .with_context(|| {
                format!(
                    "its policy {id} has entitlements that are no JSON array of strings; correct \
                     entitlements_json"
                )
            })?;
        let expires_at = match (self.trial_days, self.duration_seconds) {
            (Some(days), _) => Some(clock.text_after_days(days).with_context(|| {
                format!("its policy {id} has {days} days of trial, which gives no date; correct trial_days")
            })?),
            (None, 0) => None,
            (None, seconds) => Some(
                clock
                    .text_after(seconds)
                    .filter(|_| seconds > 0)
                    .with_context(|| {
                        format!(
                            "its policy {id} lasts {seconds} seconds, which gives no date; correct \
                             duration_seconds (0 is for ever)"
                        )
                    })?,
            ),
        };
        Ok(Terms {
            policy_id: Some(self.id),
            expires_at,
            grace_seconds: self.grace_seconds,
            max_machines: self.max_machines,
            entitlements_json: self.entitlements_json,
            entitlements,
            is_trial: self.trial_days.map_or(self.is_trial, |_| 1),
            trial_days: self.trial_days,
        })
    }
}

fn read_sale(row: &Row) -> Result<Sale> {
    Ok(Sale {
        product_id: column_value(row, "product_id")?,
        policy_id: column_value(row, "policy_id")?,
        buyer_email: column_value(row, "buyer_email")?,
    })
}

fn read_policy(row: &Row) -> Result<Policy> {
    Ok(Policy {
        id: column_value(row, "id")?,
        product_id: column_value(row, "product_id")?,
        duration_seconds: column_value(row, "duration_seconds")?,
        grace_seconds: column_value(row, "grace_seconds")?,
        max_machines: column_value(row, "max_machines")?,
        entitlements_json: column_value(row, "entitlements_json")?,
        is_trial: column_value(row, "is_trial")?,
        trial_days: column_value(row, "trial_days")?,
    })
}
