//! The report as text: a line per change, or a dry run's tables; and the summary.

use std::io::{self, Write};

use jiff::Timestamp;

use super::escape;
use super::{Changed, Reader, Report, table};
use crate::stop::Signal;

/// Writes the report, or nothing if nothing happened and `reader` wants no summary of that.
pub fn write(
    out: &mut impl Write,
    report: &Report,
    now: Timestamp,
    reader: Reader,
) -> io::Result<()> {
    let is_news = report.changed > 0
        || !report.attention.is_empty()
        || !report.failures.is_empty()
        || report.error.is_some();
    if !is_news && !reader.wants_summary {
        return Ok(());
    }
    if report.dry_run {
        table::write(out, report, now, reader.columns)?;
    }
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    writeln!(out, "{second} {}", summary(report))
}

/// A change as a line.
pub fn line(change: &Changed) -> String {
    let mut parts = Vec::new();
    if change.from != change.to {
        parts.push(format!("{} -> {}", change.from.word(), change.to.word()));
    }
    match (change.license_issued, &change.license_id) {
        (true, Some(id)) => parts.push(format!("license {id} issued")),
        (true, None) => parts.push("license issued".into()),
        (false, _) => {}
    }
    if !change.completed.is_empty() {
        parts.push(format!("{} completed", change.completed.join(" and ")));
    }
    if let Some(redemption) = change.redemption {
        parts.push(format!("redemption {}", redemption.word()));
    }
    escape::line(&format!(
        "invoice {} (BTCPay invoice {}): {}",
        change.invoice_id,
        change.btcpay_invoice_id,
        parts.join(", ")
    ))
}

/// Counts that are 0 are left out, but for `checked`.
fn summary(report: &Report) -> String {
    let mut counts = vec![format!("{} checked", report.checked)];
    let mut count = |number: u64, one: &str, many: &str| match number {
        0 => {}
        1 => counts.push(format!("1 {one}")),
        number => counts.push(format!("{number} {many}")),
    };
    count(report.changed, "changed", "changed");
    count(
        report.attention.len() as u64,
        "needs attention",
        "need attention",
    );
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
            (Some(_), 0) => format!("; {}", stopped()),
            (Some(_), left) => format!("; {}, {left} not checked", stopped()),
        },
    )
}

fn stopped() -> String {
    Signal::received().map_or("stopped early".into(), |signal| {
        format!("stopped by {}", signal.name())
    })
}
