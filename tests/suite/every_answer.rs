//! Every invoice gets its answer, no matter what the others do, and a run reports once what stands in
//! the way.

use std::collections::{HashMap, HashSet};
use std::time::Duration;
use std::{env, iter};

use serde_json::{Value, json};

use crate::btcpay::{Fault, Invoice, Version};
use crate::program::Run;
use crate::shop::{SHOPS, STOPPED, Shop, at_once};

const ALL_SETTLED: fn(i64) -> &'static str = |_| "Settled";

/// How BTCPay Server, or a proxy in front of it, says that it is down.
const DOWN: [u16; 13] = [
    429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527,
];

fn answer(status: u16) -> Fault {
    Fault::Answer(status, "", String::new())
}

fn later(status: u16) -> Fault {
    Fault::Answer(status, "Retry-After: 3600\r\n", String::new())
}

impl Shop {
    /// The list refuses each request, which shows that the server is alive.
    fn has_no_list(&self) {
        self.btcpay.fails("list", answer(422));
    }

    /// BTCPay Server answers every request for the list and for the sales `0`, `1`, … like this.
    fn is_all(&self, count: i64, fault: &Fault) {
        self.btcpay.fails("list", fault.clone());
        self.sales_are(0..count, fault);
    }

    fn sales_are(&self, places: impl IntoIterator<Item = i64>, fault: &Fault) {
        for place in places {
            self.btcpay.fails(&format!("btc-{place}"), fault.clone());
        }
    }

    /// Everything in BTCPay belongs to another store that the API key may see as well.
    fn names_another_store(&self) {
        self.btcpay.later(|invoices| {
            for invoice in invoices {
                invoice.store_id = "another".into();
            }
        })();
    }

    fn is_gone(&self, id: &str) {
        self.btcpay.change(&format!("btc-{id}"), |invoice| {
            invoice.store_id = "another".into();
        });
    }

    /// The minutes of cron until nothing is pending except `stuck` invoices; at most this many.
    fn minutes_until_settled(
        &self,
        stuck: &str,
        most: usize,
        run: impl Fn() -> Run,
        mut check: impl FnMut(&Value),
    ) -> usize {
        let pending = format!(
            "SELECT count(*) FROM invoices WHERE status <> 'settled' AND id NOT IN ({stuck})"
        );
        for minute in 1..=most {
            check(&any_exit(run()));
            if self.query(&pending) == "0" {
                return minute;
            }
        }
        panic!("{} left after {most} minutes", self.query(&pending));
    }
}

