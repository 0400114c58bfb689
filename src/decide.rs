//! The rules: what BTCPay Server's word means for an invoice. Pure: an invoice and an answer in, a
//! decision out. Nothing here reads a database, a network or a clock.

use rust_decimal::Decimal;

use crate::invoice::{
    AdditionalStatus, Answer, BtcpayStatus, CodeUses, Deletion, Invoice, License, LicenseId,
    LocalStatus, Missing, Money, Purpose, Redemption, RedemptionStatus, Tip,
};

/// Seconds after which BTCPay Server deletes expired invoices that nobody paid: six months, at their
/// shortest.
const DELETED_AFTER: i64 = 181 * 24 * 3600;

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
        issue: Option<Issue>,
        complete: Missing,
        redeem: Option<Redeem>,
    },
    /// The invoice becomes, or stays, closed without a sale.
    Close {
        to: LocalStatus,
        cancel_redemption: bool,
    },
}

/// Who decided that a license is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issue {
    ByRule,
    /// Whatever there is to doubt about it.
    ByPerson,
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
    pub completed: Missing,
    /// [`RedemptionStatus::Redeemed`] or [`RedemptionStatus::Cancelled`].
    pub redemption: Option<RedemptionStatus>,
    /// The code that took a slot beyond its limit.
    pub over_max_uses: Option<CodeUses>,
    /// What the license's policy promises a third party. Nobody has sent it.
    pub tip: Option<Tip>,
}

impl Written {
    /// What a person should know of it.
    pub fn attention(&self) -> impl Iterator<Item = Attention> {
        let over_max_uses = self.over_max_uses.clone().map(Attention::CodeOverMaxUses);
        let tip = self.tip.clone().map(Attention::TipNotSent);
        over_max_uses.into_iter().chain(tip)
    }
}

/// Why a license that the rules would issue may not be owed. Found under the write lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// What is left of the invoice's history shows that it paid for something else.
    NoPurchase(Purpose),
    /// Only the invoice's note says so.
    NotedAs(Purpose),
    ProductMissing(String),
    /// A license without an invoice was issued for the same product and buyer after the invoice was
    /// created: someone has probably replaced the lost one.
    LicenseByHand(LicenseId),
    /// The invoice was settled before, and licenses were deleted since.
    LicenseDeleted(Deletion),
    PolicyMissing(String),
}

/// What only a person can resolve. A new reason is a variant here, with its word and its rule; what it
/// says is in `report/advice.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attention {
    PaidLate(Money),
    PaidPartial(Money),
    InvalidButPaid(Money),
    /// BTCPay settled it over another amount than the database's, or for less than its amount.
    AmountMismatch(Money),
    SettledHereNotThere(BtcpayStatus),
    /// The license is in use, and nothing is half done.
    LicensedNotPaid(BtcpayStatus),
    NotInBtcpay,
    LicenseByHand(LicenseId),
    LicenseDeleted(Deletion),
    PolicyMissing(String),
    ProductMissing(String),
    TierChangePaid(Missed),
    RenewalPaid(Missed),
    /// These follow from [`Written`], never from [`decide`].
    CodeOverMaxUses(CodeUses),
    TipNotSent(Tip),
    /// A change that a person's acknowledgement holds back.
    HeldBack,
}

/// What the service did instead of what only it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    pub applied: bool,
    /// A license that nobody is owed.
    pub surplus_license: Option<LicenseId>,
    /// Only the invoice's note says that it was none.
    pub may_be_purchase: bool,
}

