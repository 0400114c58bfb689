//! The life of what needs a person, as `audit_log` keeps it: noted when first seen, told again from
//! time to time, over, or acknowledged. Pure: what was noted and what is true now in, what to note
//! and to tell out.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decide::Attention;
use crate::invoice::{
    AdditionalStatus, Answer, BtcpayStatus, CodeUses, Invoice, License, LicenseId, LocalStatus,
    Money, RedemptionStatus, Tip,
};

const NOTED: &str = "attention.noted";
const REMINDED: &str = "attention.reminded";
const RESOLVED: &str = "attention.resolved";
const ACKNOWLEDGED: &str = "attention.acknowledged";

/// The actions in `audit_log` that are read here.
pub const ACTIONS: [&str; 4] = [NOTED, REMINDED, RESOLVED, ACKNOWLEDGED];

const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;

/// How old something is, in seconds, when it is told again; then weekly.
const REMINDERS: [i64; 3] = [DAY, 3 * DAY, WEEK];

/// A row for `audit_log`: its action, and the details that are its own.
pub type NoteRow = (&'static str, Value);

/// In which kind of run something is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Nobody may be reading: what is noted is told again by the next recheck.
    Minute,
    /// Cron mails what it says.
    Recheck,
}

/// What `audit_log` says of one invoice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    pub open: Vec<Noted>,
    told_one_offs: Vec<Attention>,
    pub acknowledged: Option<Acknowledged>,
}

/// Something that was noted and is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    pub reason: Box<str>,
    /// Unix seconds.
    pub since: i64,
    /// When a recheck last told it, in Unix seconds.
    pub told: Option<i64>,
    /// If it is one that no answer shows again.
    pub one_off: Option<Attention>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Unix seconds.
    pub at: i64,
    what: Standing,
}

/// What a person has seen and accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    here: LocalStatus,
    /// None if the store does not have the invoice.
    btcpay: Option<BtcpayStatus>,
    additional_status: Option<AdditionalStatus>,
    /// A decimal without trailing zeros.
    paid_amount: Option<String>,
    license_id: Option<LicenseId>,
    redemption: Option<RedemptionStatus>,
}

impl Standing {
    /// Of `invoice`, about which BTCPay Server says `answer`; None if it does not have it.
    pub fn of(invoice: &Invoice, answer: Option<&Answer>) -> Self {
        let redemption = invoice.redemption.as_ref();
        Self {
            here: invoice.status,
            btcpay: answer.map(|answer| answer.status),
            additional_status: answer.map(|answer| answer.additional),
            paid_amount: answer
                .and_then(|answer| answer.money.paid)
                .map(|paid| paid.normalize().to_string()),
            license_id: match &invoice.license {
                License::Issued { id, .. } => Some(id.clone()),
                License::None => None,
            },
            redemption: redemption.map(|redemption| redemption.status),
        }
    }

    /// Whether `now` is no different. An amount that BTCPay Server did not tell before is no difference,
    /// nor is what takes back the sale here: it was closed since, with or without its license, or its
    /// redemption was cancelled. The service does that by itself to an invoice that it takes for unpaid,
    /// and a person to one that was refunded.
    fn still_is(&self, now: &Self) -> bool {
        let was_closed = match now.here {
            LocalStatus::Expired | LocalStatus::Invalid => self.here != now.here,
            LocalStatus::Pending | LocalStatus::Settled => false,
        };
        let was_cancelled = now.redemption == Some(RedemptionStatus::Cancelled)
            && (was_closed || self.redemption == Some(RedemptionStatus::Pending));
        self.btcpay == now.btcpay
            && self.additional_status == now.additional_status
            && (self.paid_amount.is_none() || self.paid_amount == now.paid_amount)
            && (self.here == now.here || was_closed)
            && (self.license_id == now.license_id || was_closed && now.license_id.is_none())
            && (self.redemption == now.redemption || was_cancelled)
    }
}

/// What becomes of something that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is new: note it, and tell it.
    Note(Attention),
    /// It is told again.
    Remind { attention: Attention, since: i64 },
    /// It was told, and is not due again.
    Stand { attention: Attention, since: i64 },
    /// It is over, which is noted.
    Resolve { reason: Box<str> },
}

