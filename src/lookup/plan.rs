//! The plan: which request comes next. Pure: what is known so far in, a request out.
//!
//! Candidates are numbered by age, oldest first. In bulk the plan goes down from a random one to the
//! oldest, and then from the newest down to where it began: with pages of the store's list where most
//! of what they show are candidates, with groups of order ids where few are. What bulk did not show is
//! looked up one by one, oldest first from another random one on, going round. So runs that are cut
//! short, each at another place, reach every candidate.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::btcpay::Window;

/// The costs of requests as measured on a BTCPay Server with 100,000 invoices, where one invoice costs
/// 10.
const INVOICE_COST: usize = 10;
const GROUP_COST: usize = 16;
const PROBE_COST: usize = 20;
const PAGE_COST: usize = 80;

/// Invoices on a page that only probes how dense the candidates are, and on a full one.
const PROBE_SIZE: usize = 100;
const PAGE_SIZE: usize = 500;

/// The most order ids in a group, their length together in bytes, and the time between them: beyond
/// that, the server's database scans the store.
const GROUP_SIZE: usize = 50;
const GROUP_BYTES: usize = 4_000;
const GROUP_SECONDS: i64 = 50 * 86_400;

/// So few candidates are looked up one by one.
const FEW: usize = 10;

/// Fewer candidates are not worth a probe: groups for all of them cost three pages at most.
const WORTH_A_PROBE: usize = 3 * PAGE_COST * GROUP_SIZE / GROUP_COST;
/// Fewer candidates at the end of a stretch are not worth a page.
const WORTH_A_PAGE: usize = 2 * GROUP_SIZE;
/// What groups may cost before the density is probed again.
const PROBE_AFTER: usize = 5 * PROBE_COST;

/// How far the two clocks may differ, in seconds. Candidates beyond that are looked up one by one.
const CLOCK_SKEW: i64 = 3600;

/// The same once an invoice was shown, so that the difference is known.
const KNOWN_SKEW: i64 = 5;

/// How often one invoice is looked up in a run that gets no answer about it.
const TRIES: u32 = 3;
/// Doubled for each further try.
const FIRST_BACKOFF: Duration = Duration::from_millis(400);
/// Before a silent server is asked for a last time.
const BEFORE_GONE: Duration = Duration::from_millis(700);
/// The server is in trouble after this many different invoices in a row without an answer.
const IN_TROUBLE: usize = 3;

/// What the plan has to know of a candidate.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Unix seconds, by this machine's clock.
    pub created: i64,
    /// The length of its order id.
    pub id_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read the newest `take` invoices of the store's list in this window.
    Page {
        window: Window,
        take: usize,
    },
    /// Look up these candidates by their order ids.
    Group {
        window: Window,
        places: Vec<usize>,
    },
    Invoice(usize),
    /// Ask the store's list whether the server answers at all.
    IsAlive,
    WaitUntil(Duration),
    /// Every candidate has an answer, or no hope of one.
    Done,
}

/// What became of one candidate that BTCPay Server did not answer about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    TriedAgain,
    GivenUp,
}

/// Whether the service names its invoices by order ids, judged from those that were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrderIds {
    Unknown,
    Set,
    Unset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bulk {
    Probe,
    Pages,
    Groups,
    Over,
}

pub struct Plan {
    candidates: Vec<Known>,
    /// Whether each still needs an answer.
    open: Vec<bool>,
    open_count: usize,
    bulk: Bulk,
    order_ids: OrderIds,
    /// Its group showed nothing, and what it has for an order id will tell why.
    ask_first: Option<usize>,
    /// What groups, or single requests in their place, cost since the last probe.
    cost_since_probe: usize,
    /// The stretches that bulk has still to go down, the last one first.
    stretches: Vec<Range<usize>>,
    /// The upper end of the next page, by BTCPay Server's clock.
    page_to: Option<i64>,
    /// How much later than here an invoice was created in BTCPay Server, once that is known.
    skew: Option<i64>,
    group_size: usize,
    /// One by one: the place, how often it was tried, and when it may be again.
    queue: Option<VecDeque<(usize, u32, Duration)>>,
    first_of_queue: usize,
    /// The last different ones in a row without an answer.
    in_a_row: Vec<usize>,
    /// Whether the server ever answered.
    answered_once: bool,
    /// Nothing is asked until then.
    pause_until: Duration,
}

