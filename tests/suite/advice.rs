//! Whoever does what a message says is rid of it: every way out of every reason, followed to the letter.

use serde_json::{Value, json};

use crate::btcpay::Payment;
use crate::person::{Act, Block};
use crate::shop::{Shop, at_once};

/// A way out: lines of the block, by how they begin, and what a person does about each.
type Way = &'static [(&'static str, Act)];

type Prepare = fn(&Shop);

/// How a sale `a` comes to need a person, why, and every way out.
struct Case {
    makes: fn() -> Shop,
    reason: &'static str,
    ways: &'static [Way],
}

const ACCEPT: Way = &[("To accept the sale", Act::Mark("Settled"))];
const REFUSE: Way = &[(
    "To refuse it, refund the buyer and mark",
    Act::Mark("Invalid"),
)];
const REFUSE_INVALID: Way = &[("To refuse it, refund the buyer, then", Act::Copy)];

/// The sale `a`, closed in BTCPay with this money, each payment with the seconds from the end of the
/// checkout to it.
fn closed([there, additional, counted]: [&str; 3], payments: &[(&str, i64, bool)]) -> Shop {
    let shop = Shop::of_keysat();
    let sale = shop.sale("a").there(there).redemption("pending");
    sale.additional(additional, counted).made();
    shop.btcpay.change("btc-a", |invoice| {
        for (value, after, is_confirmed) in payments {
            let mut payment = Payment::new(value, invoice.created + 900 + after);
            if *is_confirmed {
                payment.status = "Settled".into();
            }
            invoice.payments.push(payment);
        }
    });
    shop
}

fn of_keysat(prepare: Prepare) -> Shop {
    let shop = Shop::of_keysat();
    shop.sale("a").redemption("pending").made();
    prepare(&shop);
    shop
}

const MONEY_ON_CLOSED: [Case; 9] = [
    Case {
        makes: || closed(["Expired", "PaidLate", "0.00021"], &[("0.00021", 40, true)]),
        reason: "paid_late",
        ways: &[ACCEPT, REFUSE],
    },
    Case {
        makes: || {
            closed(
                ["Expired", "PaidLate", "0.00021"],
                &[("0.00021", 40, false)],
            )
        },
        reason: "paid_late",
        ways: &[ACCEPT, REFUSE],
    },
    Case {
        makes: || closed(["Expired", "PaidLate", "0.0005"], &[("0.0005", 40, true)]),
        reason: "paid_late",
        ways: &[ACCEPT, REFUSE],
    },
    // Its payments are unknown.
    Case {
        makes: || closed(["Expired", "PaidLate", "0.00021"], &[]),
        reason: "paid_late",
        ways: &[ACCEPT, REFUSE],
    },
    Case {
        makes: || {
            closed(
                ["Expired", "PaidPartial", "0.00015"],
                &[("0.00015", -40, true)],
            )
        },
        reason: "paid_partial",
        ways: &[ACCEPT, REFUSE],
    },
    Case {
        makes: || {
            closed(
                ["Expired", "PaidPartial", "0.00001"],
                &[("0.00001", 40, true)],
            )
        },
        reason: "paid_partial",
        ways: &[ACCEPT, REFUSE],
    },
    Case {
        makes: || closed(["Invalid", "None", "0.00021"], &[("0.00021", -40, true)]),
        reason: "invalid_but_paid",
        ways: &[ACCEPT, REFUSE_INVALID],
    },
    Case {
        makes: || closed(["Invalid", "None", "0.00021"], &[("0.00021", -40, false)]),
        reason: "invalid_but_paid",
        ways: &[ACCEPT, REFUSE_INVALID],
    },
    // The service does the rest of a renewal.
    Case {
        makes: || {
            let shop = closed(["Expired", "PaidLate", "0.00021"], &[("0.00021", 40, true)]);
            shop.is_a_renewal("a");
            shop
        },
        reason: "paid_late",
        ways: &[
            &[
                ("To accept the sale", Act::Mark("Settled")),
                ("To accept the sale", Act::Serve(renews)),
            ],
            REFUSE,
        ],
    },
];

