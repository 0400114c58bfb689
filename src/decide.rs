//! The rules: what BTCPay Server's word means for an invoice. Pure: an invoice and an answer in, a
//! decision out. Nothing here reads a database, a network or a clock.

use rust_decimal::Decimal;

use crate::invoice::{
    AdditionalStatus, Answer, BtcpayStatus, Invoice, License, LicenseId, LocalStatus, Money,
    Purpose, Redemption, RedemptionStatus, Tip,
};

/// What to write and what to report. Both may be nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub change: Option<Change>,
    pub attention: Option<Attention>,
}

/// What to write for one invoice, all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The invoice becomes, or stays, settled.
    Settle {
        issue_license: bool,
        redeem: Option<Redeem>,
    },
    /// The invoice becomes, or stays, closed without a sale.
    Close {
        to: LocalStatus,
        cancel_redemption: bool,
    },
}

/// Where the slot of a redeemed code comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeem {
    /// The redemption still holds its slot.
    KeepSlot,
    /// The redemption was cancelled and takes a slot again.
    TakeSlot,
}

/// What was written for a [`Change`]; in a dry run, what would have been.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub from: LocalStatus,
    pub to: LocalStatus,
    pub license_issued: bool,
    /// None for a closed invoice, and for a license that a dry run did not issue.
    pub license_id: Option<LicenseId>,
    /// [`RedemptionStatus::Redeemed`] or [`RedemptionStatus::Cancelled`].
    pub redemption: Option<RedemptionStatus>,
    /// What the license's policy promises a third party. Nobody has sent it.
    pub tip: Option<Tip>,
}

/// What only a person can resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attention {
    PaidLate(Money),
    PaidPartial(Money),
    InvalidButPaid(Money),
    /// BTCPay's invoice is over this money, the database's over another amount.
    AmountMismatch(Money),
    SettledHereNotThere(BtcpayStatus),
    LicenseByHand(LicenseId),
    LicenseDeleted,
    TierChangePaid,
    RenewalPaid,
    /// Follows from [`Written`], never from [`decide`].
    TipNotSent(Tip),
}

impl Attention {
    /// Its word in reports, for scripts as well.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::PaidLate(_) => "paid_late",
            Self::PaidPartial(_) => "paid_partial",
            Self::InvalidButPaid(_) => "invalid_but_paid",
            Self::AmountMismatch(_) => "amount_mismatch",
            Self::SettledHereNotThere(_) => "settled_here_not_there",
            Self::LicenseByHand(_) => "license_by_hand",
            Self::LicenseDeleted => "license_deleted",
            Self::TierChangePaid => "tier_change_paid",
            Self::RenewalPaid => "renewal_paid",
            Self::TipNotSent(_) => "tip_not_sent",
        }
    }
}

impl Decision {
    pub const NOTHING: Self = Self {
        change: None,
        attention: None,
    };

    fn only(attention: Attention) -> Self {
        Self {
            change: None,
            attention: Some(attention),
        }
    }
}

/// The decision on `invoice`, of which BTCPay Server says `answer`.
#[rustfmt::skip]
pub fn decide(invoice: &Invoice, answer: &Answer) -> Decision {
    use BtcpayStatus::{Expired, Invalid, New, Processing, Settled};
    match (answer.status, invoice.status) {
        // BTCPay says          the database says
        (Settled,               _) => settle(invoice, &answer.money),
        (Expired,               LocalStatus::Pending) => close(invoice, answer, LocalStatus::Expired),
        (Invalid,               LocalStatus::Pending) => close(invoice, answer, LocalStatus::Invalid),
        (Expired | Invalid,     LocalStatus::Expired | LocalStatus::Invalid) =>
            close(invoice, answer, invoice.status),
        (New | Processing,      LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid) =>
            Decision::NOTHING,
        (New | Processing | Expired | Invalid, LocalStatus::Settled) =>
            Decision::only(Attention::SettledHereNotThere(answer.status)),
    }
}

