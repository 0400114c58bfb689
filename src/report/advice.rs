//! What needs attention: what is wrong, and what a person does about it, in words. Pure.

use reqwest::Url;

use super::paid::{self, Share};
use crate::decide::{Attention, Missed};
use crate::invoice::{
    Answer, BtcpayInvoiceId, BtcpayStatus, Deletion, Invoice, InvoiceId, License, LicenseId,
    LocalStatus, Money, Payment, Purpose,
};

/// What is wrong with an invoice, and what ends that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// Sentences, without the last full stop.
    pub what: String,
    pub steps: Vec<Step>,
    /// Whether the buyer may get the money back.
    pub may_refund: bool,
}

/// A thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// A sentence without its full stop.
    pub say: String,
    /// A command or a statement to be copied whole.
    pub run: Option<String>,
}

impl Advice {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            steps: Vec::new(),
            may_refund: false,
        }
    }

    fn say(mut self, say: impl Into<String>) -> Self {
        self.steps.push(Step {
            say: say.into(),
            run: None,
        });
        self
    }

    fn run(mut self, say: &str, run: String) -> Self {
        self.steps.push(Step {
            say: say.into(),
            run: Some(run),
        });
        self
    }

    fn may_refund(mut self) -> Self {
        self.may_refund = true;
        self
    }

    /// In one line.
    pub fn detail(&self) -> String {
        let mut sentences = vec![self.what.clone()];
        sentences.extend(self.steps.iter().map(|step| match &step.run {
            Some(run) => format!("{} ({run})", step.say),
            None => step.say.clone(),
        }));
        sentences.join(". ")
    }
}

/// The most urgent first: 0 is money without a license.
pub fn urgency(attention: &Attention) -> u8 {
    match attention {
        Attention::PaidLate(_)
        | Attention::PaidPartial(_)
        | Attention::InvalidButPaid(_)
        | Attention::LicenseByHand(_)
        | Attention::LicenseDeleted(_)
        | Attention::PolicyMissing(_)
        | Attention::ProductMissing(_)
        | Attention::TierChangePaid(_)
        | Attention::RenewalPaid(_) => 0,
        Attention::SettledHereNotThere(_) | Attention::LicensedNotPaid(_) => 1,
        Attention::AmountMismatch(_) | Attention::CodeOverMaxUses(_) | Attention::TipNotSent(_) => {
            2
        }
        Attention::NotInBtcpay | Attention::HeldBack => 3,
    }
}

/// What is wrong with `invoice`, of which BTCPay Server says `answer` and, if it was asked, that these
/// `payments` came.
pub fn advice(
    attention: &Attention,
    invoice: &Invoice,
    answer: Option<&Answer>,
    payments: Option<&[Payment]>,
) -> Advice {
    match attention {
        Attention::PaidLate(money) | Attention::PaidPartial(money) => {
            let what = paid::story(money, answer, payments);
            paid_but_closed(Advice::new(what), money, invoice, payments)
                .say("To refuse it, refund the buyer and mark the invoice invalid in BTCPay")
        }
        Attention::InvalidButPaid(money) => {
            let story = paid::story(money, answer, payments);
            let what = format!("It was paid, but not confirmed in time. {story}");
            // BTCPay lets nobody mark it invalid.
            paid_but_closed(Advice::new(what), money, invoice, payments)
                .run("To refuse it, refund the buyer, then", acknowledge(&invoice.id))
        }
        Attention::AmountMismatch(money) => Advice::new(format!(
            "BTCPay settled it, but {}. The sale was completed anyway",
            difference(money, invoice.amount_sats, answer, payments)
        ))
        .say("Find out which amount is wrong. It is told only once more"),
        Attention::SettledHereNotThere(status) => settled_here_not_there(invoice, *status),
        Attention::LicensedNotPaid(status) => licensed_not_paid(invoice, *status),
        Attention::NotInBtcpay => match invoice.status {
            LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => {
                not_in_btcpay(&[&invoice.id])
            }
            LocalStatus::Settled => Advice::new(
                "Settled in the database but incomplete, and BTCPay's store does not have it. Nothing \
                 was changed",
            )
            .say("Find out whether the money came. If so, complete the sale in the service")
            .run(
                "If not, correct the row",
                set_status(&invoice.id, LocalStatus::Expired),
            ),
        },
        Attention::LicenseByHand(id) => Advice::new(format!(
            "Paid and without a license, but license {id} was issued by hand for the same product \
             and buyer since. Nothing was changed"
        ))
        .run("If it is for this sale, link it", link(invoice, id))
        .run("If not, issue another", issue(&invoice.id)),
        Attention::LicenseDeleted(deletion) => license_deleted(invoice, deletion),
        Attention::PolicyMissing(id) => Advice::new(format!(
            "Paid, but its policy {id} does not exist any more, so the terms of its license are \
             unknown. Nothing was changed"
        ))
        .run(
            "To issue it on the product's default terms",
            issue(&invoice.id),
        )
        .run("If a license exists, link it", link_to_be_named(invoice)),
        Attention::ProductMissing(id) => Advice::new(format!(
            "Paid, but its product {id} does not exist any more. Nothing was changed"
        ))
        .run("Restore the product, then", issue(&invoice.id))
        .run("Or refund the buyer, then", acknowledge(&invoice.id))
        .may_refund(),
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
        Attention::CodeOverMaxUses(uses) => Advice::new(format!(
            "Its discount code {} now counts {} uses of {}: its slot had been given away when the \
             payment came. The sale was completed anyway",
            uses.code, uses.used_count, uses.max_uses
        ))
        .say("Raise the code's limit, or leave it. It is told only once more"),
        Attention::TipNotSent(tip) => Advice::new(format!(
            "Its license was issued by reconcile, which cannot send tips: {} sats that its policy \
             promises to {} are still owed",
            tip.sats, tip.recipient
        ))
        .say("Send them by hand. It is told only once more"),
        Attention::HeldBack => Advice::new(format!(
            "BTCPay says {}, and the database {}. Nothing is changed, because that was acknowledged",
            answer.map_or("nothing of it", |answer| answer.status.word()),
            invoice.status.word()
        ))
        .run("To issue its license all the same", issue(&invoice.id)),
    }
}