impl Plan {
    /// A plan for `candidates`, oldest first, at Unix second `now`. `random` gives a number below
    /// another.
    pub fn new(candidates: Vec<Known>, now: i64, mut random: impl FnMut(usize) -> usize) -> Self {
        let count = candidates.len();
        // What claims to be of the future says nothing of when it was made.
        let clamp = |candidate: Known| Known {
            created: candidate.created.min(now),
            ..candidate
        };
        let start = random(count.max(1));
        Self {
            open: vec![true; count],
            open_count: count,
            bulk: match count {
                ..=FEW => Bulk::Over,
                _ if count < WORTH_A_PROBE => Bulk::Groups,
                _ => Bulk::Probe,
            },
            order_ids: OrderIds::Unknown,
            ask_first: None,
            cost_since_probe: 0,
            stretches: vec![(start + 1).min(count)..count, 0..(start + 1).min(count)],
            page_to: None,
            skew: None,
            group_size: GROUP_SIZE,
            queue: None,
            first_of_queue: random(count.max(1)),
            in_a_row: Vec::new(),
            answered_once: false,
            pause_until: Duration::ZERO,
            candidates: candidates.into_iter().map(clamp).collect(),
        }
    }

    /// The next step, `now` since the run began.
    pub fn next(&mut self, now: Duration) -> Step {
        if self.open_count == 0 {
            return Step::Done;
        }
        if self.pause_until > now {
            return Step::WaitUntil(self.pause_until);
        }
        if let Some(place) = self.ask_first.take() {
            return Step::Invoice(place);
        }
        if let Some(step) = self.next_bulk() {
            return step;
        }
        if self.is_in_question() {
            return Step::IsAlive;
        }
        self.next_invoice(now)
    }

    fn next_bulk(&mut self) -> Option<Step> {
        loop {
            if self.bulk == Bulk::Over || self.open_count <= 1 {
                return None;
            }
            let Some(stretch) = self.stretches.last().cloned() else {
                self.bulk = Bulk::Over;
                return None;
            };
            let Some(top) = stretch.clone().rev().find(|place| self.is_open(*place)) else {
                self.stretches.pop();
                self.page_to = None;
                continue;
            };
            if let Some(last) = self.stretches.last_mut() {
                last.end = top + 1;
            }
            return match self.bulk {
                Bulk::Probe => Some(self.page(stretch.start, top, PROBE_SIZE)),
                Bulk::Pages if self.is_worth_a_page(stretch.start, top) => {
                    Some(self.page(stretch.start, top, PAGE_SIZE))
                }
                Bulk::Pages | Bulk::Groups => Some(self.group(stretch.start, top)),
                Bulk::Over => None,
            };
        }
    }

    fn is_worth_a_page(&self, bottom: usize, top: usize) -> bool {
        let open = (bottom..=top).filter(|place| self.is_open(*place));
        self.order_ids == OrderIds::Unset || open.take(WORTH_A_PAGE).count() == WORTH_A_PAGE
    }

    fn page(&self, bottom: usize, top: usize, take: usize) -> Step {
        let ahead = self
            .skew
            .map_or(CLOCK_SKEW, |skew| skew.saturating_add(KNOWN_SKEW));
        let to = self.created(top).saturating_add(ahead);
        Step::Page {
            window: Window {
                from: self.created(bottom).saturating_sub(CLOCK_SKEW),
                to: self.page_to.map_or(to, |page_to| page_to.min(to)),
            },
            take,
        }
    }

