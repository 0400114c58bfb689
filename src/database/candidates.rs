//! Which invoices may be out of date.

use anyhow::{Result, ensure};
use log::trace;
use rusqlite::{Row, Statement, named_params};

use super::invoice_row::{read_invoice, readable_time};
use super::row::{column_value, shown};
use super::{Database, in_words};
use crate::invoice::{BtcpayInvoiceId, ByService, Invoice, InvoiceId, LocalStatus, Purpose};

/// How long the service is left alone with an invoice that it has closed or settled, before what
/// is missing counts as forgotten.
const SERVICE_MOMENT_SECONDS: i64 = 60;

/// Of which time and which kind the invoices in question are.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Unix seconds.
    pub now: i64,
    /// Unix seconds; invoices created before are not asked about.
    pub since: i64,
    /// Whether invoices that are closed here are asked about again.
    pub recheck: bool,
}

#[derive(Debug)]
pub struct Listing {
    /// Oldest first.
    pub candidates: Vec<Invoice>,
    /// Half-done invoices of free sales, which BTCPay Server knows nothing of.
    pub free: Vec<Invoice>,
    pub unreadable: Vec<Unreadable>,
    /// Pending invoices created before the window.
    pub out_of_window: u32,
    /// Candidates that belong to another payment provider of the service's.
    pub other_provider: u64,
}

/// A candidate whose row does not fit the contract. Its ids are as readable as they can be made.
#[derive(Debug)]
pub struct Unreadable {
    pub id: InvoiceId,
    pub btcpay_id: BtcpayInvoiceId,
    pub error: anyhow::Error,
}

// The bound on the text of created_at only lets the index work; created_seconds decides. It lies a
// day before the window because text with another offset than UTC's sorts up to a day away.
const CANDIDATES: &str = concat!(
    select_invoice!(),
    "WHERE invoices.id IN (
       SELECT id FROM invoices
        WHERE status = 'pending'

       UNION
       SELECT id FROM invoices
        WHERE status = 'settled'
          AND created_at >= date(:since, 'unixepoch', '-1 day')
          AND NOT EXISTS (SELECT 1 FROM licenses WHERE invoice_id = invoices.id)

       UNION
       SELECT id FROM invoices
        WHERE status = 'settled'
          AND ",
    time_form!("created_at"),
    " IS NOT TRUE
          AND NOT EXISTS (SELECT 1 FROM licenses WHERE invoice_id = invoices.id)

       UNION
       SELECT invoice_id FROM discount_redemptions
        WHERE status = 'pending'

       UNION
       SELECT invoice_id FROM half_done_beyond
        WHERE created_at >= date(:since, 'unixepoch', '-1 day')

       UNION
       SELECT id FROM invoices
        WHERE :recheck
          AND status IN ('expired', 'invalid')
          AND created_at >= date(:since, 'unixepoch', '-1 day')

       UNION
       SELECT id FROM invoices
        WHERE :recheck
          AND status IN ('expired', 'invalid')
          AND ",
    time_form!("created_at"),
    " IS NOT TRUE
     )
       -- The plus keeps this from being taken for a way to find them.
       AND +invoices.status IN ('pending', 'settled', 'expired', 'invalid')
       AND (created_seconds >= :since) IS NOT FALSE
       AND (
         +invoices.status = 'pending'
         OR (:recheck AND invoices.status IN ('expired', 'invalid'))
         OR (updated_seconds <= :untouched_since) IS NOT FALSE
       )
     ORDER BY created_seconds, invoices.id"
);

const OUT_OF_WINDOW: &str = concat!(
    "SELECT count(*)
       FROM invoices
       JOIN invoices_beyond AS beyond ON beyond.invoice_id = invoices.id
      WHERE invoices.status = 'pending'
        AND beyond.is_ours
        AND ",
    unix_seconds!("invoices.created_at"),
    " < :since"
);

#[cfg(test)]
pub const QUERIES: [&str; 2] = [CANDIDATES, OUT_OF_WINDOW];

