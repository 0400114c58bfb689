//! What is made of an answer: a decision, its writing, and its place in the report.

use std::time::Instant;

use anyhow::{Result, bail};
use log::info;
use reqwest::Url;

use crate::database::{Applied, Database, WriteError, Writing};
use crate::deadline::Deadline;
use crate::decide::{Attention, decide};
use crate::invoice::{Answer, Invoice, Sale};
use crate::report::Report;
use crate::turns::{self, Turns};

/// Where answers become writes, and both become the report.
pub struct Reconciling<'run> {
    pub database: &'run mut Database,
    /// Unix seconds.
    pub now: i64,
    pub deadline: Deadline,
    pub turns: Turns,
    pub btcpay_url: &'run Url,
    pub report: &'run mut Report,
}

/// How it went with one invoice.
enum Outcome {
    Decided {
        attention: Option<Attention>,
        applied: Option<Applied>,
    },
    Failed(anyhow::Error),
}

impl Reconciling<'_> {
    /// Brings these invoices into agreement with what BTCPay Server says of them. No transaction is
    /// open when this returns.
    ///
    /// # Errors
    ///
    /// The database can take no more writes, or the run's time is over. What cannot be done for one
    /// invoice is in the report.
    pub fn reconcile(&mut self, answered: Vec<(Invoice, Answer)>) -> Result<()> {
        let mut to_change = Vec::new();
        for (invoice, answer) in answered {
            let decision = decide(&invoice, &answer);
            if decision.change.is_some() {
                to_change.push((invoice, answer));
            } else if decision.attention.is_some() && !self.database.has_moved(&invoice) {
                let outcome = Outcome::Decided {
                    attention: decision.attention,
                    applied: None,
                };
                self.tell(invoice, outcome);
            }
        }
        self.write(to_change)
    }

    /// Together, in transactions that are not too long; after one that is refused as a whole, each
    /// invoice in its own.
    fn write(&mut self, mut to_change: Vec<(Invoice, Answer)>) -> Result<()> {
        let mut at_most = to_change.len();
        while !to_change.is_empty() {
            self.turns.give_way();
            let began = Instant::now();
            let written = self.write_together(&to_change, at_most);
            self.turns.held(began.elapsed());
            match written {
                Ok(outcomes) => {
                    let left = to_change.split_off(outcomes.len());
                    for ((invoice, _), outcome) in to_change.into_iter().zip(outcomes) {
                        self.tell(invoice, outcome);
                    }
                    to_change = left;
                }
                Err(WriteError::Database(error)) => return Err(error),
                Err(WriteError::Invoice(_) | WriteError::Transaction(_)) if at_most > 1 => {
                    at_most = 1;
                    continue;
                }
                Err(WriteError::Invoice(error) | WriteError::Transaction(error)) => {
                    let left = to_change.split_off(1);
                    if let Some((invoice, _)) = to_change.pop() {
                        self.tell(invoice, Outcome::Failed(error));
                    }
                    to_change = left;
                }
            }
            if !to_change.is_empty() && self.deadline.has_passed() {
                bail!(
                    "the run's time was over and {} changes were not written; the next run goes on, \
                     and --deadline SECONDS gives it more time",
                    to_change.len()
                );
            }
        }
        Ok(())
    }

    /// In one transaction the first of them, and up to `at_most` for [`turns::LONGEST`].
    fn write_together(
        &mut self,
        to_change: &[(Invoice, Answer)],
        at_most: usize,
    ) -> Result<Vec<Outcome>, WriteError> {
        let mut writing = self.database.begin(self.now)?;
        let began = Instant::now();
        let mut outcomes = Vec::new();
        for (listed, answer) in to_change.iter().take(at_most) {
            outcomes.push(match write_one(&mut writing, listed, answer) {
                Err(WriteError::Invoice(error)) => Outcome::Failed(error),
                other => other?,
            });
            if began.elapsed() > turns::LONGEST {
                break;
            }
        }
        writing.commit()?;
        Ok(outcomes)
    }

    fn tell(&mut self, invoice: Invoice, outcome: Outcome) {
        match outcome {
            Outcome::Decided { attention, applied } => {
                let sale = self.sale(&invoice);
                let tip = applied.as_ref().and_then(|applied| applied.tip.clone());
                for attention in attention.into_iter().chain(tip.map(Attention::TipNotSent)) {
                    self.report.needs_attention(
                        &invoice,
                        &attention,
                        self.btcpay_url,
                        sale.clone(),
                    );
                }
                if let Some(applied) = applied {
                    self.report
                        .changed(invoice.id, invoice.btcpay_id, applied, sale);
                }
            }
            Outcome::Failed(error) => self.report.failed(invoice.id, invoice.btcpay_id, &error),
        }
    }

    /// In a dry run, which is to be looked at.
    fn sale(&self, invoice: &Invoice) -> Option<Box<Sale>> {
        let sale = self.report.dry_run.then(|| self.database.sale(invoice));
        sale.flatten().map(Box::new)
    }
}

/// Decides again, on what is there under the write lock, and writes that.
fn write_one(
    writing: &mut Writing,
    listed: &Invoice,
    answer: &Answer,
) -> Result<Outcome, WriteError> {
    let current = match writing.reread(&listed.id)? {
        Some(current) if current.status == listed.status => current,
        Some(_) | None => {
            info!("invoice {}: the service was faster", listed.id);
            return Ok(Outcome::Decided {
                attention: None,
                applied: None,
            });
        }
    };
    let decision = decide(&current, answer);
    Ok(Outcome::Decided {
        applied: decision
            .change
            .as_ref()
            .map(|change| writing.write(&current, change))
            .transpose()?,
        attention: decision.attention,
    })
}
