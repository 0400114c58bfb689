//! The license that the buyer of an invoice bought, and on which terms.

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, Row};

use super::invoice_row::column_value;
use super::time_text;
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
    pub is_trial: i64,
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
}

const SALE: &str = "
SELECT product_id, policy_id, buyer_email
  FROM invoices
 WHERE id = ?1";

const POLICY: &str = "
SELECT id, product_id, duration_seconds, grace_seconds, max_machines, entitlements_json, is_trial
  FROM policies
 WHERE id = ?1";

const PRODUCTS_POLICY: &str = "
SELECT id, product_id, duration_seconds, grace_seconds, max_machines, entitlements_json, is_trial
  FROM policies
 WHERE product_id = ?1
   AND active
 ORDER BY slug = 'default' DESC, name, id
 LIMIT 1";

#[cfg(test)]
pub const QUERIES: [&str; 3] = [SALE, POLICY, PRODUCTS_POLICY];

impl NewLicense {
    /// Issued at Unix second `now`, on the terms of the invoice's own policy, else of its
    /// product's default.
    ///
    /// # Errors
    ///
    /// The policy is missing, another product's, or cannot be used.
    pub fn read(connection: &Connection, invoice_id: &InvoiceId, now: i64) -> Result<Self> {
        let sale = one(connection, SALE, &invoice_id.0, read_sale)?.context("its row is gone")?;
        let policy = match &sale.policy_id {
            Some(id) => {
                let policy = one(connection, POLICY, id, read_policy)
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
            None => one(connection, PRODUCTS_POLICY, &sale.product_id, read_policy)
                .context("its product's policy cannot be used")?,
        };
        Ok(Self {
            product_id: sale.product_id,
            buyer_email: sale.buyer_email,
            terms: policy
                .map_or_else(|| Ok(Terms::without_policy()), |policy| policy.terms(now))?,
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
            is_trial: 0,
        }
    }
}

impl Policy {
    fn terms(self, now: i64) -> Result<Terms> {
        let id = &self.id;
        serde_json::from_str::<Vec<String>>(&self.entitlements_json)
            .ok()
            .with_context(|| {
                format!(
                    "its policy {id} has entitlements that are no JSON array of strings; correct \
                     entitlements_json"
                )
            })?;
        let expires_at = match self.duration_seconds {
            0 => None,
            seconds => Some(
                now.checked_add(seconds)
                    .filter(|end| *end > now)
                    .and_then(time_text)
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
            is_trial: self.is_trial,
        })
    }
}

fn one<T>(
    connection: &Connection,
    sql: &str,
    id: &str,
    read: fn(&Row) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_and_then([id], read)?.next().transpose()
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
    })
}
