//! The rooms of src/ may use each other only in one direction, and each says what it is for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms that it may use. A room uses only rooms above it.
const ROOMS: [(&str, &[&str]); 19] = [
    ("secret", &[]),
    ("stop", &[]),
    ("invoice", &[]),
    ("candidates", &["invoice"]),
    ("cli", &[]),
    ("decide", &["invoice"]),
    ("attention", &["invoice", "decide"]),
    ("btcpay", &["secret", "stop", "invoice"]),
    (
        "database",
        &[
            "secret",
            "stop",
            "invoice",
            "candidates",
            "decide",
            "attention",
        ],
    ),
    ("lookup", &["stop", "invoice", "candidates", "btcpay"]),
    ("report", &["secret", "stop", "invoice", "decide"]),
    (
        "config",
        &["secret", "cli", "invoice", "btcpay", "database", "report"],
    ),
    ("proof", &["btcpay", "database"]),
    (
        "reconcile",
        &["invoice", "decide", "attention", "database", "report"],
    ),
    (
        "run",
        &[
            "stop",
            "invoice",
            "candidates",
            "decide",
            "attention",
            "btcpay",
            "database",
            "lookup",
            "report",
            "config",
            "proof",
            "reconcile",
        ],
    ),
    (
        "issue",
        &[
            "stop",
            "invoice",
            "decide",
            "attention",
            "btcpay",
            "database",
            "report",
            "config",
            "proof",
            "reconcile",
            "run",
        ],
    ),
    (
        "acknowledge",
        &[
            "stop",
            "invoice",
            "attention",
            "btcpay",
            "database",
            "report",
            "config",
            "proof",
            "reconcile",
            "run",
        ],
    ),
    (
        "named",
        &[
            "secret",
            "stop",
            "invoice",
            "attention",
            "btcpay",
            "database",
            "report",
            "config",
            "proof",
            "reconcile",
            "run",
        ],
    ),
    (
        "main",
        &[
            "secret",
            "stop",
            "cli",
            "config",
            "issue",
            "acknowledge",
            "named",
            "report",
            "run",
        ],
    ),
];

/// The only files outside database/keysat that may name it: the steps that it adds to.
const CALL_KEYSAT: [&str; 7] = [
    "database/audit.rs",
    "database/candidates.rs",
    "database/doubt.rs",
    "database/mod.rs",
    "database/open.rs",
    "database/whole.rs",
    "database/write.rs",
];

/// Every file of src/: its path there, and its text.
fn sources() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
                sources.push((name.to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort();
    sources
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The rooms that a file's text names: `crate::room`, and in main.rs `room::`.
fn used(file: &str, text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (place, _) in text.match_indices("crate::") {
        let name = &text[place + "crate::".len()..];
        let end = name
            .find(|c: char| !c.is_ascii_lowercase())
            .unwrap_or(name.len());
        used.insert(name[..end].to_owned());
    }
    if file == "main.rs" {
        for (name, _) in ROOMS {
            if text.contains(&format!("{name}::")) {
                used.insert(name.to_owned());
            }
        }
    }
    used.remove(room(file));
    used
}

#[test]
fn rooms_use_each_other_in_one_direction() {
    for (place, (room, may_use)) in ROOMS.iter().enumerate() {
        for other in *may_use {
            let above = ROOMS[..place].iter().any(|(name, _)| name == other);
            assert!(above, "{room} may use {other}, which is not above it");
        }
    }
    for (file, text) in sources() {
        let (_, may_use) = ROOMS
            .iter()
            .find(|(name, _)| *name == room(&file))
            .unwrap_or_else(|| panic!("{file} is in no room of ROOMS"));
        for other in used(&file, &text) {
            assert!(
                may_use.contains(&other.as_str()),
                "{file} must not use {other}"
            );
        }
    }
}

#[test]
fn plain_database_code_does_not_name_keysat() {
    for (file, text) in sources() {
        let may_name = file.starts_with("database/keysat/") || CALL_KEYSAT.contains(&file.as_str());
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let names = code
            .filter(|line| line.to_lowercase().contains("keysat"))
            .count();
        assert!(may_name || names == 0, "{file} names Keysat");
    }
}

#[test]
fn sql_is_only_in_database_and_http_only_in_btcpay() {
    for (file, text) in sources() {
        for (library, home) in [("rusqlite", "database"), ("reqwest::blocking", "btcpay")] {
            assert!(
                room(&file) == home || !text.contains(library),
                "{file} uses {library}, which belongs to {home}"
            );
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    for (file, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{file} does not say what it is for"
        );
    }
}
