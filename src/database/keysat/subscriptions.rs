//! The subscription that a purchase of a recurring policy starts, with its first cycle.

use anyhow::{Context, Result};
use rusqlite::{Connection, Savepoint};
use uuid::Uuid;

use super::Keysat;
use crate::database::clock::{Clock, unix_seconds};
use crate::database::license::LicenseRow;
use crate::database::row::{column_value, flag, one};
use crate::invoice::{Invoice, LicenseId};

/// Settled purchases of a recurring policy whose license has no subscription, or one without its
/// first cycle. What became of a license by a change of tier is not ours to complete.
pub const SALES_WITHOUT_SUBSCRIPTION: &str = "
SELECT invoices.id AS invoice_id, invoices.created_at
  FROM main.invoices
  JOIN main.licenses ON licenses.invoice_id = invoices.id
  JOIN main.policies ON policies.id = licenses.policy_id
 WHERE invoices.status = 'settled'
   AND lower(policies.is_recurring) IN ('1', '1.0', 't', 'true', 'yes')
   AND NOT EXISTS (
         SELECT 1
           FROM main.subscriptions
           JOIN main.subscription_invoices AS cycle ON cycle.subscription_id = subscriptions.id
          WHERE subscriptions.license_id = licenses.id
            AND cycle.cycle_number = 1)";

/// Only for a license that has the policy that the invoice names, if it names one.
pub const HAS_NO_SUBSCRIPTION: &str = "
licenses.status = 'active'
AND licenses.policy_id = coalesce(invoices.policy_id, licenses.policy_id)
AND EXISTS (
      SELECT 1
        FROM main.policies
       WHERE id = licenses.policy_id
         AND lower(is_recurring) IN ('1', '1.0', 't', 'true', 'yes'))
AND NOT EXISTS (SELECT 1 FROM main.subscriptions WHERE license_id = licenses.id)";

pub const HAS_NO_CYCLE: &str = "
licenses.status = 'active'
AND EXISTS (
      SELECT 1
        FROM main.subscriptions
       WHERE license_id = licenses.id
         AND NOT EXISTS (
               SELECT 1
                 FROM main.subscription_invoices
                WHERE subscription_id = subscriptions.id
                  AND cycle_number = 1))";

const STARTED: &str = "
SELECT id, period_days, started_at
  FROM subscriptions
 WHERE license_id = ?1";

/// A subscription to be started.
pub struct Subscription {
    period_days: i64,
    listed_currency: String,
    listed_value: i64,
    first_cycle: Cycle,
    merchant_profile_id: Option<String>,
    payment_provider_id: Option<String>,
}

/// A subscription's first cycle, from one time to another as the service writes them.
pub struct Cycle {
    starts: String,
    ends: String,
}

impl Cycle {
    /// `days` from Unix second `start`.
    fn new(start: i64, days: i64) -> Result<Self> {
        let clock = Clock {
            now: start,
            with_offset: true,
        };
        let at = |days| {
            clock.text_after_days(days).with_context(|| {
                format!(
                    "a first cycle of {days} days gives no date. Correct renewal_period_days or \
                     trial_days"
                )
            })
        };
        Ok(Self {
            starts: at(0)?,
            ends: at(days)?,
        })
    }
}

