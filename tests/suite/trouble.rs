//! BTCPay Server is slow, down or busy: retries, waiting times, and when a run stops.

use std::time::SystemTime;

use serde_json::json;

use crate::btcpay::{Fault, KEY};
use crate::program::line_matches;
use crate::shop::{STOPPED, Shop, at_once};

pub fn answer(status: u16) -> Fault {
    Fault::Answer(status, "", String::new())
}

/// How often single invoices were looked up since the last call.
fn lookups(shop: &Shop) -> usize {
    let requests = shop.btcpay.requests();
    requests
        .iter()
        .filter(|path| path.contains("/btc-"))
        .count()
}

#[test]
fn transient_errors_are_tried_three_times() {
    let faults = [
        answer(429),
        answer(500),
        answer(520),
        answer(502),
        answer(503),
        answer(504),
        Fault::Reset,
        Fault::HalfABody,
    ];
    at_once(faults, |fault| {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay.fails_times(2, "btc-a", fault.clone());
        shop.reconcile().exits(0).warns("");
        assert_eq!(lookups(&shop), 3);
        assert_eq!(shop.state("a"), "settled, licensed");

        shop.sale("b").made();
        shop.btcpay.fails("btc-b", fault);
        let report = shop.reconcile().json(3);
        assert_eq!(lookups(&shop), 3);
        assert_eq!(
            report["requests"], 4,
            "the list shows that the server answers"
        );
        assert_eq!(shop.state("b"), "pending");
    });
}

#[test]
fn permanent_errors_are_not_retried() {
    for status in [204, 302, 400, 401, 403, 404, 422] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.sale("b").made();
        shop.btcpay.fails("btc-a", answer(status));
        shop.reconcile().exits(3);
        let requests = shop.btcpay.requests();
        let single = requests.iter().filter(|path| path.ends_with("btc-a"));
        assert_eq!(single.count(), 1, "{status}");
    }
    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay.revoke(KEY);
    shop.reconcile().exits(1);
    assert_eq!(shop.btcpay.requests().len(), 1);
}

#[test]
fn retry_after_accepts_seconds_and_dates() {
    let past = "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
    for headers in ["Retry-After: 0\r\n", past, "Retry-After: a while\r\n"] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay
            .fails_times(1, "btc-a", Fault::Answer(503, headers, String::new()));
        shop.reconcile().exits(0).warns("");
        assert_eq!(lookups(&shop), 2);
    }
    // Nobody waits if the wait would end too late: the invoice fails, and the others are looked up.
    for (headers, deadline) in [
        ("Retry-After: 20\r\n", "10"),
        ("Retry-After: 86400\r\n", "50"),
        ("Retry-After: Fri, 21 Oct 2095 07:28:00 GMT\r\n", "50"),
        ("Retry-After: 601\r\n", "0"),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.sale("b").made();
        shop.btcpay
            .fails("btc-a", Fault::Answer(429, headers, String::new()));
        shop.reconcile()
            .option("--deadline", deadline)
            .exits(3)
            .warns("error: invoice a [..]429[..]");
        assert_eq!(lookups(&shop), 2, "{headers}");
        assert_eq!(shop.state("b"), "settled, licensed");
    }
}

#[test]
fn run_that_would_have_to_wait_too_long_says_who_asked_for_it() {
    for (headers, seconds, deadline) in [
        ("Retry-After: 120\r\n", 120, "50"),
        ("Retry-After: 3600\r\n", 3600, "0"),
    ] {
        for what in ["list", "single"] {
            let shop = Shop::open();
            shop.many_sales(30, |_| "Settled");
            let busy = Fault::Answer(429, headers, String::new());
            shop.btcpay.fails(
                "list",
                if what == "list" {
                    busy.clone()
                } else {
                    answer(422)
                },
            );
            for place in 0..30 {
                shop.btcpay.fails(&format!("btc-{place}"), busy.clone());
            }
            let report = shop.reconcile().option("--deadline", deadline).json(1);
            let error = report["error"].as_str().unwrap();
            let expected = format!(
                "BTCPay Server, or a proxy in front of it, asked to be left alone for {seconds} s, \
                 longer than this run waits: [..] invoices were not checked. The next run continues. \
                 Last error: [..] 429 [..]"
            );
            assert!(line_matches(&expected, error), "{error}");
        }
    }
}