/// The JSON object of a run that may exit with any code.
fn any_exit(run: Run) -> Value {
    let output = run.option("--format", "json").command().output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The number of requests for this invoice, or for the `list`.
fn asked(requests: &[String], what: &str) -> usize {
    let is_asked = |path: &&String| match what {
        "list" => path.contains("/invoices?"),
        id => path.ends_with(&format!("/{id}")),
    };
    requests.iter().filter(is_asked).count()
}

fn count(list: &Value) -> i64 {
    list.as_array().unwrap().len().try_into().unwrap()
}

// One bad invoice does not starve the others.

#[test]
fn oldest_invoices_without_answer_delay_no_other() {
    let faults = [Fault::Reset, answer(503), answer(500), answer(522)];
    let cases = faults
        .into_iter()
        .flat_map(|fault| [(fault.clone(), 8), (fault, 30)]);
    at_once(cases, |(fault, sales)| {
        let shop = Shop::open();
        shop.many_sales(sales, ALL_SETTLED);
        shop.has_no_list();
        let oldest = sales - 3..sales;
        shop.sales_are(oldest.clone(), &fault);
        let before = shop.everything();
        let dry = shop.reconcile().flag("-n").json(3);
        assert_eq!(shop.everything(), before);
        let report = shop.reconcile().json(3);
        for report in [&dry, &report] {
            assert_eq!(count(&report["changes"]), oldest.start, "{report}");
            let failures = report["failures"].as_array().unwrap();
            let mut failed: Vec<_> = failures.iter().map(|one| &one["invoice_id"]).collect();
            failed.sort_by_key(|id| id.as_str());
            let mut expected: Vec<_> = oldest.clone().map(|id| json!(id.to_string())).collect();
            expected.sort_by_key(|id| id.as_str().map(String::from));
            assert_eq!(failed, expected.iter().collect::<Vec<_>>());
            assert_eq!(report["checked"], sales);
        }
        assert_eq!(
            shop.statuses(),
            format!("3 pending, {} settled", oldest.start)
        );
        let again = shop.reconcile().json(3);
        assert_eq!(again["changes"], json!([]));
        shop.btcpay.works_again();
        shop.reconcile().exits(0);
        assert_eq!(shop.statuses(), format!("{sales} settled"));
    });
}

#[test]
fn unanswered_invoice_is_asked_again_after_all_others() {
    for fault in [
        answer(500),
        Fault::Reset,
        Fault::Answer(503, "Retry-After: 1\r\n", String::new()),
    ] {
        let shop = Shop::open();
        shop.many_sales(10, ALL_SETTLED);
        shop.btcpay.fails_times(1, "btc-9", fault);
        shop.reconcile().exits(0).warns("");
        let requests = shop.btcpay.requests();
        assert_eq!(requests.len(), 11, "{requests:?}");
        assert!(requests[10].ends_with("/btc-9"), "{requests:?}");
        assert_eq!(shop.statuses(), "10 settled");
    }
}

/// What takes seconds, all at once.
#[test]
fn slow_answers_get_a_share_of_the_deadline() {
    let cases: [fn(); 5] = [
        || hanging_invoices_leave_time_for_others(1, "6"),
        || hanging_invoices_leave_time_for_others(2, "8"),
        || late_answer_is_awaited("6", 1_500),
        || late_answer_is_awaited("30", 3_500),
        || request_ends_after_a_fifth_of_the_deadline("20"),
    ];
    at_once(cases, |case| case());
}

#[test]
#[ignore = "a busy machine can be too slow for its deadlines of one second"]
fn slow_store_starves_none() {
    let cases: [fn(); 2] = [slow_store_answers_by_id, slow_store_answers_by_pages];
    at_once(cases, |case| case());
}

fn hanging_invoices_leave_time_for_others(hanging: i64, deadline: &str) {
    at_once(["-n", "--recheck"], |option| {
        let shop = Shop::open();
        shop.many_sales(8, ALL_SETTLED);
        shop.sales_are(8 - hanging..8, &Fault::Hang);
        let run = shop.reconcile().option("--deadline", deadline).flag(option);
        let report = any_exit(run);
        let others = 8 - hanging;
        assert_eq!(count(&report["changes"]), others, "{report}");
        let settled = shop.query("SELECT count(*) FROM invoices WHERE status = 'settled'");
        let written = if option == "-n" { 0 } else { others };
        assert_eq!(settled, written.to_string());
    });
}

fn late_answer_is_awaited(deadline: &str, milliseconds: u64) {
    let shop = Shop::open();
    shop.sale("a").made();
    let late = Fault::Late(Duration::from_millis(milliseconds));
    shop.btcpay.fails("btc-a", late);
    shop.reconcile()
        .option("--deadline", deadline)
        .exits(0)
        .warns("");
    assert_eq!(asked(&shop.btcpay.requests(), "btc-a"), 1);
    assert_eq!(shop.state("a"), "settled, licensed");
}

fn request_ends_after_a_fifth_of_the_deadline(deadline: &str) {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("b").made();
    shop.btcpay.fails_times(1, "btc-a", Fault::Hang);
    shop.reconcile()
        .option("--deadline", deadline)
        .exits(0)
        .warns("");
    assert_eq!(asked(&shop.btcpay.requests(), "btc-a"), 2);
    assert_eq!(shop.statuses(), "2 settled");
}

fn slow_store_answers_by_id() {
    let shop = Shop::open();
    shop.many_sales(30, FEW_SETTLED);
    shop.has_no_list();
    shop.sales_are(0..30, &Fault::Late(Duration::from_millis(50)));
    every_minute_some_are_answered(&shop);
}

fn slow_store_answers_by_pages() {
    let shop = Shop::open();
    shop.many_sales(800, FEW_SETTLED);
    shop.is_all(800, &Fault::Late(Duration::from_millis(400)));
    every_minute_some_are_answered(&shop);
}

/// Most invoices stay open, so that they are looked up by every run.
const FEW_SETTLED: fn(i64) -> &'static str = |place| if place % 7 == 3 { "Settled" } else { "New" };

fn every_minute_some_are_answered(shop: &Shop) {
    shop.sql("UPDATE invoices SET status = 'expired' WHERE CAST(id AS INTEGER) % 2");
    let open = "SELECT id FROM invoices WHERE CAST(id AS INTEGER) % 7 <> 3";
    let run = || shop.reconcile().flag("--recheck").option("--deadline", "1");
    shop.minutes_until_settled(open, 30, run, |report| {
        assert_eq!(report["failures"], json!([]));
    });
}

// Retry-After.

#[test]
fn retry_after_of_one_invoice_delays_only_that_one() {
    for open in SHOPS {
        let shop = open();
        shop.many_sales(8, ALL_SETTLED);
        shop.btcpay.fails("btc-7", later(429));
        let ran = shop
            .reconcile()
            .exits(3)
            .warns("error: invoice 7 [..]429[..]");
        assert!(
            ran.stdout.contains("8 checked, 7 changed, 1 failed"),
            "{}",
            ran.stdout
        );
        assert_eq!(asked(&shop.btcpay.requests(), "btc-7"), 1);
        assert_eq!(shop.statuses(), "1 pending, 7 settled");
    }
}

#[test]
fn retry_after_of_three_invoices_delays_all() {
    let shop = Shop::open();
    shop.many_sales(8, ALL_SETTLED);
    shop.sales_are(0..8, &later(503));
    let report = shop.reconcile().json(1);
    assert_eq!(shop.btcpay.requests().len(), 3);
    assert_eq!(report["not_asked"], 5);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("503"), "{error}");
    assert_eq!(shop.statuses(), "8 pending");
}

