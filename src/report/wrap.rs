//! Lines as wide as a terminal. Pure.

use textwrap::core::display_width;
use textwrap::{Options, WordSplitter, fill};

/// Before what goes on in the next line.
pub const INDENT: &str = "  ";

/// `text` indented by `first`, and by `later` where it goes on, for a terminal of so many `columns`; in
/// one line if it is for none. Ids, addresses and links stay whole, since they are copied; if that makes
/// one fit, it is indented less, by [`INDENT`].
pub fn wrap(first: &str, text: &str, later: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else {
        return format!("{first}{text}");
    };
    let widest = text.split(' ').map(display_width).max().unwrap_or_default();
    let fits = |indent: &str| indent.len() + widest <= columns;
    let indent = |most| {
        if !fits(most) && fits(INDENT) {
            INDENT
        } else {
            most
        }
    };
    // Each makes a character before it an emoji, which is one column wider than textwrap thinks.
    let selectors = text.matches('\u{fe0f}').count();
    let options = Options::new(columns.saturating_sub(selectors))
        .initial_indent(indent(first))
        .subsequent_indent(indent(later))
        .word_splitter(WordSplitter::NoHyphenation)
        .break_words(false);
    fill(text, options)
}
