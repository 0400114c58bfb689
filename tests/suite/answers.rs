//! How a run handles the answers of BTCPay Server, or of a proxy in front of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::btcpay::{self, Fault, KEY, STORE, Version};
use crate::network::{listen, read_head};
use crate::program::Run;
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
        (
            Fault::Twisted(|body| body.replace(r#""amount":"0.0"#, r#""amount":"-0.0"#)),
            "amount: '-0.00021' is negative",
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
        .warns("error: the API key lacks btcpay.store.canviewinvoices; it has none (403). [..]");
    let asked = shop.btcpay.requests();
    assert_eq!(
        asked[1..],
        [
            format!("/api/v1/stores/{STORE}/invoices?take=1"),
            "/api/v1/api-keys/current".into()
        ]
    );
}

/// What a run says that BTCPay, or what stands before it, refuses.
fn refusal(shop: &Shop, run: Run) -> String {
    let before = shop.everything();
    let ran = run.exits(1).prints(STOPPED);
    assert_eq!(shop.everything(), before);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(!ran.stderr.contains(KEY), "{}", ran.stderr);
    ran.stderr
}

#[test]
fn refused_key_is_told_with_btcpays_reason() {
    for (message, expected) in [
        (
            "ApiKey authentication failed: Unknown API Key",
            "(401): Unknown API Key. Create one under Account, API Keys, with ",
        ),
        (
            "ApiKey authentication failed: Your user account is currently disabled.",
            "(401): Your user account is currently disabled. Enable the account, or create ",
        ),
        (
            "Authentication is required for accessing this endpoint",
            "(401): Authentication is required for accessing this endpoint. Create one ",
        ),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        let body = json!({"code": "unauthenticated", "message": message}).to_string();
        shop.btcpay.fails("btc-a", Fault::Answer(401, "", body));
        let said = refusal(&shop, shop.reconcile());
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn refusal_of_a_proxy_is_not_taken_for_btcpays() {
    let page = |status: u16| {
        let body = "<html><head><title>Authorization Required</title></head></html>";
        Fault::Answer(status, "Server: nginx\r\n", body.into())
    };
    for status in [401, 403] {
        for run in [
            |shop: &Shop| shop.reconcile(),
            |shop: &Shop| shop.reconcile().flag("-n"),
        ] {
            let shop = Shop::open();
            shop.sale("a").made();
            shop.btcpay.fails("btc-a", page(status));
            shop.btcpay.fails("list", page(status));
            let said = refusal(&shop, run(&shop));
            let expected = format!("refused the request ({status}: a web page (server: nginx)).");
            assert!(said.contains(&expected), "{said}");
            assert!(!said.contains("API key"), "{said}");
        }
    }
}

#[test]
fn refusal_of_one_invoice_by_a_proxy_does_not_mean_that_it_is_gone() {
    for fault in [
        Fault::Answer(403, "Server: nginx\r\n", "<html>Forbidden</html>".into()),
        Fault::Answer(403, "", r#"{"code":"blocked","message":"WAF"}"#.into()),
        Fault::Answer(404, "", "<html>Not Found</html>".into()),
        Fault::Answer(404, "", String::new()),
        Fault::Answer(404, "", r#"{"code":"missing-permission"}"#.into()),
        Fault::Answer(401, "", "<html>Log in</html>".into()),
    ] {
        for version in [Version::UpTo2_3, Version::From2_4] {
            let shop = Shop::open();
            shop.btcpay.is_version(version);
            shop.sale("a").redemption("pending").made();
            shop.sale("b").made();
            shop.btcpay.fails("btc-a", fault.clone());
            let report = shop.reconcile().json(3);
            assert_eq!(report["attention"], json!([]));
            assert_eq!(report["failures"][0]["invoice_id"], "a");
            let error = report["failures"][0]["error"].as_str().unwrap();
            assert!(error.contains(" answered 40"), "{error}");
            assert_eq!(shop.state("b"), "settled, licensed");
        }
    }
}

#[test]
fn refused_store_is_told_with_what_the_key_may_do() {
    const OTHER: &str = "HbkTqPZe8wpbBr9GnBC9zMYpUPc1b2NDm4GZMD6cUNfG";
    let view = format!("btcpay.store.canviewinvoices:{OTHER}");
    let reports = format!("btcpay.store.canviewreports:{STORE}");
    for (permissions, expected) in [
        (
            view.as_str(),
            format!(
                "error: the API key may see the invoices of store {OTHER}, not of {STORE} (403). Correct --store-id, or create a key for this store"
            ),
        ),
        (
            reports.as_str(),
            format!(
                "error: the API key lacks btcpay.store.canviewinvoices; it has btcpay.store.canviewreports (403). Create one with the permission 'View invoices' for store {STORE}"
            ),
        ),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay.gives(KEY, &[permissions]);
        for run in [shop.reconcile(), shop.reconcile().flag("-n")] {
            let said = refusal(&shop, run);
            assert_eq!(said.trim_end(), expected);
        }
        shop.btcpay.requests();
    }

    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay.gives(KEY, &["unrestricted"]);
    let said = refusal(&shop, shop.reconcile().option("--store-id", "misspelt"));
    assert!(
        said.contains("may see invoices, but BTCPay Server shows it no store misspelt (403)."),
        "{said}"
    );

    // It does not say.
    for fault in [
        Fault::Answer(404, "", String::new()),
        Fault::Reset,
        Fault::Answer(200, "", format!("[{KEY:?}]")),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay.take_permission_from(KEY);
        shop.btcpay.fails("key", fault);
        let said = refusal(&shop, shop.reconcile());
        assert!(
            said.contains("this API key may not see the invoices of store"),
            "{said}"
        );
    }
}

#[test]
fn dry_run_warns_of_a_key_that_can_do_more_than_look() {
    let warned = "warning: the API key can do more than look: unrestricted. [..]";
    for with_a_sale in [true, false] {
        let shop = Shop::open();
        if with_a_sale {
            shop.sale("a").there("New").made();
        }
        let dry = || shop.reconcile().flag("-n");
        dry().exits(0).warns("");
        shop.btcpay.gives(KEY, &["unrestricted"]);
        dry().exits(0).warns(warned);
        shop.reconcile().exits(0).warns("");
        for fault in [
            Fault::Answer(404, "", String::new()),
            Fault::Answer(200, "", "<html>".into()),
            Fault::Reset,
        ] {
            shop.btcpay.fails("key", fault);
            dry().exits(0).warns("");
        }
    }
    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay.gives(KEY, &["unrestricted"]);
    shop.reconcile()
        .option("--issue", "a")
        .flag("-n")
        .exits(0)
        .warns(warned);
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
        .warns("error: no BTCPay Server API at [..] (404: [..]). Is --btcpay-url the address of BTCPay Server itself, path included?");
    for url in [shop.btcpay.url(), shop.btcpay.url() + "/"] {
        shop.reconcile()
            .option("--btcpay-url", &url)
            .flag("-n")
            .exits(0)
            .warns("");
    }
}

#[test]
fn likely_address_is_named() {
    let shop = Shop::open();
    shop.sale("a").made();
    let right = shop.btcpay.url() + "/";
    for (path, what) in [
        ("/api", "no BTCPay Server API at [..]/api (404: [..])"),
        ("/btcpay", "no BTCPay Server API at [..]/btcpay (404: [..])"),
    ] {
        let wrong = shop.btcpay.url() + path;
        let expected = format!("error: {what}. Should --btcpay-url be {right}?");
        shop.reconcile()
            .option("--btcpay-url", &wrong)
            .exits(1)
            .warns(&expected);
    }

    // BTCPay's own pages are behind a login.
    let login = "Location: /login?ReturnUrl=%2Fstores\r\n";
    for what in ["btc-a", "list"] {
        shop.btcpay
            .fails(what, Fault::Answer(302, login, String::new()));
    }
    shop.reconcile().exits(1).warns(
        "error: BTCPay Server redirects to /login?ReturnUrl=%2Fstores (302 Found), a web page. Is --btcpay-url the address of BTCPay Server itself, path included?",
    );
}

#[test]
fn longer_request_than_a_proxy_allows_is_made_shorter() {
    let shop = Shop::open();
    shop.many_sales(11, |_| "Settled");
    let too_long = Arc::new(AtomicUsize::new(0));
    let refused = Arc::clone(&too_long);
    let btcpay = shop.btcpay.url().replace("http://", "");
    let proxy = listen(move |mut outside| {
        let mut inside = TcpStream::connect(&btcpay).unwrap();
        while let Some(request) = read_head(&mut outside) {
            let line = request.iter().position(|byte| *byte == b'\r').unwrap();
            if line > 180 {
                refused.fetch_add(1, Ordering::Relaxed);
                let page = "HTTP/1.1 414 Request-URI Too Large\r\nServer: nginx\r\nContent-Length: 6\r\n\r\n<html>";
                outside.write_all(page.as_bytes()).unwrap();
                continue;
            }
            inside.write_all(&request).unwrap();
            let head = read_head(&mut inside).unwrap();
            let text = String::from_utf8_lossy(&head).to_lowercase();
            let (_, length) = text.split_once("content-length: ").unwrap();
            let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
            inside.read_exact(&mut body).unwrap();
            outside.write_all(&[head, body].concat()).unwrap();
        }
    });
    let url = format!("http://{proxy}");
    let report = shop.reconcile().option("--btcpay-url", &url).json(0);
    assert_eq!(report["checked"], 11);
    assert_ne!(too_long.load(Ordering::Relaxed), 0);
    let asked = shop.btcpay.requests();
    assert!(asked.len() < 8, "{asked:?}");
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
