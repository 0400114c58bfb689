//! The systemd units of packaging/: what they start does as the crontab's lines do. That systemd reads
//! them is checked by packaging/verify-units.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
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
        .replace("/usr/bin/reconcile", env!("CARGO_BIN_EXE_reconcile"))
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
        let sendmail = runtime.join("sendmail");
        fs::write(
            &sendmail,
            format!("#!/bin/sh\ncat >> '{}'\n", runtime.join("mail").display()),
        )
        .unwrap();
        fs::set_permissions(sendmail, Permissions::from_mode(0o755)).unwrap();
        Self { shop, runtime }
    }

    /// Starts a unit as systemd would: its program, then what comes after it. Gives what the program
    /// printed and exited with.
    #[track_caller]
    fn start(&self, unit: &str, code: i32) -> Ran {
        let ran = self.run(&setting(unit, "ExecStart", &self.runtime), code);
        if unit != "reconcile" {
            let after = setting(unit, "ExecStopPost", &self.runtime);
            self.run(after.strip_prefix('+').unwrap(), 0);
        }
        ran
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
        units.start(unit, 0).says_nothing();
        assert_eq!(units.mail(), "", "{unit}");
    }
    let late = units.shop.sale("late").there("Expired");
    late.additional("PaidLate", "0.00021").made();
    units.start("reconcile-hour", 0).warns("");
    let mail = units.mail();
    let (headers, text) = mail.split_once("\n\n").unwrap();
    assert_eq!(
        headers,
        "To: you@example.com\nSubject: Sales that need you (shop)\nContent-Type: text/plain; charset=utf-8"
    );
    assert!(
        text.starts_with("late@example.com, Pro\n21,000 sats, 1 h old: paid late\n"),
        "{mail}"
    );
    units.start("reconcile-day", 0);
    assert_eq!(units.mail(), "", "it was mailed");

    units.shop.btcpay.revoke(btcpay::KEY);
    units.start("reconcile-hour", 1);
    assert!(
        units
            .mail()
            .contains("error: BTCPay Server refused the API key")
    );
}
