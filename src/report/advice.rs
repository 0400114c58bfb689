//! What needs attention: what is wrong, and what a person does about it, in words. Pure.

use reqwest::Url;

use super::paid::{self, Share};
use super::table::with_separators;
use crate::decide::{Attention, Missed, decide_to_issue, money_on_closed};
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

impl Step {
    fn say(say: impl Into<String>) -> Self {
        Self {
            say: say.into(),
            run: None,
        }
    }

    fn run(say: &str, run: String) -> Self {
        Self {
            say: say.into(),
            run: Some(run),
        }
    }
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
        self.steps.push(Step::say(say));
        self
    }

    fn run(mut self, say: &str, run: String) -> Self {
        self.steps.push(Step::run(say, run));
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

/// What is wrong with `invoice`, about which BTCPay Server says `answer` and, if it was asked, that these
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
            let refuse = "To refuse it, refund the buyer and mark the invoice invalid in BTCPay";
            paid_but_closed(what, money, invoice, payments, Step::say(refuse))
        }
        Attention::InvalidButPaid(money) => {
            let story = paid::story(money, answer, payments);
            let what = format!("It was paid, but not confirmed in time. {story}");
            // BTCPay lets nobody mark it invalid.
            let refuse = "To refuse it, refund the buyer, then";
            let refuse = Step::run(refuse, acknowledge(&invoice.id));
            paid_but_closed(what, money, invoice, payments, refuse)
        }
        Attention::AmountMismatch(money) => Advice::new(format!(
            "BTCPay settled it, but {}. The sale was completed all the same",
            difference(money, invoice.amount_sats, answer, payments)
        ))
        .say("Find out which amount is wrong. It is mailed only once"),
        Attention::SettledHereNotThere(status) => settled_here_not_there(invoice, *status, answer),
        Attention::LicensedNotPaid(status) => licensed_not_paid(invoice, *status),
        Attention::NotInBtcpay => match invoice.status {
            LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => {
                not_in_btcpay(&[&invoice.id])
            }
            LocalStatus::Settled => Advice::new(format!(
                "{HALF_DONE}, and BTCPay's store does not have it"
            ))
            .say("If the money came, complete the sale in the service")
            .run(
                &format!("If not, {}close it", revoke_first(invoice)),
                close(&[&invoice.id], LocalStatus::Settled),
            ),
        },
        Attention::LicenseByHand(id) => Advice::new(format!(
            "Paid, but license {id} was issued by hand for the same product and buyer since, so \
             none was issued for it"
        ))
        .run("If it is for this sale, link it", link(invoice, id))
        .run("If not, issue another", issue(&invoice.id))
        .run(IF_NONE_IS_OWED, acknowledge(&invoice.id)),
        Attention::LicenseDeleted(deletion) => license_deleted(invoice, deletion),
        Attention::PolicyMissing(id) => Advice::new(format!(
            "Paid, but its policy {id} no longer exists, so the terms of its license are unknown"
        ))
        .run(
            "To issue it on the product's default terms",
            issue(&invoice.id),
        )
        .run(IF_ONE_EXISTS, link_to_be_named(invoice))
        .run(IF_NONE_IS_OWED, acknowledge(&invoice.id)),
        Attention::ProductMissing(id) => Advice::new(format!(
            "Paid, but its product {id} no longer exists"
        ))
        .say("Restore the product: the next run issues the license")
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
             payment came. The sale was completed all the same",
            uses.code, uses.used_count, uses.max_uses
        ))
        .say("Raise the code's limit, or leave it. It is mailed only once"),
        Attention::TipNotSent(tip) => Advice::new(format!(
            "reconcile issued its license and cannot send tips: {} sats that its policy promises to \
             {} are still owed",
            tip.sats, tip.recipient
        ))
        .say("Send them by hand. It is mailed only once"),
        Attention::HeldBack => {
            let advice = Advice::new(format!(
                "Something is left to do, since BTCPay says {} and the database says {}. The invoice \
                 was acknowledged, so it is left as it is",
                answer.map_or("nothing of it", |answer| answer.status.word()),
                invoice.status.word()
            ));
            let may_issue = answer.is_some_and(|answer| decide_to_issue(invoice, answer).is_ok());
            if may_issue {
                let issue = issue(&invoice.id);
                advice.run("To issue its license all the same", issue)
            } else {
                advice
            }
        }
    }
}

