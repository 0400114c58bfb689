//! Which invoices may be out of date.

use std::collections::HashSet;

use anyhow::{Result, anyhow, ensure};
use log::trace;
use rusqlite::{Connection, Row, Statement, named_params, params};

use super::Database;
use super::errors::explain;
use super::invoice_row::{read_invoice, readable_time};
use super::keysat;
use super::row::{column_value, shown};
use crate::candidates::Candidates;
use crate::decide::is_complete;
use crate::invoice::{BtcpayInvoiceId, Invoice, InvoiceId, License, LocalStatus, Purpose};
use crate::secret;

/// How long, in seconds, the service gets to finish an invoice that it has just settled or closed.
pub const GRACE_SECONDS: i64 = 60;

/// How many older pending invoices a run looks up.
const MOST_OLDER: u32 = 500;

/// How many invoices of which something was noted it looks up.
const MOST_NOTED: usize = 500;

/// Which invoices are in question.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Unix seconds; invoices created earlier are out of the window.
    pub since: i64,
    /// Whether expired and invalid invoices, and complete sales, are candidates too.
    pub recheck: bool,
    /// Whether invoices of which something was noted are listed, whatever the window.
    pub noted: bool,
    /// And those that a person acknowledged.
    pub acknowledged: bool,
}

#[derive(Debug)]
pub struct Listing {
    /// Oldest first.
    pub candidates: Candidates,
    /// Incomplete free sales, of which BTCPay Server knows nothing.
    pub free: Vec<Invoice>,
    /// Pending invoices older than the window, if closed ones are candidates too: as many as there is
    /// room for, from a random place to the newest and then from the oldest, so that repeated runs
    /// reach all of them. Each part is oldest first.
    pub older: [Candidates; 2],
    /// Others of which something was noted that is not over: as many as there is room for, from a
    /// random one on. Oldest first.
    pub noted: Candidates,
    /// Complete sales whose license is in use.
    pub complete: Candidates,
    /// Invoices of which something was noted, and that are no longer there, or the service's alone.
    pub gone: Vec<InvoiceId>,
    pub unreadable: Vec<Unreadable>,
    /// Pending invoices created before the window.
    pub out_of_window: u32,
    /// Candidates of another payment provider.
    pub other_provider: u64,
}

/// A candidate whose row does not fit the contract, with its ids as far as they are readable.
#[derive(Debug)]
pub struct Unreadable {
    pub id: InvoiceId,
    pub btcpay_id: BtcpayInvoiceId,
    pub error: anyhow::Error,
}

/// What a buyer bought.
#[derive(Debug)]
pub struct Bought {
    /// The newest first.
    pub newest: Vec<Result<Invoice, Unreadable>>,
    /// How many there are beside these.
    pub older: u64,
}

// The bound on created_at's text only makes the index useful; created_seconds decides. It lies a day
// before the window because text with another offset than UTC's sorts up to a day away. Text that does
// not begin like a time is found by the partial index of schema.sql, which has the same words.
const CANDIDATES: &str = "
SELECT *
  FROM invoice_rows
 WHERE status = 'pending'
   AND (created_seconds >= :since) IS NOT FALSE

 UNION ALL
SELECT *
  FROM invoice_rows
 WHERE id IN (
         SELECT id FROM invoices
          WHERE status = 'settled'
            AND created_at >= date(:since, 'unixepoch', '-1 day')
            AND NOT EXISTS (SELECT 1 FROM licenses WHERE invoice_id = invoices.id)

         UNION
         SELECT id FROM invoices
          WHERE status = 'settled'
            AND (created_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9][T ]*') IS NOT TRUE
            AND NOT EXISTS (SELECT 1 FROM licenses WHERE invoice_id = invoices.id)

         UNION
         SELECT invoice_id
           FROM discount_redemptions
          CROSS JOIN invoices ON invoices.id = invoice_id
          WHERE discount_redemptions.status = 'pending'
            AND invoices.status <> 'pending'

         UNION
         SELECT invoices.id
           FROM invoices
           JOIN discount_redemptions AS redemption ON redemption.invoice_id = invoices.id
          WHERE invoices.status = 'settled'
            AND invoices.created_at >= date(:since, 'unixepoch', '-1 day')
            AND redemption.status = 'cancelled'

         UNION
         SELECT invoice_id FROM incomplete_invoices
          WHERE created_at >= date(:since, 'unixepoch', '-1 day')

         UNION
         SELECT id FROM invoices
          WHERE :recheck
            AND status IN ('settled', 'expired', 'invalid')
            AND created_at >= date(:since, 'unixepoch', '-1 day')

         UNION
         SELECT id FROM invoices
          WHERE :recheck
            AND status IN ('expired', 'invalid')
            AND (created_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9][T ]*') IS NOT TRUE
       )
   -- The plus keeps the index on status from being used to find them.
   AND +status IN ('settled', 'expired', 'invalid')
   AND (created_seconds >= :since) IS NOT FALSE
   AND (
         (:recheck AND status IN ('expired', 'invalid'))
         OR (updated_seconds <= :untouched_since) IS NOT FALSE
         -- The clock was wrong then.
         OR updated_seconds > :now + 600
       )";

