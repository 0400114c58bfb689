//! The program dies at any moment.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::btcpay::Fault;
use crate::mixed::soak;
use crate::shop::Shop;

/// How many runs are killed: 1,000 with `RECONCILE_SOAK=40`.
const KILLS: usize = 25;

#[test]
fn whenever_it_is_killed_no_promise_is_broken() {
    let mut left = KILLS * soak();
    for round in 0.. {
        if left == 0 {
            break;
        }
        // By turns a transaction for each page and for each invoice, both ways to keep a journal, and
        // both shapes of database.
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
        left = kill_until_done(&shop, left);
        shop.reconcile().exits(0);
        assert_eq!(shop.broken_promises(), "");
        assert_eq!(shop.kinds(), shop.reconciled());
    }
}

/// Kills one run after the other until one ends by itself; gives the kills that are left.
fn kill_until_done(shop: &Shop, mut kills: usize) -> usize {
    let whole_run = {
        let before = Instant::now();
        shop.reconcile().flag("-n").exits(0);
        before.elapsed()
    };
    while kills > 0 {
        let mut child = shop
            .reconcile()
            .flag("-q")
            .command()
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(whole_run.mul_f64(1.5 * fastrand::f64()) + Duration::from_micros(1));
        child.kill().unwrap();
        let ended_by_itself = child.wait().unwrap().code().is_some();
        assert_eq!(shop.broken_promises(), "", "{kills} kills before the end");
        if ended_by_itself {
            break;
        }
        kills -= 1;
    }
    kills
}
