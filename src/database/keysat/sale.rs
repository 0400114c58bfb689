//! What a settled purchase is owed beside its license and redemption: its subscription, the deliveries
//! through which the operator's programs hear of it, and a note of a tip.

use anyhow::{Context, Result};
use rusqlite::{Connection, Row, Savepoint};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Keysat;
use crate::database::audit;
use crate::database::clock::Clock;
use crate::database::license::{NewLicense, Terms};
use crate::database::row::{column_value, one};
use crate::invoice::{Invoice, LicenseId, Tip};

/// All of it, read and checked.
#[derive(Default)]
pub struct AlsoOwed {
    subscription: Option<Subscription>,
    redeemed: Option<Redeemed>,
    /// The endpoints that hear of the license, and of the redemption.
    told_of_license: Vec<String>,
    told_of_redemption: Vec<String>,
    pub tip: Option<Tip>,
}

struct Subscription {
    period_days: i64,
    listed_currency: String,
    listed_value: i64,
    next_renewal_at: String,
    merchant_profile_id: Option<String>,
    payment_provider_id: Option<String>,
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

const ENDPOINTS: &str = "
SELECT id
  FROM webhook_endpoints
 WHERE active
   AND CASE WHEN json_valid(event_types)
            THEN EXISTS (SELECT 1 FROM json_each(event_types) WHERE value IN ('*', ?1))
       END
 ORDER BY rowid";

const LICENSE_ISSUED: &str = "license.issued";
const CODE_REDEEMED: &str = "code.redeemed";

impl Keysat {
    /// What is owed when `invoice` is settled, `license` issued, and the redemption of this id
    /// redeemed.
    ///
    /// # Errors
    ///
    /// A row that it needs cannot be used.
    pub fn also_owed(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        license: Option<&NewLicense>,
        redemption_id: Option<&str>,
        clock: Clock,
    ) -> Result<AlsoOwed> {
        let mut owed = AlsoOwed::default();
        if let Some(license) = license {
            owed.told_of_license = self.endpoints(connection, LICENSE_ISSUED)?;
            if let Some(policy_id) = &license.terms.policy_id {
                owed.subscription =
                    self.subscription(connection, invoice, policy_id, &license.terms, clock)?;
                owed.tip = self.tip(connection, invoice, policy_id)?;
            }
        }
        if let Some(id) = redemption_id {
            owed.told_of_redemption = self.endpoints(connection, CODE_REDEEMED)?;
            owed.redeemed = one(connection, REDEEMED, &[id], read_redeemed)
                .context("its redemption cannot be used")?;
        }
        Ok(owed)
    }

    fn endpoints(&self, connection: &Connection, event: &str) -> Result<Vec<String>> {
        if !self.has_webhooks() {
            return Ok(Vec::new());
        }
        let mut statement = connection.prepare_cached(ENDPOINTS)?;
        let ids = statement.query_and_then([event], |row| column_value(row, "id"))?;
        ids.collect::<Result<_>>()
            .context("the table webhook_endpoints cannot be used")
    }

    fn subscription(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        policy_id: &str,
        terms: &Terms,
        clock: Clock,
    ) -> Result<Option<Subscription>> {
        if !self.has_recurring_policies() {
            return Ok(None);
        }
        let or_null = |table: &str, column: &str| {
            if self.has(table, column) {
                format!("{table}.{column}")
            } else {
                format!("NULL AS {column}")
            }
        };
        let sql = format!(
            "SELECT max(coalesce(policies.renewal_period_days, 1), 1) AS period_days,
                    {listed_currency},
                    {listed_value},
                    {merchant_profile_id},
                    {payment_provider_id}
               FROM invoices
               JOIN policies ON policies.id = ?2 AND policies.is_recurring
               LEFT JOIN products ON products.id = invoices.product_id
              WHERE invoices.id = ?1",
            listed_currency = or_null("invoices", "listed_currency"),
            listed_value = or_null("invoices", "listed_value"),
            merchant_profile_id = or_null("products", "merchant_profile_id"),
            payment_provider_id = or_null("invoices", "payment_provider_id"),
        );
        one(connection, &sql, &[&invoice.id.0, policy_id], |row| {
            let period_days: i64 = column_value(row, "period_days")?;
            let listed = (
                column_value::<Option<String>>(row, "listed_currency")?,
                column_value::<Option<i64>>(row, "listed_value")?,
            );
            let (listed_currency, listed_value) = match listed {
                (Some(currency), Some(value)) => (currency, value),
                (Some(_) | None, None) | (None, Some(_)) => ("SAT".into(), invoice.amount_sats),
            };
            let first_cycle_days = terms.trial_days.unwrap_or(period_days);
            Ok(Subscription {
                period_days,
                listed_currency,
                listed_value,
                next_renewal_at: clock.text_after_days(first_cycle_days).with_context(|| {
                    format!(
                        "a first cycle of {first_cycle_days} days gives no date. Correct \
                         renewal_period_days or trial_days"
                    )
                })?,
                merchant_profile_id: column_value(row, "merchant_profile_id")?,
                payment_provider_id: column_value(row, "payment_provider_id")?,
            })
        })
        .with_context(|| format!("the subscription of its policy {policy_id} cannot be created"))
    }