const OUT_OF_WINDOW: &str = "
SELECT count(*)
  FROM invoice_rows
 WHERE status = 'pending'
   AND is_ours IS NOT 0
   AND created_seconds < ?1";

const OLDER: &str = "
SELECT *
  FROM invoice_rows
 WHERE status = 'pending'
   AND is_ours IS NOT 0
   AND created_seconds < ?1
 ORDER BY created_seconds, id
 LIMIT ?3 OFFSET ?2";

const NEWEST_PAID: &str = "
SELECT *
  FROM invoice_rows
 WHERE id IN (
         SELECT invoices.id
           FROM invoices
           JOIN licenses ON licenses.invoice_id = invoices.id
          WHERE invoices.status = 'settled'
            AND invoices.amount_sats > 0
            AND invoices.btcpay_invoice_id NOT LIKE 'free-%'
          ORDER BY invoices.created_at DESC
          LIMIT 100)
   AND is_ours = 1
 ORDER BY created_seconds DESC
 LIMIT ?1";

// As for candidates, the service gets to finish what it has just settled.
const NOTED: &str = "
SELECT *,
       status IN ('pending', 'settled', 'expired', 'invalid') AS is_of_the_contract,
       status = 'settled'
         AND updated_seconds > :untouched_since
         AND updated_seconds <= :now + 600                    AS was_just_touched
  FROM invoice_rows
 WHERE id = :id";

const FIND: &str = "
SELECT *
  FROM invoice_rows
 WHERE id = ?1 OR btcpay_invoice_id = ?1
 LIMIT 2";

// None of QUERIES: it reads every invoice, for want of an index. Only a person asks this.
const BOUGHT_BY: &str = "
SELECT *
  FROM invoice_rows
 WHERE buyer_email = ?1 COLLATE NOCASE
 ORDER BY created_seconds DESC, id";

#[cfg(test)]
pub const QUERIES: [&str; 6] = [CANDIDATES, OUT_OF_WINDOW, OLDER, NEWEST_PAID, NOTED, FIND];

impl Database {
    /// The invoices that may be out of date, in one read.
    ///
    /// # Errors
    ///
    /// The database cannot be read. A row that does not fit the contract is [`Unreadable`], no error.
    pub fn candidates(&self, window: Window) -> Result<Listing> {
        self.list(window)
            .map_err(|error| explain(&error, "list the invoices of", &self.path, self.deadline))
    }

