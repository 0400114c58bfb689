//! Which requests answer which candidates: a pure plan, and the loop that carries it out.
//!
//! Knows BTCPay Server's answers, but neither the database nor the report. The caller decides what to
//! do with each answer, and does it while the next request is on its way.

mod plan;

use std::collections::HashMap;
use std::panic;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use log::{debug, info};

use crate::btcpay::{AskError, Btcpay, Listed, Page, Window};
use crate::candidates::{Candidate, Candidates};
use crate::invoice::{Answer, BtcpayInvoiceId, InvoiceId};
use crate::stop::{self, Deadline, OutOfTime};
use plan::{Known, Plan, Step, Unanswered};

/// What became of some of the candidates.
pub enum LookedUp {
    Answered(Vec<(Candidate, Answer)>),
    /// This one has no answer; others may have.
    Failed(Candidate, Error),
    /// The store has no such invoice.
    NotInStore(Candidate),
}

/// Looks up each of `candidates`, oldest first, at Unix second `now`, and hands every result to
/// `found`. BTCPay Server is asked from a thread of its own, which is never further ahead than the
/// request whose answer `found` gets next.
///
/// # Errors
///
/// What no further request can get past: BTCPay Server is gone, refuses the key, the deadline, or
/// an error of `found`.
pub fn look_up(
    candidates: Candidates,
    btcpay: &mut Btcpay,
    now: i64,
    deadline: Deadline,
    found: impl FnMut(LookedUp) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let (answers, to_find) = mpsc::sync_channel(0);
        let asking = thread::Builder::new()
            .spawn_scoped(scope, move || {
                ask(candidates, btcpay, now, deadline, answers)
            })
            .context("cannot start the thread that asks BTCPay Server")?;
        let asked = || {
            asking
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        match find(to_find, deadline, found) {
            Ok(()) => asked(),
            Err(error) => {
                let _ = stop::at_once(asked);
                Err(error)
            }
        }
    })
}

/// Hands on what comes, until nothing more does or the deadline is reached.
fn find(
    to_find: Receiver<LookedUp>,
    deadline: Deadline,
    mut found: impl FnMut(LookedUp) -> Result<()>,
) -> Result<()> {
    for looked_up in to_find {
        found(looked_up)?;
        if deadline.is_reached() {
            break;
        }
    }
    Ok(())
}

fn ask(
    candidates: Candidates,
    btcpay: &mut Btcpay,
    now: i64,
    deadline: Deadline,
    answers: SyncSender<LookedUp>,
) -> Result<()> {
    let known = candidates.known();
    let known = known.map(|(created, id_bytes)| Known { created, id_bytes });
    let plan = Plan::new(known.collect(), now, |below| fastrand::usize(..below));
    let mut lookup = Lookup {
        plan,
        by_btcpay_id: Vec::new(),
        not_checked: candidates.len(),
        candidates,
        errors: HashMap::new(),
        wish: None,
        btcpay,
        began: Instant::now(),
        deadline,
        answers,
    };
    let result = lookup.carry_out();
    let not_checked = lookup.not_checked;
    result.map_err(|error| match error {
        AskError::Stopped(last) => OutOfTime::new(left_over(not_checked)).after(last).into(),
        other => other.into(),
    })
}

fn left_over(not_checked: usize) -> String {
    match not_checked {
        1 => "1 invoice was not checked".into(),
        _ => format!("{not_checked} invoices were not checked"),
    }
}

/// A wish to be left alone.
struct Wish {
    time: Duration,
    until: Duration,
    /// What came with it.
    error: Error,
}

impl Wish {
    fn new(time: Duration, now: Duration, error: Error) -> Self {
        Self {
            time,
            until: now.saturating_add(time),
            error,
        }
    }
}

struct Lookup<'run> {
    plan: Plan,
    candidates: Candidates,
    /// Their places in the order of BTCPay's ids; filled when bulk is first shown.
    by_btcpay_id: Vec<u32>,
    /// The last error of those that will be tried again.
    errors: HashMap<usize, Error>,
    /// The last one.
    wish: Option<Wish>,
    not_checked: usize,
    btcpay: &'run mut Btcpay,
    began: Instant,
    deadline: Deadline,
    answers: SyncSender<LookedUp>,
}

