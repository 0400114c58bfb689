//! How a run handles the answers of BTCPay Server, or of a proxy in front of it.

use crate::btcpay::{self, Fault, KEY, STORE, Version};
use crate::shop::{BTC, STOPPED, Shop, at_once};

fn html(status: u16) -> Fault {
    Fault::Answer(status, "", "<html><body>Bad Gateway</body></html>".into())
}

#[test]
fn bad_answer_fails_only_its_invoice() {
    let invoice = |id: &str, store: &str, status: &str| {
        format!(
            r#"{{"id":"{id}","storeId":"{store}","status":"{status}","currency":"BTC","amount":"1"}}"#
        )
    };
    let cases = [
        (html(502), "answered 502 Bad Gateway: a web page"),
        (html(200), "web page"),
        (html(500), "answered 500 Internal Server Error: a web page"),
        (Fault::Answer(503, "", String::new()), "answered 503"),
        (
            Fault::Answer(429, "Retry-After: 1\r\n", String::new()),
            "answered 429",
        ),
        (
            Fault::Answer(422, "", r#"[{"path":"a","message":"b"}]"#.into()),
            "answered 422",
        ),
        (
            Fault::Answer(
                302,
                "Location: https://elsewhere.example/x\r\n",
                String::new(),
            ),
            "redirects to https://elsewhere.example/x",
        ),
        (Fault::Answer(204, "", String::new()), "answered 204"),
        (Fault::Answer(200, "", "null".into()), "not an invoice"),
        (Fault::Answer(200, "", "[]".into()), "not an invoice"),
        (
            Fault::Answer(200, "", invoice("btc-other", STORE, "Settled")),
            "another invoice: btc-other",
        ),
        (
            Fault::Answer(200, "", invoice("btc-bad", "other", "Settled")),
            "an invoice of another store: other",
        ),
        (
            Fault::Answer(200, "", invoice("btc-bad", STORE, "Gone")),
            "'Gone'",
        ),
        (Fault::Reset, "no response from BTCPay Server at "),
        (Fault::HalfABody, "broke off"),
        (Fault::EndlessBody, "larger than 32 MiB"),
    ];
    at_once(cases, |(fault, expected)| {
        let shop = Shop::open();
        shop.sale("bad").redemption("pending").made();
        shop.sale("good").made();
        shop.btcpay.fails("btc-bad", fault);
        let report = shop.reconcile().json(3);
        let error = report["failures"][0]["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        assert_eq!(report["failures"][0]["invoice_id"], "bad");
        assert_eq!(report["checked"], 2);
        assert_eq!(shop.state("bad"), "pending, pending, used 1");
        assert_eq!(shop.state("good"), "settled, licensed");

        shop.btcpay.works_again();
        shop.reconcile().exits(0);
        assert_eq!(
            shop.state("bad"),
            "settled, licensed, redeemed with it, used 1"
        );
    });
}

#[test]
fn invoice_missing_from_store_needs_attention_on_every_version() {
    for (version, requests) in [(Version::UpTo2_3, 3), (Version::From2_4, 4)] {
        let shop = Shop::open();
        shop.btcpay.is_version(version);
        for id in ["gone", "foreign", "good"] {
            shop.sale(id).redemption("pending").made();
        }
        shop.sql("UPDATE invoices SET btcpay_invoice_id = 'btc-nowhere' WHERE id = 'gone'");
        shop.btcpay
            .change("btc-foreign", |invoice| invoice.store_id = "another".into());
        let report = shop.reconcile().json(0);
        let attention = report["attention"].as_array().unwrap();
        assert_eq!(attention.len(), 2, "{report}");
        assert_eq!(attention[0]["reason"], "not_in_btcpay");
        assert_eq!(
            report["requests"], requests,
            "the key is checked at most once"
        );
        assert_eq!(
            shop.state("good"),
            "settled, licensed, redeemed with it, used 3"
        );
        assert_eq!(shop.state("gone"), "pending, pending, used 3");
    }
}

#[test]
fn refused_key_stops_the_run_at_once() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("b").made();
    shop.btcpay.revoke(KEY);
    let report = shop.reconcile().json(1);
    assert!(
        report["error"]
            .as_str()
            .unwrap()
            .contains("refused the API key (401)"),
        "{report}"
    );
    assert_eq!(shop.btcpay.requests().len(), 1);
    assert_eq!(report["failures"], serde_json::json!([]));
}

#[test]
fn missing_permission_is_not_reported_as_missing_invoice() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("b").made();
    shop.btcpay.take_permission_from(KEY);
    shop.reconcile()
        .exits(1)
        .prints(STOPPED)
        .warns("error: this API key may not see[..](403)[..]btcpay.store.canviewinvoices[..]");
    assert_eq!(
        shop.btcpay.requests().last().unwrap(),
        &format!("/api/v1/stores/{STORE}/invoices?take=1")
    );
}

