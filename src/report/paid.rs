//! What was paid for an invoice, in words, and what it amounts to. Pure.

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
    let share = Share::of(money, Some(payments));
    let price = match share {
        Share::LessThanHalf | Share::Part | Share::TooMuch => {
            format!(" for a price of {}", price(money))
        }
        Share::Unknown | Share::Full => String::new(),
    };
    let in_payments = match payments.len() {
        1 => String::new(),
        count => format!(" in {} payments", number(count)),
    };
    let expires = answer.and_then(|answer| answer.expires);
    let when = expires.map_or_else(String::new, |expires| when(payments, expires));
    let mut parts = vec![format!(
        "{} has come{price}{in_payments}{when}",
        total(payments)
    )];
    let is_one_currency = payments
        .iter()
        .all(|payment| payment.currency == money.currency);
    if let (Some(paid), Some(worth), true) = (money.paid, worth(payments), is_one_currency)
        && paid != worth
    {
        parts.push(format!("BTCPay counts {} after its fees", paid.normalize()));
    }
    parts.push(confirmed(payments, share == Share::Full));
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
            "{} after expiry",
            duration(payment.received.saturating_sub(expires))
        )
    };
    match (late.as_slice(), payments.len()) {
        ([], _) => ", before expiry".into(),
        ([one], 1) => format!(", {}", after(one)),
        ([one], 2) => format!(", the second {}", after(one)),
        ([one], _) => format!(", the last {}", after(one)),
        ([first, ..], count) if late.len() == count => format!(", the first {}", after(first)),
        (several, _) => format!(", {} of them after expiry", number(several.len())),
    }
}