#[test]
fn retry_after_delays_the_retry() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay.fails_times(
        1,
        "btc-a",
        Fault::Answer(503, "Retry-After: 1\r\n", String::new()),
    );
    let before = SystemTime::now();
    shop.reconcile().exits(0);
    assert!(
        before.elapsed().unwrap().as_secs() >= 1,
        "retried before the time in Retry-After"
    );
}

#[test]
fn run_gives_up_on_failing_server_with_one_message() {
    at_once(
        [
            answer(500),
            answer(502),
            answer(503),
            answer(520),
            answer(527),
            Fault::Reset,
        ],
        |fault| {
            let shop = Shop::open();
            shop.many_sales(30, |_| "Settled");
            shop.btcpay.fails("list", fault.clone());
            for place in 0..30 {
                shop.btcpay.fails(&format!("btc-{place}"), fault.clone());
            }
            let ran = shop.reconcile().exits(1).prints(STOPPED);
            assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
            assert_eq!(
                shop.btcpay.requests().len(),
                5,
                "expected the list, three invoices, and the list again"
            );
            assert_eq!(shop.statuses(), "30 pending");
        },
    );
}

#[test]
fn run_stops_at_deadline_and_counts_the_rest() {
    let shop = Shop::open();
    shop.many_sales(1200, |_| "Settled");
    shop.btcpay.fails("later page", Fault::Hang);
    for place in 0..1200 {
        shop.btcpay.fails(&format!("btc-{place}"), Fault::Hang);
    }
    let report = shop.reconcile().option("--deadline", "3").json(1);
    let checked = report["checked"].as_u64().unwrap();
    assert!((100..1200).contains(&checked), "{checked}");
    assert_eq!(report["not_asked"], 1200 - checked);
    assert_eq!(report["changes"].as_array().unwrap().len() as u64, checked);
    let statuses = format!("{} pending, {checked} settled", 1200 - checked);
    assert_eq!(shop.statuses(), statuses);

    shop.btcpay.works_again();
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), "1200 settled");
}

#[test]
fn run_stops_at_deadline_if_server_hangs() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("b").made();
    shop.btcpay.fails("btc-a", Fault::Hang);
    shop.btcpay.fails("btc-b", Fault::Hang);
    let report = shop.reconcile().option("--deadline", "1").json(1);
    assert_eq!(report["checked"], 0);
    assert_eq!(report["not_asked"], 2);
    assert_eq!(report["requests"], 1);
    shop.reconcile()
        .option("--deadline", "1")
        .exits(1)
        .prints(STOPPED)
        .warns("error: deadline reached: 2 invoices were not checked. The next run continues; raise --deadline if this repeats. Last error: no response from BTCPay Server at [..]: [..]");
}

#[test]
fn slow_list_leaves_time_for_single_requests() {
    let shop = Shop::open();
    shop.many_sales(12, |_| "Settled");
    shop.btcpay.fails("list", Fault::Hang);
    let report = shop.reconcile().option("--deadline", "6").json(0);
    assert_eq!(report["checked"], 12);
    assert_eq!(shop.statuses(), "12 settled");
}

#[test]
fn answers_before_the_server_died_are_kept() {
    let shop = Shop::open();
    shop.many_sales(1200, |_| "Settled");
    shop.btcpay
        .when_asked_for("later page", shop.btcpay.death());
    let report = shop.reconcile().json(1);
    assert_eq!(report["failures"], json!([]));
    let changes = report["changes"].as_array().unwrap().len();
    assert!((100..1200).contains(&changes), "{changes}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("BTCPay Server"), "{error}");
    let statuses = format!("{} pending, {changes} settled", 1200 - changes);
    assert_eq!(shop.statuses(), statuses);
}

#[test]
fn plain_http_needs_no_certificates() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.reconcile()
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .exits(0)
        .warns("");
}

#[test]
fn run_without_candidates_opens_no_connection() {
    let shop = Shop::open();
    shop.sale("done").here("settled").licensed().made();
    // Setting up TLS would fail here.
    let unreachable = |run: crate::program::Run| {
        run.option("--btcpay-url", "https://127.0.0.1:1")
            .env("SSL_CERT_FILE", "/nonexistent")
            .env("SSL_CERT_DIR", "/nonexistent")
    };
    unreachable(shop.reconcile()).exits(0).says_nothing();
    shop.sale("a").made();
    unreachable(shop.reconcile()).exits(1);
}
