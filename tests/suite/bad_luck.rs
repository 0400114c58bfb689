//! A third of what BTCPay Server answers is wrong or missing.

use crate::btcpay::Fault;
use crate::mixed::soak;
use crate::shop::{Shop, at_once};
use crate::trouble::answer;

/// Every way in which an answer can be wrong or missing.
fn all_faults() -> Vec<Fault> {
    vec![
        Fault::Reset,
        Fault::HalfABody,
        Fault::EndlessBody,
        Fault::Hang,
        answer(500),
        answer(503),
        Fault::Answer(502, "", "<html>Bad Gateway</html>".into()),
        Fault::Answer(200, "", "<html>Welcome</html>".into()),
        Fault::Answer(429, "Retry-After: 0\r\n", String::new()),
        Fault::Answer(200, "", "[".repeat(100_000)),
        Fault::Answer(200, "", r#"{"a":"#.repeat(100_000)),
        Fault::Twisted(|body| body.replace(r#""id":"btc-"#, r#""id":"of-another-"#)),
        Fault::Twisted(|body| body.replace(r#""storeId":""#, r#""storeId":"not-"#)),
        Fault::Twisted(|body| body.replace(r#""status":""#, r#""status":"Nearly"#)),
        Fault::Twisted(|body| body.replace(r#""status":""#, r#""status":"\ud800"#)),
        Fault::Twisted(|body| body.replace(r#""status":""#, r#""status":"Settled","status":""#)),
        Fault::Twisted(|body| body.replace(r#""currency":"BTC""#, r#""currency":21000"#)),
        Fault::Twisted(|body| body.replace(r#""metadata":{"#, r#""metadata":{"\ud800":1e999,"#)),
        Fault::Twisted(|body| body.replace('{', "null")),
        Fault::Twisted(|body| body.replace("\"status\"", "\"statue\"")),
    ]
}

#[test]
fn bad_btcpay_delays_but_does_not_change_the_result() {
    // Once with pages of the list, once with single invoices.
    let cases = || [true, false].map(|by_pages| (by_pages, fastrand::u64(..)));
    let check = |(by_pages, seed): (bool, u64)| {
        let shop = Shop::open();
        shop.mixed_backlog(if by_pages { 600 } else { 40 });
        shop.btcpay.has_bad_luck(seed, all_faults());
        if !by_pages {
            shop.btcpay.fails("list", answer(500));
        }
        let mut runs = 0;
        // Only sales with a license by hand stay pending.
        let undone = "SELECT id FROM invoices
                       WHERE status = 'pending' AND CAST(id AS INTEGER) % 8 = 1
                         AND coalesce(buyer_email, '') NOT IN
                             (SELECT buyer_email FROM licenses WHERE invoice_id IS NULL)";
        while shop.kinds() != shop.reconciled() || !shop.query(undone).is_empty() {
            runs += 1;
            assert!(runs < 100, "seed {seed}: {}", shop.kinds());
            let run = shop.reconcile().option("--deadline", "2");
            let code = run.command().output().unwrap().status.code();
            assert!(
                matches!(code, Some(0 | 1 | 3)),
                "seed {seed}, run {runs}: {code:?}"
            );
            assert_eq!(shop.broken_promises(), "", "seed {seed}, run {runs}");
        }
        shop.btcpay.works_again();
        let after = shop.everything();
        shop.reconcile().exits(0);
        assert!(shop.everything() == after, "seed {seed}");
    };
    for _ in 0..soak() {
        at_once(cases(), check);
    }
}
