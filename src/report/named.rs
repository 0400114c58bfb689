//! An invoice that a person named, and all that is known of it: as JSON and as a block.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::block::blocks;
use super::table::{WIDEST_TEXT, with_separators};
use super::wrap::{INDENT, wrap};
use super::{PaymentJson, Report, escape, text};
use crate::invoice::{
    AdditionalStatus, Answer, BtcpayInvoiceId, BtcpayStatus, Event, Here, Invoice, InvoiceId,
    LocalStatus, Payment,
};

/// Under a value, whose name and blanks are so wide.
const BELOW_THE_VALUE: &str = "            ";

#[derive(Debug, Serialize)]
pub struct Named {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    here: Here,
    /// None if it was free, or the store does not have it, or did not answer.
    btcpay: Option<There>,
    /// What was done, or why nothing was.
    done: String,
    history: Vec<Event>,
    #[serde(skip)]
    is_left_alone: bool,
}

/// All that BTCPay Server says of it.
#[derive(Debug, Serialize)]
struct There {
    status: BtcpayStatus,
    additional_status: AdditionalStatus,
    amount: Option<String>,
    paid_amount: Option<String>,
    currency: String,
    expires_at: Option<Timestamp>,
    /// None if BTCPay Server did not say.
    payments: Option<Vec<PaymentJson>>,
}

impl Named {
    /// Of `invoice`, about which BTCPay Server said `answer` and that these `payments` came; and whether it
    /// was left alone because the service may be at work on it.
    pub fn new(
        invoice: &Invoice,
        here: Here,
        history: Vec<Event>,
        answer: Option<Answer>,
        payments: Option<Vec<Payment>>,
        is_left_alone: bool,
    ) -> Self {
        let decimal = |amount: Option<rust_decimal::Decimal>| {
            amount.map(|amount| amount.normalize().to_string())
        };
        Self {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            here,
            btcpay: answer.map(|answer| There {
                status: answer.status,
                additional_status: answer.additional,
                amount: decimal(answer.money.amount),
                paid_amount: decimal(answer.money.paid),
                currency: answer.money.currency,
                expires_at: answer
                    .expires
                    .and_then(|at| Timestamp::from_second(at).ok()),
                payments: payments
                    .map(|payments| payments.into_iter().map(PaymentJson::of).collect()),
            }),
            done: String::new(),
            history,
            is_left_alone,
        }
    }

    fn statuses_agree(&self) -> bool {
        let there = self.btcpay.as_ref();
        let there = there.map(|there| LocalStatus::of(there.status).word());
        there.is_some() && there == self.here.status.as_deref()
    }

    /// BTCPay Server gave no answer that can be used.
    pub fn unanswered(invoice: &Invoice, here: Here, history: Vec<Event>) -> Self {
        Self::new(invoice, here, history, None, None, false)
    }
}

impl Report {
    /// Adds an invoice that was looked into.
    pub fn named(&mut self, mut named: Named) {
        named.done = self.done(&named);
        self.invoices.push(named);
    }

    fn done(&self, named: &Named) -> String {
        let id = &named.invoice_id;
        if named.is_left_alone {
            return "nothing: it was touched within the last minute, and the service may be at work on it".into();
        }
        if self.failures.iter().any(|failed| failed.invoice_id == *id) {
            return "nothing: it failed".into();
        }
        let change = self.changes.iter().find(|change| change.invoice_id == *id);
        let mut done: Vec<String> = change.map(text::what_changed).into_iter().collect();
        let attention = self.attention.iter().filter(|item| item.invoice_id == *id);
        for item in attention {
            let how = if item.acknowledged {
                "acknowledged"
            } else {
                "needs attention"
            };
            done.push(format!("{how}: {}", item.reason.replace('_', " ")));
        }
        let over = self.resolved.iter().filter(|over| over.invoice_id == *id);
        done.extend(over.map(|over| format!("over: {}", over.reason.replace('_', " "))));
        if done.is_empty() {
            if named.statuses_agree() {
                "nothing: the database and BTCPay agree".into()
            } else {
                "nothing: there is nothing to do".into()
            }
        } else if change.is_none() {
            format!("nothing; {}", done.join("; "))
        } else {
            done.join("; ")
        }
    }
}