/// How a sale that BTCPay closed is accepted.
fn paid_but_closed(
    advice: Advice,
    money: &Money,
    invoice: &Invoice,
    payments: Option<&[Payment]>,
) -> Advice {
    let what_follows = match invoice.purpose {
        Purpose::Purchase => "the next --recheck issues the license",
        Purpose::TierChange { .. } | Purpose::Renewal { .. } => {
            "its webhook lets the service do the rest"
        }
    };
    let first = match paid::is_confirmed(payments) {
        Some(false) => "wait until it is confirmed, and ",
        Some(true) | None => "",
    };
    let also = match Share::of(money, payments) {
        Share::Unknown | Share::Full => "",
        Share::TooMuch => ", and refund what is too much",
        Share::Part => ", or ask the buyer for the rest before",
        Share::LessThanHalf => "; too little for that, unless you know why",
    };
    advice
        .say(format!(
            "To accept the sale, {first}mark the invoice settled in BTCPay{also}: {what_follows}"
        ))
        .may_refund()
}

fn settled_here_not_there(invoice: &Invoice, status: BtcpayStatus) -> Advice {
    let advice = Advice::new(format!(
        "Settled in the database but incomplete, and BTCPay says {}. Nothing was changed",
        status.word()
    ))
    .say("If the money came and stayed, mark the invoice settled in BTCPay");
    let correct = set_status(&invoice.id, as_local(status));
    match &invoice.license {
        License::Issued { id, .. } => advice.run(
            &format!("If not, revoke license {id} and correct the row"),
            correct,
        ),
        License::None => advice.run("If not, correct the row", correct),
    }
}

fn licensed_not_paid(invoice: &Invoice, status: BtcpayStatus) -> Advice {
    let license = match &invoice.license {
        License::Issued { id, .. } => format!("license {id}"),
        License::None => "the license".into(),
    };
    Advice::new(format!(
        "Settled here, and {license} is in use, but BTCPay says {}. Nothing was changed",
        status.word()
    ))
    .say("If the money came, mark the invoice settled in BTCPay")
    .say(format!(
        "If not, or if it was refunded, revoke {license} in the service"
    ))
    .run("To leave all as it is", acknowledge(&invoice.id))
}

fn license_deleted(invoice: &Invoice, Deletion { action, target, at }: &Deletion) -> Advice {
    let what = if action == "license.issued" {
        format!(
            "Paid, but license {target}, which reconcile issued for it at {at}, does not exist any \
             more. Nothing was changed"
        )
    } else {
        format!(
            "Settled without a license, but licenses were deleted since ({action} of {target} at \
             {at}), perhaps this one too. Nothing was changed"
        )
    };
    Advice::new(what)
        .run(
            "If the buyer is still owed a license, issue one",
            issue(&invoice.id),
        )
        .run("If one exists, link it", link_to_be_named(invoice))
        .run("If none is owed", acknowledge(&invoice.id))
}