impl Attention {
    /// Whether it came with a change, so that no later answer shows it again.
    pub const fn is_one_off(&self) -> bool {
        match self {
            Self::AmountMismatch(_) | Self::CodeOverMaxUses(_) | Self::TipNotSent(_) => true,
            Self::PaidLate(_)
            | Self::PaidPartial(_)
            | Self::InvalidButPaid(_)
            | Self::SettledHereNotThere(_)
            | Self::LicensedNotPaid(_)
            | Self::NotInBtcpay
            | Self::LicenseByHand(_)
            | Self::LicenseDeleted(_)
            | Self::PolicyMissing(_)
            | Self::ProductMissing(_)
            | Self::TierChangePaid(_)
            | Self::RenewalPaid(_)
            | Self::HeldBack => false,
        }
    }

    /// Its word in reports, for scripts as well.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::PaidLate(_) => "paid_late",
            Self::PaidPartial(_) => "paid_partial",
            Self::InvalidButPaid(_) => "invalid_but_paid",
            Self::AmountMismatch(_) => "amount_mismatch",
            Self::SettledHereNotThere(_) => "settled_here_not_there",
            Self::LicensedNotPaid(_) => "licensed_not_paid",
            Self::NotInBtcpay => "not_in_btcpay",
            Self::LicenseByHand(_) => "license_by_hand",
            Self::LicenseDeleted(_) => "license_deleted",
            Self::PolicyMissing(_) => "policy_missing",
            Self::ProductMissing(_) => "product_missing",
            Self::TierChangePaid(_) => "tier_change_paid",
            Self::RenewalPaid(_) => "renewal_paid",
            Self::CodeOverMaxUses(_) => "code_over_max_uses",
            Self::TipNotSent(_) => "tip_not_sent",
            Self::HeldBack => "held_back",
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

    /// Whether it gives the buyer something, which a [`Doubt`] may hold back.
    pub fn gives(&self) -> bool {
        match &self.change {
            Some(Change::Settle {
                issue, complete, ..
            }) => issue.is_some() || *complete != Missing::NOTHING,
            Some(Change::Close { .. }) | None => false,
        }
    }
}

/// The decision on `invoice`, about which BTCPay Server says `answer`.
#[rustfmt::skip]
pub fn decide(invoice: &Invoice, answer: &Answer) -> Decision {
    use BtcpayStatus::{Expired, Invalid, New, Processing, Settled};
    match (answer.status, invoice.status) {
        // BTCPay says          the database says
        (Settled,               _) => settle(invoice, answer),
        (Expired,               LocalStatus::Pending) => close(invoice, answer, LocalStatus::Expired),
        (Invalid,               LocalStatus::Pending) => close(invoice, answer, LocalStatus::Invalid),
        (Expired | Invalid,     LocalStatus::Expired | LocalStatus::Invalid) =>
            close(invoice, answer, invoice.status),
        (New | Processing,      LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid) =>
            Decision::NOTHING,
        (New | Processing | Expired | Invalid, LocalStatus::Settled) => not_paid(invoice, answer.status),
    }
}

/// The database says settled, and BTCPay Server does not.
fn not_paid(invoice: &Invoice, status: BtcpayStatus) -> Decision {
    if !is_complete(invoice) {
        return Decision::only(Attention::SettledHereNotThere(status));
    }
    match (&invoice.license, status) {
        (_, BtcpayStatus::Processing | BtcpayStatus::Settled)
        | (
            License::None
            | License::Issued {
                is_active: false, ..
            },
            _,
        ) => Decision::NOTHING,
        (
            License::Issued {
                is_active: true, ..
            },
            BtcpayStatus::New | BtcpayStatus::Expired | BtcpayStatus::Invalid,
        ) => Decision::only(Attention::LicensedNotPaid(status)),
    }
}

/// What a person should know of `invoice`, which the store does not have. One that is closed, its
/// redemption included, needs nothing more: BTCPay Server deletes unpaid expired invoices after six
/// months.
pub fn decide_missing(invoice: &Invoice) -> Option<Attention> {
    let is_half_closed = || {
        let redemption = invoice.redemption.as_ref();
        redemption.is_some_and(|redemption| redemption.status == RedemptionStatus::Pending)
    };
    let is_open = match invoice.status {
        LocalStatus::Pending => true,
        LocalStatus::Settled => !is_complete(invoice),
        LocalStatus::Expired | LocalStatus::Invalid => is_half_closed(),
    };
    is_open.then_some(Attention::NotInBtcpay)
}