    fn group(&self, bottom: usize, top: usize) -> Step {
        let newest = self.created(top);
        let mut bytes = 0;
        let places: Vec<usize> = (bottom..=top)
            .rev()
            .filter(|place| self.is_open(*place))
            .take(self.group_size)
            .take_while(|place| {
                let candidate = self.candidates.get(*place);
                let id_bytes = candidate.map_or(0, |candidate| candidate.id_bytes);
                bytes += id_bytes;
                // Without a value, orderId stands for all invoices that have none.
                id_bytes > 0
                    && bytes <= GROUP_BYTES
                    && newest.saturating_sub(self.created(*place)) <= GROUP_SECONDS
            })
            .collect();
        let lowest = places.last().copied().unwrap_or(top);
        if lowest == top || self.order_ids == OrderIds::Unset {
            return Step::Invoice(top);
        }
        let oldest = self.created(lowest);
        Step::Group {
            window: Window {
                from: oldest.saturating_sub(CLOCK_SKEW),
                to: newest.saturating_add(CLOCK_SKEW),
            },
            places,
        }
    }

    fn next_invoice(&mut self, now: Duration) -> Step {
        let queue = self.queue.get_or_insert_with(|| {
            let count = self.open.len();
            let around = (0..count).map(|step| (self.first_of_queue + step) % count);
            let open = around.filter(|place| self.open.get(*place) == Some(&true));
            open.map(|place| (place, 0, Duration::ZERO)).collect()
        });
        let ready = queue
            .iter()
            .position(|(_, _, not_before)| *not_before <= now);
        match ready.and_then(|ready| queue.get(ready)) {
            Some((place, ..)) => Step::Invoice(*place),
            None => match queue.iter().map(|(_, _, not_before)| *not_before).min() {
                Some(soonest) => Step::WaitUntil(soonest),
                None => Step::Done,
            },
        }
    }

    /// BTCPay Server has answered about this candidate. Gives whether it still needed an answer.
    pub fn answered(&mut self, place: usize) -> bool {
        self.is_alive();
        if self.queue.is_none() && self.bulk == Bulk::Groups && self.order_ids == OrderIds::Unset {
            self.spend(INVOICE_COST);
        }
        self.close(place)
    }

    /// What is spent on a sparse stretch; beyond it, the list may be dense again.
    fn spend(&mut self, cost: usize) {
        self.cost_since_probe += cost;
        if self.cost_since_probe >= PROBE_AFTER
            && self.open_count >= WORTH_A_PROBE
            && self.bulk == Bulk::Groups
        {
            self.bulk = Bulk::Probe;
        }
    }

    /// The server answers, so a silence is about single invoices.
    pub fn is_alive(&mut self) {
        self.in_a_row.clear();
        self.answered_once = true;
    }

    fn close(&mut self, place: usize) -> bool {
        let Some(open) = self.open.get_mut(place) else {
            return false;
        };
        let was_open = std::mem::take(open);
        self.open_count -= usize::from(was_open);
        if let Some(queue) = &mut self.queue
            && let Some(at) = queue.iter().position(|(one, ..)| *one == place)
        {
            queue.remove(at);
        }
        was_open
    }

    /// An invoice that was shown has this candidate's order id, or another or none.
    pub fn order_id_is(&mut self, same: bool) {
        self.order_ids = match (self.order_ids, same) {
            (OrderIds::Set, _) | (_, true) => OrderIds::Set,
            (OrderIds::Unknown | OrderIds::Unset, false) => OrderIds::Unset,
        };
    }