const IF_NONE_IS_OWED: &str = "If none is owed, as after a refund";

const HALF_DONE: &str = "The service settled it and left it half done";

/// How a sale that BTCPay closed is accepted, or else refused.
fn paid_but_closed(
    what: String,
    money: &Money,
    invoice: &Invoice,
    payments: Option<&[Payment]>,
    refuse: Step,
) -> Advice {
    let wait = match paid::is_confirmed(payments) {
        Some(false) => "wait until all of it is confirmed, then ",
        Some(true) | None => "",
    };
    let share = Share::of(money, payments);
    let (accept, then) = match share {
        Share::Unknown | Share::Full => ("To accept the sale", ""),
        Share::TooMuch => ("To accept the sale", ". Refund what is too much"),
        Share::Part => ("To accept the sale as it is, or once the rest has come", ""),
        Share::LessThanHalf => ("To accept the sale all the same", ""),
    };
    let accept = Step::say(format!(
        "{accept}, {wait}mark the invoice settled in BTCPay: {}{then}",
        what_follows(invoice)
    ));
    Advice {
        what,
        steps: match share {
            Share::LessThanHalf => vec![refuse, accept],
            Share::Unknown | Share::Full | Share::TooMuch | Share::Part => vec![accept, refuse],
        },
        may_refund: true,
    }
}

/// Once the invoice is marked settled.
fn what_follows(invoice: &Invoice) -> &'static str {
    match (invoice.purpose, &invoice.license) {
        (Purpose::Purchase, License::None) => "the next --recheck issues the license",
        (Purpose::Purchase, License::Issued { .. }) => "the next --recheck completes the sale",
        (Purpose::TierChange { .. } | Purpose::Renewal { .. }, _) => {
            "its webhook lets the service do the rest"
        }
    }
}

/// What comes before the row of a sale that was none is corrected.
fn revoke_first(invoice: &Invoice) -> String {
    match &invoice.license {
        License::Issued {
            id,
            is_active: true,
        } => format!("revoke license {id} and "),
        License::Issued {
            is_active: false, ..
        }
        | License::None => String::new(),
    }
}

fn settled_here_not_there(
    invoice: &Invoice,
    status: BtcpayStatus,
    answer: Option<&Answer>,
) -> Advice {
    let advice = Advice::new(format!("{HALF_DONE}, but BTCPay says {}", status.word()))
        .say(format!(
            "If the money came and stayed, mark the invoice settled in BTCPay: {}",
            what_follows(invoice)
        ))
        .run(
            &format!("If not, {}correct the row", revoke_first(invoice)),
            set_status(&invoice.id, LocalStatus::of(status)),
        );
    if answer.and_then(money_on_closed).is_some() {
        advice.say("Then the next --recheck says what to do about the money that came")
    } else {
        advice
    }
}

fn licensed_not_paid(invoice: &Invoice, status: BtcpayStatus) -> Advice {
    let license = match &invoice.license {
        License::Issued { id, .. } => format!("license {id}"),
        License::None => "the license".into(),
    };
    Advice::new(format!(
        "Settled here, and {license} is in use, but BTCPay says {}",
        status.word()
    ))
    .say("If the money came, mark the invoice settled in BTCPay")
    .say(format!(
        "If not, or if it was refunded, revoke {license} in the service"
    ))
    .run("To leave it as it is", acknowledge(&invoice.id))
}

fn license_deleted(invoice: &Invoice, Deletion { action, target, at }: &Deletion) -> Advice {
    let what = if action == "license.issued" {
        format!(
            "Paid, but license {target}, which reconcile issued for it at {at}, does not exist any \
             more"
        )
    } else {
        format!(
            "Settled without a license, but licenses were deleted since ({action} of {target} at \
             {at}), perhaps this one too"
        )
    };
    Advice::new(what)
        .run(
            "If the buyer is still owed a license, issue one",
            issue(&invoice.id),
        )
        .run(IF_ONE_EXISTS, link_to_be_named(invoice))
        .run(IF_NONE_IS_OWED, acknowledge(&invoice.id))
}