/// What the service leaves half done, and what BTCPay says of it.
fn half_done(there: &str, is_licensed: bool) -> Shop {
    let shop = Shop::open();
    let sale = shop.sale("a").here("settled").there(there);
    let sale = sale.redemption("pending");
    if is_licensed { sale.licensed() } else { sale }.made();
    shop
}

fn licensed(there: &str, additional: &str) -> Shop {
    let shop = Shop::open();
    let sale = shop.sale("a").here("settled").there(there).licensed();
    sale.additional(additional, "0").made();
    shop
}

const CORRECT: &[Way] = &[
    &[("If the money came and stayed", Act::Mark("Settled"))],
    &[("If not, correct the row", Act::Copy)],
];
const CORRECT_AND_REVOKE: &[Way] = &[
    &[("If the money came and stayed", Act::Mark("Settled"))],
    &[
        ("If not, revoke license lic-a", Act::Revoke),
        ("If not, revoke license lic-a", Act::Copy),
    ],
];
const PAY_OR_REVOKE: &[Way] = &[
    &[("If the money came", Act::Mark("Settled"))],
    &[("If not", Act::Revoke)],
    &[("To leave it as it is", Act::Copy)],
];

const NOT_PAID: [Case; 11] = [
    Case {
        makes: || half_done("New", false),
        reason: "settled_here_not_there",
        ways: CORRECT,
    },
    Case {
        makes: || half_done("Processing", false),
        reason: "settled_here_not_there",
        ways: CORRECT,
    },
    Case {
        makes: || half_done("Expired", false),
        reason: "settled_here_not_there",
        ways: CORRECT,
    },
    Case {
        makes: || {
            let shop = half_done("Invalid", true);
            shop.btcpay
                .change("btc-a", |invoice| invoice.additional = "Marked".into());
            shop
        },
        reason: "settled_here_not_there",
        ways: CORRECT_AND_REVOKE,
    },
    Case {
        makes: || half_done("Expired", true),
        reason: "settled_here_not_there",
        ways: CORRECT_AND_REVOKE,
    },
    Case {
        makes: || half_done("New", true),
        reason: "settled_here_not_there",
        ways: CORRECT_AND_REVOKE,
    },
    Case {
        makes: || {
            let shop = half_done("Expired", true);
            shop.sql("UPDATE licenses SET status = 'revoked'");
            shop
        },
        reason: "settled_here_not_there",
        ways: CORRECT,
    },
    Case {
        makes: || licensed("New", "None"),
        reason: "licensed_not_paid",
        ways: PAY_OR_REVOKE,
    },
    Case {
        makes: || licensed("Expired", "None"),
        reason: "licensed_not_paid",
        ways: PAY_OR_REVOKE,
    },
    Case {
        makes: || licensed("Invalid", "None"),
        reason: "licensed_not_paid",
        ways: PAY_OR_REVOKE,
    },
    Case {
        makes: || licensed("Invalid", "Marked"),
        reason: "licensed_not_paid",
        ways: PAY_OR_REVOKE,
    },
];

/// The sale `a`, as the service has it, is not in BTCPay, where others are.
fn gone(here: &str, redemption: &str, is_licensed: bool) -> Shop {
    let shop = Shop::open();
    shop.sale("paid").here("settled").licensed().made();
    let sale = shop.sale("a").here(here).redemption(redemption);
    if is_licensed { sale.licensed() } else { sale }.made();
    shop.btcpay
        .later(|invoices| invoices.retain(|invoice| invoice.id != "btc-a"))();
    shop
}

fn completes(shop: &Shop) {
    shop.sql(
        "UPDATE invoices SET status = 'settled' WHERE id = 'a';
         INSERT OR IGNORE INTO licenses (id, product_id, invoice_id) VALUES ('late', 'pro', 'a');
         UPDATE discount_redemptions SET status = 'redeemed', license_id = (SELECT id FROM licenses WHERE invoice_id = 'a')",
    );
}

