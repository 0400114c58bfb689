//! Renewals: an invoice of `subscription_invoices` pays for a further cycle of a subscription. The
//! first cycle is the purchase itself.

use anyhow::Result;
use rusqlite::{Connection, Row};

use crate::database::clock::Clock;
use crate::database::row::column_value;
use crate::invoice::{Invoice, LocalStatus};

pub const IS_RENEWAL: &str = "
EXISTS (SELECT 1 FROM main.subscription_invoices WHERE invoice_id = invoices.id AND cycle_number >= 2)";

/// Starts from the smaller tables: there may be many settled invoices.
pub const RENEWALS_PAST_DUE: &str = "
SELECT cycle.invoice_id, invoices.created_at
  FROM main.subscriptions
 CROSS JOIN main.subscription_invoices AS cycle ON cycle.subscription_id = subscriptions.id
 CROSS JOIN main.invoices ON invoices.id = cycle.invoice_id
 WHERE subscriptions.status = 'past_due'
   AND cycle.cycle_number >= 2
   AND invoices.status = 'settled'";

const CYCLES: &str = "
SELECT subscriptions.status,
       unixepoch(cycle.cycle_end_at)  AS end_seconds,
       unixepoch(invoices.updated_at) AS updated_seconds
  FROM subscription_invoices AS cycle
  JOIN subscriptions ON subscriptions.id = cycle.subscription_id
  JOIN invoices      ON invoices.id = cycle.invoice_id
 WHERE cycle.invoice_id = ?1
   AND cycle.cycle_number >= 2";

/// How long after it was settled, in seconds, a renewal may still be what its subscription waits for
/// although its cycle is over.
const STILL_WAITED_FOR: i64 = 3 * 86_400;

struct Cycle {
    is_waiting: bool,
    /// Unix seconds.
    ends: Option<i64>,
    updated: Option<i64>,
}

fn read_cycle(row: &Row) -> Result<Cycle> {
    let status: Option<String> = column_value(row, "status")?;
    Ok(Cycle {
        is_waiting: matches!(status.as_deref(), Some("past_due" | "lapsed")),
        ends: column_value(row, "end_seconds")?,
        updated: column_value(row, "updated_seconds")?,
    })
}

/// Whether the service has renewed every subscription that `invoice` pays for. One that is
/// past due long after the cycle ended waits for the next renewal.
pub fn renewal_is_applied(
    connection: &Connection,
    invoice: &Invoice,
    clock: Clock,
) -> Result<bool> {
    let is_over = |cycle: &Cycle| {
        cycle.ends.is_some_and(|end| end <= clock.now)
            && cycle
                .updated
                .is_some_and(|at| at + STILL_WAITED_FOR <= clock.now)
    };
    let mut statement = connection.prepare_cached(CYCLES)?;
    let cycles: Vec<Cycle> = statement
        .query_and_then([&invoice.id.0], read_cycle)?
        .collect::<Result<_>>()?;
    let waits = cycles
        .iter()
        .any(|cycle| cycle.is_waiting && !is_over(cycle));
    Ok(invoice.status == LocalStatus::Settled && !waits)
}
