//! What a run did, as a value, and everything that is printed of it: stdout's text and JSON, stderr's
//! lines, and the exit code. The code that decides and writes does not know
//! about it.

mod advice;
mod escape;
mod json;
pub mod stderr;
mod table;
mod text;

use std::io::{self, BufWriter, Write};

use jiff::Timestamp;
use log::{error, warn};
use serde::Serialize;

use crate::decide::{Attention, Written};
use crate::invoice::{
    BtcpayInvoiceId, Invoice, InvoiceId, LicenseId, LocalStatus, RedemptionStatus, Sale, Store,
};
use crate::stop::Signal;

/// Its fields are those of `--format json`: they may be added to, never removed.
#[derive(Debug, Serialize)]
pub struct Report {
    pub dry_run: bool,
    /// Invoices looked up in BTCPay Server.
    pub checked: u64,
    pub changes: Vec<Changed>,
    pub attention: Vec<NeedsAttention>,
    pub failures: Vec<Failed>,
    /// Pending invoices too old to be looked up.
    pub out_of_window: u32,
    /// Invoices of another payment provider, which are not looked up.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_provider: u64,
    /// Invoices that may be of another BTCPay store, and are: this one does not have them.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_in_store: u64,
    /// Invoices left over by a run that stopped early.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_asked: u64,
    pub requests: u64,
    pub elapsed_ms: u128,
    /// Why the run stopped early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many changes there are, in `changes` or printed already.
    #[serde(skip)]
    changed: u64,
    /// Where each change is printed as it happens, if it is.
    #[serde(skip)]
    live: Option<Live>,
    /// Whose pages are linked.
    #[serde(skip)]
    store: Store,
}

/// stdout, for lines that go out while the run goes on.
#[derive(Debug)]
struct Live {
    stdout: BufWriter<anstream::Stdout>,
    /// The first error. The run goes on all the same: a full disk of logs must stop no recovery.
    error: Option<io::Error>,
}

impl Live {
    fn write(&mut self, line: &str) {
        let written = writeln!(self.stdout, "{line}");
        self.note(written);
    }

    fn flush(&mut self) {
        let flushed = self.stdout.flush();
        self.note(flushed);
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && self.error.is_none()
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.error = Some(error);
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Changed {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub from: LocalStatus,
    pub to: LocalStatus,
    pub license_issued: bool,
    pub license_id: Option<LicenseId>,
    /// What was missing beside the license.
    pub completed: Vec<&'static str>,
    pub redemption: Option<RedemptionStatus>,
    #[serde(flatten)]
    pub sale: Sale,
}

#[derive(Debug, Serialize)]
pub struct NeedsAttention {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub reason: &'static str,
    /// What happened and what to do.
    pub detail: String,
    /// The invoice's page in BTCPay Server, if it has one.
    pub url: Option<String>,
    #[serde(flatten)]
    pub sale: Sale,
    #[serde(skip)]
    status: LocalStatus,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub error: String,
}

/// How the program ends; README.md says what each code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Reconciled = 0,
    Stopped = 1,
    Usage = 2,
    InvoicesFailed = 3,
}

/// In which form the report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// For whom text is written.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// The width of the terminal, if stdout is one.
    pub columns: Option<usize>,
    /// Whether a run without news prints its summary.
    pub wants_summary: bool,
}

impl Report {
    /// An empty report of a run against `store`, which is `live` if each change is to be printed as it
    /// happens.
    pub fn new(dry_run: bool, store: Store, live: bool) -> Self {
        Self {
            dry_run,
            checked: 0,
            changes: Vec::new(),
            attention: Vec::new(),
            failures: Vec::new(),
            out_of_window: 0,
            other_provider: 0,
            not_in_store: 0,
            not_asked: 0,
            requests: 0,
            elapsed_ms: 0,
            error: None,
            changed: 0,
            live: live.then(|| Live {
                stdout: BufWriter::new(anstream::stdout()),
                error: None,
            }),
            store,
        }
    }

    pub fn changed(&mut self, invoice: Invoice, sale: Sale, written: Written) {
        let change = Changed {
            invoice_id: invoice.id,
            btcpay_invoice_id: invoice.btcpay_id,
            from: written.from,
            to: written.to,
            license_issued: written.license_issued,
            license_id: written.license_id,
            completed: written.completed.words(),
            redemption: written.redemption,
            sale,
        };
        self.changed += 1;
        match &mut self.live {
            Some(live) => live.write(&text::line(&change)),
            None => self.changes.push(change),
        }
    }

    /// Sends out what was printed: a transaction is committed, and its changes are told before
    /// anything else happens.
    pub fn committed(&mut self) {
        if let Some(live) = &mut self.live {
            live.flush();
        }
    }

    pub fn needs_attention(&mut self, invoice: &Invoice, sale: Sale, attention: &Attention) {
        self.attention.push(NeedsAttention {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            reason: attention.reason(),
            detail: advice::detail(attention, invoice),
            url: advice::page(&invoice.btcpay_id, &self.store.url),
            sale,
            status: invoice.status,
        });
    }

