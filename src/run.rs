//! The story of a run: list, look up, decide, write, report.

use std::time::Instant;

use anyhow::{Error, Result, bail};
use log::info;

use crate::btcpay::{AskError, Btcpay};
use crate::config::Config;
use crate::database::{Access, Database, Window, WriteError, Writing};
use crate::decide::{Attention, Written, decide, decide_in_doubt, decide_missing};
use crate::invoice::{Answer, Invoice, Provider, Sale};
use crate::lookup::{LookedUp, Stopped, look_up};
use crate::report::stderr::Progress;
use crate::report::{Format, Report};
use crate::stop::{Deadline, Signal};

/// One run at Unix second `now`. If something stopped it, the report says what.
pub fn run(config: &Config, now: i64) -> Report {
    let started = Instant::now();
    let mut report = new_report(config);
    report.error = run_until_stopped(config, now, &mut report)
        .err()
        .map(|stopped| format!("{stopped:#}"));
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

/// Whose changes are printed as they happen, unless they are shown as tables or as JSON.
pub fn new_report(config: &Config) -> Report {
    let dry_run = config.access == Access::Read;
    let live = !dry_run && config.format == Format::Text;
    Report::new(dry_run, config.store.clone(), live)
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
    // In case the run stops before them.
    report.not_asked = listing.candidates.len() as u64;
    let free = listing.free.into_iter();
    let free = free.map(|invoice| (invoice, Answer::of_a_free_sale()));
    reconcile(free.collect(), &mut database, report)?;
    let is_nothing_to_ask =
        listing.candidates.is_empty() && listing.older.iter().all(Vec::is_empty);
    if is_nothing_to_ask && config.access == Access::Write {
        return Ok(());
    }

    let mut btcpay = Btcpay::new(store.clone(), config.api_key.clone(), deadline)?;
    let result = if is_nothing_to_ask {
        // A dry run tries the settings, all of them.
        btcpay.check_access().map_err(Error::from)
    } else {
        let mut asking = Asking {
            btcpay: &mut btcpay,
            database: &mut database,
            report,
            now,
            deadline,
            store_is_ours: false,
            missing: Vec::new(),
        };
        let asked = asking.ask_about_all(listing.candidates, listing.older);
        // What was found missing before a stop counts too.
        asked.and(asking.report_missing())
    };
    report.requests = btcpay.requests();
    result
}

struct Asking<'run> {
    btcpay: &'run mut Btcpay,
    database: &'run mut Database,
    report: &'run mut Report,
    /// Unix seconds.
    now: i64,
    deadline: Deadline,
    /// Whether BTCPay's store has shown one of the service's invoices.
    store_is_ours: bool,
    /// What the store does not have, if it is ours.
    missing: Vec<Invoice>,
}

impl Asking<'_> {
    /// Looks up each of `candidates`, then as many `older` invoices as there is time for, and brings
    /// each into agreement before the next request.
    fn ask_about_all(&mut self, candidates: Vec<Invoice>, older: [Vec<Invoice>; 2]) -> Result<()> {
        let count = candidates.len();
        let progress = Progress::of(count + older.iter().map(Vec::len).sum::<usize>());
        let stopped = self.look_up(candidates, &progress);
        let not_checked = stopped
            .as_ref()
            .map_or_else(|stopped| stopped.not_checked, |()| 0);
        self.report.checked = (count - not_checked) as u64;
        self.report.not_asked = not_checked as u64;
        stopped.map_err(|stopped| stopped.error)?;

        for older in older {
            let count = older.len();
            let stopped = self.look_up(older, &progress);
            let not_checked = stopped
                .as_ref()
                .map_or_else(|stopped| stopped.not_checked, |()| 0);
            self.report.checked += (count - not_checked) as u64;
            match stopped {
                Ok(()) => {}
                // The next run begins somewhere else.
                Err(stopped) if stopped.out_of_time && Signal::received().is_none() => {
                    return Ok(());
                }
                Err(stopped) => return Err(stopped.error),
            }
        }
        Ok(())
    }

    fn look_up(&mut self, candidates: Vec<Invoice>, progress: &Progress) -> Result<(), Stopped> {
        let Self {
            btcpay,
            database,
            report,
            store_is_ours,
            missing,
            ..
        } = self;
        look_up(candidates, btcpay, self.now, self.deadline, |looked_up| {
            let count = match looked_up {
                LookedUp::Answered(answered) => {
                    let count = answered.len();
                    *store_is_ours |= count > 0;
                    reconcile(answered, database, report)?;
                    count
                }
                LookedUp::NotInStore(invoice) => {
                    missing.push(invoice);
                    1
                }
                LookedUp::Failed(invoice, error) => {
                    report.failed(invoice.id, invoice.btcpay_id, &error);
                    1
                }
            };
            progress.advance(count);
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
        let (ours, maybe): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|invoice| invoice.provider == Provider::OurStore);
        self.report.not_in_store += maybe.len() as u64;
        if !ours.is_empty() && !self.store_is_ours && !self.probe()? {
            let store = self.btcpay.store_id();
            bail!(
                "store {store} in BTCPay Server has none of the {} invoices that were looked up, nor \
                 any that was paid before. Is --store-id right, and the API key for this store?",
                ours.len()
            );
        }
        for invoice in ours {
            if let Some(attention) = decide_missing(&invoice)
                && let Ok(Some((current, sale))) = self.database.reread(&invoice.id)
                && current == invoice
            {
                self.report.needs_attention(&invoice, sale, &attention);
            }
        }
        Ok(())
    }

    /// Whether the store has the newest invoice that was certainly paid in it.
    fn probe(&mut self) -> Result<bool> {
        let Some(paid) = self.database.newest_paid()? else {
            return Ok(false);
        };
        match self.btcpay.invoice(&paid.btcpay_id) {
            Ok(_) => Ok(true),
            Err(AskError::NotInStore(_)) => Ok(false),
            Err(unknown) => Err(unknown.into()),
        }
    }
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
    database.write_each(to_write, write, |written| {
        for ((invoice, _), outcome) in written {
            match outcome {
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
            }
        }
        report.committed();
        Ok(())
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
        && let Some(doubt) = writing.doubts(&current)?.into_iter().next()
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
