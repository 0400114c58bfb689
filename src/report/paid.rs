//! What was paid for an invoice, in words, and what it amounts to. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use rust_decimal::Decimal;

use crate::decide::Attention;
use crate::invoice::{Answer, Money, Payment};

/// Whether a person wants to know what came, and when.
pub fn is_about_money(attention: &Attention) -> bool {
    match attention {
        Attention::PaidLate(_)
        | Attention::PaidPartial(_)
        | Attention::InvalidButPaid(_)
        | Attention::AmountMismatch(_) => true,
        Attention::SettledHereNotThere(_)
        | Attention::LicensedNotPaid(_)
        | Attention::NotInBtcpay
        | Attention::LicenseByHand(_)
        | Attention::LicenseDeleted(_)
        | Attention::PolicyMissing(_)
        | Attention::ProductMissing(_)
        | Attention::TierChangePaid(_)
        | Attention::RenewalPaid(_)
        | Attention::CodeOverMaxUses(_)
        | Attention::TipNotSent(_)
        | Attention::HeldBack => false,
    }
}

/// What came, measured by the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// The payments or the price are unknown.
    Unknown,
    LessThanHalf,
    /// Half of the price or more.
    Part,
    Full,
    /// A tenth too much, or more.
    TooMuch,
}

impl Share {
    /// Before BTCPay Server takes its fees off: it is what the buyer has sent.
    pub fn of(money: &Money, payments: Option<&[Payment]>) -> Self {
        let (Some(price), Some(payments)) = (money.amount, payments) else {
            return Self::Unknown;
        };
        if payments.is_empty() || price <= Decimal::ZERO {
            return Self::Unknown;
        }
        let Some(came) = worth(payments) else {
            return Self::Unknown;
        };
        // Another currency's rate is rounded.
        let is_exact = payments
            .iter()
            .all(|payment| payment.currency == money.currency);
        let full = if is_exact { price } else { percent(price, 99) };
        if came >= percent(price, 110) {
            Self::TooMuch
        } else if came >= full {
            Self::Full
        } else if came >= percent(price, 50) {
            Self::Part
        } else {
            Self::LessThanHalf
        }
    }
}

/// Whether every payment is confirmed; None if they are unknown.
pub fn is_confirmed(payments: Option<&[Payment]>) -> Option<bool> {
    let payments = payments.filter(|payments| !payments.is_empty())?;
    Some(payments.iter().all(|payment| payment.confirmed))
}

fn percent(price: Decimal, percent: i64) -> Decimal {
    price.saturating_mul(Decimal::new(percent, 2))
}

/// Together, in the invoice's currency; None if it is too much to be counted.
fn worth(payments: &[Payment]) -> Option<Decimal> {
    payments.iter().try_fold(Decimal::ZERO, |sum, payment| {
        sum.checked_add(payment.amount.checked_mul(payment.rate)?)
    })
}

/// What came for the invoice of `answer`, and when.
pub fn story(money: &Money, answer: Option<&Answer>, payments: Option<&[Payment]>) -> String {
    let payments = payments.filter(|payments| !payments.is_empty());
    let Some(payments) = payments else {
        return counted(money);
    };
    let mut parts = vec![format!(
        "{} has come{}{}",
        total(payments),
        match payments.len() {
            1 => String::new(),
            count => format!(" in {} payments", number(count)),
        },
        answer
            .and_then(|answer| answer.expires)
            .map_or_else(String::new, |expires| when(payments, expires))
    )];
    if let (Some(paid), Some(worth)) = (money.paid, worth(payments))
        && paid != worth
        && payments
            .iter()
            .all(|payment| payment.currency == money.currency)
    {
        parts.push(format!("BTCPay counts {} after its fees", paid.normalize()));
    }
    let verdict = match Share::of(money, Some(payments)) {
        Share::Unknown => String::new(),
        Share::LessThanHalf | Share::Part => format!(", of {}", price(money)),
        Share::Full => ": the buyer has paid in full".into(),
        Share::TooMuch => format!(": more than the price of {}", price(money)),
    };
    parts.push(format!("{}{verdict}", confirmed(payments)));
    parts.join("; ")
}

/// What the invoice itself says.
fn counted(money: &Money) -> String {
    match (money.paid, money.amount) {
        (Some(paid), Some(_)) => format!("BTCPay counts {} of {}", paid.normalize(), price(money)),
        (Some(paid), None) => format!("BTCPay counts {} {}", paid.normalize(), money.currency),
        (None, _) => "BTCPay does not say how much was paid".into(),
    }
}

/// The invoice's amount.
pub fn price(money: &Money) -> String {
    match money.amount {
        Some(amount) => format!("{} {}", amount.normalize(), money.currency),
        None => "no fixed amount".into(),
    }
}

fn total(payments: &[Payment]) -> String {
    let mut sums: BTreeMap<&str, Decimal> = BTreeMap::new();
    for payment in payments {
        let sum = sums.entry(&payment.currency).or_default();
        *sum = sum.saturating_add(payment.amount);
    }
    let sums = sums
        .iter()
        .map(|(currency, sum)| format!("{} {currency}", sum.normalize()));
    sums.collect::<Vec<_>>().join(" and ")
}

/// When the payments came, measured by the end of the checkout.
fn when(payments: &[Payment], expires: i64) -> String {
    let late: Vec<_> = payments
        .iter()
        .filter(|payment| payment.received > expires)
        .collect();
    let after = |payment: &Payment| {
        format!(
            "{} after it expired",
            duration(payment.received.saturating_sub(expires))
        )
    };
    match (late.as_slice(), payments.len()) {
        ([], _) => ", before it expired".into(),
        ([one], 1) => format!(", {}", after(one)),
        ([one], _) => format!(", the last {}", after(one)),
        ([first, ..], count) if late.len() == count => format!(", the first {}", after(first)),
        (several, _) => format!(", {} of them after it expired", number(several.len())),
    }
}

fn confirmed(payments: &[Payment]) -> String {
    let count = payments.iter().filter(|payment| payment.confirmed).count();
    match (count, payments.len()) {
        (0, 1) => "it is not confirmed yet".into(),
        (1, 1) => "it is confirmed".into(),
        (0, _) => "none is confirmed yet".into(),
        (2, 2) => "both are confirmed".into(),
        (count, all) => match count.cmp(&all) {
            Ordering::Less => format!("only {} of {} are confirmed", number(count), number(all)),
            Ordering::Equal | Ordering::Greater => "all are confirmed".into(),
        },
    }
}

/// In the largest unit that fits.
fn duration(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}

/// A small number as a word.
fn number(count: usize) -> String {
    match count {
        1 => "one".into(),
        2 => "two".into(),
        3 => "three".into(),
        4 => "four".into(),
        5 => "five".into(),
        count => count.to_string(),
    }
}