const GONE: [Case; 4] = [
    Case {
        makes: || gone("pending", "pending", false),
        reason: "not_in_btcpay",
        ways: &[&[("If no money came, close it", Act::Copy)]],
    },
    Case {
        makes: || gone("expired", "pending", false),
        reason: "not_in_btcpay",
        ways: &[&[("If no money came, close it", Act::Copy)]],
    },
    Case {
        makes: || gone("settled", "pending", false),
        reason: "not_in_btcpay",
        ways: &[
            &[("If the money came", Act::Serve(completes))],
            &[("If not, close it", Act::Copy)],
        ],
    },
    Case {
        makes: || gone("settled", "pending", true),
        reason: "not_in_btcpay",
        ways: &[
            &[("If the money came", Act::Serve(completes))],
            &[
                ("If not, revoke license lic-a", Act::Revoke),
                ("If not, revoke license lic-a", Act::Copy),
            ],
        ],
    },
];

const BY_HAND: &str = "INSERT INTO licenses (id, product_id, status, issued_at, buyer_email)
     VALUES ('gift', 'pro', 'active', datetime(), 'a@example.com')";

fn gives_by_hand(shop: &Shop) {
    shop.sql(&BY_HAND.replace("a@example.com", "b@example.com"));
}

const ISSUE_OR_LINK: &[Way] = &[
    &[("To issue it on the product's default terms", Act::Copy)],
    &[
        ("If one exists", Act::Serve(gives_by_hand)),
        ("If one exists", Act::CopyFor("gift")),
    ],
    &[("If none is owed", Act::Copy)],
];

const NO_LONGER_OWED: &[Way] = &[
    &[("If the buyer is still owed a license", Act::Copy)],
    &[
        ("If one exists", Act::Serve(gives_by_hand)),
        ("If one exists", Act::CopyFor("gift")),
    ],
    &[("If none is owed", Act::Copy)],
];

const DOUBTS: [Case; 6] = [
    Case {
        makes: || of_keysat(|shop| shop.sql(BY_HAND)),
        reason: "license_by_hand",
        ways: &[
            &[("If it is for this sale", Act::Copy)],
            &[("If not", Act::Copy)],
            &[("If none is owed", Act::Copy)],
        ],
    },
    // It was issued by this program and deleted by someone.
    Case {
        makes: || {
            let shop = Shop::open();
            shop.sale("a").redemption("pending").made();
            shop.reconcile().exits(0);
            shop.sql("DELETE FROM licenses");
            shop.seconds_pass(3600);
            shop
        },
        reason: "license_deleted",
        ways: NO_LONGER_OWED,
    },
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.sql(
                    "INSERT INTO audit_log (actor_kind, action, target_kind, target_id, occurred_at)
                     VALUES ('admin_api_key', 'policy.delete', 'policy', 'gone', strftime('%Y-%m-%dT%H:%M:%f+00:00'));
                     UPDATE invoices SET status = 'settled'",
                );
            })
        },
        reason: "license_deleted",
        ways: NO_LONGER_OWED,
    },
    Case {
        makes: || of_keysat(|shop| shop.sql("UPDATE invoices SET policy_id = 'gone'")),
        reason: "policy_missing",
        ways: ISSUE_OR_LINK,
    },
    // An id that a shell and SQL would take apart.
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.sql(
                    "UPDATE invoices SET policy_id = 'gone', id = '-n it''s; \"$HOME\"';
                     UPDATE discount_redemptions SET invoice_id = '-n it''s; \"$HOME\"'",
                );
            })
        },
        reason: "policy_missing",
        ways: ISSUE_OR_LINK,
    },
    Case {
        makes: || of_keysat(|shop| shop.sql("UPDATE invoices SET product_id = 'gone'")),
        reason: "product_missing",
        ways: &[
            &[("Restore the product", Act::Serve(restores))],
            &[("Or refund the buyer", Act::Copy)],
        ],
    },
];

fn restores(shop: &Shop) {
    shop.sql(
        "INSERT INTO products (id, slug, name, price_sats, created_at, updated_at)
         VALUES ('gone', 'gone', 'Gone', 21000, datetime(), datetime())",
    );
}

/// As Keysat does when the webhook comes.
fn upgrades(shop: &Shop) {
    shop.sql(
        "UPDATE licenses SET policy_id = 'plus' WHERE id = 'old';
         UPDATE invoices SET status = 'settled' WHERE id = 'a';
         INSERT INTO audit_log (actor_kind, action, target_kind, target_id, occurred_at)
         VALUES ('system', 'subscription.upgrade.applied', 'subscription', 'change', datetime())",
    );
}

