//! The life of what needs a person: noted once, told as it comes due, over when it is.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::btcpay::Fault;
use crate::program::{Ran, Run, full_disk, line_matches};
use crate::shop::{BTC, SHOPS, Shop, at_once};
use crate::stops::stopped_by;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

const REFUSES_NOTES: &str = "CREATE TRIGGER refuses BEFORE INSERT ON audit_log
                             WHEN NEW.action LIKE 'attention.%'
                             BEGIN SELECT RAISE(ABORT, 'no notes today'); END";

impl Shop {
    fn recheck(&self) -> Run {
        self.reconcile().flag("--recheck")
    }

    /// A sale that the service closed, and that was paid after that.
    fn is_paid_late(&self, id: &str) {
        let sale = self.sale(id).here("expired").there("Expired");
        sale.additional("PaidLate", BTC).made();
    }

    /// A sale that a run closes, and that needs a person then.
    fn will_be_paid_late(&self, id: &str) {
        let sale = self.sale(id).there("Expired").redemption("pending");
        sale.additional("PaidLate", BTC).made();
    }

    /// A sale that the service has settled, and that BTCPay has not.
    fn is_settled_only_here(&self, id: &str) {
        self.sale(id).here("settled").there("New").made();
    }

    /// What was noted of whom, in its order.
    fn life(&self) -> String {
        self.query(
            "SELECT replace(action, 'attention.', ''), target_id, details_json ->> 'reason'
               FROM audit_log WHERE action LIKE 'attention.%' ORDER BY id",
        )
    }
}

/// What is over, as stdout has it.
fn over(ran: &Ran) -> Vec<&str> {
    let lines = ran.stdout.lines();
    lines.filter(|line| line.contains(": over: ")).collect()
}

// Noted.

#[test]
fn what_is_noted_is_told_once_and_shown_while_it_stands() {
    for open in SHOPS {
        let shop = open();
        shop.is_settled_only_here("a");
        let dry = shop.reconcile().flag("-n").json(0);
        assert_eq!(dry["attention"][0]["since"], Value::Null);
        assert_eq!(shop.life(), "");

        let told = shop.reconcile().exits(0);
        told.tells(&[("a", "settled_here_not_there")])
            .prints("20[..]Z 1 checked, 1 needs attention; 1 request, [..] ms");
        shop.seconds_pass(90);
        for _ in 0..2 {
            shop.reconcile().exits(0).says_nothing();
        }
        assert_eq!(shop.life(), "noted|a|settled_here_not_there");
        assert_eq!(
            shop.query("SELECT actor_kind, target_kind, details_json ->> 'btcpay_invoice_id' FROM audit_log"),
            "reconcile|invoice|btc-a"
        );

        let noted = shop.query("SELECT occurred_at FROM audit_log");
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.json(0);
            let item = &report["attention"][0];
            assert_eq!(item["reason"], "settled_here_not_there");
            assert_eq!(item["since"], noted);
            assert_eq!(item["acknowledged"], false);
            assert_eq!(report["resolved"], json!([]));
        }
        let shown = shop.reconcile().flag("-n").exits(0).stdout;
        assert!(shown.contains("Needs attention (1)\n"), "{shown}");
        assert!(shown.contains("checked, 1 needs attention; "), "{shown}");
        assert_eq!(shop.life(), "noted|a|settled_here_not_there");
    }
}

#[test]
fn standing_attention_takes_no_write_lock() {
    for open in SHOPS {
        let shop = open();
        shop.is_settled_only_here("a");
        shop.is_paid_late("b");
        shop.recheck().exits(0);
        let service = shop.connection();
        service.execute_batch("BEGIN IMMEDIATE").unwrap();
        for run in [shop.reconcile(), shop.recheck()] {
            run.option("--deadline", "5").exits(0).says_nothing();
        }
    }
}

#[test]
fn run_within_a_run_notes_and_tells_for_both() {
    for recheck in [false, true] {
        let shop = Shop::open();
        shop.is_settled_only_here("a");
        shop.will_be_paid_late("b");
        let run = || {
            if recheck {
                shop.recheck()
            } else {
                shop.reconcile()
            }
        };
        let other = run();
        shop.btcpay.when_asked_for("btc-a", move || {
            other
                .exits(0)
                .tells(&[("b", "paid_late"), ("a", "settled_here_not_there")]);
        });
        let ran = run().exits(0);
        assert!(!ran.stderr.contains("invoice a"), "{}", ran.stderr);
        let twice = "SELECT target_id FROM audit_log WHERE action = 'attention.noted'
                      GROUP BY target_id HAVING count(*) > 1";
        assert_eq!(shop.query(twice), "");
        assert_eq!(shop.state("b"), "expired, cancelled, used 0");
    }
}