    /// The page that [`Step::Page`] asked for had `count` invoices, the last created at `oldest`, and
    /// `shown` of them were open candidates. The oldest candidate on it has this place, and this time of
    /// creation by BTCPay Server's clock.
    pub fn page_showed(
        &mut self,
        window: Window,
        take: usize,
        (count, oldest): (usize, Option<i64>),
        shown: usize,
        lowest: Option<(usize, i64)>,
    ) {
        if let Some((lowest, created)) = lowest {
            self.skew = Some(created.saturating_sub(self.created(lowest)));
        }
        if let (Some((lowest, _)), Some(stretch)) = (lowest, self.stretches.last_mut()) {
            // What is above and was not shown is looked up one by one.
            stretch.end = stretch.end.min(lowest).max(stretch.start);
        }
        let is_end = count < take;
        if is_end {
            self.stretches.pop();
        }
        self.page_to = match oldest {
            // A page that is all of one second.
            Some(oldest) if oldest >= window.to => Some(window.to - 1),
            Some(oldest) => Some(oldest),
            None => Some(window.from),
        }
        .filter(|_| !is_end);
        // A probe says less of what comes after it than a full page does.
        let is_dense = if take < PAGE_SIZE {
            shown * 3 >= count.max(1) * 2
        } else {
            shown * 2 >= count.max(1)
        };
        let is_worth_it = shown * INVOICE_COST * PAGE_SIZE >= PAGE_COST * take;
        let prefers_pages = match self.order_ids {
            OrderIds::Unknown | OrderIds::Set => {
                is_dense && (self.bulk == Bulk::Pages || self.open_count >= WORTH_A_PROBE)
            }
            OrderIds::Unset => is_worth_it,
        };
        self.bulk = if prefers_pages {
            Bulk::Pages
        } else {
            Bulk::Groups
        };
        self.cost_since_probe = 0;
        if self.bulk == Bulk::Groups {
            self.page_to = None;
        }
    }

    /// The group that [`Step::Group`] asked for showed `shown` of `places`.
    pub fn group_showed(&mut self, places: &[usize], shown: usize) {
        if let (Some(lowest), Some(stretch)) = (places.last(), self.stretches.last_mut()) {
            stretch.end = (*lowest).max(stretch.start);
        }
        if shown == 0 && self.order_ids == OrderIds::Unknown {
            self.ask_first = places.first().copied();
        }
        self.spend(GROUP_COST);
    }

    /// The list does not answer, or not so that it can be used: the rest is looked up one by one.
    pub fn no_bulk(&mut self) {
        self.bulk = Bulk::Over;
    }

    /// A group was too long for the server, or for a proxy in front of it.
    pub fn smaller_groups(&mut self) {
        self.group_size /= 2;
        if self.group_size < 2 {
            self.no_bulk();
        }
    }

    /// No answer came about this candidate, but perhaps a wish to be asked later. There are `left`
    /// until the run has to end.
    pub fn unanswered(
        &mut self,
        place: usize,
        retry_after: Option<Duration>,
        now: Duration,
        left: Duration,
    ) -> Unanswered {
        let Some(queue) = &mut self.queue else {
            self.no_bulk();
            return Unanswered::TriedAgain;
        };
        let at = queue.iter().position(|(one, ..)| *one == place);
        let (_, tries, _) = at
            .and_then(|at| queue.remove(at))
            .unwrap_or((place, TRIES, now));
        let wait = retry_after.unwrap_or(FIRST_BACKOFF * 2_u32.pow(tries));
        let outcome = if tries + 1 < TRIES && wait < left {
            queue.push_back((place, tries + 1, now.saturating_add(wait)));
            Unanswered::TriedAgain
        } else {
            self.close(place);
            Unanswered::GivenUp
        };
        if !self.in_a_row.contains(&place) {
            self.in_a_row.push(place);
        }
        match retry_after {
            Some(wait) if self.in_a_row.len() >= IN_TROUBLE => self.pause(wait, now),
            Some(_) | None if self.is_in_question() => self.pause(BEFORE_GONE, now),
            Some(_) | None => {}
        }
        outcome
    }

    /// The server asks every client to wait.
    pub fn pause(&mut self, time: Duration, now: Duration) {
        self.pause_until = now.saturating_add(time);
    }

    /// Whether the server may be gone: it was silent about several invoices, or about all there are.
    fn is_in_question(&self) -> bool {
        let in_a_row = self.in_a_row.len();
        in_a_row >= IN_TROUBLE || in_a_row >= self.open_count && !self.answered_once
    }