/// Of unpaid invoices that the store does not have.
pub fn not_in_btcpay(ids: &[&InvoiceId]) -> Advice {
    let list: Vec<String> = ids
        .iter()
        .map(|id| format!("('{}')", quoted(&id.0)))
        .collect();
    let (it, them) = match ids.len() {
        1 => ("it, perhaps because it was", "close it"),
        _ => ("them, perhaps because they were", "close them"),
    };
    Advice::new(format!(
        "BTCPay's store does not have {it} never paid: BTCPay deletes such invoices after six months. \
         Nothing was changed"
    ))
    .run(
        &format!("If no money came, {them}"),
        format!(
            "BEGIN; CREATE TEMP TABLE gone (id); INSERT INTO gone VALUES {}; UPDATE discount_codes \
             SET used_count = max(0, used_count - (SELECT count(*) FROM discount_redemptions WHERE \
             code_id = discount_codes.id AND status = 'pending' AND invoice_id IN gone)); UPDATE \
             discount_redemptions SET status = 'cancelled' WHERE status = 'pending' AND invoice_id \
             IN gone; UPDATE invoices SET status = 'expired' WHERE status = 'pending' AND id IN gone; \
             DROP TABLE gone; COMMIT;",
            list.join(", ")
        ),
    )
}

/// How BTCPay's settled invoice differs from the database's.
fn difference(
    money: &Money,
    amount_sats: i64,
    answer: Option<&Answer>,
    payments: Option<&[Payment]>,
) -> String {
    match (money.amount, money.paid) {
        (Some(amount), Some(paid)) if paid < amount => {
            let short = amount.saturating_sub(paid).normalize();
            format!(
                "for {short} {} less than its price: {}",
                money.currency,
                paid::story(money, answer, payments)
            )
        }
        (Some(_), _) => format!(
            "over {}, and amount_sats is {amount_sats}",
            paid::price(money)
        ),
        (None, Some(paid)) => format!(
            "without a fixed amount, and counts {} {} where amount_sats is {amount_sats}",
            paid.normalize(),
            money.currency
        ),
        (None, None) => format!("without an amount, and amount_sats is {amount_sats}"),
    }
}

/// What to do about a payment for what only the service can give.
fn missed_work(missed: &Missed, invoice: &Invoice, what: &str, not_done: &str) -> Advice {
    let revoke = |advice: Advice, id: &LicenseId| {
        let unless = if missed.may_be_purchase {
            ". Only the invoice's note says so; if it was a purchase, keep the license"
        } else {
            ""
        };
        advice.say(format!(
            "License {id} was issued for this payment although nobody is owed it: revoke it in the \
             service{unless}"
        ))
    };
    match (&missed.surplus_license, missed.applied) {
        (Some(id), true) => revoke(
            Advice::new(format!(
                "The buyer paid for {what} and has it. Nothing was changed"
            )),
            id,
        ),
        (surplus, _) => {
            let advice = Advice::new(format!(
                "The buyer paid for {what}, but {not_done}. Nothing was changed"
            ));
            let advice = resend_or_refund(advice, missed, invoice);
            match surplus {
                Some(id) => revoke(advice, id),
                None => advice,
            }
        }
    }
}

/// The invoice's page in BTCPay Server, which a person opens at `public_url`; None for a free sale,
/// which has none.
pub fn page(id: &BtcpayInvoiceId, public_url: &Url) -> Option<String> {
    if id.is_free() {
        return None;
    }
    let mut url = public_url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["invoices", &id.0]);
    }
    Some(url.into())
}

/// How to make the service do what only it can do, or what to do instead.
fn resend_or_refund(advice: Advice, missed: &Missed, invoice: &Invoice) -> Advice {
    let advice = advice.say("Redeliver the invoice's InvoiceSettled webhook in BTCPay");
    let by_hand = "If that does not help, apply it by hand in the service";
    let advice = match invoice.status {
        LocalStatus::Settled => advice.say(by_hand),
        LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => advice.run(
            &format!("{by_hand} and record it"),
            set_status(&invoice.id, LocalStatus::Settled),
        ),
    };
    let advice = if missed.may_be_purchase && missed.surplus_license.is_none() {
        advice.run(
            "Only its note says so; if it was a purchase",
            issue(&invoice.id),
        )
    } else {
        advice
    };
    advice
        .run("Once it is done, or refunded", acknowledge(&invoice.id))
        .may_refund()
}

/// The command that issues a license in spite of a doubt.
fn issue(id: &InvoiceId) -> String {
    format!("reconcile --issue={}", shell_word(&id.0))
}

/// The command that ends what needs attention.
fn acknowledge(id: &InvoiceId) -> String {
    format!("reconcile --acknowledge={}", shell_word(&id.0))
}

/// `text` as one word of a shell's command line.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.is_empty() && text.chars().all(is_plain) {
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
        "UPDATE invoices SET status = '{}' WHERE id = '{}';",
        status.word(),
        quoted(&id.0)
    )
}

/// SQL that makes a license the invoice's.
fn link(invoice: &Invoice, license_id: &LicenseId) -> String {
    format!(
        "UPDATE licenses SET invoice_id = '{}' WHERE id = '{}';",
        quoted(&invoice.id.0),
        quoted(&license_id.0)
    )
}

fn link_to_be_named(invoice: &Invoice) -> String {
    link(invoice, &LicenseId("ITS-ID".into()))
}

/// For the inside of an SQL string literal.
pub fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}
