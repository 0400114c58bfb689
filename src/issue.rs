//! `--issue`: a person decides that a buyer gets the license that a doubt holds back.

use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::attention::Occasion;
use crate::btcpay::{AskError, Btcpay};
use crate::config::Config;
use crate::database::{Access, Database, WriteError, Writing};
use crate::decide::{Doubt, decide_to_issue};
use crate::invoice::{Answer, Invoice};
use crate::reconcile::{Done, Moment, next_steps, rows, tell};
use crate::report::Report;
use crate::run::new_report;
use crate::stop::Deadline;

/// Issues the license for the invoice of this id, the service's or BTCPay's, at Unix second `now`.
/// Why it was not is in the report.
pub fn issue(config: &Config, id: &str, now: i64) -> Report {
    let started = Instant::now();
    let mut report = new_report(config);
    if let Err(stopped) = issue_until_stopped(config, id, now, &mut report) {
        report.stopped(&stopped);
    }
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

fn issue_until_stopped(config: &Config, id: &str, now: i64, report: &mut Report) -> Result<()> {
    let deadline = Deadline::after(config.deadline_seconds);
    let (path, store) = (&config.database, &config.store);
    let mut database = Database::open(path, config.access, store, now, deadline)?;
    let invoice = match database.find(id)? {
        Ok(invoice) => invoice,
        Err(unreadable) => {
            report.failed(unreadable.id, unreadable.btcpay_id, &unreadable.error);
            return Ok(());
        }
    };
    let answer = if invoice.btcpay_id.is_free() {
        Ok(Answer::of_a_free_sale())
    } else {
        let mut btcpay = Btcpay::new(store.clone(), config.api_key.clone(), deadline)?;
        let answer = btcpay.invoice(&invoice.btcpay_id);
        if answer.is_ok() && config.access == Access::Read {
            btcpay.warn_of_powers();
        }
        report.requests = btcpay.requests();
        answer.map(|listed| listed.answer)
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(AskError::Refused(error) | AskError::NotInStore(error) | AskError::TooLong(error)) => {
            report.failed(invoice.id, invoice.btcpay_id, &error);
            return Ok(());
        }
        Err(stop @ (AskError::Unanswered { .. } | AskError::Fatal(_) | AskError::Stopped(_))) => {
            return Err(stop.into());
        }
    };
    report.checked = 1;
    let moment = Moment {
        occasion: Occasion::Minute,
        now,
    };
    let write = |writing: &mut Writing, listed: &Invoice| write(writing, listed, &answer, moment);
    database.write_each(vec![invoice], write, |written| {
        for (invoice, outcome) in written {
            match outcome {
                Ok(issued) => tell(report, &invoice, Some(&answer), issued, moment),
                Err(error) => report.failed(invoice.id, invoice.btcpay_id, &error),
            }
        }
        Ok(())
    })
}

/// Issues it on what the database says under the write lock. That ends what was noted or acknowledged.
fn write(
    writing: &mut Writing,
    listed: &Invoice,
    answer: &Answer,
    moment: Moment,
) -> Result<Done, WriteError> {
    let refused = |why: &str| WriteError::Invoice(anyhow!("no license was issued: {why}"));
    let Some((mut current, sale)) = writing.reread(&listed.id)? else {
        return Err(refused("the service has just changed it"));
    };
    for doubt in writing.doubts(&current)? {
        match doubt {
            Doubt::NoPurchase(purpose) => current.purpose = purpose,
            Doubt::ProductMissing(id) => {
                return Err(refused(&format!("its product {id} does not exist")));
            }
            Doubt::NotedAs(_)
            | Doubt::LicenseByHand(_)
            | Doubt::LicenseDeleted(_)
            | Doubt::PolicyMissing(_) => {}
        }
    }
    let (change, attention) = decide_to_issue(&current, answer).map_err(|why| refused(&why))?;
    let past = writing.past(&current.id);
    let mut steps = Vec::new();
    let written = writing.write(&current, Some(&change), |written| {
        steps = next_steps(&past, attention, written, moment);
        rows(&steps)
    })?;
    Ok(Done {
        sale,
        written,
        steps,
        acknowledged: None,
    })
}
