//! What needs attention, as a block of short lines for someone who reads it on a phone: who bought
//! what, the price and how long ago, what is wrong, what to do, and where. Pure.

use jiff::Timestamp;

use super::NeedsAttention;
use super::advice::{self, Advice};
use super::escape;
use super::table::{age, with_separators};
use super::wrap::wrap;
use crate::decide::Attention;
use crate::invoice::{InvoiceId, LocalStatus, Sale};

/// So that the statements still fit a line.
const AT_ONCE: usize = 50;

/// Lines, made safe to print.
pub struct Block {
    lines: Vec<Line>,
    /// The invoices that it is about, and why.
    pub about: Vec<(InvoiceId, &'static str)>,
    /// Whether no dry run shows it again.
    pub is_one_off: bool,
}

enum Line {
    Text(String),
    /// A command, a statement or a link, which is copied whole.
    Whole(String),
}

/// A block for each item, at Unix second `now`; but one for all unpaid invoices that the store does not
/// have, of which there may be hundreds.
pub fn blocks(items: &[&NeedsAttention], now: i64) -> Vec<Block> {
    let is_gone = |item: &&&NeedsAttention| {
        item.attention == Attention::NotInBtcpay && item.invoice.status != LocalStatus::Settled
    };
    let gone: Vec<&NeedsAttention> = items.iter().filter(is_gone).copied().collect();
    let others = items.iter().filter(|item| !is_gone(item));
    let mut blocks: Vec<Block> = others.map(|item| Block::of(item, now)).collect();
    match gone.as_slice() {
        [] => {}
        [one] => blocks.push(Block::of(one, now)),
        several => blocks.push(Block::of_gone(several)),
    }
    blocks
}

impl Block {
    fn of(item: &NeedsAttention, now: i64) -> Self {
        let mut block = Self {
            lines: Vec::new(),
            about: vec![(item.invoice_id.clone(), item.reason)],
            is_one_off: item.attention.is_one_off(),
        };
        let Sale {
            buyer_email,
            product,
            ..
        } = &item.sale;
        let who = [buyer_email.as_deref(), product.as_deref()];
        let who = who.into_iter().flatten();
        let who: Vec<&str> = who.filter(|text| !text.is_empty()).collect();
        if !who.is_empty() {
            block.add(&who.join(", "));
        }
        block.add(&format!(
            "{}: {}",
            price_and_age(item, now),
            item.reason.replace('_', " ")
        ));
        block.advice(&item.advice);
        for link in item.links() {
            block.whole(&link);
        }
        block.add(&format!("invoice {}", item.invoice_id));
        block
    }

    fn of_gone(items: &[&NeedsAttention]) -> Self {
        let about = items
            .iter()
            .map(|item| (item.invoice_id.clone(), item.reason));
        let mut block = Self {
            lines: Vec::new(),
            about: about.collect(),
            is_one_off: false,
        };
        let ids: Vec<&InvoiceId> = items.iter().map(|item| &item.invoice_id).collect();
        block.add(&format!("{} invoices: not in btcpay", ids.len()));
        let at_once = ids.get(..AT_ONCE).unwrap_or(&ids);
        block.advice(&advice::not_in_btcpay(at_once));
        if at_once.len() < ids.len() {
            block.add(&format!(
                "This closes {AT_ONCE} of them; reconcile --dry-run then names the others."
            ));
        }
        let first: Vec<&str> = ids.iter().take(3).map(|id| &*id.0).collect();
        block.add(&format!("the first invoices: {}", first.join(", ")));
        block
    }

    fn advice(&mut self, advice: &Advice) {
        self.add(&format!("{}.", advice.what));
        for step in &advice.steps {
            match &step.run {
                Some(run) => {
                    self.add(&format!("{}:", step.say));
                    self.whole(&format!("  {run}"));
                }
                None => self.add(&format!("{}.", step.say)),
            }
        }
    }

    fn add(&mut self, text: &str) {
        self.lines.push(Line::Text(escape::line(text)));
    }

    fn whole(&mut self, text: &str) {
        self.lines.push(Line::Whole(escape::line(text)));
    }

    /// For a terminal of so many `columns`; else each line as it is, since the reader's own program
    /// wraps it.
    pub fn text(&self, columns: Option<usize>) -> String {
        let lines = self.lines.iter().map(|line| match line {
            Line::Text(text) => wrap("", text, "", columns),
            Line::Whole(text) => text.clone(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// In BTCPay's currency, else in sats as the database has it.
fn price_and_age(item: &NeedsAttention, now: i64) -> String {
    let money = item.answer.as_ref().map(|answer| &answer.money);
    let price = match money {
        Some(money) if !money.is_bitcoin() => super::paid::price(money),
        Some(_) | None => format!("{} sats", with_separators(item.sale.amount_sats)),
    };
    match item.sale.created_at.map(Timestamp::as_second) {
        Some(created) => format!("{price}, {} old", age(now.saturating_sub(created))),
        None => price,
    }
}

impl NeedsAttention {
    /// BTCPay's pages for a person.
    fn links(&self) -> Vec<String> {
        let page = self.url.iter().cloned();
        let refund = self.url.iter().filter(|_| self.advice.may_refund);
        page.chain(refund.map(|page| format!("{page}/refund")))
            .collect()
    }
}