#[test]
fn runs_at_once_note_and_tell_each_once() {
    at_once(SHOPS, |open| {
        let shop = open();
        let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for (place, id) in ids.iter().enumerate() {
            if place % 2 == 0 {
                shop.is_settled_only_here(id);
            } else {
                shop.will_be_paid_late(id);
            }
        }
        let told: Vec<(String, String)> = std::thread::scope(|scope| {
            let runs = [(); 4].map(|()| scope.spawn(|| shop.reconcile().exits(0).told()));
            runs.into_iter()
                .flat_map(|run| run.join().unwrap())
                .collect()
        });
        let mut told: Vec<&str> = told.iter().map(|(id, _)| id.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, ids);
        let noted = "SELECT target_id FROM audit_log WHERE action = 'attention.noted' ORDER BY 1";
        assert_eq!(shop.query(noted), ids.join("\n"));
    });
}

#[test]
fn change_and_its_note_are_written_together_or_not_at_all() {
    for (there, additional, paid, reason) in [
        ("Expired", "PaidLate", BTC, "paid_late"),
        ("Invalid", "None", BTC, "invalid_but_paid"),
        ("Settled", "None", "0.0002", "amount_mismatch"),
    ] {
        for raise in ["ABORT", "ROLLBACK"] {
            let shop = Shop::open();
            let sale = shop.sale("a").there(there).redemption("pending");
            sale.additional(additional, paid).made();
            shop.sale("b").made();
            shop.sql(&REFUSES_NOTES.replace("ABORT", raise));
            shop.reconcile()
                .exits(3)
                .warns("error: invoice a (BTCPay invoice btc-a): [..]no notes today[..]");
            assert_eq!(shop.state("a"), "pending, pending, used 1", "{raise}");
            assert_eq!(shop.state("b"), "settled, licensed", "{raise}");
            let traces = "SELECT count(*) FROM audit_log WHERE details_json ->> 'invoice_id' = 'a'";
            assert_eq!(shop.query(traces), "0");

            shop.sql("DROP TRIGGER refuses");
            shop.reconcile().exits(0).tells(&[("a", reason)]);
            assert_ne!(shop.state("a"), "pending, pending, used 1");
        }
    }
}

#[test]
fn what_cannot_be_noted_is_told_once_it_can() {
    let shop = Shop::open();
    shop.is_settled_only_here("a");
    shop.sql(REFUSES_NOTES);
    for _ in 0..2 {
        shop.reconcile()
            .exits(3)
            .warns("error: invoice a (BTCPay invoice btc-a): [..]no notes today[..]");
    }
    shop.sql("DROP TRIGGER refuses");
    let told = shop.reconcile().exits(0);
    told.tells(&[("a", "settled_here_not_there")]);
}

// Reminded.

type Noting = fn(&Shop) -> Run;

/// When a recheck each hour tells what lasts for `days`, in hours since it was noted.
fn hours_told(shop: &Shop, days: i64) -> Vec<i64> {
    let mut told = Vec::new();
    // The hours around those that matter.
    let hours = (1..=days * 24).filter(|hour| *hour < 4 || (hour + 1) % 24 < 3);
    let mut now = 0;
    for hour in hours {
        shop.seconds_pass((hour - now) * HOUR);
        now = hour;
        if !shop.recheck().exits(0).told().is_empty() {
            told.push(hour);
        }
    }
    told
}

#[test]
fn reminders_come_ever_less_often_however_old_the_invoice() {
    let days = |days: &[i64]| days.iter().map(|day| day * 24).collect::<Vec<_>>();
    let cases: [(Noting, &[i64]); 3] = [
        // A mail within the hour.
        (|shop| shop.reconcile(), &[1]),
        (|shop| shop.reconcile().flag("a"), &[1]),
        (Shop::recheck, &[]),
    ];
    at_once(cases, |(noted_by, first)| {
        let shop = Shop::open();
        shop.is_settled_only_here("a");
        noted_by(&shop).exits(0);
        let told = hours_told(&shop, 15);
        assert_eq!(told, [first, &days(&[1, 3, 7, 14])].concat());
        // Told by a recheck five times in all.
        let mut life = vec!["noted|a|settled_here_not_there"];
        life.extend(["reminded|a|settled_here_not_there"; 5]);
        assert_eq!(shop.life(), life.join("\n"));
    });
}

