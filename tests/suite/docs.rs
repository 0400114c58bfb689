//! What README.md, docs/ and crontab.example say: commands do what is said, as they are written but for
//! paths, names and the user; what they show is what is printed; links lead somewhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::btcpay;
use crate::demo_shop;
use crate::program::{Ran, Run, line_matches};
use crate::shop::Shop;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// README.md and the pages of docs/.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let names = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    let mut names: Vec<String> = names.collect();
    names.push("README.md".into());
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let text = read(&name);
            (name, text)
        })
        .collect()
}

/// The lines of a page's indented code, those that end in a backslash joined.
fn code(page: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut goes_on = false;
    let mut is_code = false;
    let mut before = "";
    for line in page.lines() {
        let is_indented = line.starts_with("    ");
        is_code = is_indented && (is_code || before.is_empty());
        before = line;
        if !is_code {
            continue;
        }
        let text = line.trim();
        match lines.last_mut() {
            Some(last) if goes_on => {
                last.pop();
                last.push_str(text);
            }
            _ => lines.push(text.into()),
        }
        goes_on = text.ends_with('\\');
    }
    lines
}

/// A shop as README's set-up leaves it, and the shell in which its commands are typed.
struct Server {
    shop: Shop,
    folder: TempDir,
}

impl Server {
    fn new() -> Self {
        let server = Self {
            shop: Shop::open(),
            folder: TempDir::new().unwrap(),
        };
        let bin = server.path("bin");
        fs::create_dir(&bin).unwrap();
        // The only things that a test cannot be: root, an editor, and a service on the Internet.
        server.script("sudo", "shift 2; exec \"$@\"");
        server.script(
            "install",
            "while [ $# -gt 1 ]; do shift; done; : > \"$1\"; chmod 600 \"$1\"",
        );
        server.script("editor", &format!("printf %s {} > \"$1\"", btcpay::KEY));
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// The command with this server's paths and names in the place of the page's.
    fn command(&self, line: &str) -> String {
        line.replace("/var/lib/licensing", self.folder.path().to_str().unwrap())
            .replace("https://btcpay.example.com", &self.shop.btcpay.url())
            .replace("THE-STORE-ID", btcpay::STORE)
            .replace("INVOICE", "a")
            .replace("keysat.db", self.path("keysat.db").to_str().unwrap())
    }

    /// Types it into a shell whose environment has the crontab's settings.
    #[track_caller]
    fn types(&self, line: &str) -> Ran {
        let program = Path::new(env!("CARGO_BIN_EXE_reconcile")).parent().unwrap();
        let path = format!(
            "{}:{}:{}",
            self.path("bin").display(),
            program.display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.command(line)])
            .current_dir(root())
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", path)
            .env("RECONCILE_DATABASE", self.shop.database())
            .env("BTCPAY_URL", self.shop.btcpay.url())
            .env("BTCPAY_STORE_ID", btcpay::STORE)
            .env("BTCPAY_API_KEY", btcpay::KEY)
            .env("LOG", self.path("reconcile.log"))
            .env("LOCK", self.path("reconcile.lock"));
        Ran::of(command, 0)
    }
}

/// A line of a crontab without when it runs; None if it is no such line.
fn of_crontab(line: &str) -> Option<&str> {
    let rest = line.splitn(6, ' ').nth(5)?;
    let mut times = line.split(' ').take(5);
    times
        .all(|time| time == "*" || time.parse::<u8>().is_ok())
        .then_some(rest)
}

#[test]
fn readme_is_short() {
    let words = read("README.md").split_whitespace().count();
    assert!(words <= 1_300, "{words} words");
}