/// Whether BTCPay Server may have deleted `invoice` by itself by Unix second `now`, and nothing is
/// left to do for it: that it is not there says nothing about the store.
pub fn may_be_deleted(invoice: &Invoice, now: i64) -> bool {
    decide_missing(invoice).is_none() && now - invoice.created > DELETED_AFTER
}

/// The decision on a paid invoice whose decision [gives](Decision::gives), in doubt.
pub fn decide_in_doubt(invoice: &Invoice, answer: &Answer, doubt: Doubt) -> Decision {
    match doubt {
        Doubt::NoPurchase(purpose) => settle(&invoice.with(purpose), answer),
        Doubt::NotedAs(purpose) => {
            let mut decision = settle(&invoice.with(purpose), answer);
            if let Some(Attention::TierChangePaid(missed) | Attention::RenewalPaid(missed)) =
                &mut decision.attention
            {
                missed.may_be_purchase = true;
            }
            decision
        }
        Doubt::ProductMissing(id) => Decision::only(Attention::ProductMissing(id)),
        Doubt::LicenseByHand(id) => Decision::only(Attention::LicenseByHand(id)),
        Doubt::LicenseDeleted(deletion) => Decision::only(Attention::LicenseDeleted(deletion)),
        Doubt::PolicyMissing(id) => Decision::only(Attention::PolicyMissing(id)),
    }
}

/// The decision on `invoice`, about which BTCPay Server says `answer`; None if it does not have it.
pub fn decide_with(invoice: &Invoice, answer: Option<&Answer>) -> Decision {
    match answer {
        Some(answer) => decide(invoice, answer),
        None => Decision {
            change: None,
            attention: decide_missing(invoice),
        },
    }
}

/// What follows if a person decides that the buyer of `invoice` gets a license.
///
/// # Errors
///
/// Why it is refused.
pub fn decide_to_issue(
    invoice: &Invoice,
    answer: &Answer,
) -> Result<(Change, Option<Attention>), String> {
    if answer.status != BtcpayStatus::Settled {
        return Err(format!("BTCPay says {}, not Settled", answer.status.word()));
    }
    match (invoice.purpose, &invoice.license) {
        (Purpose::TierChange { .. }, _) => Err("it pays for a change of tier".into()),
        (Purpose::Renewal { .. }, _) => Err("it pays for a renewal".into()),
        (Purpose::Purchase, License::Issued { id, .. }) => Err(format!("it has license {id}")),
        (Purpose::Purchase, License::None) => {
            let change = Change::Settle {
                issue: Some(Issue::ByPerson),
                complete: Missing::NOTHING,
                redeem: redeem(invoice),
            };
            Ok((change, mismatch(invoice, answer)))
        }
    }
}

/// Whether a settled invoice has everything that it is owed.
pub fn is_complete(invoice: &Invoice) -> bool {
    let is_licensed = matches!(invoice.license, License::Issued { .. });
    match invoice.purpose {
        Purpose::Purchase => {
            let is_undone = undone_by_the_service(invoice);
            let is_whole = is_licensed && invoice.missing == Missing::NOTHING;
            is_undone || is_whole && redeem(invoice).is_none()
        }
        Purpose::TierChange { applied } => applied && surplus_license(invoice).is_none(),
        Purpose::Renewal { applied } => applied,
    }
}

/// A free sale whose redemption failed: the buyer saw an error, and may have redeemed again.
fn undone_by_the_service(invoice: &Invoice) -> bool {
    let redemption = invoice.redemption.as_ref();
    invoice.btcpay_id.is_free()
        && invoice.license == License::None
        && redemption.is_some_and(|redemption| redemption.status == RedemptionStatus::Cancelled)
}

