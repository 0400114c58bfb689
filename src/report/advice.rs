//! What needs attention, in words that end in the next step. Pure.

use std::fmt;

use reqwest::Url;

use crate::decide::Attention;
use crate::invoice::{
    BtcpayInvoiceId, BtcpayStatus, Invoice, InvoiceId, License, LocalStatus, Money, Purpose,
};

/// What happened to `invoice` and what to do about it.
pub fn detail(attention: &Attention, invoice: &Invoice) -> String {
    let what_follows = match invoice.purpose {
        Purpose::Purchase => "the next --recheck issues the license",
        Purpose::TierChange { .. } | Purpose::Renewal { .. } => {
            "its webhook makes the service do the rest"
        }
    };
    match attention {
        Attention::PaidLate(money) => format!(
            "{} arrived after the invoice expired. To accept the sale, mark it settled in BTCPay \
             and {what_follows}; otherwise refund the buyer and mark it invalid",
            Paid(money)
        ),
        Attention::PaidPartial(money) => format!(
            "{} of {} arrived before the invoice expired. Refund the buyer and mark it invalid in \
             BTCPay; or accept the sale: mark it settled and {what_follows}",
            Paid(money),
            Amount(money)
        ),
        Attention::InvalidButPaid(money) => format!(
            "{} was paid but did not confirm in time. If it has confirmed since, mark the invoice \
             settled in BTCPay and {what_follows}",
            Paid(money)
        ),
        Attention::AmountMismatch(money) => format!(
            "BTCPay settled {}, but amount_sats is {}. The sale was completed anyway; find out \
             which amount is wrong",
            Amount(money),
            invoice.amount_sats
        ),
        Attention::SettledHereNotThere(status) => format!(
            "settled in the database but incomplete, and BTCPay says {}; nothing was changed. Check \
             whether the money arrived and stayed. If so, mark the invoice settled in BTCPay; if \
             not, {}correct the row ({})",
            status.word(),
            match &invoice.license {
                License::Issued(id) => format!("revoke license {id} and "),
                License::None | License::MaybeByHand(_) | License::MaybeDeleted => String::new(),
            },
            set_status(&invoice.id, as_local(*status))
        ),
        Attention::LicenseByHand(id) => format!(
            "settled without a license, but license {id} was issued by hand for the same product \
             and buyer since; nothing was changed. If it is for this sale and still valid, link it \
             ({}); if not, issue another one and link that",
            link(&invoice.id, &id.0)
        ),
        Attention::LicenseDeleted => format!(
            "settled without a license, but a policy was force-deleted with its licenses since; \
             nothing was changed. If the buyer is still owed a license, issue it by hand and link \
             it ({})",
            link(&invoice.id, "ITS-ID")
        ),
        Attention::TierChangePaid => format!(
            "the buyer paid for another tier, but the service, which alone can apply it, has not; \
             nothing was changed. {}",
            resend_or_refund(invoice)
        ),
        Attention::RenewalPaid => format!(
            "the buyer paid to renew a subscription, but the service, which alone can renew it, has \
             not; nothing was changed. {}",
            resend_or_refund(invoice)
        ),
        Attention::TipNotSent(tip) => format!(
            "its license was issued by reconcile, and only the service sends tips: the {} sats that \
             its policy promises to {} were not sent. Send them yourself",
            tip.sats, tip.recipient
        ),
    }
}

/// The invoice's page in BTCPay Server at `btcpay_url`; None for a free sale, which has none.
pub fn page(id: &BtcpayInvoiceId, btcpay_url: &Url) -> Option<String> {
    if id.is_free() {
        return None;
    }
    let mut url = btcpay_url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["invoices", &id.0]);
    }
    Some(url.into())
}

/// How to make the service do what only it can do, or what to do instead.
fn resend_or_refund(invoice: &Invoice) -> String {
    let and_record_it = match invoice.status {
        LocalStatus::Settled => String::new(),
        LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => {
            let settled = set_status(&invoice.id, LocalStatus::Settled);
            format!(" and record it ({settled})")
        }
    };
    format!(
        "Redeliver the invoice's InvoiceSettled webhook in BTCPay. If that does not help, do it by \
         hand in the service{and_record_it}, or refund the buyer"
    )
}

fn as_local(status: BtcpayStatus) -> LocalStatus {
    match status {
        BtcpayStatus::New | BtcpayStatus::Processing => LocalStatus::Pending,
        BtcpayStatus::Settled => LocalStatus::Settled,
        BtcpayStatus::Expired => LocalStatus::Expired,
        BtcpayStatus::Invalid => LocalStatus::Invalid,
    }
}

/// SQL that gives the invoice this status.
fn set_status(id: &InvoiceId, status: LocalStatus) -> String {
    format!(
        "UPDATE invoices SET status = '{}' WHERE id = '{}'",
        status.word(),
        quoted(&id.0)
    )
}

/// SQL that makes a license the invoice's.
fn link(invoice_id: &InvoiceId, license_id: &str) -> String {
    format!(
        "UPDATE licenses SET invoice_id = '{}' WHERE id = '{}'",
        quoted(&invoice_id.0),
        quoted(license_id)
    )
}

/// For the inside of an SQL string literal.
fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

struct Paid<'a>(&'a Money);

impl fmt::Display for Paid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.paid {
            Some(paid) => write!(f, "{} {}", paid.normalize(), self.0.currency),
            None => f.write_str("an amount that BTCPay does not report"),
        }
    }
}

struct Amount<'a>(&'a Money);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.amount {
            Some(amount) => write!(f, "{} {}", amount.normalize(), self.0.currency),
            None => f.write_str("no fixed amount"),
        }
    }
}
