//! The printed report: nothing if nothing happened, otherwise a line for each change and a summary.

use serde_json::json;

use crate::program::full_disk;
use crate::shop::Shop;

const TIME: &str = "20[..]-[..]-[..]T[..]:[..]:[..]Z";

#[test]
fn uneventful_run_prints_nothing() {
    let shop = Shop::open();
    shop.reconcile().exits(0).says_nothing();
    shop.sale("open").there("New").made();
    shop.sale("old").created("'2020-01-01T00:00:00Z'").made();
    shop.reconcile().exits(0).says_nothing();
    shop.reconcile().flag("-v").exits(0).prints(&format!(
        "{TIME} 1 checked, 1 pending older than --max-age-hours; 1 request, [..] ms"
    ));
}

#[test]
fn changes_print_one_line_each_and_a_summary() {
    let shop = Shop::open();
    shop.sale("a").redemption("pending").made();
    shop.sale("b").there("Expired").redemption("pending").made();
    shop.sale("c").here("settled").made();
    shop.reconcile()
        .flag("-n")
        .exits(0)
        .warns("")
        .prints(&format!(
            "Paid: settled, license issued (2)
         buyer          product       amount  age  invoice  discount
         a@example.com  Pro      21,000 sats  1 h  a        redeemed
         c@example.com  Pro      21,000 sats  1 h  c

         Not paid: closed as expired (1)
         buyer          product       amount  age  invoice  discount
         b@example.com  Pro      21,000 sats  1 h  b        slot freed

         {TIME} dry run: 3 checked, 3 changed; 4 requests, [..] ms"
        ));
    let real = shop.reconcile().exits(0).warns("");
    // As they happened, which begins anywhere.
    let mut lines: Vec<&str> = real.stdout.lines().collect();
    lines[..3].sort_unstable();
    let lines = lines.join("\n");
    real.with_stdout(lines).prints(&format!(
        "invoice a (BTCPay invoice btc-a): pending -> settled, license [..]-[..] issued, redemption redeemed
         invoice b (BTCPay invoice btc-b): pending -> expired, redemption cancelled
         invoice c (BTCPay invoice btc-c): license [..]-[..] issued
         {TIME} 3 checked, 3 changed; 3 requests, [..] ms"
    ));
}

#[test]
fn dry_run_lists_attention_with_sale_and_next_step() {
    let shop = Shop::open();
    shop.sale("late")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    shop.sale("doubt").here("settled").there("New").made();
    shop.reconcile()
        .flag("-n")
        .exits(0)
        .warns("")
        .prints(&format!(
            "Not paid: closed as expired (1)
         buyer             product       amount  age  invoice
         late@example.com  Pro      21,000 sats  1 h  late

         Needs attention (2)
         late@example.com, Pro
         21,000 sats, 1 h old: paid late
         BTCPay counts 0.00021 of 0.00021 BTC.
         To accept the sale, mark the invoice settled in BTCPay: the next --recheck issues the license.
         To refuse it, refund the buyer and mark the invoice invalid in BTCPay.
         http://127.0.0.1:[..]/invoices/btc-late
         http://127.0.0.1:[..]/invoices/btc-late/refund
         invoice late

         doubt@example.com, Pro
         21,000 sats, 1 h old: settled here not there
         The service settled it and left it half done, but BTCPay says New.
         If the money came and stayed, mark the invoice settled in BTCPay: the next --recheck issues the
         license.
         If not, correct the row:
         UPDATE invoices SET status = 'pending' WHERE id = 'doubt';
         http://127.0.0.1:[..]/invoices/btc-doubt
         invoice doubt

         {TIME} dry run: 2 checked, 1 changed, 2 need attention; [..]"
        ));
}

#[test]
fn failure_or_attention_alone_prints_the_summary() {
    let shop = Shop::open();
    shop.sale("doubt").here("settled").there("New").made();
    shop.reconcile().exits(0).prints(&format!(
        "{TIME} 1 checked, 1 needs attention; 1 request, [..] ms"
    ));
    shop.sale("odd").there("Odd").made();
    // The doubt stands, and was told.
    shop.reconcile()
        .exits(3)
        .prints(&format!("{TIME} 2 checked, 1 failed; [..]"));
}

