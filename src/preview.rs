//! What a dry run would do, made for eyes: grouped by outcome, who bought what, for how much, and
//! how long ago; at last what needs a person, with the next step. Pure: the report in, text out.

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use crate::database::RedemptionMoved;
use crate::invoice::{InvoiceId, LocalStatus, Sale};
use crate::report::{Changed, NeedsAttention, Report};
use crate::shown;

/// Widths are in columns of a terminal.
const WIDEST_CELL: usize = 40;
/// A cell that is cut to make a row fit keeps at least so much.
const NARROWEST_CELL: usize = 10;
/// What is no terminal may be any width; text is easier to read in lines.
const WIDEST_TEXT: usize = 100;

const HEADING: Style = Style::new().bold();
const HEADER: Style = Style::new().dimmed();

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

/// Writes a table for each outcome, at Unix second `now`, for a terminal of so many `columns`.
pub fn write(
    out: &mut impl Write,
    report: &Report,
    now: i64,
    columns: Option<usize>,
) -> io::Result<()> {
    for outcome in Outcome::ALL {
        let changes = report.changes.iter();
        let rows = changes
            .filter(|change| Outcome::of(change) == outcome)
            .map(|change| Row::of_change(change, now));
        write_group(out, outcome.heading(), rows.collect(), columns)?;
    }
    let attention = report.attention.iter();
    let rows = attention.map(|item| Row::of_attention(item, now));
    write_group(out, "Needs you", rows.collect(), columns)
}

const COLUMNS: [&str; 6] = ["buyer", "product", "amount", "age", "invoice", "discount"];
/// Which of them may be cut to make a row fit, and which stand at the right of their column.
const CUT: [bool; 6] = [true, true, false, false, true, false];
const AT_THE_RIGHT: [bool; 6] = [false, false, true, true, false, false];

struct Row {
    cells: [String; 6],
    /// What to do, in words.
    advice: Option<String>,
}

impl Row {
    fn of_change(change: &Changed, now: i64) -> Self {
        let discount = match change.redemption {
            Some(RedemptionMoved::Redeemed) => "redeemed",
            Some(RedemptionMoved::Cancelled) => "slot freed",
            None => "",
        };
        Self::new(change.sale.as_deref(), &change.invoice_id, discount, now)
    }

    fn of_attention(item: &NeedsAttention, now: i64) -> Self {
        let what_happened = item.reason.replace('_', " ");
        Self {
            advice: Some(shown::line(&format!("{what_happened}: {}", item.detail))),
            ..Self::new(item.sale.as_deref(), &item.invoice_id, "", now)
        }
    }

    fn new(sale: Option<&Sale>, id: &InvoiceId, discount: &str, now: i64) -> Self {
        let [buyer, product, amount, age] = sale.map_or_else(
            || [(); 4].map(|()| "-".to_owned()),
            |sale| {
                [
                    shown::line(sale.buyer_email.as_deref().unwrap_or("-")),
                    shown::line(&sale.product),
                    format!("{} sats", with_separators(sale.amount_sats)),
                    age(now - sale.created),
                ]
            },
        );
        let id = shown::line(&id.0);
        Self {
            cells: [buyer, product, amount, age, id, discount.into()],
            advice: None,
        }
    }
}

/// Writes rows under each other, or nothing where there is none.
fn write_group(
    out: &mut impl Write,
    heading: &str,
    rows: Vec<Row>,
    columns: Option<usize>,
) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "{HEADING}{heading} ({}){HEADING:#}", rows.len())?;
    let widths = widths(&rows, columns.unwrap_or(usize::MAX));
    let header = line(COLUMNS, widths);
    writeln!(out, "{HEADER}{header}{HEADER:#}")?;
    for row in rows {
        writeln!(
            out,
            "{}",
            line(row.cells.each_ref().map(String::as_str), widths)
        )?;
        if let Some(advice) = row.advice {
            let width = columns.unwrap_or(WIDEST_TEXT).min(WIDEST_TEXT);
            let options = textwrap::Options::new(width)
                .initial_indent("    ")
                .subsequent_indent("    ")
                // Whoever copies an address or a statement wants it whole.
                .word_splitter(textwrap::WordSplitter::NoHyphenation)
                .break_words(false);
            writeln!(out, "{}", textwrap::fill(&advice, options))?;
        }
    }
    writeln!(out)
}