/// Writes a block for each invoice that was named, at Unix second `now`, for a terminal of so many
/// `columns` if it is one.
pub fn write(
    out: &mut impl Write,
    report: &Report,
    now: i64,
    columns: Option<usize>,
) -> io::Result<()> {
    for named in &report.invoices {
        let ids = text::ids(&named.invoice_id, Some(&named.btcpay_invoice_id));
        writeln!(out, "{}", wrap("", &escape::line(&ids), INDENT, columns))?;
        for (name, value) in lines(named) {
            let line = format!("{name:<9} {}", escape::line(&value));
            writeln!(out, "{}", wrap(INDENT, &line, BELOW_THE_VALUE, columns))?;
        }
        let attention = report.attention.iter();
        let items: Vec<_> = attention
            .filter(|item| item.invoice_id == named.invoice_id)
            .collect();
        for block in blocks(&items, now) {
            let width = columns.unwrap_or(WIDEST_TEXT).min(WIDEST_TEXT);
            let text = block.text(Some(width.saturating_sub(INDENT.len())));
            writeln!(out, "\n{}", textwrap::indent(&text, INDENT))?;
        }
        if !named.history.is_empty() {
            writeln!(out, "\n  history")?;
        }
        for event in &named.history {
            let line = format!(
                "{} {} {} {}",
                event.occurred_at, event.actor_kind, event.action, event.details
            );
            let line = wrap(INDENT, &escape::line(&line), "    ", columns);
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn lines(named: &Named) -> Vec<(&'static str, String)> {
    let here = &named.here;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let with = |one: &Option<String>, other: &[(&str, &Option<String>)]| {
        let mut parts: Vec<String> = one.iter().cloned().collect();
        for (word, value) in other {
            parts.extend(value.iter().map(|value| format!("{word}{value}")));
        }
        parts.join(", ")
    };
    let mut lines = vec![
        ("buyer", text(&here.buyer_email)),
        ("product", text(&here.product)),
        (
            "amount",
            here.amount_sats
                .map_or("-".into(), |sats| format!("{} sats", with_separators(sats))),
        ),
        (
            "here",
            with(
                &here.status,
                &[
                    ("created ", &here.created_at),
                    ("touched ", &here.updated_at),
                ],
            ),
        ),
        (
            "license",
            match &here.license_id {
                None => "none".into(),
                id => with(
                    id,
                    &[
                        ("", &here.license_status),
                        ("issued ", &here.license_issued_at),
                        ("expires ", &here.license_expires_at),
                    ],
                ),
            },
        ),
    ];
    if here.redemption_status.is_some() {
        lines.push((
            "discount",
            with(&here.discount_code, &[("", &here.redemption_status)]),
        ));
    }
    if here.subscription_status.is_some() {
        let renewal = [("to be renewed ", &here.next_renewal_at)];
        lines.push(("renewals", with(&here.subscription_status, &renewal)));
    }
    match &named.btcpay {
        Some(there) => {
            lines.push((
                "BTCPay",
                match there.additional_status {
                    AdditionalStatus::None => there.status.word().into(),
                    other => format!("{}, {other:?}", there.status.word()),
                },
            ));
            let amount = there.amount.as_deref().unwrap_or("no fixed amount");
            lines.push((
                "price",
                match &there.paid_amount {
                    Some(paid) => {
                        format!(
                            "{amount} {}, of which BTCPay counts {paid} as paid",
                            there.currency
                        )
                    }
                    None => format!("{amount} {}", there.currency),
                },
            ));
            if let Some(expires) = there.expires_at {
                lines.push(("checkout", format!("until {expires}")));
            }
            for payment in there.payments.iter().flatten() {
                lines.push(("payment", payment.line()));
            }
        }
        None => lines.push(("BTCPay", "-".into())),
    }
    lines.push(("done", named.done.clone()));
    lines
}

impl PaymentJson {
    fn line(&self) -> String {
        let at = self
            .received_at
            .map_or_else(|| "-".into(), |at| at.to_string());
        let confirmed = if self.confirmed {
            "confirmed"
        } else {
            "not confirmed yet"
        };
        format!(
            "{} {} at {at}, {confirmed}, BTCPay's fee {}",
            self.amount, self.currency, self.fee
        )
    }
}
