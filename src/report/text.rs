//! The report as text: a line per change, or a dry run's tables; and the summary.

use std::io::{self, Write};

use jiff::Timestamp;

use super::escape;
use super::wrap::{INDENT, wrap};
use super::{Acknowledged, Changed, Reader, Report, Resolved, drift, named, table};
use crate::invoice::{BtcpayInvoiceId, InvoiceId, Missing};

/// Writes the report, or nothing: if a run could not begin, or if nothing happened in a real one and
/// `reader` wants no summary of that.
pub fn write(
    out: &mut impl Write,
    report: &Report,
    now: Timestamp,
    reader: Reader,
) -> io::Result<()> {
    let wants_summary = match (&report.error, report.stopped_by) {
        // stderr says why. A signal is named only here.
        (Some(_), None) => report.checked + report.not_asked > 0,
        (Some(_), Some(_)) => true,
        (None, _) => report.dry_run || reader.wants_summary,
    };
    if !is_news(report) && !wants_summary {
        return Ok(());
    }
    if !report.invoices.is_empty() {
        named::write(out, report, now.as_second(), reader.columns)?;
    } else if report.dry_run {
        table::write(out, report, now, reader.columns)?;
        for resolved in &report.resolved {
            let line = self::resolved(resolved);
            writeln!(out, "{}", wrap("", &line, INDENT, reader.columns))?;
        }
    }
    for drift in &report.count_drift {
        writeln!(out, "{}", escape::line(&drift::line(drift)))?;
    }
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let line = format!("{second} {}", summary(report));
    writeln!(out, "{}", wrap("", &line, INDENT, reader.columns))
}

/// Whether there is more to tell than counts.
fn is_news(report: &Report) -> bool {
    report.changed > 0
        || report.shown() > 0
        || report.dry_run && !report.attention.is_empty()
        || !report.invoices.is_empty()
        || !report.resolved.is_empty()
        || !report.acknowledged.is_empty()
        || !report.count_drift.is_empty()
        || !report.failures.is_empty()
}

/// An invoice by its ids, as far as they are known.
pub fn ids(id: &InvoiceId, btcpay_id: Option<&BtcpayInvoiceId>) -> String {
    match btcpay_id {
        Some(btcpay_id) => format!("invoice {id} (BTCPay invoice {btcpay_id})"),
        None => format!("invoice {id}"),
    }
}

/// A change as a line.
pub fn line(change: &Changed) -> String {
    escape::line(&format!(
        "{}: {}",
        ids(&change.invoice_id, Some(&change.btcpay_invoice_id)),
        what_changed(change)
    ))
}

/// What was written, or would be.
pub fn what_changed(change: &Changed) -> String {
    let mut parts = Vec::new();
    if change.from != change.to {
        parts.push(format!("{} -> {}", change.from.word(), change.to.word()));
    }
    match (change.license_issued, &change.license_id) {
        (true, Some(id)) => parts.push(format!("license {id} issued")),
        (true, None) => parts.push("license issued".into()),
        (false, _) => {}
    }
    if change.completed != Missing::NOTHING {
        let completed = change.completed.words().join(" and ");
        parts.push(format!("{completed} completed"));
    }
    if let Some(redemption) = change.redemption {
        parts.push(format!("redemption {}", redemption.word()));
    }
    parts.join(", ")
}

/// What is over, as a line.
pub fn resolved(resolved: &Resolved) -> String {
    escape::line(&format!(
        "{}: over: {}",
        ids(&resolved.invoice_id, resolved.btcpay_invoice_id.as_ref()),
        resolved.reason.replace('_', " ")
    ))
}

/// What a person acknowledged, as a line.
pub fn acknowledged(acknowledged: &Acknowledged) -> String {
    escape::line(&format!(
        "{}: acknowledged: {} here, {}",
        ids(
            &acknowledged.invoice_id,
            Some(&acknowledged.btcpay_invoice_id)
        ),
        acknowledged.status.word(),
        acknowledged.btcpay_status.map_or_else(
            || "not in BTCPay's store".into(),
            |status| format!("{} in BTCPay", status.word())
        )
    ))
}

/// Counts that are 0 are left out, but for `checked`.
fn summary(report: &Report) -> String {
    let mut counts = vec![format!("{} checked", report.checked)];
    if report.dry_run && report.error.is_none() && !is_news(report) {
        counts.push("nothing to do".into());
    }
    let mut count = |number: u64, one: &str, many: &str| match number {
        0 => {}
        1 => counts.push(format!("1 {one}")),
        number => counts.push(format!("{number} {many}")),
    };
    count(report.changed, "changed", "changed");
    count(report.shown(), "needs attention", "need attention");
    let known = report
        .attention
        .iter()
        .filter(|item| item.acknowledged)
        .count();
    if report.dry_run {
        count(known as u64, "acknowledged", "acknowledged");
    }
    count(report.resolved.len() as u64, "over", "over");
    count(report.failures.len() as u64, "failed", "failed");
    let too_old = "pending older than --max-age-hours";
    count(report.out_of_window.into(), too_old, too_old);
    count(
        report.not_in_store,
        "not in this store",
        "not in this store",
    );
    let requests = match report.requests {
        0 => String::new(),
        1 => "1 request, ".into(),
        requests => format!("{requests} requests, "),
    };
    format!(
        "{}{}; {requests}{} ms{}",
        if report.dry_run { "dry run: " } else { "" },
        counts.join(", "),
        report.elapsed_ms,
        match (&report.error, report.not_asked) {
            (None, _) => String::new(),
            (Some(_), 0) => format!("; {}", stopped(report)),
            (Some(_), left) => format!("; {}, {left} not checked", stopped(report)),
        },
    )
}

fn stopped(report: &Report) -> String {
    match report.stopped_by {
        Some(signal) => format!("stopped by {}", signal.name()),
        None => "stopped early".into(),
    }
}
