//! What a person acknowledges is neither told nor changed until something about it differs.

use serde_json::{Value, json};

use crate::program::Run;
use crate::shop::{BTC, SHOPS, Shop};

const DAY: i64 = 86_400;

impl Shop {
    fn acknowledges(&self, ids: &[&str]) -> Run {
        let run = self.reconcile().flag("--acknowledge");
        ids.iter().fold(run, |run, id| run.flag(id))
    }

    /// Checks that nothing of it is told or changed, in whatever run, for a month.
    #[track_caller]
    fn is_at_peace(&self) {
        let before = self.query("SELECT id, status FROM invoices ORDER BY id") + &self.licensed();
        for days in [0, 1, 7, 30] {
            self.seconds_pass(days * DAY);
            for run in [self.reconcile(), self.reconcile().flag("--recheck")] {
                run.option("--max-age-hours", "8760")
                    .exits(0)
                    .says_nothing();
            }
        }
        let after = self.query("SELECT id, status FROM invoices ORDER BY id") + &self.licensed();
        assert_eq!(before, after);
    }

    fn licensed(&self) -> String {
        self.query("SELECT invoice_id, status FROM licenses ORDER BY 1")
    }

    fn acknowledgements(&self) -> String {
        self.query("SELECT count(*) FROM audit_log WHERE action = 'attention.acknowledged'")
    }

    /// A closed sale that was paid too late.
    fn was_paid_late(&self, id: &str) {
        let sale = self.sale(id).here("expired").there("Expired");
        sale.additional("PaidLate", BTC).made();
    }
}

type Sold = fn(&Shop);

type Trouble = (Sold, &'static str);

const TROUBLES: [Trouble; 6] = [
    (|shop| shop.was_paid_late("a"), "paid_late"),
    (
        |shop| shop.sale("a").here("invalid").there("Invalid").made(),
        "invalid_but_paid",
    ),
    (
        |shop| shop.sale("a").here("settled").there("New").made(),
        "settled_here_not_there",
    ),
    (
        |shop| {
            let sale = shop.sale("a").here("settled").there("Expired");
            sale.licensed().made();
        },
        "licensed_not_paid",
    ),
    (
        |shop| {
            shop.sale("a").here("settled").made();
            shop.sql("UPDATE invoices SET policy_id = 'gone'");
        },
        "policy_missing",
    ),
    (
        |shop| {
            shop.sale("kept").here("settled").licensed().made();
            shop.sale("a").here("settled").made();
            shop.btcpay
                .later(|invoices| invoices.retain(|invoice| invoice.id == "btc-kept"))(
            );
        },
        "not_in_btcpay",
    ),
];

#[test]
fn every_reason_can_be_acknowledged_by_either_id() {
    for (makes, reason) in TROUBLES {
        for id in ["a", "btc-a"] {
            let shop = Shop::open();
            makes(&shop);
            let recheck = shop.reconcile().flag("--recheck").exits(0);
            recheck.tells(&[("a", reason)]);
            let before = shop.everything();
            shop.acknowledges(&[id]).exits(0).warns("").prints(
                "invoice a (BTCPay invoice btc-a): acknowledged: [..] here, [..]
                 20[..]Z [..]1 checked; [..] ms",
            );
            assert_eq!(shop.everything(), before);
            shop.is_at_peace();

            let dry = shop.reconcile().flag("-n");
            let report = dry.option("--max-age-hours", "8760").json(0);
            let at = "SELECT occurred_at FROM audit_log WHERE action = 'attention.acknowledged'";
            let item = &report["attention"][0];
            // A license in doubt is one that is held back.
            let shown = if reason == "policy_missing" {
                "held_back"
            } else {
                reason
            };
            assert_eq!(item["reason"], shown, "{report}");
            assert_eq!(item["acknowledged"], true);
            assert_eq!(item["since"], shop.query(at));
            assert_eq!(report["attention"][1], Value::Null);
            let shown = shop.reconcile().flag("-n").exits(0).stdout;
            assert!(shown.contains("Acknowledged (1)\n"), "{shown}");
            assert!(!shown.contains("Needs attention"), "{shown}");
        }
    }
}

#[test]
fn several_are_acknowledged_at_once_and_what_was_never_told_too() {
    for open in SHOPS {
        let shop = open();
        shop.was_paid_late("a");
        shop.sale("b").here("settled").there("New").made();
        shop.sale("c").made();
        let ran = shop.acknowledges(&["a", "btc-b", "c", "btc-a"]).exits(0);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "invoice a (BTCPay invoice btc-a): acknowledged: expired here, Expired in BTCPay",
                "invoice b (BTCPay invoice btc-b): acknowledged: settled here, New in BTCPay",
                "invoice c (BTCPay invoice btc-c): acknowledged: pending here, Settled in BTCPay",
            ]
        );
        assert_eq!(shop.acknowledgements(), "3");
        shop.is_at_peace();
        assert_eq!(shop.state("c"), "pending");

        let again = shop.acknowledges(&["a"]).json(0);
        assert_eq!(
            again["acknowledged"],
            json!([{"invoice_id": "a", "btcpay_invoice_id": "btc-a", "status": "expired",
                    "btcpay_status": "Expired"}])
        );
    }
}

