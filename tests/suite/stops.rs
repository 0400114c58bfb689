//! A run that is stopped, or whose output or database goes away, tells what it did.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::Value;

use crate::btcpay::{Fault, KEY};
use crate::network::{listen, read_head};
use crate::program::{Run, full_disk, line_matches};
use crate::shop::Shop;

/// A shop whose BTCPay Server answers the first page of the list and then hangs.
fn shop_that_hangs_later() -> Shop {
    let shop = Shop::open();
    shop.many_sales(1_200, |_| "Settled");
    shop.btcpay.fails("later page", Fault::Hang);
    for place in 0..1_200 {
        shop.btcpay.fails(&format!("btc-{place}"), Fault::Hang);
    }
    shop
}

pub fn start(run: Run) -> Child {
    let mut command = run.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// The ids of the invoices that lines such as `invoice 7 (…): pending -> settled` tell of.
fn told(stdout: &str) -> BTreeSet<String> {
    stdout
        .lines()
        .filter_map(|line| line.strip_prefix("invoice "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

fn settled(shop: &Shop) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let connection = shop.connection();
    let mut query = connection
        .prepare("SELECT id FROM invoices WHERE status = 'settled'")
        .unwrap();
    let mut rows = query.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        ids.insert(row.get(0).unwrap());
    }
    ids
}

/// Waits for the first line of the report, signals, and returns the signal of which the run died
/// and all that it said.
pub fn stopped_by(name: &str, shop: &Shop) -> (Option<i32>, String, String) {
    let mut child = start(shop.reconcile());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    signal(&child, name);
    stdout.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.signal(), said, stderr)
}

#[test]
fn signalled_run_tells_all_that_it_wrote() {
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        let shop = shop_that_hangs_later();
        let (died_of, stdout, stderr) = stopped_by(name, &shop);
        assert_eq!(died_of, Some(number), "{stdout}{stderr}");
        assert_eq!(told(&stdout), settled(&shop));
        let end = format!("[..]; stopped by SIG{name}, [..] not checked");
        assert!(
            line_matches(&end, stdout.lines().last().unwrap()),
            "{stdout}"
        );
        assert_eq!(stderr, "");
    }
}

#[test]
fn signalled_run_ends_its_json() {
    let shop = shop_that_hangs_later();
    let (asked, reached) = mpsc::channel();
    shop.btcpay
        .when_asked_for("later page", move || asked.send(()).unwrap());
    let mut child = start(shop.reconcile().option("--format", "json"));
    reached.recv().unwrap();
    signal(&child, "TERM");
    let mut stdout = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut stdout)
        .unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(
        report["error"].as_str().unwrap().contains("SIGTERM"),
        "{report}"
    );
    assert_eq!(
        report["changes"].as_array().unwrap().len(),
        settled(&shop).len()
    );
}

/// A run that waits for its API key until it has got these signals; and what it said then.
fn signalled_before_it_began(
    run: Run,
    shop: &Shop,
    names: &[&str],
) -> (Option<i32>, String, String) {
    let pipe = shop.path("key");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let child = start(run.option("--api-key-file", pipe.to_str().unwrap()));
    // Opens once the run reads.
    let mut key = OpenOptions::new().write(true).open(&pipe).unwrap();
    for name in names {
        signal(&child, name);
    }
    key.write_all(KEY.as_bytes()).unwrap();
    drop(key);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let died_of = output.status.signal();
    (died_of, text(output.stdout), text(output.stderr))
}

#[test]
fn signals_that_come_together_are_told() {
    let shop = Shop::open();
    shop.sale("a").made();
    let names = ["TERM", "TERM", "TERM"];
    let (died_of, stdout, stderr) = signalled_before_it_began(shop.reconcile(), &shop, &names);
    assert_eq!(died_of, Some(15), "{stderr}");
    assert!(stdout.contains("; stopped by SIGTERM"), "{stdout}{stderr}");
    assert_eq!(shop.statuses(), "1 pending");
}

#[test]
fn signal_hides_no_other_error() {
    let shop = Shop::open();
    let run = shop
        .reconcile()
        .option("--database", "/nowhere/licenses.db");
    let (died_of, stdout, stderr) = signalled_before_it_began(run, &shop, &["TERM"]);
    assert_eq!(died_of, Some(15));
    assert_eq!(stdout, "");
    assert!(stderr.starts_with("error: no database at "), "{stderr}");
}

#[test]
fn signal_is_not_blamed_on_another_program() {
    let shop = Shop::open();
    shop.sale("a").made();
    let service = shop.connection();
    service.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let run = shop.reconcile().option("--format", "json");
    let (died_of, stdout, _) = signalled_before_it_began(run, &shop, &["TERM"]);
    assert_eq!(died_of, Some(15));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let error = report["error"].as_str().unwrap();
    assert!(
        error.starts_with("stopped by SIGTERM: could not "),
        "{error}"
    );
}