#[test]
fn reminder_is_not_lost_if_no_recheck_ran_for_long() {
    let shop = Shop::open();
    shop.is_paid_late("a");
    shop.recheck().exits(0).tells(&[("a", "paid_late")]);
    shop.seconds_pass(100 * DAY);
    // A minute's run and a person's are not when it is due.
    shop.reconcile().exits(0).says_nothing();
    shop.reconcile().flag("-n").exits(0);
    shop.recheck()
        .exits(0)
        .tells(&[("a", "paid_late")])
        .says("21,000 sats, 100 d old: paid late");
    shop.recheck().exits(0).says_nothing();
}

#[test]
fn more_than_five_hundred_old_ones_take_turns_and_are_no_failure() {
    let shop = Shop::open();
    shop.many_sales(520, |_| "Expired");
    shop.btcpay.later(|invoices| {
        for invoice in invoices {
            invoice.additional = "PaidLate".into();
            invoice.paid = BTC.into();
        }
    })();
    shop.reconcile().exits(0);
    shop.seconds_pass(10 * DAY);
    let reminded = || {
        shop.query(
            "SELECT count(DISTINCT target_id) FROM audit_log WHERE action = 'attention.reminded'",
        )
    };
    let ran = shop.recheck().exits(0);
    assert_eq!(ran.told().len(), 10);
    assert!(
        line_matches(
            "20[..]Z 500 checked, 500 need attention; [..] ms",
            ran.stdout.trim_end()
        ),
        "{}",
        ran.stdout
    );
    assert_eq!(reminded(), "500");
    let mut runs = 0;
    while reminded() != "520" {
        runs += 1;
        assert!(runs < 100, "{}", reminded());
        shop.recheck().exits(0);
    }
}

type Making = fn(&Shop);

#[test]
fn one_off_is_told_by_the_next_recheck_and_never_again() {
    let made: [(Making, &str); 3] = [
        (
            |shop| shop.sale("a").additional("None", "0.0002").made(),
            "amount_mismatch",
        ),
        (
            |shop| {
                shop.sale("a").redemption("cancelled").made();
                shop.sql("UPDATE discount_codes SET max_uses = 1, used_count = 1");
            },
            "code_over_max_uses",
        ),
        (
            |shop| {
                shop.sale("a").made();
                shop.sql(
                    "UPDATE policies SET tip_recipient = 'artist@getalby.com', tip_pct_bps = 250",
                );
            },
            "tip_not_sent",
        ),
    ];
    for (make, reason) in made {
        for by_recheck in [false, true] {
            let shop = Shop::of_keysat();
            make(&shop);
            let run = if by_recheck {
                shop.recheck()
            } else {
                shop.reconcile()
            };
            run.exits(0).tells(&[("a", reason)]);
            shop.reconcile().exits(0).warns("");
            if !by_recheck {
                let dry = shop.reconcile().flag("-n").json(0);
                assert_eq!(dry["attention"][0]["reason"], reason, "it is to be told");
                shop.seconds_pass(HOUR);
                shop.recheck().exits(0).tells(&[("a", reason)]);
            }
            for days in [0, 1, 3, 30] {
                shop.seconds_pass(days * DAY);
                shop.recheck().exits(0).warns("");
            }
            let dry = shop.reconcile().flag("-n").json(0);
            assert_eq!(dry["attention"], json!([]), "{reason}");
        }
    }
}

#[test]
fn one_off_is_not_told_again_when_its_sale_is_completed() {
    for by_recheck in [false, true] {
        let shop = Shop::of_keysat();
        shop.sells_subscriptions("");
        shop.sale("a").additional("None", "0.0002").made();
        let run = || {
            if by_recheck {
                shop.recheck()
            } else {
                shop.reconcile()
            }
        };
        run().exits(0).tells(&[("a", "amount_mismatch")]);
        shop.sql("DELETE FROM subscription_invoices; DELETE FROM subscriptions");
        shop.seconds_pass(HOUR);
        let completed = run().exits(0).warns("").stdout;
        assert!(
            completed.contains(": subscription completed"),
            "{completed}"
        );
        let told = if by_recheck {
            "\nreminded|a|amount_mismatch"
        } else {
            ""
        };
        assert_eq!(shop.life(), format!("noted|a|amount_mismatch{told}"));
    }
}

