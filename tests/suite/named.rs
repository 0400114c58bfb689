//! INVOICE: all that is known of an invoice that a person names, and what was done about it.

use serde_json::{Value, json};

use crate::btcpay::{self, Payment};
use crate::program::{Ran, line_matches};
use crate::shop::{BTC, SHOPS, Shop};

impl Shop {
    #[track_caller]
    fn looks_into(&self, words: &[&str]) -> Ran {
        let run = words
            .iter()
            .fold(self.reconcile(), |run, word| run.flag(word));
        run.exits(0).warns("")
    }
}

/// Checks that a line of stdout is this one.
#[track_caller]
fn shows(ran: &Ran, line: &str) {
    let mut lines = ran.stdout.lines().map(str::trim);
    assert!(
        lines.any(|found| line_matches(line, found)),
        "expected:\n{line}\ngot:\n{}",
        ran.stdout
    );
}

#[test]
fn paid_sale_without_a_license_gets_it_by_either_id() {
    for open in SHOPS {
        for id in ["a", "btc-a"] {
            let shop = open();
            shop.sale("a").redemption("pending").made();
            shop.sale("b").made();
            let before = shop.everything();
            let dry = shop.looks_into(&["-n", id]);
            shows(&dry, "invoice a (BTCPay invoice btc-a)");
            shows(&dry, "buyer     a@example.com");
            shows(&dry, "license   none");
            shows(&dry, "BTCPay    Settled");
            shows(
                &dry,
                "done      pending -> settled, license issued, redemption redeemed",
            );
            assert_eq!(shop.everything(), before);

            let real = shop.looks_into(&[id]);
            shows(&real, "here      settled, [..]");
            shows(&real, "license   [..]-[..], active, issued 20[..]");
            shows(&real, "discount  LAUNCH, redeemed");
            shows(
                &real,
                "done      pending -> settled, license [..]-[..] issued, redemption redeemed",
            );
            shows(&real, "20[..] reconcile invoice.settled [..]");
            shows(&real, "20[..] reconcile license.issued [..]");
            assert_eq!(
                shop.state("a"),
                "settled, licensed, redeemed with it, used 1"
            );
            // Nobody named it.
            assert_eq!(shop.state("b"), "pending");
            assert!(!real.stdout.contains("b@example.com"), "{}", real.stdout);
        }
    }
}

const AGREE: &str = "nothing: the database and BTCPay agree";

#[test]
fn any_age_and_status_can_be_named() {
    let long_ago = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-100 days')";
    for (here, there, licensed, done) in [
        (
            "pending",
            "Settled",
            false,
            "pending -> settled, license [..] issued",
        ),
        (
            "expired",
            "Settled",
            false,
            "expired -> settled, license [..] issued",
        ),
        ("pending", "Expired", false, "pending -> expired"),
        ("pending", "New", false, AGREE),
        ("pending", "Processing", false, AGREE),
        ("settled", "Settled", true, AGREE),
        (
            "settled",
            "Processing",
            true,
            "nothing: there is nothing to do",
        ),
        ("expired", "New", false, "nothing: there is nothing to do"),
        (
            "settled",
            "Expired",
            true,
            "nothing; needs attention: licensed not paid",
        ),
        ("expired", "Expired", false, AGREE),
        (
            "invalid",
            "Invalid",
            false,
            "nothing; needs attention: invalid but paid",
        ),
    ] {
        let shop = Shop::open();
        let sale = shop.sale("a").here(here).there(there);
        let sale = sale.created(long_ago).updated(long_ago);
        if licensed { sale.licensed() } else { sale }.made();
        shows(&shop.looks_into(&["a"]), &format!("done      {done}"));
    }
}

#[test]
fn several_named_have_a_block_each_and_each_once() {
    let shop = Shop::open();
    for id in ["a", "b", "c"] {
        shop.sale(id).there("New").made();
    }
    let ran = shop.looks_into(&["c", "btc-a", "a", "btc-c"]);
    let named: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with("invoice "))
        .collect();
    assert_eq!(
        named,
        [
            "invoice c (BTCPay invoice btc-c)",
            "invoice a (BTCPay invoice btc-a)"
        ]
    );
}