/// How wide each column is, in a line of so many `columns` in all; a column with nothing in it has
/// no width.
fn widths(rows: &[Row], columns: usize) -> [usize; 6] {
    let mut widths = COLUMNS.map(UnicodeWidthStr::width);
    for (place, width) in widths.iter_mut().enumerate() {
        let cells = rows.iter().filter_map(|row| row.cells.get(place));
        let widest = cells.map(|cell| cell.width()).max().unwrap_or_default();
        *width = match widest {
            0 => 0,
            widest => widest.max(*width).min(WIDEST_CELL),
        };
    }
    let indented = |width: &usize| if *width == 0 { 0 } else { width + 2 };
    while widths.iter().map(indented).sum::<usize>() > columns {
        let cuttable = widths.iter_mut().zip(CUT).filter(|(_, cut)| *cut);
        match cuttable.map(|(width, _)| width).max() {
            Some(widest) if *widest > NARROWEST_CELL => *widest -= 1,
            Some(_) | None => break,
        }
    }
    widths
}

fn line(cells: [&str; 6], widths: [usize; 6]) -> String {
    let mut line = String::new();
    for ((cell, width), at_the_right) in cells.into_iter().zip(widths).zip(AT_THE_RIGHT) {
        if width == 0 {
            continue;
        }
        let cell = cut(cell, width);
        let padding = " ".repeat(width.saturating_sub(cell.width()));
        line += "  ";
        line += if at_the_right { &padding } else { &cell };
        line += if at_the_right { &cell } else { &padding };
    }
    line.truncate(line.trim_end().len());
    line
}

