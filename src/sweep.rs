//! Whether the store's list is worth reading, and how far. Pure: what the pages have shown in, the
//! next page out.

use crate::btcpay::Page;
use crate::invoice::Invoice;

/// How many invoices a page of the list holds, as measured by `cargo bench`.
const PAGE_SIZE: usize = 500;

/// What a page of the list costs, in requests for one invoice: BTCPay Server loads every invoice on
/// it with its payments.
const PAGE_COST: usize = 10;

/// How far the two clocks may differ, in seconds. What differs by more is asked for by its id.
const CLOCKS_DIFFER: i64 = 3600;

/// A way through the store's list, newest first, that never costs much more than asking for each
/// candidate by its id would have.
#[derive(Debug)]
pub struct Sweep {
    created_from: i64,
    created_to: i64,
    candidates: usize,
    /// Candidates that the pages have shown.
    shown: usize,
    pages: usize,
    /// Invoices on the pages so far.
    skip: usize,
    at_the_end: bool,
}

impl Sweep {
    /// A sweep for `candidates`, which are oldest first.
    pub fn new(candidates: &[Invoice]) -> Self {
        let created = |invoice: Option<&Invoice>| invoice.map_or(0, |invoice| invoice.created);
        Self {
            created_from: created(candidates.first()).saturating_sub(CLOCKS_DIFFER),
            created_to: created(candidates.last()).saturating_add(CLOCKS_DIFFER),
            candidates: candidates.len(),
            shown: 0,
            pages: 0,
            skip: 0,
            at_the_end: false,
        }
    }

    /// The page to ask for next; none where it is cheaper to ask by id for what was not shown.
    pub fn next_page(&self) -> Option<Page> {
        let missing = self.candidates - self.shown;
        let spent = self.pages * PAGE_COST;
        // A tenth of what asking by id costs is staked on a list that begins with others' invoices.
        let worth_it = missing > PAGE_COST && spent <= self.shown + self.candidates / 10;
        (worth_it && !self.at_the_end).then_some(Page {
            created_from: self.created_from,
            created_to: self.created_to,
            skip: self.skip,
            take: PAGE_SIZE,
        })
    }

    /// The page had `invoices` on it, of which `candidates` had not been shown before.
    pub fn showed(&mut self, invoices: usize, candidates: usize) {
        self.pages += 1;
        self.skip += invoices;
        self.shown += candidates;
        self.at_the_end = invoices < PAGE_SIZE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId, License, LocalStatus, Purpose};

    fn candidates(count: usize) -> Vec<Invoice> {
        (0..count)
            .map(|place| Invoice {
                id: InvoiceId(format!("here-{place}").into()),
                btcpay_id: BtcpayInvoiceId(format!("there-{place}").into()),
                status: LocalStatus::Pending,
                amount_sats: 21_000,
                created: 1_795_000_000 + i64::try_from(place).unwrap(),
                purpose: Purpose::Purchase,
                license: License::None,
                redemption: None,
            })
            .collect()
    }

    /// How many pages a sweep takes, and how many candidates it leaves to be asked for by id, in a
    /// list that says of each invoice whether it is a candidate.
    fn swept(list: &[bool]) -> (usize, usize) {
        let count = list.iter().filter(|candidate| **candidate).count();
        let mut sweep = Sweep::new(&candidates(count));
        let mut shown = 0;
        while let Some(page) = sweep.next_page() {
            let end = list.len().min(page.skip + page.take);
            let page = &list[page.skip..end];
            let candidates = page.iter().filter(|candidate| **candidate).count();
            shown += candidates;
            sweep.showed(page.len(), candidates);
        }
        (sweep.pages, count - shown)
    }

    #[test]
    fn few_candidates_are_asked_for_by_id() {
        for few in 0..=PAGE_COST {
            assert_eq!(swept(&vec![true; few]), (0, few));
        }
        assert_eq!(swept(&[true; PAGE_COST + 1]), (1, 0));
    }

    #[test]
    fn a_list_of_candidates_alone_is_swept_to_its_end() {
        assert_eq!(swept(&[true; 10 * PAGE_SIZE]), (10, 0));
        assert_eq!(swept(&[true; 10 * PAGE_SIZE + 20]), (11, 0));
        assert_eq!(
            swept(&[true; 10 * PAGE_SIZE + 3]),
            (10, 3),
            "cheaper by id than by one more page"
        );
    }

    #[test]
    fn a_candidate_that_is_not_in_the_list_ends_with_it() {
        let mut sweep = Sweep::new(&candidates(100));
        assert!(sweep.next_page().is_some());
        sweep.showed(80, 80);
        assert!(sweep.next_page().is_none());
    }

    #[test]
    fn a_sweep_costs_at_most_a_little_more_than_asking_by_id() {
        for candidates in [11, 12, 50, 100, 499, 1000, 5000] {
            for others_each in [0, 1, 2, 5, 10, 30, 45, 49, 50, 51, 60, 100, 1000] {
                let one = [vec![true], vec![false; others_each]].concat();
                let mixed = one.repeat(candidates);
                let mut clustered = mixed.clone();
                clustered.sort_unstable();
                for list in [&mixed, &clustered] {
                    let (pages, by_id) = swept(list);
                    let cost = pages * PAGE_COST + by_id;
                    assert!(
                        cost <= candidates + candidates / 10 + PAGE_COST,
                        "{candidates} candidates, {others_each} others each: {pages} pages, {by_id} by id"
                    );
                }
            }
        }
    }

    #[test]
    fn both_ends_leave_room_for_clocks_that_differ() {
        let page = Sweep::new(&candidates(100)).next_page().unwrap();
        assert_eq!(page.created_from, 1_795_000_000 - 3600);
        assert_eq!(page.created_to, 1_795_000_099 + 3600);
        let odd = [
            Invoice {
                created: i64::MIN,
                ..candidates(1).remove(0)
            },
            Invoice {
                created: i64::MAX,
                ..candidates(1).remove(0)
            },
        ];
        let sweep = Sweep::new(&odd);
        assert_eq!((sweep.created_from, sweep.created_to), (i64::MIN, i64::MAX));
    }
}
