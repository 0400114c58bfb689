//! What a run did, as a value, and everything that is printed of it: stdout's text and JSON, stderr's
//! lines, and the exit code. The code that decides and writes does not know
//! about it.

mod advice;
mod escape;
mod json;
pub mod stderr;
mod table;
mod text;

use std::io::{self, Write};

use jiff::Timestamp;
use log::{error, warn};
use serde::Serialize;

use crate::decide::{Attention, Written};
use crate::invoice::{
    BtcpayInvoiceId, Invoice, InvoiceId, LicenseId, LocalStatus, RedemptionStatus, Sale, Store,
};

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
    /// Whose pages are linked.
    #[serde(skip)]
    store: Store,
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

/// For whom text is written.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// The width of the terminal, if stdout is one.
    pub columns: Option<usize>,
    /// Whether a run without news prints its summary.
    pub wants_summary: bool,
}

impl Report {
    /// An empty report of a run against `store`.
    pub fn new(dry_run: bool, store: Store) -> Self {
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
            store,
        }
    }

    pub fn changed(&mut self, invoice: Invoice, sale: Sale, written: Written) {
        self.changes.push(Changed {
            invoice_id: invoice.id,
            btcpay_invoice_id: invoice.btcpay_id,
            from: written.from,
            to: written.to,
            license_issued: written.license_issued,
            license_id: written.license_id,
            completed: written.completed.words(),
            redemption: written.redemption,
            sale,
        });
    }

    pub fn needs_attention(&mut self, invoice: &Invoice, sale: Sale, attention: &Attention) {
        self.attention.push(NeedsAttention {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            reason: attention.reason(),
            detail: advice::detail(attention, invoice),
            url: advice::page(&invoice.btcpay_id, &self.store.url),
            sale,
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

    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        json::write(out, self)
    }

    /// Writes the text for `reader`, whose summary begins with `now`.
    pub fn write_text(
        &self,
        out: &mut impl Write,
        now: Timestamp,
        reader: Reader,
    ) -> io::Result<()> {
        text::write(out, self, now, reader)
    }

    /// Logs what needs attention as warnings.
    pub fn log_attention(&self) {
        for item in &self.attention {
            warn!(
                "invoice {}: {}: {}",
                item.invoice_id,
                item.reason,
                item.detail_and_link()
            );
        }
    }

    /// Logs what failed as errors.
    pub fn log_errors(&self) {
        for failure in &self.failures {
            error!(
                "invoice {} (BTCPay invoice {}): {}",
                failure.invoice_id, failure.btcpay_invoice_id, failure.error
            );
        }
        if let Some(stopped) = &self.error {
            error!("{stopped}");
        }
    }
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