    fn list(&self, window: Window) -> rusqlite::Result<Listing> {
        let read = self.connection.unchecked_transaction()?;
        let mut listing = Listing {
            candidates: Candidates::default(),
            free: Vec::new(),
            older: Default::default(),
            noted: Candidates::default(),
            complete: Candidates::default(),
            gone: Vec::new(),
            unreadable: Vec::new(),
            other_provider: 0,
            out_of_window: read.query_row(OUT_OF_WINDOW, [window.since], |row| row.get(0))?,
        };
        if window.recheck {
            let keysat = self.keysat.as_ref();
            if let Some(keysat) = keysat {
                keysat.find_undelivered(&read, window.since)?;
            }
            self.list_older(&read, window.since, &mut listing)?;
        }
        let mut statement = read.prepare(CANDIDATES)?;
        let mut rows = statement.query(named_params! {
            ":since": window.since,
            ":now": self.clock.now,
            ":untouched_since": self.clock.now - GRACE_SECONDS,
            ":recheck": window.recheck,
        })?;
        let with_values = rows.as_ref().and_then(Statement::expanded_sql);
        trace!("candidates: {}", with_values.unwrap_or_default());
        while let Some(row) = rows.next()? {
            let take = |candidate| {
                match candidate {
                    Candidate::ToLookUp(invoice) => listing.candidates.push(&invoice)?,
                    Candidate::Free(invoice) => listing.free.push(invoice),
                    Candidate::OtherProvider => listing.other_provider += 1,
                    Candidate::InUse(invoice) => listing.complete.push(&invoice)?,
                    Candidate::Complete => {}
                }
                Ok(())
            };
            let candidate = self.read_candidate(row, window.recheck);
            if let Err(error) = candidate.and_then(take) {
                listing.unreadable.push(unreadable(row, error)?);
            }
        }
        drop(rows);
        drop(statement);
        // SQLite would sort whole rows, and hold all of them meanwhile.
        listing.candidates.sort();
        listing.complete.sort();
        listing
            .free
            .sort_by(|one, other| (one.created, &one.id.0).cmp(&(other.created, &other.id.0)));
        let order = |one: &Unreadable, other: &Unreadable| one.id.0.cmp(&other.id.0);
        listing.unreadable.sort_by(order);
        if window.noted {
            self.list_noted(&read, window.acknowledged, &mut listing)?;
        }
        // A rollback would empty the temporary tables that were filled.
        read.commit()?;
        Ok(listing)
    }

    /// The newest invoices that were certainly paid in our store, `most` of them.
    ///
    /// # Errors
    ///
    /// See [`Self::candidates`].
    pub fn newest_paid(&self, most: u32) -> Result<Vec<Invoice>> {
        let find = || {
            let mut statement = self.connection.prepare(NEWEST_PAID)?;
            let mut rows = statement.query([most])?;
            let mut paid = Vec::new();
            while let Some(row) = rows.next()? {
                paid.extend(read_invoice(row));
            }
            Ok(paid)
        };
        find().map_err(|error| explain(&error, "read an invoice of", &self.path, self.deadline))
    }

    /// The invoice of this id, the service's or BTCPay's. One that cannot be sold in our store is
    /// [`Unreadable`], and so is an id of no invoice, or of two.
    ///
    /// # Errors
    ///
    /// See [`Self::candidates`].
    pub fn find(&self, id: &str) -> Result<Result<Invoice, Unreadable>> {
        let find = || {
            let mut statement = self.connection.prepare(FIND)?;
            let mut rows = statement.query([id])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(self.read_found(row)?);
            }
            Ok(found)
        };
        let mut found = find()
            .map_err(|error| explain(&error, "read an invoice of", &self.path, self.deadline))?;
        let (shown, why) = match found.len() {
            // It may be a key, in the wrong place.
            0 => (
                secret::without_any(id),
                "no invoice has this id. To find a sale by its buyer: reconcile -n ADDRESS",
            ),
            _ => (
                id.into(),
                "several invoices have this id. Give the other one of the two ids",
            ),
        };
        Ok(match (found.pop(), found.is_empty()) {
            (Some(one), true) => one,
            _ => Err(Unreadable {
                id: InvoiceId(shown.as_ref().into()),
                btcpay_id: BtcpayInvoiceId(shown.as_ref().into()),
                error: anyhow!(why),
            }),
        })
    }

    /// The newest invoices of the buyer with this address, `most` of them. ASCII letters may be of
    /// either case.
    ///
    /// # Errors
    ///
    /// See [`Self::candidates`].
    pub fn bought_by(&self, address: &str, most: usize) -> Result<Bought> {
        let find = || {
            let mut statement = self.connection.prepare(BOUGHT_BY)?;
            let mut rows = statement.query([address])?;
            let mut bought = Bought {
                newest: Vec::new(),
                older: 0,
            };
            while let Some(row) = rows.next()? {
                if bought.newest.len() == most {
                    bought.older += 1;
                } else {
                    bought.newest.push(self.read_found(row)?);
                }
            }
            Ok(bought)
        };
        find().map_err(|error| explain(&error, "read an invoice of", &self.path, self.deadline))
    }

    fn read_found(&self, row: &Row) -> rusqlite::Result<Result<Invoice, Unreadable>> {
        match self.read_sold(row) {
            Ok(invoice) => Ok(Ok(invoice)),
            Err(error) => Ok(Err(unreadable(row, error)?)),
        }
    }

    fn list_older(
        &self,
        read: &Connection,
        since: i64,
        listing: &mut Listing,
    ) -> rusqlite::Result<()> {
        let count = listing.out_of_window;
        let first = fastrand::u32(..count.max(1));
        let after = count - first.min(count);
        let mut statement = read.prepare(OLDER)?;
        let to_the_newest = (first, MOST_OLDER);
        let from_the_oldest = (0, MOST_OLDER.saturating_sub(after).min(first));
        let parts = [to_the_newest, from_the_oldest];
        for ((offset, limit), older) in parts.into_iter().zip(&mut listing.older) {
            let mut rows = statement.query(params![since, offset, limit])?;
            while let Some(row) = rows.next()? {
                let take = |candidate| match candidate {
                    Candidate::ToLookUp(invoice) => older.push(&invoice),
                    Candidate::Free(_)
                    | Candidate::OtherProvider
                    | Candidate::InUse(_)
                    | Candidate::Complete => Ok(()),
                };
                let candidate = self.read_candidate(row, true);
                if let Err(error) = candidate.and_then(take) {
                    listing.unreadable.push(unreadable(row, error)?);
                }
            }
        }
        Ok(())
    }
}

