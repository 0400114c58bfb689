//! What a database may hold beyond the contract of schema.sql, and what that means: the tables of
//! Keysat, the licensing service in the field.
//!
//! They are recognised one by one, so that Keysat's databases of any age, and databases without any
//! of it, go the same way. What they say reaches the other modules through temporary views, which
//! live and die with the connection and are made in every database:
//!
//! - `invoices_beyond`: what an invoice is for (`purpose`, NULL: a purchase), whether the service has
//!   done its part (`is_done`), whether the invoice is of our store (`is_ours`), and whether its
//!   license may have been deleted (`license_deleted`);
//! - `half_done_beyond`: settled invoices that may lack something even if they have a license;
//! - `policies_beyond`: whether a policy is `archived`, and how many days of trial its licenses begin
//!   with (`trial_days`, NULL: none).

mod owed;
mod providers;

use std::collections::HashSet;

use anyhow::Result;
use log::trace;
use rusqlite::{Connection, Savepoint, ToSql};
use serde_json::{Value, json};

use super::row::execute_one;
use crate::invoice::BtcpayInvoiceId;
use crate::store::Store;

pub use owed::{AlsoOwed, Settled};
pub use providers::NoProvider;

/// The columns that are used of each table, where the table is one of Keysat's.
const TIER_CHANGES: Table = (
    "tier_changes",
    &[
        "id",
        "license_id",
        "from_policy_id",
        "to_policy_id",
        "invoice_id",
        "created_at",
    ],
);
const SUBSCRIPTIONS: Table = (
    "subscriptions",
    &[
        "id",
        "license_id",
        "policy_id",
        "product_id",
        "period_days",
        "listed_currency",
        "listed_value",
        "status",
        "started_at",
        "next_renewal_at",
    ],
);
const SUBSCRIPTION_INVOICES: Table = (
    "subscription_invoices",
    &[
        "id",
        "subscription_id",
        "invoice_id",
        "cycle_number",
        "cycle_start_at",
        "cycle_end_at",
    ],
);
const RECURRING_POLICIES: Table = (
    "policies",
    &["is_recurring", "renewal_period_days", "trial_days"],
);
const TIPPING_POLICIES: Table = ("policies", &["tip_recipient", "tip_pct_bps"]);
const PAYMENT_PROVIDERS: Table = ("payment_providers", &["id", "kind", "base_url", "store_id"]);
const WEBHOOK_ENDPOINTS: Table = ("webhook_endpoints", &["id", "event_types", "active"]);
const WEBHOOK_DELIVERIES: Table = (
    "webhook_deliveries",
    &[
        "id",
        "endpoint_id",
        "event_type",
        "payload_json",
        "attempt_count",
        "next_attempt_at",
        "created_at",
    ],
);

