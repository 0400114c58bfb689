//! Which requests answer which candidates, and the loop that makes them: many candidates through
//! pages of the store's list, few, and what the list did not show, one by one.
//!
//! Knows BTCPay Server's answers, but neither the database nor the report: what comes of an answer
//! is the caller's, who gets each before the next request goes out.

mod plan;

use std::collections::HashMap;

use anyhow::{Error, Result};
use log::info;

use crate::btcpay::{AskError, Btcpay};
use crate::invoice::{Answer, Invoice};
use plan::Plan;

/// BTCPay Server is gone after this many invoices in a row without an answer.
const GONE_AFTER: usize = 3;

/// What became of some of the candidates.
pub enum LookedUp {
    Answered(Vec<(Invoice, Answer)>),
    /// This one has no answer; others may have.
    Failed(Invoice, Error),
}

/// Why the loop ended early.
pub struct Stopped {
    pub error: Error,
    pub not_checked: usize,
}

/// Looks up each of `candidates`, which are oldest first, and hands every result to `found`.
///
/// # Errors
///
/// What no further request can get past: BTCPay Server is gone, refuses the key, the deadline, or
/// an error of `found`.
pub fn look_up(
    candidates: Vec<Invoice>,
    btcpay: &mut Btcpay,
    found: impl FnMut(LookedUp) -> Result<()>,
) -> Result<(), Stopped> {
    let mut lookup = Lookup {
        btcpay,
        found,
        not_checked: candidates.len(),
    };
    let result = lookup
        .through_the_list(candidates)
        .and_then(|not_shown| lookup.by_id(not_shown));
    let not_checked = lookup.not_checked;
    result.map_err(|error| Stopped {
        error: error.into_error(not_checked),
        not_checked,
    })
}

struct Lookup<'run, Found> {
    btcpay: &'run mut Btcpay,
    found: Found,
    not_checked: usize,
}

enum Stop {
    Error(Error),
    Deadline(Option<Error>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Stop {
    fn into_error(self, not_checked: usize) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Deadline(last) => {
                let reached = format!(
                    "deadline reached: {not_checked} invoices were not checked. The next run \
                     continues; raise --deadline if this repeats"
                );
                match last {
                    None => Error::msg(reached),
                    Some(last) => Error::msg(format!("{reached}. Last error: {last:#}")),
                }
            }
        }
    }
}

impl<Found: FnMut(LookedUp) -> Result<()>> Lookup<'_, Found> {
    /// Reads the store's list for as long as the plan finds it worth it; gives back the candidates
    /// that it did not show.
    fn through_the_list(&mut self, candidates: Vec<Invoice>) -> Result<Vec<Invoice>, Stop> {
        let mut plan = Plan::new(&candidates);
        let mut places = HashMap::new();
        if plan.next_page().is_some() {
            places.reserve(candidates.len());
            let ids = candidates.iter().map(|invoice| invoice.btcpay_id.clone());
            places.extend(ids.zip(0..));
        }
        let mut not_shown: Vec<Option<Invoice>> = candidates.into_iter().map(Some).collect();
        while let Some(page) = plan.next_page() {
            let shown = match self.btcpay.page(page) {
                Ok(shown) => shown,
                Err(AskError::Unanswered(error)) if !self.btcpay.connected() => {
                    return Err(error.into());
                }
                Err(AskError::Refused(error) | AskError::Unanswered(error)) => {
                    info!(
                        "cannot list the store's invoices; falling back to one request per \
                         invoice: {error:#}"
                    );
                    break;
                }
                Err(AskError::Fatal(error)) => return Err(error.into()),
                Err(AskError::Deadline(last)) => return Err(Stop::Deadline(last)),
            };
            let mut answered = Vec::new();
            for (id, answer) in shown.answers {
                let place: Option<usize> = places.get(&id).copied();
                let candidate = place.and_then(|place| not_shown.get_mut(place));
                if let Some(invoice) = candidate.and_then(Option::take) {
                    answered.push((invoice, answer));
                }
            }
            plan.showed(shown.count, answered.len());
            self.answered(answered)?;
        }
        Ok(not_shown.into_iter().flatten().collect())
    }

    fn by_id(&mut self, candidates: Vec<Invoice>) -> Result<(), Stop> {
        // In a row, and not handed on until it is certain that others are answered.
        let mut unanswered = Vec::new();
        for invoice in candidates {
            let answer = self.btcpay.invoice(&invoice.btcpay_id);
            if let Err(AskError::Unanswered(error)) = answer {
                self.not_checked -= 1;
                let is_last = self.not_checked == 0;
                if unanswered.len() + 1 == GONE_AFTER || is_last && !self.btcpay.connected() {
                    return Err(error.into());
                }
                unanswered.push((invoice, error));
                continue;
            }
            for (invoice, error) in unanswered.drain(..) {
                (self.found)(LookedUp::Failed(invoice, error))?;
            }
            match answer {
                Ok(answer) => self.answered(vec![(invoice, answer)])?,
                Err(AskError::Refused(error) | AskError::Unanswered(error)) => {
                    self.not_checked -= 1;
                    (self.found)(LookedUp::Failed(invoice, error))?;
                }
                Err(AskError::Fatal(error)) => {
                    self.not_checked -= 1;
                    return Err(error.into());
                }
                Err(AskError::Deadline(last)) => return Err(Stop::Deadline(last)),
            }
        }
        for (invoice, error) in unanswered {
            (self.found)(LookedUp::Failed(invoice, error))?;
        }
        Ok(())
    }

    fn answered(&mut self, answered: Vec<(Invoice, Answer)>) -> Result<()> {
        for (invoice, answer) in &answered {
            info!(
                "invoice {}: {} in the database, {} in BTCPay",
                invoice.id,
                invoice.status.word(),
                answer.status.word()
            );
        }
        self.not_checked -= answered.len();
        (self.found)(LookedUp::Answered(answered))
    }
}