#[test]
fn retry_after_of_the_list_delays_all() {
    let shop = Shop::open();
    shop.many_sales(30, ALL_SETTLED);
    shop.btcpay.fails("list", later(503));
    for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
        let report = run.json(1);
        // A group of one is no list.
        let requests = shop.btcpay.requests();
        assert!(asked(&requests, "list") == 1 && requests.len() <= 2);
        assert!(report["not_asked"].as_u64().unwrap() >= 29, "{report}");
        assert_eq!(report["failures"], json!([]));
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("503"), "{error}");
    }
    let soon = Fault::Answer(503, "Retry-After: 1\r\n", String::new());
    shop.btcpay.fails_times(1, "list", soon);
    shop.reconcile().exits(0).warns("");
    assert_eq!(shop.statuses(), "30 settled");
}

#[test]
fn proxy_with_a_rate_limit_is_no_obstacle() {
    let shop = Shop::open();
    shop.many_sales(64, ALL_SETTLED);
    shop.btcpay.allows(30);
    shop.reconcile().flag("-n").exits(0).warns("");
    shop.reconcile().exits(0).warns("");
    assert_eq!(shop.statuses(), "64 settled");
    shop.reconcile().exits(0).says_nothing();

    // A service that sets no order ids, so that each invoice needs a request.
    at_once(SHOPS, |open| {
        let shop = open();
        shop.many_sales(64, ALL_SETTLED);
        shop.has_no_list();
        let run = || {
            shop.btcpay.allows(30);
            shop.reconcile()
        };
        shop.minutes_until_settled("", 22, run, |report| {
            assert_eq!(report["failures"], json!([]), "{report}");
            assert!(report["requests"].as_u64().unwrap() <= 34, "{report}");
        });
    });
}

// BTCPay Server is gone, or it is not.

#[test]
fn outage_is_one_message_whatever_its_status() {
    let cases = DOWN.map(|status| (answer(status), 30));
    let few = [1, 2, 4, 1_000].map(|sales| (answer(500), sales));
    at_once(cases.into_iter().chain(few), |(fault, sales)| {
        let shop = Shop::open();
        shop.many_sales(sales, ALL_SETTLED);
        shop.is_all(sales, &fault);
        let before = shop.everything();
        let ran = shop.reconcile().exits(1).prints(STOPPED);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        let requests = shop.btcpay.requests();
        let ids = requests.len() - asked(&requests, "list");
        assert!(ids <= 6, "{requests:?}");
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.json(1);
            assert_eq!(report["failures"], json!([]), "{report}");
            assert_eq!(report["not_asked"], sales);
        }
        assert!(shop.everything() == before);
        shop.btcpay.works_again();
        shop.reconcile().exits(0);
        assert_eq!(shop.statuses(), format!("{sales} settled"));
    });
}

#[test]
fn server_status_that_is_no_outage_is_asked_once() {
    for status in [501, 505, 519, 528, 530] {
        let shop = Shop::open();
        shop.many_sales(2, ALL_SETTLED);
        shop.btcpay.fails("btc-1", answer(status));
        shop.reconcile().exits(3);
        assert_eq!(asked(&shop.btcpay.requests(), "btc-1"), 1, "{status}");
        assert_eq!(shop.statuses(), "1 pending, 1 settled");
    }
}