    fn is_open(&self, place: usize) -> bool {
        self.open.get(place) == Some(&true)
    }

    fn created(&self, place: usize) -> i64 {
        self.candidates
            .get(place)
            .map_or(0, |candidate| candidate.created)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: i64 = 1_795_000_000;
    const FOREVER: Duration = Duration::MAX;

    /// A BTCPay Server's store, as far as its costs and answers matter here.
    struct Store {
        /// When each of its invoices was created, newest first, and which candidate it is.
        invoices: Vec<(i64, Option<usize>)>,
        sets_order_ids: bool,
        /// Candidates about which no request is ever answered.
        broken: HashSet<usize>,
    }

    /// What a run came to.
    #[derive(Default)]
    struct Run {
        cost: usize,
        pages: usize,
        groups: usize,
        single: usize,
        answered: HashSet<usize>,
        given_up: HashSet<usize>,
    }

    impl Store {
        fn candidates(&self) -> Vec<Known> {
            let mut created: Vec<(usize, i64)> = self
                .invoices
                .iter()
                .filter_map(|(created, candidate)| Some((((*candidate)?), *created)))
                .collect();
            created.sort_unstable();
            let candidate = |(_, created)| Known {
                created,
                id_bytes: 36,
            };
            created.into_iter().map(candidate).collect()
        }

        /// Carries a plan out until it is done, or has cost `most`.
        fn run(&self, rng: &mut fastrand::Rng, most: usize) -> Run {
            let mut plan = Plan::new(self.candidates(), NOW, |below| rng.usize(..below));
            let mut run = Run::default();
            let mut now = Duration::ZERO;
            let within = |window: Window| {
                let newest = self
                    .invoices
                    .partition_point(|(created, _)| *created > window.to);
                let end = self
                    .invoices
                    .partition_point(|(created, _)| *created >= window.from);
                self.invoices.get(newest..end).unwrap_or_default().iter()
            };
            for _ in 0..1_000_000 {
                if run.cost >= most {
                    return run;
                }
                match plan.next(now) {
                    Step::Page { window, take } => {
                        run.pages += 1;
                        run.cost += if take == PAGE_SIZE {
                            PAGE_COST
                        } else {
                            PROBE_COST
                        };
                        let page: Vec<_> = within(window).take(take).collect();
                        let shown =
                            self.show(&mut plan, &mut run, page.iter().filter_map(|(_, one)| *one));
                        let size = (page.len(), page.last().map(|(created, _)| *created));
                        plan.page_showed(window, take, size, shown.0, shown.1);
                    }
                    Step::Group { window, places } => {
                        run.groups += 1;
                        run.cost += GROUP_COST;
                        assert!(
                            places.len() <= GROUP_SIZE
                                && window.to - window.from <= GROUP_SECONDS + 7_200
                        );
                        let inside: HashSet<usize> =
                            within(window).filter_map(|(_, one)| *one).collect();
                        let shown = places
                            .iter()
                            .copied()
                            .filter(|place| inside.contains(place));
                        let shown: Vec<usize> = shown.filter(|_| self.sets_order_ids).collect();
                        let shown = self.show(&mut plan, &mut run, shown.into_iter());
                        plan.group_showed(&places, shown.0);
                    }
                    Step::Invoice(place) => {
                        run.single += 1;
                        run.cost += INVOICE_COST;
                        if self.broken.contains(&place) {
                            match plan.unanswered(place, None, now, FOREVER) {
                                Unanswered::TriedAgain => {}
                                Unanswered::GivenUp => {
                                    run.given_up.insert(place);
                                }
                            }
                        } else {
                            plan.answered(place);
                            plan.order_id_is(self.sets_order_ids);
                            run.answered.insert(place);
                        }
                    }
                    Step::IsAlive => {
                        run.cost += INVOICE_COST;
                        plan.is_alive();
                    }
                    Step::WaitUntil(time) => {
                        assert!(time > now);
                        now = time;
                    }
                    Step::Done => return run,
                }
            }
            panic!("the plan never ends");
        }

        fn show(
            &self,
            plan: &mut Plan,
            run: &mut Run,
            places: impl Iterator<Item = usize>,
        ) -> (usize, Option<(usize, i64)>) {
            let places: Vec<usize> = places
                .filter(|place| !self.broken.contains(place))
                .collect();
            let mut shown = 0;
            for place in &places {
                if plan.answered(*place) {
                    shown += 1;
                    plan.order_id_is(self.sets_order_ids);
                }
                run.answered.insert(*place);
            }
            let lowest = places.into_iter().min();
            (shown, lowest.map(|place| (place, plan.created(place))))
        }

        /// What reading the whole list, groups alone, and single requests alone would cost.
        fn cheapest(&self) -> usize {
            let candidates = self.candidates();
            let count = candidates.len();
            let oldest = candidates[0].created - CLOCK_SKEW;
            let listed = self
                .invoices
                .iter()
                .filter(|(created, _)| *created >= oldest)
                .count();
            let by_list = listed.div_ceil(PAGE_SIZE) * PAGE_COST;
            let by_group = count.div_ceil(GROUP_SIZE) * GROUP_COST;
            let one_by_one = count * INVOICE_COST;
            let groups_work = if self.sets_order_ids {
                by_group
            } else {
                usize::MAX
            };
            by_list.min(groups_work).min(one_by_one)
        }
    }

    /// `count` candidates over three days, alone in some hours and among others in others.
    fn random_store(rng: &mut fastrand::Rng, count: usize) -> Store {
        let mut created = Vec::new();
        let clusters = rng.usize(1..5);
        for cluster in 0..clusters {
            let others_each = [0, 0, 1, 3, 30, 200][rng.usize(..6)];
            let here = count / clusters + usize::from(cluster < count % clusters);
            let begins = NOW - 259_200 + 40_000 * i64::try_from(cluster).unwrap();
            for _ in 0..here {
                created.push((begins + rng.i64(0..36_000), true));
                for _ in 0..others_each {
                    created.push((begins + rng.i64(0..36_000), false));
                }
            }
        }
        created.sort_unstable();
        let mut place = 0;
        let mut invoices: Vec<(i64, Option<usize>)> = created
            .into_iter()
            .map(|(created, is_candidate)| {
                let candidate = is_candidate.then_some(place);
                place += usize::from(is_candidate);
                (created, candidate)
            })
            .collect();
        invoices.reverse();
        Store {
            invoices,
            sets_order_ids: true,
            broken: HashSet::new(),
        }
    }

    #[test]
    fn every_candidate_gets_its_answer() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..200 {
            let count = [1, 2, 3, 49, 50, 51, 149, 150, 151, 700, 3_000][round % 11];
            let mut store = random_store(&mut rng, count);
            store.sets_order_ids = rng.bool();
            store.broken = (0..count).filter(|_| rng.u8(..20) == 0).collect();
            let run = store.run(&mut rng, usize::MAX);
            assert_eq!(run.answered.len() + run.given_up.len(), count, "{round}");
            assert_eq!(run.given_up, store.broken, "{round}");
        }
    }

