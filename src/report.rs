//! What a run did, as a value; stdout's text and JSON, stderr's lines and the exit code all follow
//! from it.

use std::io::{self, Write};

use jiff::Timestamp;
use log::{error, warn};
use reqwest::Url;
use serde::Serialize;

use crate::database::{Applied, RedemptionMoved};
use crate::decide::Attention;
use crate::invoice::{BtcpayInvoiceId, Invoice, InvoiceId, LicenseId, LocalStatus, Sale};
use crate::{advice, preview, shown};

/// Serialised, it is the object of `--format json`: fields may be added, never removed.
#[derive(Debug, Serialize)]
pub struct Report {
    pub dry_run: bool,
    /// Invoices that BTCPay Server was asked about.
    pub checked: u64,
    pub changes: Vec<Changed>,
    pub attention: Vec<NeedsAttention>,
    pub failures: Vec<Failed>,
    /// Pending invoices too old to be asked about.
    pub out_of_window: u32,
    /// Invoices of another payment provider of the service's, which are not asked about.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_provider: u64,
    /// Invoices that a run which stopped early did not come to.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_asked: u64,
    pub requests: u64,
    pub elapsed_ms: u128,
    /// Why the run stopped early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Changed {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub from: LocalStatus,
    pub to: LocalStatus,
    pub license_issued: bool,
    pub license_id: Option<LicenseId>,
    pub redemption: Option<RedemptionMoved>,
    /// In a dry run, for whoever looks at it.
    #[serde(skip)]
    pub sale: Option<Box<Sale>>,
}

#[derive(Debug, Serialize)]
pub struct NeedsAttention {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub reason: &'static str,
    pub detail: String,
    /// In a dry run, for whoever looks at it.
    #[serde(skip)]
    pub sale: Option<Box<Sale>>,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub error: String,
}

/// How a run ended, for whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Reconciled = 0,
    Stopped = 1,
    Usage = 2,
    InvoicesFailed = 3,
}

impl Report {
    pub fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            checked: 0,
            changes: Vec::new(),
            attention: Vec::new(),
            failures: Vec::new(),
            out_of_window: 0,
            other_provider: 0,
            not_asked: 0,
            requests: 0,
            elapsed_ms: 0,
            error: None,
        }
    }

    pub fn changed(
        &mut self,
        id: InvoiceId,
        btcpay_id: BtcpayInvoiceId,
        applied: Applied,
        sale: Option<Box<Sale>>,
    ) {
        self.changes.push(Changed {
            invoice_id: id,
            btcpay_invoice_id: btcpay_id,
            from: applied.from,
            to: applied.to,
            license_issued: applied.license_issued,
            license_id: applied.license_id,
            redemption: applied.redemption,
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

    /// Takes the last `count` failures back: what stops the run says the same, once.
    pub fn forget_failures(&mut self, count: usize) {
        self.failures.truncate(self.failures.len() - count);
    }

    /// `btcpay_url` is where the merchant looks the invoice up.
    pub fn needs_attention(
        &mut self,
        invoice: &Invoice,
        attention: &Attention,
        btcpay_url: &Url,
        sale: Option<Box<Sale>>,
    ) {
        let (reason, detail) = advice::in_words(attention, invoice, btcpay_url);
        self.attention.push(NeedsAttention {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            reason,
            detail,
            sale,
        });
    }

    pub fn exit(&self) -> Exit {
        match (&self.error, self.failures.is_empty()) {
            (Some(_), _) => Exit::Stopped,
            (None, false) => Exit::InvoicesFailed,
            (None, true) => Exit::Reconciled,
        }
    }

    /// Writes the object of `--format json`, on one line.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes a line a change, or what a dry run would do as a table of so many `columns`, and a
    /// summary that begins with the time; nothing where there is nothing to say, unless
    /// `tell_nothing`.
    pub fn write_text(
        &self,
        out: &mut impl Write,
        now: Timestamp,
        columns: Option<usize>,
        tell_nothing: bool,
    ) -> io::Result<()> {
        let nothing_to_say = self.changes.is_empty()
            && self.attention.is_empty()
            && self.failures.is_empty()
            && self.error.is_none();
        if nothing_to_say && !tell_nothing {
            return Ok(());
        }
        let mood = if self.dry_run { "dry run: " } else { "" };
        if self.dry_run {
            preview::write(out, self, now.as_second(), columns)?;
        } else {
            for change in &self.changes {
                writeln!(out, "{}", shown::line(&change.line()))?;
            }
        }
        writeln!(
            out,
            "{now} {mood}{} checked, {} changed, {} need attention, {} failed, {} pending older \
             than --max-age-hours; {} requests in {} ms{}",
            self.checked,
            self.changes.len(),
            self.attention.len(),
            self.failures.len(),
            self.out_of_window,
            self.requests,
            self.elapsed_ms,
            match (&self.error, self.not_asked) {
                (None, _) => String::new(),
                (Some(_), 0) => "; stopped early".into(),
                (Some(_), left) => format!("; stopped early, {left} not asked about"),
            },
        )
    }

    /// Warns of what needs a person's attention.
    pub fn warn(&self) {
        for item in &self.attention {
            warn!(
                "invoice {}: {}: {}",
                item.invoice_id, item.reason, item.detail
            );
        }
    }

    /// Tells what could not be done.
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

impl Changed {
    fn line(&self) -> String {
        let mut line = format!(
            "invoice {} (BTCPay invoice {}): ",
            self.invoice_id, self.btcpay_invoice_id
        );
        let mut parts = Vec::new();
        if self.from != self.to {
            parts.push(format!("{} -> {}", self.from.word(), self.to.word()));
        }
        match (self.license_issued, &self.license_id) {
            (true, Some(id)) => parts.push(format!("license {id} issued")),
            (true, None) => parts.push("license issued".into()),
            (false, _) => {}
        }
        if let Some(redemption) = self.redemption {
            parts.push(format!("redemption {}", redemption.word()));
        }
        line.push_str(&parts.join(", "));
        line
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
