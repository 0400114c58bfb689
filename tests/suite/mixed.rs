//! A backlog of every kind of invoice, its expected final state, and the invariants that hold at
//! every moment until then. Shared by the tests that attack the program.

use std::env;
use std::time::Duration;

use rusqlite::Connection;

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
    /// are only half processed. The webhooks of some are lost for good, and of these the operator
    /// replaces the license by hand: of every other one now, of the rest in [`Shop::operate`].
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
            "UPDATE invoices SET buyer_email = id || '@example.com' WHERE CAST(id AS INTEGER) % 32 = 25",
        );
        if self.is_keysat() {
            self.add_keysat_rows();
        }
        self.sql(
            "UPDATE discount_codes
                SET max_uses = NULL,
                    used_count = (SELECT count(*) FROM discount_redemptions WHERE status <> 'cancelled')",
        );
        self.act_as_operator((0..count).filter(|place| place % 64 < 32));
    }

    /// The operator does what is left to do to these sales.
    pub fn operate(&self, count: i64) {
        let mut places: Vec<i64> = (0..count).filter(|place| place % 64 >= 32).collect();
        fastrand::shuffle(&mut places);
        self.act_as_operator(places);
    }

    /// Issues licenses by hand where a webhook was lost, and deletes the policies of refunded sales.
    fn act_as_operator(&self, places: impl IntoIterator<Item = i64>) {
        let connection = self.connection();
        connection.busy_timeout(Duration::from_mins(1)).unwrap();
        for place in places {
            if is_lost(place) {
                issue_by_hand(&connection, place);
            } else if self.is_keysat() && place % 32 == 29 {
                delete_policy(&connection, place);
            }
        }
    }

    pub fn is_keysat(&self) -> bool {
        self.query("SELECT count(*) FROM sqlite_schema WHERE name = 'tier_changes'") == "1"
    }

    /// The value of [`Shop::kinds`] once everything that can be reconciled is.
    pub fn reconciled(&self) -> String {
        if self.is_keysat() {
            RECONCILED.replace("5|", "5|settled\n5|")
        } else {
            RECONCILED.into()
        }
    }

    /// Makes sales subscriptions, subscribes an endpoint to all events, and makes every other
    /// invoice of kind 1 pay for a tier change. Of kind 5, a quarter has a license and nothing that
    /// goes with it, a quarter has a subscription without its first cycle as well, and a quarter was
    /// refunded.
    fn add_keysat_rows(&self) {
        self.sql(
            "UPDATE policies SET is_recurring = 1, renewal_period_days = 30;
             INSERT INTO policies (id, product_id, name, slug, created_at, updated_at)
             VALUES ('plus', 'pro', 'Plus', 'plus', datetime(), datetime());
             INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's');
             INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             VALUES ('first', 'all', 'product.created', '{}', '2026-01-01T00:00:00+00:00');
             INSERT INTO licenses (id, product_id, status, issued_at, policy_id)
             SELECT 'old-' || id, 'pro', 'active', '2026-01-01T00:00:00+00:00', 'pro-default'
               FROM invoices WHERE CAST(id AS INTEGER) % 16 = 1;
             INSERT INTO tier_changes (id, license_id, from_policy_id, to_policy_id, direction, listed_currency,
                                       invoice_id, effective_at, actor, created_at)
             SELECT 'change-' || id, 'old-' || id, 'pro-default', 'plus', 'upgrade', 'SAT', id, created_at, 'buyer', created_at
               FROM invoices WHERE CAST(id AS INTEGER) % 16 = 1;

             INSERT INTO licenses (id, product_id, invoice_id, status, issued_at, policy_id)
             SELECT 'lic-' || id, 'pro', id, 'active', created_at, 'pro-default'
               FROM invoices WHERE CAST(id AS INTEGER) % 32 IN (13, 21);
             UPDATE discount_redemptions SET status = 'cancelled' WHERE CAST(invoice_id AS INTEGER) % 32 = 13;
             INSERT INTO subscriptions (id, license_id, policy_id, product_id, period_days, listed_currency,
                                        listed_value, status, started_at, created_at, updated_at)
             SELECT 'sub-' || id, id, 'pro-default', 'pro', 30, 'SAT', 21000, 'active', issued_at, issued_at, issued_at
               FROM licenses WHERE CAST(invoice_id AS INTEGER) % 32 = 21;

             INSERT INTO products (id, slug, name, price_sats, created_at, updated_at)
             VALUES ('basic', 'basic', 'Basic', 21000, datetime(), datetime());
             INSERT INTO policies (id, product_id, name, slug, created_at, updated_at)
             SELECT 'basic-' || id, 'basic', 'Basic', id, datetime(), datetime()
               FROM invoices WHERE CAST(id AS INTEGER) % 32 = 29;
             UPDATE invoices SET product_id = 'basic' WHERE CAST(id AS INTEGER) % 32 = 29;
             DELETE FROM discount_redemptions WHERE CAST(invoice_id AS INTEGER) % 32 = 29;
             INSERT INTO licenses (id, product_id, invoice_id, status, issued_at, policy_id)
             SELECT 'lic-' || id, 'basic', id, 'revoked', created_at, 'basic-' || id
               FROM invoices WHERE product_id = 'basic'",
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
             SELECT 'license issued for a refunded sale', id FROM licenses
              WHERE product_id = 'basic' AND status = 'active'
             UNION ALL
             SELECT 'told twice of its license', payload_json ->> '$.data.license_id' FROM webhook_deliveries
              WHERE event_type = 'license.issued' GROUP BY 2 HAVING count(*) > 1
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

    /// The active licenses of settled purchases that lack their subscription, its first cycle, or
    /// news that they were issued; empty if there are none.
    pub fn incomplete_licenses(&self) -> String {
        if !self.is_keysat() {
            return String::new();
        }
        self.query(
            "SELECT licenses.id
               FROM licenses
               JOIN invoices ON invoices.id = licenses.invoice_id
              WHERE licenses.status = 'active' AND invoices.status = 'settled'
                AND invoices.id NOT IN (SELECT invoice_id FROM tier_changes)
                AND (1 <> (SELECT count(*)
                             FROM subscriptions
                             JOIN subscription_invoices AS cycle ON cycle.subscription_id = subscriptions.id
                            WHERE subscriptions.license_id = licenses.id
                              AND cycle.invoice_id = licenses.invoice_id AND cycle_number = 1)
                     OR licenses.id NOT IN (SELECT payload_json ->> '$.data.license_id'
                                              FROM webhook_deliveries WHERE event_type = 'license.issued'))",
        )
    }

    /// The state of the invoices by kind: one line per kind if all of a kind are in the same state.
    pub fn kinds(&self) -> String {
        self.kinds_where("1")
    }

    /// As [`Shop::kinds`], of the invoices `i` for which this SQL is true.
    pub fn kinds_where(&self, sql: &str) -> String {
        self.query(&format!(
            "SELECT DISTINCT CAST(i.id AS INTEGER) % 8, i.status || iif(l.id IS NULL, '', ', licensed')
                    || coalesce(', ' || r.status, '') || iif(r.license_id = l.id, ' with it', '')
               FROM invoices i
               LEFT JOIN licenses l ON l.invoice_id = i.id
               LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
              WHERE {sql}
              ORDER BY 1, 2"
        ))
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
             SELECT 'a license beside one by hand', gift.id
               FROM licenses AS gift
               JOIN invoices ON invoices.buyer_email = gift.buyer_email
               JOIN licenses AS own ON own.invoice_id = invoices.id
              WHERE gift.invoice_id IS NULL
             UNION ALL
             SELECT 'cancelled redemption with a license', id FROM discount_redemptions
              WHERE status = 'cancelled' AND license_id IS NOT NULL
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
             SELECT 'audited twice', target_id FROM audit_log
              WHERE actor_kind = 'reconcile' AND action NOT LIKE 'attention.%'
              GROUP BY action, target_id, details_json ->> '$.completed' HAVING count(*) > 1
             UNION ALL
             SELECT 'noted while it stood', target_id FROM audit_log WHERE action LIKE 'attention.%'
              GROUP BY target_id, details_json ->> '$.reason'
             HAVING sum(action = 'attention.noted') - sum(action = 'attention.resolved') NOT IN (0, 1)
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

/// Whether the webhook of this invoice never came, so that the operator replaces its license.
pub fn is_lost(place: i64) -> bool {
    place % 32 == 25
}

/// Unless it has a license by now.
fn issue_by_hand(connection: &Connection, place: i64) {
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             INSERT INTO licenses (id, product_id, status, issued_at, buyer_email, metadata_json)
             SELECT 'gift-' || id, product_id, 'active', strftime('%Y-%m-%dT%H:%M:%f+00:00'), buyer_email,
                    '{{\"source\":\"admin_issue\"}}'
               FROM invoices
              WHERE id = '{place}' AND NOT EXISTS (SELECT 1 FROM licenses WHERE invoice_id = '{place}');
             COMMIT"
        ))
        .unwrap();
}

/// The policy of a refunded sale, and its revoked license with it.
fn delete_policy(connection: &Connection, place: i64) {
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             DELETE FROM licenses WHERE id = 'lic-{place}';
             DELETE FROM policies WHERE id = 'basic-{place}';
             INSERT INTO audit_log (actor_kind, action, target_kind, target_id, details_json, occurred_at)
             VALUES ('admin_api_key', 'policy.delete', 'policy', 'basic-{place}', '{{\"product_id\":\"basic\"}}',
                     strftime('%Y-%m-%dT%H:%M:%f+00:00'));
             COMMIT"
        ))
        .unwrap();
}

fn kind(place: i64) -> usize {
    usize::try_from(place % 8).unwrap()
}

const RECONCILED: &str = "\
0|settled, licensed, redeemed with it
1|pending
1|settled, licensed
2|expired, cancelled
3|invalid, cancelled
4|pending, pending
5|settled, licensed, redeemed with it
6|expired, cancelled
7|pending";
