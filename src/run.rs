//! The story of a run: list, look up, decide, write, report.

use std::time::Instant;

use anyhow::{Error, Result};
use log::info;

use crate::btcpay::Btcpay;
use crate::config::Config;
use crate::database::{Access, Database, Window, WriteError, Writing};
use crate::deadline::Deadline;
use crate::decide::{Attention, Written, decide, decide_in_doubt};
use crate::invoice::{Answer, Invoice, Provider, Sale};
use crate::lookup::{LookedUp, look_up};
use crate::report::Report;
use crate::report::stderr::Progress;

/// One run at Unix second `now`. If something stopped it, the report says what.
pub fn run(config: &Config, now: i64) -> Report {
    let started = Instant::now();
    let mut report = Report::new(config.access == Access::Read, config.store.clone());
    report.error = run_until_stopped(config, now, &mut report)
        .err()
        .map(|stopped| format!("{stopped:#}"));
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

fn run_until_stopped(config: &Config, now: i64, report: &mut Report) -> Result<()> {
    let deadline = Deadline::after(config.deadline_seconds);
    let (path, store) = (&config.database, &config.store);
    let mut database = Database::open(path, config.access, store, now, deadline)?;
    let listing = database.candidates(Window {
        // Nothing was sold before 1970, and SQLite's calendar has a beginning.
        since: (now - config.max_age_seconds).max(0),
        recheck: config.recheck,
    })?;
    report.out_of_window = listing.out_of_window;
    report.other_provider = listing.other_provider;
    if listing.other_provider > 0 {
        info!(
            "other_provider: skipping {} invoices of another payment provider or store",
            listing.other_provider
        );
    }
    for unreadable in listing.unreadable {
        report.failed(unreadable.id, unreadable.btcpay_id, &unreadable.error);
    }
    let candidates = listing.candidates;
    // In case the run stops before them.
    report.not_asked = candidates.len() as u64;
    let free = listing.free.into_iter();
    let free = free.map(|invoice| (invoice, Answer::of_a_free_sale()));
    reconcile(free.collect(), &mut database, report)?;
    let is_nothing_to_ask = candidates.is_empty() && listing.older.iter().all(Vec::is_empty);
    if is_nothing_to_ask && config.access == Access::Write {
        return Ok(());
    }

    let mut btcpay = Btcpay::new(store.clone(), config.api_key.clone(), deadline)?;
    let result = if is_nothing_to_ask {
        // A dry run tries the settings, all of them.
        btcpay.check_access().map_err(Error::from)
    } else {
        reconcile_all(
            candidates,
            listing.older,
            &mut btcpay,
            &mut database,
            report,
        )
    };
    report.requests = btcpay.requests();
    result
}

/// Looks up each of `candidates`, then as many `older` invoices as there is time for, and brings each
/// into agreement before the next request.
fn reconcile_all(
    candidates: Vec<Invoice>,
    older: [Vec<Invoice>; 2],
    btcpay: &mut Btcpay,
    database: &mut Database,
    report: &mut Report,
) -> Result<()> {
    let count = candidates.len();
    let progress = Progress::of(count + older.iter().map(Vec::len).sum::<usize>());
    let mut take = |looked_up, report: &mut Report, is_older| {
        match looked_up {
            LookedUp::Answered(answered) => {
                let answers = answered.len();
                reconcile(answered, database, report)?;
                progress.advance(answers);
                return Ok(());
            }
            // It may be of another store, or was deleted long ago.
            LookedUp::NotInStore(invoice, _)
                if is_older || invoice.provider == Provider::Unnamed =>
            {
                report.not_in_store += 1;
            }
            LookedUp::NotInStore(invoice, error) | LookedUp::Failed(invoice, error) => {
                report.failed(invoice.id, invoice.btcpay_id, &error);
            }
        }
        progress.advance(1);
        Ok(())
    };
    let stopped = look_up(candidates, btcpay, |found| take(found, report, false));
    let not_checked = stopped
        .as_ref()
        .map_or_else(|stopped| stopped.not_checked, |()| 0);
    report.checked = (count - not_checked) as u64;
    report.not_asked = not_checked as u64;
    stopped.map_err(|stopped| stopped.error)?;

    for older in older {
        let count = older.len();
        if let Err(stopped) = look_up(older, btcpay, |found| take(found, report, true)) {
            report.checked += (count - stopped.not_checked) as u64;
            // The next run begins somewhere else.
            return if stopped.at_deadline {
                Ok(())
            } else {
                Err(stopped.error)
            };
        }
        report.checked += count as u64;
    }
    Ok(())
}

/// Brings these invoices into agreement with their answers. What fails for one of them is in the
/// report.
fn reconcile(
    answered: Vec<(Invoice, Answer)>,
    database: &mut Database,
    report: &mut Report,
) -> Result<()> {
    let mut to_write = Vec::new();
    for (invoice, answer) in answered {
        let decision = decide(&invoice, &answer);
        if decision.change.is_some() {
            to_write.push((invoice, answer));
        } else if let Some(attention) = decision.attention {
            match database.reread(&invoice.id) {
                Ok(Some((current, sale))) if current == invoice => {
                    report.needs_attention(&invoice, sale, &attention);
                }
                // The service has just changed it.
                Ok(_) => {}
                Err(_) => report.needs_attention(&invoice, Sale::of(&invoice), &attention),
            }
        }
    }
    let write = |writing: &mut Writing, (listed, answer): &(Invoice, Answer)| {
        decide_again_and_write(writing, listed, answer)
    };
    database.write_each(to_write, write, |(invoice, _), outcome| match outcome {
        Ok(Some(done)) => {
            for attention in done.attention {
                report.needs_attention(&invoice, done.sale.clone(), &attention);
            }
            if let Some(written) = done.written {
                report.changed(invoice, done.sale, written);
            }
        }
        Ok(None) => info!("invoice {}: the service got there first", invoice.id),
        Err(error) => report.failed(invoice.id, invoice.btcpay_id, &error),
    })
}

struct Done {
    sale: Sale,
    written: Option<Written>,
    attention: Vec<Attention>,
}

/// Decides on what the database says under the write lock, and writes that. None if the service has
/// changed the invoice's status since it was listed.
fn decide_again_and_write(
    writing: &mut Writing,
    listed: &Invoice,
    answer: &Answer,
) -> Result<Option<Done>, WriteError> {
    let Some((current, sale)) = writing.reread(&listed.id)? else {
        return Ok(None);
    };
    if current.status != listed.status {
        return Ok(None);
    }
    let mut decision = decide(&current, answer);
    if decision.gives()
        && let Some(doubt) = writing.doubt(&current)?
    {
        decision = decide_in_doubt(&current, answer, doubt);
    }
    let change = decision.change.as_ref();
    let written = change
        .map(|change| writing.write(&current, change))
        .transpose()?;
    let of_written = written.iter().flat_map(Written::attention);
    Ok(Some(Done {
        sale,
        attention: decision.attention.into_iter().chain(of_written).collect(),
        written,
    }))
}
