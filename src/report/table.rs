//! What a dry run would do, as tables for a person: grouped by outcome, with who bought what for how
//! much and how long ago; last, what needs attention, with the next step. Pure.

use std::io::{self, Write};

use anstyle::Style;
use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};
use indicatif::HumanCount;
use jiff::Timestamp;

use super::block::blocks;
use super::escape;
use super::wrap::{INDENT, wrap};
use super::{Changed, Report};
use crate::invoice::{LocalStatus, RedemptionStatus};

/// Text that goes to no terminal could be of any width; lines are easier to read.
pub const WIDEST_TEXT: usize = 100;

const HEADING: Style = Style::new().bold();
const HEADER: Style = Style::new().dimmed();

/// What would become of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    LicenseIssued,
    LicenseKept,
    Completed,
    Expired,
    Invalid,
    SlotFreed,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::LicenseIssued,
        Self::LicenseKept,
        Self::Completed,
        Self::Expired,
        Self::Invalid,
        Self::SlotFreed,
    ];

    fn of(change: &Changed) -> Self {
        match (change.to, change.license_issued, change.from == change.to) {
            (LocalStatus::Settled, true, _) => Self::LicenseIssued,
            (LocalStatus::Settled, false, true) => Self::Completed,
            (LocalStatus::Settled, false, false) => Self::LicenseKept,
            (LocalStatus::Expired, _, false) => Self::Expired,
            (LocalStatus::Invalid, _, false) => Self::Invalid,
            (LocalStatus::Expired | LocalStatus::Invalid, _, true)
            | (LocalStatus::Pending, _, _) => Self::SlotFreed,
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::LicenseIssued => "Paid: settled, license issued",
            Self::LicenseKept => "Paid: settled, existing license kept",
            Self::Completed => "Already settled: missing parts added",
            Self::Expired => "Not paid: closed as expired",
            Self::Invalid => "Not paid: closed as invalid",
            Self::SlotFreed => "Already closed: discount slot freed",
        }
    }
}

/// Writes a table per outcome, as of `now`, for a terminal of so many `columns` if it is one.
pub fn write(
    out: &mut impl Write,
    report: &Report,
    now: Timestamp,
    columns: Option<usize>,
) -> io::Result<()> {
    for outcome in Outcome::ALL {
        let changes = report.changes.iter();
        let items = changes
            .filter(|change| Outcome::of(change) == outcome)
            .map(|change| Item::of_change(change, now));
        write_group(out, outcome.heading(), &items.collect::<Vec<_>>(), columns)?;
    }
    let (acknowledged, others): (Vec<_>, Vec<_>) =
        report.attention.iter().partition(|item| item.acknowledged);
    for (heading, items) in [("Needs attention", others), ("Acknowledged", acknowledged)] {
        if items.is_empty() {
            continue;
        }
        writeln!(out, "{HEADING}{heading} ({}){HEADING:#}", items.len())?;
        for block in blocks(&items, now.as_second()) {
            let width = columns.unwrap_or(WIDEST_TEXT).min(WIDEST_TEXT);
            let text = block.text(Some(width.saturating_sub(INDENT.len())));
            writeln!(out, "{}\n", textwrap::indent(&text, INDENT))?;
        }
    }
    Ok(())
}

struct Item {
    buyer: String,
    product: String,
    amount: String,
    age: String,
    id: String,
    discount: &'static str,
}

impl Item {
    fn of_change(change: &Changed, now: Timestamp) -> Self {
        let sale = &change.sale;
        let text = |text: Option<&str>| escape::line(text.unwrap_or("-"));
        Self {
            buyer: text(sale.buyer_email.as_deref()),
            product: text(sale.product.as_deref()),
            amount: format!("{} sats", with_separators(sale.amount_sats)),
            age: sale.created_at.map_or("-".into(), |created| {
                age(now.as_second() - created.as_second())
            }),
            id: escape::line(&change.invoice_id.0),
            discount: match change.redemption {
                Some(RedemptionStatus::Redeemed) => "redeemed",
                Some(RedemptionStatus::Cancelled) => "slot freed",
                Some(RedemptionStatus::Pending) | None => "",
            },
        }
    }
}

fn write_group(
    out: &mut impl Write,
    heading: &str,
    items: &[Item],
    columns: Option<usize>,
) -> io::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(out, "{HEADING}{heading} ({}){HEADING:#}", items.len())?;
    let layout = Layout::for_items(items, columns);
    let table = layout.table(items, columns);
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    writeln!(out, "{HEADER}{}{HEADER:#}", header.trim_end())?;
    for (item, line) in items.iter().zip(lines) {
        writeln!(out, "{}", line.trim_end())?;
        if !layout.has(Column::Buyer) {
            writeln!(out, "{}", wrap(BELOW, &item.buyer, BELOW, columns))?;
        }
        if !layout.has(Column::Invoice) {
            let invoice = format!("invoice {}", item.id);
            writeln!(out, "{}", wrap(BELOW, &invoice, BELOW, columns))?;
        }
    }
    writeln!(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Buyer,
    Product,
    Amount,
    Age,
    Invoice,
    Discount,
}

