//! The story of a run: list, look up, decide, write, report.

use std::time::Instant;

use anyhow::{Error, Result, bail};
use log::info;

use crate::attention::{self, Occasion, Step};
use crate::btcpay::{AskError, Btcpay};
use crate::candidates::{Candidate, Candidates};
use crate::config::{Config, Task};
use crate::database::{Access, Database, Window, Writing};
use crate::decide::{is_complete, may_be_deleted};
use crate::invoice::{Answer, BtcpayInvoiceId, Invoice, InvoiceId, LocalStatus, Provider};
use crate::lookup::{LookedUp, look_up};
use crate::proof::{Probe, probe};
use crate::reconcile::{Moment, reconcile, rows};
use crate::report::stderr::{self, Progress};
use crate::report::{Format, Report};
use crate::stop::{Deadline, OutOfTime};

/// How many payments of invoices that need a person are asked for, an invoice a request.
pub const MOST_PAYMENTS: usize = 20;

/// One run at Unix second `now`, which also asks about closed invoices if it is a `recheck`. If
/// something stopped it, the report says what.
pub fn run(config: &Config, recheck: bool, now: i64) -> Report {
    let started = Instant::now();
    let mut report = new_report(config);
    let deadline = Deadline::after(config.deadline_seconds);
    let (path, store) = (&config.database, &config.store);
    match Database::open(path, config.access, store, now, deadline) {
        Ok(mut database) => {
            let moment = Moment {
                // One that says nothing reminds nobody.
                occasion: if recheck && !config.quiet {
                    Occasion::Recheck
                } else {
                    Occasion::Minute
                },
                now,
            };
            let run = run_until_stopped(
                config,
                recheck,
                moment,
                deadline,
                &mut database,
                &mut report,
            );
            if let Err(stopped) = run {
                report.stopped(&stopped);
            }
            say_what_needs_a_person(config, moment, &mut database, &mut report);
        }
        Err(error) => report.stopped(&error),
    }
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

/// On stderr; a dry run's tables show it in its place. What a recheck has told is noted after that.
fn say_what_needs_a_person(
    config: &Config,
    moment: Moment,
    database: &mut Database,
    report: &mut Report,
) {
    report.sort();
    if config.access == Access::Read && config.format == Format::Text {
        return;
    }
    let told = report.log_attention(moment.now, stderr::columns());
    match (moment.occasion, config.access) {
        (Occasion::Recheck, Access::Write) if !stderr::is_lost() => {}
        (Occasion::Recheck | Occasion::Minute, Access::Write | Access::Read) => return,
    }
    let write = |writing: &mut Writing, (id, reasons): &(InvoiceId, Vec<&str>)| {
        writing.note(
            id,
            reasons
                .iter()
                .map(|reason| attention::told(reason))
                .collect(),
        )
    };
    let noted = database.write_each(told, write, |noted| {
        let failed = noted.into_iter().find_map(|(_, outcome)| outcome.err());
        failed.map_or(Ok(()), Err)
    });
    // Out of time, it is told once more.
    if let Err(error) = noted
        && !OutOfTime::is(&error)
        && report.error.is_none()
    {
        report.stopped(&error);
    }
}

/// Whose changes are printed as they happen, unless they are shown as tables or as JSON.
pub fn new_report(config: &Config) -> Report {
    let dry_run = config.access == Access::Read;
    let is_streamed = match config.task {
        Task::Reconcile { .. } | Task::Issue(_) | Task::Acknowledge(_) => true,
        Task::Named(_) => false,
    };
    let live = !dry_run && is_streamed && config.format == Format::Text;
    Report::new(dry_run, config.public_url.clone(), live)
}

fn run_until_stopped(
    config: &Config,
    recheck: bool,
    moment: Moment,
    deadline: Deadline,
    database: &mut Database,
    report: &mut Report,
) -> Result<()> {
    // What was noted before is shown too.
    let shows_all = config.access == Access::Read || config.format == Format::Json;
    let listing = database.candidates(Window {
        // Nothing was sold before 1970, and SQLite's calendar has a beginning.
        since: (moment.now - config.max_age_seconds).max(0),
        recheck,
        noted: recheck || shows_all,
        acknowledged: shows_all,
    })?;
    report.out_of_window = listing.out_of_window;
    report.other_provider = listing.other_provider;
    if listing.other_provider > 0 {
        info!(
            "skipped invoices of another payment provider or store (other_provider): {}",
            listing.other_provider
        );
    }
    for unreadable in listing.unreadable {
        report.failed(unreadable.id, unreadable.btcpay_id, &unreadable.error);
    }
    // In case the run stops before them.
    report.not_asked = listing.candidates.len() as u64;
    let free = listing.free.into_iter();
    let free = free.map(|invoice| (invoice, Some(Answer::of_a_free_sale())));
    reconcile(free.collect(), database, report, moment, |_, _| {})?;
    resolve_gone(listing.gone, database, report)?;
    if recheck || config.access == Access::Read {
        report.count_drift = database.count_drift()?;
    }
    let later = listing
        .older
        .into_iter()
        .chain([listing.noted, listing.complete]);
    let later: Vec<_> = later.collect();
    let is_nothing_to_ask = listing.candidates.is_empty() && later.iter().all(Candidates::is_empty);
    // A dry run tries the settings, all of them.
    if !is_nothing_to_ask || config.access == Access::Read {
        let mut btcpay = Btcpay::new(config.store.clone(), config.api_key.clone(), deadline)?;
        let result = if is_nothing_to_ask {
            btcpay.check_access().map_err(Error::from)
        } else {
            let mut asking = Asking {
                btcpay: &mut btcpay,
                database,
                report,
                moment,
                deadline,
                store_is_ours: false,
                missing: Vec::new(),
            };
            let asked = asking.ask_about_all(listing.candidates, later);
            // What was found missing before a stop counts too.
            asked.and(asking.report_missing())
        };
        ask_for_payments(&mut btcpay, report, deadline);
        if result.is_ok() && config.access == Access::Read {
            btcpay.warn_of_powers();
        }
        report.requests = btcpay.requests();
        result?;
    }
    Ok(())
}

struct Asking<'run> {
    btcpay: &'run mut Btcpay,
    database: &'run mut Database,
    report: &'run mut Report,
    moment: Moment,
    deadline: Deadline,
    /// Whether BTCPay's store has shown one of the service's invoices.
    store_is_ours: bool,
    /// What the store does not have, if it is ours.
    missing: Vec<Invoice>,
}

