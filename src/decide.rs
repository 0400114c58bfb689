//! What follows for an invoice from what BTCPay Server says of it. Pure: an invoice and an answer
//! in, a decision out.

use rust_decimal::Decimal;

use crate::invoice::{
    AdditionalStatus, Answer, BtcpayStatus, ByService, Invoice, License, LicenseId, LocalStatus,
    Money, Purpose, Redemption, RedemptionStatus, Tip,
};

/// What to write, and what to tell the merchant. Both may be nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub change: Option<Change>,
    pub attention: Option<Attention>,
}

/// What to write of one invoice: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The invoice becomes (or stays) settled.
    Settle {
        issue_license: bool,
        redemption: Option<Redeem>,
    },
    /// The invoice becomes (or stays) closed without a sale.
    Close {
        to: LocalStatus,
        cancel_redemption: bool,
    },
}

/// How a redemption comes to be redeemed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeem {
    /// It still holds its slot of the discount code.
    HoldingItsSlot,
    /// It was cancelled and takes its slot again.
    TakingItsSlotAgain,
}

/// What only the merchant can settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attention {
    PaidLate(Money),
    PaidPartial(Money),
    InvalidButPaid(Money),
    AmountMismatch {
        there: Money,
        here_sats: i64,
    },
    SettledHereNotThere(BtcpayStatus),
    LicenseByHand(LicenseId),
    LicenseDeleted,
    TierChangePaid,
    RenewalPaid,
    /// Comes with a license that was issued, never from [`decide`].
    TipNotSent(Tip),
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
pub fn decide(invoice: &Invoice, answer: &Answer) -> Decision {
    use BtcpayStatus::{Expired, Invalid, New, Processing, Settled};
    match (invoice.status, answer.status) {
        (_, Settled) => settle(invoice, &answer.money),
        (LocalStatus::Settled, New | Processing | Expired | Invalid) => {
            Decision::only(Attention::SettledHereNotThere(answer.status))
        }
        (LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid, New | Processing) => {
            Decision::NOTHING
        }
        (LocalStatus::Pending, Expired) => close(invoice, LocalStatus::Expired, answer),
        (LocalStatus::Pending, Invalid) => close(invoice, LocalStatus::Invalid, answer),
        (LocalStatus::Expired | LocalStatus::Invalid, Expired | Invalid) => {
            close(invoice, invoice.status, answer)
        }
    }
}

fn settle(invoice: &Invoice, money: &Money) -> Decision {
    match invoice.purpose {
        Purpose::Purchase => settle_purchase(invoice, money),
        Purpose::TierChange(ByService::NotDone) => Decision::only(Attention::TierChangePaid),
        Purpose::Renewal(ByService::NotDone) => Decision::only(Attention::RenewalPaid),
        Purpose::TierChange(ByService::Done) | Purpose::Renewal(ByService::Done) => {
            Decision::NOTHING
        }
    }
}

fn settle_purchase(invoice: &Invoice, money: &Money) -> Decision {
    let issue_license = match &invoice.license {
        License::PerhapsByHand(license_id) => {
            return Decision::only(Attention::LicenseByHand(license_id.clone()));
        }
        License::PerhapsDeleted => return Decision::only(Attention::LicenseDeleted),
        License::None => true,
        License::Issued(_) => false,
    };
    let redemption = invoice.redemption.as_ref().and_then(redeem);
    if invoice.status == LocalStatus::Settled && !issue_license && redemption.is_none() {
        return Decision::NOTHING;
    }
    Decision {
        change: Some(Change::Settle {
            issue_license,
            redemption,
        }),
        attention: (money.is_sats(invoice.amount_sats) == Some(false)).then(|| {
            Attention::AmountMismatch {
                there: money.clone(),
                here_sats: invoice.amount_sats,
            }
        }),
    }
}

/// A redeemed redemption that names no license was redeemed ahead of it, and is still to be tied.
fn redeem(redemption: &Redemption) -> Option<Redeem> {
    match (redemption.status, &redemption.license_id) {
        (RedemptionStatus::Pending, _) | (RedemptionStatus::Redeemed, None) => {
            Some(Redeem::HoldingItsSlot)
        }
        (RedemptionStatus::Cancelled, _) => Some(Redeem::TakingItsSlotAgain),
        (RedemptionStatus::Redeemed, Some(_)) => None,
    }
}