impl Column {
    const ALL: [Self; 6] = [
        Self::Buyer,
        Self::Product,
        Self::Amount,
        Self::Age,
        Self::Invoice,
        Self::Discount,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Buyer => "buyer",
            Self::Product => "product",
            Self::Amount => "amount",
            Self::Age => "age",
            Self::Invoice => "invoice",
            Self::Discount => "discount",
        }
    }

    fn of(self, item: &Item) -> &str {
        match self {
            Self::Buyer => &item.buyer,
            Self::Product => &item.product,
            Self::Amount => &item.amount,
            Self::Age => &item.age,
            Self::Invoice => &item.id,
            Self::Discount => item.discount,
        }
    }

    const fn may_be_cut(self) -> bool {
        match self {
            Self::Buyer | Self::Product => true,
            Self::Amount | Self::Age | Self::Invoice | Self::Discount => false,
        }
    }

    const fn is_number(self) -> bool {
        match self {
            Self::Amount | Self::Age => true,
            Self::Buyer | Self::Product | Self::Invoice | Self::Discount => false,
        }
    }
}

/// Which columns a table has. Buyer and product may be cut. If they would be cut too short, first the
/// id, which never is, and then the buyer get lines of their own under the row.
struct Layout {
    columns: Vec<Column>,
}

/// The least that is left of a buyer or a product.
const NARROWEST: usize = 14;
const WIDEST: u16 = 40;
/// Before each column.
const GAP: u16 = 2;
/// Before what is under a row.
const BELOW: &str = "    ";

impl Layout {
    fn for_items(items: &[Item], columns: Option<usize>) -> Self {
        let has_discount = items.iter().any(|item| !item.discount.is_empty());
        let without = |below: &[Column]| {
            let is_shown = |column: &Column| {
                !below.contains(column) && (has_discount || *column != Column::Discount)
            };
            Self {
                columns: Column::ALL.into_iter().filter(is_shown).collect(),
            }
        };
        let fits = |layout: &Self| columns.is_none_or(|columns| layout.needs(items) <= columns);
        let wider = [without(&[]), without(&[Column::Invoice])];
        let fitting = wider.into_iter().find(fits);
        fitting.unwrap_or_else(|| without(&[Column::Invoice, Column::Buyer]))
    }

    fn has(&self, column: Column) -> bool {
        self.columns.contains(&column)
    }

    /// How wide it is if what may be cut is cut to the least.
    fn needs(&self, items: &[Item]) -> usize {
        let widths = self.bare_table(items).column_max_content_widths();
        let columns = self.columns.iter().zip(widths);
        let needed = columns.map(|(column, width)| {
            let width = usize::from(width);
            let width = if column.may_be_cut() {
                width.min(NARROWEST)
            } else {
                width
            };
            width + usize::from(GAP)
        });
        needed.sum()
    }

