//! Which requests answer which candidates, and the loop that makes them. Many candidates are looked up
//! through pages of the store's list; a few, and those that the list did not show, one by one.
//!
//! Knows BTCPay Server's answers, but neither the database nor the report. The caller decides what to
//! do with each answer, and gets it before the next request is sent.

mod plan;

use std::collections::HashMap;

use anyhow::{Error, Result, anyhow};
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
    /// The store has no such invoice.
    NotInStore(Invoice, Error),
}

/// Why the loop ended early.
pub struct Stopped {
    pub error: Error,
    pub at_deadline: bool,
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
        at_deadline: matches!(error, AskError::Deadline(_)),
        error: match error {
            AskError::Deadline(last) => deadline_reached(not_checked, last),
            other => other.into(),
        },
        not_checked,
    })
}

fn deadline_reached(not_checked: usize, last: Option<Error>) -> Error {
    let last = last.map_or_else(String::new, |last| format!(". Last error: {last:#}"));
    anyhow!(
        "deadline reached: {not_checked} invoices were not checked. The next run continues; raise \
         --deadline if this repeats{last}"
    )
}

struct Lookup<'run, Found> {
    btcpay: &'run mut Btcpay,
    found: Found,
    not_checked: usize,
}

impl<Found: FnMut(LookedUp) -> Result<()>> Lookup<'_, Found> {
    /// Reads the store's list for as long as the plan finds it worth it; gives back the candidates
    /// that it did not show.
    fn through_the_list(&mut self, candidates: Vec<Invoice>) -> Result<Vec<Invoice>, AskError> {
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
                Err(gone @ AskError::Unanswered(_)) if !self.btcpay.connected() => {
                    return Err(gone);
                }
                Err(
                    AskError::Refused(error)
                    | AskError::NotInStore(error)
                    | AskError::Unanswered(error),
                ) => {
                    info!(
                        "cannot list the store's invoices; falling back to one request per \
                         invoice: {error:#}"
                    );
                    break;
                }
                Err(stop @ (AskError::Fatal(_) | AskError::Deadline(_))) => return Err(stop),
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

    fn by_id(&mut self, candidates: Vec<Invoice>) -> Result<(), AskError> {
        // In a row, and not handed on until it is certain that others are answered.
        let mut unanswered = Vec::new();
        for invoice in candidates {
            let answer = self.btcpay.invoice(&invoice.btcpay_id);
            if !matches!(answer, Err(AskError::Unanswered(_))) {
                self.failed(unanswered.drain(..))?;
            }
            match answer {
                Ok(answer) => self.answered(vec![(invoice, answer)])?,
                Err(AskError::Refused(error)) => {
                    self.not_checked -= 1;
                    self.failed([(invoice, error)])?;
                }
                Err(AskError::NotInStore(error)) => {
                    self.not_checked -= 1;
                    (self.found)(LookedUp::NotInStore(invoice, error)).map_err(AskError::Fatal)?;
                }
                Err(AskError::Unanswered(error)) => {
                    self.not_checked -= 1;
                    let is_last = self.not_checked == 0;
                    if unanswered.len() + 1 == GONE_AFTER || is_last && !self.btcpay.connected() {
                        return Err(AskError::Unanswered(error));
                    }
                    unanswered.push((invoice, error));
                }
                Err(AskError::Fatal(error)) => {
                    self.not_checked -= 1;
                    return Err(AskError::Fatal(error));
                }
                Err(deadline @ AskError::Deadline(_)) => return Err(deadline),
            }
        }
        self.failed(unanswered)
    }

    fn failed(
        &mut self,
        failed: impl IntoIterator<Item = (Invoice, Error)>,
    ) -> Result<(), AskError> {
        let mut failed = failed.into_iter();
        failed
            .try_for_each(|(invoice, error)| (self.found)(LookedUp::Failed(invoice, error)))
            .map_err(AskError::Fatal)
    }

    fn answered(&mut self, answered: Vec<(Invoice, Answer)>) -> Result<(), AskError> {
        for (invoice, answer) in &answered {
            info!(
                "invoice {}: {} in the database, {} in BTCPay",
                invoice.id,
                invoice.status.word(),
                answer.status.word()
            );
        }
        self.not_checked -= answered.len();
        (self.found)(LookedUp::Answered(answered)).map_err(AskError::Fatal)
    }
}
