//! What is done with answers: decide, write, tell. Used by every kind of run.

use anyhow::Result;
use log::info;

use crate::attention::{NoteRow, Occasion, Past, Standing, Step};
use crate::database::{Database, WriteError, Writing};
use crate::decide::{Attention, Decision, Written, decide_in_doubt, decide_with};
use crate::invoice::{Answer, Invoice, Sale};
use crate::report::{Report, Telling};

/// What BTCPay Server says of an invoice; None if it does not have it.
pub type Word = Option<Answer>;

/// The run as what needs a person sees it.
#[derive(Clone, Copy)]
pub struct Moment {
    pub occasion: Occasion,
    /// Unix seconds.
    pub now: i64,
}

/// Brings these invoices into agreement with BTCPay Server's word, and tells `finished` how many more
/// are. What fails for one of them is in the report.
///
/// # Errors
///
/// Nothing more can be read or written.
pub fn reconcile(
    answered: Vec<(Invoice, Word)>,
    database: &mut Database,
    report: &mut Report,
    moment: Moment,
    finished: impl Fn(&mut Report, usize),
) -> Result<()> {
    let count = answered.len();
    let mut to_write = Vec::new();
    for (invoice, word) in answered {
        let decision = decide_with(&invoice, word.as_ref());
        if decision == Decision::NOTHING && !database.knows_the_past() {
            continue;
        }
        let past = database.past(&invoice.id)?;
        let sale = Sale::of(&invoice);
        let done = match past.acknowledged(&Standing::of(&invoice, word.as_ref())) {
            Some(since) => Done::acknowledged(sale, decision, since),
            None if decision.change.is_some() => {
                to_write.push((invoice, word));
                continue;
            }
            None => {
                let attention = decision.attention.into_iter().collect();
                Done {
                    sale,
                    written: None,
                    steps: past.next(attention, moment.occasion, moment.now),
                    acknowledged: None,
                }
            }
        };
        if done.steps.iter().any(Step::is_noted) {
            to_write.push((invoice, word));
        } else if !done.is_nothing() {
            // Else the service has just changed it.
            if let Some((current, sale)) = database.reread(&invoice.id)?
                && current == invoice
            {
                let done = Done { sale, ..done };
                tell(report, &invoice, word.as_ref(), done, moment);
            }
        }
    }
    finished(report, count - to_write.len());
    let write = |writing: &mut Writing, (listed, word): &(Invoice, Word)| {
        decide_again_and_write(writing, listed, word.as_ref(), moment)
    };
    database.write_each(to_write, write, |written| {
        finished(report, written.len());
        let mut to_tell = Vec::new();
        for ((invoice, word), outcome) in written {
            match outcome {
                Ok(Some(mut done)) => {
                    if let Some(written) = done.written.take() {
                        report.changed(&invoice, done.sale.clone(), written);
                    }
                    to_tell.push((invoice, word, done));
                }
                Ok(None) => info!("invoice {}: the service got there first", invoice.id),
                Err(error) => report.failed(invoice.id, invoice.btcpay_id, &error),
            }
        }
        // Before anything else can go wrong.
        report.committed();
        for (invoice, word, done) in to_tell {
            tell(report, &invoice, word.as_ref(), done, moment);
        }
        Ok(())
    })
}

/// What became of an invoice.
pub struct Done {
    pub sale: Sale,
    pub written: Option<Written>,
    pub steps: Vec<Step>,
    /// What a person acknowledged, and when, in Unix seconds.
    pub acknowledged: Option<(Attention, i64)>,
}

impl Done {
    /// What stands of this decision, which a person's acknowledgement of Unix second `since` holds
    /// back.
    fn acknowledged(sale: Sale, decision: Decision, since: i64) -> Self {
        let gives = decision.gives();
        let change = decision.change.map(|_| Attention::HeldBack);
        let what = if gives {
            change
        } else {
            decision.attention.or(change)
        };
        Self {
            sale,
            written: None,
            steps: Vec::new(),
            acknowledged: what.map(|what| (what, since)),
        }
    }

    fn is_nothing(&self) -> bool {
        self.written.is_none() && self.steps.is_empty() && self.acknowledged.is_none()
    }
}

/// Puts it into the report.
pub fn tell(
    report: &mut Report,
    invoice: &Invoice,
    answer: Option<&Answer>,
    done: Done,
    moment: Moment,
) {
    let Done {
        sale,
        written,
        steps,
        acknowledged,
    } = done;
    if let Some(written) = written {
        report.changed(invoice, sale.clone(), written);
    }
    let noted_now = (!report.dry_run).then_some(moment.now);
    let acknowledged = acknowledged.map(|(what, since)| (what, Telling::Acknowledged(since)));
    let mut told: Vec<_> = acknowledged.into_iter().collect();
    for step in steps {
        match step {
            Step::Note(attention) => told.push((attention, Telling::New(noted_now))),
            Step::Remind { attention, since } => told.push((attention, Telling::Again(since))),
            Step::Stand { attention, since } => told.push((attention, Telling::Standing(since))),
            Step::Resolve { reason } => {
                report.resolved(&invoice.id, Some(&invoice.btcpay_id), reason);
            }
        }
    }
    for (attention, telling) in told {
        report.needs_attention(invoice, answer, sale.clone(), attention, telling);
    }
}

/// Decides on what the database says under the write lock, and writes that. None if the service has
/// changed the invoice's status since it was listed.
fn decide_again_and_write(
    writing: &mut Writing,
    listed: &Invoice,
    answer: Option<&Answer>,
    moment: Moment,
) -> Result<Option<Done>, WriteError> {
    let Some((current, sale)) = writing.reread(&listed.id)? else {
        return Ok(None);
    };
    if current.status != listed.status {
        return Ok(None);
    }
    let past = writing.past(&current.id);
    let mut decision = decide_with(&current, answer);
    if let Some(since) = past.acknowledged(&Standing::of(&current, answer)) {
        return Ok(Some(Done::acknowledged(sale, decision, since)));
    }
    if decision.gives()
        && let Some(answer) = answer
        && let Some(doubt) = writing.doubts(&current)?.into_iter().next()
    {
        decision = decide_in_doubt(&current, answer, doubt);
    }
    let mut steps = Vec::new();
    let written = writing.write(&current, decision.change.as_ref(), |written| {
        steps = next_steps(&past, decision.attention, written, moment);
        rows(&steps)
    })?;
    Ok(Some(Done {
        sale,
        written,
        steps,
        acknowledged: None,
    }))
}

/// What becomes of what needs a person, with what follows from the change.
pub fn next_steps(
    past: &Past,
    attention: Option<Attention>,
    written: Option<&Written>,
    moment: Moment,
) -> Vec<Step> {
    let of_written = written.into_iter().flat_map(Written::attention);
    let all = attention.into_iter().chain(of_written).collect();
    past.next(all, moment.occasion, moment.now)
}

/// The audit rows of these steps.
pub fn rows(steps: &[Step]) -> Vec<NoteRow> {
    steps.iter().filter_map(Step::row).collect()
}
