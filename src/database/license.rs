//! The license that an invoice's buyer is owed, and its terms.

use anyhow::{Context, Result, bail, ensure};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Savepoint, named_params};
use serde_json::Value;

use super::clock::{Clock, unix_seconds};
use super::row::{column_value, execute_one, flag, kind, one};
use super::views::Views;
use crate::invoice::{InvoiceId, LicenseId};

/// A license, read and checked.
pub struct LicenseRow {
    pub product_id: String,
    pub buyer_email: Option<String>,
    /// Unix seconds.
    pub issued_at: i64,
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
    pub is_trial: bool,
    /// How many days of trial the license begins with.
    pub trial_days: Option<i64>,
}

/// The WHERE after the conflict target admits a partial unique index too. Plain VALUES: for a SELECT,
/// SQLite would search all redemptions for ones that wait for this license's id.
pub const ISSUE_LICENSE: &str = "
INSERT INTO licenses (
          id,  product_id,  invoice_id,  policy_id,  status,   issued_at,  expires_at,
          grace_seconds,  max_machines,  entitlements_json,  is_trial,  buyer_email,  metadata_json)
VALUES (:id, :product_id, :invoice_id, :policy_id,  'active', :now,       :expires_at,
         :grace_seconds, :max_machines, :entitlements_json, :is_trial, :buyer_email, :metadata_json)
    ON CONFLICT (invoice_id) WHERE invoice_id IS NOT NULL DO NOTHING";

const PURCHASE: &str = "
SELECT product_id, policy_id, buyer_email
  FROM invoices
 WHERE id = ?1";

struct Purchase {
    product_id: String,
    policy_id: Option<String>,
    buyer_email: Option<String>,
}

fn read_purchase(row: &Row) -> Result<Purchase> {
    Ok(Purchase {
        product_id: column_value(row, "product_id")?,
        policy_id: column_value(row, "policy_id")?,
        buyer_email: column_value(row, "buyer_email")?,
    })
}

/// Creates the view of policies. Its columns are what [`read_policy`] reads.
pub fn policy_view(views: &Views) -> String {
    let Views {
        archived_at,
        is_recurring,
        trial_days,
        ..
    } = views;
    format!(
        "CREATE TEMP VIEW policy_rows AS
         SELECT id,
                product_id,
                name,
                slug,
                duration_seconds,
                grace_seconds,
                max_machines,
                is_trial,
                entitlements_json,
                active,
                {archived_at}  AS archived_at,
                {is_recurring} AS is_recurring,
                {trial_days}   AS trial_days
           FROM main.policies"
    )
}

const POLICY: &str = "SELECT * FROM policy_rows WHERE id = ?1";

/// The product's own choice comes first.
const POLICIES: &str = "
SELECT *
  FROM policy_rows
 WHERE product_id = ?1
 ORDER BY slug = 'default' DESC, name, id";

const ISSUED: &str = "
SELECT product_id, policy_id, buyer_email, expires_at, grace_seconds, max_machines,
       entitlements_json, is_trial, issued_at
  FROM licenses
 WHERE id = ?1";

#[cfg(test)]
pub const QUERIES: [&str; 5] = [ISSUE_LICENSE, PURCHASE, POLICY, POLICIES, ISSUED];

struct Policy {
    id: String,
    product_id: String,
    duration_seconds: i64,
    grace_seconds: i64,
    max_machines: i64,
    entitlements_json: String,
    is_trial: bool,
    /// Of a recurring policy.
    trial_days: Option<i64>,
}

fn read_policy(row: &Row) -> Result<Policy> {
    let id: String = column_value(row, "id")?;
    let read = || -> Result<Policy> {
        let is_recurring = match row.get_ref("is_recurring")? {
            ValueRef::Null => false,
            _ => flag(row, "policies", "is_recurring")?,
        };
        let trial_days: Option<i64> = column_value(row, "trial_days")?;
        Ok(Policy {
            id: id.clone(),
            product_id: column_value(row, "product_id")?,
            duration_seconds: column_value(row, "duration_seconds")?,
            grace_seconds: column_value(row, "grace_seconds")?,
            max_machines: column_value(row, "max_machines")?,
            entitlements_json: column_value(row, "entitlements_json")?,
            is_trial: flag(row, "policies", "is_trial")?,
            trial_days: trial_days.filter(|days| is_recurring && *days > 0),
        })
    };
    read().with_context(|| format!("its policy {id} cannot be used"))
}

/// Whether the policy is active and was not archived.
fn is_in_use(row: &Row) -> Result<bool> {
    let time = |text| str::from_utf8(text).ok().and_then(unix_seconds);
    match row.get_ref("archived_at")? {
        ValueRef::Null => flag(row, "policies", "active"),
        ValueRef::Text(text) if time(text).is_some() => Ok(false),
        value => bail!(
            "policies.archived_at is {}, which is not a time. Set it to NULL if the policy is in use",
            kind(value)
        ),
    }
}

