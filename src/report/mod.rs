//! What a run did, as a value, and everything that is printed of it: stdout's text and JSON, stderr's
//! lines, and the exit code. The code that decides and writes does not know
//! about it.

mod advice;
mod block;
mod drift;
mod escape;
mod json;
mod named;
mod paid;
pub mod stderr;
mod table;
mod text;
mod wrap;

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::rc::Rc;

use jiff::Timestamp;
use log::error;
use reqwest::Url;
use serde::{Serialize, Serializer};

use crate::decide::{Attention, Written};
use crate::invoice::{
    Answer, BtcpayInvoiceId, BtcpayStatus, CountDrift, Invoice, InvoiceId, LicenseId, LocalStatus,
    Missing, Payment, RedemptionStatus, Sale,
};
use crate::secret;
use crate::stop::{OutOfTime, Signal};
use advice::Advice;
pub use escape::must_be_escaped as is_hidden;
pub use named::Named;

/// Its fields are those of `--format json`: they may be added to, never removed.
#[derive(Debug, Serialize)]
pub struct Report {
    pub dry_run: bool,
    /// Invoices that the run is done with, whether or not BTCPay Server answered about them.
    pub checked: u64,
    pub changes: Vec<Changed>,
    pub attention: Vec<NeedsAttention>,
    /// What needed attention and is over.
    pub resolved: Vec<Resolved>,
    /// What a person acknowledges in this run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acknowledged: Vec<Acknowledged>,
    pub failures: Vec<Failed>,
    /// Those that a person named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invoices: Vec<Named>,
    /// Discount codes whose count is wrong; looked for by a dry run and a recheck.
    #[serde(serialize_with = "drift::serialize")]
    pub count_drift: Vec<CountDrift>,
    /// Pending invoices too old to be looked up.
    pub out_of_window: u32,
    /// Invoices of another payment provider, which are not looked up.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_provider: u64,
    /// Invoices that this BTCPay store does not have, where nothing follows from that: they may be of
    /// another store, or were closed long ago and deleted since.
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
    /// The signal, if it was one that stopped the run.
    #[serde(skip)]
    stopped_by: Option<Signal>,
    /// How many changes there are, in `changes` or printed already.
    #[serde(skip)]
    changed: u64,
    /// Those in `changes`, each held once.
    #[serde(skip)]
    products: HashSet<Rc<str>>,
    /// Where each change is printed as it happens, if it is.
    #[serde(skip)]
    live: Option<Live>,
    /// Where a person opens BTCPay Server.
    #[serde(skip)]
    public_url: Url,
}

/// stdout, for lines that go out while the run goes on.
#[derive(Debug)]
struct Live {
    stdout: BufWriter<anstream::Stdout>,
    /// The width of the terminal, if it is one.
    columns: Option<usize>,
    /// The first error. The run goes on all the same: a full disk of logs must stop no recovery.
    error: Option<io::Error>,
}

impl Live {
    fn write(&mut self, line: &str) {
        let line = wrap::wrap("", line, wrap::INDENT, self.columns);
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
    #[serde(serialize_with = "words")]
    pub completed: Missing,
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
    /// When it was noted, or acknowledged.
    pub since: Option<Timestamp>,
    /// Whether a person knows, so that it is told no more.
    pub acknowledged: bool,
    /// None if BTCPay Server was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    payments: Option<Vec<PaymentJson>>,
    #[serde(flatten)]
    pub sale: Sale,
    #[serde(skip)]
    advice: Advice,
    #[serde(skip)]
    attention: Attention,
    #[serde(skip)]
    invoice: Invoice,
    #[serde(skip)]
    answer: Option<Answer>,
    #[serde(skip)]
    telling: Telling,
}

#[derive(Debug, Serialize)]
struct PaymentJson {
    received_at: Option<Timestamp>,
    amount: String,
    fee: String,
    currency: String,
    confirmed: bool,
}

/// Why something that needs attention is in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Noted by this run, at this Unix second; None in a dry run, which notes nothing.
    New(Option<i64>),
    /// Noted at this Unix second, and due to be told again.
    Again(i64),
    /// Noted at this Unix second, and not due.
    Standing(i64),
    /// Acknowledged at this Unix second.
    Acknowledged(i64),
}

impl Telling {
    fn since(self) -> Option<i64> {
        match self {
            Self::New(since) => since,
            Self::Again(since) | Self::Standing(since) | Self::Acknowledged(since) => Some(since),
        }
    }

    const fn is_acknowledged(self) -> bool {
        match self {
            Self::Acknowledged(_) => true,
            Self::New(_) | Self::Again(_) | Self::Standing(_) => false,
        }
    }

