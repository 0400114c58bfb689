//! The columns of Keysat's tables that are used.

use rusqlite::Connection;

use super::Keysat;
use crate::database::contract;

/// A table's name, and its columns.
pub type Table = (&'static str, &'static str);

const TIER_CHANGES: &[Table] = &[(
    "tier_changes",
    "id license_id from_policy_id to_policy_id invoice_id effective_at actor created_at",
)];
const SUBSCRIPTIONS: &[Table] = &[
    (
        "subscriptions",
        "id license_id policy_id product_id period_days listed_currency listed_value status \
         started_at next_renewal_at",
    ),
    (
        "subscription_invoices",
        "id subscription_id invoice_id cycle_number cycle_start_at cycle_end_at",
    ),
];
const RECURRING_POLICIES: &[Table] = &[("policies", "is_recurring renewal_period_days trial_days")];
const TIPPING_POLICIES: &[Table] = &[("policies", "tip_recipient tip_pct_bps")];
pub const PROVIDERS: &[Table] = &[("payment_providers", "id kind base_url store_id")];
pub const ENDPOINTS: &[Table] = &[("webhook_endpoints", "id event_types active")];
pub const DELIVERIES: &[Table] = &[(
    "webhook_deliveries",
    "id endpoint_id event_type payload_json attempt_count next_attempt_at created_at",
)];

impl Keysat {
    /// Whether each of `tables` has more than half of its columns.
    pub fn has_most_of(&self, tables: &[Table]) -> bool {
        tables.iter().all(|(table, columns)| {
            let columns: Vec<&str> = columns.split(' ').collect();
            let there = columns.iter().filter(|column| self.has(table, column));
            there.count() * 2 > columns.len()
        })
    }

    /// Which of the tables that are written SQLite cannot write, as phrases.
    pub fn unwritable(&self, connection: &Connection) -> Vec<String> {
        let written = [
            (self.has_recurring_policies(), SUBSCRIPTIONS),
            (self.has_webhooks(), DELIVERIES),
        ];
        let tables = written.iter().filter(|(here, _)| *here);
        tables
            .flat_map(|(_, tables)| *tables)
            .filter_map(|(table, columns)| {
                let values = vec!["NULL"; columns.split(' ').count()].join(", ");
                let columns = columns.replace(' ', ", ");
                let insert = format!("INSERT INTO {table} ({columns}) VALUES ({values})");
                let error = connection.prepare(&insert).err()?;
                Some(contract::cannot_write(table, &contract::why(&error)))
            })
            .collect()
    }

    /// What the recognized tables lack of them, as phrases.
    pub fn missing(&self) -> Vec<String> {
        let recognized = [
            (self.has_tier_changes(), TIER_CHANGES),
            (self.has_subscriptions(), SUBSCRIPTIONS),
            (self.has_recurring_policies(), RECURRING_POLICIES),
            (self.has_tips(), TIPPING_POLICIES),
            (self.has_providers(), PROVIDERS),
            (self.has_webhooks(), ENDPOINTS),
            (self.has_webhooks(), DELIVERIES),
        ];
        let tables = recognized.iter().filter(|(here, _)| *here);
        tables
            .flat_map(|(_, tables)| *tables)
            .flat_map(|(table, columns)| columns.split(' ').map(move |column| (table, column)))
            .filter(|(table, column)| !self.has(table, column))
            .map(|(table, column)| format!("column {table}.{column} is missing"))
            .collect()
    }
}