#[test]
fn unverifiable_key_does_not_stop_the_run() {
    let shop = Shop::open();
    shop.btcpay.is_version(Version::From2_4);
    for id in ["a", "b"] {
        shop.sale(id).made();
        shop.btcpay.change(&format!("btc-{id}"), |invoice| {
            invoice.store_id = "another".into();
        });
    }
    shop.btcpay.fails("list", html(502));
    let report = shop.reconcile().json(3);
    let error = report["failures"][1]["error"].as_str().unwrap();
    assert!(error.contains("perhaps because of the API key"), "{error}");
    assert_eq!(
        report["requests"], 3,
        "one request per invoice, and one for the list"
    );
}

#[test]
fn wrong_url_path_is_reported_once() {
    let shop = Shop::open();
    shop.btcpay.lives_under("/btcpay");
    shop.sale("a").made();
    shop.sale("b").made();
    let address = shop.btcpay.url().replace("/btcpay", "");
    shop.reconcile()
        .option("--btcpay-url", &address)
        .exits(1)
        .warns("error: no store [..] (404). Correct --store-id, or --btcpay-url if [..]");
    for url in [shop.btcpay.url(), shop.btcpay.url() + "/"] {
        shop.reconcile()
            .option("--btcpay-url", &url)
            .flag("-n")
            .exits(0)
            .warns("");
    }
}

#[test]
fn unreachable_btcpay_stops_the_run_with_one_message() {
    let shop = Shop::open();
    for id in ["a", "b", "c", "d", "e"] {
        shop.sale(id).made();
    }
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nowhere = [
        format!("http://{unused}"),
        "http://btcpay-nowhere.internal".into(),
    ];
    at_once(nowhere, |nowhere| {
        let report = shop.reconcile().option("--btcpay-url", &nowhere).json(1);
        assert!(
            report["error"]
                .as_str()
                .unwrap()
                .contains("cannot reach BTCPay Server"),
            "{report}"
        );
        assert_eq!(report["failures"], serde_json::json!([]));
        assert_eq!(
            report["requests"], 4,
            "three consecutive invoices, and the list"
        );
        assert_eq!(report["not_asked"], 5);
        shop.reconcile()
            .option("--btcpay-url", &nowhere)
            .exits(1)
            .prints(STOPPED)
            .warns(&format!(
                "error: cannot reach BTCPay Server at {nowhere}/: [..]"
            ));
    });
}

#[test]
fn odd_invoice_id_cannot_reach_another_path() {
    for id in [
        "a/b",
        "a?take=1",
        "a#b",
        "..%2f",
        "%2e%2e",
        "a b",
        "a\\b",
        "\u{e9}",
        "../../users",
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay
            .change("btc-a", |invoice| invoice.id = id.into());
        shop.sql(&format!("UPDATE invoices SET btcpay_invoice_id = '{id}'"));
        shop.reconcile().exits(0);
        assert_eq!(
            shop.state("a"),
            "settled, licensed",
            "{id}: the id leads to its own invoice"
        );
    }
    for id in ["", ".", "..", "a\nb", "a\tb", "\u{7f}", &"a".repeat(300)] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.sql(&format!("UPDATE invoices SET btcpay_invoice_id = '{id}'"));
        shop.reconcile()
            .exits(3)
            .warns("error: invoice a [..]: its btcpay_invoice_id [..]");
        assert_eq!(shop.btcpay.requests(), [""; 0], "{id}");
    }
}

#[test]
fn archived_invoice_is_reconciled() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay
        .change("btc-a", |invoice| invoice.archived = true);
    shop.reconcile().exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn user_agent_names_the_program_and_version() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.reconcile().exits(0);
    assert_eq!(
        shop.btcpay.user_agents(),
        [concat!("reconcile/", env!("CARGO_PKG_VERSION"))]
    );
}

#[test]
fn btcpay_invoice_without_local_row_is_ignored() {
    let shop = Shop::open();
    shop.btcpay
        .add(btcpay::Invoice::new("btc-web-shop", "Settled", BTC));
    let before = shop.everything();
    shop.reconcile().exits(0).says_nothing();
    assert_eq!(shop.everything(), before);
}