#[test]
fn server_whose_list_answers_is_not_gone() {
    at_once([1, 2, 3, 5], |sales| {
        let shop = Shop::open();
        shop.many_sales(sales, ALL_SETTLED);
        shop.sales_are(0..sales, &Fault::Reset);
        let report = shop.reconcile().json(3);
        assert_eq!(count(&report["failures"]), sales, "{report}");
        assert_eq!(report["error"], Value::Null);
    });
}

#[test]
fn server_that_answers_between_failures_is_not_gone() {
    let shop = Shop::open();
    shop.many_sales(30, ALL_SETTLED);
    shop.btcpay.fails("list", answer(500));
    shop.sales_are([3, 4], &answer(500));
    let report = shop.reconcile().json(3);
    assert_eq!(count(&report["failures"]), 2, "{report}");
    assert_eq!(shop.statuses(), "2 pending, 28 settled");
}

#[test]
fn failures_of_one_kind_are_reported_once() {
    let shop = Shop::open();
    shop.many_sales(14, ALL_SETTLED);
    shop.has_no_list();
    shop.sales_are(0..12, &answer(400));
    shop.sales_are(12..13, &answer(418));
    for option in ["-n", "--recheck"] {
        let ran = shop.reconcile().flag(option).exits(3);
        let mut lines: Vec<&str> = ran.stderr.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let many = lines[0].strip_prefix("error: 12 invoices: ").unwrap();
        let (error, first) = many.split_once(" (first: ").unwrap();
        assert!(error.contains("400 Bad Request"), "{error}");
        let ids: Vec<u8> = first
            .trim_end_matches(')')
            .split(", ")
            .map(|id| id.parse().unwrap())
            .collect();
        assert!(ids.len() == 3 && ids.iter().all(|id| *id < 12), "{ids:?}");
        assert!(lines[1].starts_with("error: invoice 12 (BTCPay invoice btc-12): "));
    }
    let report = shop.reconcile().json(3);
    assert_eq!(count(&report["failures"]), 13);
    let ids = report["failures"].as_array().unwrap().iter();
    let ids: HashSet<_> = ids.map(|one| one["invoice_id"].to_string()).collect();
    assert_eq!(ids.len(), 13);
}

// One row with a time in the far future.

#[test]
fn row_of_the_year_9999_does_not_spoil_the_list() {
    let cases = [
        ("9999-12-31T23:59:59Z", "0"),
        ("9999-12-31 23:59:59", "600"),
        ("9999-12-31T23:59:59.123456789+00:00", "1199"),
    ];
    at_once(cases, |(time, place)| {
        let shop = Shop::open();
        shop.many_sales(1_200, |_| "Expired");
        shop.sql(&format!(
            "UPDATE invoices SET created_at = '{time}' WHERE id = '{place}'"
        ));
        let report = shop.reconcile().flag("-n").json(0);
        assert_eq!(count(&report["changes"]), 1_200);
        shop.btcpay.requests();
        let report = shop.reconcile().json(0);
        let requests = shop.btcpay.requests();
        let single = requests.len() - asked(&requests, "list");
        assert!(single <= 2 && requests.len() <= 24, "{requests:?}");
        assert_eq!(count(&report["changes"]), 1_200);
        assert_eq!(shop.statuses(), "1200 expired");
        shop.reconcile().exits(0).says_nothing();
    });
}

// A store that is not the invoices' own.

/// Sales that say nothing of which store they were paid in.
const NO_PROOF: [&str; 4] = [
    "SELECT 1",
    "INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, amount_sats, checkout_url, created_at, updated_at)
     VALUES ('free', 'free-1', 'pro', 'settled', 0, '', datetime(), datetime());
     INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
     VALUES ('gift', 'pro', 'free', 'active', datetime())",
    "INSERT INTO invoices (id, btcpay_invoice_id, product_id, status, amount_sats, checkout_url, created_at, updated_at)
     VALUES ('paid', 'btc-paid', 'pro', 'settled', 21000, '', datetime(), datetime());
     INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
     VALUES ('lic', 'pro', 'paid', 'active', datetime())",
    "INSERT INTO licenses (id, product_id, status, issued_at) VALUES ('by hand', 'pro', 'active', datetime())",
];