impl Database {
    fn list_noted(
        &self,
        read: &Connection,
        acknowledged_too: bool,
        listing: &mut Listing,
    ) -> rusqlite::Result<()> {
        let mut log = self.log.borrow_mut();
        log.read_once(read)?;
        let from_a_random_one = |mut ids: Vec<InvoiceId>| {
            let first = fastrand::usize(..ids.len().max(1));
            ids.rotate_left(first);
            ids
        };
        let mut ids = from_a_random_one(log.open());
        if acknowledged_too {
            ids.extend(from_a_random_one(log.acknowledged()));
        }
        if ids.is_empty() {
            return Ok(());
        }
        let free = listing.free.iter().map(|invoice| &*invoice.id.0);
        let odd = listing.unreadable.iter();
        let listed: HashSet<&str> = listing
            .candidates
            .ids()
            .chain(listing.older.iter().flat_map(Candidates::ids))
            .chain(listing.complete.ids())
            .chain(free)
            .chain(odd.map(|unreadable| &*unreadable.id.0))
            .collect();
        ids.retain(|id| !listed.contains(&*id.0));
        drop(log);
        let mut statement = read.prepare(NOTED)?;
        for id in ids {
            if listing.noted.len() == MOST_NOTED || listing.gone.len() == MOST_NOTED {
                break;
            }
            let mut rows = statement.query(named_params! {
                ":id": id.0,
                ":now": self.clock.now,
                ":untouched_since": self.clock.now - GRACE_SECONDS,
            })?;
            let Some(row) = rows.next()? else {
                listing.gone.push(id);
                continue;
            };
            let take = |noted| {
                match noted {
                    Noted::ToLookUp(invoice) => listing.noted.push(&invoice)?,
                    Noted::Free(invoice) => listing.free.push(invoice),
                    Noted::Gone => listing.gone.push(id),
                    Noted::Skipped => {}
                }
                Ok(())
            };
            if let Err(error) = self.read_noted(row).and_then(take) {
                listing.unreadable.push(unreadable(row, error)?);
            }
        }
        listing.noted.sort();
        Ok(())
    }

    fn read_noted(&self, row: &Row) -> Result<Noted> {
        if !column_value::<bool>(row, "is_of_the_contract")? {
            return Ok(Noted::Gone);
        }
        let is_free = BtcpayInvoiceId(shown(row.get_ref("btcpay_invoice_id")?)).is_free();
        let is_ours: Option<bool> = column_value(row, "is_ours")?;
        let was_just_touched = column_value::<Option<bool>>(row, "was_just_touched")?;
        if is_ours == Some(false) && !is_free {
            return Ok(Noted::Skipped);
        }
        let invoice = self.with_history(read_invoice(row)?)?;
        if was_just_touched == Some(true) && !is_complete(&invoice) {
            return Ok(Noted::Skipped);
        }
        Ok(if is_free {
            Noted::Free(invoice)
        } else {
            Noted::ToLookUp(invoice)
        })
    }