fn close(invoice: &Invoice, to: LocalStatus, answer: &Answer) -> Decision {
    let cancel_redemption = invoice
        .redemption
        .as_ref()
        .is_some_and(|redemption| match redemption.status {
            RedemptionStatus::Pending => true,
            RedemptionStatus::Redeemed | RedemptionStatus::Cancelled => false,
        });
    Decision {
        change: (to != invoice.status || cancel_redemption).then_some(Change::Close {
            to,
            cancel_redemption,
        }),
        attention: money_of_a_closed_invoice(answer),
    }
}

fn money_of_a_closed_invoice(answer: &Answer) -> Option<Attention> {
    let money = || answer.money.clone();
    let paid = answer.money.paid.is_some_and(|paid| paid > Decimal::ZERO);
    match (answer.status, answer.additional) {
        (BtcpayStatus::Expired, AdditionalStatus::PaidLate) => Some(Attention::PaidLate(money())),
        (BtcpayStatus::Expired, AdditionalStatus::PaidPartial) => {
            Some(Attention::PaidPartial(money()))
        }
        (
            BtcpayStatus::Invalid,
            AdditionalStatus::None
            | AdditionalStatus::PaidLate
            | AdditionalStatus::PaidPartial
            | AdditionalStatus::PaidOver
            | AdditionalStatus::Invalid
            | AdditionalStatus::Unknown,
        ) => paid.then(|| Attention::InvalidButPaid(money())),
        (
            BtcpayStatus::Expired,
            AdditionalStatus::None
            | AdditionalStatus::PaidOver
            | AdditionalStatus::Marked
            | AdditionalStatus::Invalid
            | AdditionalStatus::Unknown,
        )
        | (BtcpayStatus::Invalid, AdditionalStatus::Marked)
        | (BtcpayStatus::New | BtcpayStatus::Processing | BtcpayStatus::Settled, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId};

    const LOCAL: [LocalStatus; 4] = [
        LocalStatus::Pending,
        LocalStatus::Settled,
        LocalStatus::Expired,
        LocalStatus::Invalid,
    ];
    const THERE: [BtcpayStatus; 5] = [
        BtcpayStatus::New,
        BtcpayStatus::Processing,
        BtcpayStatus::Settled,
        BtcpayStatus::Expired,
        BtcpayStatus::Invalid,
    ];
    const ADDITIONAL: [AdditionalStatus; 7] = [
        AdditionalStatus::None,
        AdditionalStatus::PaidLate,
        AdditionalStatus::PaidPartial,
        AdditionalStatus::PaidOver,
        AdditionalStatus::Marked,
        AdditionalStatus::Invalid,
        AdditionalStatus::Unknown,
    ];

    fn licensed() -> License {
        License::Issued(LicenseId("lic".into()))
    }

    fn redemption(status: RedemptionStatus) -> Redemption {
        Redemption {
            status,
            license_id: (status == RedemptionStatus::Redeemed).then(|| LicenseId("lic".into())),
        }
    }

    fn invoice(status: LocalStatus, license: License, redemption: Option<Redemption>) -> Invoice {
        Invoice {
            id: InvoiceId("here".into()),
            btcpay_id: BtcpayInvoiceId("there".into()),
            status,
            amount_sats: 21_000,
            created: 1_795_000_000,
            purpose: Purpose::Purchase,
            license,
            redemption,
        }
    }

    fn answer(status: BtcpayStatus) -> Answer {
        Answer {
            status,
            additional: AdditionalStatus::None,
            money: Money {
                currency: "BTC".into(),
                amount: Some("0.00021".parse().unwrap()),
                paid: Some(Decimal::ZERO),
            },
        }
    }

    fn change_of(invoice: &Invoice, there: BtcpayStatus) -> Option<Change> {
        let decision = decide(invoice, &answer(there));
        assert_eq!(decision.attention, None, "{invoice:?} {there:?}");
        decision.change
    }

    /// Every state of a redemption, and how each is to be redeemed.
    fn redemptions() -> [(Option<Redemption>, Option<Redeem>); 5] {
        use RedemptionStatus::{Cancelled, Pending, Redeemed};
        let redeemed_ahead = Redemption {
            status: Redeemed,
            license_id: None,
        };
        [
            (None, None),
            (Some(redemption(Pending)), Some(Redeem::HoldingItsSlot)),
            (Some(redeemed_ahead), Some(Redeem::HoldingItsSlot)),
            (Some(redemption(Redeemed)), None),
            (
                Some(redemption(Cancelled)),
                Some(Redeem::TakingItsSlotAgain),
            ),
        ]
    }

    #[test]
    fn settled_there_gives_every_buyer_what_is_missing() {
        for status in LOCAL {
            for (license, issue_license) in [(License::None, true), (licensed(), false)] {
                for (redemption, redeem) in redemptions() {
                    let complete =
                        status == LocalStatus::Settled && !issue_license && redeem.is_none();
                    assert_eq!(
                        change_of(
                            &invoice(status, license.clone(), redemption),
                            BtcpayStatus::Settled
                        ),
                        (!complete).then_some(Change::Settle {
                            issue_license,
                            redemption: redeem
                        }),
                        "{status:?}, {license:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn dead_there_closes_a_pending_invoice_and_frees_only_a_slot_that_is_held() {
        for (there, to) in [
            (BtcpayStatus::Expired, LocalStatus::Expired),
            (BtcpayStatus::Invalid, LocalStatus::Invalid),
        ] {
            for (redemption, _) in redemptions() {
                let cancel_redemption = redemption
                    .as_ref()
                    .is_some_and(|held| held.status == RedemptionStatus::Pending);
                let pending = invoice(LocalStatus::Pending, License::None, redemption.clone());
                assert_eq!(
                    change_of(&pending, there),
                    Some(Change::Close {
                        to,
                        cancel_redemption
                    })
                );
                for closed in [LocalStatus::Expired, LocalStatus::Invalid] {
                    assert_eq!(
                        change_of(&invoice(closed, License::None, redemption.clone()), there),
                        cancel_redemption.then_some(Change::Close {
                            to: closed,
                            cancel_redemption
                        }),
                        "a closed invoice keeps its status"
                    );
                }
            }
        }
    }

    #[test]
    fn open_there_changes_nothing() {
        for there in [BtcpayStatus::New, BtcpayStatus::Processing] {
            for status in [
                LocalStatus::Pending,
                LocalStatus::Expired,
                LocalStatus::Invalid,
            ] {
                for (redemption, _) in redemptions() {
                    assert_eq!(
                        change_of(&invoice(status, License::None, redemption), there),
                        None
                    );
                }
            }
        }
    }

    #[test]
    fn settled_here_but_not_there_is_told_and_never_touched() {
        for there in THERE {
            if there == BtcpayStatus::Settled {
                continue;
            }
            for (redemption, _) in redemptions() {
                for additional in ADDITIONAL {
                    let half_done =
                        invoice(LocalStatus::Settled, License::None, redemption.clone());
                    let mut answer = answer(there);
                    answer.additional = additional;
                    assert_eq!(
                        decide(&half_done, &answer),
                        Decision {
                            change: None,
                            attention: Some(Attention::SettledHereNotThere(there))
                        }
                    );
                }
            }
        }
    }

    #[test]
    fn a_license_by_hand_or_deleted_stops_every_settlement() {
        let by_hand = LicenseId("gift".into());
        for (license, attention) in [
            (
                License::PerhapsByHand(by_hand.clone()),
                Attention::LicenseByHand(by_hand),
            ),
            (License::PerhapsDeleted, Attention::LicenseDeleted),
        ] {
            for status in LOCAL {
                for (redemption, _) in redemptions() {
                    let doubtful = invoice(status, license.clone(), redemption);
                    let mut answer = answer(BtcpayStatus::Settled);
                    answer.money.amount = Some(Decimal::ONE);
                    assert_eq!(
                        decide(&doubtful, &answer),
                        Decision {
                            change: None,
                            attention: Some(attention.clone())
                        }
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_purchase_is_never_settled_here_and_told_until_the_service_has_acted() {
        for (purpose, attention) in [
            (
                Purpose::TierChange(ByService::NotDone),
                Some(Attention::TierChangePaid),
            ),
            (Purpose::TierChange(ByService::Done), None),
            (
                Purpose::Renewal(ByService::NotDone),
                Some(Attention::RenewalPaid),
            ),
            (Purpose::Renewal(ByService::Done), None),
        ] {
            for status in LOCAL {
                for license in [License::None, licensed(), License::PerhapsDeleted] {
                    for (redemption, _) in redemptions() {
                        let mut invoice = invoice(status, license.clone(), redemption);
                        invoice.purpose = purpose;
                        assert_eq!(
                            decide(&invoice, &answer(BtcpayStatus::Settled)),
                            Decision {
                                change: None,
                                attention: attention.clone()
                            },
                            "{invoice:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_an_invoice_was_for_it_is_closed_as_usual() {
        for purpose in [
            Purpose::TierChange(ByService::NotDone),
            Purpose::TierChange(ByService::Done),
            Purpose::Renewal(ByService::NotDone),
            Purpose::Renewal(ByService::Done),
        ] {
            for there in THERE {
                if there == BtcpayStatus::Settled {
                    continue;
                }
                for status in LOCAL {
                    for (redemption, _) in redemptions() {
                        let purchase = invoice(status, License::None, redemption);
                        let mut other = purchase.clone();
                        other.purpose = purpose;
                        let answer = answer(there);
                        assert_eq!(decide(&other, &answer), decide(&purchase, &answer));
                    }
                }
            }
        }
    }

    #[test]
    fn a_free_sale_is_given_what_is_missing() {
        let mut free = invoice(LocalStatus::Settled, License::None, None);
        free.amount_sats = 0;
        assert_eq!(
            decide(&free, &Answer::of_a_free_sale()),
            Decision {
                change: Some(Change::Settle {
                    issue_license: true,
                    redemption: None
                }),
                attention: None
            }
        );
    }

    /// Which attention each (status, additional status, money came) of BTCPay's deserves.
    #[test]
    fn money_on_a_closed_invoice_is_told_with_the_change_and_without_one() {
        for there in [BtcpayStatus::Expired, BtcpayStatus::Invalid] {
            for additional in ADDITIONAL {
                for paid in [None, Some("0.00000"), Some("0.00001")] {
                    let mut answer = answer(there);
                    answer.additional = additional;
                    answer.money.paid = paid.map(|paid| paid.parse().unwrap());
                    let money = answer.money.clone();
                    let expected = match (there, additional, paid) {
                        (BtcpayStatus::Expired, AdditionalStatus::PaidLate, _) => {
                            Some(Attention::PaidLate(money))
                        }
                        (BtcpayStatus::Expired, AdditionalStatus::PaidPartial, _) => {
                            Some(Attention::PaidPartial(money))
                        }
                        (BtcpayStatus::Invalid, AdditionalStatus::Marked, _) => None,
                        (BtcpayStatus::Invalid, _, Some("0.00001")) => {
                            Some(Attention::InvalidButPaid(money))
                        }
                        _ => None,
                    };
                    for status in [
                        LocalStatus::Pending,
                        LocalStatus::Expired,
                        LocalStatus::Invalid,
                    ] {
                        let decision = decide(&invoice(status, License::None, None), &answer);
                        assert_eq!(decision.attention, expected, "{status:?} {answer:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_amount_is_told_with_the_settlement_and_does_not_stop_it() {
        let mut answer = answer(BtcpayStatus::Settled);
        answer.money.amount = Some("0.0002".parse().unwrap());
        let told = Some(Attention::AmountMismatch {
            there: answer.money.clone(),
            here_sats: 21_000,
        });
        for status in LOCAL {
            let decision = decide(&invoice(status, License::None, None), &answer);
            assert_eq!(decision.attention, told);
            assert!(matches!(
                decision.change,
                Some(Change::Settle {
                    issue_license: true,
                    ..
                })
            ));
        }
        let complete = invoice(LocalStatus::Settled, licensed(), None);
        assert_eq!(
            decide(&complete, &answer),
            Decision::NOTHING,
            "nothing is settled here"
        );
        answer.money.currency = "EUR".into();
        let pending = invoice(LocalStatus::Pending, License::None, None);
        assert_eq!(decide(&pending, &answer).attention, None);
    }
}
