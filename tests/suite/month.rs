//! A month of a shop's life, an hour at a time: what the owner gets to read of it.

use std::collections::BTreeMap;
use std::iter;

use crate::person::{Act, Block};
use crate::program::Run;
use crate::shop::{SATS, Shop};

const HOURS: usize = 720;
/// Until all are made: 80 in twenty days.
const HOURS_BETWEEN_PURCHASES: usize = 6;

/// What may become of a purchase an hour after it was made.
#[derive(Clone, Copy)]
enum Fate {
    /// The webhook came, and the service did its work.
    Served,
    /// It was paid, and the webhook was lost.
    WebhookLost,
    NeverPaid,
    Trouble(&'static Trouble),
}

/// Lines of the block, by how they begin, and what the owner does about each.
type Remedy = &'static [(&'static str, Act)];

struct Trouble {
    reason: &'static str,
    /// Makes it of a sale that is pending here and New there.
    arises: fn(&Shop, &str),
    /// Whether it needs somebody until somebody acts.
    lasts: bool,
    /// What the owner does about it, if anything.
    remedy: Option<Remedy>,
}

/// Every reason but `held_back`, which only a person makes.
static TROUBLES: [Trouble; 15] = [
    Trouble {
        reason: "paid_late",
        arises: |shop, id| shop.becomes(id, "Expired", "PaidLate", "0.00021"),
        lasts: true,
        remedy: None,
    },
    Trouble {
        reason: "paid_partial",
        // After it was closed here.
        arises: |shop, id| {
            shop.sql(&format!(
                "UPDATE invoices SET status = 'expired' WHERE id = '{id}'"
            ));
            shop.becomes(id, "Expired", "PaidPartial", "0.00012");
        },
        lasts: true,
        remedy: Some(&[("To refuse it", Act::Mark("Invalid"))]),
    },
    Trouble {
        reason: "invalid_but_paid",
        arises: |shop, id| shop.becomes(id, "Invalid", "None", "0.00021"),
        lasts: true,
        remedy: None,
    },
    Trouble {
        reason: "settled_here_not_there",
        arises: |shop, id| {
            shop.becomes(id, "Expired", "None", "0");
            shop.sql(&format!(
                "UPDATE invoices SET status = 'settled' WHERE id = '{id}'"
            ));
        },
        lasts: true,
        remedy: Some(&[("If not, correct the row", Act::Copy)]),
    },
    Trouble {
        reason: "licensed_not_paid",
        arises: |shop, id| {
            shop.becomes(id, "Invalid", "Marked", "0");
            shop.serves(id);
        },
        lasts: true,
        remedy: None,
    },
    Trouble {
        reason: "not_in_btcpay",
        arises: |shop, id| {
            let gone = format!("btc-{id}");
            shop.btcpay
                .later(move |invoices| invoices.retain(|invoice| invoice.id != gone))();
        },
        lasts: true,
        remedy: Some(&[("If no money came", Act::Copy)]),
    },
    Trouble {
        reason: "license_by_hand",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.sql(&format!(
                "INSERT INTO licenses (id, product_id, status, issued_at, buyer_email)
                 VALUES ('by hand', 'pro', 'active', datetime(), '{id}@example.com')"
            ));
        },
        lasts: true,
        remedy: None,
    },
    Trouble {
        reason: "license_deleted",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.reconcile().exits(0).warns("");
            shop.sql(&format!("DELETE FROM licenses WHERE invoice_id = '{id}'"));
        },
        lasts: true,
        remedy: Some(&[("If none is owed", Act::Copy)]),
    },
    Trouble {
        reason: "policy_missing",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.sql(&format!(
                "UPDATE invoices SET policy_id = 'gone' WHERE id = '{id}'"
            ));
        },
        lasts: true,
        remedy: None,
    },
    Trouble {
        reason: "product_missing",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.sql(&format!(
                "UPDATE invoices SET product_id = 'gone' WHERE id = '{id}'"
            ));
        },
        lasts: true,
        remedy: Some(&[("Or refund the buyer", Act::Copy)]),
    },
    Trouble {
        reason: "tier_change_paid",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.is_a_tier_change(id);
            shop.sql(
                "UPDATE licenses SET id = 'upgraded' WHERE id = 'old';
                 UPDATE tier_changes SET license_id = 'upgraded'",
            );
        },
        lasts: true,
        remedy: None,
    },
    Trouble {
        reason: "renewal_paid",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.is_a_renewal(id);
        },
        lasts: true,
        remedy: Some(&[("Redeliver", Act::Serve(renews))]),
    },
    Trouble {
        reason: "amount_mismatch",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.btcpay.change(&format!("btc-{id}"), |invoice| {
                invoice.amount = "0.0002".into();
            });
        },
        lasts: false,
        remedy: None,
    },
    Trouble {
        reason: "code_over_max_uses",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.sql(&format!(
                "UPDATE discount_codes SET max_uses = 0;
                 INSERT INTO discount_redemptions (id, code_id, invoice_id, status, discount_applied_sats,
                                                   base_price_sats, final_price_sats, created_at, updated_at)
                 VALUES ('red', 'launch', '{id}', 'cancelled', 1000, 22000, {SATS}, datetime(), datetime())"
            ));
        },
        lasts: false,
        remedy: None,
    },
    Trouble {
        reason: "tip_not_sent",
        arises: |shop, id| {
            shop.is_paid(id);
            shop.sql(&format!(
                "INSERT INTO policies (id, product_id, name, slug, tip_recipient, tip_pct_bps, created_at, updated_at)
                 VALUES ('tipped', 'pro', 'Tipped', 'tipped', 'artist', 250, datetime(), datetime());
                 UPDATE invoices SET policy_id = 'tipped' WHERE id = '{id}'"
            ));
        },
        lasts: false,
        remedy: None,
    },
];