    fn tip(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        policy_id: &str,
    ) -> Result<Option<Tip>> {
        const TIP: &str = "
            SELECT tip_recipient, tip_pct_bps
              FROM policies
             WHERE id = ?1 AND tip_recipient <> '' AND tip_pct_bps > 0";
        if !self.has_tips() {
            return Ok(None);
        }
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

    /// Writes it. `license_id` is the license that the invoice has now, new or not.
    ///
    /// # Errors
    ///
    /// The database refuses a row.
    pub fn write(
        &self,
        savepoint: &Savepoint,
        owed: &AlsoOwed,
        invoice: &Invoice,
        license: Option<&NewLicense>,
        license_id: &LicenseId,
        now: &str,
    ) -> Result<()> {
        if let Some(license) = license {
            let data = license_data(invoice, license, license_id);
            self.queue(savepoint, &owed.told_of_license, LICENSE_ISSUED, &data, now)?;
            if let Some(subscription) = &owed.subscription {
                self.start_subscription(
                    savepoint,
                    subscription,
                    invoice,
                    license,
                    license_id,
                    now,
                )?;
            }
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

    /// Queues a delivery to each endpoint, which the service makes.
    fn queue(
        &self,
        savepoint: &Savepoint,
        endpoints: &[String],
        event: &str,
        data: &Value,
        now: &str,
    ) -> Result<()> {
        let envelope = json!({"event_type": event, "timestamp": now, "data": data}).to_string();
        endpoints.iter().try_for_each(|endpoint_id| {
            self.insert(
                savepoint,
                "webhook_deliveries",
                &[
                    ("id", &new_id()),
                    ("endpoint_id", endpoint_id),
                    ("event_type", &event),
                    ("payload_json", &envelope),
                    ("attempt_count", &0),
                    ("next_attempt_at", &now),
                    ("created_at", &now),
                ],
            )
        })
    }

    /// Starts a subscription with its first cycle.
    fn start_subscription(
        &self,
        savepoint: &Savepoint,
        subscription: &Subscription,
        invoice: &Invoice,
        license: &NewLicense,
        license_id: &LicenseId,
        now: &str,
    ) -> Result<()> {
        let id = new_id();
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
                ("started_at", &now),
                ("next_renewal_at", &subscription.next_renewal_at),
                ("consecutive_failures", &0),
                ("merchant_profile_id", &subscription.merchant_profile_id),
                ("payment_provider_id", &subscription.payment_provider_id),
                ("created_at", &now),
                ("updated_at", &now),
            ],
        )?;
        self.insert(
            savepoint,
            "subscription_invoices",
            &[
                ("id", &new_id()),
                ("subscription_id", &id),
                ("invoice_id", &invoice.id.0),
                ("cycle_number", &1),
                ("cycle_start_at", &now),
                ("cycle_end_at", &subscription.next_renewal_at),
                ("created_at", &now),
            ],
        )
    }
}

fn license_data(invoice: &Invoice, license: &NewLicense, license_id: &LicenseId) -> Value {
    let terms = &license.terms;
    json!({
        "license_id": license_id,
        "product_id": license.product_id,
        "invoice_id": invoice.id,
        "policy_id": terms.policy_id,
        "is_trial": terms.is_trial != 0,
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

fn new_id() -> String {
    Uuid::new_v4().to_string()
}