/// Another program takes the write lock during the next request for `what`, and keeps it until the
/// receiver is dropped.
fn locked_when_asked_for(what: &str, shop: &Shop) -> mpsc::Receiver<rusqlite::Connection> {
    let (keep, kept) = mpsc::channel();
    let service = shop.connection();
    shop.btcpay.when_asked_for(what, move || {
        service.execute_batch("BEGIN IMMEDIATE").unwrap();
        keep.send(service).unwrap();
    });
    kept
}

#[test]
fn only_what_is_done_counts_as_checked() {
    let shop = Shop::open();
    shop.many_sales(60, |_| "Settled");
    let _locked = locked_when_asked_for("list", &shop);
    let report = shop.reconcile().option("--deadline", "1").json(1);
    assert_eq!(report["checked"], 0, "{report}");
    assert_eq!(report["not_asked"], 60);
    let error = report["error"].as_str().unwrap();
    assert!(error.starts_with("deadline reached: "), "{error}");
}

#[test]
fn deadline_is_no_failure_while_an_older_invoice_is_written() {
    let shop = Shop::open();
    let days_ago = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-5 days')";
    shop.sale("old").created(days_ago).made();
    let locked = locked_when_asked_for("btc-old", &shop);
    let recheck = || shop.reconcile().flag("--recheck");
    let report = recheck().option("--deadline", "1").json(0);
    assert_eq!(report["checked"], 0, "{report}");
    drop(locked);
    recheck().exits(0);
    assert_eq!(shop.statuses(), "1 settled");
}

#[test]
fn deadline_ends_a_listing_that_takes_minutes() {
    let shop = Shop::open();
    shop.sql(
        "ALTER TABLE invoices RENAME TO some_invoices;
         CREATE VIEW invoices AS
             WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n LIMIT 500000000)
             SELECT some_invoices.* FROM n CROSS JOIN some_invoices;
         CREATE TRIGGER update_of_the_view INSTEAD OF UPDATE ON invoices BEGIN SELECT 1; END",
    );
    let report = shop.reconcile().option("--deadline", "1").json(1);
    let error = report["error"].as_str().unwrap();
    assert!(
        line_matches(
            "deadline reached: could not list the invoices of [..] in time. [..]",
            error
        ),
        "{error}"
    );
}

#[test]
fn killed_run_told_of_nothing_that_is_not_there() {
    let shop = shop_that_hangs_later();
    let (died_of, stdout, _) = stopped_by("KILL", &shop);
    assert_eq!(died_of, Some(9));
    let told = told(&stdout);
    assert!(!told.is_empty());
    assert!(told.is_subset(&settled(&shop)));
    let without_a_trace = "SELECT count(*) FROM invoices WHERE status = 'settled'
                              AND id NOT IN (SELECT target_id FROM audit_log WHERE target_kind = 'invoice')";
    assert_eq!(shop.query(without_a_trace), "0");
}

#[test]
fn reader_of_a_rollback_journal_locks_nobody_out() {
    let shop = Shop::open();
    shop.sql("PRAGMA journal_mode = delete");
    shop.sale("a").there("Settled").made();
    let reader = shop.connection();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM invoices;")
        .unwrap();
    let mut statement = reader.prepare("SELECT id FROM invoices").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap();

    let child = start(shop.reconcile());
    let service = shop.connection();
    let held = || {
        service.busy_timeout(Duration::ZERO).unwrap();
        let free = service.execute_batch("BEGIN IMMEDIATE; ROLLBACK;").is_ok();
        service.busy_timeout(Duration::from_secs(5)).unwrap();
        !free
    };
    for _ in 0..2 {
        while !held() {}
        service
            .query_row("SELECT count(*) FROM invoices", [], |_| Ok(()))
            .expect("the service may read while a commit waits");
        while held() {}
    }
    drop(rows);
    drop(statement);
    reader.execute_batch("COMMIT").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(shop.statuses(), "1 settled");
    assert_eq!(shop.broken_promises(), "");
}

#[test]
fn change_in_a_replaced_database_is_not_told() {
    for journal in ["wal", "delete"] {
        let shop = Shop::open();
        shop.sql(&format!("PRAGMA journal_mode = {journal}"));
        shop.sale("a").there("Settled").made();
        let (database, backup) = (shop.database(), shop.path("backup.db"));
        shop.connection()
            .execute("VACUUM INTO ?1", [backup.to_str()])
            .unwrap();
        shop.btcpay
            .when_asked_for("btc-a", move || fs::rename(backup, database).unwrap());
        let report = shop.reconcile().json(1);
        assert_eq!(report["changes"], serde_json::json!([]));
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("replaced"), "{error}");
    }
}

