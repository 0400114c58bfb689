//! INVOICE: one invoice, or those of one buyer, and all that is known of them, whatever their age and
//! status. What support needs when a buyer says "I paid and have no license".

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use log::warn;

use crate::attention::Occasion;
use crate::btcpay::{AskError, Btcpay};
use crate::config::Config;
use crate::database::{Access, Database, Unreadable};
use crate::invoice::{Answer, BtcpayInvoiceId, Invoice, InvoiceId};
use crate::proof::{Probe, probe};
use crate::reconcile::{Moment, Word, reconcile};
use crate::report::{Named, Report};
use crate::run::{MOST_PAYMENTS, new_report};
use crate::secret;
use crate::stop::Deadline;

/// How many invoices of a buyer are looked into.
const MOST_OF_A_BUYER: usize = 20;

/// Looks into the invoices of these ids, the service's or BTCPay's, and of buyers with these addresses, at
/// Unix second `now`, and brings them into agreement.
pub fn look_into(config: &Config, wanted: &[String], now: i64) -> Report {
    let started = Instant::now();
    let mut report = new_report(config);
    if let Err(stopped) = look_into_until_stopped(config, wanted, now, &mut report) {
        report.stopped(&stopped);
    }
    report.elapsed_ms = started.elapsed().as_millis();
    report
}

fn look_into_until_stopped(
    config: &Config,
    wanted: &[String],
    now: i64,
    report: &mut Report,
) -> Result<()> {
    let deadline = Deadline::after(config.deadline_seconds);
    let (path, store) = (&config.database, &config.store);
    let mut database = Database::open(path, config.access, store, now, deadline)?;
    let mut btcpay = Btcpay::new(store.clone(), config.api_key.clone(), deadline)?;
    let mut seen: Vec<InvoiceId> = Vec::new();
    let moment = Moment {
        occasion: Occasion::Minute,
        now,
    };
    for typed in wanted {
        for found in find(typed, &database, report)? {
            let looked = match found {
                Ok(invoice) if seen.contains(&invoice.id) => Ok(()),
                Ok(invoice) => {
                    seen.push(invoice.id.clone());
                    look_at(&invoice, &mut btcpay, &mut database, report, moment)
                }
                Err(unreadable) => look_for(unreadable, &mut btcpay, report),
            };
            report.requests = btcpay.requests();
            looked?;
        }
    }
    if config.access == Access::Read {
        btcpay.warn_of_powers();
        report.requests = btcpay.requests();
    }
    Ok(())
}

/// The invoice of this id, else those of the buyer with this address. A buyer of none is in the report.
fn find(
    typed: &str,
    database: &Database,
    report: &mut Report,
) -> Result<Vec<Result<Invoice, Unreadable>>> {
    let by_id = database.find(typed)?;
    if by_id.is_ok() || !typed.contains('@') {
        return Ok(vec![by_id]);
    }
    let bought = database.bought_by(typed, MOST_OF_A_BUYER)?;
    // It may have a key in it.
    let shown = secret::without_any(typed);
    if bought.newest.is_empty() {
        let why = "no invoice has a buyer with this address. The buyer may have given another one";
        let (id, btcpay_id) = (shown.as_ref().into(), shown.as_ref().into());
        report.failed(InvoiceId(id), BtcpayInvoiceId(btcpay_id), &anyhow!(why));
    }
    if bought.older > 0 {
        warn!(
            "{} older invoices of {shown} are not shown. To see one, give its id",
            bought.older
        );
    }
    Ok(bought.newest)
}

fn look_at(
    invoice: &Invoice,
    btcpay: &mut Btcpay,
    database: &mut Database,
    report: &mut Report,
    moment: Moment,
) -> Result<()> {
    let is_free = invoice.btcpay_id.is_free();
    let word = match ask(invoice, btcpay, database) {
        Ok(word) => {
            report.checked += 1;
            word
        }
        Err(AskError::Refused(error) | AskError::NotInStore(error) | AskError::TooLong(error)) => {
            report.failed(invoice.id.clone(), invoice.btcpay_id.clone(), &error);
            if let Some((here, history)) = database.whole(&invoice.id)? {
                report.named(Named::unanswered(invoice, here, history));
            }
            return Ok(());
        }
        Err(stop @ (AskError::Unanswered { .. } | AskError::Fatal(_) | AskError::Stopped(_))) => {
            return Err(stop.into());
        }
    };
    let is_left_alone = database.may_be_at_work_on(invoice)?;
    if !is_left_alone {
        let asked = vec![(invoice.clone(), word.clone())];
        reconcile(asked, database, report, moment, |_, _| {})?;
    }
    let may_ask = !is_free && word.is_some() && report.invoices.len() < MOST_PAYMENTS;
    let payments = if may_ask {
        btcpay.payments(&invoice.btcpay_id).ok()
    } else {
        None
    };
    if let Some(payments) = &payments {
        report.was_paid(&invoice.id, payments);
    }
    let Some((here, history)) = database.whole(&invoice.id)? else {
        let gone = anyhow!("the service has just deleted it");
        report.failed(invoice.id.clone(), invoice.btcpay_id.clone(), &gone);
        return Ok(());
    };
    let answer = word.filter(|_| !is_free);
    report.named(Named::new(
        invoice,
        here,
        history,
        answer,
        payments,
        is_left_alone,
    ));
    Ok(())
}

/// BTCPay Server's word. That the store does not have the invoice is believed only of our own store.
fn ask(invoice: &Invoice, btcpay: &mut Btcpay, database: &Database) -> Result<Word, AskError> {
    if invoice.btcpay_id.is_free() {
        return Ok(Some(Answer::of_a_free_sale()));
    }
    match btcpay.invoice(&invoice.btcpay_id) {
        Ok(listed) => Ok(Some(listed.answer)),
        Err(AskError::NotInStore(error)) => {
            if probe(btcpay, database).map_err(AskError::Fatal)? == Probe::Ours {
                Ok(None)
            } else {
                Err(AskError::NotInStore(error))
            }
        }
        Err(other) => Err(other),
    }
}

/// An id without an invoice that can be looked at. Perhaps BTCPay Server knows it.
fn look_for(unreadable: Unreadable, btcpay: &mut Btcpay, report: &mut Report) -> Result<()> {
    let Unreadable {
        id,
        btcpay_id,
        error,
    } = unreadable;
    let known = BtcpayInvoiceId::checked(btcpay_id.0.clone()).ok();
    let there = known.map(|known| btcpay.invoice(&known));
    let error = match there {
        Some(Ok(listed)) => error.context(format!(
            "BTCPay has it: {}{}. Is --database the right one?",
            listed.answer.status.word(),
            listed
                .order_id
                .map_or_else(String::new, |order| format!(", with the order id {order}"))
        )),
        Some(Err(AskError::Fatal(stop))) => bail!(stop),
        Some(Err(
            AskError::Refused(_)
            | AskError::NotInStore(_)
            | AskError::TooLong(_)
            | AskError::Unanswered { .. }
            | AskError::Stopped(_),
        ))
        | None => error,
    };
    report.failed(id, btcpay_id, &error);
    Ok(())
}