impl Step {
    /// Whether `audit_log` gets a row.
    pub const fn is_noted(&self) -> bool {
        match self {
            Self::Note(_) | Self::Resolve { .. } => true,
            Self::Remind { .. } | Self::Stand { .. } => false,
        }
    }

    /// The row's action and the details that are its own; None if there is no row.
    pub fn row(&self) -> Option<NoteRow> {
        match self {
            Self::Note(attention) => {
                let mut details = facts(attention);
                if let Some(fields) = details.as_object_mut() {
                    fields.insert("reason".into(), json!(attention.reason()));
                }
                Some((NOTED, details))
            }
            Self::Resolve { reason } => Some((RESOLVED, json!({"reason": reason}))),
            Self::Remind { .. } | Self::Stand { .. } => None,
        }
    }
}

/// The row for something that a recheck has told. It is written only then: a run killed in between
/// tells it twice rather than never.
pub fn told(reason: &str) -> NoteRow {
    (REMINDED, json!({"reason": reason}))
}

/// The row of a person's acknowledgement, as of [`Step::row`].
///
/// # Errors
///
/// It cannot be written as JSON.
pub fn acknowledgement(standing: &Standing) -> serde_json::Result<NoteRow> {
    Ok((
        ACKNOWLEDGED,
        json!({"stands": serde_json::to_value(standing)?}),
    ))
}

impl Past {
    /// Adds a row of the log that this program wrote at Unix second `at`, in the log's order.
    pub fn add(&mut self, action: &str, details: &Value, at: i64) {
        let Some(reason) = details.get("reason").and_then(Value::as_str) else {
            if action == ACKNOWLEDGED
                && let Some(stands) = details.get("stands")
                && let Ok(what) = Standing::deserialize(stands)
            {
                self.open.clear();
                self.acknowledged = Some(Acknowledged { at, what });
            }
            return;
        };
        let place = self.open.iter().position(|noted| &*noted.reason == reason);
        match (action, place) {
            (NOTED, _) => {
                self.acknowledged = None;
                self.open.retain(|noted| &*noted.reason != reason);
                self.open.push(Noted {
                    reason: reason.into(),
                    since: at,
                    told: None,
                    one_off: one_off(reason, details),
                });
            }
            (REMINDED, Some(place)) => {
                if let Some(noted) = self.open.get_mut(place) {
                    noted.told = Some(at);
                    // A clock that was ahead noted it.
                    noted.since = noted.since.min(at);
                }
            }
            (RESOLVED, Some(place)) => {
                self.open.remove(place);
            }
            _ => {}
        }
        let (open, told): (_, Vec<Noted>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|noted| noted.one_off.is_none() || noted.told.is_none());
        self.open = open;
        self.told_one_offs
            .extend(told.into_iter().filter_map(|noted| noted.one_off));
    }

    /// The end of everything: the invoice is gone.
    pub fn end(&self) -> Vec<Step> {
        let open = self.open.iter();
        open.map(|noted| Step::Resolve {
            reason: noted.reason.clone(),
        })
        .collect()
    }

    /// When a person acknowledged what stands `now`, in Unix seconds; None if it was not, or has
    /// changed since.
    pub fn acknowledged(&self, now: &Standing) -> Option<i64> {
        let acknowledged = self.acknowledged.as_ref()?;
        acknowledged.what.still_is(now).then_some(acknowledged.at)
    }