/// The ids of the invoices that are shown, in order.
fn shown(ran: &Ran) -> Vec<&str> {
    let lines = ran.stdout.lines();
    let ids = lines.filter_map(|line| line.strip_prefix("invoice ")?.split(' ').next());
    ids.collect()
}

#[test]
fn buyer_who_writes_is_found_by_address() {
    for open in SHOPS {
        let shop = open();
        let days_ago = |days: u32| format!("strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-{days} days')");
        shop.sale("old")
            .here("expired")
            .created(&days_ago(90))
            .made();
        shop.sale("new").created(&days_ago(1)).made();
        shop.sale("older")
            .there("New")
            .created(&days_ago(100))
            .made();
        shop.sale("of-another").made();
        shop.sql(
            "UPDATE invoices SET buyer_email = 'Dave@Example.com' WHERE id IN ('old', 'new', 'older');
             UPDATE invoices SET buyer_email = 'xdave@example.com' WHERE id = 'of-another'",
        );
        let before = shop.everything();
        let dry = shop.looks_into(&["-n", "dave@example.COM"]);
        assert_eq!(shown(&dry), ["new", "old", "older"]);
        assert_eq!(shop.everything(), before);
        // Beside an id, and each once.
        let both = shop.looks_into(&["-n", "btc-old", "dave@example.com", "of-another"]);
        assert_eq!(shown(&both), ["old", "new", "older", "of-another"]);

        let report = shop.reconcile().flag("dave@example.com").json(0);
        let ids: Vec<&Value> = report["invoices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|invoice| &invoice["invoice_id"])
            .collect();
        assert_eq!(ids, ["new", "old", "older"]);
        assert_eq!(shop.state("new"), "settled, licensed");
        assert_eq!(shop.state("old"), "settled, licensed");
        assert_eq!(shop.state("of-another"), "pending");
    }
}

#[test]
fn newest_of_a_buyers_many_sales_are_shown_and_that_is_said() {
    let shop = Shop::open();
    shop.many_sales(23, |_| "New");
    shop.sql("UPDATE invoices SET buyer_email = 'dave@example.com' WHERE id <> '0'");
    let run = || shop.reconcile().flag("-n").flag("dave@example.com");
    let ran = run().exits(0).warns(
        "warning: 2 older invoices of dave@example.com are not shown. To see one, give its id",
    );
    let newest: Vec<String> = (1..=20).map(|place| place.to_string()).collect();
    assert_eq!(shown(&ran), newest);
    shop.sql("DELETE FROM invoices WHERE CAST(id AS INTEGER) > 20");
    assert_eq!(shown(&run().exits(0).warns("")), newest);
}

#[test]
fn id_may_look_like_an_address() {
    let shop = Shop::open();
    shop.sale("order@7").made();
    assert_eq!(
        shown(&shop.reconcile().flag("-n").flag("order@7").exits(0)),
        ["order@7"]
    );
}

#[test]
fn address_of_no_buyer_fails_without_a_request() {
    let shop = Shop::open();
    shop.sale("a").made();
    for address in ["dave@example.com", "a@example.co", "%@example.com", "@"] {
        let run = || shop.reconcile().flag("-n").flag(address);
        let error =
            "no invoice has a buyer with this address. The buyer may have given another one";
        run()
            .exits(3)
            .warns(&format!("error: '{address}': {error}"));
        let report = run().json(3);
        assert_eq!(
            report["failures"],
            json!([{"invoice_id": address, "btcpay_invoice_id": address, "error": error}])
        );
    }
    // To decide about one sale, its id is needed.
    for option in ["--issue", "--acknowledge"] {
        shop.reconcile()
            .option(option, "a@example.com")
            .exits(3)
            .warns("error: 'a@example.com': no invoice has this id. To find a sale by its buyer: reconcile -n ADDRESS");
    }
    assert_eq!(shop.state("a"), "pending");
    let asked = shop.btcpay.requests();
    assert!(
        asked.iter().all(|path| path.contains("api-keys")),
        "{asked:?}"
    );
}

#[test]
fn what_the_service_has_just_touched_is_left_alone_and_that_is_said() {
    let now = "strftime('%Y-%m-%dT%H:%M:%SZ')";
    for (here, there) in [("settled", "Settled"), ("settled", "New")] {
        let shop = Shop::open();
        let sale = shop.sale("a").here(here).there(there);
        sale.redemption("pending").updated(now).made();
        let before = shop.everything();
        for words in [&["-n", "a"][..], &["a"]] {
            let ran = shop.looks_into(words);
            shows(
                &ran,
                "done      nothing: it was touched within the last minute[..]",
            );
        }
        assert_eq!(shop.everything(), before);
        shop.seconds_pass(90);
        let ran = shop.looks_into(&["a"]);
        assert!(!ran.stdout.contains("last minute"), "{}", ran.stdout);
    }
}

#[test]
fn what_was_just_completed_agrees() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").redemption("pending").made();
        shop.reconcile().exits(0);
        for words in [&["-n", "a"][..], &["a"]] {
            shows(&shop.looks_into(words), &format!("done      {AGREE}"));
        }
        // By the service too.
        let now = "strftime('%Y-%m-%dT%H:%M:%SZ')";
        let sale = shop.sale("free").here("settled").there("New");
        sale.licensed().updated(now).made();
        shop.sql(
            "UPDATE invoices SET btcpay_invoice_id = 'free-1', amount_sats = 0 WHERE id = 'free'",
        );
        let ran = shop.looks_into(&["-n", "free"]);
        shows(&ran, "BTCPay    -");
        assert!(!ran.stdout.contains("last minute"), "{}", ran.stdout);
    }
}

