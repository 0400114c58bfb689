//! The invoices in question, of which there may be 100,000: each takes 24 bytes and the text of its ids.

use anyhow::{Context, Result};

use crate::invoice::{BtcpayInvoiceId, Invoice, InvoiceId, LocalStatus};

/// As much of an invoice as it takes to ask BTCPay Server about it, and to see later whether the service
/// was faster.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: InvoiceId,
    pub btcpay_id: BtcpayInvoiceId,
    pub status: LocalStatus,
}

/// Candidates by their places, oldest first once they are sorted.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Of each the service's id, then BTCPay Server's.
    ids: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    created: i64,
    /// Where in `ids` its own begin.
    id: u32,
    btcpay_id: u32,
    end: u32,
    status: LocalStatus,
}

impl Candidates {
    /// # Errors
    ///
    /// The ids of all come to 4 GiB.
    pub fn push(&mut self, invoice: &Invoice) -> Result<()> {
        let (id, btcpay_id) = (&*invoice.id.0, &*invoice.btcpay_id.0);
        let [at, id_end, end] = [0, id.len(), id.len() + btcpay_id.len()]
            .map(|bytes| u32::try_from(self.ids.len() + bytes));
        let too_long = "its ids are too long";
        self.entries.push(Entry {
            created: invoice.created,
            id: at.context(too_long)?,
            btcpay_id: id_end.context(too_long)?,
            end: end.context(too_long)?,
            status: invoice.status,
        });
        self.ids.extend([id, btcpay_id]);
        Ok(())
    }

    /// Puts the oldest first, and those of one second in the order of their ids.
    pub fn sort(&mut self) {
        let Self { ids, entries } = self;
        entries.sort_unstable_by(|one, other| {
            let order = |entry: &Entry| (entry.created, entry.id(ids));
            order(one).cmp(&order(other))
        });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, place: usize) -> Option<Candidate> {
        let entry = self.entries.get(place)?;
        Some(Candidate {
            id: InvoiceId(entry.id(&self.ids).into()),
            btcpay_id: BtcpayInvoiceId(entry.btcpay_id(&self.ids).into()),
            status: entry.status,
        })
    }

    /// The service's ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.id(&self.ids))
    }

    /// BTCPay Server's id of the one at this place; empty if there is none.
    pub fn btcpay_id(&self, place: usize) -> &str {
        let entry = self.entries.get(place);
        entry.map_or("", |entry| entry.btcpay_id(&self.ids))
    }

    /// When each was created, in Unix seconds, and how long the service's id is in bytes.
    pub fn known(&self) -> impl Iterator<Item = (i64, usize)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry.created, entry.id(&self.ids).len()))
    }
}

impl Entry {
    fn id<'a>(&self, ids: &'a str) -> &'a str {
        let place = self.id as usize..self.btcpay_id as usize;
        ids.get(place).unwrap_or_default()
    }

    fn btcpay_id<'a>(&self, ids: &'a str) -> &'a str {
        let place = self.btcpay_id as usize..self.end as usize;
        ids.get(place).unwrap_or_default()
    }
}