    const fn is_due(self) -> bool {
        match self {
            Self::New(_) | Self::Again(_) => true,
            Self::Standing(_) | Self::Acknowledged(_) => false,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Resolved {
    pub invoice_id: InvoiceId,
    /// None if the database does not have the invoice any more.
    pub btcpay_invoice_id: Option<BtcpayInvoiceId>,
    pub reason: Box<str>,
}

#[derive(Debug, Serialize)]
pub struct Acknowledged {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub status: LocalStatus,
    /// None if the store does not have the invoice.
    pub btcpay_status: Option<BtcpayStatus>,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    pub invoice_id: InvoiceId,
    pub btcpay_invoice_id: BtcpayInvoiceId,
    pub error: String,
}

/// How the program ends; docs/options-and-exit-codes.md says what each code means.
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
    /// An empty report of a run, which is `live` if each change is to be printed as it happens. A person
    /// opens BTCPay Server at `public_url`.
    pub fn new(dry_run: bool, public_url: Url, live: bool) -> Self {
        Self {
            dry_run,
            checked: 0,
            changes: Vec::new(),
            attention: Vec::new(),
            resolved: Vec::new(),
            acknowledged: Vec::new(),
            failures: Vec::new(),
            invoices: Vec::new(),
            count_drift: Vec::new(),
            out_of_window: 0,
            other_provider: 0,
            not_in_store: 0,
            not_asked: 0,
            requests: 0,
            elapsed_ms: 0,
            error: None,
            stopped_by: None,
            changed: 0,
            products: HashSet::new(),
            live: live.then(|| Live {
                stdout: BufWriter::new(anstream::stdout()),
                columns: stderr::columns_of(io::stdout()),
                error: None,
            }),
            public_url,
        }
    }

    pub fn changed(&mut self, invoice: &Invoice, sale: Sale, written: Written) {
        let mut change = Changed {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            from: written.from,
            to: written.to,
            license_issued: written.license_issued,
            license_id: written.license_id,
            completed: written.completed,
            redemption: written.redemption,
            sale,
        };
        self.changed += 1;
        if let Some(live) = &mut self.live {
            live.write(&text::line(&change));
        } else {
            change.sale.product = change.sale.product.map(|name| self.held_once(name));
            self.changes.push(change);
        }
    }

    fn held_once(&mut self, product: Rc<str>) -> Rc<str> {
        if let Some(held) = self.products.get(&product) {
            return Rc::clone(held);
        }
        self.products.insert(Rc::clone(&product));
        product
    }

    /// Sends out what was printed: a transaction is committed, and its changes are told before
    /// anything else happens.
    pub fn committed(&mut self) {
        if let Some(live) = &mut self.live {
            live.flush();
        }
    }

    /// Something about `invoice`, about which BTCPay Server says `answer`.
    pub fn needs_attention(
        &mut self,
        invoice: &Invoice,
        answer: Option<&Answer>,
        sale: Sale,
        attention: Attention,
        telling: Telling,
    ) {
        let advice = advice::advice(&attention, invoice, answer, None);
        self.attention.push(NeedsAttention {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            reason: attention.reason(),
            detail: advice.detail(),
            url: advice::page(&invoice.btcpay_id, &self.public_url),
            since: telling
                .since()
                .and_then(|at| Timestamp::from_second(at).ok()),
            acknowledged: telling.is_acknowledged(),
            payments: None,
            sale,
            advice,
            attention,
            invoice: invoice.clone(),
            answer: answer.cloned(),
            telling,
        });
    }

    /// What is told about money, most urgent first once sorted.
    pub fn about_money(&mut self) -> impl Iterator<Item = &mut NeedsAttention> {
        let shows_all = self.shows_all();
        self.attention.iter_mut().filter(move |item| {
            (shows_all || item.telling.is_due()) && paid::is_about_money(&item.attention)
        })
    }

    /// BTCPay Server says what was paid for this invoice.
    pub fn was_paid(&mut self, id: &InvoiceId, payments: &[Payment]) {
        let items = self.attention.iter_mut();
        for item in items.filter(|item| item.invoice_id == *id) {
            item.was_paid(payments.to_vec());
        }
    }

    /// Whether what is not due is shown too.
    fn shows_all(&self) -> bool {
        self.dry_run || self.live.is_none()
    }

    /// How much of what needs attention is told in text: all that is not acknowledged in a dry run, and
    /// else what is due.
    fn shown(&self) -> u64 {
        let is_shown = |item: &&NeedsAttention| {
            item.telling.is_due() || self.dry_run && !item.telling.is_acknowledged()
        };
        self.attention.iter().filter(is_shown).count() as u64
    }

    /// A person acknowledges what stands of this invoice.
    pub fn acknowledged(&mut self, invoice: &Invoice, btcpay_status: Option<BtcpayStatus>) {
        let acknowledged = Acknowledged {
            invoice_id: invoice.id.clone(),
            btcpay_invoice_id: invoice.btcpay_id.clone(),
            status: invoice.status,
            btcpay_status,
        };
        if let Some(live) = &mut self.live {
            live.write(&text::acknowledged(&acknowledged));
        }
        self.acknowledged.push(acknowledged);
    }

    /// Something of this invoice is over.
    pub fn resolved(
        &mut self,
        id: &InvoiceId,
        btcpay_id: Option<&BtcpayInvoiceId>,
        reason: Box<str>,
    ) {
        let resolved = Resolved {
            invoice_id: id.clone(),
            btcpay_invoice_id: btcpay_id.cloned(),
            reason,
        };
        if let Some(live) = &mut self.live {
            live.write(&text::resolved(&resolved));
        }
        self.resolved.push(resolved);
    }

    pub fn failed(&mut self, id: InvoiceId, btcpay_id: BtcpayInvoiceId, error: &anyhow::Error) {
        self.failures.push(Failed {
            invoice_id: id,
            btcpay_invoice_id: btcpay_id,
            error: format!("{error:#}"),
        });
    }

    /// The run stopped early.
    pub fn stopped(&mut self, error: &anyhow::Error) {
        self.error = Some(secret::without_any(&format!("{error:#}")).into_owned());
        self.stopped_by = OutOfTime::signal(error);
    }

    pub fn exit(&self) -> Exit {
        match (&self.error, self.failures.is_empty()) {
            (Some(_), _) => Exit::Stopped,
            (None, false) => Exit::InvoicesFailed,
            (None, true) => Exit::Reconciled,
        }
    }

    /// Puts changes in order, the oldest first, and what needs attention, the most urgent first, in
    /// whatever order they were looked up.
    pub fn sort(&mut self) {
        // Of the same invoice there is only one; a stable sort would need half as much memory again.
        self.changes.sort_unstable_by(|one, other| {
            order(&one.sale, &one.invoice_id).cmp(&order(&other.sale, &other.invoice_id))
        });
        self.attention.sort_by(|one, other| {
            let order = |item: &'_ NeedsAttention| {
                (
                    advice::urgency(&item.attention),
                    item.sale.created_at,
                    item.invoice_id.0.clone(),
                )
            };
            order(one).cmp(&order(other))
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

    /// Says on stderr what is new of what needs attention, or due to be told again, for a reader at
    /// Unix second `now` with a terminal of so many `columns` if it is one. Gives what was told: each
    /// invoice and its reasons.
    pub fn log_attention(
        &self,
        now: i64,
        columns: Option<usize>,
    ) -> Vec<(InvoiceId, Vec<&'static str>)> {
        /// More are not read.
        const MOST: usize = 10;
        let due = self.attention.iter().filter(|item| item.telling.is_due());
        let blocks = block::blocks(&due.collect::<Vec<_>>(), now);
        for (place, block) in blocks.iter().take(MOST).enumerate() {
            // A terminal has what stdout says above it.
            if place > 0 || columns.is_some() {
                stderr::say("");
            }
            stderr::say(&block.text(columns));
        }
        if blocks.len() > MOST {
            stderr::say(&format!(
                "\nand {} more: reconcile --dry-run",
                blocks.len() - MOST
            ));
        }
        if columns.is_some() && !blocks.is_empty() {
            stderr::say("");
        }
        let mut told: Vec<(InvoiceId, Vec<&'static str>)> = Vec::new();
        let blocks = blocks.into_iter().enumerate();
        // A dry run shows the others.
        let blocks = blocks.filter(|(place, block)| *place < MOST || !block.is_one_off);
        for (id, reason) in blocks.flat_map(|(_, block)| block.about) {
            match told.iter_mut().find(|(other, _)| *other == id) {
                Some((_, reasons)) => reasons.push(reason),
                None => told.push((id, vec![reason])),
            }
        }
        told
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
                [one] => error!("{}: {error}", one.who()),
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
        if let (Some(stopped), None) = (&self.error, self.stopped_by) {
            error!("{stopped}");
        }
    }
}

impl Failed {
    /// The invoice by its ids. One that was not found has twice what was typed.
    fn who(&self) -> String {
        let (id, btcpay_id) = (&self.invoice_id, &self.btcpay_invoice_id);
        if id.0 == btcpay_id.0 {
            format!("'{id}'")
        } else {
            text::ids(id, Some(btcpay_id))
        }
    }
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
    /// BTCPay Server says what was paid.
    pub fn was_paid(&mut self, payments: Vec<Payment>) {
        let (invoice, answer) = (&self.invoice, self.answer.as_ref());
        self.advice = advice::advice(&self.attention, invoice, answer, Some(&payments));
        self.detail = self.advice.detail();
        self.payments = Some(payments.into_iter().map(PaymentJson::of).collect());
    }
}

impl PaymentJson {
    fn of(payment: Payment) -> Self {
        Self {
            received_at: Timestamp::from_second(payment.received).ok(),
            amount: payment.amount.normalize().to_string(),
            fee: payment.fee.normalize().to_string(),
            currency: payment.currency,
            confirmed: payment.confirmed,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn words<S: Serializer>(missing: &Missing, serializer: S) -> Result<S::Ok, S::Error> {
    missing.words().serialize(serializer)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