#[test]
fn unknown_and_ambiguous_ids_fail_and_the_others_are_shown() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("twice").made();
    shop.sale("b").made();
    shop.sql("UPDATE invoices SET btcpay_invoice_id = 'twice' WHERE id = 'b'");
    let mut elsewhere = btcpay::Invoice::new("btc-elsewhere", "Settled", BTC);
    elsewhere.order_id = Some("order-7".into());
    shop.btcpay.add(elsewhere);
    for (id, error) in [
        (
            "unknown",
            "no invoice has this id. To find a sale by its buyer: reconcile -n ADDRESS",
        ),
        (
            "twice",
            "several invoices have this id. Give the other one[..]",
        ),
        (
            "btc-elsewhere",
            "BTCPay has it: Settled, with the order id order-7. Is --database the right one?[..]",
        ),
    ] {
        let ran = shop.reconcile().flag("-n").flag(id).flag("a").exits(3);
        shows(&ran, "invoice a (BTCPay invoice btc-a)");
        let line = format!("error: '{id}': {error}");
        assert!(line_matches(&line, ran.stderr.trim_end()), "{}", ran.stderr);
    }
    // The other of its ids.
    let ran = shop.looks_into(&["btc-twice"]);
    shows(&ran, "invoice twice (BTCPay invoice btc-twice)");
}

#[test]
fn invoice_that_btcpay_does_not_have_is_shown() {
    let shop = Shop::open();
    shop.sale("paid").here("settled").licensed().made();
    shop.sale("a").redemption("pending").made();
    shop.btcpay
        .later(|invoices| invoices.retain(|invoice| invoice.id == "btc-paid"))();
    let ran = shop.looks_into(&["a"]);
    shows(&ran, "done      nothing; needs attention: not in btcpay");
    let report = shop.reconcile().flag("a").json(0);
    assert_eq!(report["invoices"][0]["btcpay"], Value::Null);
    assert_eq!(report["invoices"][0]["here"]["status"], "pending");
}

#[test]
fn nothing_is_done_while_btcpay_is_away() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay.death()();
    let ran = shop
        .reconcile()
        .flag("a")
        .option("--deadline", "2")
        .exits(1);
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    assert_eq!(shop.state("a"), "pending");
}

#[test]
fn recheck_of_named_invoices_is_a_usage_error() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.reconcile()
        .flag("--recheck")
        .flag("a")
        .exits(2)
        .prints("");
    shop.reconcile()
        .flag("a")
        .option("--issue", "a")
        .exits(2)
        .prints("");
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

