//! The story of a run: list, ask, decide, write.

use std::time::Instant;

use anyhow::{Error, Result};
use log::info;

use crate::ask::ask_about_all;
use crate::btcpay::Btcpay;
use crate::config::Config;
use crate::database::{Access, Database, Window};
use crate::deadline::Deadline;
use crate::invoice::Answer;
use crate::reconcile::Reconciling;
use crate::report::Report;
use crate::turns::Turns;

/// One run at Unix second `now`, from listing to the last write. What stopped it, if anything did,
/// is in the report.
pub fn run(config: &Config, now: i64) -> Report {
    let started = Instant::now();
    let mut report = Report::new(config.access == Access::Read);
    report.error = run_until_stopped(config, now, &mut report)
        .err()
        .map(|stopped| format!("{stopped:#}"));
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

fn run_until_stopped(config: &Config, now: i64, report: &mut Report) -> Result<()> {
    let deadline = Deadline::after(config.deadline_seconds);
    let mut database = Database::open(&config.database, config.access, &config.store, deadline)?;
    let listing = database.candidates(Window {
        now,
        // Nothing was sold before 1970, and SQLite's calendar has a beginning.
        since: (now - config.max_age_seconds).max(0),
        recheck: config.recheck,
    })?;
    report.out_of_window = listing.out_of_window;
    report.other_provider = listing.other_provider;
    if listing.other_provider > 0 {
        info!(
            "other_provider: {} invoices in question belong to another payment provider or store \
             and are not asked about",
            listing.other_provider
        );
    }
    for unreadable in listing.unreadable {
        report.failed(unreadable.id, unreadable.btcpay_id, &unreadable.error);
    }
    let mut reconciling = Reconciling {
        database: &mut database,
        now,
        deadline,
        turns: Turns::new(),
        btcpay_url: &config.store.url,
        report,
    };
    // Should the run stop before them.
    reconciling.report.not_asked = listing.candidates.len() as u64;
    let free = listing.free.into_iter();
    reconciling.reconcile(
        free.map(|invoice| (invoice, Answer::of_a_free_sale()))
            .collect(),
    )?;
    let nothing_to_ask = listing.candidates.is_empty();
    if nothing_to_ask && config.access == Access::Write {
        return Ok(());
    }

    let mut btcpay = Btcpay::new(config.store.clone(), config.api_key.clone(), deadline)?;
    let result = if nothing_to_ask {
        // Whoever tries the settings wants to know of them all.
        btcpay.see_the_store().map_err(Error::from)
    } else {
        ask_about_all(listing.candidates, &mut btcpay, &mut reconciling)
    };
    report.requests = btcpay.requests();
    result
}