impl Asking<'_> {
    /// Looks up each of `candidates`, then as many of those for `later` as there is time for, and
    /// brings each into agreement while the next request is on its way.
    fn ask_about_all(&mut self, candidates: Candidates, later: Vec<Candidates>) -> Result<()> {
        let count = candidates.len();
        let progress = Progress::of(count + later.iter().map(Candidates::len).sum::<usize>());
        let result = self.look_up(candidates, &progress);
        self.report.not_asked = count as u64 - self.report.checked;
        result?;
        for invoices in later {
            match self.look_up(invoices, &progress) {
                Ok(()) => {}
                // The next run begins somewhere else.
                Err(stopped)
                    if OutOfTime::is(&stopped) && OutOfTime::signal(&stopped).is_none() =>
                {
                    if !self.store_is_ours {
                        // There is no time to find out whose the store is.
                        self.missing.clear();
                    }
                    return Ok(());
                }
                Err(stopped) => return Err(stopped),
            }
        }
        Ok(())
    }

    fn look_up(&mut self, candidates: Candidates, progress: &Progress) -> Result<()> {
        let Self {
            btcpay,
            database,
            report,
            store_is_ours,
            missing,
            moment,
            ..
        } = self;
        look_up(candidates, btcpay, moment.now, self.deadline, |looked_up| {
            let done = |report: &mut Report, count: usize| {
                report.checked += count as u64;
                progress.advance(count);
            };
            match looked_up {
                LookedUp::Answered(answered) => {
                    *store_is_ours |= !answered.is_empty();
                    let mut to_decide = Vec::new();
                    for (candidate, answer) in answered {
                        match unchanged(&candidate, database)? {
                            Some(invoice) => to_decide.push((invoice, Some(answer))),
                            None => done(report, 1),
                        }
                    }
                    reconcile(to_decide, database, report, *moment, done)?;
                }
                LookedUp::NotInStore(candidate) => {
                    missing.extend(unchanged(&candidate, database)?);
                    done(report, 1);
                }
                LookedUp::Failed(candidate, error) => {
                    report.failed(candidate.id, candidate.btcpay_id, &error);
                    done(report, 1);
                }
            }
            Ok(())
        })
    }

    /// Reports what the store does not have. "Not here" is believed only of a store that is certainly
    /// the invoices' own.
    ///
    /// # Errors
    ///
    /// It is not, or not certainly.
    fn report_missing(&mut self) -> Result<()> {
        let missing = std::mem::take(&mut self.missing);
        // Of a complete sale nothing is concluded.
        let is_done =
            |invoice: &Invoice| invoice.status == LocalStatus::Settled && is_complete(invoice);
        let (complete, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_done);
        self.report.not_in_store += complete.len() as u64;
        let complete = complete
            .into_iter()
            .map(|invoice| (invoice, None))
            .collect();
        reconcile(complete, self.database, self.report, self.moment, |_, _| {})?;
        let (ours, maybe): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|invoice| invoice.provider == Provider::OurStore);
        self.report.not_in_store += maybe.len() as u64;
        if !ours.is_empty() && !self.store_is_ours {
            match probe(self.btcpay, self.database)? {
                Probe::Ours => {}
                // Nothing follows from any of them, whosever the store is.
                Probe::NothingPaid
                    if ours.iter().all(|one| may_be_deleted(one, self.moment.now)) =>
                {
                    self.report.not_in_store += ours.len() as u64;
                    return Ok(());
                }
                Probe::NothingPaid | Probe::NotOurs => bail!(
                    "store {} in BTCPay Server has none of the invoices that were looked up ({}), nor \
                     any that was paid before. Is --store-id right, and the API key for this store? \
                     If so, they were deleted there: close them here",
                    self.btcpay.store_id(),
                    ours.len()
                ),
            }
        }
        let missing = ours.into_iter().map(|invoice| (invoice, None)).collect();
        reconcile(missing, self.database, self.report, self.moment, |_, _| {})
    }
}

