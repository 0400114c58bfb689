//! What needs attention, in words that end in the next step. Pure.

use std::fmt;

use reqwest::Url;

use crate::decide::{Attention, Missed};
use crate::invoice::{
    BtcpayInvoiceId, BtcpayStatus, Deletion, Invoice, InvoiceId, License, LicenseId, LocalStatus,
    Money, Purpose,
};

/// What happened to `invoice` and what to do about it.
pub fn detail(attention: &Attention, invoice: &Invoice) -> String {
    let what_follows = match invoice.purpose {
        Purpose::Purchase => "the next --recheck issues the license",
        Purpose::TierChange { .. } | Purpose::Renewal { .. } => {
            "BTCPay's webhook then lets the service do the rest"
        }
    };
    match attention {
        Attention::PaidLate(money) => format!(
            "{} arrived after the invoice expired. To accept the sale, mark the invoice settled in \
             BTCPay and {what_follows}; otherwise refund the buyer and mark it invalid",
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
            "BTCPay settled it, but {}. The sale was completed anyway; find out which amount is \
             wrong",
            difference(money, invoice.amount_sats)
        ),
        Attention::SettledHereNotThere(status) => format!(
            "settled in the database but incomplete, and BTCPay says {}; nothing was changed. Check \
             whether the money arrived and stayed. If so, mark the invoice settled in BTCPay; if \
             not, {}correct the row ({})",
            status.word(),
            match &invoice.license {
                License::Issued { id, .. } => format!("revoke license {id} and "),
                License::None => String::new(),
            },
            set_status(&invoice.id, as_local(*status))
        ),
        Attention::NotInBtcpay => match invoice.status {
            LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => {
                not_in_btcpay(&[&invoice.id])
            }
            LocalStatus::Settled => format!(
                "settled in the database but incomplete, and BTCPay's store does not have it; \
                 nothing was changed. Check whether the money arrived. If so, complete the sale in \
                 the service; if not, correct the row ({})",
                set_status(&invoice.id, LocalStatus::Expired)
            ),
        },
        Attention::LicenseByHand(id) => format!(
            "paid and without a license, but license {id} has since been issued by hand for the \
             same product and buyer; nothing was changed. If it is for this sale, link it ({}); if \
             not, run {}",
            link(invoice, id),
            issue(&invoice.id)
        ),
        Attention::LicenseDeleted(Deletion { action, target, at }) => format!(
            "settled without a license, but licenses were deleted since ({action} of {target} at \
             {at}), perhaps this one too; nothing was changed. If the buyer is still owed a \
             license, run {}; if one exists, link it ({})",
            issue(&invoice.id),
            link(invoice, &LicenseId("ITS-ID".into()))
        ),
        Attention::PolicyMissing(id) => format!(
            "paid, but its policy {id} does not exist any more, so the terms of its license are \
             unknown; nothing was changed. To issue it on the product's default terms, run {}; if a \
             license exists, link it ({})",
            issue(&invoice.id),
            link(invoice, &LicenseId("ITS-ID".into()))
        ),
        Attention::ProductMissing(id) => format!(
            "paid, but its product {id} does not exist any more; nothing was changed. Restore the \
             product and run {}, or refund the buyer",
            issue(&invoice.id)
        ),
        Attention::TierChangePaid(missed) => missed_work(
            missed,
            invoice,
            "another tier",
            "the service has not applied the change, and only the service can",
        ),
        Attention::RenewalPaid(missed) => missed_work(
            missed,
            invoice,
            "a renewal",
            "the service has not renewed the subscription, and only the service can",
        ),
        Attention::CodeOverMaxUses(uses) => format!(
            "its discount code {} now counts {} uses of {}: its slot had been given away when the \
             payment came late. The sale was completed anyway; raise the code's limit or leave it",
            uses.code, uses.used_count, uses.max_uses
        ),
        Attention::TipNotSent(tip) => format!(
            "reconcile issued its license but cannot send tips: {} sats that its policy promises to \
             {} are still owed. Send them by hand",
            tip.sats, tip.recipient
        ),
    }
}