/// The buyer has paid.
#[rustfmt::skip]
fn settle(invoice: &Invoice, paid: &Money) -> Decision {
    match (invoice.purpose, &invoice.license) {
        (Purpose::Purchase, License::None)            => complete(invoice, true, paid),
        (Purpose::Purchase, License::Issued(_))       => complete(invoice, false, paid),
        (Purpose::Purchase, License::MaybeByHand(id)) => Decision::only(Attention::LicenseByHand(id.clone())),
        (Purpose::Purchase, License::MaybeDeleted)    => Decision::only(Attention::LicenseDeleted),
        (Purpose::TierChange { applied: true } | Purpose::Renewal { applied: true }, _) => Decision::NOTHING,
        (Purpose::TierChange { applied: false }, _)   => Decision::only(Attention::TierChangePaid),
        (Purpose::Renewal { applied: false }, _)      => Decision::only(Attention::RenewalPaid),
    }
}

/// Gives a paid purchase what it lacks.
fn complete(invoice: &Invoice, issue_license: bool, paid: &Money) -> Decision {
    let redeem = invoice.redemption.as_ref().and_then(redeem);
    if invoice.status == LocalStatus::Settled && !issue_license && redeem.is_none() {
        return Decision::NOTHING;
    }
    let differs = paid.is_sats(invoice.amount_sats) == Some(false);
    Decision {
        change: Some(Change::Settle {
            issue_license,
            redeem,
        }),
        attention: differs.then(|| Attention::AmountMismatch(paid.clone())),
    }
}

/// A redemption that is redeemed but names no license is still to be tied to one.
fn redeem(redemption: &Redemption) -> Option<Redeem> {
    match (redemption.status, &redemption.license_id) {
        (RedemptionStatus::Redeemed, Some(_)) => None,
        (RedemptionStatus::Redeemed, None) | (RedemptionStatus::Pending, _) => {
            Some(Redeem::KeepSlot)
        }
        (RedemptionStatus::Cancelled, _) => Some(Redeem::TakeSlot),
    }
}

/// The buyer has not paid, or not as the invoice asks.
fn close(invoice: &Invoice, answer: &Answer, to: LocalStatus) -> Decision {
    let holds_slot = |redemption: &Redemption| match redemption.status {
        RedemptionStatus::Pending => true,
        RedemptionStatus::Redeemed | RedemptionStatus::Cancelled => false,
    };
    let cancel_redemption = invoice.redemption.as_ref().is_some_and(holds_slot);
    Decision {
        change: (to != invoice.status || cancel_redemption).then_some(Change::Close {
            to,
            cancel_redemption,
        }),
        attention: money_on_closed(answer),
    }
}