    #[test]
    fn costs_little_more_than_the_cheapest_way_with_order_ids() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut worst = 0.0_f64;
        for round in 0..150 {
            let count = [2, 10, 60, 149, 151, 400, 1_000, 2_500, 6_000][round % 9];
            let store = random_store(&mut rng, count);
            let cost = store.run(&mut rng, usize::MAX).cost;
            let cheapest = store.cheapest();
            #[expect(clippy::cast_precision_loss)]
            let ratio = cost.saturating_sub(10 * INVOICE_COST) as f64 / cheapest as f64;
            worst = worst.max(ratio);
            assert!(
                ratio <= 1.2,
                "round {round}, {count} candidates of {}: {cost}, cheapest {cheapest}",
                store.invoices.len()
            );
        }
        println!("worst ratio beyond ten single requests: {worst:.2}");
    }

    /// `candidates` of `invoices` over three days, at equal distances.
    fn even_store(candidates: usize, invoices: usize) -> Store {
        let invoice = |at: usize| {
            let place = at * candidates / invoices;
            let is_candidate = (at + 1) * candidates / invoices > place;
            let seconds = i64::try_from(at * 259_200 / invoices).unwrap();
            (NOW - 259_200 + seconds, is_candidate.then_some(place))
        };
        Store {
            invoices: (0..invoices).rev().map(invoice).collect(),
            sets_order_ids: true,
            broken: HashSet::new(),
        }
    }

    /// With `--nocapture` it prints what the plan chooses.
    #[test]
    fn takes_few_requests_in_every_kind_of_store() {
        let mut rng = fastrand::Rng::with_seed(5);
        println!("| candidates | invoices | pages | groups | single | cost | cheapest way |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for (candidates, invoices, at_most) in [
            (10, 10, 10),
            (10, 100_000, 10),
            (10, 1_000_000, 10),
            (300, 300, 7),
            (300, 100_000, 7),
            (300, 1_000_000, 7),
            (1_000, 1_000, 6),
            (1_000, 100_000, 22),
            (1_000, 1_000_000, 22),
            (10_000, 10_000, 24),
            (10_000, 100_000, 240),
            (10_000, 1_000_000, 240),
            (100_000, 100_000, 210),
        ] {
            let store = even_store(candidates, invoices);
            let runs = (0..5).map(|_| store.run(&mut rng, usize::MAX));
            let requests = |run: &Run| run.pages + run.groups + run.single;
            let most = runs.max_by_key(requests).unwrap();
            println!(
                "| {candidates} | {invoices} | {} | {} | {} | {} | {} |",
                most.pages,
                most.groups,
                most.single,
                most.cost / INVOICE_COST,
                store.cheapest() / INVOICE_COST
            );
            assert!(
                requests(&most) <= at_most,
                "{candidates} candidates of {invoices}: {}",
                requests(&most)
            );
        }
    }

    #[test]
    fn costs_little_more_than_single_requests_without_order_ids() {
        let mut rng = fastrand::Rng::with_seed(4);
        for round in 0..90 {
            let count = [2, 10, 60, 149, 151, 400, 1_000, 2_500, 6_000][round % 9];
            let mut store = random_store(&mut rng, count);
            store.sets_order_ids = false;
            let cost = store.run(&mut rng, usize::MAX).cost;
            let one_by_one = count * INVOICE_COST;
            assert!(
                cost <= one_by_one * 12 / 10 + 10 * INVOICE_COST,
                "round {round}, {count} candidates of {}: {cost}",
                store.invoices.len()
            );
        }
    }

    /// After how many runs that are cut short after `capacity` each candidate was first asked about.
    fn runs_until_asked(rng: &mut fastrand::Rng, store: &Store, capacity: usize) -> Vec<usize> {
        let answerable = store.candidates().len() - store.broken.len();
        let mut asked = HashSet::new();
        let mut runs = Vec::new();
        for run in 1..10_000 {
            asked.extend(store.run(rng, capacity).answered);
            runs.resize(asked.len(), run);
            if asked.len() == answerable {
                return runs;
            }
        }
        panic!("some candidates are never asked about");
    }

    #[test]
    fn every_candidate_is_asked_within_a_bounded_number_of_runs() {
        let mut rng = fastrand::Rng::with_seed(3);
        for (count, sets_order_ids) in [(400, false), (400, true), (60, false)] {
            let mut store = random_store(&mut rng, count);
            // So few among so many that the list is of no use.
            let others = (0..50_000).map(|_| (NOW - rng.i64(0..259_200), None));
            store.invoices.extend(others);
            store.invoices.sort_unstable_by_key(|(created, _)| -created);
            store.sets_order_ids = sets_order_ids;
            store.broken = (0..count).filter(|place| place % 20 == 7).collect();
            let capacity = if sets_order_ids {
                5 * GROUP_COST
            } else {
                20 * INVOICE_COST
            };
            let some_runs = (0..200).map(|_| store.run(&mut rng, capacity).answered.len());
            let mut some_runs: Vec<usize> = some_runs.collect();
            some_runs.sort_unstable();
            // Where others lie between them, a run answers fewer.
            let a_run_answers = some_runs[20];
            let mut runs: Vec<usize> = (0..25)
                .flat_map(|_| runs_until_asked(&mut rng, &store, capacity))
                .collect();
            runs.sort_unstable();
            let least = count.div_ceil(a_run_answers);
            let at = |per_10_000: usize| runs[(runs.len() - 1) * per_10_000 / 10_000];
            println!(
                "{count} candidates, order ids {sets_order_ids}, {a_run_answers} a run: {least} runs at least; \
                 half within {}, 95 % within {}, 99.99 % within {}",
                at(5_000),
                at(9_500),
                at(9_999)
            );
            assert!(
                at(9_500) <= 5 * least + 2,
                "{} > 5 * {least} + 2",
                at(9_500)
            );
            assert!(
                at(9_999) <= 20 * least + 2,
                "{} > 20 * {least} + 2",
                at(9_999)
            );
        }
    }

    #[test]
    fn future_creation_time_does_not_spoil_the_windows() {
        let mut candidates = vec![
            Known {
                created: NOW - 100,
                id_bytes: 36
            };
            60
        ];
        candidates.push(Known {
            created: 253_370_764_800,
            id_bytes: 36,
        });
        let mut plan = Plan::new(candidates, NOW, |below| below - 1);
        let Step::Group { window, .. } = plan.next(Duration::ZERO) else {
            panic!("no group");
        };
        assert_eq!(
            (window.from, window.to),
            (NOW - 100 - CLOCK_SKEW, NOW + CLOCK_SKEW)
        );
    }

    #[test]
    fn three_silent_invoices_in_a_row_put_the_server_in_question() {
        let candidates = vec![
            Known {
                created: NOW,
                id_bytes: 36
            };
            10
        ];
        let mut plan = Plan::new(candidates, NOW, |_| 0);
        plan.no_bulk();
        let mut now = Duration::ZERO;
        for _ in 0..3 {
            let Step::Invoice(place) = plan.next(now) else {
                panic!("no invoice");
            };
            assert_eq!(
                plan.unanswered(place, None, now, FOREVER),
                Unanswered::TriedAgain
            );
        }
        let Step::WaitUntil(later) = plan.next(now) else {
            panic!("no pause");
        };
        now = later;
        assert_eq!(plan.next(now), Step::IsAlive);
        plan.is_alive();
        assert!(
            matches!(plan.next(now), Step::Invoice(_)),
            "the others get their turn"
        );
    }

    #[test]
    fn retry_after_of_one_invoice_delays_only_that_one() {
        let candidate = Known {
            created: NOW,
            id_bytes: 36,
        };
        let mut plan = Plan::new(vec![candidate; 3], NOW, |_| 0);
        plan.no_bulk();
        let (now, hour) = (Duration::ZERO, Duration::from_hours(1));
        assert_eq!(plan.next(now), Step::Invoice(0));
        assert_eq!(
            plan.unanswered(0, Some(hour), now, FOREVER),
            Unanswered::TriedAgain
        );
        assert_eq!(plan.next(now), Step::Invoice(1));
        plan.answered(1);
        assert_eq!(plan.next(now), Step::Invoice(2));
        plan.answered(2);
        assert_eq!(plan.next(now), Step::WaitUntil(hour));
        assert_eq!(
            plan.unanswered(0, Some(hour), hour, FOREVER),
            Unanswered::TriedAgain
        );
        let short = Duration::from_secs(50);
        assert_eq!(
            plan.unanswered(0, Some(hour), hour, short),
            Unanswered::GivenUp
        );
        assert_eq!(plan.next(hour), Step::Done);
    }
}
