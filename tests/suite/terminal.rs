//! Output for a person at a terminal. util-linux's `script` provides the terminal.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use crate::btcpay::Fault;
use crate::program::{Ran, Run};
use crate::shop::Shop;

/// Starts the run in a terminal and returns everything the terminal receives.
fn in_a_terminal(run: Run, environment: &[(&str, &str)]) -> String {
    in_a_terminal_of(COLUMNS, run, environment)
}

fn in_a_terminal_of(columns: usize, run: Run, environment: &[(&str, &str)]) -> String {
    let mut script = run.beside("script");
    let run = run.command();
    let words = [run.get_program()].into_iter().chain(run.get_args());
    let quoted: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!(
            "stty cols {columns} rows 300; {}",
            quoted.join(" ")
        ))
        .arg("/dev/null")
        .stdin(Stdio::null())
        .env("TERM", "xterm")
        .envs(environment.iter().copied());
    Ran::of(script, 0).stdout
}

/// Narrower than the usual 80 columns.
const COLUMNS: usize = 75;

#[test]
fn dry_run_fits_the_terminal_width() {
    let shop = Shop::open();
    shop.sale("late")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    shop.sql(
        "UPDATE products SET name = '🛡️ Editor Professional ❤️, a yearly subscription';
         UPDATE invoices SET buyer_email = 'somebody-with-a-long-name@subdomain.example.com'",
    );
    let shown = in_a_terminal(shop.reconcile().flag("-n"), &[("NO_COLOR", "1")]);
    let (tables, summary) = shown.rsplit_once("\r\n\r\n").unwrap();
    assert!(summary.contains("1 needs attention"), "{shown}");
    for line in tables.lines() {
        assert!(line.width() <= COLUMNS, "{shown}");
    }
    assert!(
        tables.lines().any(|line| line.width() > COLUMNS - 15),
        "{shown}"
    );
}

#[test]
fn invoice_id_stays_whole_in_a_narrow_terminal() {
    const ID: &str = "0f8d2c1e-64f2-4c59-9a41-0c6a54b6f3d1";
    let shop = Shop::open();
    shop.sale(ID).redemption("pending").made();
    shop.sql("UPDATE invoices SET buyer_email = 'somebody-with-a-long-name@subdomain.example.com'");
    let shown = in_a_terminal(shop.reconcile().flag("-n"), &[("NO_COLOR", "1")]);
    assert!(
        shown
            .lines()
            .any(|line| line.trim() == format!("invoice {ID}")),
        "{shown}"
    );
    let piped = shop.reconcile().flag("-n").exits(0).stdout;
    assert!(piped.contains(&format!("  {ID}  redeemed")), "{piped}");
}

/// Checks that every line fits the terminal, unless it is one word, which is never broken.
#[track_caller]
fn fits(shown: &str, columns: usize) {
    for line in shown.lines() {
        let is_one_word = line.split_whitespace().count() == 1;
        assert!(
            line.width() <= columns || is_one_word,
            "{columns}: {line}\n{shown}"
        );
    }
}

/// As scripts and people who copy it need it.
#[track_caller]
fn has_whole(shown: &str, words: &[&str]) {
    for word in words {
        assert!(shown.contains(word), "no {word}:\n{shown}");
    }
}

#[test]
fn buyer_and_product_are_readable_in_a_narrow_terminal() {
    const BUYER: &str = "alice.liddell@example.com";
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sql(&format!(
        "UPDATE products SET name = 'Editor Pro';
         UPDATE invoices SET buyer_email = '{BUYER}'"
    ));
    let shown = |columns| {
        let run = shop.reconcile().flag("-n");
        in_a_terminal_of(columns, run, &[("NO_COLOR", "1")])
    };
    let narrow = shown(40);
    let lines: Vec<&str> = narrow.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..5],
        [
            "Paid: settled, license issued (1)",
            "  product          amount  age",
            "  Editor Pro  21,000 sats  1 h",
            &format!("    {BUYER}"),
            "    invoice a",
        ]
    );
    for columns in [40, 60, 80] {
        let shown = shown(columns);
        fits(&shown, columns);
        has_whole(&shown, &["Editor Pro"]);
        if columns != 60 {
            has_whole(&shown, &[BUYER]);
        }
    }
}

#[test]
fn long_lines_break_at_blanks_and_ids_stay_whole() {
    const ID: &str = "0f8d2c1e-64f2-4c59-9a41-0c6a54b6f3d1";
    for columns in [40, 60, 80] {
        let shop = Shop::open();
        shop.sale(ID).redemption("pending").made();
        for id in ["late", "accepted"] {
            let sale = shop.sale(id).there("Expired");
            sale.additional("PaidLate", "0.00021").made();
        }
        let run = |flags: &[&str]| {
            let run = flags
                .iter()
                .fold(shop.reconcile(), |run, flag| run.flag(flag));
            in_a_terminal_of(columns, run, &[("NO_COLOR", "1")])
        };
        let changed = run(&[]);
        fits(&changed, columns);
        let license = shop.query("SELECT id FROM licenses");
        has_whole(&changed, &[ID, &license]);

        let named = run(&["-n", ID, "late"]);
        fits(&named, columns);
        has_whole(&named, &[ID, &license]);

        let acknowledged = run(&["--acknowledge", "accepted"]);
        fits(&acknowledged, columns);
        has_whole(&acknowledged, &["acknowledged:"]);
        shop.btcpay.mark("btc-late", "Settled");
        // It is over now, in both kinds of run.
        for flags in [&["-n", "--recheck"][..], &["--recheck"]] {
            let over = run(flags);
            fits(&over, columns);
            has_whole(&over, &["over:"]);
        }
    }
    // Where a program reads it, a line is a line.
    let shop = Shop::open();
    shop.sale(ID).redemption("pending").made();
    let change = "invoice [..] (BTCPay invoice [..]): pending -> settled, license [..] issued, redemption redeemed";
    shop.reconcile()
        .exits(0)
        .prints(&format!("{change}\n20[..]Z 1 checked, 1 changed; [..] ms"));
}

