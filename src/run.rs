//! The story of a run: list, ask, decide, write.

use std::time::Instant;

use anyhow::Result;
use log::info;
use reqwest::Url;

use crate::btcpay::{AskError, Btcpay};
use crate::config::Config;
use crate::database::{Access, Applied, Database, Window, WriteError};
use crate::decide::{Decision, decide};
use crate::invoice::{Answer, Invoice};
use crate::report::Report;

/// After so many invoices in a row without a connection, BTCPay Server counts as gone.
const GONE_AFTER: usize = 3;

/// One run at Unix second `now`, from listing to the last write. What stopped it, if anything did,
/// is in the report.
pub fn run(config: &Config, now: i64) -> Report {
    let started = Instant::now();
    let mut report = Report::new(config.access == Access::Read);
    report.error = reconcile(config, now, &mut report)
        .err()
        .map(|stopped| format!("{stopped:#}"));
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

fn reconcile(config: &Config, now: i64, report: &mut Report) -> Result<()> {
    let mut database = Database::open(&config.database, config.access)?;
    let listing = database.candidates(Window {
        now,
        since: now - config.max_age_seconds,
        recheck: config.recheck,
    })?;
    report.out_of_window = listing.out_of_window;
    for unreadable in listing.unreadable {
        report.failed(unreadable.id, unreadable.btcpay_id, &unreadable.error);
    }
    if listing.candidates.is_empty() {
        return Ok(());
    }

    let mut btcpay = Btcpay::new(
        config.btcpay_url.clone(),
        config.store_id.clone(),
        config.api_key.clone(),
    )?;
    let result = ask_about_each(
        listing.candidates,
        &mut btcpay,
        &mut Reconciling {
            database: &mut database,
            now,
            btcpay_url: &config.btcpay_url,
            report,
        },
    );
    report.requests = btcpay.requests();
    result
}

fn ask_about_each(
    candidates: Vec<Invoice>,
    btcpay: &mut Btcpay,
    reconciling: &mut Reconciling,
) -> Result<()> {
    let mut unconnected = Vec::new();
    let mut ever_connected = false;
    for invoice in candidates {
        reconciling.report.checked += 1;
        match btcpay.invoice(&invoice.btcpay_id) {
            Ok(answer) => {
                ever_connected = true;
                reconciling.apply(invoice, &answer)?;
            }
            Err(AskError::Invoice(error)) => {
                ever_connected = true;
                reconciling
                    .report
                    .failed(invoice.id, invoice.btcpay_id, &error);
            }
            Err(AskError::Unreachable(error)) => {
                unconnected.push((invoice, error));
                if unconnected.len() < GONE_AFTER {
                    continue;
                }
                break;
            }
            Err(AskError::Run(error)) => return Err(error),
        }
        for (invoice, error) in unconnected.drain(..) {
            reconciling
                .report
                .failed(invoice.id, invoice.btcpay_id, &error);
        }
    }
    match unconnected.pop() {
        Some((_, error)) if !ever_connected || unconnected.len() + 1 == GONE_AFTER => Err(error),
        last => {
            for (invoice, error) in unconnected.into_iter().chain(last) {
                reconciling
                    .report
                    .failed(invoice.id, invoice.btcpay_id, &error);
            }
            Ok(())
        }
    }
}

/// Where answers are turned into writes and into the report.
struct Reconciling<'run> {
    database: &'run mut Database,
    now: i64,
    btcpay_url: &'run Url,
    report: &'run mut Report,
}

impl Reconciling<'_> {
    fn apply(&mut self, listed: Invoice, answer: &Answer) -> Result<()> {
        info!(
            "invoice {}: {} here, {} in BTCPay",
            listed.id,
            listed.status.word(),
            answer.status.word()
        );
        let (decision, applied) = match self.decide_and_write(&listed, answer) {
            Ok(done) => done,
            Err(WriteError::Invoice(error)) => {
                self.report.failed(listed.id, listed.btcpay_id, &error);
                return Ok(());
            }
            Err(WriteError::Database(error)) => return Err(error),
        };
        if let Some(attention) = &decision.attention {
            self.report.needs_attention(
                listed.id.clone(),
                listed.btcpay_id.clone(),
                attention,
                self.btcpay_url,
            );
        }
        if let Some(applied) = applied {
            self.report.changed(listed.id, listed.btcpay_id, applied);
        }
        Ok(())
    }

    /// Decides on what was listed; where that asks for a change, decides again on what is there
    /// under the write lock, and writes that.
    fn decide_and_write(
        &mut self,
        listed: &Invoice,
        answer: &Answer,
    ) -> Result<(Decision, Option<Applied>), WriteError> {
        let decision = decide(listed, answer);
        if decision.change.is_none() {
            return Ok((decision, None));
        }
        let mut writing = self
            .database
            .begin(self.now)
            .map_err(WriteError::Database)?;
        let current = match writing.reread(&listed.id)? {
            Some(current) if current.status == listed.status => current,
            Some(_) | None => {
                info!("invoice {}: the service was faster", listed.id);
                return Ok((Decision::NOTHING, None));
            }
        };
        let decision = decide(&current, answer);
        let applied = decision
            .change
            .as_ref()
            .map(|change| writing.write(&current, change))
            .transpose()?;
        writing.commit().map_err(WriteError::Database)?;
        Ok((decision, applied))
    }
}
