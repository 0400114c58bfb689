//! Cases that only the merchant can resolve.

use crate::btcpay::Fault;
use crate::shop::Shop;

/// (local status, status in BTCPay, additional status, amount paid, attention reason, state
/// afterwards).
const REPORTED: &[(&str, &str, &str, &str, &str, &str)] = &[
    (
        "pending",
        "Expired",
        "PaidLate",
        "0.00021",
        "paid_late",
        "expired, cancelled, used 0",
    ),
    (
        "pending",
        "Expired",
        "PaidPartial",
        "0.0001",
        "paid_partial",
        "expired, cancelled, used 0",
    ),
    (
        "pending",
        "Invalid",
        "None",
        "0.00021",
        "invalid_but_paid",
        "invalid, cancelled, used 0",
    ),
    (
        "expired",
        "Expired",
        "PaidLate",
        "0.00021",
        "paid_late",
        "expired, cancelled, used 0",
    ),
    (
        "invalid",
        "Invalid",
        "PaidOver",
        "0.1",
        "invalid_but_paid",
        "invalid, cancelled, used 0",
    ),
    (
        "settled",
        "Expired",
        "PaidLate",
        "0.00021",
        "settled_here_not_there",
        "settled, pending, used 1",
    ),
    (
        "settled",
        "New",
        "None",
        "0",
        "settled_here_not_there",
        "settled, pending, used 1",
    ),
];

#[test]
fn attention_is_in_the_report_and_on_stderr() {
    for row in REPORTED {
        let (here, there, additional, paid, reason, after) = *row;
        let shop = Shop::open();
        shop.sale("a")
            .here(here)
            .there(there)
            .additional(additional, paid)
            .redemption("pending")
            .made();
        let dry = shop.reconcile().flag("--dry-run").json(0);
        assert_eq!(dry["attention"][0]["reason"], reason, "{row:?}: {dry}");
        shop.reconcile()
            .exits(0)
            .tells(&[("a", reason)])
            .says("http://127.0.0.1:[..]/invoices/btc-a");
        assert_eq!(shop.state("a"), after, "{row:?}");
    }
}

#[test]
fn no_warning_if_unpaid_settled_or_marked() {
    for (there, additional, paid) in [
        ("Expired", "None", "0"),
        ("Expired", "Marked", "0.00021"),
        ("Invalid", "Marked", "0.00021"),
        ("Settled", "PaidOver", "0.1"),
        ("Settled", "Marked", "0"),
    ] {
        let shop = Shop::open();
        shop.sale("a")
            .there(there)
            .additional(additional, paid)
            .made();
        shop.reconcile().exits(0).warns("");
    }
}

#[test]
fn money_on_a_closed_invoice_is_never_silent() {
    for (there, additional, paid, reason) in [
        // BTCPay makes it so only if a payment did not confirm in time.
        ("Invalid", "None", "0.00000000", "invalid_but_paid"),
        ("Invalid", "Invalid", "0", "invalid_but_paid"),
        ("Expired", "None", "0.0001", "paid_partial"),
        ("Expired", "PaidOver", "0.00021", "paid_late"),
        ("Expired", "Unheard", "0.3", "paid_late"),
    ] {
        let shop = Shop::open();
        shop.sale("a")
            .there(there)
            .additional(additional, paid)
            .made();
        shop.reconcile().exits(0).tells(&[("a", reason)]);
    }
}

#[test]
fn recheck_reports_closed_invoices_and_changes_nothing() {
    let shop = Shop::open();
    shop.sale("late")
        .here("expired")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    let before = shop.everything();
    shop.reconcile().exits(0).says_nothing();
    shop.reconcile().flag("--recheck").exits(0).warns(
        "late@example.com, Pro
         21,000 sats, 1 h old: paid late
         BTCPay counts 0.00021 of 0.00021 BTC.
         To accept the sale, mark the invoice settled in BTCPay: the next --recheck issues the license.
         To refuse it, refund the buyer and mark the invoice invalid in BTCPay.
         http://127.0.0.1:[..]/invoices/btc-late
         http://127.0.0.1:[..]/invoices/btc-late/refund
         invoice late",
    );
    assert_eq!(shop.everything(), before);

    shop.btcpay.mark("btc-late", "Invalid");
    shop.reconcile()
        .flag("--recheck")
        .exits(0)
        .prints(
            "invoice late (BTCPay invoice btc-late): over: paid late
             20[..]Z 1 checked, 1 over; 1 request, [..] ms",
        )
        .warns("");
    assert_eq!(
        shop.everything(),
        before,
        "marking it invalid changes nothing locally"
    );

    shop.btcpay.mark("btc-late", "Settled");
    shop.reconcile().flag("--recheck").exits(0).warns("");
    assert_eq!(shop.state("late"), "settled, licensed");
}

#[test]
fn missing_paid_amount_is_accepted() {
    let shop = Shop::open();
    shop.sale("late")
        .there("Expired")
        .additional("PaidLate", "0")
        .made();
    shop.sale("invalid").there("Invalid").made();
    for id in ["btc-late", "btc-invalid"] {
        shop.btcpay
            .change(id, |invoice| invoice.paid = serde_json::Value::Null);
    }
    shop.reconcile()
        .exits(0)
        .tells(&[("invalid", "invalid_but_paid"), ("late", "paid_late")])
        .says("BTCPay does not say how much was paid.");
    assert_eq!(shop.state("invalid"), "invalid");
}