#[test]
fn failed_write_ends_what_is_being_asked() {
    let shop = Shop::open();
    let backup = shop.path("backup.db");
    let ids = ["a", "b", "c"];
    for id in ids {
        shop.sale(id).made();
    }
    shop.connection()
        .execute("VACUUM INTO ?1", [backup.to_str()])
        .unwrap();
    // The first one asked about cannot be written; the second gets no answer before the run is over.
    let asked = Arc::new(AtomicUsize::new(0));
    let running = ids.map(|id| {
        let (asked, database, backup) = (Arc::clone(&asked), shop.database(), backup.clone());
        let (running, is_over) = mpsc::channel::<()>();
        shop.btcpay.when_asked_for(&format!("btc-{id}"), move || {
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => fs::rename(backup, database).unwrap(),
                1 => drop(is_over.recv()),
                _ => {}
            }
        });
        running
    });
    let report = shop.reconcile().option("--deadline", "0").json(1);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("replaced"), "{error}");
    assert!(report["requests"].as_u64() <= Some(2), "{report}");
    drop(running);
}

#[test]
fn full_disk_for_the_log_does_not_stop_the_work() {
    let shop = Shop::open();
    shop.sale("a").there("Settled").made();
    shop.sale("b")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    let mut command = shop.reconcile().command();
    let ran = command.stdout(full_disk()).output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert_eq!(shop.query("SELECT count(*) FROM licenses"), "1");

    let mut command = shop.reconcile().flag("--recheck").command();
    let ran = command.stderr(full_disk()).output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
}

#[test]
fn closed_pipe_is_no_error() {
    let shop = Shop::open();
    shop.sale("a").there("Settled").made();
    let mut child = start(shop.reconcile());
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(shop.statuses(), "1 settled");
}

#[test]
fn broken_answer_is_described() {
    let cases = [
        (
            "Server: tollgate\r\n",
            "<!doctype html><p>Log in",
            "web page",
        ),
        ("", "good morning", "good morning"),
    ];
    for (headers, body, words) in cases {
        let shop = Shop::open();
        shop.sale("a").there("Settled").made();
        shop.btcpay
            .fails("btc-a", Fault::Answer(200, headers, body.into()));
        let ran = shop.reconcile().exits(3);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        assert_eq!(shop.statuses(), "1 pending");
    }
}

#[test]
fn compressed_answer_that_nobody_asked_for_is_named() {
    let shop = Shop::open();
    shop.sale("a").there("Settled").made();
    let proxy = listen(|mut stream| {
        while read_head(&mut stream).is_some() {
            let head =
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n";
            stream
                .write_all(&[head, &b"\x1f\x8b\x08\x00"[..]].concat())
                .unwrap();
        }
    });
    let ran = shop
        .reconcile()
        .option("--btcpay-url", &format!("http://{proxy}"))
        .exits(3);
    assert!(ran.stderr.contains("gzip"), "{}", ran.stderr);
}

#[test]
fn byte_order_mark_and_many_headers_do_no_harm() {
    let headers: &str = "X-Header: 1\r\n".repeat(150).leak();
    let shop = Shop::open();
    shop.sale("a").there("Settled").made();
    shop.sale("b").there("Settled").made();
    shop.btcpay
        .fails("btc-a", Fault::Twisted(|body| format!("\u{feff}{body}")));
    shop.btcpay
        .fails_times(1, "btc-b", Fault::Answer(429, headers, String::new()));
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), "2 settled");
}

#[test]
fn many_licenses_by_hand_do_not_use_up_the_deadline() {
    let shop = Shop::open();
    shop.sql(&format!(
        "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 60000)
         INSERT INTO licenses (id, product_id, status, issued_at)
         SELECT 'by hand ' || n, 'pro', 'active', datetime() FROM n;
         WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 3000)
         INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, amount_sats, checkout_url, created_at, updated_at)
         SELECT n, 'free-' || n, 'pro', 'settled', 0, '', {0}, {0} FROM n",
        "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-1 hour')"
    ));
    for index in shop
        .query("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        .lines()
    {
        shop.sql(&format!("DROP INDEX {index}"));
    }
    // Seconds without the indexes, not a minute.
    shop.reconcile()
        .option("--deadline", "20")
        .flag("-q")
        .exits(0);
    assert_eq!(shop.statuses(), "3000 settled");
    assert_eq!(shop.query("SELECT count(invoice_id) FROM licenses"), "3000");
}