/// As an operator does by hand.
fn changes_the_tier(shop: &Shop) {
    shop.sql(
        "UPDATE licenses SET policy_id = 'plus' WHERE id = 'old';
         INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                   invoice_id, effective_at, actor, created_at)
         VALUES ('by hand', 'old', 'pro-default', 'plus', 'upgrade', 'SAT', NULL, datetime(), 'admin', datetime())",
    );
}

/// As Keysat does when the webhook comes.
fn renews(shop: &Shop) {
    shop.sql(
        "UPDATE subscriptions SET status = 'active';
         UPDATE invoices SET status = 'settled' WHERE id = 'a'",
    );
}

fn extends_the_subscription(shop: &Shop) {
    shop.sql("UPDATE subscriptions SET status = 'active'");
}

fn has_a_surplus_license(shop: &Shop) {
    shop.sql(
        "INSERT INTO licenses (id, product_id, invoice_id, status, issued_at)
         VALUES ('surplus', 'pro', 'a', 'active', datetime())",
    );
}

const REDELIVER: &str = "Redeliver the invoice's InvoiceSettled webhook";
const BY_HAND_IN_THE_SERVICE: &str = "If that does not help, do it by hand";
const DONE: &str = "Once it is done, or refunded";
const SURPLUS: &str = "Revoke license surplus";
const IF_A_PURCHASE: &str = "Only its note says that it was not a purchase";

const MISSED: [Case; 9] = [
    Case {
        makes: || of_keysat(|shop| shop.is_a_tier_change("a")),
        reason: "tier_change_paid",
        ways: &[
            &[(REDELIVER, Act::Serve(upgrades))],
            &[
                (BY_HAND_IN_THE_SERVICE, Act::Serve(changes_the_tier)),
                (BY_HAND_IN_THE_SERVICE, Act::Copy),
            ],
            &[(DONE, Act::Copy)],
        ],
    },
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.is_a_tier_change("a");
                shop.sql("UPDATE invoices SET status = 'settled'");
            })
        },
        reason: "tier_change_paid",
        ways: &[
            &[(REDELIVER, Act::Serve(upgrades))],
            &[(BY_HAND_IN_THE_SERVICE, Act::Serve(changes_the_tier))],
            &[(DONE, Act::Copy)],
        ],
    },
    Case {
        makes: || of_keysat(|shop| shop.is_a_renewal("a")),
        reason: "renewal_paid",
        ways: &[
            &[(REDELIVER, Act::Serve(renews))],
            &[
                (BY_HAND_IN_THE_SERVICE, Act::Serve(extends_the_subscription)),
                (BY_HAND_IN_THE_SERVICE, Act::Copy),
            ],
            &[(DONE, Act::Copy)],
        ],
    },
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.is_a_renewal("a");
                shop.sql("UPDATE invoices SET status = 'settled'");
            })
        },
        reason: "renewal_paid",
        ways: &[
            &[(REDELIVER, Act::Serve(renews))],
            &[(BY_HAND_IN_THE_SERVICE, Act::Serve(extends_the_subscription))],
            &[(DONE, Act::Copy)],
        ],
    },
    // The service has done it, and then issued a license.
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.is_a_tier_change("a");
                upgrades(shop);
                has_a_surplus_license(shop);
            })
        },
        reason: "tier_change_paid",
        ways: &[&[(SURPLUS, Act::Revoke)]],
    },
    // It has issued a license in its stead.
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.is_a_tier_change("a");
                has_a_surplus_license(shop);
            })
        },
        reason: "tier_change_paid",
        ways: &[
            &[(REDELIVER, Act::Serve(upgrades)), (SURPLUS, Act::Revoke)],
            &[
                (BY_HAND_IN_THE_SERVICE, Act::Serve(changes_the_tier)),
                (BY_HAND_IN_THE_SERVICE, Act::Copy),
                (SURPLUS, Act::Revoke),
            ],
            &[(SURPLUS, Act::Revoke), (DONE, Act::Copy)],
        ],
    },
    // Only the note is left.
    Case {
        makes: || of_keysat(|shop| shop.sql("UPDATE invoices SET buyer_note = 'tier upgrade'")),
        reason: "tier_change_paid",
        ways: &[
            &[(REDELIVER, Act::Nothing), (DONE, Act::Copy)],
            &[(BY_HAND_IN_THE_SERVICE, Act::Copy), (DONE, Act::Copy)],
            &[(IF_A_PURCHASE, Act::Copy)],
        ],
    },
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.sql(
                    "UPDATE invoices SET buyer_note = 'Renewal cycle for subscription sub', status = 'settled'",
                );
            })
        },
        reason: "renewal_paid",
        ways: &[
            &[(REDELIVER, Act::Nothing), (DONE, Act::Copy)],
            &[(BY_HAND_IN_THE_SERVICE, Act::Nothing), (DONE, Act::Copy)],
            &[(IF_A_PURCHASE, Act::Copy)],
        ],
    },
    // A license that only the note says is owed to nobody, and whose subscription is missing.
    Case {
        makes: || {
            of_keysat(|shop| {
                shop.sells_subscriptions("");
                shop.sql(
                    "UPDATE invoices SET buyer_note = 'tier upgrade', status = 'settled';
                     INSERT INTO licenses (id, product_id, invoice_id, policy_id, status, issued_at)
                     VALUES ('surplus', 'pro', 'a', 'pro-default', 'active', datetime())",
                );
            })
        },
        reason: "tier_change_paid",
        ways: &[
            &[
                (REDELIVER, Act::Nothing),
                (SURPLUS, Act::Revoke),
                (DONE, Act::Copy),
            ],
            &[
                (BY_HAND_IN_THE_SERVICE, Act::Nothing),
                (SURPLUS, Act::Revoke),
                (DONE, Act::Copy),
            ],
            &[(IF_A_PURCHASE, Act::Copy)],
        ],
    },
];

