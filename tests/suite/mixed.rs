//! A backlog of every kind, how it must end, and the promises that hold at any moment before. The
//! tests that attack the program share it.

use std::env;

use crate::shop::Shop;

/// By how much the attacks are to be longer than in an ordinary `cargo test`.
pub fn soak() -> usize {
    env::var("RECONCILE_SOAK").map_or(1, |factor| factor.parse().expect("RECONCILE_SOAK"))
}

/// The kinds of invoices: the status here, in BTCPay, and whether a discount code was used.
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
    /// So many invoices `0`, `1`, … of the kinds in turn, the settled and expired ones half done.
    pub fn mixed_backlog(&self, count: i64) {
        self.many_sales(count, |place| KINDS[kind(place)].1);
        for (kind, (here, _, redemption)) in KINDS.iter().enumerate() {
            self.sql(&format!(
                "UPDATE invoices SET status = '{here}', updated_at = created_at WHERE CAST(id AS INTEGER) % 8 = {kind};
                 INSERT INTO discount_redemptions (id, code_id, invoice_id)
                 SELECT 'red-' || id, 'launch', id FROM invoices
                  WHERE CAST(id AS INTEGER) % 8 = {kind} AND {redemption}"
            ));
        }
        self.sql(
            "UPDATE discount_codes
                SET max_uses = NULL, used_count = (SELECT count(*) FROM discount_redemptions)",
        );
    }

    /// How invoices of each kind stand; one line a kind if all of a kind stand alike.
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

    /// What is wrong at this moment, whatever else is going on; empty if nothing is.
    pub fn broken_promises(&self) -> String {
        self.query(
            "SELECT 'a license without a settled invoice', i.id
               FROM licenses JOIN invoices i ON i.id = invoice_id WHERE i.status <> 'settled'
             UNION ALL
             SELECT 'two licenses', invoice_id FROM licenses GROUP BY invoice_id HAVING count(*) > 1
             UNION ALL
             SELECT 'a wrong count', id FROM discount_codes c
              WHERE used_count <> (SELECT count(*) FROM discount_redemptions
                                    WHERE code_id = c.id AND status <> 'cancelled')
             UNION ALL
             SELECT 'settled by halves', i.id
               FROM audit_log
               JOIN invoices i ON i.id = target_id
               LEFT JOIN licenses l ON l.invoice_id = i.id
               LEFT JOIN discount_redemptions r ON r.invoice_id = i.id
              WHERE action = 'invoice.settled'
                AND (i.status <> 'settled' OR l.id IS NULL
                     OR (r.id IS NOT NULL AND (r.status <> 'redeemed' OR r.license_id IS NOT l.id)))
             UNION ALL
             SELECT 'closed by halves', i.id
               FROM audit_log
               JOIN invoices i ON i.id = target_id
               JOIN discount_redemptions r ON r.invoice_id = i.id
              WHERE action IN ('invoice.expired', 'invoice.invalid')
                AND (action <> 'invoice.' || i.status OR r.status <> 'cancelled')
             UNION ALL
             SELECT 'told twice', target_id FROM audit_log GROUP BY action, target_id HAVING count(*) > 1
             UNION ALL
             SELECT 'issued and not told', id FROM licenses
              WHERE metadata_json LIKE '%reconcile%'
                AND id NOT IN (SELECT target_id FROM audit_log WHERE action = 'license.issued')
             UNION ALL
             SELECT 'changed without a decision', id FROM invoices
              WHERE CAST(id AS INTEGER) % 8 IN (4, 7) AND (status <> 'pending' OR updated_at <> created_at)
             UNION ALL
             SELECT 'damaged', integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'
             UNION ALL
             SELECT 'a reference to nothing', \"table\" FROM pragma_foreign_key_check",
        )
    }
}

fn kind(place: i64) -> usize {
    usize::try_from(place % 8).unwrap()
}

/// What [`Shop::kinds`] says when all is done.
pub const RECONCILED: &str = "\
0|settled, licensed, redeemed with it
1|settled, licensed
2|expired, cancelled
3|invalid, cancelled
4|pending, pending
5|settled, licensed, redeemed with it
6|expired, cancelled
7|pending";