/// What to do about unpaid invoices that the store does not have.
pub fn not_in_btcpay(ids: &[&InvoiceId]) -> String {
    let list: Vec<String> = ids
        .iter()
        .map(|id| format!("('{}')", quoted(&id.0)))
        .collect();
    format!(
        "BTCPay's store does not have it, perhaps because it was never paid: BTCPay deletes such \
         invoices after six months. Nothing was changed. If no money came, close it (BEGIN; CREATE \
         TEMP TABLE gone (id); INSERT INTO gone VALUES {}; UPDATE discount_codes SET used_count = \
         max(0, used_count - (SELECT count(*) FROM discount_redemptions WHERE code_id = \
         discount_codes.id AND status = 'pending' AND invoice_id IN gone)); UPDATE discount_redemptions SET status = \
         'cancelled' WHERE status = 'pending' AND invoice_id IN gone; UPDATE invoices SET status = \
         'expired' WHERE status = 'pending' AND id IN gone; DROP TABLE gone; COMMIT;)",
        list.join(", ")
    )
}

/// How BTCPay's settled invoice differs from the database's.
fn difference(money: &Money, amount_sats: i64) -> String {
    match (money.amount, money.paid) {
        (Some(amount), Some(paid)) if paid < amount => format!(
            "counts only {} of {}, which is {} {} short",
            Paid(money),
            Amount(money),
            amount.saturating_sub(paid).normalize(),
            money.currency
        ),
        _ => format!("over {}, and amount_sats is {amount_sats}", Amount(money)),
    }
}

/// What to do about a payment for what only the service can give.
fn missed_work(missed: &Missed, invoice: &Invoice, what: &str, not_done: &str) -> String {
    let unless = if missed.may_be_purchase {
        ". Only the invoice's note says so; if it was a purchase, keep the license"
    } else {
        ""
    };
    let revoke = |id: &LicenseId| {
        format!(
            "License {id} was issued for this payment although nobody is owed it: revoke it in the \
             service{unless}"
        )
    };
    match (&missed.surplus_license, missed.applied) {
        (Some(id), true) => format!(
            "the buyer paid for {what} and has it; nothing was changed. {}",
            revoke(id)
        ),
        (surplus, _) => format!(
            "the buyer paid for {what}, but {not_done}; nothing was changed. {}{}",
            resend_or_refund(missed, invoice),
            surplus
                .as_ref()
                .map_or_else(String::new, |id| format!(". {}", revoke(id)))
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
fn resend_or_refund(missed: &Missed, invoice: &Invoice) -> String {
    let and_record_it = match invoice.status {
        LocalStatus::Settled => String::new(),
        LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => {
            let settled = set_status(&invoice.id, LocalStatus::Settled);
            format!(" and record it ({settled})")
        }
    };
    let if_a_purchase = if missed.may_be_purchase && missed.surplus_license.is_none() {
        let command = issue(&invoice.id);
        format!(". Only its note says so; if it was a purchase, run {command}")
    } else {
        String::new()
    };
    format!(
        "Redeliver the invoice's InvoiceSettled webhook in BTCPay. If that does not help, apply it by \
         hand in the service{and_record_it}, or refund the buyer{if_a_purchase}"
    )
}

/// The command that issues a license in spite of a doubt.
fn issue(id: &InvoiceId) -> String {
    format!("reconcile --issue {}", shell_word(&id.0))
}

/// `text` as one word of a shell's command line.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
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
fn link(invoice: &Invoice, license_id: &LicenseId) -> String {
    format!(
        "UPDATE licenses SET invoice_id = '{}' WHERE id = '{}'",
        quoted(&invoice.id.0),
        quoted(&license_id.0)
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
