//! The systemd units of packaging/: what they start does as the crontab's lines do. That systemd reads
//! them is checked by packaging/verify-units.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::btcpay;
use crate::program::Ran;
use crate::shop::Shop;

/// A setting of a unit, its lines joined, as systemd hands it to the program.
fn setting(unit: &str, name: &str, runtime: &Path) -> String {
    let path = format!("packaging/systemd/{unit}@.service");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(path).unwrap().replace("\\\n", " ");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(&format!("{name}=")));
    value
        .unwrap()
        .replace("%%", "\u{0}")
        .replace("%t", runtime.to_str().unwrap())
        .replace("%i", "shop")
        .replace('\u{0}', "%")
        .replace("$$", "$")
        .replace("\\\\", "\\")
        .replace(
            "/usr/bin/reconcile",
            runtime.join("program").to_str().unwrap(),
        )
        .replace(
            "/usr/sbin/sendmail",
            runtime.join("sendmail").to_str().unwrap(),
        )
}

struct Units {
    shop: Shop,
    runtime: PathBuf,
}

impl Units {
    fn new() -> Self {
        let shop = Shop::open();
        let runtime = shop.path("run");
        fs::create_dir_all(runtime.join("reconcile-shop")).unwrap();
        symlink(env!("CARGO_BIN_EXE_reconcile"), runtime.join("program")).unwrap();
        let units = Self { shop, runtime };
        units.mail_program(&format!(
            "cat >> '{}'",
            units.runtime.join("mail").display()
        ));
        units
    }

    fn mail_program(&self, script: &str) {
        let sendmail = self.runtime.join("sendmail");
        fs::write(&sendmail, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(sendmail, Permissions::from_mode(0o755)).unwrap();
    }

    /// Starts a unit as systemd would.
    #[track_caller]
    fn start(&self, unit: &str, code: i32) -> Ran {
        self.run(&setting(unit, "ExecStart", &self.runtime), code)
    }

    /// Starts a unit that mails, and what systemd starts after it. Gives what goes into the journal.
    #[track_caller]
    fn start_and_mail(&self, unit: &str, code: i32, mail_code: i32) -> Ran {
        let to_file = setting(unit, "StandardError", &self.runtime);
        let file = to_file.strip_prefix("append:").unwrap();
        let start = setting(unit, "ExecStart", &self.runtime);
        self.run(&format!("{start} 2>> {file}"), code).warns("");
        let after = setting(unit, "ExecStopPost", &self.runtime);
        let script = after.strip_prefix('+').unwrap();
        self.run(&format!("{script} 2>> {file}"), mail_code)
    }

    #[track_caller]
    fn run(&self, command: &str, code: i32) -> Ran {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("RECONCILE_DATABASE", self.shop.database())
            .env("BTCPAY_URL", self.shop.btcpay.url())
            .env("BTCPAY_STORE_ID", btcpay::STORE)
            .env("BTCPAY_API_KEY", btcpay::KEY)
            .env("MAILTO", "you@example.com");
        Ran::of(shell, code)
    }

    /// What was mailed since the last time.
    fn mail(&self) -> String {
        let path = self.runtime.join("mail");
        let mail = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        mail
    }
}

#[test]
fn minutes_unit_reconciles_and_mails_nothing() {
    let units = Units::new();
    units.shop.sale("paid").made();
    let late = units.shop.sale("late").there("Expired");
    late.additional("PaidLate", "0.00021").made();
    units.start("reconcile", 0).tells(&[("late", "paid_late")]);
    assert_eq!(units.shop.state("paid"), "settled, licensed");
    assert_eq!(units.mail(), "");
}

#[test]
fn hourly_unit_mails_what_needs_a_person_and_what_failed() {
    let units = Units::new();
    for unit in ["reconcile-hour", "reconcile-day"] {
        units.start_and_mail(unit, 0, 0).says_nothing();
        assert_eq!(units.mail(), "", "{unit}");
    }
    let late = units.shop.sale("late").there("Expired");
    late.additional("PaidLate", "0.00021").made();
    let journal = units.start_and_mail("reconcile-hour", 0, 0).stdout;
    let mail = units.mail();
    let (headers, text) = mail.split_once("\n\n").unwrap();
    assert_eq!(
        headers,
        "To: you@example.com\nSubject: reconcile: shop needs you\nContent-Type: text/plain; charset=utf-8"
    );
    assert!(
        text.starts_with("late@example.com, Pro\n21,000 sats, 1 h old: paid late\n"),
        "{mail}"
    );
    assert_eq!(journal, text);
    units.start_and_mail("reconcile-day", 0, 0).says_nothing();
    assert_eq!(units.mail(), "", "it was mailed");

    units.shop.btcpay.revoke(btcpay::KEY);
    units.start_and_mail("reconcile-hour", 1, 0);
    assert!(
        units
            .mail()
            .contains("error: BTCPay Server refused the API key")
    );
}

#[test]
fn mail_that_could_not_be_sent_goes_with_the_next() {
    let units = Units::new();
    let late = units.shop.sale("late").there("Expired");
    late.additional("PaidLate", "0.00021").made();
    let mails = fs::read_to_string(units.runtime.join("sendmail")).unwrap();
    units.mail_program("echo no route >&2; exit 75");
    let journal = units.start_and_mail("reconcile-hour", 0, 75);
    assert!(journal.stdout.ends_with("\nno route\n"));
    units.mail_program(&mails);
    units.start_and_mail("reconcile-hour", 0, 0);
    let mail = units.mail();
    assert_eq!(mail.matches("paid late").count(), 1, "{mail}");
    assert!(!mail.contains("no route"), "{mail}");
    units.start_and_mail("reconcile-hour", 0, 0);
    assert_eq!(units.mail(), "");
}