    /// What becomes of what needs a person now (`present`) and of what did before, at Unix second
    /// `now`.
    pub fn next(&self, present: Vec<Attention>, occasion: Occasion, now: i64) -> Vec<Step> {
        let is_present = |noted: &Noted| present.iter().any(|one| one.reason() == &*noted.reason);
        let absent = self.open.iter().filter(|noted| !is_present(noted));
        let (again, resolved): (Vec<_>, Vec<_>) = absent
            .map(|noted| match &noted.one_off {
                Some(attention) => (Some(attention.clone()), None),
                None => (
                    None,
                    Some(Step::Resolve {
                        reason: noted.reason.clone(),
                    }),
                ),
            })
            .unzip();
        let news = present
            .into_iter()
            .filter(|one| !self.told_one_offs.contains(one));
        let all = news.chain(again.into_iter().flatten());
        let steps = all.map(|attention| {
            let noted = |noted: &&Noted| &*noted.reason == attention.reason();
            let Some(noted) = self.open.iter().find(noted) else {
                return Step::Note(attention);
            };
            let since = noted.since;
            match occasion {
                Occasion::Recheck if noted.is_due(now) => Step::Remind { attention, since },
                Occasion::Recheck | Occasion::Minute => Step::Stand { attention, since },
            }
        });
        steps.chain(resolved.into_iter().flatten()).collect()
    }
}

impl Noted {
    /// Whether a recheck tells it again at Unix second `now`.
    fn is_due(&self, now: i64) -> bool {
        // What claims to be of the future was noted by a clock that was wrong.
        let since = self.since.min(now);
        let Some(told) = self.told else {
            return true;
        };
        let age_when_told = told.min(now).saturating_sub(since);
        let next = REMINDERS.into_iter().find(|age| *age > age_when_told);
        let next = next.unwrap_or_else(|| (age_when_told / WEEK + 1).saturating_mul(WEEK));
        now.saturating_sub(since) >= next
    }
}

/// What the log keeps of it; enough for [`one_off`].
fn facts(attention: &Attention) -> Value {
    match attention {
        Attention::PaidLate(money)
        | Attention::PaidPartial(money)
        | Attention::InvalidButPaid(money)
        | Attention::AmountMismatch(money) => json!({
            "amount": money.amount.map(|amount| amount.normalize().to_string()),
            "paid": money.paid.map(|paid| paid.normalize().to_string()),
            "currency": money.currency,
        }),
        Attention::CodeOverMaxUses(uses) => json!({
            "code": uses.code,
            "used_count": uses.used_count,
            "max_uses": uses.max_uses,
        }),
        Attention::TipNotSent(tip) => json!({"recipient": tip.recipient, "sats": tip.sats}),
        Attention::SettledHereNotThere(status) | Attention::LicensedNotPaid(status) => {
            json!({"btcpay": status.word()})
        }
        Attention::NotInBtcpay
        | Attention::LicenseByHand(_)
        | Attention::LicenseDeleted(_)
        | Attention::PolicyMissing(_)
        | Attention::ProductMissing(_)
        | Attention::TierChangePaid(_)
        | Attention::RenewalPaid(_)
        | Attention::HeldBack => json!({}),
    }
}