#[test]
fn refunded_sale_that_was_closed_by_hand_stays_closed() {
    let shop = Shop::open();
    shop.sale("a").here("settled").made();
    shop.sale("b").here("settled").made();
    shop.sql("UPDATE invoices SET status = 'invalid'");
    shop.acknowledges(&["a"]).exits(0);
    shop.reconcile().flag("--recheck").exits(0);
    assert_eq!(shop.state("a"), "invalid");
    // Else it is licensed.
    assert_eq!(shop.state("b"), "settled, licensed");
    shop.is_at_peace();
}

#[test]
fn refunded_sale_may_be_closed_after_it_was_acknowledged() {
    const CANCEL: &str = "UPDATE discount_redemptions SET status = 'cancelled';
                          UPDATE discount_codes SET used_count = 0;";
    let cases: [(Sold, &str); 4] = [
        // The service takes it for unpaid.
        (
            |shop| shop.sale("a").redemption("pending").made(),
            "UPDATE invoices SET status = 'expired'",
        ),
        (
            |shop| shop.sale("a").redemption("pending").made(),
            "UPDATE invoices SET status = 'invalid'",
        ),
        (
            |shop| {
                let sale = shop.sale("a").here("settled").licensed();
                sale.redemption("redeemed").made();
            },
            "UPDATE licenses SET status = 'revoked'; UPDATE invoices SET status = 'invalid'",
        ),
        (
            |shop| {
                let sale = shop.sale("a").here("settled").licensed();
                sale.redemption("redeemed").made();
            },
            "UPDATE discount_redemptions SET license_id = NULL; DELETE FROM licenses;
             UPDATE invoices SET status = 'expired'",
        ),
    ];
    for (sold, closes) in cases {
        let shop = Shop::open();
        sold(&shop);
        shop.acknowledges(&["a"]).exits(0);
        shop.sql(closes);
        shop.sql(CANCEL);
        shop.is_at_peace();
    }
}

#[test]
fn license_that_is_lost_without_a_closing_ends_it() {
    let shop = Shop::open();
    shop.sale("a").here("expired").licensed().made();
    shop.acknowledges(&["a"]).exits(0);
    shop.is_at_peace();
    shop.sql("DELETE FROM licenses");
    let recheck = shop.reconcile().flag("--recheck");
    recheck.option("--max-age-hours", "8760").exits(0);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn license_that_is_held_back_is_shown_before_anything_else() {
    let shop = Shop::open();
    let sale = shop.sale("a").here("settled").additional("None", "0.0002");
    sale.licensed().made();
    shop.acknowledges(&["a"]).exits(0);
    shop.sql("DELETE FROM licenses; UPDATE invoices SET status = 'invalid'");
    let dry = shop.reconcile().flag("-n").flag("--recheck").json(0);
    assert_eq!(dry["attention"][0]["reason"], "held_back");
}

#[test]
fn change_is_held_back_until_a_person_issues_the_license() {
    let shop = Shop::open();
    shop.sale("a").redemption("pending").made();
    shop.acknowledges(&["a"]).exits(0);
    shop.is_at_peace();
    let dry = shop
        .reconcile()
        .flag("-n")
        .option("--max-age-hours", "8760");
    let report = dry.json(0);
    assert_eq!(report["changes"], json!([]));
    assert_eq!(report["attention"][0]["reason"], "held_back");
    assert_eq!(report["attention"][0]["acknowledged"], true);
    assert_eq!(
        report["attention"][0]["detail"],
        "Something is left to do, since BTCPay says Settled and the database says pending. The \
         invoice was acknowledged, so it is left as it is. To issue its license all the same \
         (reconcile --issue=a)"
    );

    // Whoever names it sees it, and it is left alone.
    let named = shop.reconcile().flag("a").exits(0);
    assert!(
        named.stdout.contains("acknowledged: held back"),
        "{}",
        named.stdout
    );
    assert_eq!(shop.state("a"), "pending, pending, used 1");

    shop.reconcile().option("--issue", "a").exits(0);
    let issued = "settled, licensed, redeemed with it, used 1";
    assert_eq!(shop.state("a"), issued);
    // That ended it: what comes later is told again.
    shop.seconds_pass(90);
    shop.btcpay
        .change("btc-a", |invoice| invoice.status = "Expired".into());
    let recheck = shop.reconcile().flag("--recheck");
    let recheck = recheck.option("--max-age-hours", "8760").exits(0);
    recheck.tells(&[("a", "licensed_not_paid")]);
}

#[test]
fn difference_ends_it() {
    let differences: [fn(&Shop); 8] = [
        |shop| shop.btcpay.mark("btc-a", "Settled"),
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.paid = "0.0003".into());
        },
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.paid = Value::Null);
        },
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.additional = "PaidOver".into());
        },
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.status = "Invalid".into());
        },
        |shop| shop.sql("UPDATE invoices SET status = 'pending'"),
        |shop| shop.sql("UPDATE discount_redemptions SET status = 'redeemed'"),
        |shop| shop.sql("UPDATE discount_redemptions SET status = 'pending'"),
    ];
    for (place, differs) in differences.into_iter().enumerate() {
        let shop = Shop::open();
        let sale = shop.sale("a").here("expired").there("Expired");
        let sale = sale.additional("PaidLate", BTC);
        sale.redemption("cancelled").made();
        shop.reconcile().flag("--recheck").exits(0);
        shop.acknowledges(&["a"]).exits(0);
        shop.is_at_peace();
        differs(&shop);
        let recheck = shop.reconcile().flag("--recheck");
        let ran = recheck.option("--max-age-hours", "8760").exits(0);
        if place == 0 {
            assert_eq!(shop.query("SELECT status FROM invoices"), "settled");
        } else {
            let told = ran.told();
            assert_eq!(told.len(), 1, "{place}: {told:?}");
        }
    }
}