/// Whether they are confirmed, and what follows if they are the whole price.
fn confirmed(payments: &[Payment], is_full: bool) -> String {
    let count = payments.iter().filter(|payment| payment.confirmed).count();
    let (confirmed, once) = match (count, payments.len()) {
        (0, 1) => ("it is not confirmed yet".into(), "once it is"),
        (1, 1) => ("it is confirmed".into(), ""),
        (0, _) => ("none is confirmed yet".into(), "once all are"),
        (2, 2) => ("both are confirmed".into(), ""),
        (count, all) if count >= all => ("all are confirmed".into(), ""),
        (count, all) => {
            let are = if count == 1 { "is" } else { "are" };
            let (count, all) = (number(count), number(all));
            (
                format!("only {count} of {all} {are} confirmed"),
                "once all are",
            )
        }
    };
    match (is_full, once) {
        (false, _) => confirmed,
        (true, "") => format!("{confirmed}: the buyer has paid in full"),
        (true, once) => format!("{confirmed}; {once}, the buyer has paid in full"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoice::{AdditionalStatus, BtcpayStatus};

    const EXPIRY: i64 = 1_795_634_778;

    /// Of a price of 0.00021 BTC: the value, the fee, the seconds from expiry, whether it is confirmed.
    type Paid = (&'static str, &'static str, i64, bool);

    fn payments(paid: &[Paid]) -> Vec<Payment> {
        let payments = paid.iter().map(|(value, fee, after, confirmed)| Payment {
            received: EXPIRY + after,
            amount: value.parse().unwrap(),
            fee: fee.parse().unwrap(),
            currency: "BTC".into(),
            rate: "1.0".parse().unwrap(),
            confirmed: *confirmed,
        });
        payments.collect()
    }

    fn of_bitcoin(amount: Option<&str>, paid: Option<&str>) -> Money {
        let decimal = |text: &str| text.parse().unwrap();
        Money {
            currency: "BTC".into(),
            amount: amount.map(decimal),
            paid: paid.map(decimal),
        }
    }

    fn told(money: &Money, payments: &[Payment]) -> String {
        let answer = Answer {
            status: BtcpayStatus::Expired,
            additional: AdditionalStatus::None,
            money: money.clone(),
            expires: Some(EXPIRY),
        };
        story(money, Some(&answer), Some(payments))
    }

    /// The lives of tests/recorded/payments-2.4.1.jsonl: its name, what BTCPay counts, the payments.
    #[rustfmt::skip]
    const LIVES: [(&str, &str, &[Paid], Share, &str); 12] = [
        ("full", "0.000210", &[("0.00021", "0", -3598, true)], Share::Full,
         "0.00021 BTC has come, before expiry; it is confirmed: the buyer has paid in full"),
        ("over", "0.00030", &[("0.0003", "0", -3598, true)], Share::TooMuch,
         "0.0003 BTC has come for a price of 0.00021 BTC, before expiry; it is confirmed"),
        ("partial", "0.00010", &[("0.0001", "0", -58, true)], Share::LessThanHalf,
         "0.0001 BTC has come for a price of 0.00021 BTC, before expiry; it is confirmed"),
        ("tolerance", "0.000190", &[("0.00019", "0", -58, true)], Share::Part,
         "0.00019 BTC has come for a price of 0.00021 BTC, before expiry; it is confirmed"),
        ("late_full", "0.000210", &[("0.00021", "0", 16, true)], Share::Full,
         "0.00021 BTC has come, 16 s after expiry; it is confirmed: the buyer has paid in full"),
        ("late_less", "0.000010", &[("0.00001", "0", 16, true)], Share::LessThanHalf,
         "0.00001 BTC has come for a price of 0.00021 BTC, 16 s after expiry; it is confirmed"),
        ("late_more", "0.00050", &[("0.0005", "0", 17, true)], Share::TooMuch,
         "0.0005 BTC has come for a price of 0.00021 BTC, 17 s after expiry; it is confirmed"),
        ("part_then_late_rest", "0.000110", &[("0.0001", "0", -58, true), ("0.00011", "0.0001", 17, true)], Share::Full,
         "0.00021 BTC has come in two payments, the second 17 s after expiry; BTCPay counts 0.00011 after \
          its fees; both are confirmed: the buyer has paid in full"),
        ("unconfirmed", "0.000210", &[("0.00021", "0", -58, true)], Share::Full,
         "0.00021 BTC has come, before expiry; it is confirmed: the buyer has paid in full"),
        ("late_unconfirmed", "0.000210", &[("0.00021", "0", 16, true)], Share::Full,
         "0.00021 BTC has come, 16 s after expiry; it is confirmed: the buyer has paid in full"),
        ("unpaid", "0", &[], Share::Unknown,
         "BTCPay counts 0 of 0.00021 BTC"),
        ("topup", "0.000330", &[("0.00033", "0", -3598, true)], Share::Unknown,
         "0.00033 BTC has come, before expiry; it is confirmed"),
    ];

    #[test]
    fn recorded_lives_are_told() {
        for (name, paid, came, share, expected) in LIVES {
            let price = (name != "topup").then_some("0.00021");
            let money = of_bitcoin(price, Some(paid));
            let came = payments(came);
            assert_eq!(told(&money, &came), expected, "{name}");
            assert_eq!(Share::of(&money, Some(&came)), share, "{name}");
        }
    }

    #[test]
    fn other_payments_are_told() {
        let price = of_bitcoin(Some("0.00021"), None);
        for (came, expected) in [
            (
                &[("0.00021", "0", 40, false)][..],
                "0.00021 BTC has come, 40 s after expiry; it is not confirmed yet; once it is, the buyer \
                 has paid in full",
            ),
            (
                &[("0.0001", "0", 40, false), ("0.00011", "0", 300, false)],
                "0.00021 BTC has come in two payments, the first 40 s after expiry; none is confirmed \
                 yet; once all are, the buyer has paid in full",
            ),
            (
                &[
                    ("0.00005", "0", -9, true),
                    ("0.00005", "0", 0, false),
                    ("0.00005", "0", 7_200, false),
                ],
                "0.00015 BTC has come for a price of 0.00021 BTC in three payments, the last 2 h after \
                 expiry; only one of three is confirmed",
            ),
            (
                &[
                    ("0.00007", "0", -9, true),
                    ("0.00007", "0", 130, true),
                    ("0.00007", "0", 172_800, true),
                ],
                "0.00021 BTC has come in three payments, two of them after expiry; all are confirmed: \
                 the buyer has paid in full",
            ),
        ] {
            assert_eq!(told(&price, &payments(came)), expected);
        }
    }

    #[test]
    fn price_in_another_currency_is_compared_by_the_rate() {
        let euros = |rate: &str| {
            let mut came = payments(&[("0.00021", "0", 40, true)]);
            came[0].rate = rate.parse().unwrap();
            came
        };
        let price = Money {
            currency: "EUR".into(),
            ..of_bitcoin(Some("19.99"), Some("19.98"))
        };
        assert_eq!(
            told(&price, &euros("95142.8")),
            "0.00021 BTC has come, 40 s after expiry; it is confirmed: the buyer has paid in full"
        );
        assert_eq!(
            told(&price, &euros("50000")),
            "0.00021 BTC has come for a price of 19.99 EUR, 40 s after expiry; it is confirmed"
        );
    }

    #[test]
    fn without_payments_what_btcpay_counts_is_told() {
        let story = |amount, paid| story(&of_bitcoin(amount, paid), None, None);
        assert_eq!(
            story(Some("0.00021"), Some("0.000110")),
            "BTCPay counts 0.00011 of 0.00021 BTC"
        );
        assert_eq!(story(None, Some("0.0001")), "BTCPay counts 0.0001 BTC");
        assert_eq!(
            story(Some("0.00021"), None),
            "BTCPay does not say how much was paid"
        );
    }
}