#[test]
fn wrong_store_is_one_message() {
    at_once(SHOPS, |open| {
        for version in [Version::UpTo2_3, Version::From2_4] {
            for (sales, proof) in [3, 30]
                .into_iter()
                .flat_map(|sales| NO_PROOF.map(|sql| (sales, sql)))
            {
                let shop = open();
                shop.btcpay.is_version(version);
                shop.many_sales(sales, ALL_SETTLED);
                shop.sql(proof);
                shop.names_another_store();
                let before = shop.everything();
                for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
                    let report = run.json(1);
                    for list in ["changes", "attention", "failures"] {
                        assert_eq!(report[list], json!([]), "{sales}, {proof}");
                    }
                }
                shop.reconcile().exits(1).warns(&format!(
                    "error: store [..] in BTCPay Server has none of the invoices that were looked up ({sales}), [..]--store-id[..]API key[..]"
                ));
                assert!(shop.everything() == before);
                let probes = asked(&shop.btcpay.requests(), "btc-paid");
                let expected = if proof.contains("btc-paid") { 3 } else { 0 };
                assert_eq!(probes, expected, "one in each run");
            }
        }
    });
}

#[test]
fn wrong_store_with_other_invoices_is_one_message() {
    let shop = Shop::open();
    shop.many_sales(30, ALL_SETTLED);
    shop.names_another_store();
    for place in 0..100 {
        let mut other = Invoice::new(&format!("web-{place}"), "Settled", "1");
        other.created = shop
            .query("SELECT max(unixepoch(created_at)) FROM invoices")
            .parse()
            .unwrap();
        shop.btcpay.add(other);
    }
    let report = shop.reconcile().json(1);
    assert_eq!(report["attention"], json!([]));
}

#[test]
fn invoices_in_another_store_are_not_believed_gone() {
    let paid: fn(&Shop) = |shop| {
        shop.sale("paid")
            .here("settled")
            .there("Settled")
            .licensed()
            .made();
    };
    for version in [Version::UpTo2_3, Version::From2_4] {
        for with_a_paid_sale in [paid, |_| {}] {
            let shop = Shop::open();
            shop.btcpay.is_version(version);
            shop.many_sales(30, |_| "Expired");
            with_a_paid_sale(&shop);
            for place in 0..30 {
                shop.btcpay.change(&format!("btc-{place}"), |invoice| {
                    invoice.store_id = "other".into();
                });
            }
            if shop.statuses().contains("settled") {
                shop.btcpay
                    .change("btc-paid", |invoice| invoice.store_id = "other".into());
            }
            let before = shop.everything();
            let ran = shop.reconcile().exits(1).prints(STOPPED);
            assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
            assert!(ran.stderr.contains("--store-id"), "{}", ran.stderr);
            assert_eq!(shop.everything(), before);
        }
    }
}

#[test]
fn newest_paid_sale_proves_the_store() {
    at_once(SHOPS, |open| {
        for sales in [3, 30] {
            let shop = open();
            shop.many_sales(sales, |_| "New");
            shop.names_another_store();
            let paid = |id, created| {
                let sale = shop.sale(id).here("settled").licensed();
                sale.created(created).made();
            };
            paid("paid", "datetime('now', '-200 days')");
            paid("older", "datetime('now', '-300 days')");
            let before = shop.everything();
            for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
                let report = run.json(0);
                assert_eq!(count(&report["attention"]), sales);
                assert_eq!(report["changes"], json!([]));
            }
            assert!(shop.everything() == before);
            let requests = shop.btcpay.requests();
            assert_eq!(asked(&requests, "btc-paid"), 2, "once in each run");
            assert_eq!(asked(&requests, "btc-older"), 0);
            shop.is_gone("paid");
            shop.reconcile().json(0);
            assert_eq!(asked(&shop.btcpay.requests(), "btc-older"), 1);
            shop.is_gone("older");
            shop.reconcile().json(1);
        }
    });
}

#[test]
fn paid_sale_without_an_answer_is_no_dead_end() {
    for fault in [answer(422), answer(500), Fault::Reset] {
        let shop = Shop::open();
        shop.many_sales(3, |_| "New");
        shop.names_another_store();
        let paid = |id, created| {
            let sale = shop.sale(id).here("settled").licensed();
            sale.created(created).made();
        };
        paid("older", "datetime('now', '-300 days')");
        paid("newer", "datetime('now', '-200 days')");
        shop.btcpay.fails("btc-newer", fault);
        let report = shop.reconcile().json(0);
        assert_eq!(count(&report["attention"]), 3);

        // If no other has one, nothing is known.
        shop.is_gone("older");
        let report = shop.reconcile().json(1);
        assert_eq!(report["attention"], json!([]));
        let error = report["error"].as_str().unwrap();
        assert!(!error.contains("--store-id"), "{error}");
    }
}