#[test]
fn what_is_the_same_by_value_is_no_difference() {
    let same: [fn(&Shop); 3] = [
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.paid = "0.000210000".into());
        },
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.paid = json!(0.00021));
        },
        |shop| {
            shop.sql("UPDATE invoices SET updated_at = datetime(), buyer_email = 'b@example.com'");
        },
    ];
    for changes in same {
        let shop = Shop::open();
        shop.was_paid_late("a");
        shop.acknowledges(&["a"]).exits(0);
        changes(&shop);
        shop.is_at_peace();
    }
}

#[test]
fn amount_that_was_unknown_and_slot_that_was_freed_are_no_difference() {
    let shop = Shop::open();
    shop.sale("a")
        .here("settled")
        .there("New")
        .redemption("pending")
        .made();
    shop.btcpay
        .change("btc-a", |invoice| invoice.paid = Value::Null);
    shop.acknowledges(&["a"]).exits(0);
    // BTCPay was updated, and the service has reaped.
    shop.btcpay
        .change("btc-a", |invoice| invoice.paid = "0".into());
    shop.sql(
        "UPDATE discount_redemptions SET status = 'cancelled'; UPDATE discount_codes SET used_count = 0",
    );
    shop.is_at_peace();
}

#[test]
fn all_ids_are_checked_before_any_is_noted() {
    let shop = Shop::open();
    shop.was_paid_late("a");
    shop.was_paid_late("b");
    shop.sale("twice").made();
    shop.sql("UPDATE invoices SET btcpay_invoice_id = 'twice' WHERE id = 'b'");
    shop.sale("odd").there("Odd").made();
    for (ids, blamed) in [
        (["a", "unknown"], "'unknown':"),
        (["unknown", "a"], "'unknown':"),
        (["a", "twice"], "'twice':"),
        (["a", "odd"], "invoice odd"),
    ] {
        let ran = shop.acknowledges(&ids).exits(3);
        let error = format!("error: {blamed} ");
        assert!(ran.stderr.starts_with(&error), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert_eq!(shop.acknowledgements(), "0");
    }
    shop.acknowledges(&["a", "btc-twice"]).exits(0);
    assert_eq!(shop.acknowledgements(), "2");
}

#[test]
fn nothing_is_acknowledged_while_btcpay_is_away() {
    let shop = Shop::open();
    shop.was_paid_late("a");
    shop.btcpay.death()();
    let ran = shop.acknowledges(&["a"]).option("--deadline", "2").exits(1);
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    assert_eq!(shop.acknowledgements(), "0");
}

#[test]
fn it_goes_with_no_other_kind_of_run() {
    let shop = Shop::open();
    shop.was_paid_late("a");
    for words in [
        &["-n", "--acknowledge", "a"][..],
        &["--recheck", "--acknowledge", "a"],
        &["--issue", "a", "--acknowledge", "a"],
        &["a", "--acknowledge", "a"],
        &["--acknowledge"],
    ] {
        let run = words
            .iter()
            .fold(shop.reconcile(), |run, word| run.flag(word));
        run.exits(2).prints("");
    }
    assert_eq!(shop.btcpay.requests(), [""; 0]);
    assert_eq!(shop.acknowledgements(), "0");
}

#[test]
fn service_that_is_faster_is_not_overruled() {
    let shop = Shop::open();
    shop.sale("a").there("Expired").made();
    let service = shop.connection();
    shop.btcpay.when_asked_for("btc-a", move || {
        service
            .execute_batch("UPDATE invoices SET status = 'expired'")
            .unwrap();
    });
    shop.acknowledges(&["a"])
        .exits(3)
        .warns("error: invoice a (BTCPay invoice btc-a): the service has just changed it. [..]reconcile -n a");
    assert_eq!(shop.acknowledgements(), "0");
}