#[test]
fn json_has_all_that_is_known() {
    let shop = Shop::of_keysat();
    shop.sells_subscriptions("");
    shop.sale("a").redemption("pending").made();
    shop.sale("b")
        .there("Expired")
        .additional("PaidLate", BTC)
        .made();
    let created = shop.query("SELECT created_at FROM invoices WHERE id = 'a'");
    let mut received = 0;
    shop.btcpay.change("btc-b", |invoice| {
        received = invoice.created + 940;
        let mut payment = Payment::new(BTC, received);
        payment.status = "Settled".into();
        invoice.payments.push(payment);
    });
    let report = shop.reconcile().flag("a").flag("b").json(0);
    let invoices = report["invoices"].as_array().unwrap();
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    for invoice in invoices {
        assert_eq!(
            keys(invoice),
            [
                "btcpay",
                "btcpay_invoice_id",
                "done",
                "here",
                "history",
                "invoice_id"
            ]
        );
        for event in invoice["history"].as_array().unwrap() {
            assert_eq!(
                keys(event),
                ["action", "actor_kind", "details", "occurred_at"]
            );
        }
    }
    let [a, b] = invoices.as_slice() else {
        panic!("{report}");
    };
    assert_eq!(
        (&a["invoice_id"], &b["btcpay_invoice_id"]),
        (&json!("a"), &json!("btc-b"))
    );
    let here = &a["here"];
    for (name, expected) in [
        ("status", json!("settled")),
        ("buyer_email", json!("a@example.com")),
        ("product", json!("Pro")),
        ("amount_sats", json!(21_000)),
        ("created_at", json!(created)),
        ("license_status", json!("active")),
        ("discount_code", json!("LAUNCH")),
        ("redemption_status", json!("redeemed")),
        ("subscription_status", json!("active")),
    ] {
        assert_eq!(here[name], expected, "{name}: {here}");
    }
    assert_eq!(here["license_id"], shop.query("SELECT id FROM licenses"));
    let actions: Vec<&str> = a["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions[..2],
        ["invoice.settled", "license.issued"],
        "{actions:?}"
    );
    let there = &b["btcpay"];
    for (name, expected) in [
        ("status", json!("Expired")),
        ("additional_status", json!("PaidLate")),
        ("amount", json!(BTC)),
        ("paid_amount", json!(BTC)),
        ("currency", json!("BTC")),
    ] {
        assert_eq!(there[name], expected, "{name}: {there}");
    }
    let received_at = shop.query(&format!(
        "SELECT strftime('%Y-%m-%dT%H:%M:%SZ', {received}, 'unixepoch')"
    ));
    assert_eq!(
        there["payments"],
        json!([{"received_at": received_at, "amount": BTC, "fee": "0", "currency": "BTC", "confirmed": true}])
    );
    assert_eq!(report["attention"][0]["reason"], "paid_late");
    assert_eq!(
        b["history"][1]["action"], "attention.noted",
        "the service sees why: {b}"
    );
}

#[test]
fn history_is_of_this_invoice_and_of_whoever_wrote_it() {
    let shop = Shop::open();
    shop.sale("a").there("New").made();
    shop.sale("b").there("New").made();
    shop.sql(
        "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, details_json, occurred_at)
         VALUES ('admin', 'invoice.looked_at', 'invoice', 'a', '{}', '2026-01-02T00:00:00Z'),
                ('buyer', 'invoice.complained', 'mail', 'm', '{\"invoice_id\":\"a\"}', '2026-01-03T00:00:00Z'),
                ('admin', 'invoice.of_another', 'invoice', 'b', 'not JSON', '2026-01-03T00:00:00Z')",
    );
    let ran = shop.looks_into(&["a"]);
    shows(&ran, "2026-01-02T00:00:00Z admin invoice.looked_at [..]");
    shows(&ran, "2026-01-03T00:00:00Z buyer invoice.complained [..]");
    assert!(!ran.stdout.contains("of_another"), "{}", ran.stdout);
    shows(
        &shop.looks_into(&["b"]),
        "2026-01-03T00:00:00Z admin invoice.of_another [..]",
    );
}
