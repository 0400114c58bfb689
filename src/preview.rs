//! What a dry run would do, made for eyes: grouped by outcome, who bought what, for how much, and
//! how long ago. Pure: the report's changes in, text out.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::database::RedemptionMoved;
use crate::invoice::LocalStatus;
use crate::report::Changed;
use crate::shown;

/// In columns of a terminal.
const WIDEST_CELL: usize = 36;

/// What would become of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    SettledWithLicense,
    SettledWithTheLicenseItHas,
    Expired,
    Invalid,
    SlotFreed,
}

impl Outcome {
    const ALL: [Self; 5] = [
        Self::SettledWithLicense,
        Self::SettledWithTheLicenseItHas,
        Self::Expired,
        Self::Invalid,
        Self::SlotFreed,
    ];

    fn of(change: &Changed) -> Self {
        match (change.to, change.license_issued, change.from == change.to) {
            (LocalStatus::Settled, true, _) => Self::SettledWithLicense,
            (LocalStatus::Settled, false, _) => Self::SettledWithTheLicenseItHas,
            (LocalStatus::Expired, _, false) => Self::Expired,
            (LocalStatus::Invalid, _, false) => Self::Invalid,
            (LocalStatus::Expired | LocalStatus::Invalid, _, true)
            | (LocalStatus::Pending, _, _) => Self::SlotFreed,
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::SettledWithLicense => "Paid: settled, and a license issued",
            Self::SettledWithTheLicenseItHas => "Paid: settled, with the license that is there",
            Self::Expired => "Not paid: closed as expired",
            Self::Invalid => "Not paid: closed as invalid",
            Self::SlotFreed => "Closed before: only the discount is cancelled",
        }
    }
}

/// Writes a table for each outcome, at Unix second `now`.
pub fn write(out: &mut impl Write, changes: &[Changed], now: i64) -> io::Result<()> {
    for outcome in Outcome::ALL {
        let rows: Vec<[String; 6]> = changes
            .iter()
            .filter(|change| Outcome::of(change) == outcome)
            .map(|change| cells(change, now))
            .collect();
        if rows.is_empty() {
            continue;
        }
        writeln!(out, "{} ({})", outcome.heading(), rows.len())?;
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        for row in &rows {
            let padded = row.iter().zip(widths).map(|(cell, width)| {
                let padding = " ".repeat(width - cell.width());
                ["  ", cell, &padding].concat()
            });
            let line: String = padded.collect();
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn cells(change: &Changed, now: i64) -> [String; 6] {
    let [who, what, how_much, how_old] = change.sale.as_ref().map_or_else(
        || [(); 4].map(|()| "-".to_owned()),
        |sale| {
            [
                cell(sale.buyer_email.as_deref().unwrap_or("-")),
                cell(&sale.product),
                format!("{} sats", with_separators(sale.amount_sats)),
                age(now - sale.created),
            ]
        },
    );
    let discount = match change.redemption {
        Some(RedemptionMoved::Redeemed) => "discount redeemed",
        Some(RedemptionMoved::Cancelled) => "discount's slot freed",
        None => "",
    };
    [
        who,
        what,
        how_much,
        how_old,
        cell(&change.invoice_id.0),
        discount.into(),
    ]
}

/// Safe to be shown, and no wider than a cell may be.
fn cell(text: &str) -> String {
    let text = shown::line(text);
    if text.width() <= WIDEST_CELL {
        return text;
    }
    let mut width = 0;
    text.chars()
        .take_while(|c| {
            width += c.width().unwrap_or(0);
            width < WIDEST_CELL
        })
        .chain(['…'])
        .collect()
}

fn with_separators(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In the largest unit that fits.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => "now".into(),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        86_400.. => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId, Sale};

    fn change(id: &str, to: LocalStatus, buyer: &str, amount_sats: i64, created: i64) -> Changed {
        Changed {
            invoice_id: InvoiceId(id.into()),
            btcpay_invoice_id: BtcpayInvoiceId("there".into()),
            from: LocalStatus::Pending,
            to,
            license_issued: to == LocalStatus::Settled,
            license_id: None,
            redemption: Some(RedemptionMoved::Redeemed),
            sale: Some(Box::new(Sale {
                buyer_email: Some(buyer.into()),
                product: "Pro".into(),
                amount_sats,
                created,
            })),
        }
    }

    fn preview(changes: &[Changed]) -> String {
        let mut text = Vec::new();
        write(&mut text, changes, 1_000_000).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn columns_stand_under_each_other_whatever_is_in_them() {
        let long = format!("{}@example.com", "a".repeat(60));
        let text = preview(&[
            change(
                "inv-1",
                LocalStatus::Settled,
                "山田@example.com",
                21_000,
                999_990,
            ),
            change("inv-2", LocalStatus::Settled, &long, 1, 996_000),
            change(
                "inv-3",
                LocalStatus::Settled,
                "e\u{301}ve\u{1b}[2J",
                2_100_000_000,
                0,
            ),
        ]);
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("Paid: settled, and a license issued (3)")
        );
        let columns: Vec<usize> = lines
            .by_ref()
            .take(3)
            .map(|line| {
                let (before, _) = line.split_once("Pro").unwrap();
                assert!(!line.contains('\u{1b}'));
                before.width()
            })
            .collect();
        assert_eq!(columns, [2 + WIDEST_CELL + 2; 3]);
        assert_eq!(lines.next(), Some(""));
        assert!(
            text.contains("2,100,000,000 sats  11 d  inv-3  discount redeemed"),
            "{text}"
        );
    }

    #[test]
    fn outcomes_come_in_groups_and_empty_ones_not_at_all() {
        let text = preview(&[
            change("inv-1", LocalStatus::Expired, "a", 1, 0),
            change("inv-2", LocalStatus::Settled, "b", 1, 0),
            change("inv-3", LocalStatus::Expired, "c", 1, 0),
        ]);
        let headings: Vec<_> = text.lines().filter(|line| line.ends_with(')')).collect();
        assert_eq!(
            headings,
            [
                "Paid: settled, and a license issued (1)",
                "Not paid: closed as expired (2)"
            ]
        );
        assert_eq!(preview(&[]), "");
    }

    #[test]
    fn numbers_and_ages_are_easy_to_read() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (-21_000, "-21,000"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(with_separators(number), text);
        }
        for (seconds, text) in [
            (-5, "now"),
            (59, "now"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_600, "1 h"),
            (86_400, "1 d"),
            (259_199, "2 d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