#[test]
fn invoices_closed_long_ago_are_no_dead_end_where_nothing_was_paid() {
    let recheck = |shop: &Shop| {
        let run = shop.reconcile().flag("--recheck");
        run.option("--max-age-hours", "8760")
    };
    for version in [Version::UpTo2_3, Version::From2_4] {
        let shop = Shop::open();
        shop.btcpay.is_version(version);
        for id in ["a", "b"] {
            let sale = shop.sale(id).here("expired").there("Expired");
            sale.created("datetime('now', '-200 days')").made();
            shop.is_gone(id);
        }
        let before = shop.everything();
        recheck(&shop)
            .exits(0)
            .prints("20[..] 2 checked, 2 not in this store; [..]")
            .warns("");
        assert!(shop.everything() == before);

        // BTCPay keeps this one.
        let sale = shop.sale("c").here("expired").there("Expired");
        sale.created("datetime('now', '-100 days')").made();
        recheck(&shop).exits(0).warns("");
        shop.is_gone("c");
        recheck(&shop)
            .exits(1)
            .warns("error: store [..] has none of the invoices that were looked up (3), [..]--store-id[..]");

        // This one says whose the store is.
        shop.sql("DELETE FROM invoices WHERE id = 'c'");
        let sale = shop.sale("paid").here("settled").licensed();
        sale.created("datetime('now', '-300 days')").made();
        shop.is_gone("paid");
        recheck(&shop).exits(1);
    }
}

#[test]
fn store_that_cannot_be_probed_is_not_believed() {
    let shop = Shop::open();
    shop.many_sales(3, |_| "New");
    shop.names_another_store();
    shop.sale("paid").here("settled").licensed().made();
    shop.btcpay.fails("btc-paid", answer(503));
    let report = shop.reconcile().json(1);
    assert_eq!(report["attention"], json!([]));
    assert!(report["error"].as_str().unwrap().contains("503"));
}

#[test]
fn unnamed_provider_among_several_neither_probes_nor_warns() {
    for sales in [3, 30] {
        let shop = Shop::of_keysat();
        shop.has_provider("second", "btcpay", "https://btcpay.example.com", "second");
        shop.many_sales(sales, ALL_SETTLED);
        shop.sale("paid").here("settled").licensed().made();
        shop.sql("UPDATE invoices SET payment_provider_id = 'btcpay' WHERE id = 'paid'");
        shop.names_another_store();
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.json(0);
            assert_eq!(report["attention"], json!([]));
            assert_eq!(report["not_in_store"], sales);
        }
        shop.reconcile().exits(0).says_nothing();
        assert_eq!(asked(&shop.btcpay.requests(), "btc-paid"), 0);
        // Nor is a sale of no provider a proof.
        shop.sql("UPDATE invoices SET payment_provider_id = NULL WHERE id = 'paid'");
        shop.sql("UPDATE invoices SET payment_provider_id = 'btcpay' WHERE id = '1'");
        shop.reconcile().exits(1);
        assert_eq!(asked(&shop.btcpay.requests(), "btc-paid"), 0);
    }
}

// Invoices that BTCPay Server has deleted.

#[test]
fn advice_closes_deleted_invoices_whole() {
    at_once(SHOPS, |open| {
        for gone in [1, 4, 60] {
            let shop = open();
            shop.sql("UPDATE discount_codes SET max_uses = NULL");
            shop.sale("kept").there("New").redemption("pending").made();
            let ids: Vec<String> = (100..100 + gone).map(|place| place.to_string()).collect();
            for (place, id) in ids.iter().enumerate() {
                let sale = shop.sale(id);
                let sale = if place % 4 == 3 {
                    sale
                } else {
                    sale.redemption("pending")
                };
                sale.made();
                shop.is_gone(id);
            }
            shop.sql(
                "UPDATE invoices SET buyer_email = NULL WHERE id LIKE '%1';
                 UPDATE invoices SET buyer_email = '' WHERE id LIKE '%2'",
            );
            let before = shop.everything();
            for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
                let report = run.json(0);
                let attention = report["attention"].as_array().unwrap();
                let reported: Vec<&str> = attention
                    .iter()
                    .filter(|item| item["reason"] == "not_in_btcpay")
                    .map(|item| item["invoice_id"].as_str().unwrap())
                    .collect();
                assert_eq!(reported, ids);
                assert_eq!(report["changes"], json!([]));
                assert_eq!(report["failures"], json!([]));
            }
            let dry = shop.reconcile().flag("-n").exits(0);
            assert_eq!(
                dry.stdout.matches(": not in btcpay\n").count(),
                1,
                "{}",
                dry.stdout
            );
            assert!(shop.everything() == before);

            let rounds = ids.len().div_ceil(50);
            for round in 0..rounds {
                let left = ids.len() - 50 * round;
                let dry = shop.reconcile().flag("-n").exits(0);
                let who = match left {
                    1 => format!("invoice {}", ids[50 * round]),
                    _ => format!(
                        "the first invoices: {}",
                        ids[50 * round..50 * round + 3].join(", ")
                    ),
                };
                assert!(dry.stdout.contains(&who), "{who}: {}", dry.stdout);
                shop.sql(&dry.advised("BEGIN;"));
            }
            for (place, id) in ids.iter().enumerate() {
                let state = shop.state(id);
                let expected = if place % 4 == 3 {
                    "expired"
                } else {
                    "expired, cancelled, used 1"
                };
                assert_eq!(state, expected);
            }
            assert_eq!(shop.state("kept"), "pending, pending, used 1");
            shop.reconcile().exits(0).says_nothing();
        }
    });
}