/// The invoice of `candidate`; None if the service has changed its status since it was listed.
///
/// # Errors
///
/// The database cannot be read.
fn unchanged(candidate: &Candidate, database: &Database) -> Result<Option<Invoice>> {
    let current = database.reread(&candidate.id)?;
    let invoice = current.map(|(invoice, _)| invoice);
    let unchanged = invoice.filter(|invoice| invoice.status == candidate.status);
    if unchanged.is_none() {
        info!("invoice {}: the service got there first", candidate.id);
    }
    Ok(unchanged)
}

/// Asks what was paid, and when, for what is told about money. Without an answer, what the invoice
/// itself says is told.
fn ask_for_payments(btcpay: &mut Btcpay, report: &mut Report, deadline: Deadline) {
    report.sort();
    for item in report.about_money().take(MOST_PAYMENTS) {
        // Telling it takes time, too.
        if deadline.is_near() {
            return;
        }
        match btcpay.payments(&item.btcpay_invoice_id) {
            Ok(payments) => item.was_paid(payments),
            Err(
                AskError::Refused(error) | AskError::NotInStore(error) | AskError::TooLong(error),
            ) => info!(
                "invoice {}: its payments are unknown: {error:#}",
                item.invoice_id
            ),
            Err(AskError::Unanswered { .. } | AskError::Fatal(_) | AskError::Stopped(_)) => return,
        }
    }
}

/// Ends what was noted of invoices that the database does not have any more.
fn resolve_gone(gone: Vec<InvoiceId>, database: &mut Database, report: &mut Report) -> Result<()> {
    let write = |writing: &mut Writing, id: &InvoiceId| {
        let past = writing.past(id);
        let steps = past.end();
        writing.note(id, rows(&steps))?;
        Ok(steps)
    };
    database.write_each(gone, write, |written| {
        for (id, outcome) in written {
            match outcome {
                Ok(steps) => {
                    for step in steps {
                        if let Step::Resolve { reason } = step {
                            report.resolved(&id, None, reason);
                        }
                    }
                }
                Err(error) => report.failed(id, BtcpayInvoiceId("-".into()), &error),
            }
        }
        Ok(())
    })
}
