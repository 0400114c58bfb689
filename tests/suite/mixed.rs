//! A backlog of every kind of invoice, its expected final state, and the invariants that hold at
//! every moment until then. Shared by the tests that attack the program.

use std::env;

use crate::shop::Shop;

/// How many times longer the attacks last than in an ordinary `cargo test`.
pub fn soak() -> usize {
    env::var("RECONCILE_SOAK").map_or(1, |factor| factor.parse().expect("RECONCILE_SOAK"))
}

/// The kinds of invoices: local status, status in BTCPay, and whether a discount code was used.
const KINDS: [(&str, &str, bool); 8] = [
    ("pending", "Settled", true),
    ("pending", "Settled", false),
    ("pending", "Expired", true),
    ("pending", "Invalid", true),
    ("pending", "New", true),
    ("settled", "Settled", true),
    ("expired", "Expired", true),
    ("pending", "Processing", false),
];

impl Shop {
    /// Adds `count` invoices `0`, `1`, …, cycling through the kinds. The settled and expired ones
    /// are only half processed.
    pub fn mixed_backlog(&self, count: i64) {
        self.many_sales(count, |place| KINDS[kind(place)].1);
        for (kind, (here, _, redemption)) in KINDS.iter().enumerate() {
            self.sql(&format!(
                "UPDATE invoices SET status = '{here}', updated_at = created_at WHERE CAST(id AS INTEGER) % 8 = {kind};
                 INSERT INTO discount_redemptions (id, code_id, invoice_id, status, discount_applied_sats,
                                                   base_price_sats, final_price_sats, created_at, updated_at)
                 SELECT 'red-' || id, 'launch', id, 'pending', 1000, 22000, 21000, created_at, created_at FROM invoices
                  WHERE CAST(id AS INTEGER) % 8 = {kind} AND {redemption}"
            ));
        }
        self.sql(
            "UPDATE discount_codes
                SET max_uses = NULL, used_count = (SELECT count(*) FROM discount_redemptions)",
        );
        if self.is_keysat() {
            self.add_keysat_rows();
        }
    }

    pub fn is_keysat(&self) -> bool {
        self.query("SELECT count(*) FROM sqlite_schema WHERE name = 'tier_changes'") == "1"
    }

    /// The value of [`Shop::kinds`] once everything that can be reconciled is.
    pub fn reconciled(&self) -> String {
        if self.is_keysat() {
            RECONCILED.replace("1|", "1|pending\n1|")
        } else {
            RECONCILED.into()
        }
    }