#[test]
fn amount_mismatch_is_reported_but_still_settles() {
    for (amount, currency, mismatch) in [
        ("0.00021", "BTC", false),
        ("0.000210000", "BTC", false),
        ("21000", "SATS", false),
        ("0.0002", "BTC", true),
        ("0.00021", "SATS", true),
        ("19.99", "USD", false),
    ] {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay.change("btc-a", |invoice| {
            invoice.amount = amount.into();
            invoice.paid = amount.into();
            invoice.currency = currency.into();
        });
        let report = shop.reconcile().json(0);
        assert_eq!(
            report["attention"] != serde_json::json!([]),
            mismatch,
            "{amount} {currency}"
        );
        if mismatch {
            assert_eq!(report["attention"][0]["reason"], "amount_mismatch");
        }
        assert_eq!(shop.state("a"), "settled, licensed");
    }
}

#[test]
fn partly_paid_is_told_as_btcpay_counts() {
    // A fee was taken off, and a part came after it had expired.
    for (there, additional, expected) in [
        (
            "Expired",
            "PaidPartial",
            "BTCPay counts 0.00011 of 0.00021 BTC. To accept ",
        ),
        (
            "Invalid",
            "None",
            "It was paid, but not confirmed in time. BTCPay counts 0.00011 of 0.00021 BTC. To ",
        ),
    ] {
        let shop = Shop::open();
        shop.sale("a")
            .there(there)
            .additional(additional, "0.000110")
            .made();
        let report = shop.reconcile().json(0);
        let detail = report["attention"][0]["detail"].as_str().unwrap();
        assert!(detail.starts_with(expected), "{detail}");
    }
}

#[test]
fn top_up_is_a_mismatch_only_if_less_than_the_price_was_paid() {
    let top_up: fn(&str) -> String =
        |body| body.replace(r#""type":"Standard""#, r#""type":"TopUp""#);
    for (paid, mismatch) in [
        ("0.00021", None),
        ("0.00033", None),
        (
            "0.0002",
            Some(
                "BTCPay settled it, but it has no fixed price there, BTCPay counts 0.0002 BTC, and its price here is 21,000 sats. ",
            ),
        ),
    ] {
        for has_paid_amount in [true, false] {
            let shop = Shop::open();
            shop.sale("a").made();
            shop.btcpay.change("btc-a", |invoice| {
                invoice.amount = paid.into();
                invoice.paid = has_paid_amount.then_some(paid).into();
            });
            shop.btcpay.fails("btc-a", Fault::Twisted(top_up));
            let report = shop.reconcile().json(0);
            let detail = report["attention"][0]["detail"].as_str();
            match mismatch {
                None => assert_eq!(detail, None),
                Some(expected) => assert!(detail.unwrap().starts_with(expected), "{report}"),
            }
            assert_eq!(shop.state("a"), "settled, licensed");
        }
    }
}

#[test]
fn amount_as_json_number_is_exact() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.btcpay.change("btc-a", |invoice| {
        invoice.amount = serde_json::json!(0.00021);
    });
    shop.reconcile().exits(0).warns("");
}

#[test]
fn following_the_advice_clears_the_warning() {
    for there in ["New", "Processing", "Expired", "Invalid"] {
        let shop = Shop::open();
        shop.sale("a").here("settled").there(there).made();
        let told = shop
            .reconcile()
            .exits(0)
            .tells(&[("a", "settled_here_not_there")]);
        shop.sql(&told.advised("UPDATE invoices"));
        let recheck = shop.reconcile().flag("--recheck").json(0);
        assert_eq!(recheck["resolved"][0]["reason"], "settled_here_not_there");
    }
    let shop = Shop::open();
    let sale = shop.sale("a").here("settled").there("Expired").licensed();
    sale.redemption("pending").made();
    shop.reconcile()
        .exits(0)
        .tells(&[("a", "settled_here_not_there")])
        .says("If not, revoke license lic-a and correct the row:");
}

/// A shop with a settled invoice `a` that has no license, and a license that has no invoice.
fn with_unlinked_license(gift: &str) -> Shop {
    let shop = Shop::open();
    shop.sale("a").here("settled").redemption("pending").made();
    shop.sql(&format!(
        "INSERT INTO licenses (id, product_id, buyer_email, issued_at) VALUES ('gift', {gift})"
    ));
    shop
}

#[test]
fn license_issued_by_hand_prevents_a_second_one() {
    for gift in [
        "'pro', 'a@example.com', strftime('%Y-%m-%d %H:%M:%S', 'now', '-30 minutes')",
        "'pro', 'A@Example.com', strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
        "'pro', 'a@example.com', 'some day'",
    ] {
        let shop = with_unlinked_license(gift);
        let before = shop.everything();
        shop.reconcile()
            .exits(0)
            .tells(&[("a", "license_by_hand")])
            .says("UPDATE licenses SET invoice_id = 'a' WHERE id = 'gift';");
        assert_eq!(shop.everything(), before);

        shop.sql("UPDATE licenses SET invoice_id = 'a' WHERE id = 'gift'");
        shop.reconcile().exits(0).warns("");
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}

#[test]
fn unrelated_license_does_not_prevent_issuing() {
    for gift in [
        "'pro', 'a@example.com', strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-2 hours')",
        "'pro', 'b@example.com', strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
        "'pro', NULL, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
        "'other', 'a@example.com', strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
    ] {
        let shop = with_unlinked_license(gift);
        shop.reconcile().exits(0).warns("");
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1",
            "{gift}"
        );
    }
}

#[test]
fn suggested_sql_escapes_quotes() {
    let shop =
        with_unlinked_license("'pro', 'a@example.com', strftime('%Y-%m-%dT%H:%M:%SZ', 'now')");
    shop.sql("UPDATE licenses SET id = 'x''; DROP TABLE licenses; --'");
    shop.reconcile()
        .exits(0)
        .says("UPDATE licenses [..] WHERE id = 'x''; DROP TABLE licenses; --';");
}