impl Keysat {
    /// The subscription that `license` of `invoice` is owed; None if its policy is not recurring.
    pub(super) fn subscription(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        license: &LicenseRow,
    ) -> Result<Option<Subscription>> {
        let (Some(policy_id), true) = (&license.terms.policy_id, self.has_recurring_policies())
        else {
            return Ok(None);
        };
        let or_null = |table: &str, column: &str| {
            if self.has(table, column) {
                format!("{table}.{column}")
            } else {
                format!("NULL AS {column}")
            }
        };
        let sql = format!(
            "SELECT policies.is_recurring,
                    policies.renewal_period_days,
                    {listed_currency},
                    {listed_value},
                    {merchant_profile_id},
                    {payment_provider_id}
               FROM invoices
               JOIN policies ON policies.id = ?2
               LEFT JOIN products ON products.id = invoices.product_id
              WHERE invoices.id = ?1",
            listed_currency = or_null("invoices", "listed_currency"),
            listed_value = or_null("invoices", "listed_value"),
            merchant_profile_id = or_null("products", "merchant_profile_id"),
            payment_provider_id = or_null("invoices", "payment_provider_id"),
        );
        let subscription = one(connection, &sql, &[&invoice.id.0, policy_id], |row| {
            if !flag(row, "policies", "is_recurring")? {
                return Ok(None);
            }
            let period_days: Option<i64> = column_value(row, "renewal_period_days")?;
            let period_days = period_days.unwrap_or(1).max(1);
            let listed = (
                column_value::<Option<String>>(row, "listed_currency")?,
                column_value::<Option<i64>>(row, "listed_value")?,
            );
            let (listed_currency, listed_value) = match listed {
                (Some(currency), Some(value)) => (currency, value),
                (Some(_) | None, None) | (None, Some(_)) => ("SAT".into(), invoice.amount_sats),
            };
            let days = license.terms.trial_days.unwrap_or(period_days);
            Ok(Some(Subscription {
                period_days,
                listed_currency,
                listed_value,
                first_cycle: Cycle::new(license.issued_at, days)?,
                merchant_profile_id: column_value(row, "merchant_profile_id")?,
                payment_provider_id: column_value(row, "payment_provider_id")?,
            }))
        })
        .with_context(|| format!("the subscription of its policy {policy_id} cannot be created"))?;
        Ok(subscription.flatten())
    }

    /// The first cycle that the subscription of `license_id` lacks, with the subscription's id.
    pub(super) fn missing_cycle(
        connection: &Connection,
        license: &LicenseRow,
        license_id: &LicenseId,
    ) -> Result<Option<(String, Cycle)>> {
        one(connection, STARTED, &[&license_id.0], |row| {
            let started_at: String = column_value(row, "started_at")?;
            let start = unix_seconds(&started_at).with_context(|| {
                format!("subscriptions.started_at is '{started_at}', which is not a time")
            })?;
            let period_days: i64 = column_value(row, "period_days")?;
            let days = license.terms.trial_days.unwrap_or(period_days);
            Ok((column_value(row, "id")?, Cycle::new(start, days)?))
        })
        .context("its subscription cannot be used")
    }

    pub(super) fn start_subscription(
        &self,
        savepoint: &Savepoint,
        subscription: &Subscription,
        invoice: &Invoice,
        license: &LicenseRow,
        license_id: &LicenseId,
        now: &str,
    ) -> Result<()> {
        let id = Uuid::new_v4().to_string();
        self.insert(
            savepoint,
            "subscriptions",
            &[
                ("id", &id),
                ("license_id", &license_id.0),
                ("policy_id", &license.terms.policy_id),
                ("product_id", &license.product_id),
                ("period_days", &subscription.period_days),
                ("listed_currency", &subscription.listed_currency),
                ("listed_value", &subscription.listed_value),
                ("status", &"active"),
                ("started_at", &subscription.first_cycle.starts),
                ("next_renewal_at", &subscription.first_cycle.ends),
                ("consecutive_failures", &0),
                ("merchant_profile_id", &subscription.merchant_profile_id),
                ("payment_provider_id", &subscription.payment_provider_id),
                ("created_at", &now),
                ("updated_at", &now),
            ],
        )?;
        self.add_first_cycle(savepoint, &id, &subscription.first_cycle, invoice, now)
    }

    pub(super) fn add_first_cycle(
        &self,
        savepoint: &Savepoint,
        subscription_id: &str,
        cycle: &Cycle,
        invoice: &Invoice,
        now: &str,
    ) -> Result<()> {
        self.insert(
            savepoint,
            "subscription_invoices",
            &[
                ("id", &Uuid::new_v4().to_string()),
                ("subscription_id", &subscription_id),
                ("invoice_id", &invoice.id.0),
                ("cycle_number", &1),
                ("cycle_start_at", &cycle.starts),
                ("cycle_end_at", &cycle.ends),
                ("created_at", &now),
            ],
        )
    }
}

impl Keysat {
    /// Expressions over `licenses`: its subscription's status, and when that is to be renewed; or NULL.
    pub fn subscription_of_license(&self) -> [&'static str; 2] {
        if self.has("subscriptions", "license_id") {
            [
                "(SELECT status FROM main.subscriptions WHERE license_id = licenses.id)",
                "(SELECT next_renewal_at FROM main.subscriptions WHERE license_id = licenses.id)",
            ]
        } else {
            ["NULL", "NULL"]
        }
    }
}