impl Lookup<'_> {
    fn carry_out(&mut self) -> Result<(), AskError> {
        loop {
            match self.plan.next(self.began.elapsed()) {
                Step::Page { window, take } => {
                    let page = self.btcpay.page(window, take);
                    if let Some(page) = self.bulk(page)? {
                        let (count, oldest) = (page.count, page.oldest);
                        let (shown, lowest) = self.show(page)?;
                        let size = (count, oldest);
                        self.plan.page_showed(window, take, size, shown, lowest);
                    }
                }
                Step::Group { window, places } => self.group(window, &places)?,
                Step::Invoice(place) => self.invoice(place)?,
                Step::IsAlive => match self.btcpay.check_access() {
                    Ok(())
                    | Err(AskError::Refused(_) | AskError::NotInStore(_) | AskError::TooLong(_)) => {
                        self.plan.is_alive();
                    }
                    Err(gone) => return Err(gone),
                },
                Step::WaitUntil(time) => {
                    let wait = time.saturating_sub(self.began.elapsed());
                    if self.deadline.longest_wait() < wait {
                        return Err(self.waits_no_longer(time));
                    }
                    debug!("waiting {} ms", wait.as_millis());
                    self.deadline.sleep(wait);
                }
                Step::Done => return Ok(()),
            }
        }
    }

    /// The wait until `time` is too long.
    fn waits_no_longer(&mut self, time: Duration) -> AskError {
        match self.wish.take().filter(|wish| wish.until >= time) {
            Some(wish) => {
                let left = OutOfTime::left_alone(wish.time, left_over(self.not_checked));
                AskError::Fatal(left.after(Some(wish.error)).into())
            }
            None => AskError::Stopped(self.errors.drain().next().map(|(_, error)| error)),
        }
    }

    /// What bulk showed; None if the rest has to be looked up one by one.
    fn bulk(&mut self, page: Result<Page, AskError>) -> Result<Option<Page>, AskError> {
        match page {
            Ok(page) => {
                self.plan.is_alive();
                Ok(Some(page))
            }
            Err(gone @ AskError::Unanswered { .. }) if !self.btcpay.connected() => Err(gone),
            Err(AskError::Unanswered { error, retry_after }) => {
                self.one_by_one(&error);
                if let Some(time) = retry_after {
                    let now = self.began.elapsed();
                    self.plan.pause(time, now);
                    self.wish = Some(Wish::new(time, now, error));
                }
                Ok(None)
            }
            Err(
                AskError::Refused(error) | AskError::NotInStore(error) | AskError::TooLong(error),
            ) => {
                self.one_by_one(&error);
                Ok(None)
            }
            Err(stop @ (AskError::Fatal(_) | AskError::Stopped(_))) => Err(stop),
        }
    }

    fn one_by_one(&mut self, why: &Error) {
        info!("cannot list the store's invoices; falling back to one request per invoice: {why:#}");
        self.plan.no_bulk();
    }

    fn group(&mut self, window: Window, places: &[usize]) -> Result<(), AskError> {
        let asked = places
            .iter()
            .filter_map(|place| self.candidates.get(*place));
        let ids: Vec<InvoiceId> = asked.map(|candidate| candidate.id).collect();
        let group = self.btcpay.by_order_id(window, &ids);
        if let Err(AskError::TooLong(_)) = group {
            self.plan.smaller_groups();
            return Ok(());
        }
        if let Some(page) = self.bulk(group)? {
            let (shown, _) = self.show(page)?;
            self.plan.group_showed(places, shown);
        }
        Ok(())
    }

    /// Hands on what a page shows of the candidates; gives how many there were, and the oldest one's
    /// place and time of creation in BTCPay Server.
    fn show(&mut self, page: Page) -> Result<(usize, Option<(usize, i64)>), AskError> {
        if self.by_btcpay_id.is_empty() {
            let candidates = &self.candidates;
            let mut places: Vec<u32> = (0..).take(candidates.len()).collect();
            places.sort_unstable_by_key(|place| candidates.btcpay_id(*place as usize));
            self.by_btcpay_id = places;
        }
        let mut lowest: Option<(usize, i64)> = None;
        let mut answered = Vec::new();
        for listed in page.invoices {
            let Some(place) = self.place(&listed.id) else {
                continue;
            };
            if let Some(created) = listed.created
                && lowest.is_none_or(|(lowest, _)| place < lowest)
            {
                lowest = Some((place, created));
            }
            answered.extend(self.take(place, listed));
        }
        let shown = answered.len();
        self.answered(answered)?;
        Ok((shown, lowest))
    }

    fn place(&self, id: &BtcpayInvoiceId) -> Option<usize> {
        let places = &self.by_btcpay_id;
        let id_at = |place: &u32| self.candidates.btcpay_id(*place as usize);
        let at = places.binary_search_by_key(&&*id.0, id_at).ok()?;
        places.get(at).map(|place| *place as usize)
    }

    fn take(&mut self, place: usize, listed: Listed) -> Option<(Candidate, Answer)> {
        let was_open = self.plan.answered(place);
        let candidate = self.candidates.get(place).filter(|_| was_open)?;
        self.plan
            .order_id_is(listed.order_id.as_deref() == Some(&*candidate.id.0));
        Some((candidate, listed.answer))
    }

    fn invoice(&mut self, place: usize) -> Result<(), AskError> {
        let Some(candidate) = self.candidates.get(place) else {
            return Ok(());
        };
        match self.btcpay.invoice(&candidate.btcpay_id) {
            Ok(listed) => {
                let answered = self.take(place, listed);
                self.answered(answered.into_iter().collect())
            }
            Err(AskError::NotInStore(_)) => {
                self.plan.answered(place);
                self.hand_on(place, LookedUp::NotInStore(candidate))
            }
            Err(AskError::Refused(error) | AskError::TooLong(error)) => {
                self.plan.answered(place);
                self.hand_on(place, LookedUp::Failed(candidate, error))
            }
            Err(AskError::Unanswered { error, retry_after }) => {
                let (now, left) = (self.began.elapsed(), self.deadline.longest_wait());
                if let Some(time) = retry_after {
                    self.wish = Some(Wish::new(time, now, anyhow!("{error:#}")));
                }
                match self.plan.unanswered(place, retry_after, now, left) {
                    Unanswered::TriedAgain => {
                        debug!("will try again: {error:#}");
                        self.errors.insert(place, error);
                        Ok(())
                    }
                    Unanswered::GivenUp => self.hand_on(place, LookedUp::Failed(candidate, error)),
                }
            }
            Err(AskError::Fatal(error)) => {
                self.not_checked -= 1;
                Err(AskError::Fatal(error))
            }
            Err(AskError::Stopped(last)) => Err(AskError::Stopped(last)),
        }
    }

    fn hand_on(&mut self, place: usize, what: LookedUp) -> Result<(), AskError> {
        self.errors.remove(&place);
        self.send(what, 1)
    }

    fn answered(&mut self, answered: Vec<(Candidate, Answer)>) -> Result<(), AskError> {
        for (candidate, answer) in &answered {
            info!(
                "invoice {}: {} in the database, {} in BTCPay",
                candidate.id,
                candidate.status.word(),
                answer.status.word()
            );
        }
        let count = answered.len();
        self.send(LookedUp::Answered(answered), count)
    }

    /// Hands on what became of `count` candidates.
    ///
    /// # Errors
    ///
    /// Nobody takes it: there is no time left, or something could not be written.
    fn send(&mut self, what: LookedUp, count: usize) -> Result<(), AskError> {
        self.answers
            .send(what)
            .map_err(|_| AskError::Stopped(None))?;
        self.not_checked -= count;
        Ok(())
    }
}