type Table = (&'static str, &'static [&'static str]);

/// Which of it a database has.
pub struct Beyond {
    /// Of the tables that matter; as `table.column`, in lower case.
    columns: HashSet<String>,
}

const COLUMNS: &str = "
SELECT lower(tables.name || '.' || columns.name)
  FROM sqlite_schema AS tables
  JOIN pragma_table_info(tables.name) AS columns
 WHERE tables.type = 'table'
   AND lower(tables.name) IN (
         'tier_changes', 'subscriptions', 'subscription_invoices', 'payment_providers',
         'btcpay_config', 'webhook_endpoints', 'webhook_deliveries',
         'invoices', 'policies', 'products', 'audit_log')";

impl Beyond {
    pub fn look(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare(COLUMNS)?;
        let columns = statement.query_map([], |row| row.get(0))?;
        Ok(Self {
            columns: columns.collect::<rusqlite::Result<_>>()?,
        })
    }

    /// What the recognised tables lack of the columns that are used, in words.
    pub fn missing(&self) -> Vec<String> {
        let recognised = [
            (self.has_tier_changes(), &[TIER_CHANGES][..]),
            (
                self.has_subscriptions(),
                &[SUBSCRIPTIONS, SUBSCRIPTION_INVOICES],
            ),
            (self.has_recurring_policies(), &[RECURRING_POLICIES]),
            (self.has_tips(), &[TIPPING_POLICIES]),
            (self.has_providers(), &[PAYMENT_PROVIDERS]),
            (
                self.has_webhooks(),
                &[WEBHOOK_ENDPOINTS, WEBHOOK_DELIVERIES],
            ),
        ];
        let tables = recognised.iter().filter(|(here, _)| *here);
        tables
            .flat_map(|(_, tables)| *tables)
            .flat_map(|(table, columns)| columns.iter().map(move |column| (table, column)))
            .filter(|(table, column)| !self.has(table, column))
            .map(|(table, column)| format!("column {table}.{column} is missing"))
            .collect()
    }

    /// Makes the views.
    ///
    /// # Errors
    ///
    /// None of the payment providers is `store`.
    pub fn make_views(
        &self,
        connection: &Connection,
        store: &Store,
    ) -> rusqlite::Result<Result<(), NoProvider>> {
        let is_ours = if self.has_providers() {
            match providers::note_ours(connection, store)? {
                Ok(unnamed_are_ours) => self.is_ours(unnamed_are_ours),
                Err(none) => return Ok(Err(none)),
            }
        } else {
            "1".into()
        };
        let no_purchases = [
            (
                self.has_tier_changes(),
                "'tier_change'",
                IS_TIER_CHANGE,
                TIER_CHANGE_IS_DONE,
            ),
            (
                self.has_subscriptions(),
                "'renewal'",
                IS_RENEWAL,
                RENEWAL_IS_DONE,
            ),
        ];
        let no_purchases = || no_purchases.iter().filter(|(here, ..)| *here);
        let purpose = case(no_purchases().map(|(_, name, applies, _)| (*applies, *name)));
        let is_done = case(no_purchases().map(|(_, _, applies, is_done)| (*applies, *is_done)));
        let license_deleted = if self.is_keysats() {
            LICENSE_MAY_BE_DELETED
        } else {
            "0"
        };
        let half_done = [
            (self.has_tier_changes(), SETTLED_TIER_CHANGES),
            (self.has_subscriptions(), RENEWALS_OF_WHAT_IS_NOT_ACTIVE),
        ];
        let half_done = half_done.iter().filter(|(here, _)| *here);
        let half_done: Vec<&str> = half_done.map(|(_, sql)| *sql).collect();
        let half_done = if half_done.is_empty() {
            "SELECT NULL AS invoice_id WHERE 0".into()
        } else {
            half_done.join(" UNION ALL ")
        };
        let archived = if self.has("policies", "archived_at") {
            "policies.archived_at IS NOT NULL"
        } else {
            "0"
        };
        let trial_days = if self.has_recurring_policies() {
            "CASE WHEN policies.is_recurring AND policies.trial_days > 0 THEN policies.trial_days END"
        } else {
            "NULL"
        };
        let views = format!(
            "CREATE TEMP VIEW invoices_beyond AS
             SELECT invoices.id AS invoice_id,
                    {purpose} AS purpose,
                    {is_done} AS is_done,
                    {is_ours} AS is_ours,
                    {license_deleted} AS license_deleted
               FROM main.invoices;

             CREATE TEMP VIEW half_done_beyond AS {half_done};

             CREATE TEMP VIEW policies_beyond AS
             SELECT policies.id AS policy_id,
                    {archived} AS archived,
                    {trial_days} AS trial_days
               FROM main.policies;"
        );
        trace!("views: {views}");
        connection.execute_batch(&views)?;
        Ok(Ok(()))
    }

    /// SQL: whether an invoice is of our store. A renewal names no provider itself, its
    /// subscription does.
    fn is_ours(&self, unnamed_are_ours: bool) -> String {
        let of_subscription =
            if self.has_subscriptions() && self.has("subscriptions", "payment_provider_id") {
                PROVIDER_OF_SUBSCRIPTION
            } else {
                "NULL"
            };
        let unnamed = i32::from(unnamed_are_ours);
        format!(
            "coalesce(coalesce(invoices.payment_provider_id, {of_subscription})
                      IN (SELECT id FROM temp.our_providers), {unnamed})"
        )
    }

    /// Keysat writes its times with `+00:00` and compares them as text.
    pub fn writes_times_with_offset(&self) -> bool {
        self.is_keysats()
    }

    /// What a license says of where it comes from. Keysat's pages and its operators' own programs
    /// know sales by `purchase`.
    pub fn license_metadata(&self, btcpay_id: &BtcpayInvoiceId) -> Value {
        if self.is_keysats() {
            json!({"source": "purchase", "btcpay_invoice_id": btcpay_id, "issued_by": "reconcile"})
        } else {
            json!({"source": "reconcile", "btcpay_invoice_id": btcpay_id})
        }
    }

    /// A table of this name may be of a service of another kind; what ties it to invoices tells.
    fn has_tier_changes(&self) -> bool {
        self.has("tier_changes", "invoice_id")
    }

    fn has_subscriptions(&self) -> bool {
        self.has("subscription_invoices", "invoice_id")
            && self.has("subscription_invoices", "cycle_number")
    }

    fn has_recurring_policies(&self) -> bool {
        self.has_subscriptions() && self.has("policies", "is_recurring")
    }

    fn has_tips(&self) -> bool {
        self.has("policies", "tip_recipient")
    }

    fn has_providers(&self) -> bool {
        self.has("payment_providers", "id") && self.has("invoices", "payment_provider_id")
    }

    fn has_webhooks(&self) -> bool {
        self.has("webhook_endpoints", "event_types") && self.has("webhook_deliveries", "id")
    }

    /// Whether any of it is there, or what older databases have in its place.
    fn is_keysats(&self) -> bool {
        self.has_tier_changes()
            || self.has_subscriptions()
            || self.has_providers()
            || self.has_webhooks()
            || self.has("btcpay_config", "store_id")
    }

    fn has(&self, table: &str, column: &str) -> bool {
        self.columns.contains(&format!("{table}.{column}"))
    }

    /// Inserts one row; columns that this database is too old for are left out.
    fn insert(
        &self,
        savepoint: &Savepoint,
        table: &str,
        values: &[(&str, &dyn ToSql)],
    ) -> Result<()> {
        let known = values.iter().filter(|(column, _)| self.has(table, column));
        let (columns, values): (Vec<&str>, Vec<&dyn ToSql>) = known.copied().unzip();
        let places = vec!["?"; columns.len()].join(", ");
        let columns = columns.join(", ");
        let sql = format!("INSERT INTO {table} ({columns}) VALUES ({places})");
        execute_one(savepoint, &format!("a row of {table}"), &sql, &values[..])
    }
}

/// SQL: the value of the first condition that holds.
fn case<'a>(values: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let whens: Vec<String> = values
        .map(|(condition, value)| format!("WHEN {condition} THEN {value}"))
        .collect();
    if whens.is_empty() {
        "NULL".into()
    } else {
        format!("CASE {} END", whens.join(" "))
    }
}