    pub fn failed(&mut self, id: InvoiceId, btcpay_id: BtcpayInvoiceId, error: &anyhow::Error) {
        self.failures.push(Failed {
            invoice_id: id,
            btcpay_invoice_id: btcpay_id,
            error: format!("{error:#}"),
        });
    }

    pub fn exit(&self) -> Exit {
        match (&self.error, self.failures.is_empty()) {
            (Some(_), _) => Exit::Stopped,
            (None, false) => Exit::InvoicesFailed,
            (None, true) => Exit::Reconciled,
        }
    }

    /// Puts changes and what needs attention in order, the oldest first, in whatever order they were
    /// looked up.
    pub fn sort(&mut self) {
        self.changes.sort_by(|one, other| {
            order(&one.sale, &one.invoice_id).cmp(&order(&other.sale, &other.invoice_id))
        });
        self.attention.sort_by(|one, other| {
            order(&one.sale, &one.invoice_id).cmp(&order(&other.sale, &other.invoice_id))
        });
    }

    /// Prints what was not printed yet: the JSON object, or the text for `reader` at `now`.
    ///
    /// # Errors
    ///
    /// Some of it could not be written. A pipe whose reader has gone is no error.
    pub fn print(&mut self, format: Format, now: Timestamp, reader: Reader) -> io::Result<()> {
        let mut out = match self.live.take() {
            Some(live) => match live.error {
                Some(error) => return Err(error),
                None => live.stdout,
            },
            None => BufWriter::new(anstream::stdout()),
        };
        let written = match format {
            Format::Json => json::write(&mut out, self),
            Format::Text => text::write(&mut out, self, now, reader),
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Logs what needs attention as warnings.
    pub fn log_attention(&self) {
        let (gone, others) = self.split_attention();
        for item in others {
            warn!(
                "invoice {}: {}: {}",
                item.invoice_id,
                item.reason,
                item.detail_and_link()
            );
        }
        if let Some((first, gone)) = gone.split_first() {
            warn!("{}: {}", first.reason, not_in_btcpay(first, gone));
        }
    }

    /// Unpaid invoices that the store does not have, of which there may be hundreds; and the rest.
    fn split_attention(&self) -> (Vec<&NeedsAttention>, Vec<&NeedsAttention>) {
        self.attention.iter().partition(|item| {
            item.reason == Attention::NotInBtcpay.reason() && item.status != LocalStatus::Settled
        })
    }

    /// Logs what failed as errors, those of one kind once.
    pub fn log_errors(&self) {
        let mut kinds: Vec<(&str, Vec<&Failed>)> = Vec::new();
        for failure in &self.failures {
            match kinds.iter_mut().find(|(error, _)| *error == failure.error) {
                Some((_, same)) => same.push(failure),
                None => kinds.push((&failure.error, vec![failure])),
            }
        }
        for (error, failures) in kinds {
            match failures.as_slice() {
                [one] => error!(
                    "invoice {} (BTCPay invoice {}): {error}",
                    one.invoice_id, one.btcpay_invoice_id
                ),
                many => {
                    let ids = many.iter().map(|failure| &failure.invoice_id);
                    error!(
                        "{} invoices: {error} (first: {})",
                        many.len(),
                        first_of(ids)
                    );
                }
            }
        }
        // The summary names a signal.
        if let (Some(stopped), None) = (&self.error, Signal::received()) {
            error!("{stopped}");
        }
    }
}

/// One item for all unpaid invoices that the store does not have.
fn not_in_btcpay(first: &NeedsAttention, others: &[&NeedsAttention]) -> String {
    /// So that the statements still fit a line.
    const AT_ONCE: usize = 50;
    let ids = || [first].into_iter().chain(others.iter().copied());
    let ids: Vec<&InvoiceId> = ids().map(|item| &item.invoice_id).collect();
    let count = match ids.len() {
        1 => format!("invoice {}", first.invoice_id),
        count => format!(
            "{count} invoices (first: {})",
            first_of(ids.iter().copied())
        ),
    };
    let at_once = ids.get(..AT_ONCE).unwrap_or(&ids);
    let rest = if at_once.len() < ids.len() {
        format!(". This closes {AT_ONCE} of them; then run reconcile again")
    } else {
        String::new()
    };
    format!("{count}: {}{rest}", advice::not_in_btcpay(at_once))
}

/// The first three of some ids.
fn first_of<'a>(ids: impl Iterator<Item = &'a InvoiceId>) -> String {
    let ids: Vec<&str> = ids.take(3).map(|id| &*id.0).collect();
    ids.join(", ")
}

fn order<'a>(sale: &Sale, id: &'a InvoiceId) -> (Option<Timestamp>, &'a str) {
    (sale.created_at, &id.0)
}

impl NeedsAttention {
    fn detail_and_link(&self) -> String {
        match &self.url {
            Some(url) => format!("{}: {url}", self.detail),
            None => self.detail.clone(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
