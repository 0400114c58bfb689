//! The program is killed at random moments.

use std::collections::HashSet;
use std::fs::{self, File};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::btcpay::Fault;
use crate::mixed::soak;
use crate::shop::Shop;

/// The number of runs to kill: 600 with `RECONCILE_SOAK=40`.
const KILLS: usize = 15;

/// How many changes the last transaction before a kill may have written without telling: a page of
/// the list.
const LAST_TRANSACTION: usize = 500;

#[test]
fn killed_run_breaks_no_promise() {
    let mut left = KILLS * soak();
    for round in 0.. {
        if left == 0 {
            break;
        }
        // Alternate between one transaction per page and one per invoice, between both journal
        // modes, and between both database schemas.
        let (count, journal, open) = [
            (1_200, "wal", Shop::open as fn() -> Shop),
            (240, "wal", Shop::of_keysat),
            (1_200, "delete", Shop::open),
            (240, "wal", Shop::open),
            (1_200, "wal", Shop::of_keysat),
            (240, "delete", Shop::open),
        ][round % 6];
        let shop = open();
        shop.sql(&format!("PRAGMA journal_mode = {journal}"));
        shop.mixed_backlog(count);
        if count == 240 {
            shop.btcpay
                .fails("list", Fault::Answer(500, "", String::new()));
        }
        left = kill_until_done(&shop, count, left);
        shop.reconcile().flag("--recheck").exits(0);
        assert_eq!(shop.broken_promises(), "");
        assert_eq!(shop.incomplete_licenses(), "");
        assert_eq!(shop.kinds(), shop.reconciled());
    }
}

/// Kills one run after another until one finishes; the operator works during the first. Returns the
/// number of kills left.
fn kill_until_done(shop: &Shop, count: i64, mut kills: usize) -> usize {
    let whole_run = {
        let before = Instant::now();
        shop.reconcile().flag("-n").exits(0);
        before.elapsed()
    };
    let mut operate = Some(|| shop.operate(count));
    while kills > 0 {
        let audited_before = audited(shop);
        let run = shop.reconcile().flag("-q");
        let run = if fastrand::bool() {
            run.flag("--recheck")
        } else {
            run
        };
        let mut child = run
            .command()
            .stdout(File::create(shop.path("told")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if let Some(operate) = operate.take() {
            operate();
        }
        thread::sleep(whole_run.mul_f64(1.5 * fastrand::f64()) + Duration::from_micros(1));
        child.kill().unwrap();
        let finished = child.wait().unwrap().code().is_some();
        assert_eq!(shop.broken_promises(), "", "{kills} kills left");
        tells_what_it_wrote(shop, &audited_before);
        if finished {
            break;
        }
        kills -= 1;
    }
    kills
}

/// The invoices whose status a run has changed, as `audit_log` has it.
fn audited(shop: &Shop) -> HashSet<String> {
    shop.query("SELECT target_id FROM audit_log WHERE target_kind = 'invoice' AND actor_kind = 'reconcile'")
        .lines()
        .map(String::from)
        .collect()
}

/// Checks what the killed run told of changed statuses against `audit_log`.
fn tells_what_it_wrote(shop: &Shop, audited_before: &HashSet<String>) {
    let stdout = fs::read_to_string(shop.path("told")).unwrap();
    let told: HashSet<String> = stdout
        .lines()
        .filter(|line| line.contains("): pending -> "))
        .filter_map(|line| line.strip_prefix("invoice ")?.split(' ').next())
        .map(String::from)
        .collect();
    let audited = audited(shop);
    assert!(told.is_subset(&audited));
    let silent = audited
        .difference(audited_before)
        .filter(|id| !told.contains(*id));
    assert!(silent.count() <= LAST_TRANSACTION);
}