#[test]
fn readme_shows_the_demo_as_it_prints() {
    let folder = TempDir::new().unwrap();
    let (database, _) = demo_shop::open_shop(folder.path()).unwrap();
    let server = demo_shop::server();
    let ran = Run::bare()
        .flag("--dry-run")
        .env("RECONCILE_DATABASE", database.to_str().unwrap())
        .env("BTCPAY_URL", &server.url())
        .env("BTCPAY_STORE_ID", btcpay::STORE)
        .env("BTCPAY_API_KEY", btcpay::KEY)
        .exits(0)
        .warns("");
    let readme = read("README.md");
    let (_, shown) = readme.split_once("$ reconcile --dry-run\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let shown: Vec<&str> = shown.lines().collect();
    let printed: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(shown.len(), printed.len(), "{}", ran.stdout);
    for (shown, printed) in shown.iter().zip(printed) {
        // Ports, times and milliseconds differ.
        let pattern = match (shown.find("127.0.0.1:"), shown.find("Z dry run")) {
            (Some(place), _) => {
                let port = &shown[place..];
                format!(
                    "{}127.0.0.1:[..]{}",
                    &shown[..place],
                    &port[port.find('/').unwrap()..]
                )
            }
            (_, Some(place)) => {
                let end = shown.rfind(", ").unwrap();
                format!("20[..]{}, [..] ms", &shown[place..end])
            }
            (None, None) => (*shown).to_owned(),
        };
        assert!(line_matches(&pattern, printed), "{pattern}\n{printed}");
    }
}

#[test]
fn set_up_by_the_letter_leads_to_a_first_run() {
    let server = Server::new();
    let readme = read("README.md");
    let (_, set_up) = readme.split_once("## Set it up").unwrap();
    let (set_up, _) = set_up.split_once("\n## ").unwrap();
    let lines = code(&set_up.replace("       ", "    "));
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in lines {
        let ran = server.types(&line);
        assert_eq!(ran.stderr, "", "{line}");
    }
}

#[test]
fn every_command_does_what_is_said() {
    let server = Server::new();
    server
        .shop
        .sale("a")
        .here("expired")
        .there("Expired")
        .made();
    let keysat = rusqlite::Connection::open(server.path("keysat.db")).unwrap();
    keysat.execute_batch(include_str!("keysat.sql")).unwrap();
    keysat
        .execute_batch("CREATE TABLE IF NOT EXISTS btcpay_config (base_url TEXT, store_id TEXT)")
        .unwrap();
    let mut typed = 0;
    for (_, text) in pages() {
        for line in code(&text) {
            let first = line.split(' ').next().unwrap();
            if !matches!(first, "reconcile" | "sqlite3") {
                continue;
            }
            if line.contains("--issue") {
                server.shop.sale("a2").here("settled").made();
                server.types(&line.replace("INVOICE", "a2"));
            } else {
                server.types(&line);
            }
            typed += 1;
        }
    }
    assert!(typed >= 8, "{typed}");
}

#[test]
fn crontab_example_keeps_the_shop_and_mails_what_needs_a_person() {
    let server = Server::new();
    let shop = &server.shop;
    shop.sale("paid").made();
    shop.sale("late")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    let crontab = read("crontab.example");
    let lines: Vec<&str> = crontab.lines().filter_map(of_crontab).collect();
    assert_eq!(lines.len(), 3);
    server.types(lines[0]).says_nothing();
    assert_eq!(shop.state("paid"), "settled, licensed");
    let log = server.path("reconcile.log");
    assert_eq!(
        fs::metadata(&log).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mailed = server.types(lines[1]);
    mailed.prints("").tells(&[("late", "paid_late")]);
    server.types(lines[2]).says_nothing();
    assert!(fs::read_to_string(log).unwrap().contains("paid late"));
}

#[test]
fn crontab_example_names_settings_that_exist() {
    let help = Run::bare().flag("--help").exits(0).stdout;
    for line in read("crontab.example").lines() {
        let setting = line.trim_start_matches('#').split_once('=');
        let Some((name, _)) = setting.filter(|(name, _)| !name.contains(' ')) else {
            continue;
        };
        let is_crons = matches!(name, "MAILTO" | "PATH" | "LOG" | "LOCK");
        assert!(is_crons || help.contains(name), "{name}");
    }
}

/// A program that keeps what is posted to it, where curl would post it.
fn posting_server() -> (Server, PathBuf) {
    let server = Server::new();
    let posted = server.path("posted");
    server.script(
        "curl",
        &format!("printf '%s\\n' \"$@\" >> '{}'", posted.display()),
    );
    (server, posted)
}

#[test]
fn what_needs_a_person_can_be_posted_in_the_place_of_a_mail() {
    let (server, posted) = posting_server();
    let attention = read("docs/attention.md");
    let lines = code(&attention);
    let line = lines.iter().find(|line| line.contains("$NTFY")).unwrap();
    let line = format!(
        "NTFY=https://ntfy.example.com/shop; {}",
        of_crontab(line).unwrap()
    );
    server.types(&line).says_nothing();
    assert!(!posted.exists(), "nothing to say, nothing posted");
    let sale = server.shop.sale("late").there("Expired");
    sale.additional("PaidLate", "0.00021").made();
    server.types(&line).says_nothing();
    let posted = fs::read_to_string(posted).unwrap();
    assert!(posted.contains("late@example.com, Pro\n"), "{posted}");
    assert!(posted.contains("ntfy.example.com/shop"), "{posted}");
}

#[test]
fn sign_of_life_carries_the_exit_code_and_mails_nothing() {
    let (server, posted) = posting_server();
    let attention = read("docs/attention.md");
    let lines = code(&attention);
    let line = lines.iter().find(|line| line.contains("$ALIVE")).unwrap();
    let line = format!(
        "ALIVE=https://alive.example.com/x; {}",
        of_crontab(line).unwrap()
    );
    server.types(&line).says_nothing();
    server.shop.btcpay.revoke(btcpay::KEY);
    server.shop.sale("a").made();
    server.types(&line).says_nothing();
    let posted = fs::read_to_string(posted).unwrap();
    let pinged: Vec<&str> = posted
        .lines()
        .filter(|line| line.contains("alive"))
        .collect();
    assert_eq!(
        pinged,
        [
            "https://alive.example.com/x/0",
            "https://alive.example.com/x/1"
        ]
    );
    // The monitor is down.
    server.script("curl", "echo curl: cannot connect >&2; exit 7");
    let line = format!("{line} || true");
    server.types(&line).says_nothing();
}

#[test]
fn cargo_commands_name_what_exists() {
    let manifest = read("Cargo.toml");
    let suite = read("tests/suite/main.rs");
    for (page, text) in pages() {
        for line in code(&text) {
            let Some((_, cargo)) = line.split_once("cargo ") else {
                continue;
            };
            let words: Vec<&str> = cargo.split_whitespace().collect();
            let after = |flag: &str| {
                let place = words.iter().position(|word| *word == flag)?;
                words.get(place + 1)
            };
            for flag in ["--example", "--test", "--bench"] {
                if let Some(name) = after(flag) {
                    assert!(
                        manifest.contains(&format!("name = \"{name}\"")),
                        "{page}: {name}"
                    );
                }
            }
            if after("--test") == Some(&"suite") {
                for filter in words.iter().skip_while(|word| **word != "--").skip(1) {
                    let is_module = suite.contains(&format!("mod {filter};"));
                    let is_test = suite_has_a_test_named(filter);
                    assert!(is_module || is_test, "{page}: {filter}");
                }
            }
        }
    }
}

fn suite_has_a_test_named(part: &str) -> bool {
    let files = fs::read_dir(root().join("tests/suite")).unwrap();
    let mut texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    texts.any(|text| {
        text.lines()
            .any(|line| line.starts_with("fn ") && line.contains(part))
    })
}

#[test]
fn messages_that_are_explained_are_those_of_the_program() {
    let sources = ["src", "src/btcpay", "src/database"].map(|folder| {
        let files = fs::read_dir(root().join(folder)).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let texts = files
            .filter(|path| path.is_file())
            .map(|path| fs::read_to_string(path).unwrap());
        texts.collect::<String>()
    });
    // As one line, with what a message fills in.
    let sources = sources.concat().replace("\\\n", " ");
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ");
    let sources = sources.replace("{VIEW_INVOICES}", "btcpay.store.canviewinvoices");
    let page = read("docs/when-something-is-wrong.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let messages: Vec<&str> = headings
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect();
    assert!(messages.len() >= 10, "{messages:?}");
    for message in messages {
        assert!(sources.contains(message), "{message}");
    }
}

#[test]
fn links_lead_somewhere() {
    for (page, text) in pages() {
        for (_, rest) in text
            .match_indices("](")
            .map(|(place, _)| text.split_at(place + 2))
        {
            let (target, _) = rest.split_once(')').unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            let folder = root().join(&page);
            let path = folder.parent().unwrap().join(file);
            assert!(path.exists(), "{page}: {target}");
        }
    }
}

#[test]
fn every_option_and_reason_is_in_the_docs() {
    let help = Run::bare().flag("--help").exits(0).stdout;
    let options = read("docs/options-and-exit-codes.md");
    for word in help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
    {
        let option = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let known = matches!(option, "--help" | "--version") || options.contains(option);
        assert!(known, "{option}");
    }
    let decide = read("src/decide.rs");
    let (_, reasons) = decide.split_once("pub const fn reason(").unwrap();
    let (reasons, _) = reasons.split_once("\n    }\n").unwrap();
    let attention = read("docs/attention.md");
    for reason in reasons.split('"').skip(1).step_by(2) {
        assert!(attention.contains(&format!("`{reason}`")), "{reason}");
    }
}