// Over.

#[test]
fn what_ends_it_is_one_line_in_the_report() {
    type Way = (fn(&Shop), &'static str, fn(&Shop));
    let ways: [Way; 9] = [
        (
            |shop| shop.is_paid_late("a"),
            "paid_late",
            |shop| shop.btcpay.mark("btc-a", "Settled"),
        ),
        (
            |shop| shop.is_paid_late("a"),
            "paid_late",
            |shop| shop.btcpay.mark("btc-a", "Invalid"),
        ),
        (
            |shop| shop.is_settled_only_here("a"),
            "settled_here_not_there",
            |shop| shop.sql("UPDATE invoices SET status = 'pending'"),
        ),
        (
            |shop| shop.is_settled_only_here("a"),
            "settled_here_not_there",
            |shop| shop.sql("DELETE FROM invoices"),
        ),
        // The service has a status of its own for it.
        (
            |shop| shop.is_settled_only_here("a"),
            "settled_here_not_there",
            |shop| {
                shop.sql(
                    "PRAGMA ignore_check_constraints = on; UPDATE invoices SET status = 'refunded'",
                );
            },
        ),
        (
            |shop| shop.has_a_license_by_hand(),
            "license_by_hand",
            |shop| shop.sql("UPDATE licenses SET invoice_id = 'a'"),
        ),
        (
            |shop| shop.has_a_license_by_hand(),
            "license_by_hand",
            |shop| shop.sql("DELETE FROM licenses"),
        ),
        // The service was late.
        (
            |shop| shop.sale("a").here("settled").there("Processing").made(),
            "settled_here_not_there",
            |shop| {
                shop.sql(
                    "INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
                     VALUES ('late', 'pro', 'a', 'active', datetime())",
                );
            },
        ),
        (
            |shop| {
                shop.sale("a")
                    .here("settled")
                    .there("Expired")
                    .licensed()
                    .made();
            },
            "licensed_not_paid",
            |shop| shop.sql("UPDATE licenses SET status = 'revoked'"),
        ),
    ];
    for (make, reason, end) in ways {
        for as_json in [false, true] {
            let shop = Shop::open();
            make(&shop);
            shop.recheck().exits(0).tells(&[("a", reason)]);
            end(&shop);
            let is_gone =
                shop.query("SELECT count(*) FROM invoices WHERE status <> 'refunded'") == "0";
            if as_json {
                let report = shop.recheck().json(0);
                let btcpay_id = if is_gone { Value::Null } else { json!("btc-a") };
                assert_eq!(
                    report["resolved"],
                    json!([{"invoice_id": "a", "btcpay_invoice_id": btcpay_id, "reason": reason}])
                );
                assert_eq!(report["attention"], json!([]), "{reason}");
            } else {
                let ran = shop.recheck().exits(0).warns("");
                let words = reason.replace('_', " ");
                let line = if is_gone {
                    format!("invoice a: over: {words}")
                } else {
                    format!("invoice a (BTCPay invoice btc-a): over: {words}")
                };
                assert_eq!(over(&ran), [line]);
                assert!(ran.stdout.contains(", 1 over; "), "{}", ran.stdout);
            }
            assert_eq!(
                shop.life(),
                format!("noted|a|{reason}\nreminded|a|{reason}\nresolved|a|{reason}")
            );
            shop.seconds_pass(8 * DAY);
            assert_eq!(over(&shop.recheck().exits(0).warns("")), [""; 0]);
        }
    }
}

#[test]
fn decision_of_a_person_ends_the_doubt_at_once() {
    let shop = Shop::open();
    shop.has_a_license_by_hand();
    shop.reconcile().exits(0).tells(&[("a", "license_by_hand")]);
    let issued = shop.reconcile().option("--issue", "a").exits(0).warns("");
    assert_eq!(
        over(&issued),
        ["invoice a (BTCPay invoice btc-a): over: license by hand"]
    );
    assert_eq!(
        shop.life(),
        "noted|a|license_by_hand\nresolved|a|license_by_hand"
    );
    shop.seconds_pass(HOUR);
    shop.recheck().exits(0).says_nothing();
}

#[test]
fn trouble_that_comes_back_is_noted_and_told_anew() {
    let shop = Shop::open();
    shop.is_settled_only_here("a");
    for _ in 0..2 {
        shop.recheck()
            .exits(0)
            .tells(&[("a", "settled_here_not_there")]);
        shop.sql("UPDATE invoices SET status = 'pending'");
        assert_eq!(over(&shop.recheck().exits(0)).len(), 1);
        shop.sql("UPDATE invoices SET status = 'settled'");
    }
    // Another reason is another trouble.
    shop.recheck()
        .exits(0)
        .tells(&[("a", "settled_here_not_there")]);
    shop.sql("UPDATE invoices SET status = 'expired'");
    shop.btcpay.change("btc-a", |invoice| {
        invoice.status = "Expired".into();
        invoice.additional = "PaidPartial".into();
        invoice.paid = "0.0001".into();
    });
    let ran = shop.recheck().exits(0).tells(&[("a", "paid_partial")]);
    assert_eq!(over(&ran).len(), 1);
}

#[test]
fn dry_run_shows_what_would_be_over_and_notes_nothing() {
    let shop = Shop::open();
    shop.is_paid_late("a");
    shop.recheck().exits(0);
    shop.btcpay.mark("btc-a", "Invalid");
    for _ in 0..2 {
        let dry = shop.reconcile().flag("-n").exits(0);
        assert_eq!(
            over(&dry),
            ["invoice a (BTCPay invoice btc-a): over: paid late"]
        );
    }
    assert_eq!(shop.life(), "noted|a|paid_late\nreminded|a|paid_late");
}

#[test]
fn invoice_of_another_store_is_left_alone() {
    let shop = Shop::of_keysat();
    shop.has_provider(
        "other",
        "btcpay",
        "https://other.example.com",
        "another-store",
    );
    shop.is_settled_only_here("a");
    shop.sql("UPDATE invoices SET payment_provider_id = 'btcpay'");
    shop.reconcile()
        .exits(0)
        .tells(&[("a", "settled_here_not_there")]);
    // As the run for the other store sees it.
    shop.sql("UPDATE invoices SET payment_provider_id = 'other'");
    shop.btcpay.requests();
    for days in [0, 1, 30] {
        shop.seconds_pass(days * DAY);
        shop.recheck().exits(0).says_nothing();
        let report = shop.recheck().json(0);
        assert_eq!(report["attention"], json!([]));
        assert_eq!(report["resolved"], json!([]));
    }
    assert_eq!(shop.btcpay.requests(), [""; 0]);
    assert_eq!(shop.life(), "noted|a|settled_here_not_there");
}

// Told.

#[test]
fn quiet_minute_leaves_the_telling_to_the_recheck() {
    let shop = Shop::open();
    shop.will_be_paid_late("a");
    shop.reconcile().flag("-q").exits(0).warns("");
    assert_eq!(shop.life(), "noted|a|paid_late");
    shop.recheck().exits(0).tells(&[("a", "paid_late")]);
}

#[test]
fn ten_are_told_and_all_are_noted() {
    for (count, told, rest) in [
        (10, 10, None),
        (11, 10, Some("and 1 more: reconcile --dry-run")),
        (140, 10, Some("and 130 more: reconcile --dry-run")),
    ] {
        let shop = Shop::open();
        shop.many_sales(count, |_| "Expired");
        shop.btcpay.later(|invoices| {
            for invoice in invoices {
                invoice.additional = "PaidLate".into();
                invoice.paid = BTC.into();
            }
        })();
        let ran = shop.reconcile().exits(0);
        assert_eq!(ran.told().len(), told);
        let last = ran.stderr.rsplit("\n\n").next().unwrap().trim_end();
        assert_eq!(rest.is_some(), rest == Some(last), "{last}");
        let summary = format!("{count} changed, {count} need attention");
        assert!(ran.stdout.contains(&summary), "{}", ran.stdout);
        let noted = "SELECT count(DISTINCT target_id), count(*) FROM audit_log
                      WHERE action = 'attention.noted'";
        assert_eq!(shop.query(noted), format!("{count}|{count}"));
    }
}

#[test]
fn most_urgent_comes_first_whatever_its_age() {
    let shop = Shop::open();
    let time = |hours: i64| format!("datetime('now', '-{hours} hours')");
    let ages: Vec<String> = (0..6).map(|place| time(20 - place)).collect();
    shop.sale("gone").created(&ages[0]).made();
    let sale = shop.sale("mismatch").created(&ages[1]);
    sale.additional("None", "0.0002").made();
    let sale = shop.sale("half").created(&ages[2]);
    sale.here("settled").there("New").made();
    let sale = shop.sale("given").created(&ages[3]);
    sale.here("settled").there("Expired").licensed().made();
    let sale = shop.sale("late").created(&ages[4]).there("Expired");
    sale.additional("PaidLate", BTC).made();
    let sale = shop.sale("invalid").created(&ages[5]);
    sale.there("Invalid").made();
    shop.btcpay
        .later(|invoices| invoices.retain(|invoice| invoice.id != "btc-gone"))();
    let expected = [
        ("late", "paid_late"),
        ("invalid", "invalid_but_paid"),
        ("half", "settled_here_not_there"),
        ("given", "licensed_not_paid"),
        ("mismatch", "amount_mismatch"),
        ("gone", "not_in_btcpay"),
    ];
    let dry = shop.recheck().flag("-n").json(0);
    let items = dry["attention"].as_array().unwrap();
    let order: Vec<&str> = items
        .iter()
        .map(|item| item["invoice_id"].as_str().unwrap())
        .collect();
    assert_eq!(order, expected.map(|(id, _)| id));
    shop.recheck().exits(0).tells(&expected);
}

#[test]
fn stopped_run_tells_what_it_has_noted() {
    let shop = Shop::open();
    shop.many_sales(1_200, |_| "Expired");
    shop.btcpay.later(|invoices| {
        for invoice in invoices {
            invoice.additional = "PaidLate".into();
            invoice.paid = BTC.into();
        }
    })();
    shop.btcpay.fails("later page", Fault::Hang);
    for place in 0..1_200 {
        shop.btcpay.fails(&format!("btc-{place}"), Fault::Hang);
    }
    let (died_of, stdout, stderr) = stopped_by("TERM", &shop);
    assert_eq!(died_of, Some(15), "{stdout}{stderr}");
    let noted: BTreeSet<String> = shop
        .query("SELECT target_id FROM audit_log WHERE action = 'attention.noted'")
        .lines()
        .map(String::from)
        .collect();
    let (blocks, rest) = stderr.rsplit_once("\n\n").unwrap();
    let blocks: Vec<&str> = blocks.split("\n\n").collect();
    assert_eq!(blocks.len(), 10, "{stderr}");
    for block in blocks {
        let (_, id) = block.rsplit_once("\ninvoice ").unwrap();
        assert!(noted.contains(id), "{id}");
    }
    let rest = rest.lines().next().unwrap();
    assert_eq!(
        rest,
        format!("and {} more: reconcile --dry-run", noted.len() - 10)
    );
    let summary = format!(
        "[..]{} need attention; [..]stopped by SIGTERM[..]",
        noted.len()
    );
    assert!(
        line_matches(&summary, stdout.lines().last().unwrap()),
        "{stdout}"
    );
}

// Use counts.

#[test]
fn wrong_use_count_is_named_with_what_mends_it_and_never_mailed() {
    for open in SHOPS {
        for wrong in [0, 1, 7] {
            let shop = open();
            let sale = shop.sale("a").here("settled").licensed();
            sale.redemption("redeemed").made();
            shop.sale("b").there("New").redemption("pending").made();
            shop.sale("c").there("New").redemption("cancelled").made();
            for run in [shop.recheck(), shop.reconcile().flag("-n")] {
                let right = run.json(0);
                assert_eq!(right["count_drift"], json!([]));
            }
            shop.sql(&format!("UPDATE discount_codes SET used_count = {wrong}"));
            shop.reconcile().exits(0).says_nothing();
            assert_eq!(shop.reconcile().json(0)["count_drift"], json!([]));
            for run in [
                |shop: &Shop| shop.recheck(),
                |shop: &Shop| shop.reconcile().flag("-n"),
            ] {
                let ran = run(&shop).exits(0).warns("");
                let begin = format!("code LAUNCH: used_count is {wrong}, but 2 [..]: UPDATE [..];");
                let named = ran.stdout.lines().any(|line| line_matches(&begin, line));
                assert!(named, "{}", ran.stdout);
                let report = run(&shop).json(0);
                let drift = &report["count_drift"][0];
                assert_eq!(
                    (&drift["code"], &drift["used_count"], &drift["held"]),
                    (&json!("LAUNCH"), &json!(wrong), &json!(2))
                );
            }
            assert_eq!(shop.life(), "");
            let report = shop.recheck().json(0);
            shop.sql(report["count_drift"][0]["sql"].as_str().unwrap());
            assert_eq!(shop.query("SELECT used_count FROM discount_codes"), "2");
            shop.recheck().exits(0).says_nothing();
        }
    }
}

impl Shop {
    /// A paid sale `a`, settled without a license, whose buyer has one by hand.
    fn has_a_license_by_hand(&self) {
        self.sale("a").here("settled").made();
        self.sql(
            "INSERT INTO licenses (id, product_id, buyer_email, status, issued_at)
             VALUES ('gift', 'pro', 'a@example.com', 'active', datetime('now', '-5 minutes'))",
        );
    }
}

#[test]
fn recheck_that_is_quiet_reminds_nobody() {
    let shop = Shop::open();
    let late = shop.sale("late").here("expired").there("Expired");
    late.additional("PaidLate", "0.00021").made();
    let recheck = || shop.reconcile().flag("--recheck");
    recheck().flag("-q").exits(0).warns("");
    recheck().flag("-q").exits(0).warns("");
    recheck().exits(0).tells(&[("late", "paid_late")]);
    recheck().exits(0).says_nothing();
}

#[test]
fn what_nobody_could_read_is_told_by_the_next_recheck() {
    let shop = Shop::open();
    let late = shop.sale("late").here("expired").there("Expired");
    late.additional("PaidLate", "0.00021").made();
    let (_, gone) = std::io::pipe().unwrap();
    for unread in [Stdio::from(full_disk()), Stdio::from(gone)] {
        let lost = shop.recheck().command().stderr(unread).status();
        assert_eq!(lost.unwrap().code(), Some(1));
    }
    shop.recheck().exits(0).tells(&[("late", "paid_late")]);
    shop.recheck().exits(0).says_nothing();
}

#[test]
fn one_offs_beyond_the_tenth_are_told_by_the_next_recheck() {
    let shop = Shop::open();
    for place in 0..12 {
        let sale = format!("s{place}");
        shop.sale(&sale).additional("None", "0.0002").made();
    }
    let told: Vec<usize> = (0..3)
        .map(|_| shop.recheck().exits(0).told().len())
        .collect();
    assert_eq!(told, [10, 2, 0]);
}

#[test]
fn complete_sale_that_btcpay_does_not_know_is_counted_and_no_failure() {
    let shop = Shop::open();
    shop.sale("a").here("settled").licensed().made();
    shop.btcpay.later(Vec::clear)();
    shop.recheck().exits(0).warns("");
    let dry = shop.recheck().flag("-n").json(0);
    assert_eq!(dry["not_in_store"], 1);
}

#[test]
fn license_given_despite_an_acknowledgement_ends_it() {
    let shop = Shop::open();
    shop.sale("a").made();
    let ran = shop.reconcile().flag("--acknowledge").flag("a").exits(0);
    assert!(ran.stdout.contains("acknowledged"), "{}", ran.stdout);
    shop.reconcile().option("--issue", "a").exits(0);
    // As it was acknowledged, but for the license that is gone.
    shop.sql("DELETE FROM licenses; UPDATE invoices SET status = 'pending'");
    shop.recheck().exits(0).tells(&[("a", "license_deleted")]);
}

#[test]
fn notes_have_no_field_that_is_not_known() {
    let shop = Shop::open();
    shop.is_paid_late("late");
    shop.is_paid_late("gone");
    shop.reconcile().exits(0);
    shop.seconds_pass(DAY);
    // A reminder knows one of the ids, and so does the end of what is no longer there.
    shop.recheck().exits(0).says("invoice late");
    shop.sql("DELETE FROM invoices WHERE id = 'gone'");
    shop.recheck().exits(0);
    assert_eq!(
        shop.query(
            "SELECT target_id, action, json_type(details_json, '$.btcpay_invoice_id')
               FROM audit_log WHERE actor_kind = 'reconcile' AND details_json LIKE '%null%'"
        ),
        ""
    );
    assert_eq!(
        shop.query(
            "SELECT target_id, action, details_json -> '$.btcpay_invoice_id'
               FROM audit_log WHERE actor_kind = 'reconcile' ORDER BY target_id, action"
        ),
        "gone|attention.noted|\"btc-gone\"\n\
         gone|attention.reminded|NULL\n\
         gone|attention.resolved|NULL\n\
         late|attention.noted|\"btc-late\"\n\
         late|attention.reminded|NULL"
    );
}
