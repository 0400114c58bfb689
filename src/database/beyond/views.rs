//! The temporary views: what the recognised tables say, in words that every database understands.

use log::trace;
use rusqlite::Connection;

use super::{Beyond, NoProvider, providers};
use crate::store::Store;

impl Beyond {
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
        let license_deleted = if self.is_keysats {
            LICENSE_MAY_BE_DELETED
        } else {
            "0"
        };
        let half_done = [
            (self.has_tier_changes(), SETTLED_TIER_CHANGES),
            (self.has_subscriptions(), RENEWALS_OF_WHAT_IS_PAST_DUE),
        ];
        let half_done = half_done.iter().filter(|(here, _)| *here);
        let half_done: Vec<&str> = half_done.map(|(_, sql)| *sql).collect();
        let half_done = if half_done.is_empty() {
            "SELECT NULL AS invoice_id, NULL AS created_at WHERE 0".into()
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

/// The service notes that a change took place. Where it did not, and the invoice is settled here,
/// the policy that the license had next shows it, if it is the new one and no change that began
/// before has taken effect since: then this one was paid for in vain. Or the operator has given that
/// policy meanwhile, free of charge.
const TIER_CHANGE_IS_DONE: &str = "
NOT EXISTS (
  SELECT 1
    FROM main.tier_changes AS change
   WHERE change.invoice_id = invoices.id
     AND change.id NOT IN (
           SELECT target_id FROM main.audit_log
            WHERE action = 'subscription.upgrade.applied' AND target_id IS NOT NULL)
     AND NOT (
           invoices.status = 'settled'
           AND (coalesce(
                  (SELECT following.from_policy_id
                     FROM main.tier_changes AS following
                    WHERE following.license_id = change.license_id
                      AND following.created_at > change.created_at
                    ORDER BY following.created_at
                    LIMIT 1),
                  (SELECT policy_id FROM main.licenses WHERE id = change.license_id)
                ) IS change.to_policy_id
                AND NOT EXISTS (
                  SELECT 1
                    FROM main.tier_changes AS earlier
                   WHERE earlier.license_id = change.license_id
                     AND earlier.to_policy_id = change.to_policy_id
                     AND earlier.created_at < change.created_at
                     AND (earlier.invoice_id IS NULL
                          AND earlier.effective_at > change.created_at
                          AND unixepoch(earlier.effective_at) <= unixepoch()
                          OR EXISTS (
                               SELECT 1 FROM main.audit_log
                                WHERE action = 'subscription.upgrade.applied'
                                  AND target_id = earlier.id
                                  AND occurred_at > change.created_at)))
                OR EXISTS (
                  SELECT 1
                    FROM main.tier_changes AS given
                   WHERE given.license_id = change.license_id
                     AND given.to_policy_id = change.to_policy_id
                     AND given.invoice_id IS NULL
                     AND given.actor = 'admin'
                     AND given.created_at > change.created_at
                     AND unixepoch(given.effective_at) <= unixepoch())))
)";

/// The first cycle is the purchase itself.
const IS_RENEWAL: &str = "
EXISTS (SELECT 1 FROM main.subscription_invoices WHERE invoice_id = invoices.id AND cycle_number >= 2)";

/// A subscription that waits for money while the cycle is not over, or in the three days since that
/// came, waits for this renewal; later it waits for the next.
const RENEWAL_IS_DONE: &str = "
invoices.status = 'settled' AND NOT EXISTS (
  SELECT 1
    FROM main.subscription_invoices AS cycle
    JOIN main.subscriptions ON subscriptions.id = cycle.subscription_id
   WHERE cycle.invoice_id = invoices.id
     AND cycle.cycle_number >= 2
     AND subscriptions.status IN ('past_due', 'lapsed')
     AND (unixepoch(cycle.cycle_end_at) <= unixepoch()
          AND unixepoch(invoices.updated_at, '+3 days') <= unixepoch()) IS NOT TRUE
)";

// Each begins with what is soon sifted: there may be many settled invoices.
const SETTLED_TIER_CHANGES: &str = "
SELECT change.invoice_id, change.created_at
  FROM main.tier_changes AS change
 CROSS JOIN main.invoices ON invoices.id = change.invoice_id
 WHERE invoices.status = 'settled'";

const RENEWALS_OF_WHAT_IS_PAST_DUE: &str = "
SELECT cycle.invoice_id, invoices.created_at
  FROM main.subscriptions
 CROSS JOIN main.subscription_invoices AS cycle ON cycle.subscription_id = subscriptions.id
 CROSS JOIN main.invoices ON invoices.id = cycle.invoice_id
 WHERE subscriptions.status = 'past_due'
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