/// As much of `text` as is no wider than `width`.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    // Measured as a whole: what follows a character can change how wide it is.
    let fits = |end: &usize| text.get(..*end).is_some_and(|part| part.width() < width);
    let ends = text.char_indices().map(|(place, _)| place);
    let end = ends.take_while(fits).last().unwrap_or_default();
    format!("{}…", text.get(..end).unwrap_or_default()).into()
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
    use proptest::prelude::*;

    use super::*;
    use crate::invoice::BtcpayInvoiceId;

    const NOW: i64 = 1_000_000;

    fn sale(buyer: &str, amount_sats: i64, created: i64) -> Sale {
        Sale {
            buyer_email: Some(buyer.into()),
            product: "Pro".into(),
            amount_sats,
            created,
        }
    }

    fn change(id: &str, to: LocalStatus, sale: Sale) -> Changed {
        Changed {
            invoice_id: InvoiceId(id.into()),
            btcpay_invoice_id: BtcpayInvoiceId("there".into()),
            from: LocalStatus::Pending,
            to,
            license_issued: to == LocalStatus::Settled,
            license_id: None,
            redemption: Some(RedemptionMoved::Redeemed),
            sale: Some(Box::new(sale)),
        }
    }

    fn report(changes: Vec<Changed>) -> Report {
        let mut report = Report::new(true);
        report.changes = changes;
        report
    }

    /// As a terminal without colour shows it.
    fn preview(report: &Report, columns: Option<usize>) -> String {
        let mut text = anstream::StripStream::new(Vec::new());
        write(&mut text, report, NOW, columns).unwrap();
        String::from_utf8(text.into_inner()).unwrap()
    }

    fn odd_sales() -> Report {
        let long = format!("{}@example.com", "a".repeat(60));
        report(vec![
            change(
                "0f8d2c1e-64f2-4c59-9a41-0c6a54b6f3d1",
                LocalStatus::Settled,
                sale("山田@example.com", 21_000, NOW - 10),
            ),
            change("inv-2", LocalStatus::Settled, sale(&long, 1, NOW - 4_000)),
            change(
                "inv-3",
                LocalStatus::Settled,
                sale("e\u{301}ve\u{1b}[2J", 2_100_000_000, 0),
            ),
        ])
    }

    #[test]
    fn columns_stand_under_each_other_whatever_is_in_them() {
        assert_eq!(
            preview(&odd_sales(), Some(100)),
            "\
Paid: settled, and a license issued (3)
  buyer                       product              amount   age  invoice                    discount
  山田@example.com            Pro             21,000 sats   now  0f8d2c1e-64f2-4c59-9a41-…  redeemed
  aaaaaaaaaaaaaaaaaaaaaaaaa…  Pro                  1 sats   1 h  inv-2                      redeemed
  e\u{301}ve\\u{1b}[2J                Pro      2,100,000,000 sats  11 d  inv-3                      redeemed

"
        );
    }

    #[test]
    fn a_row_fits_the_terminal_by_cutting_what_is_longest() {
        for columns in [72, 80, 100, 200] {
            let text = preview(&odd_sales(), Some(columns));
            let widest = text.lines().map(UnicodeWidthStr::width).max().unwrap();
            assert!(widest <= columns, "{columns}:\n{text}");
        }
        assert!(preview(&odd_sales(), None).contains("0f8d2c1e-64f2-4c59-9a41-0c6a54b6f3d1"));
    }

    #[test]
    fn outcomes_come_in_groups_and_empty_ones_not_at_all() {
        let text = preview(
            &report(vec![
                change("inv-1", LocalStatus::Expired, sale("a", 1, 0)),
                change("inv-2", LocalStatus::Settled, sale("b", 1, 0)),
                change("inv-3", LocalStatus::Expired, sale("c", 1, 0)),
            ]),
            None,
        );
        let headings: Vec<_> = text.lines().filter(|line| line.ends_with(')')).collect();
        assert_eq!(
            headings,
            [
                "Paid: settled, and a license issued (1)",
                "Not paid: closed as expired (2)"
            ]
        );
        assert_eq!(preview(&report(Vec::new()), None), "");
    }

    #[test]
    fn advice_is_in_lines_and_its_address_is_whole() {
        let page = "https://btcpay.my-shop.example.com/invoices/Some-Id";
        let mut report = report(Vec::new());
        report.attention.push(NeedsAttention {
            invoice_id: InvoiceId("inv-4".into()),
            btcpay_invoice_id: BtcpayInvoiceId("there".into()),
            reason: "paid_late",
            detail: format!("0.00021 BTC arrived after it expired. Mark it settled: {page}"),
            sale: Some(Box::new(sale("dave@example.com", 21_000, NOW - 10_000))),
        });
        assert_eq!(
            preview(&report, Some(60)),
            format!(
                "\
Needs you (1)
  buyer             product       amount  age  invoice
  dave@example.com  Pro      21,000 sats  2 h  inv-4
    paid late: 0.00021 BTC arrived after it expired. Mark it
    settled:
    {page}

"
            )
        );
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

    proptest! {
        #[test]
        fn any_text_is_cut_to_what_fits(text in any_shown(), width in 1_usize..60) {
            let shown = shown::line(&text);
            let cut = cut(&shown, width);
            prop_assert!(cut.width() <= width, "{cut:?}");
            prop_assert!(cut == shown || cut.ends_with('…'));
        }
    }

    /// Much of it wide, combining, or of several characters that are shown as one.
    fn any_shown() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            any::<char>().prop_map(String::from),
            "[a-z @.]{1,9}",
            Just("\u{1f6e1}\u{fe0f}".to_owned()),
            Just("\u{2764}\u{fe0f}".to_owned()),
            Just("e\u{301}".to_owned()),
            Just("山田".to_owned()),
            Just("\u{1f468}\u{200d}\u{1f469}".to_owned()),
            Just("\u{1f1e9}\u{1f1ea}".to_owned()),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }
}
