//! How BTCPay Server is asked: many candidates by sweeping the store's list, few, and what the list
//! did not show, by their ids. Each answer is written before the next is asked for.

use std::collections::HashMap;

use anyhow::{Error, Result};
use log::info;

use crate::btcpay::{AskError, Btcpay};
use crate::invoice::{Answer, Invoice};
use crate::progress::Progress;
use crate::reconcile::Reconciling;
use crate::sweep::Sweep;

/// After so many invoices in a row without an answer, BTCPay Server counts as gone.
const GONE_AFTER: usize = 3;

/// Asks about every one of `candidates`, which are oldest first.
///
/// # Errors
///
/// What stops the run; the report says how many invoices it did not come to.
pub fn ask_about_all(
    candidates: Vec<Invoice>,
    btcpay: &mut Btcpay,
    reconciling: &mut Reconciling,
) -> Result<()> {
    let count = candidates.len() as u64;
    let progress = Progress::new(candidates.len());
    let result = sweep(candidates, btcpay, reconciling, &progress)
        .and_then(|not_shown| ask_by_id(not_shown, btcpay, reconciling, &progress));
    drop(progress);
    let not_asked = count - reconciling.report.checked;
    reconciling.report.not_asked = not_asked;
    result.map_err(|stop| match stop {
        Stop::Trouble(error) => error,
        Stop::OutOfTime(error) => error.context(format!(
            "the run's time was over and {not_asked} invoices were not asked about; the next run \
             goes on, and --deadline SECONDS gives it more time"
        )),
    })
}

/// Why no more is asked.
enum Stop {
    Trouble(Error),
    OutOfTime(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Trouble(error)
    }
}

/// Reconciles what the store's list shows; gives back what it did not show.
fn sweep(
    candidates: Vec<Invoice>,
    btcpay: &mut Btcpay,
    reconciling: &mut Reconciling,
    progress: &Progress,
) -> Result<Vec<Invoice>, Stop> {
    let mut sweep = Sweep::new(&candidates);
    let mut places = HashMap::new();
    if sweep.next_page().is_some() {
        places.reserve(candidates.len());
        let ids = candidates.iter().map(|invoice| invoice.btcpay_id.clone());
        places.extend(ids.zip(0..));
    }
    let mut not_shown: Vec<Option<Invoice>> = candidates.into_iter().map(Some).collect();
    while let Some(page) = sweep.next_page() {
        let shown = match btcpay.page(page) {
            Ok(shown) => shown,
            Err(AskError::Unanswered(error)) if !btcpay.connected() => return Err(error.into()),
            Err(AskError::Refused(error) | AskError::Unanswered(error)) => {
                info!("the store's list is not to be had, so each invoice is asked for: {error:#}");
                break;
            }
            Err(AskError::Fatal(error)) => return Err(error.into()),
            Err(AskError::Deadline(error)) => return Err(Stop::OutOfTime(error)),
        };
        let mut answered = Vec::new();
        for (id, answer) in shown.answers {
            let place = places.get(&id).copied();
            if let Some(invoice) = place
                .and_then(|place: usize| not_shown.get_mut(place))
                .and_then(Option::take)
            {
                log_answer(&invoice, &answer);
                answered.push((invoice, answer));
            }
        }
        let count = answered.len();
        sweep.showed(shown.count, count);
        reconciling.report.checked += count as u64;
        reconciling.reconcile(answered)?;
        progress.advance(count);
    }
    Ok(not_shown.into_iter().flatten().collect())
}

fn ask_by_id(
    candidates: Vec<Invoice>,
    btcpay: &mut Btcpay,
    reconciling: &mut Reconciling,
    progress: &Progress,
) -> Result<(), Stop> {
    let mut unanswered = 0;
    let mut left = candidates.len();
    for invoice in candidates {
        left -= 1;
        let asked = btcpay.invoice(&invoice.btcpay_id);
        unanswered = match &asked {
            Err(AskError::Unanswered(_)) => unanswered + 1,
            Ok(_) | Err(AskError::Refused(_) | AskError::Fatal(_) | AskError::Deadline(_)) => 0,
        };
        if !matches!(asked, Err(AskError::Deadline(_))) {
            reconciling.report.checked += 1;
        }
        let gone = unanswered == GONE_AFTER || left == 0 && !btcpay.connected();
        match asked {
            Ok(answer) => {
                log_answer(&invoice, &answer);
                reconciling.reconcile(vec![(invoice, answer)])?;
            }
            Err(AskError::Unanswered(error)) if gone => {
                reconciling.report.forget_failures(unanswered - 1);
                return Err(error.into());
            }
            Err(AskError::Refused(error) | AskError::Unanswered(error)) => {
                reconciling
                    .report
                    .failed(invoice.id, invoice.btcpay_id, &error);
            }
            Err(AskError::Fatal(error)) => return Err(error.into()),
            Err(AskError::Deadline(error)) => return Err(Stop::OutOfTime(error)),
        }
        progress.advance(1);
    }
    Ok(())
}

fn log_answer(invoice: &Invoice, answer: &Answer) {
    info!(
        "invoice {}: {} here, {} in BTCPay",
        invoice.id,
        invoice.status.word(),
        answer.status.word()
    );
}
