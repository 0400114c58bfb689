//! `--acknowledge`: a person accepts invoices as they are. From then on they are neither told nor
//! changed until something about them differs.

use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::attention::{Standing, acknowledgement};
use crate::btcpay::{AskError, Btcpay};
use crate::config::Config;
use crate::database::{Database, WriteError, Writing};
use crate::invoice::{Answer, Invoice};
use crate::proof::{Probe, probe};
use crate::reconcile::Word;
use crate::report::Report;
use crate::run::new_report;
use crate::stop::Deadline;

/// Acknowledges the invoices of these ids, the service's or BTCPay's, at Unix second `now`. All are
/// checked before any is noted.
pub fn acknowledge(config: &Config, ids: &[String], now: i64) -> Report {
    let started = Instant::now();
    let mut report = new_report(config);
    if let Err(stopped) = acknowledge_until_stopped(config, ids, now, &mut report) {
        report.stopped(&stopped);
    }
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

fn acknowledge_until_stopped(
    config: &Config,
    ids: &[String],
    now: i64,
    report: &mut Report,
) -> Result<()> {
    let deadline = Deadline::after(config.deadline_seconds);
    let (path, store) = (&config.database, &config.store);
    let mut database = Database::open(path, config.access, store, now, deadline)?;
    let mut invoices: Vec<Invoice> = Vec::new();
    for id in ids {
        match database.find(id)? {
            Ok(invoice) if invoices.iter().any(|one| one.id == invoice.id) => {}
            Ok(invoice) => invoices.push(invoice),
            Err(unreadable) => {
                report.failed(unreadable.id, unreadable.btcpay_id, &unreadable.error);
            }
        }
    }
    if !report.failures.is_empty() {
        return Ok(());
    }
    let mut btcpay = Btcpay::new(store.clone(), config.api_key.clone(), deadline)?;
    let asked = ask(invoices, &mut btcpay, &database, report);
    report.requests = btcpay.requests();
    let answered = asked?;
    if !report.failures.is_empty() {
        return Ok(());
    }
    database.write_each(answered, note, |noted| {
        for ((invoice, word), outcome) in noted {
            match outcome {
                Ok(()) => report.acknowledged(&invoice, word.map(|answer| answer.status)),
                Err(error) => report.failed(invoice.id, invoice.btcpay_id, &error),
            }
        }
        report.committed();
        Ok(())
    })
}

/// What BTCPay Server says of each. Who gets no answer is in the report.
fn ask(
    invoices: Vec<Invoice>,
    btcpay: &mut Btcpay,
    database: &Database,
    report: &mut Report,
) -> Result<Vec<(Invoice, Word)>> {
    let mut store_is_ours = false;
    let mut answered = Vec::new();
    let mut missing = Vec::new();
    for invoice in invoices {
        if invoice.btcpay_id.is_free() {
            answered.push((invoice, Some(Answer::of_a_free_sale())));
            continue;
        }
        match btcpay.invoice(&invoice.btcpay_id) {
            Ok(listed) => {
                store_is_ours = true;
                answered.push((invoice, Some(listed.answer)));
            }
            Err(AskError::NotInStore(error)) => missing.push((invoice, error)),
            Err(AskError::Refused(error) | AskError::TooLong(error)) => {
                report.failed(invoice.id, invoice.btcpay_id, &error);
            }
            Err(
                stop @ (AskError::Unanswered { .. } | AskError::Fatal(_) | AskError::Stopped(_)),
            ) => {
                return Err(stop.into());
            }
        }
        report.checked += 1;
    }
    // That the store does not have one is believed only of our own store.
    let is_ours = missing.is_empty() || store_is_ours || probe(btcpay, database)? == Probe::Ours;
    for (invoice, error) in missing {
        if is_ours {
            answered.push((invoice, None));
        } else {
            report.failed(invoice.id, invoice.btcpay_id, &error);
        }
    }
    Ok(answered)
}

fn note(writing: &mut Writing, (listed, word): &(Invoice, Word)) -> Result<(), WriteError> {
    let current = writing.reread(&listed.id)?;
    let current = current.filter(|(current, _)| current.status == listed.status);
    let Some((current, _)) = current else {
        return Err(WriteError::Invoice(anyhow!(
            "the service has just changed it. Look at it again: reconcile -n {}",
            listed.id
        )));
    };
    let standing = Standing::of(&current, word.as_ref());
    let row = acknowledgement(&standing).map_err(|error| WriteError::Invoice(error.into()))?;
    writing.write(&current, None, |_| vec![row])?;
    Ok(())
}