/// Of unpaid invoices that the store does not have.
pub fn not_in_btcpay(ids: &[&InvoiceId]) -> Advice {
    let (it, them) = match ids.len() {
        1 => ("it, perhaps because it was", "close it"),
        _ => ("them, perhaps because they were", "close them"),
    };
    Advice::new(format!(
        "BTCPay's store does not have {it} never paid: BTCPay deletes such invoices after six months"
    ))
    .run(
        &format!("If no money came, {them}"),
        close(ids, LocalStatus::Pending),
    )
}

/// SQL that closes those of these invoices that have this status, and cancels the pending redemptions of
/// all.
fn close(ids: &[&InvoiceId], from: LocalStatus) -> String {
    let list: Vec<String> = ids
        .iter()
        .map(|id| format!("('{}')", quoted(&id.0)))
        .collect();
    format!(
        "BEGIN; CREATE TEMP TABLE gone (id); INSERT INTO gone VALUES {}; UPDATE discount_codes \
         SET used_count = max(0, used_count - (SELECT count(*) FROM discount_redemptions WHERE \
         code_id = discount_codes.id AND status = 'pending' AND invoice_id IN gone)); UPDATE \
         discount_redemptions SET status = 'cancelled' WHERE status = 'pending' AND invoice_id \
         IN gone; UPDATE invoices SET status = 'expired' WHERE status = '{}' AND id IN gone; \
         DROP TABLE gone; COMMIT;",
        list.join(", "),
        from.word()
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
                "{short} {} less than its price came: {}",
                money.currency,
                paid::story(money, answer, payments)
            )
        }
        (Some(_), _) => format!(
            "its price there is {}, and here {} sats",
            paid::price(money),
            with_separators(amount_sats)
        ),
        (None, Some(paid)) => format!(
            "it has no fixed price there, BTCPay counts {} {}, and its price here is {} sats",
            paid.normalize(),
            money.currency,
            with_separators(amount_sats)
        ),
        (None, None) => format!(
            "it has no fixed price there, and here {} sats",
            with_separators(amount_sats)
        ),
    }
}

/// What to do about a payment for what only the service can give.
fn missed_work(missed: &Missed, invoice: &Invoice, what: &str, not_done: &str) -> Advice {
    let surplus = missed.surplus_license.as_ref();
    let revoke = |id: &LicenseId| format!("Revoke license {id} in the service");
    if let (Some(id), true) = (surplus, missed.applied) {
        return Advice::new(format!(
            "The buyer paid for {what} and has it, but license {id} was issued too, which nobody is owed"
        ))
        .say(revoke(id));
    }
    let instead = surplus.map_or_else(String::new, |id| {
        format!(". License {id} was issued instead, which nobody is owed")
    });
    let mut advice = Advice::new(format!(
        "The buyer paid for {what}, but {not_done}{instead}"
    ))
    .say("Redeliver the invoice's InvoiceSettled webhook in BTCPay");
    let by_hand = "If that does not help, do it by hand in the service";
    advice = match invoice.status {
        LocalStatus::Settled => advice.say(by_hand),
        LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid => advice.run(
            &format!("{by_hand} and record it"),
            set_status(&invoice.id, LocalStatus::Settled),
        ),
    };
    if let Some(id) = surplus {
        advice = advice.say(revoke(id));
    }
    if missed.may_be_purchase {
        let only = "Only its note says that it was not a purchase. If it was one,";
        advice = match (&invoice.license, surplus) {
            (License::None, _) => {
                advice.run(&format!("{only} issue its license"), issue(&invoice.id))
            }
            (License::Issued { .. }, Some(_)) => advice.run(
                &format!("{only} keep the license"),
                acknowledge(&invoice.id),
            ),
            (License::Issued { .. }, None) => advice,
        };
    }
    advice
        .run("Once it is done, or refunded", acknowledge(&invoice.id))
        .may_refund()
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

/// Before [`link_to_be_named`].
const IF_ONE_EXISTS: &str = "If one exists, put its id for ITS-ID and link it";

fn link_to_be_named(invoice: &Invoice) -> String {
    link(invoice, &LicenseId("ITS-ID".into()))
}

/// For the inside of an SQL string literal.
pub fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}