const PROVIDER_OF_SUBSCRIPTION: &str = "
(SELECT subscriptions.payment_provider_id
   FROM main.subscription_invoices AS cycle
   JOIN main.subscriptions ON subscriptions.id = cycle.subscription_id
  WHERE cycle.invoice_id = invoices.id
    AND subscriptions.payment_provider_id IS NOT NULL)";

const IS_TIER_CHANGE: &str = "
EXISTS (SELECT 1 FROM main.tier_changes WHERE invoice_id = invoices.id)";

/// Of one that is settled here, the license shows that it took place: by its policy, or by a later
/// change that took place itself or began from there. Of one that is not settled here, that would
/// be another payment's doing.
const TIER_CHANGE_IS_DONE: &str = "
NOT EXISTS (
  SELECT 1
    FROM main.tier_changes AS change
   WHERE change.invoice_id = invoices.id
     AND NOT EXISTS (
           SELECT 1 FROM main.audit_log
            WHERE action = 'subscription.upgrade.applied' AND target_id = change.id)
     AND NOT (invoices.status = 'settled' AND EXISTS (
           SELECT 1 FROM main.licenses
            WHERE id = change.license_id AND policy_id = change.to_policy_id))
     AND NOT (invoices.status = 'settled' AND EXISTS (
           SELECT 1
             FROM main.tier_changes AS later
             LEFT JOIN main.invoices AS paid ON paid.id = later.invoice_id
            WHERE later.license_id = change.license_id
              AND later.created_at > change.created_at
              AND (later.from_policy_id = change.to_policy_id
                   OR later.invoice_id IS NULL
                   OR paid.status = 'settled')))
)";

// Joined in this order, since there are far fewer of them than of settled invoices.
const SETTLED_TIER_CHANGES: &str = "
SELECT change.invoice_id
  FROM main.tier_changes AS change
 CROSS JOIN main.invoices ON invoices.id = change.invoice_id
 WHERE invoices.status = 'settled'";

/// The first cycle is the purchase itself.
const IS_RENEWAL: &str = "
EXISTS (SELECT 1 FROM main.subscription_invoices WHERE invoice_id = invoices.id AND cycle_number >= 2)";

/// A later cycle shows that a settled one was counted; so does a second row of the same, which the
/// service adds then.
const RENEWAL_IS_DONE: &str = "
invoices.status = 'settled' AND NOT EXISTS (
  SELECT 1
    FROM main.subscription_invoices AS cycle
    JOIN main.subscriptions ON subscriptions.id = cycle.subscription_id
   WHERE cycle.invoice_id = invoices.id
     AND cycle.cycle_number >= 2
     AND subscriptions.status IN ('past_due', 'lapsed')
     AND NOT EXISTS (
           SELECT 1 FROM main.subscription_invoices AS other
            WHERE other.subscription_id = cycle.subscription_id
              AND other.id <> cycle.id
              AND (other.cycle_number > cycle.cycle_number
                   OR other.invoice_id = cycle.invoice_id))
)";

const RENEWALS_OF_WHAT_IS_NOT_ACTIVE: &str = "
SELECT cycle.invoice_id
  FROM main.subscriptions
 CROSS JOIN main.subscription_invoices AS cycle ON cycle.subscription_id = subscriptions.id
 CROSS JOIN main.invoices ON invoices.id = cycle.invoice_id
 WHERE subscriptions.status IN ('past_due', 'lapsed')
   AND cycle.cycle_number >= 2
   AND invoices.status = 'settled'";

/// Deleting a policy by force deletes its licenses, and leaves the invoices that name another.
const LICENSE_MAY_BE_DELETED: &str = "
invoices.status = 'settled' AND EXISTS (
  SELECT 1
    FROM main.audit_log
   WHERE action = 'policy.force_delete'
     AND (unixepoch(occurred_at) < unixepoch(invoices.created_at)) IS NOT TRUE
)";