    /// Makes sales subscriptions, subscribes an endpoint to all events, and makes every other
    /// invoice of kind 1 pay for a tier change.
    fn add_keysat_rows(&self) {
        self.sql(
            "UPDATE policies SET is_recurring = 1, renewal_period_days = 30;
             INSERT INTO policies (id, product_id, name, slug, created_at, updated_at)
             VALUES ('plus', 'pro', 'Plus', 'plus', datetime(), datetime());
             INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's');
             INSERT INTO licenses (id, product_id, status, issued_at, policy_id)
             SELECT 'old-' || id, 'pro', 'active', '2026-01-01T00:00:00+00:00', 'pro-default'
               FROM invoices WHERE CAST(id AS INTEGER) % 16 = 1;
             INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                       invoice_id, effective_at, actor, created_at)
             SELECT 'change-' || id, 'old-' || id, 'pro-default', 'plus', 'upgrade', 'SAT', id, created_at, 'buyer', created_at
               FROM invoices WHERE CAST(id AS INTEGER) % 16 = 1",
        );
    }

    /// The broken invariants that only Keysat's database has; empty if there are none.
    fn broken_keysat_promises(&self) -> String {
        if !self.is_keysat() {
            return String::new();
        }
        self.query(
            "SELECT 'license issued for a tier change', licenses.id
               FROM licenses JOIN tier_changes USING (invoice_id)
              WHERE metadata_json LIKE '%reconcile%'
             UNION ALL
             SELECT 'license without its subscription', id FROM licenses
              WHERE metadata_json LIKE '%reconcile%'
                AND 1 <> (SELECT count(*)
                            FROM subscriptions
                            JOIN subscription_invoices AS cycle ON cycle.subscription_id = subscriptions.id
                           WHERE subscriptions.license_id = licenses.id
                             AND cycle.invoice_id = licenses.invoice_id AND cycle_number = 1)
             UNION ALL
             SELECT 'license with no event or with several', id FROM licenses
              WHERE metadata_json LIKE '%reconcile%'
                AND 1 <> (SELECT count(*) FROM webhook_deliveries
                           WHERE event_type = 'license.issued'
                             AND payload_json ->> '$.data.license_id' = licenses.id)
             UNION ALL
             SELECT 'redemption with no event or with several', target_id FROM audit_log
              WHERE action = 'redemption.redeemed'
                AND 1 <> (SELECT count(*) FROM webhook_deliveries
                           WHERE event_type = 'code.redeemed'
                             AND payload_json ->> '$.data.redemption_id' = target_id)
             UNION ALL
             SELECT 'event for a missing license', id FROM webhook_deliveries
              WHERE payload_json ->> '$.data.license_id' NOT IN (SELECT id FROM licenses)
             UNION ALL
             SELECT 'time that Keysat cannot compare', occurred_at FROM audit_log
              WHERE actor_kind = 'reconcile' AND occurred_at NOT LIKE '%+00:00'",
        )
    }

    /// The state of the invoices by kind: one line per kind if all of a kind are in the same state.
    pub fn kinds(&self) -> String {
        self.query(
            "SELECT DISTINCT CAST(i.id AS INTEGER) % 8, i.status || iif(l.id IS NULL, '', ', licensed')
                    || coalesce(', ' || r.status, '') || iif(r.license_id = l.id, ' with it', '')
               FROM invoices i
               LEFT JOIN licenses l ON l.invoice_id = i.id
               LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
              ORDER BY 1, 2",
        )
    }

    /// The invariants that are broken right now; empty if there are none. They hold at every
    /// moment, no matter what else is running.
    pub fn broken_promises(&self) -> String {
        self.broken_keysat_promises() + &self.query(
            "SELECT 'license without a settled invoice', i.id
               FROM licenses JOIN invoices i ON i.id = invoice_id WHERE i.status <> 'settled'
             UNION ALL
             SELECT 'several licenses', invoice_id FROM licenses WHERE invoice_id IS NOT NULL
              GROUP BY invoice_id HAVING count(*) > 1
             UNION ALL
             SELECT 'wrong use count', id FROM discount_codes c
              WHERE used_count <> (SELECT count(*) FROM discount_redemptions
                                    WHERE code_id = c.id AND status <> 'cancelled')
             UNION ALL
             SELECT 'half settled', i.id
               FROM audit_log
               JOIN invoices i ON i.id = target_id
               LEFT JOIN licenses l ON l.invoice_id = i.id
               LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
              WHERE action = 'invoice.settled'
                AND (i.status <> 'settled' OR l.id IS NULL
                     OR (r.id IS NOT NULL AND (r.status <> 'redeemed' OR r.license_id IS NOT l.id)))
             UNION ALL
             SELECT 'half closed', i.id
               FROM audit_log
               JOIN invoices i ON i.id = target_id
               JOIN discount_redemptions r ON r.invoice_id = i.id
              WHERE action IN ('invoice.expired', 'invoice.invalid')
                AND (action <> 'invoice.' || i.status OR r.status <> 'cancelled')
             UNION ALL
             SELECT 'audited twice', target_id FROM audit_log WHERE actor_kind = 'reconcile'
              GROUP BY action, target_id HAVING count(*) > 1
             UNION ALL
             SELECT 'issued but not audited', id FROM licenses
              WHERE metadata_json LIKE '%reconcile%'
                AND id NOT IN (SELECT target_id FROM audit_log WHERE action = 'license.issued')
             UNION ALL
             SELECT 'changed while open in BTCPay', id FROM invoices
              WHERE CAST(id AS INTEGER) % 8 IN (4, 7) AND (status <> 'pending' OR updated_at <> created_at)
             UNION ALL
             SELECT 'damaged', integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'
             UNION ALL
             SELECT 'dangling reference', \"table\" FROM pragma_foreign_key_check",
        )
    }
}

fn kind(place: i64) -> usize {
    usize::try_from(place % 8).unwrap()
}

const RECONCILED: &str = "\
0|settled, licensed, redeemed with it
1|settled, licensed
2|expired, cancelled
3|invalid, cancelled
4|pending, pending
5|settled, licensed, redeemed with it
6|expired, cancelled
7|pending";
