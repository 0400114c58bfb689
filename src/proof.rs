//! Whether BTCPay's store is the one in which the service sells. "Not here" is believed only of that
//! one.

use anyhow::Result;

use crate::btcpay::{AskError, Btcpay};
use crate::database::Database;

/// How many paid invoices are asked for until the store has one of them.
const PROBES: u32 = 5;

/// What the newest paid invoices say about the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Ours,
    NotOurs,
    /// There is none.
    NothingPaid,
}

/// Looks for one of the newest invoices that were certainly paid in our store.
///
/// # Errors
///
/// None was there, and at least one got no answer.
pub fn probe(btcpay: &mut Btcpay, database: &Database) -> Result<Probe> {
    let mut outcome = Ok(Probe::NothingPaid);
    for paid in database.newest_paid(PROBES)? {
        match btcpay.invoice(&paid.btcpay_id) {
            Ok(_) => return Ok(Probe::Ours),
            Err(AskError::NotInStore(_)) => outcome = outcome.and(Ok(Probe::NotOurs)),
            Err(
                unclear @ (AskError::Refused(_)
                | AskError::TooLong(_)
                | AskError::Unanswered { .. }),
            ) => outcome = Err(unclear.into()),
            Err(stop @ (AskError::Fatal(_) | AskError::Stopped(_))) => return Err(stop.into()),
        }
    }
    outcome
}
