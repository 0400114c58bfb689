//! Paid changes of tier: an invoice of `tier_changes` buys another policy for an existing license.
//! Keysat has no column that says whether it applied one, so the license's history has to tell.

use std::collections::HashMap;

use anyhow::Result;
use rusqlite::{Connection, Row};

use super::Keysat;
use crate::database::clock::Clock;
use crate::database::row::column_value;
use crate::invoice::{Invoice, LocalStatus};

pub const IS_TIER_CHANGE: &str =
    "EXISTS (SELECT 1 FROM main.tier_changes WHERE invoice_id = invoices.id)";

/// Starts from the smaller table: there may be many settled invoices.
pub const SETTLED_TIER_CHANGES: &str = "
SELECT change.invoice_id, change.created_at
  FROM main.tier_changes AS change
 CROSS JOIN main.invoices ON invoices.id = change.invoice_id
 WHERE invoices.status = 'settled'";

/// All changes of the licenses that the invoice's changes are of, oldest first.
const HISTORY: &str = "
SELECT change.id,
       change.license_id,
       change.from_policy_id,
       change.to_policy_id,
       change.invoice_id,
       change.invoice_id IS ?1           AS is_of_the_invoice,
       change.actor,
       change.created_at,
       change.effective_at,
       unixepoch(change.effective_at)    AS effective_seconds,
       licenses.policy_id                AS current_policy_id
  FROM tier_changes AS change
  LEFT JOIN licenses ON licenses.id = change.license_id
 WHERE change.license_id IN (SELECT license_id FROM tier_changes WHERE invoice_id = ?1)
 ORDER BY change.created_at";

struct Change {
    id: String,
    license_id: String,
    from_policy: Option<String>,
    to_policy: Option<String>,
    is_free_of_charge: bool,
    is_of_the_invoice: bool,
    by_operator: bool,
    created_at: String,
    effective_at: Option<String>,
    /// Unix seconds.
    effective: Option<i64>,
    /// The policy that its license has now.
    current_policy: Option<String>,
}

fn read_change(row: &Row) -> Result<Change> {
    let invoice_id: Option<String> = column_value(row, "invoice_id")?;
    let actor: Option<String> = column_value(row, "actor")?;
    Ok(Change {
        id: column_value(row, "id")?,
        license_id: column_value(row, "license_id")?,
        from_policy: column_value(row, "from_policy_id")?,
        to_policy: column_value(row, "to_policy_id")?,
        is_free_of_charge: invoice_id.is_none(),
        is_of_the_invoice: column_value(row, "is_of_the_invoice")?,
        by_operator: actor.as_deref() == Some("admin"),
        created_at: column_value(row, "created_at")?,
        effective_at: column_value(row, "effective_at")?,
        effective: column_value(row, "effective_seconds")?,
        current_policy: column_value(row, "current_policy_id")?,
    })
}

impl Keysat {
    /// Whether the service has applied every change that `invoice` pays for.
    pub(super) fn tier_change_is_applied(
        &self,
        connection: &Connection,
        invoice: &Invoice,
        clock: Clock,
    ) -> Result<bool> {
        let mut statement = connection.prepare_cached(HISTORY)?;
        let history: Vec<Change> = statement
            .query_and_then([&invoice.id.0], read_change)?
            .collect::<Result<_>>()?;
        let applied = self.applied_changes(connection)?;
        let is_settled = invoice.status == LocalStatus::Settled;
        let mut paid = history.iter().filter(|change| change.is_of_the_invoice);
        Ok(paid.all(|change| {
            applied.contains_key(&change.id)
                || is_settled && change.shows(&history, &applied, clock.now)
        }))
    }
}

impl Change {
    /// Whether the license's history shows a change that the service noted nowhere: the license next
    /// had the new policy, and no earlier change explains that; or the operator has given the policy
    /// free of charge since.
    fn shows(&self, history: &[Self], applied: &HashMap<String, String>, now: i64) -> bool {
        let others = || {
            let others = history.iter();
            others.filter(|other| other.license_id == self.license_id)
        };
        let same_policy = || others().filter(|other| other.to_policy == self.to_policy);
        let later = |other: &&Self| other.created_at > self.created_at;
        let in_effect = |other: &Self| other.effective.is_some_and(|at| at <= now);

        let next_policy = others()
            .find(later)
            .and_then(|following| following.from_policy.as_ref())
            .or(self.current_policy.as_ref());
        let explained_by_earlier = same_policy()
            .filter(|earlier| earlier.created_at < self.created_at)
            .any(|earlier| {
                let since = |at: &String| *at > self.created_at;
                earlier.is_free_of_charge
                    && earlier.effective_at.as_ref().is_some_and(since)
                    && in_effect(earlier)
                    || applied.get(&earlier.id).is_some_and(since)
            });
        let given = same_policy()
            .filter(later)
            .any(|given| given.is_free_of_charge && given.by_operator && in_effect(given));
        next_policy == self.to_policy.as_ref() && !explained_by_earlier || given
    }
}