/// As Keysat does when the webhook comes.
fn renews(shop: &Shop) {
    shop.sql(
        "UPDATE subscriptions SET status = 'active';
         UPDATE invoices SET status = 'settled'
          WHERE id IN (SELECT invoice_id FROM subscription_invoices WHERE cycle_number = 2)",
    );
}

impl Shop {
    fn becomes(&self, id: &str, status: &str, additional: &str, paid: &str) {
        self.btcpay.change(&format!("btc-{id}"), |invoice| {
            invoice.status = status.into();
            invoice.additional = additional.into();
            invoice.paid = paid.into();
        });
    }

    fn is_paid(&self, id: &str) {
        self.becomes(id, "Settled", "None", "0.00021");
    }

    /// As the service does when the webhook comes.
    fn serves(&self, id: &str) {
        self.sql(&format!(
            "INSERT INTO licenses (id, product_id, invoice_id, policy_id, status, issued_at, buyer_email)
             VALUES ('lic-{id}', 'pro', '{id}', 'pro-default', 'active', datetime(), '{id}@example.com');
             UPDATE invoices SET status = 'settled', updated_at = datetime() WHERE id = '{id}'"
        ));
    }

    fn meets(&self, fate: Fate, id: &str) {
        match fate {
            Fate::Served => {
                self.is_paid(id);
                self.serves(id);
            }
            Fate::WebhookLost => self.is_paid(id),
            Fate::NeverPaid => self.becomes(id, "Expired", "None", "0"),
            Fate::Trouble(trouble) => (trouble.arises)(self, id),
        }
    }
}

/// Cron's runs, and an owner who reads the mail.
struct Month {
    shop: Shop,
    /// Of the purchases `0`, `1`, ….
    fates: Vec<Fate>,
    hour: usize,
    /// What was mailed about each invoice: in which hours, and why.
    mails: BTreeMap<String, Vec<(usize, String)>>,
    /// What a minute's run told about each.
    logged: BTreeMap<String, Vec<String>>,
}

impl Month {
    fn passes(fates: Vec<Fate>) -> Self {
        let mut month = Self {
            shop: Shop::of_keysat(),
            fates,
            hour: 0,
            mails: BTreeMap::new(),
            logged: BTreeMap::new(),
        };
        for hour in 0..HOURS {
            month.hour = hour;
            month.shop.seconds_pass(3600);
            month.mail(&["--recheck"]);
            if hour % 24 == 0 {
                month.mail(&["--recheck", "--max-age-hours=720"]);
            }
            month.purchases_go_on();
            // A purchase is made in the first of these hours, and meets its fate in the second. In
            // the others a minute's run finds what the run before it found.
            if hour % HOURS_BETWEEN_PURCHASES < 2 {
                month.log();
            }
        }
        month
    }

    /// What this run of cron's says on stderr goes to a log.
    fn log(&mut self) {
        let log = self.shop.reconcile().exits(0).stderr;
        for block in Block::of(&log) {
            let logged = self.logged.entry(block.invoice().into()).or_default();
            logged.push(block.reason());
        }
    }

    /// What this run of cron's says on stderr is a mail.
    fn mail(&mut self, options: &[&str]) {
        let run = self.shop.reconcile();
        let run = options.iter().copied().fold(run, Run::flag);
        let mail = run.exits(0).stderr;
        for block in Block::of(&mail) {
            let mailed = self.mails.entry(block.invoice().into()).or_default();
            mailed.push((self.hour, block.reason()));
            let count = mailed.len();
            self.owner_reads(&block, count);
        }
    }