/// The first of the product's policies that is in use.
fn default_policy(connection: &Connection, product_id: &str) -> Result<Option<Policy>> {
    let mut statement = connection.prepare_cached(POLICIES)?;
    let mut rows = statement.query([product_id])?;
    while let Some(row) = rows.next()? {
        if is_in_use(row).context("its product's policy cannot be used")? {
            return read_policy(row).map(Some);
        }
    }
    Ok(None)
}

impl LicenseRow {
    /// A license issued now, on the terms of the invoice's own policy, else of its product's default.
    ///
    /// # Errors
    ///
    /// The policy is another product's, or does not fit the contract.
    pub fn read(connection: &Connection, invoice_id: &InvoiceId, clock: Clock) -> Result<Self> {
        let purchase = one(connection, PURCHASE, &[&invoice_id.0], read_purchase)?
            .context("its row is gone")?;
        // One that does not exist was found in doubt, and a person has decided.
        let own = match &purchase.policy_id {
            Some(id) => one(connection, POLICY, &[id], read_policy)?,
            None => None,
        };
        let policy = match own {
            Some(own) => Some(own),
            None => default_policy(connection, &purchase.product_id)?,
        };
        if let Some(Policy { id, product_id, .. }) = &policy {
            ensure!(
                *product_id == purchase.product_id,
                "its policy {id} belongs to another product. Correct policy_id"
            );
        }
        Ok(Self {
            product_id: purchase.product_id,
            buyer_email: purchase.buyer_email,
            issued_at: clock.now,
            terms: policy
                .map_or_else(|| Ok(Terms::without_policy()), |policy| policy.terms(clock))?,
        })
    }

    /// A license that exists.
    ///
    /// # Errors
    ///
    /// It is gone, or does not fit the contract.
    pub fn issued(connection: &Connection, id: &LicenseId) -> Result<Self> {
        let mut license = one(connection, ISSUED, &[&id.0], |row| {
            let issued_at: String = column_value(row, "issued_at")?;
            let entitlements_json: String = column_value(row, "entitlements_json")?;
            Ok(Self {
                product_id: column_value(row, "product_id")?,
                buyer_email: column_value(row, "buyer_email")?,
                issued_at: unix_seconds(&issued_at).with_context(|| {
                    format!("licenses.issued_at is '{issued_at}', which is not a time")
                })?,
                terms: Terms {
                    policy_id: column_value(row, "policy_id")?,
                    expires_at: column_value(row, "expires_at")?,
                    grace_seconds: column_value(row, "grace_seconds")?,
                    max_machines: column_value(row, "max_machines")?,
                    entitlements: entitlements(&entitlements_json)
                        .context("licenses.entitlements_json is not a JSON array of strings")?,
                    entitlements_json,
                    is_trial: flag(row, "licenses", "is_trial")?,
                    trial_days: None,
                },
            })
        })
        .with_context(|| format!("its license {id} cannot be used"))?
        .context("its license is gone")?;
        if let Some(policy_id) = &license.terms.policy_id {
            let policy = one(connection, POLICY, &[policy_id], read_policy)?;
            license.terms.trial_days = policy.and_then(|policy| policy.trial_days);
        }
        Ok(license)
    }

    /// # Errors
    ///
    /// The database refuses it, or the invoice has a license by now.
    pub fn write(
        &self,
        savepoint: &Savepoint,
        id: &LicenseId,
        invoice_id: &InvoiceId,
        metadata: &Value,
        now: &str,
    ) -> Result<()> {
        execute_one(
            savepoint,
            "the license",
            ISSUE_LICENSE,
            named_params! {
                ":id": id.0,
                ":product_id": self.product_id,
                ":invoice_id": invoice_id.0,
                ":policy_id": self.terms.policy_id,
                ":now": now,
                ":expires_at": self.terms.expires_at,
                ":grace_seconds": self.terms.grace_seconds,
                ":max_machines": self.terms.max_machines,
                ":entitlements_json": self.terms.entitlements_json,
                ":is_trial": self.terms.is_trial,
                ":buyer_email": self.buyer_email,
                ":metadata_json": metadata.to_string(),
            },
        )
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
            is_trial: false,
            trial_days: None,
        }
    }
}

impl Policy {
    fn terms(self, clock: Clock) -> Result<Terms> {
        let id = &self.id;
        let entitlements = entitlements(&self.entitlements_json).with_context(|| {
            format!(
                "the entitlements of its policy {id} are not a JSON array of strings. Correct \
                 entitlements_json"
            )
        })?;
        let expires_at = match (self.trial_days, self.duration_seconds) {
            (Some(days), _) => Some(clock.text_after_days(days).with_context(|| {
                format!("its policy {id} has a trial of {days} days, which gives no date. Correct trial_days")
            })?),
            (None, 0) => None,
            (None, seconds) => Some(
                clock
                    .text_after(seconds)
                    .filter(|_| seconds > 0)
                    .with_context(|| {
                        format!(
                            "its policy {id} has a duration of {seconds} seconds, which gives no date. Correct \
                             duration_seconds (0 means forever)"
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
            is_trial: self.is_trial || self.trial_days.is_some(),
            trial_days: self.trial_days,
        })
    }
}

fn entitlements(json: &str) -> Option<Vec<String>> {
    serde_json::from_str(json).ok()
}
