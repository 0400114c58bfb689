//! Text of others as it is shown: nothing in it moves a terminal, reorders or hides what stands
//! beside it, starts another line, or goes on for ever.

use std::borrow::Cow;

use reqwest::Url;

/// In characters. A line of the program's own is never as long.
const LONGEST_LINE: usize = 4_000;
const LONGEST_ID: usize = 80;

/// One line, safe to be shown.
pub fn line(text: &str) -> String {
    cut(text, LONGEST_LINE)
        .chars()
        .fold(String::new(), |mut line, c| {
            if c.is_control() || is_invisible(c) {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
            line
        })
}

/// As much of an id as it takes to recognise it.
pub fn id(text: &str) -> Cow<'_, str> {
    cut(text, LONGEST_ID)
}

/// An address without the user and password that it may hold.
pub fn without_password(mut url: Url) -> Url {
    // Refused only where there can be none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    match text.chars().nth(longest) {
        Some(_) => Cow::Owned(text.chars().take(longest).chain(['…']).collect()),
        None => Cow::Borrowed(text),
    }
}

/// Characters that are not seen, but change how others are: marks of direction, separators of lines
/// and paragraphs, joiners, tags.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_or_forges_a_line_is_escaped() {
        for (text, shown) in [
            ("Müller & Söhne 🔑", "Müller & Söhne 🔑"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nerror: b", "a\\nerror: b"),
            ("a\rb\tc\u{7f}", "a\\rb\\tc\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}cod.exe", "\\u{202e}cod.exe"),
            ("a\u{2028}b", "a\\u{2028}b"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
        ] {
            assert_eq!(line(text), shown);
        }
    }

    #[test]
    fn what_goes_on_for_ever_is_cut() {
        assert_eq!(line(&"ä".repeat(LONGEST_LINE)), "ä".repeat(LONGEST_LINE));
        assert_eq!(
            line(&"ä".repeat(LONGEST_LINE + 1)),
            "ä".repeat(LONGEST_LINE) + "…"
        );
    }
}
