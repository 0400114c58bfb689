//! What nobody may see: the API key that is used, and whatever else looks like one.

use std::borrow::Cow;
use std::sync::OnceLock;

/// BTCPay Server's keys are so many hex digits.
const DIGITS: usize = 40;

/// What is shorter is no key, and hiding it would take words out of messages.
const SHORTEST: usize = 16;

static OURS: OnceLock<String> = OnceLock::new();

/// From now on [`without_ours`] knows the key that is used.
pub fn keep(key: &str) {
    if key.len() >= SHORTEST {
        // There is only one.
        let _ = OURS.set(key.into());
    }
}

/// Whether `text` is, or has in it, what looks like a key.
pub fn is_in(text: &str) -> bool {
    looks_like_key(text).is_some()
}

/// `text` without the key that is used. For text with ids of the service, which may look like a key.
pub fn without_ours(text: &str) -> Cow<'_, str> {
    match OURS.get() {
        Some(key) if text.contains(key) => Cow::Owned(text.replace(key, "(the API key)")),
        Some(_) | None => Cow::Borrowed(text),
    }
}

/// `text` without the key that is used and what looks like one. For text of other programs.
pub fn without_any(text: &str) -> Cow<'_, str> {
    let mut text = without_ours(text);
    while let Some(found) = looks_like_key(&text) {
        text = Cow::Owned(text.replace(found, "(an API key?)"));
    }
    text
}

fn looks_like_key(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .find(|run| run.len() == DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_of_forty_hex_digits_looks_like_a_key() {
        let key = "6f3a1c9e5b7d2f4a8c0e1b3d5f7a9c2e4b6d8f0a";
        let upper = key.to_uppercase();
        for (text, shown) in [
            (key.into(), "(an API key?)".into()),
            (upper, "(an API key?)".into()),
            (
                format!("token {key}\n{key}"),
                "token (an API key?)\n(an API key?)".into(),
            ),
            (format!("a/{key}_ä"), "a/(an API key?)_ä".into()),
            (String::new(), String::new()),
            (key[1..].into(), key[1..].into()),
            (format!("{key}0"), format!("{key}0")),
            (key.repeat(2), key.repeat(2)),
        ] {
            assert_eq!(without_any(&text), shown);
            assert_eq!(is_in(&text), shown != text, "{text}");
        }
    }
}