    /// Half of the troubles bother the owner enough to do something when the second mail comes.
    fn owner_reads(&self, block: &Block, count: usize) {
        let place: usize = block.invoice().parse().unwrap();
        if let Some(remedy) = self.fates[place].remedy()
            && count == 2
        {
            for (begins, act) in remedy {
                block.follow(&self.shop, begins, *act);
            }
        }
    }

    fn purchases_go_on(&self) {
        let at = |hour: usize| {
            let is_time = hour.is_multiple_of(HOURS_BETWEEN_PURCHASES);
            let place = hour / HOURS_BETWEEN_PURCHASES;
            let fate = self.fates.get(place).filter(|_| is_time)?;
            Some((place.to_string(), *fate))
        };
        if let Some((id, fate)) = self.hour.checked_sub(1).and_then(at) {
            self.shop.meets(fate, &id);
        }
        if let Some((id, _)) = at(self.hour) {
            let now = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')";
            let sale = self.shop.sale(&id).there("New");
            sale.created(now).updated(now).made();
        }
    }

    /// The hour in which an invoice met its fate.
    fn arose(place: usize) -> usize {
        place * HOURS_BETWEEN_PURCHASES + 1
    }

    fn sales_without_trouble_are_complete(&self) {
        for (place, fate) in self.fates.iter().enumerate() {
            let state = match fate {
                Fate::Served | Fate::WebhookLost => "settled, licensed",
                Fate::NeverPaid => "expired",
                Fate::Trouble(_) => continue,
            };
            assert_eq!(self.shop.state(&place.to_string()), state, "{place}");
        }
    }
}

impl Fate {
    fn remedy(self) -> Option<Remedy> {
        match self {
            Self::Trouble(trouble) => trouble.remedy,
            Self::Served | Self::WebhookLost | Self::NeverPaid => None,
        }
    }
}

/// The fates of 80 purchases, every fifth of them one of these.
fn fates(of_every_fifth: impl Iterator<Item = Fate>) -> Vec<Fate> {
    let plain = [
        Fate::Served,
        Fate::Served,
        Fate::WebhookLost,
        Fate::NeverPaid,
    ];
    let fates = of_every_fifth.flat_map(|fifth| plain.into_iter().chain([fifth]));
    let fates: Vec<Fate> = fates.take(80).collect();
    assert_eq!(fates.len(), 80);
    fates
}

#[test]
fn quiet_month_mails_nothing() {
    let month = Month::passes(fates(iter::repeat(Fate::Served)));
    assert!(month.mails.is_empty(), "{:?}", month.mails);
    assert!(month.logged.is_empty(), "{:?}", month.logged);
    month.sales_without_trouble_are_complete();
}

#[test]
fn trouble_is_mailed_within_the_hour_and_ever_less_often_until_it_ends() {
    let troubles = TROUBLES.iter().map(Fate::Trouble);
    let month = Month::passes(fates(troubles.chain([Fate::Served])));
    month.sales_without_trouble_are_complete();
    let mut mails = month.mails.clone();
    for (place, fate) in month.fates.iter().enumerate() {
        let Fate::Trouble(trouble) = fate else {
            continue;
        };
        let id = place.to_string();
        let mailed = mails.remove(&id).unwrap_or_default();
        let why = format!("{}: {mailed:?}", trouble.reason);
        assert!(
            mailed.iter().all(|(_, reason)| reason == trouble.reason),
            "{why}"
        );
        assert_eq!(mailed[0].0, Month::arose(place) + 1, "{why}");
        let end = month.shop.query(&format!(
            "SELECT action FROM audit_log
              WHERE action LIKE 'attention.%' AND details_json ->> 'invoice_id' = '{id}' ORDER BY id DESC LIMIT 1"
        ));
        match (trouble.lasts, trouble.remedy) {
            (false, _) => assert_eq!(mailed.len(), 1, "{why}"),
            (true, None) => {
                assert!((3..=8).contains(&mailed.len()), "{why}");
                assert_eq!(end, "attention.reminded", "{why}");
            }
            (true, Some(_)) => {
                assert_eq!(mailed.len(), 2, "{why}");
                assert!(
                    ["attention.resolved", "attention.acknowledged"].contains(&&*end),
                    "{end} {why}"
                );
            }
        }
    }
    assert!(mails.is_empty(), "nothing else was mailed: {mails:?}");
    for (id, logged) in month.logged {
        assert_eq!(logged.len(), 1, "{id}: {logged:?}");
    }
}