/// One that came with a change, which no later answer shows again.
fn one_off(reason: &str, facts: &Value) -> Option<Attention> {
    let text = |name: &str| Some(facts.get(name)?.as_str()?.to_owned());
    let number = |name: &str| facts.get(name)?.as_i64();
    let decimal = |name: &str| text(name)?.parse::<Decimal>().ok();
    match reason {
        "amount_mismatch" => Some(Attention::AmountMismatch(Money {
            currency: text("currency")?,
            amount: decimal("amount"),
            paid: decimal("paid"),
        })),
        "code_over_max_uses" => Some(Attention::CodeOverMaxUses(CodeUses {
            code: text("code")?,
            used_count: number("used_count")?,
            max_uses: number("max_uses")?,
        })),
        "tip_not_sent" => Some(Attention::TipNotSent(Tip {
            recipient: text("recipient")?,
            sats: number("sats")?,
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId, Missing, Provider, Purpose, Redemption};

    const NOW: i64 = 1_795_000_000;

    fn money(paid: Option<&str>) -> Money {
        Money {
            currency: "BTC".into(),
            amount: Some("0.00021".parse().unwrap()),
            paid: paid.map(|paid| paid.parse().unwrap()),
        }
    }

    fn late() -> Attention {
        Attention::PaidLate(money(Some("0.00021")))
    }

    fn mismatch() -> Attention {
        Attention::AmountMismatch(money(Some("0.0002")))
    }

    /// As the log has it after a run with these steps at this time, which told what it had to.
    fn log(past: &mut Past, steps: &[Step], occasion: Occasion, at: i64) {
        for step in steps {
            if let Some((action, details)) = step.row() {
                past.add(action, &details, at);
            }
            let (Step::Note(attention) | Step::Remind { attention, .. }) = step else {
                continue;
            };
            if occasion == Occasion::Recheck {
                let (action, details) = told(attention.reason());
                past.add(action, &details, at);
            }
        }
    }

    /// When something that lasts from second 0 is told again, by rechecks at these seconds.
    fn times(noted_by: Occasion, rechecks: impl Iterator<Item = i64>) -> Vec<i64> {
        let mut past = Past::default();
        let steps = past.next(vec![late()], noted_by, 0);
        assert_eq!(steps, [Step::Note(late())]);
        log(&mut past, &steps, noted_by, 0);
        let mut told = Vec::new();
        for now in rechecks {
            let steps = past.next(vec![late()], Occasion::Recheck, now);
            match steps.as_slice() {
                [Step::Remind { since: 0, .. }] => told.push(now),
                [Step::Stand { since: 0, .. }] => {}
                other => panic!("{other:?}"),
            }
            log(&mut past, &steps, Occasion::Recheck, now);
        }
        told
    }

    fn hourly(days: i64) -> impl Iterator<Item = i64> {
        (1..=days * 24).map(|hour| hour * 3600 + 17 * 60)
    }

    fn hours(times: &[i64]) -> Vec<i64> {
        times.iter().map(|time| time / 3600).collect()
    }

    #[test]
    fn what_lasts_is_told_within_the_hour_and_then_ever_less_often() {
        let days = |days: &[i64]| days.iter().map(|day| day * 24).collect::<Vec<_>>();
        let after_a_minutes_run = hours(&times(Occasion::Minute, hourly(30)));
        assert_eq!(after_a_minutes_run[0], 1);
        assert_eq!(after_a_minutes_run[1..], days(&[1, 3, 7, 14, 21, 28]));
        assert_eq!(
            hours(&times(Occasion::Recheck, hourly(30))),
            days(&[1, 3, 7, 14, 21, 28])
        );
    }

    #[test]
    fn rechecks_once_a_day_tell_it_as_often() {
        let daily = (1..=30).map(|day| day * 86_400);
        let days: Vec<i64> = times(Occasion::Recheck, daily)
            .iter()
            .map(|at| at / 86_400)
            .collect();
        assert_eq!(days, [1, 3, 7, 14, 21, 28]);
    }

    #[test]
    fn what_was_noted_but_not_told_is_told_by_the_next_recheck() {
        let mut past = Past::default();
        let steps = past.next(vec![late()], Occasion::Recheck, 0);
        // Killed before it said anything.
        log(&mut past, &steps, Occasion::Minute, 0);
        let steps = past.next(vec![late()], Occasion::Recheck, 3600);
        assert!(
            matches!(steps.as_slice(), [Step::Remind { .. }]),
            "{steps:?}"
        );
    }

    #[test]
    fn clock_that_was_ahead_silences_nothing() {
        let mut past = Past::default();
        let steps = past.next(vec![late()], Occasion::Minute, 0);
        log(&mut past, &steps, Occasion::Minute, 365 * DAY);
        for now in [0, DAY, 3 * DAY, WEEK] {
            let steps = past.next(vec![late()], Occasion::Recheck, now);
            assert!(
                matches!(steps.as_slice(), [Step::Remind { .. }]),
                "{now}: {steps:?}"
            );
            log(&mut past, &steps, Occasion::Recheck, now);
            let again = past.next(vec![late()], Occasion::Recheck, now + 60);
            assert!(
                matches!(again.as_slice(), [Step::Stand { .. }]),
                "{again:?}"
            );
        }
    }

    #[test]
    fn minutes_runs_never_tell_it_again() {
        let mut past = Past::default();
        let steps = past.next(vec![late()], Occasion::Minute, 0);
        log(&mut past, &steps, Occasion::Minute, 0);
        for now in [60, 86_400, 30 * 86_400] {
            let steps = past.next(vec![late()], Occasion::Minute, now);
            assert_eq!(
                steps,
                [Step::Stand {
                    attention: late(),
                    since: 0
                }]
            );
        }
    }

    #[test]
    fn what_came_with_a_change_is_told_once_more_and_done() {
        let mut past = Past::default();
        let steps = past.next(vec![mismatch()], Occasion::Minute, 0);
        log(&mut past, &steps, Occasion::Minute, 0);
        assert_eq!(
            past.next(Vec::new(), Occasion::Minute, 60),
            [Step::Stand {
                attention: mismatch(),
                since: 0
            }]
        );
        let steps = past.next(Vec::new(), Occasion::Recheck, 3600);
        assert_eq!(
            steps,
            [Step::Remind {
                attention: mismatch(),
                since: 0
            }]
        );
        log(&mut past, &steps, Occasion::Recheck, 3600);
        assert_eq!(past.next(Vec::new(), Occasion::Recheck, 7200), []);
        // Its sale is completed only now.
        assert_eq!(past.next(vec![mismatch()], Occasion::Recheck, 7200), []);
        let other = Attention::AmountMismatch(money(None));
        assert_eq!(
            past.next(vec![other.clone()], Occasion::Recheck, 7200),
            [Step::Note(other)]
        );

        let mut past = Past::default();
        let steps = past.next(vec![mismatch()], Occasion::Recheck, 0);
        log(&mut past, &steps, Occasion::Recheck, 0);
        assert_eq!(
            past.next(Vec::new(), Occasion::Recheck, 3600),
            [],
            "a recheck has told it"
        );
    }

    #[test]
    fn facts_of_one_offs_survive_the_log() {
        let uses = CodeUses {
            code: "LAUNCH".into(),
            used_count: 6,
            max_uses: 5,
        };
        let tip = Tip {
            recipient: "me@tips".into(),
            sats: 210,
        };
        let no_amount = Attention::AmountMismatch(Money {
            amount: None,
            ..money(None)
        });
        for attention in [
            mismatch(),
            no_amount,
            Attention::CodeOverMaxUses(uses),
            Attention::TipNotSent(tip),
        ] {
            let mut past = Past::default();
            let steps = past.next(vec![attention.clone()], Occasion::Minute, 0);
            log(&mut past, &steps, Occasion::Minute, 0);
            assert_eq!(past.open[0].one_off, Some(attention));
        }
    }

    #[test]
    fn what_is_gone_is_over_and_may_come_again() {
        let mut past = Past::default();
        let steps = past.next(vec![late()], Occasion::Minute, 0);
        log(&mut past, &steps, Occasion::Minute, 0);
        let steps = past.next(Vec::new(), Occasion::Minute, 60);
        assert_eq!(
            steps,
            [Step::Resolve {
                reason: "paid_late".into()
            }]
        );
        log(&mut past, &steps, Occasion::Minute, 60);
        assert_eq!(past, Past::default());
        let steps = past.next(vec![late()], Occasion::Minute, 120);
        assert_eq!(steps, [Step::Note(late())]);
    }

    fn closed(paid: Option<&str>) -> (Invoice, Answer) {
        let invoice = Invoice {
            id: InvoiceId("here".into()),
            btcpay_id: BtcpayInvoiceId("there".into()),
            status: LocalStatus::Expired,
            amount_sats: 21_000,
            created: 0,
            provider: Provider::OurStore,
            purpose: Purpose::Purchase,
            license: License::None,
            missing: Missing::NOTHING,
            redemption: Some(Redemption {
                status: RedemptionStatus::Pending,
                license_id: None,
            }),
        };
        let answer = Answer {
            status: BtcpayStatus::Expired,
            additional: AdditionalStatus::PaidLate,
            money: money(paid),
            expires: None,
        };
        (invoice, answer)
    }

    fn acknowledged(invoice: &Invoice, answer: Option<&Answer>) -> Past {
        let mut past = Past::default();
        let (action, details) = acknowledgement(&Standing::of(invoice, answer)).unwrap();
        let details = serde_json::from_str(&details.to_string()).unwrap();
        past.add(action, &details, NOW);
        past
    }

    #[test]
    fn acknowledgement_holds_until_something_differs() {
        let (invoice, answer) = closed(Some("0.000210"));
        let past = acknowledged(&invoice, Some(&answer));
        let stands = |invoice: &Invoice, answer: Option<&Answer>| {
            past.acknowledged(&Standing::of(invoice, answer)).is_some()
        };
        assert!(stands(&invoice, Some(&answer)));
        let (cancelled, same_by_value) = closed(Some("0.00021"));
        let cancelled = Invoice {
            redemption: Some(Redemption {
                status: RedemptionStatus::Cancelled,
                license_id: None,
            }),
            ..cancelled
        };
        assert!(stands(&cancelled, Some(&same_by_value)));

        let (_, more) = closed(Some("0.00022"));
        let settled = Answer {
            status: BtcpayStatus::Settled,
            ..answer.clone()
        };
        let marked = Answer {
            additional: AdditionalStatus::Marked,
            ..answer.clone()
        };
        for different in [None, Some(&more), Some(&settled), Some(&marked)] {
            assert!(!stands(&invoice, different), "{different:?}");
        }
        let license = License::Issued {
            id: LicenseId("lic".into()),
            is_active: true,
        };
        for different in [
            Invoice {
                status: LocalStatus::Pending,
                ..invoice.clone()
            },
            Invoice {
                license,
                ..invoice.clone()
            },
            Invoice {
                redemption: None,
                ..invoice.clone()
            },
        ] {
            assert!(!stands(&different, Some(&answer)), "{different:?}");
        }
    }

    #[test]
    fn amount_that_was_not_told_before_is_no_difference() {
        let (invoice, unknown) = closed(None);
        let (_, known) = closed(Some("0.00021"));
        let past = acknowledged(&invoice, Some(&unknown));
        assert!(
            past.acknowledged(&Standing::of(&invoice, Some(&known)))
                .is_some()
        );
        let past = acknowledged(&invoice, Some(&known));
        assert!(
            past.acknowledged(&Standing::of(&invoice, Some(&unknown)))
                .is_none()
        );
    }

    #[test]
    fn missing_invoice_can_be_acknowledged() {
        let (invoice, answer) = closed(None);
        let past = acknowledged(&invoice, None);
        assert_eq!(past.acknowledged(&Standing::of(&invoice, None)), Some(NOW));
        assert!(
            past.acknowledged(&Standing::of(&invoice, Some(&answer)))
                .is_none()
        );
    }

    #[test]
    fn new_note_ends_an_acknowledgement_and_the_other_way_round() {
        let (invoice, answer) = closed(None);
        let mut past = acknowledged(&invoice, Some(&answer));
        let steps = past.next(vec![late()], Occasion::Minute, NOW);
        assert_eq!(steps, [Step::Note(late())]);
        log(&mut past, &steps, Occasion::Minute, NOW);
        assert!(past.acknowledged.is_none());
        let (action, details) = acknowledgement(&Standing::of(&invoice, None)).unwrap();
        past.add(action, &details, NOW);
        assert!(past.open.is_empty());
    }

    proptest! {
        #[test]
        fn whatever_the_log_holds_nothing_is_told_twice_at_once(
            rows in prop::collection::vec((0..5_usize, 0..3_usize, any::<bool>(), -9..NOW * 2), 0..12),
        ) {
            let mut past = Past::default();
            for (action, reason, told, at) in rows {
                let action = ACTIONS.get(action).copied().unwrap_or("attention.other");
                let reason = ["paid_late", "amount_mismatch", "odd"][reason];
                past.add(action, &json!({"reason": reason, "told": told, "currency": "BTC"}), at);
            }
            let steps = past.next(vec![late()], Occasion::Recheck, NOW);
            log(&mut past, &steps, Occasion::Recheck, NOW);
            for step in past.next(vec![late()], Occasion::Recheck, NOW + 60) {
                prop_assert!(!step.is_noted(), "{:?}", step);
            }
        }
    }
}