impl Database {
    /// The invoices that may be out of date, in one read.
    ///
    /// # Errors
    ///
    /// Only where the database as a whole cannot be read; a row that does not fit the contract is
    /// listed as [`Unreadable`].
    pub fn candidates(&self, window: Window) -> Result<Listing> {
        self.list(window)
            .map_err(|error| in_words(error, "list the invoices of", &self.path))
    }

    fn list(&self, window: Window) -> rusqlite::Result<Listing> {
        let read = self.connection.unchecked_transaction()?;
        let mut listing = Listing {
            candidates: Vec::new(),
            free: Vec::new(),
            unreadable: Vec::new(),
            other_provider: 0,
            out_of_window: read.query_row(
                OUT_OF_WINDOW,
                named_params! { ":since": window.since },
                |row| row.get(0),
            )?,
        };
        let mut statement = read.prepare(CANDIDATES)?;
        let mut rows = statement.query(named_params! {
            ":since": window.since,
            ":untouched_since": window.now - SERVICE_MOMENT_SECONDS,
            ":recheck": window.recheck,
        })?;
        let with_values = rows.as_ref().and_then(Statement::expanded_sql);
        trace!("candidates: {}", with_values.unwrap_or_default());
        while let Some(row) = rows.next()? {
            match read_candidate(row, window.recheck) {
                Ok(Candidate::ToAskAbout(invoice)) => listing.candidates.push(invoice),
                Ok(Candidate::Free(invoice)) => listing.free.push(invoice),
                Ok(Candidate::OfAnotherProvider) => listing.other_provider += 1,
                Ok(Candidate::NotInQuestion) => {}
                Err(error) => listing.unreadable.push(Unreadable {
                    id: InvoiceId(shown(row.get_ref("id")?)),
                    btcpay_id: BtcpayInvoiceId(shown(row.get_ref("btcpay_invoice_id")?)),
                    error,
                }),
            }
        }
        Ok(listing)
    }
}

enum Candidate {
    ToAskAbout(Invoice),
    Free(Invoice),
    OfAnotherProvider,
    /// The service has done all that there was to do, or nothing was ever to be paid.
    NotInQuestion,
}

fn read_candidate(row: &Row, recheck: bool) -> Result<Candidate> {
    let is_ours: bool = column_value(row, "is_ours")?;
    let invoice = read_invoice(row);
    let is_free = matches!(&invoice, Ok(invoice) if invoice.btcpay_id.is_of_a_free_sale());
    if !is_ours && !is_free {
        return Ok(Candidate::OfAnotherProvider);
    }
    let invoice = invoice?;
    let untouched_matters = match invoice.status {
        LocalStatus::Pending => false,
        LocalStatus::Settled => true,
        LocalStatus::Expired | LocalStatus::Invalid => !recheck,
    };
    if untouched_matters {
        readable_time(row, "updated_at", "updated_seconds")?;
    }
    Ok(match (invoice.status, invoice.purpose) {
        _ if is_free => free(invoice)?,
        (
            LocalStatus::Settled,
            Purpose::TierChange(ByService::Done) | Purpose::Renewal(ByService::Done),
        ) => Candidate::NotInQuestion,
        (
            LocalStatus::Pending
            | LocalStatus::Settled
            | LocalStatus::Expired
            | LocalStatus::Invalid,
            Purpose::Purchase | Purpose::TierChange(_) | Purpose::Renewal(_),
        ) => Candidate::ToAskAbout(invoice),
    })
}

fn free(invoice: Invoice) -> Result<Candidate> {
    Ok(match (invoice.status, invoice.purpose) {
        (LocalStatus::Settled, Purpose::Purchase) => {
            ensure!(
                invoice.amount_sats == 0,
                "its btcpay_invoice_id says that it was free, and its amount_sats is {}; correct \
                 one of them",
                invoice.amount_sats
            );
            Candidate::Free(invoice)
        }
        (LocalStatus::Settled, Purpose::TierChange(_) | Purpose::Renewal(_))
        | (LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid, _) => {
            Candidate::NotInQuestion
        }
    })
}