const BOLD: &str = "\u{1b}[1m";

#[test]
fn color_follows_terminal_and_environment() {
    let shop = Shop::open();
    shop.sale("a").made();
    let dry = || shop.reconcile().flag("-n");
    assert!(in_a_terminal(dry(), &[]).contains(&format!("{BOLD}Paid: settled")));
    for unwanted in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
        let shown = in_a_terminal(dry(), &[unwanted]);
        assert!(!shown.contains('\u{1b}'), "{unwanted:?}: {shown}");
        assert!(shown.contains("Paid: settled"));
    }
    let piped = dry().exits(0).stdout;
    assert!(!piped.contains('\u{1b}'), "{piped}");
    let forced = dry().env("CLICOLOR_FORCE", "1").exits(0).stdout;
    assert!(forced.contains(BOLD));
    let json = dry().env("CLICOLOR_FORCE", "1").json(0);
    assert_eq!(json["checked"], 1);
}

#[test]
fn uneventful_run_in_a_terminal_prints_summary() {
    let shop = Shop::open();
    let shown = in_a_terminal(shop.reconcile(), &[]);
    assert!(shown.contains("0 checked; "), "{shown}");
}

/// A shop whose BTCPay Server is slow.
fn slow_shop() -> Shop {
    let shop = Shop::open();
    for id in ["a", "b", "c", "d"] {
        shop.sale(id).there("New").made();
        shop.btcpay.when_asked_for(&format!("btc-{id}"), || {
            thread::sleep(Duration::from_millis(250));
        });
    }
    shop
}

const PROGRESS: &str = "of 4 invoices";

#[test]
fn slow_run_shows_progress_and_clears_it() {
    let shown = in_a_terminal(slow_shop().reconcile(), &[]);
    assert!(shown.contains(PROGRESS), "{shown}");
    let (_, after) = shown.rsplit_once(PROGRESS).unwrap();
    let (progress, report) = after.rsplit_once('\u{1b}').unwrap();
    assert!(!progress.contains("checked"), "{shown}");
    assert!(
        report.contains("4 checked"),
        "the progress line must be cleared first: {shown}"
    );
}

#[test]
fn progress_and_messages_do_not_mix() {
    for environment in [&[][..], &[("NO_COLOR", "1")]] {
        let shop = slow_shop();
        shop.btcpay
            .fails_times(1, "btc-c", Fault::Answer(503, "", String::new()));
        let shown = in_a_terminal(shop.reconcile().flag("-vv"), environment);
        let mut both = 0;
        for line in shown.lines() {
            let progress_and_message = line
                .split_once(PROGRESS)
                .and_then(|(_, after)| after.split_once("debug:"));
            if let Some((between, _)) = progress_and_message {
                assert!(between.contains("\u{1b}[2K"), "{shown:?}");
                both += 1;
            }
        }
        assert!(both > 0, "{shown:?}");
    }
}

#[test]
fn dumb_terminals_and_pipes_get_no_progress() {
    let shown = in_a_terminal(slow_shop().reconcile(), &[("TERM", "dumb")]);
    assert!(!shown.contains(PROGRESS), "{shown}");
    slow_shop().reconcile().exits(0).says_nothing();
}

#[test]
fn ctrl_c_stops_run_and_keeps_changes() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("b").made();
    shop.btcpay.fails("btc-b", Fault::Hang);
    let (requested, request_received) = mpsc::channel();
    shop.btcpay
        .when_asked_for("btc-b", move || requested.send(()).unwrap());
    let run = shop.reconcile();
    // Tests started in the background inherit SIGINT as ignored.
    let mut with_ctrl_c = run.beside("env");
    let run = run.command();
    let mut child = with_ctrl_c
        .arg("--default-signal=INT")
        .arg(run.get_program())
        .args(run.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    request_received.recv().unwrap();
    let mut interrupt = Command::new("sh");
    interrupt.args(["-c", &format!("kill -INT {}", child.id())]);
    Ran::of(interrupt, 0);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the signal kills it");
    let said = BufReader::new(child.stderr.take().unwrap()).lines().next();
    assert!(said.is_none(), "{said:?}");
    assert_eq!(shop.state("b"), "pending");
    let mut printed = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    // It may have been looked up before the other, or not.
    let settled = shop.state("a") == "settled, licensed";
    assert_eq!(printed.contains("invoice a "), settled, "{printed}");
    assert!(printed.contains("; stopped by SIGINT, "), "{printed}");
}