    fn with_history(&self, mut invoice: Invoice) -> Result<Invoice> {
        let keysat = self.keysat.as_ref();
        keysat::fill_in_applied(&mut invoice, keysat, &self.connection, self.clock)?;
        Ok(invoice)
    }
}

enum Noted {
    ToLookUp(Invoice),
    Free(Invoice),
    /// Its row is no longer there, or has a status outside the contract.
    Gone,
    /// Of another payment provider, or not to be looked at now.
    Skipped,
}

impl Database {
    /// Reads an invoice of our store, or one that was free.
    fn read_sold(&self, row: &Row) -> Result<Invoice> {
        let is_ours: Option<bool> = column_value(row, "is_ours")?;
        let invoice = self.with_history(read_invoice(row)?)?;
        if invoice.btcpay_id.is_free() {
            ensure!(
                invoice.status == LocalStatus::Settled,
                "it was free, and the service calls it {}, not settled",
                invoice.status.word()
            );
            ensure_free(&invoice)?;
        } else {
            ensure!(
                is_ours != Some(false),
                "it is of another payment provider or store. Set --btcpay-url and --store-id to its own"
            );
        }
        Ok(invoice)
    }
}

fn unreadable(row: &Row, error: anyhow::Error) -> rusqlite::Result<Unreadable> {
    Ok(Unreadable {
        id: InvoiceId(shown(row.get_ref("id")?)),
        btcpay_id: BtcpayInvoiceId(shown(row.get_ref("btcpay_invoice_id")?)),
        error,
    })
}

enum Candidate {
    ToLookUp(Invoice),
    Free(Invoice),
    OtherProvider,
    /// The service has done everything, and the license is in use.
    InUse(Invoice),
    /// The service has done everything, or nothing was ever to be paid.
    Complete,
}

impl Database {
    fn read_candidate(&self, row: &Row, recheck: bool) -> Result<Candidate> {
        let is_ours: Option<bool> = column_value(row, "is_ours")?;
        let btcpay_id = row.get_ref("btcpay_invoice_id")?;
        let is_free = BtcpayInvoiceId(shown(btcpay_id)).is_free();
        if is_ours == Some(false) && !is_free {
            return Ok(Candidate::OtherProvider);
        }
        let invoice = read_invoice(row)?;
        let touched_matters = match invoice.status {
            LocalStatus::Pending => false,
            LocalStatus::Settled => true,
            LocalStatus::Expired | LocalStatus::Invalid => !recheck,
        };
        let invoice = self.with_history(invoice)?;
        let is_complete = invoice.status == LocalStatus::Settled && is_complete(&invoice);
        if touched_matters && !is_complete {
            readable_time(row, "updated_at", "updated_seconds")?;
        }
        let is_in_use = matches!(
            invoice.license,
            License::Issued {
                is_active: true,
                ..
            }
        );
        if is_complete && recheck && !is_free && is_in_use {
            Ok(Candidate::InUse(invoice))
        } else if is_complete {
            Ok(Candidate::Complete)
        } else if is_free {
            free(invoice)
        } else {
            Ok(Candidate::ToLookUp(invoice))
        }
    }
}

fn free(invoice: Invoice) -> Result<Candidate> {
    Ok(match (invoice.status, invoice.purpose) {
        (LocalStatus::Settled, Purpose::Purchase) => {
            ensure_free(&invoice)?;
            Candidate::Free(invoice)
        }
        (LocalStatus::Settled, Purpose::TierChange { .. } | Purpose::Renewal { .. })
        | (LocalStatus::Pending | LocalStatus::Expired | LocalStatus::Invalid, _) => {
            Candidate::Complete
        }
    })
}

fn ensure_free(invoice: &Invoice) -> Result<()> {
    ensure!(
        invoice.amount_sats == 0,
        "its btcpay_invoice_id says that it was free, but its amount_sats is {}. Correct one of them",
        invoice.amount_sats
    );
    Ok(())
}
