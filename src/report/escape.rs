//! Foreign text, made safe to print: it cannot move the cursor, reorder or hide what stands beside
//! it, start a line of its own, or go on without end; and it is not the API key.

use std::borrow::Cow;

use crate::secret;

/// In characters; more than any line of the program's own.
const LONGEST_LINE: usize = 4_000;

/// `text` as one safe line.
pub fn line(text: &str) -> String {
    cut(&secret::without_ours(text), LONGEST_LINE)
        .chars()
        .fold(String::new(), |mut line, c| {
            if must_be_escaped(c) {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
            line
        })
}

fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    match text.chars().nth(longest) {
        Some(_) => Cow::Owned(text.chars().take(longest).chain(['…']).collect()),
        None => Cow::Borrowed(text),
    }
}

/// Controls, and what cannot be seen but changes how the rest is: direction marks, line and paragraph
/// separators, joiners, tags.
pub fn must_be_escaped(c: char) -> bool {
    c.is_control()
        || matches!(
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
    fn terminal_controls_and_forged_lines_are_escaped() {
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
    fn endless_text_is_cut() {
        assert_eq!(line(&"ä".repeat(LONGEST_LINE)), "ä".repeat(LONGEST_LINE));
        assert_eq!(
            line(&"ä".repeat(LONGEST_LINE + 1)),
            "ä".repeat(LONGEST_LINE) + "…"
        );
    }
}