/// The buyer has paid.
fn settle(invoice: &Invoice, answer: &Answer) -> Decision {
    if invoice.status == LocalStatus::Settled && is_complete(invoice) {
        return Decision::NOTHING;
    }
    match invoice.purpose {
        Purpose::Purchase => Decision {
            change: Some(Change::Settle {
                issue: (invoice.license == License::None).then_some(Issue::ByRule),
                complete: invoice.missing,
                redeem: redeem(invoice),
            }),
            attention: mismatch(invoice, answer),
        },
        Purpose::TierChange { applied: true } | Purpose::Renewal { applied: true }
            if is_complete(invoice) =>
        {
            Decision::NOTHING
        }
        Purpose::TierChange { applied } => {
            Decision::only(Attention::TierChangePaid(missed(invoice, applied)))
        }
        Purpose::Renewal { applied } => {
            Decision::only(Attention::RenewalPaid(missed(invoice, applied)))
        }
    }
}

fn missed(invoice: &Invoice, applied: bool) -> Missed {
    Missed {
        applied,
        surplus_license: surplus_license(invoice),
        may_be_purchase: false,
    }
}

/// A license of an invoice that is no purchase, unless it was revoked.
fn surplus_license(invoice: &Invoice) -> Option<LicenseId> {
    match &invoice.license {
        License::Issued {
            id,
            is_active: true,
        } => Some(id.clone()),
        License::Issued {
            is_active: false, ..
        }
        | License::None => None,
    }
}

fn mismatch(invoice: &Invoice, answer: &Answer) -> Option<Attention> {
    amount_differs(invoice, answer).then(|| Attention::AmountMismatch(answer.money.clone()))
}

/// A tolerance set in BTCPay may settle an invoice for less than its amount, and one without a fixed
/// amount is settled by any payment; a person who marked it knows. More than the price is nobody's loss.
fn amount_differs(invoice: &Invoice, answer: &Answer) -> bool {
    let money = &answer.money;
    let price = money.of_sats(invoice.amount_sats);
    let is_marked = answer.additional == AdditionalStatus::Marked;
    match money.amount {
        Some(amount) => {
            let is_short = money.paid.is_some_and(|paid| paid < amount);
            is_short && !is_marked || price.is_some_and(|price| amount != price)
        }
        None => !is_marked && price.is_some_and(|price| money.paid.is_none_or(|paid| paid < price)),
    }
}