#[test]
fn json_report_is_always_one_object() {
    let shop = Shop::open();
    let mut report = shop.reconcile().json(0);
    report["elapsed_ms"] = 12.into();
    assert_eq!(
        report,
        json!({
            "dry_run": false, "checked": 0, "changes": [], "attention": [], "resolved": [], "failures": [],
            "count_drift": [], "out_of_window": 0, "requests": 0, "elapsed_ms": 12,
        })
    );

    shop.sale("a").redemption("pending").made();
    shop.sale("b").there("Expired").redemption("pending").made();
    shop.sale("c")
        .here("settled")
        .licensed()
        .redemption("pending")
        .made();
    shop.sale("d").here("settled").there("New").made();
    shop.sale("e").there("Odd").made();
    let created_at = shop.query("SELECT min(created_at) FROM invoices");
    let change = |id: &str,
                  from: &str,
                  to: &str,
                  issued: bool,
                  license: Option<&str>,
                  redemption: &str| {
        json!({
            "invoice_id": id, "btcpay_invoice_id": format!("btc-{id}"), "from": from, "to": to,
            "license_issued": issued, "license_id": license, "redemption": redemption, "completed": [],
            "buyer_email": format!("{id}@example.com"), "product": "Pro", "amount_sats": 21_000,
            "created_at": created_at,
        })
    };
    let mut dry = shop.reconcile().flag("--dry-run").json(3);
    assert_eq!(
        dry["changes"],
        json!([
            change("a", "pending", "settled", true, None, "redeemed"),
            change("b", "pending", "expired", false, None, "cancelled"),
            change("c", "settled", "settled", false, Some("lic-c"), "redeemed"),
        ])
    );
    let detail = dry["attention"][0]["detail"].take();
    assert!(
        detail.as_str().unwrap().contains("BTCPay says New"),
        "{detail}"
    );
    assert_eq!(
        dry["attention"][0],
        json!({
            "invoice_id": "d", "btcpay_invoice_id": "btc-d", "reason": "settled_here_not_there", "detail": null,
            "url": format!("{}/invoices/btc-d", shop.btcpay.url()), "since": null, "acknowledged": false,
            "buyer_email": "d@example.com", "product": "Pro", "amount_sats": 21_000, "created_at": created_at,
        })
    );
    assert_eq!(dry["failures"][0]["invoice_id"], "e");
    assert_eq!(dry["failures"][0]["btcpay_invoice_id"], "btc-e");
    assert_eq!((&dry["checked"], &dry["requests"]), (&json!(5), &json!(6)));

    let mut real = shop.reconcile().json(3);
    let license = shop.query("SELECT id FROM licenses WHERE invoice_id = 'a'");
    assert_eq!(real["changes"][0]["license_id"], license);
    real["attention"][0]["detail"].take();
    for report in [&mut dry, &mut real] {
        report["changes"][0]["license_id"] = json!(null);
        report["elapsed_ms"] = json!(null);
        report["requests"] = json!(null);
        report["attention"][0]["since"].take();
        report["dry_run"] = json!(null);
    }
    assert_eq!(dry, real, "a dry run reports the same as a real run");
}

#[test]
fn early_stop_still_prints_json() {
    let shop = Shop::open();
    let report = shop.reconcile().option("--database", "/nowhere.db").json(1);
    assert_eq!(report["checked"], 0);
    assert!(report["error"].as_str().unwrap().contains("/nowhere.db"));
}

#[test]
fn changes_before_early_stop_are_kept_and_reported() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("b").made();
    let refused = json!({"code": "unauthenticated", "message": "Failed"}).to_string();
    shop.btcpay
        .fails("btc-b", crate::btcpay::Fault::Answer(401, "", refused));
    let ran = shop
        .reconcile()
        .exits(1)
        .warns("error: BTCPay Server refused the API key (401): Failed. [..]");
    // Either may be first.
    let settled = shop.state("a") == "settled, licensed";
    assert_eq!(
        ran.stdout.lines().count(),
        if settled { 2 } else { 1 },
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stdout.contains("invoice a "), settled, "{}", ran.stdout);
    assert!(ran.stdout.contains("; stopped early"), "{}", ran.stdout);
}

#[test]
fn foreign_text_cannot_forge_lines_or_control_terminals() {
    let shop = Shop::open();
    shop.sale("a").there("New\u{1b}[2J\nerror: forged").made();
    shop.sql("UPDATE invoices SET id = 'a' || char(10) || 'b'");
    shop.reconcile().exits(3).warns(
        "error: invoice a\\nb (BTCPay invoice btc-a): [..]'New\\u{1b}[2J\\nerror: forged'[..]",
    );
}

#[test]
fn json_escapes_what_terminals_obey() {
    let shop = Shop::open();
    shop.sale("a")
        .there("Expired")
        .additional("PaidLate", "0.00021")
        .made();
    let buyer = "a\u{9b}2J\u{202e}b\u{2028}c\u{7f}\u{e0041}\"\\Müller";
    shop.sql(&format!("UPDATE invoices SET buyer_email = '{buyer}'"));
    let dry = shop.reconcile().flag("-n").option("--format", "json");
    let raw = dry.exits(0).stdout;
    let escaped = r#""buyer_email":"a\u009b2J\u202eb\u2028c\u007f\udb40\udc41\"\\Müller""#;
    assert_eq!(raw.matches(escaped).count(), 2, "{raw}");
    assert!(!raw.trim_end().contains(char::is_control), "{raw}");
    let report = shop.reconcile().json(0);
    assert_eq!(report["changes"][0]["buyer_email"], buyer);
}

#[test]
fn closed_stdout_is_no_failure() {
    let shop = Shop::open();
    shop.sale("a").made();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = shop.reconcile().command().stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn unwritable_report_is_an_error() {
    let shop = Shop::open();
    shop.sale("a").made();
    let output = shop
        .reconcile()
        .command()
        .stdout(full_disk())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("audit_log"));
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn dry_run_lists_odd_rows_with_placeholders() {
    let shop = Shop::open();
    shop.sql("DROP TABLE products; CREATE TABLE products (id TEXT PRIMARY KEY); INSERT INTO products VALUES ('pro')");
    shop.sale("a").there("Expired").made();
    shop.sale("b").there("Expired").made();
    shop.sql("UPDATE invoices SET buyer_email = CAST(x'ff' AS TEXT) WHERE id = 'a'");
    shop.reconcile().flag("-n").exits(0).prints(&format!(
        "Not paid: closed as expired (2)
         buyer          product       amount  age  invoice
         -              pro      21,000 sats  1 h  a
         b@example.com  pro      21,000 sats  1 h  b

         {TIME} dry run: 2 checked, 2 changed; [..]"
    ));
    shop.reconcile().exits(0);
    assert_eq!(shop.statuses(), "2 expired");
}