/// Marked means that the merchant has decided already.
fn money_on_closed(answer: &Answer) -> Option<Attention> {
    use AdditionalStatus::{
        Invalid, Marked, None as Nothing, PaidLate, PaidOver, PaidPartial, Unknown,
    };
    let money = || answer.money.clone();
    let paid = answer.money.paid.is_some_and(|paid| paid > Decimal::ZERO);
    match (answer.status, answer.additional) {
        (BtcpayStatus::Expired, PaidLate) => Some(Attention::PaidLate(money())),
        (BtcpayStatus::Expired, PaidPartial) => Some(Attention::PaidPartial(money())),
        (
            BtcpayStatus::Invalid,
            Nothing | PaidLate | PaidPartial | PaidOver | Invalid | Unknown,
        ) => paid.then(|| Attention::InvalidButPaid(money())),
        (BtcpayStatus::Expired, Nothing | PaidOver | Marked | Invalid | Unknown)
        | (BtcpayStatus::Invalid, Marked)
        | (BtcpayStatus::New | BtcpayStatus::Processing | BtcpayStatus::Settled, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId};

    /// One line a rule, the first that fits counts; `*` fits everything, `|` separates
    /// alternatives. Every combination of the columns before `=>` is tried, about 170,000.
    const RULES: &str = "
purpose              here             BTCPay                         also                   paid amount license redemption       => status   license redemption  attention
-- Paid, and bought.
purchase             settled          Settled                        *                      *    *      issued  none|tied        => -        -       -           -
purchase             *                Settled                        *                      *    same   none    none             => settled  issued  -           -
purchase             *                Settled                        *                      *    same   none    pending|untied   => settled  issued  redeemed    -
purchase             *                Settled                        *                      *    same   none    tied             => settled  issued  -           -
purchase             *                Settled                        *                      *    same   none    cancelled        => settled  issued  redeemed+1  -
purchase             *                Settled                        *                      *    same   issued  none|tied        => settled  -       -           -
purchase             *                Settled                        *                      *    same   issued  pending|untied   => settled  -       redeemed    -
purchase             *                Settled                        *                      *    same   issued  cancelled        => settled  -       redeemed+1  -
-- The same over another amount is reported as well.
purchase             *                Settled                        *                      *    other  none    none|tied        => settled  issued  -           amount_mismatch
purchase             *                Settled                        *                      *    other  none    pending|untied   => settled  issued  redeemed    amount_mismatch
purchase             *                Settled                        *                      *    other  none    cancelled        => settled  issued  redeemed+1  amount_mismatch
purchase             *                Settled                        *                      *    other  issued  none|tied        => settled  -       -           amount_mismatch
purchase             *                Settled                        *                      *    other  issued  pending|untied   => settled  -       redeemed    amount_mismatch
purchase             *                Settled                        *                      *    other  issued  cancelled        => settled  -       redeemed+1  amount_mismatch
-- Paid, but perhaps replaced or revoked by a person.
purchase             *                Settled                        *                      *    *      by-hand *                => -        -       -           license_by_hand
purchase             *                Settled                        *                      *    *      deleted *                => -        -       -           license_deleted
-- Paid, for what only the service can give.
tier-change-applied  *                Settled                        *                      *    *      *       *                => -        -       -           -
tier-change          *                Settled                        *                      *    *      *       *                => -        -       -           tier_change_paid
renewal-applied      *                Settled                        *                      *    *      *       *                => -        -       -           -
renewal              *                Settled                        *                      *    *      *       *                => -        -       -           renewal_paid
-- Settled here alone.
*                    settled          *                              *                      *    *      *       *                => -        -       -           settled_here_not_there
-- Still open in BTCPay.
*                    *                New|Processing                 *                      *    *      *       *                => -        -       -           -
-- Dead in BTCPay, without money or marked by the merchant.
*                    pending          Expired                        None|Over|Marked|Invalid|Unknown * * *     pending          => expired  -       cancelled   -
*                    pending          Expired                        None|Over|Marked|Invalid|Unknown * * *     *                => expired  -       -           -
*                    pending          Invalid                        Marked                 *    *      *       pending          => invalid  -       cancelled   -
*                    pending          Invalid                        Marked                 *    *      *       *                => invalid  -       -           -
*                    pending          Invalid                        *                      ?|0  *      *       pending          => invalid  -       cancelled   -
*                    pending          Invalid                        *                      ?|0  *      *       *                => invalid  -       -           -
*                    expired|invalid  Expired                        None|Over|Marked|Invalid|Unknown * * *     pending          => -        -       cancelled   -
*                    expired|invalid  Expired                        None|Over|Marked|Invalid|Unknown * * *     *                => -        -       -           -
*                    expired|invalid  Invalid                        Marked                 *    *      *       pending          => -        -       cancelled   -
*                    expired|invalid  Invalid                        Marked                 *    *      *       *                => -        -       -           -
*                    expired|invalid  Invalid                        *                      ?|0  *      *       pending          => -        -       cancelled   -
*                    expired|invalid  Invalid                        *                      ?|0  *      *       *                => -        -       -           -
-- Dead in BTCPay, with money.
*                    pending          Expired                        Late                   *    *      *       pending          => expired  -       cancelled   paid_late
*                    pending          Expired                        Late                   *    *      *       *                => expired  -       -           paid_late
*                    pending          Expired                        Partial                *    *      *       pending          => expired  -       cancelled   paid_partial
*                    pending          Expired                        Partial                *    *      *       *                => expired  -       -           paid_partial
*                    pending          Invalid                        *                      some *      *       pending          => invalid  -       cancelled   invalid_but_paid
*                    pending          Invalid                        *                      some *      *       *                => invalid  -       -           invalid_but_paid
*                    expired|invalid  Expired                        Late                   *    *      *       pending          => -        -       cancelled   paid_late
*                    expired|invalid  Expired                        Late                   *    *      *       *                => -        -       -           paid_late
*                    expired|invalid  Expired                        Partial                *    *      *       pending          => -        -       cancelled   paid_partial
*                    expired|invalid  Expired                        Partial                *    *      *       *                => -        -       -           paid_partial
*                    expired|invalid  Invalid                        *                      some *      *       pending          => -        -       cancelled   invalid_but_paid
*                    expired|invalid  Invalid                        *                      some *      *       *                => -        -       -           invalid_but_paid
";

    type Named<T> = (&'static str, T);

    fn purposes() -> [Named<Purpose>; 5] {
        [
            ("purchase", Purpose::Purchase),
            ("tier-change", Purpose::TierChange { applied: false }),
            ("tier-change-applied", Purpose::TierChange { applied: true }),
            ("renewal", Purpose::Renewal { applied: false }),
            ("renewal-applied", Purpose::Renewal { applied: true }),
        ]
    }

    const HERE: [LocalStatus; 4] = [
        LocalStatus::Pending,
        LocalStatus::Settled,
        LocalStatus::Expired,
        LocalStatus::Invalid,
    ];
    const BTCPAY: [BtcpayStatus; 5] = [
        BtcpayStatus::New,
        BtcpayStatus::Processing,
        BtcpayStatus::Settled,
        BtcpayStatus::Expired,
        BtcpayStatus::Invalid,
    ];
    const ALSO: [Named<AdditionalStatus>; 7] = [
        ("None", AdditionalStatus::None),
        ("Late", AdditionalStatus::PaidLate),
        ("Partial", AdditionalStatus::PaidPartial),
        ("Over", AdditionalStatus::PaidOver),
        ("Marked", AdditionalStatus::Marked),
        ("Invalid", AdditionalStatus::Invalid),
        ("Unknown", AdditionalStatus::Unknown),
    ];
    const PAID: [Named<Option<&str>>; 3] =
        [("?", None), ("0", Some("0.00")), ("some", Some("0.00001"))];
    /// Money in a currency other than bitcoin cannot be compared, so it never differs.
    const AMOUNTS: [Named<(&str, &str)>; 4] = [
        ("same", ("BTC", "0.00021")),
        ("same", ("SATS", "21000.0")),
        ("same", ("EUR", "19.99")),
        ("other", ("BTC", "0.0002")),
    ];

    fn licenses() -> [Named<License>; 4] {
        let id = || LicenseId("lic".into());
        [
            ("none", License::None),
            ("issued", License::Issued(id())),
            ("by-hand", License::MaybeByHand(id())),
            ("deleted", License::MaybeDeleted),
        ]
    }

    fn redemptions() -> [Named<Option<Redemption>>; 5] {
        let redemption = |status, license_id| Some(Redemption { status, license_id });
        [
            ("none", None),
            ("pending", redemption(RedemptionStatus::Pending, None)),
            ("untied", redemption(RedemptionStatus::Redeemed, None)),
            (
                "tied",
                redemption(RedemptionStatus::Redeemed, Some(LicenseId("lic".into()))),
            ),
            ("cancelled", redemption(RedemptionStatus::Cancelled, None)),
        ]
    }

    /// The decision in the words of the table's last four columns.
    fn in_words(decision: &Decision) -> String {
        let mut words = String::new();
        match &decision.change {
            None => words += "- - -",
            Some(Change::Settle {
                issue_license,
                redeem,
            }) => {
                let redeem = match redeem {
                    None => "-",
                    Some(Redeem::KeepSlot) => "redeemed",
                    Some(Redeem::TakeSlot) => "redeemed+1",
                };
                let license = if *issue_license { "issued" } else { "-" };
                write!(words, "settled {license} {redeem}").unwrap();
            }
            Some(Change::Close {
                to,
                cancel_redemption,
            }) => {
                let redemption = if *cancel_redemption { "cancelled" } else { "-" };
                write!(words, "{} - {redemption}", to.word()).unwrap();
            }
        }
        let attention = decision.attention.as_ref().map_or("-", Attention::reason);
        format!("{words} {attention}")
    }

    fn purchase() -> Invoice {
        Invoice {
            id: InvoiceId("here".into()),
            btcpay_id: BtcpayInvoiceId("there".into()),
            status: LocalStatus::Settled,
            amount_sats: 21_000,
            created: 1_795_000_000,
            purpose: Purpose::Purchase,
            license: License::None,
            redemption: None,
        }
    }

    /// The value that the last digit of `rest` stands for, to the base of their number.
    fn pick<T: Clone>(values: &[T], rest: &mut usize) -> T {
        let place = *rest % values.len();
        *rest /= values.len();
        values[place].clone()
    }

    #[test]
    fn every_combination_follows_the_table() {
        let rules: Vec<(Vec<&str>, Vec<&str>)> = RULES
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with("--"))
            .map(|line| line.split_once("=>").unwrap())
            .map(|(given, then)| {
                (
                    given.split_whitespace().collect(),
                    then.split_whitespace().collect(),
                )
            })
            .collect();
        let mut used = vec![false; rules.len()];
        let mut check = |given: [&str; 8], invoice: &Invoice, answer: &Answer| {
            let place = rules
                .iter()
                .position(|(pattern, _)| {
                    assert_eq!(pattern.len(), given.len(), "{pattern:?}");
                    let mut cells = pattern.iter().zip(given);
                    cells.all(|(cell, word)| *cell == "*" || cell.split('|').any(|one| one == word))
                })
                .unwrap_or_else(|| panic!("no rule for {given:?}"));
            used[place] = true;
            let mut expected = rules[place].1.clone();
            // A closed invoice that keeps its status is written only for its redemption.
            let kept = invoice.status.word();
            if expected[0] == "-" && expected[2] == "cancelled" {
                expected[0] = kept;
            }
            assert_eq!(
                in_words(&decide(invoice, answer)),
                expected.join(" "),
                "{given:?}"
            );
        };
        let (purposes, licenses, redemptions) = (purposes(), licenses(), redemptions());
        let sizes = [
            purposes.len(),
            licenses.len(),
            redemptions.len(),
            HERE.len(),
            BTCPAY.len(),
            ALSO.len(),
            PAID.len(),
            AMOUNTS.len(),
        ];
        for number in 0..sizes.iter().product() {
            let mut rest = number;
            let (purpose_word, purpose) = pick(&purposes, &mut rest);
            let (license_word, license) = pick(&licenses, &mut rest);
            let (redemption_word, redemption) = pick(&redemptions, &mut rest);
            let here = pick(&HERE, &mut rest);
            let btcpay = pick(&BTCPAY, &mut rest);
            let (also_word, additional) = pick(&ALSO, &mut rest);
            let (paid_word, paid) = pick(&PAID, &mut rest);
            let (amount_word, (currency, amount)) = pick(&AMOUNTS, &mut rest);
            let invoice = Invoice {
                status: here,
                purpose,
                license,
                redemption,
                ..purchase()
            };
            let answer = Answer {
                status: btcpay,
                additional,
                money: Money {
                    currency: currency.into(),
                    amount: Some(amount.parse().unwrap()),
                    paid: paid.map(|paid| paid.parse().unwrap()),
                },
            };
            let given = [
                purpose_word,
                here.word(),
                btcpay.word(),
                also_word,
                paid_word,
                amount_word,
                license_word,
                redemption_word,
            ];
            check(given, &invoice, &answer);
        }
        for (rule, used) in rules.iter().zip(used) {
            assert!(used, "no combination reaches {rule:?}");
        }
    }

    #[test]
    fn free_sale_gets_its_license() {
        let free = Invoice {
            amount_sats: 0,
            ..purchase()
        };
        let decision = decide(&free, &Answer::of_a_free_sale());
        assert_eq!(in_words(&decision), "settled issued - -");
    }
}