#[test]
fn money_on_a_closed_invoice() {
    at_once(MONEY_ON_CLOSED, |case| case.ends());
}

#[test]
fn settled_here_but_not_paid() {
    at_once(NOT_PAID, |case| case.ends());
}

#[test]
fn row_is_corrected_and_then_the_money_is_told() {
    let shop = half_done("Invalid", false);
    let told = shop.reconcile().flag("--recheck").exits(0);
    let [block] = &Block::of(&told.stderr)[..] else {
        panic!("{}", told.stderr);
    };
    assert_eq!(
        block.steps().last(),
        Some("Then the next --recheck says what to do about the money that came.")
    );
    block.follow(&shop, "If not, correct the row", Act::Copy);
    let told = shop.reconcile().flag("--recheck").exits(0);
    let [block] = &Block::of(&told.stderr)[..] else {
        panic!("{}", told.stderr);
    };
    assert_eq!(block.reason(), "invalid_but_paid");
    block.follow(&shop, REFUSE_INVALID[0].0, Act::Copy);
    shop.is_rid_of_it(&told.stderr);
}

#[test]
fn gone_from_btcpay() {
    at_once(GONE, |case| case.ends());
}

#[test]
fn license_in_doubt() {
    at_once(DOUBTS, |case| case.ends());
}

#[test]
fn work_that_the_service_missed() {
    at_once(MISSED, |case| case.ends());
}

/// What came with a change, and is told once where a person reads it.
const TOLD_ONCE: [(Prepare, &str, &str); 3] = [
    (
        |shop| {
            shop.btcpay
                .change("btc-a", |invoice| invoice.amount = "0.0002".into());
        },
        "amount_mismatch",
        "Find out which amount is wrong. It is mailed only once.",
    ),
    (
        |shop| {
            shop.sql(
                "UPDATE discount_redemptions SET status = 'cancelled';
                 UPDATE discount_codes SET used_count = 5",
            );
        },
        "code_over_max_uses",
        "Raise the code's limit, or leave it. It is mailed only once.",
    ),
    (
        |shop| shop.sql("UPDATE policies SET tip_recipient = 'artist', tip_pct_bps = 250"),
        "tip_not_sent",
        "Send them by hand. It is mailed only once.",
    ),
];

