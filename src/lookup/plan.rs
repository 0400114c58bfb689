//! The plan: whether the store's list is worth reading, and how far. Pure: what the pages have shown
//! so far in, the next page out.

use crate::btcpay::Page;
use crate::invoice::Invoice;

/// Invoices per page of the list, measured with `cargo bench`.
const PAGE_SIZE: usize = 500;

/// The cost of a page, in requests for one invoice: BTCPay Server loads every invoice on it with its
/// payments.
const PAGE_COST: usize = 10;

/// How far the two clocks may differ, in seconds. Candidates beyond that are looked up by id.
const CLOCKS_DIFFER: i64 = 3600;

/// A walk through the store's list, newest first, that never costs much more than looking up each
/// candidate by id.
#[derive(Debug)]
pub struct Plan {
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

impl Plan {
    /// A plan for `candidates`, which are oldest first.
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

    /// The next page to read; None once it is cheaper to look up the rest by id.
    pub fn next_page(&self) -> Option<Page> {
        let missing = self.candidates - self.shown;
        let spent = self.pages * PAGE_COST;
        // Up to a tenth of what the lookups by id would cost is risked on a list that begins with
        // other invoices.
        let worth_it = missing > PAGE_COST && spent <= self.shown + self.candidates / 10;
        (worth_it && !self.at_the_end).then_some(Page {
            created_from: self.created_from,
            created_to: self.created_to,
            skip: self.skip,
            take: PAGE_SIZE,
        })
    }

    /// The page showed `invoices` invoices, of which `candidates` were candidates not shown before.
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
    use crate::invoice::{
        BtcpayInvoiceId, InvoiceId, License, LocalStatus, Missing, Provider, Purpose,
    };

    fn candidates(count: usize) -> Vec<Invoice> {
        (0..count)
            .map(|place| Invoice {
                id: InvoiceId(format!("here-{place}").into()),
                btcpay_id: BtcpayInvoiceId(format!("there-{place}").into()),
                status: LocalStatus::Pending,
                amount_sats: 21_000,
                created: 1_795_000_000 + i64::try_from(place).unwrap(),
                provider: Provider::OurStore,
                purpose: Purpose::Purchase,
                license: License::None,
                missing: Missing::NOTHING,
                redemption: None,
            })
            .collect()
    }

    /// How many pages are read, and how many candidates are left to look up by id, for a list that
    /// says of each invoice whether it is a candidate.
    fn walk(list: &[bool]) -> (usize, usize) {
        let count = list.iter().filter(|candidate| **candidate).count();
        let mut plan = Plan::new(&candidates(count));
        let mut shown = 0;
        while let Some(page) = plan.next_page() {
            let end = list.len().min(page.skip + page.take);
            let page = &list[page.skip..end];
            let candidates = page.iter().filter(|candidate| **candidate).count();
            shown += candidates;
            plan.showed(page.len(), candidates);
        }
        (plan.pages, count - shown)
    }

    #[test]
    fn few_candidates_are_looked_up_by_id() {
        for few in 0..=PAGE_COST {
            assert_eq!(walk(&vec![true; few]), (0, few));
        }
        assert_eq!(walk(&[true; PAGE_COST + 1]), (1, 0));
    }

    #[test]
    fn list_full_of_candidates_is_read_to_its_end() {
        assert_eq!(walk(&[true; 10 * PAGE_SIZE]), (10, 0));
        assert_eq!(walk(&[true; 10 * PAGE_SIZE + 20]), (11, 0));
        assert_eq!(
            walk(&[true; 10 * PAGE_SIZE + 3]),
            (10, 3),
            "cheaper by id than by one more page"
        );
    }

    #[test]
    fn reading_ends_with_the_list() {
        let mut plan = Plan::new(&candidates(100));
        assert!(plan.next_page().is_some());
        plan.showed(80, 80);
        assert!(plan.next_page().is_none());
    }

    #[test]
    fn costs_little_more_than_lookups_by_id() {
        for candidates in [11, 12, 50, 100, 499, 1000, 5000] {
            for others_each in [0, 1, 2, 5, 10, 30, 45, 49, 50, 51, 60, 100, 1000] {
                let one = [vec![true], vec![false; others_each]].concat();
                let mixed = one.repeat(candidates);
                let mut clustered = mixed.clone();
                clustered.sort_unstable();
                for list in [&mixed, &clustered] {
                    let (pages, by_id) = walk(list);
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
    fn window_allows_for_clock_skew() {
        let page = Plan::new(&candidates(100)).next_page().unwrap();
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
        let plan = Plan::new(&odd);
        assert_eq!((plan.created_from, plan.created_to), (i64::MIN, i64::MAX));
    }
}