#[test]
fn advice_quotes_ids() {
    let shop = Shop::open();
    shop.sale("kept").there("New").made();
    shop.sale("gone").redemption("pending").made();
    shop.is_gone("gone");
    shop.sql(
        "UPDATE invoices SET id = 'it''s' WHERE id = 'gone';
         UPDATE discount_redemptions SET invoice_id = 'it''s'",
    );
    let ran = shop.reconcile().exits(0);
    shop.sql(&ran.advised("BEGIN;"));
    assert_eq!(shop.state("it''s"), "expired, cancelled, used 0");
    shop.reconcile().exits(0).says_nothing();
}

#[test]
fn advice_closes_despite_a_wrong_use_count() {
    let shop = Shop::open();
    shop.sale("kept").there("New").made();
    shop.sale("gone").redemption("pending").made();
    shop.is_gone("gone");
    shop.sql("UPDATE discount_codes SET used_count = 0");
    let ran = shop.reconcile().exits(0);
    shop.sql(&ran.advised("BEGIN;"));
    assert_eq!(shop.state("gone"), "expired, cancelled, used 0");
    shop.reconcile().exits(0).says_nothing();
}

#[test]
fn half_closed_invoice_that_was_deleted_is_reported() {
    at_once(SHOPS, |open| {
        for here in ["expired", "invalid"] {
            let shop = open();
            shop.sale("kept").there("New").made();
            for id in ["a", "b"] {
                shop.sale(id).here(here).redemption("pending").made();
                shop.is_gone(id);
            }
            let report = shop.reconcile().flag("-n").json(0);
            assert_eq!(count(&report["attention"]), 2, "{report}");
            assert_eq!(report["attention"][0]["reason"], "not_in_btcpay");
            let ran = shop.reconcile().exits(0).warns(
                "2 invoices: not in btcpay
                 [..]
                 If no money came, close them:
                 BEGIN; [..]
                 the first invoices: a, b",
            );
            shop.sql(&ran.advised("BEGIN;"));
            assert_eq!(shop.state("a"), format!("{here}, cancelled, used 0"));
            for option in ["-v", "--recheck"] {
                shop.reconcile().flag(option).exits(0);
            }
            shop.reconcile().flag("--recheck").exits(0).says_nothing();
        }
    });
}

#[test]
fn half_done_sale_that_was_deleted_is_reported() {
    for open in SHOPS {
        let shop = open();
        shop.sale("kept").there("New").made();
        for id in ["a", "b"] {
            shop.sale(id).here("settled").redemption("pending").made();
            shop.is_gone(id);
        }
        shop.sale("c").made();
        shop.is_gone("c");
        let before = shop.everything();
        let dry = shop.reconcile().flag("-n").json(0);
        assert_eq!(count(&dry["attention"]), 3, "{dry}");
        let gone = ["a", "b", "c"].map(|id| (id, "not_in_btcpay"));
        let ran = shop.reconcile().exits(0).tells(&gone);
        assert!(shop.everything() == before);
        let (_, pending) = ran.stderr.split_once("invoice b\n").unwrap();
        assert!(!pending.contains("('a')"), "{pending}");
    }
}

#[test]
fn closed_invoice_that_was_deleted_is_silent() {
    at_once(SHOPS, |open| {
        for version in [Version::UpTo2_3, Version::From2_4] {
            let shop = open();
            shop.btcpay.is_version(version);
            shop.sale("kept").there("New").made();
            for (id, here) in [("a", "expired"), ("b", "invalid")] {
                shop.sale(id).here(here).made();
                shop.is_gone(id);
            }
            shop.sale("c")
                .here("expired")
                .redemption("cancelled")
                .made();
            shop.is_gone("c");
            let before = shop.everything();
            for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
                let report = run.flag("--recheck").json(0);
                for list in ["changes", "attention", "failures"] {
                    assert_eq!(report[list], json!([]), "{report}");
                }
                assert_eq!(report["checked"], 4);
            }
            shop.reconcile().flag("--recheck").exits(0).says_nothing();
            assert!(shop.everything() == before);
        }
    });
}

