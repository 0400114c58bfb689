//! What needs a person, in words that end in the next step. Pure.

use std::fmt;

use reqwest::Url;

use crate::decide::Attention;
use crate::invoice::{
    BtcpayInvoiceId, BtcpayStatus, Invoice, InvoiceId, License, LocalStatus, Money, Purpose,
};

/// The reason's word, and what happened to `invoice` with what to do about it. `btcpay_url` is where
/// the merchant looks it up.
pub fn in_words(
    attention: &Attention,
    invoice: &Invoice,
    btcpay_url: &Url,
) -> (&'static str, String) {
    let page = page_of(&invoice.btcpay_id, btcpay_url);
    let what_follows = what_follows(invoice.purpose);
    match attention {
        Attention::PaidLate(money) => (
            "paid_late",
            format!(
                "{} arrived after it expired. To accept the sale, mark it settled in BTCPay and \
                 {what_follows}; else refund the buyer and mark it invalid: {page}",
                Paid(money)
            ),
        ),
        Attention::PaidPartial(money) => (
            "paid_partial",
            format!(
                "{} arrived of {} before it expired. Refund the buyer and mark it invalid in BTCPay; \
                 or accept it: mark it settled and {what_follows}: {page}",
                Paid(money),
                Amount(money)
            ),
        ),
        Attention::InvalidButPaid(money) => (
            "invalid_but_paid",
            format!(
                "{} was paid, but not confirmed in time. If it has confirmed since, mark it \
                 settled in BTCPay and {what_follows}: {page}",
                Paid(money)
            ),
        ),
        Attention::AmountMismatch { there, here_sats } => (
            "amount_mismatch",
            format!(
                "settled in BTCPay over {}, but amount_sats is {here_sats} here. The buyer gets \
                 what was paid for there; find out which is wrong: {page}",
                Amount(there)
            ),
        ),
        Attention::SettledHereNotThere(status) => (
            "settled_here_not_there",
            format!(
                "settled here without all that belongs to it, but BTCPay says {}; nothing was \
                 done. See whether the money came, and stayed: if so, mark it settled in BTCPay; if \
                 not, {}correct it here ({}): {page}",
                status.word(),
                match &invoice.license {
                    License::Issued(license_id) => format!("revoke its license {license_id} and "),
                    License::None | License::PerhapsByHand(_) | License::PerhapsDeleted =>
                        String::new(),
                },
                set_status(&invoice.id, as_local(*status))
            ),
        ),
        Attention::LicenseByHand(license_id) => (
            "license_by_hand",
            format!(
                "settled without a license, but license {license_id} was issued by hand since, \
                 for the same product and buyer; nothing was done. If it is for this sale and still \
                 good, tie it: {}; if not, issue another and tie that: {page}",
                tie(&invoice.id, &license_id.0)
            ),
        ),
        Attention::LicenseDeleted => (
            "license_deleted",
            format!(
                "settled without a license, but since it was made a policy was deleted by force, \
                 with its licenses; nothing was done. If the buyer is still owed one, issue it by \
                 hand and tie it: {}: {page}",
                tie(&invoice.id, "ITS-ID")
            ),
        ),
        Attention::TierChangePaid => (
            "tier_change_paid",
            format!(
                "the buyer has paid for another tier, and the service, which alone can give it, has \
                 not done so for this payment; nothing was done. {}: {page}",
                send_again_or_refund(invoice)
            ),
        ),
        Attention::RenewalPaid => (
            "renewal_paid",
            format!(
                "the buyer has paid to renew a subscription, and the service, which alone can do so, \
                 has not renewed it; nothing was done. {}: {page}",
                send_again_or_refund(invoice)
            ),
        ),
        Attention::TipNotSent(tip) => (
            "tip_not_sent",
            format!(
                "its license was issued here, but the tip of {} sats that its policy promises to \
                 {} was not sent, which the service alone does. Send it by hand: {page}",
                tip.sats, tip.recipient
            ),
        ),
    }
}

/// How the service is brought to do what it alone can do, or what a person does in its stead.
fn send_again_or_refund(invoice: &Invoice) -> String {
    let and_note_it = match invoice.status {
        LocalStatus::Settled => String::new(),
        LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => format!(
            " and note it ({})",
            set_status(&invoice.id, LocalStatus::Settled)
        ),
    };
    format!(
        "Redeliver the invoice's InvoiceSettled webhook in BTCPay; if that does not help, do it by \
         hand in the service{and_note_it}, or refund the buyer"
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
fn tie(invoice_id: &InvoiceId, license_id: &str) -> String {
    format!(
        "UPDATE licenses SET invoice_id = '{}' WHERE id = '{}'",
        quoted(&invoice_id.0),
        quoted(license_id)
    )
}

/// What becomes of an invoice that the merchant marks settled.
fn what_follows(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Purchase => "the next --recheck issues the license",
        Purpose::TierChange(_) | Purpose::Renewal(_) => "its webhook lets the service do the rest",
    }
}

/// For the inside of an SQL string literal.
fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

/// Where the merchant sees the invoice in BTCPay Server.
fn page_of(id: &BtcpayInvoiceId, btcpay_url: &Url) -> String {
    if id.is_of_a_free_sale() {
        return "(it was free, so BTCPay has no page of it)".into();
    }
    let mut url = btcpay_url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["invoices", &id.0]);
    }
    url.into()
}

struct Paid<'a>(&'a Money);

impl fmt::Display for Paid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.paid {
            Some(paid) => write!(f, "{} {}", paid.normalize(), self.0.currency),
            None => f.write_str("an amount that BTCPay does not say"),
        }
    }
}

struct Amount<'a>(&'a Money);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.amount {
            Some(amount) => write!(f, "{} {}", amount.normalize(), self.0.currency),
            None => f.write_str("no set amount"),
        }
    }
}