    fn table(&self, items: &[Item], columns: Option<usize>) -> Table {
        let mut table = self.bare_table(items);
        table
            .load_style(presets::NOTHING)
            .set_truncation_indicator("…")
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(columns.map_or(u16::MAX, |columns| columns.try_into().unwrap_or(u16::MAX)));
        for (column, shown) in self.columns.iter().zip(table.column_iter_mut()) {
            shown.set_padding((GAP, 0));
            shown.set_constraint(if column.may_be_cut() {
                ColumnConstraint::UpperBoundary(Width::Fixed(WIDEST + GAP))
            } else {
                ColumnConstraint::ContentWidth
            });
            if column.is_number() {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn bare_table(&self, items: &[Item]) -> Table {
        let mut table = Table::new();
        table.set_header(self.row(Column::name));
        for item in items {
            table.add_row(self.row(|column| column.of(item)));
        }
        table
    }

    fn row<'a>(&self, text: impl Fn(Column) -> &'a str) -> Row {
        let mut row = Row::from(self.columns.iter().map(|column| text(*column)));
        row.max_height(1);
        row
    }
}

pub fn with_separators(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", HumanCount(number.unsigned_abs()))
}

/// In the largest unit that fits.
pub fn age(seconds: i64) -> String {
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
    use unicode_width::UnicodeWidthStr;

    use super::*;
    use crate::invoice::{BtcpayInvoiceId, InvoiceId, Missing, Sale};

    const NOW: i64 = 1_000_000;
    const UUID: &str = "0f8d2c1e-64f2-4c59-9a41-0c6a54b6f3d1";

    fn sale(buyer: &str, amount_sats: i64, created: i64) -> Sale {
        Sale {
            buyer_email: Some(buyer.into()),
            product: Some("Pro".into()),
            amount_sats,
            created_at: Timestamp::from_second(created).ok(),
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
            completed: Missing::NOTHING,
            redemption: Some(RedemptionStatus::Redeemed),
            sale,
        }
    }

    fn report(changes: Vec<Changed>) -> Report {
        let url = "https://btcpay.example.com".parse().unwrap();
        let mut report = Report::new(true, url, false);
        report.changes = changes;
        report
    }

    /// As a terminal without color shows it.
    fn tables(report: &Report, columns: Option<usize>) -> String {
        let mut text = anstream::StripStream::new(Vec::new());
        write(
            &mut text,
            report,
            Timestamp::from_second(NOW).unwrap(),
            columns,
        )
        .unwrap();
        String::from_utf8(text.into_inner()).unwrap()
    }

    fn odd_sales() -> Report {
        let long = format!("{}@example.com", "a".repeat(60));
        report(vec![
            change(
                UUID,
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
    fn columns_line_up_whatever_they_hold() {
        assert_eq!(
            tables(&odd_sales(), Some(110)),
            "\
Paid: settled, license issued (3)
  buyer                      product              amount   age  invoice                               discount
  山田@example.com           Pro             21,000 sats   now  0f8d2c1e-64f2-4c59-9a41-0c6a54b6f3d1  redeemed
  aaaaaaaaaaaaaaaaaaaaaaaa…  Pro                  1 sats   1 h  inv-2                                 redeemed
  e\u{301}ve\\u{1b}[2J               Pro      2,100,000,000 sats  11 d  inv-3                                 redeemed

"
        );
    }

    #[test]
    fn narrow_terminal_gets_whole_ids_on_their_own_lines() {
        assert_eq!(
            tables(&odd_sales(), Some(72)),
            format!(
                "\
Paid: settled, license issued (3)
  buyer                      product              amount   age  discount
  山田@example.com           Pro             21,000 sats   now  redeemed
    invoice {UUID}
  aaaaaaaaaaaaaaaaaaaaaaaa…  Pro                  1 sats   1 h  redeemed
    invoice inv-2
  e\u{301}ve\\u{{1b}}[2J               Pro      2,100,000,000 sats  11 d  redeemed
    invoice inv-3

"
            )
        );
    }

    #[test]
    fn narrower_terminal_gets_whole_buyers_on_their_own_lines() {
        assert_eq!(
            tables(&odd_sales(), Some(60)),
            format!(
                "\
Paid: settled, license issued (3)
  product              amount   age  discount
  Pro             21,000 sats   now  redeemed
    山田@example.com
    invoice {UUID}
  Pro                  1 sats   1 h  redeemed
    {}@example.com
    invoice inv-2
  Pro      2,100,000,000 sats  11 d  redeemed
    e\u{301}ve\\u{{1b}}[2J
    invoice inv-3

",
                "a".repeat(60)
            )
        );
    }

    #[test]
    fn rows_fit_the_terminal_and_ids_stay_whole() {
        for columns in [64, 72, 80, 100, 200] {
            let text = tables(&odd_sales(), Some(columns));
            let widest = text.lines().map(UnicodeWidthStr::width).max().unwrap();
            assert!(widest <= columns, "{columns}:\n{text}");
            assert!(text.contains(UUID), "{columns}:\n{text}");
        }
        assert!(tables(&odd_sales(), None).contains(UUID));
    }

    #[test]
    fn outcomes_are_grouped_and_empty_groups_left_out() {
        let text = tables(
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
                "Paid: settled, license issued (1)",
                "Not paid: closed as expired (2)"
            ]
        );
        assert_eq!(tables(&report(Vec::new()), None), "");
    }

    #[test]
    fn numbers_and_ages_are_readable() {
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
        fn any_buyer_fits_the_terminal(buyer in any_text(), columns in 60_usize..120) {
            let text = tables(&report(vec![change("inv-1", LocalStatus::Settled, sale(&buyer, 1, 0))]), Some(columns));
            for line in text.lines() {
                prop_assert!(line.width() <= columns, "{line:?}");
            }
            prop_assert_eq!(text.lines().count(), 4, "{}", text);
        }
    }

    /// Much of it wide, combining, or of several characters that are shown as one.
    fn any_text() -> impl Strategy<Value = String> {
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