#[test]
fn what_is_done_is_mailed_once() {
    for (prepare, reason, step) in TOLD_ONCE {
        let shop = of_keysat(prepare);
        shop.reconcile().exits(0).tells(&[("a", reason)]);
        shop.reconcile().exits(0).warns("");
        shop.seconds_pass(3600);
        let mail = shop.reconcile().flag("--recheck").exits(0);
        let mail = mail.tells(&[("a", reason)]);
        assert_eq!(
            Block::of(&mail.stderr)[0].steps().collect::<Vec<_>>(),
            [step]
        );
        for _ in 0..2 {
            shop.reconcile().flag("--recheck").exits(0).warns("");
            assert_eq!(shop.standing(), Vec::<Value>::new(), "{reason}");
            shop.seconds_pass(8 * 86_400);
        }
    }
}

#[test]
fn many_gone_are_closed_at_once() {
    let shop = Shop::open();
    shop.sale("paid").here("settled").licensed().made();
    for id in ["a", "b", "c"] {
        shop.sale(id).redemption("pending").made();
    }
    shop.btcpay
        .later(|invoices| invoices.retain(|invoice| invoice.id == "btc-paid"))();
    let told = shop.reconcile().exits(0);
    let close = told.stderr.lines().find_map(|line| line.strip_prefix("  "));
    shop.sql(close.unwrap());
    shop.is_rid_of_it(&told.stderr);
    for id in ["a", "b", "c"] {
        assert_eq!(shop.state(id), "expired, cancelled, used 0");
    }
}

#[test]
fn held_back_license_can_still_be_issued() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.sale("unpaid").there("Expired").made();
    shop.person_types("reconcile --acknowledge a unpaid");
    let held = shop.reconcile().flag("-n").json(0);
    let detail = |id: &str| {
        let items = held["attention"].as_array().unwrap();
        let item = items.iter().find(|item| item["invoice_id"] == id).unwrap();
        assert_eq!(item["reason"], "held_back");
        item["detail"].as_str().unwrap()
    };
    assert!(!detail("unpaid").contains("--issue"), "it would be refused");
    let (_, command) = detail("a").split_once('(').unwrap();
    shop.person_types(command.strip_suffix(')').unwrap());
    assert_eq!(shop.state("a"), "settled, licensed");
    assert_eq!(shop.standing(), Vec::<Value>::new());
}

impl Case {
    fn ends(&self) {
        for way in self.ways {
            let shop = (self.makes)();
            // What a minute's run tells is in a log.
            shop.reconcile().exits(0);
            let told = shop.reconcile().flag("--recheck").exits(0);
            let blocks = Block::of(&told.stderr);
            let [block] = blocks.as_slice() else {
                panic!("{blocks:?}");
            };
            assert_eq!(block.reason(), self.reason, "{block:?}");
            self.has_a_way_for_each_step(block);
            for (begins, act) in *way {
                block.follow(&shop, begins, *act);
            }
            shop.seconds_pass(3600);
            shop.is_rid_of_it(&format!("{block:?}"));
        }
    }

    fn has_a_way_for_each_step(&self, block: &Block) {
        for step in block.steps() {
            let mut acts = self.ways.iter().copied().flatten();
            assert!(
                acts.any(|(begins, _)| step.starts_with(begins)),
                "nobody follows '{step}'"
            );
        }
    }
}

impl Shop {
    /// Nothing needs a person any more, now and in a week.
    #[track_caller]
    fn is_rid_of_it(&self, why: &str) {
        let rechecked = self.reconcile().flag("--recheck").exits(0);
        assert_eq!(rechecked.stderr, "", "{why}");
        let last =
            "SELECT action FROM audit_log WHERE action LIKE 'attention.%' ORDER BY id DESC LIMIT 1";
        let last = self.query(last);
        assert!(
            ["attention.resolved", "attention.acknowledged"].contains(&&*last),
            "{last} {why}"
        );
        assert_eq!(self.standing(), Vec::<Value>::new(), "{why}");
        self.seconds_pass(8 * 86_400);
        let rechecked = self.reconcile().flag("--recheck");
        let rechecked = rechecked.option("--max-age-hours", "720").exits(0);
        assert_eq!(rechecked.stderr, "", "{why}");
        assert_eq!(self.standing(), Vec::<Value>::new(), "{why}");
    }

    /// What a dry run shows that nobody has acknowledged.
    fn standing(&self) -> Vec<Value> {
        let report = self.reconcile().flag("-n").json(0);
        let all = report["attention"].as_array().unwrap().iter();
        all.filter(|item| item["acknowledged"] == json!(false))
            .cloned()
            .collect()
    }
}