/// A redemption that is redeemed but names no license is still to be tied to one. One that was
/// cancelled comes to life again with a license that is alive.
fn redeem(invoice: &Invoice) -> Option<Redeem> {
    let redemption = invoice.redemption.as_ref()?;
    match (redemption.status, &redemption.license_id, &invoice.license) {
        (RedemptionStatus::Redeemed, None, _) | (RedemptionStatus::Pending, _, _) => {
            Some(Redeem::KeepSlot)
        }
        (
            RedemptionStatus::Cancelled,
            _,
            License::None
            | License::Issued {
                is_active: true, ..
            },
        ) => Some(Redeem::TakeSlot),
        (
            RedemptionStatus::Cancelled,
            _,
            License::Issued {
                is_active: false, ..
            },
        )
        | (RedemptionStatus::Redeemed, Some(_), _) => None,
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

/// What a person should know of money on an invoice that BTCPay Server closed.
///
/// Marked means that the merchant has decided already. An invoice becomes Invalid by itself only if a
/// payment did not confirm in time, whatever BTCPay Server says of the amount.
pub fn money_on_closed(answer: &Answer) -> Option<Attention> {
    use AdditionalStatus::{
        Invalid, Marked, None as Nothing, PaidLate, PaidOver, PaidPartial, Unknown,
    };
    let money = || answer.money.clone();
    match (answer.status, answer.additional) {
        (_, Marked) | (BtcpayStatus::New | BtcpayStatus::Processing | BtcpayStatus::Settled, _) => {
            None
        }
        (BtcpayStatus::Expired, PaidLate) => Some(Attention::PaidLate(money())),
        (BtcpayStatus::Expired, PaidPartial) => Some(Attention::PaidPartial(money())),
        (BtcpayStatus::Expired, Nothing | PaidOver | Invalid | Unknown) => {
            let paid = answer.money.paid.filter(|paid| *paid > Decimal::ZERO)?;
            let is_part = answer.money.amount.is_some_and(|amount| paid < amount);
            Some(if is_part {
                Attention::PaidPartial(money())
            } else {
                Attention::PaidLate(money())
            })
        }
        (
            BtcpayStatus::Invalid,
            Nothing | PaidLate | PaidPartial | PaidOver | Invalid | Unknown,
        ) => Some(Attention::InvalidButPaid(money())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId, Provider};

    /// What is written. One line a rule, the first that fits counts; `*` fits everything, `|` separates
    /// alternatives. `as-missing` completes what is missing, `unless-issued` issues a license if there
    /// is none.
    const CHANGES: &str = "
purpose   here             BTCPay           license      missing  redemption      => status   license        completed   redemption
purchase  settled          Settled          active|inactive nothing none|tied     => -        -              -           -
purchase  settled          Settled          inactive     nothing  cancelled       => -        -              -           -
purchase  *                Settled          inactive     *        cancelled       => settled  -              as-missing  -
purchase  *                Settled          *            *        cancelled       => settled  unless-issued  as-missing  redeemed+1
purchase  *                Settled          *            *        pending|untied  => settled  unless-issued  as-missing  redeemed
purchase  *                Settled          *            *        none|tied       => settled  unless-issued  as-missing  -
*         *                Settled          *            *        *               => -        -              -           -
*         settled          *                *            *        *               => -        -              -           -
*         *                New|Processing   *            *        *               => -        -              -           -
*         pending          Expired          *            *        pending         => expired  -              -           cancelled
*         pending          Expired          *            *        *               => expired  -              -           -
*         pending          Invalid          *            *        pending         => invalid  -              -           cancelled
*         pending          Invalid          *            *        *               => invalid  -              -           -
*         expired          Expired|Invalid  *            *        pending         => expired  -              -           cancelled
*         invalid          Expired|Invalid  *            *        pending         => invalid  -              -           cancelled
*         expired|invalid  Expired|Invalid  *            *        *               => -        -              -           -
";

    /// What is reported.
    const ATTENTION: &str = "
purpose              here     BTCPay          also     paid    amount  license          missing  redemption => attention
purchase             settled  Settled         *        *       *       active|inactive  nothing  none|tied  => -
purchase             settled  Settled         *        *       *       inactive         nothing  cancelled  => -
purchase             *        Settled         Marked   *       same|open|open-EUR  *    *        *          => -
purchase             *        Settled         *        *       open-EUR *               *        *          => -
purchase             *        Settled         *        full|more  open  *               *        *          => -
purchase             *        Settled         *        ?|full|more  same  *             *        *          => -
purchase             *        Settled         *        *       *       *                *        *          => amount_mismatch
tier-change-applied  *        Settled         *        *       *       active           *        *          => tier_change_paid
tier-change-applied  *        Settled         *        *       *       *                *        *          => -
tier-change          *        Settled         *        *       *       *                *        *          => tier_change_paid
renewal-applied      *        Settled         *        *       *       *                *        *          => -
renewal              *        Settled         *        *       *       *                *        *          => renewal_paid
purchase             settled  New|Expired|Invalid  *   *       *       active           nothing  none|tied  => licensed_not_paid
purchase             settled  *               *        *       *       active|inactive  nothing  none|tied  => -
purchase             settled  *               *        *       *       inactive         nothing  cancelled  => -
tier-change-applied  settled  *               *        *       *       none|inactive    *        *          => -
renewal-applied      settled  New|Expired|Invalid  *   *       *       active           *        *          => licensed_not_paid
renewal-applied      settled  *               *        *       *       *                *        *          => -
*                    settled  *               *        *       *       *                *        *          => settled_here_not_there
*                    *        New|Processing  *        *       *       *                *        *          => -
*                    *        Expired         Late     *       *       *                *        *          => paid_late
*                    *        Expired         Partial  *       *       *                *        *          => paid_partial
*                    *        Expired|Invalid Marked   *       *       *                *        *          => -
*                    *        Expired         *        ?|0     *       *                *        *          => -
*                    *        Expired         *        some    same|other  *            *        *          => paid_partial
*                    *        Expired         *        *       *       *                *        *          => paid_late
*                    *        Invalid         *        *       *       *                *        *          => invalid_but_paid
";

    /// A table's rules, each with whether it was used.
    struct Table {
        columns: Vec<&'static str>,
        rules: Vec<(Vec<&'static str>, Vec<&'static str>, bool)>,
    }

    impl Table {
        fn read(text: &'static str) -> Self {
            let mut lines = text.trim().lines().map(|line| {
                let (given, then) = line.split_once("=>").unwrap();
                let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
                (words(given), words(then))
            });
            let (columns, _) = lines.next().unwrap();
            let rules = lines.map(|(given, then)| (given, then, false)).collect();
            Self { columns, rules }
        }

        /// What follows from `state`, each of whose words has its column's name.
        fn then(&mut self, state: &[(&str, &'static str)]) -> Vec<&'static str> {
            let words = self.columns.iter().map(|column| {
                let word = state.iter().find(|(name, _)| name == column);
                word.unwrap().1
            });
            let words: Vec<&str> = words.collect();
            let fits = |given: &[&str]| {
                assert_eq!(given.len(), words.len(), "{given:?}");
                let mut cells = given.iter().zip(&words);
                cells.all(|(cell, word)| *cell == "*" || cell.split('|').any(|one| one == *word))
            };
            let rule = self.rules.iter_mut().find(|(given, ..)| fits(given));
            let (_, then, used) = rule.unwrap_or_else(|| panic!("no rule for {state:?}"));
            *used = true;
            then.clone()
        }

        fn every_rule_was_used(&self) {
            for (given, then, used) in &self.rules {
                assert!(used, "no combination reaches {given:?} => {then:?}");
            }
        }
    }

    type Named<T> = (&'static str, T);

    const PURPOSES: [Named<Purpose>; 5] = [
        ("purchase", Purpose::Purchase),
        ("tier-change", Purpose::TierChange { applied: false }),
        ("tier-change-applied", Purpose::TierChange { applied: true }),
        ("renewal", Purpose::Renewal { applied: false }),
        ("renewal-applied", Purpose::Renewal { applied: true }),
    ];
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
    /// Currency and amount. What is not bitcoin cannot be compared with sats, so it never differs; of
    /// what is without an amount, only what was paid.
    const AMOUNTS: [Named<(&str, Option<&str>)>; 6] = [
        ("same", ("BTC", Some("0.00021"))),
        ("same", ("SATS", Some("21000.0"))),
        ("same", ("EUR", Some("19.99"))),
        ("other", ("BTC", Some("0.0002"))),
        ("open", ("BTC", None)),
        ("open-EUR", ("EUR", None)),
    ];
    const PAID: [&str; 5] = ["?", "0", "some", "full", "more"];
    const MISSING: [Named<Missing>; 2] = [
        ("nothing", Missing::NOTHING),
        (
            "cycle",
            Missing {
                cycle: true,
                ..Missing::NOTHING
            },
        ),
    ];

    fn licenses() -> [Named<License>; 3] {
        let issued = |is_active| License::Issued {
            id: LicenseId("lic".into()),
            is_active,
        };
        [
            ("none", License::None),
            ("active", issued(true)),
            ("inactive", issued(false)),
        ]
    }

    fn redemptions() -> [Named<Option<Redemption>>; 5] {
        let redemption = |status, license_id| Some(Redemption { status, license_id });
        let tied = Some(LicenseId("lic".into()));
        [
            ("none", None),
            ("pending", redemption(RedemptionStatus::Pending, None)),
            ("untied", redemption(RedemptionStatus::Redeemed, None)),
            ("tied", redemption(RedemptionStatus::Redeemed, tied)),
            ("cancelled", redemption(RedemptionStatus::Cancelled, None)),
        ]
    }

    fn purchase() -> Invoice {
        Invoice {
            id: InvoiceId("here".into()),
            btcpay_id: BtcpayInvoiceId("there".into()),
            status: LocalStatus::Settled,
            amount_sats: 21_000,
            created: 1_795_000_000,
            provider: Provider::OurStore,
            purpose: Purpose::Purchase,
            license: License::None,
            missing: Missing::NOTHING,
            redemption: None,
        }
    }

    /// The value that the last digit of `rest` stands for, to the base of their number.
    fn pick<T: Clone>(values: &[T], rest: &mut usize) -> T {
        let place = *rest % values.len();
        *rest /= values.len();
        values[place].clone()
    }

    /// In the words of the table.
    fn change_in_words(change: Option<&Change>) -> [&'static str; 4] {
        match change {
            None => ["-"; 4],
            Some(Change::Settle {
                issue,
                complete,
                redeem,
            }) => [
                "settled",
                match issue {
                    None => "-",
                    Some(Issue::ByRule) => "issued",
                    Some(Issue::ByPerson) => "issued by a person",
                },
                complete.words().first().copied().unwrap_or("-"),
                match redeem {
                    None => "-",
                    Some(Redeem::KeepSlot) => "redeemed",
                    Some(Redeem::TakeSlot) => "redeemed+1",
                },
            ],
            Some(Change::Close {
                to,
                cancel_redemption,
            }) => [
                to.word(),
                "-",
                "-",
                if *cancel_redemption { "cancelled" } else { "-" },
            ],
        }
    }

    #[test]
    fn every_combination_follows_the_tables() {
        let (mut changes, mut attention) = (Table::read(CHANGES), Table::read(ATTENTION));
        let (licenses, redemptions) = (licenses(), redemptions());
        let sizes = [
            PURPOSES.len(),
            HERE.len(),
            BTCPAY.len(),
            ALSO.len(),
            PAID.len(),
            AMOUNTS.len(),
            licenses.len(),
            MISSING.len(),
            redemptions.len(),
        ];
        for number in 0..sizes.iter().product() {
            let mut rest = number;
            let (purpose_word, purpose) = pick(&PURPOSES, &mut rest);
            let here = pick(&HERE, &mut rest);
            let btcpay = pick(&BTCPAY, &mut rest);
            let (also_word, additional) = pick(&ALSO, &mut rest);
            let paid_word = pick(&PAID, &mut rest);
            let (amount_word, (currency, amount)) = pick(&AMOUNTS, &mut rest);
            let (license_word, license) = pick(&licenses, &mut rest);
            let (missing_word, missing) = pick(&MISSING, &mut rest);
            let (redemption_word, redemption) = pick(&redemptions, &mut rest);
            let invoice = Invoice {
                status: here,
                purpose,
                license,
                missing,
                redemption,
                ..purchase()
            };
            let amount: Option<Decimal> = amount.map(|amount| amount.parse().unwrap());
            let full = amount.unwrap_or(Decimal::new(21_000, 8));
            let answer = Answer {
                status: btcpay,
                additional,
                money: Money {
                    currency: currency.into(),
                    amount,
                    paid: match paid_word {
                        "0" => Some("0.00".parse().unwrap()),
                        "some" => Some("0.00001".parse().unwrap()),
                        "full" => Some(full),
                        "more" => Some(full + full),
                        _ => None,
                    },
                },
                expires: None,
            };
            let state = [
                ("purpose", purpose_word),
                ("here", here.word()),
                ("BTCPay", btcpay.word()),
                ("also", also_word),
                ("paid", paid_word),
                ("amount", amount_word),
                ("license", license_word),
                ("missing", missing_word),
                ("redemption", redemption_word),
            ];
            let expected: Vec<&str> = changes
                .then(&state)
                .into_iter()
                .map(|word| match (word, license_word, missing_word) {
                    ("unless-issued", "none", _) => "issued",
                    ("unless-issued", ..) | ("as-missing", _, "nothing") => "-",
                    ("as-missing", _, missing) => missing,
                    (word, ..) => word,
                })
                .collect();
            let decision = decide(&invoice, &answer);
            assert_eq!(
                change_in_words(decision.change.as_ref()).as_slice(),
                expected,
                "{state:?}"
            );
            let reason = decision.attention.as_ref().map_or("-", Attention::reason);
            assert_eq!([reason].as_slice(), attention.then(&state), "{state:?}");
        }
        changes.every_rule_was_used();
        attention.every_rule_was_used();
    }

    fn settled() -> Answer {
        Answer::of_a_free_sale()
    }

    #[test]
    fn free_sale_gets_its_license_unless_the_service_undid_it() {
        let free = Invoice {
            btcpay_id: BtcpayInvoiceId("free-1".into()),
            amount_sats: 0,
            ..purchase()
        };
        for (word, redemption) in redemptions() {
            let decision = decide(
                &Invoice {
                    redemption,
                    ..free.clone()
                },
                &settled(),
            );
            assert_eq!(decision.gives(), word != "cancelled", "{word}");
            assert_eq!(decision.attention, None);
        }
    }

    #[test]
    fn every_doubt_holds_the_license_back() {
        let id = || "id".to_owned();
        let deletion = Deletion {
            action: "policy.delete".into(),
            target: id(),
            at: "2026-11-01T00:00:00Z".into(),
        };
        let tier_change = |applied| Purpose::TierChange { applied };
        for (doubt, reason) in [
            (Doubt::ProductMissing(id()), Some("product_missing")),
            (Doubt::PolicyMissing(id()), Some("policy_missing")),
            (
                Doubt::LicenseByHand(LicenseId("id".into())),
                Some("license_by_hand"),
            ),
            (Doubt::LicenseDeleted(deletion), Some("license_deleted")),
            (
                Doubt::NoPurchase(tier_change(false)),
                Some("tier_change_paid"),
            ),
            (Doubt::NoPurchase(tier_change(true)), None),
            (Doubt::NotedAs(tier_change(false)), Some("tier_change_paid")),
            (
                Doubt::NotedAs(Purpose::Renewal { applied: false }),
                Some("renewal_paid"),
            ),
        ] {
            let decision = decide_in_doubt(&purchase(), &settled(), doubt.clone());
            assert_eq!(decision.change, None, "{doubt:?}");
            assert_eq!(
                decision.attention.as_ref().map(Attention::reason),
                reason,
                "{doubt:?}"
            );
        }
    }

    #[test]
    fn person_issues_only_what_is_paid_and_has_no_license() {
        for (purpose_word, purpose) in PURPOSES {
            for (license_word, license) in licenses() {
                for status in BTCPAY {
                    let invoice = Invoice {
                        purpose,
                        license: license.clone(),
                        ..purchase()
                    };
                    let answer = Answer {
                        status,
                        ..settled()
                    };
                    let may = (purpose_word, license_word, status)
                        == ("purchase", "none", BtcpayStatus::Settled);
                    assert_eq!(
                        decide_to_issue(&invoice, &answer).is_ok(),
                        may,
                        "{invoice:?}"
                    );
                }
            }
        }
    }
}