// Many minutes of cron.

/// Only with `RECONCILE_SOAK`: each process is a minute, in which sales arrive. Every twentieth invoice
/// fails for ever, and a run has time for a fraction of the rest.
#[test]
fn every_twentieth_id_fails_for_ever() {
    let Some(factor) = env::var_os("RECONCILE_SOAK") else {
        return;
    };
    let factor: i64 = factor.to_str().unwrap().parse().unwrap();
    let cases = SHOPS
        .into_iter()
        .flat_map(|open| [true, false].map(|list| (open, list)));
    at_once(cases, |(open, has_list)| {
        soak(&open(), 240 * factor, has_list);
    });
}

/// Sales that a run lost or doubled.
fn broken_by_a_minute(shop: &Shop) -> String {
    shop.query(
        "SELECT 'not one license', invoices.id FROM invoices
          WHERE (status = 'settled') <> (SELECT count(*) FROM licenses WHERE invoice_id = invoices.id)
         UNION ALL
         SELECT 'not audited once', id FROM invoices
          WHERE (status = 'settled') <> (SELECT count(*) FROM audit_log
                                          WHERE action = 'invoice.settled' AND target_id = invoices.id)
         UNION ALL
         SELECT 'license not audited once', id FROM licenses
          WHERE 1 <> (SELECT count(*) FROM audit_log
                       WHERE action = 'license.issued' AND target_id = licenses.id)
         UNION ALL
         SELECT 'damaged', integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
    )
}

fn soak(shop: &Shop, sales: i64, has_list: bool) {
    const AN_ANSWER: Duration = Duration::from_millis(25);
    /// New sales in each of the first minutes.
    const ARRIVING: i64 = 4;
    let minutes = 15 * sales / 240;
    shop.many_sales(sales, ALL_SETTLED);
    let mut faults = iter::repeat([Fault::Reset, answer(500), answer(503), later(503)]).flatten();
    let mut fails = |id: &str| {
        shop.is_gone(id);
        shop.btcpay
            .fails(&format!("btc-{id}"), faults.next().unwrap());
    };
    for place in 0..sales {
        if place % 20 == 0 {
            fails(&place.to_string());
        } else {
            let late = Fault::Late(AN_ANSWER);
            shop.btcpay.fails(&format!("btc-{place}"), late);
        }
    }
    if !has_list {
        shop.has_no_list();
    }
    let stuck = "SELECT id FROM invoices WHERE CAST(id AS INTEGER) % 20 = 0";
    let run = || shop.reconcile().option("--deadline", "2");
    let mut told: HashMap<String, usize> = HashMap::new();
    let mut requests = 0;
    let mut hear = |report: &Value| {
        requests += report["requests"].as_u64().unwrap();
        for change in report["changes"].as_array().unwrap() {
            let id = change["invoice_id"].as_str().unwrap().to_owned();
            *told.entry(id).or_default() += 1;
        }
        assert_eq!(broken_by_a_minute(shop), "");
    };
    for minute in 0..minutes {
        for place in sales + minute * ARRIVING..sales + (minute + 1) * ARRIVING {
            let id = place.to_string();
            shop.sale(&id).made();
            if place % 20 == 0 {
                fails(&id);
            }
        }
        hear(&any_exit(run()));
    }
    let total = sales + minutes * ARRIVING;
    // What one run has time for, by a cautious count.
    let capacity = 2_000 / 25 / 2;
    let bound = usize::try_from(10 * total / capacity).unwrap();
    let after = shop.minutes_until_settled(stuck, bound, run, &mut hear);
    let failing = total / 20 + i64::from(total % 20 > 0);
    let done = total - failing;
    assert_eq!(
        shop.statuses(),
        format!("{failing} pending, {done} settled")
    );
    assert_eq!(
        shop.query("SELECT count(*) FROM licenses"),
        done.to_string()
    );
    assert_eq!(told.len(), usize::try_from(done).unwrap());
    assert!(told.values().all(|times| *times == 1), "{told:?}");
    println!(
        "keysat {}, list {has_list}: {total} sales, {failing} fail; {minutes} minutes and {after} more of at most {bound}; {requests} requests",
        shop.is_keysat()
    );
}
