//! Why a license that the rules would issue may not be owed: what the database knows beside the
//! invoice's own row. Read under the write lock, and only when a license is about to be issued.

use anyhow::Result;
use rusqlite::{Connection, Row};

use super::audit::Log;
use super::clock::Clock;
use super::invoice_row::unix_seconds;
use super::keysat::Keysat;
use super::row::{column_value, one};
use super::views::Views;
use crate::decide::Doubt;
use crate::invoice::{Invoice, License, LicenseId};

/// Creates the view. Its columns are what [`read_references`] reads.
pub fn view(views: &Views) -> String {
    let product_exists = &views.product_exists;
    let created = unix_seconds("invoices.created_at");
    let issued = unix_seconds("gift.issued_at");
    format!(
        "CREATE TEMP VIEW license_references AS
         SELECT invoices.id         AS id,
                invoices.product_id AS product_id,
                {product_exists}    AS product_exists,
                invoices.policy_id  AS policy_id,
                invoices.policy_id IS NULL
                  OR EXISTS (SELECT 1 FROM main.policies WHERE id = invoices.policy_id)
                                    AS policy_exists,
                -- Who gave no e-mail is tied to nobody. Compared as 'not before', so that an
                -- unreadable time leaves the doubt. Few licenses have no invoice and many may be of
                -- one product; the hint and the plus say so, or an index of the service's on products
                -- would be used.
                CASE WHEN invoices.buyer_email <> '' THEN (
                  SELECT gift.id
                    FROM main.licenses AS gift
                   WHERE likelihood(gift.invoice_id IS NULL, 0.01)
                     AND +gift.product_id = invoices.product_id
                     AND gift.buyer_email = invoices.buyer_email COLLATE NOCASE
                     -- A sale that claims to be of the future says nothing of when it was made.
                     AND ({issued} < {created} AND {created} <= unixepoch('now')) IS NOT TRUE
                   LIMIT 1
                ) END               AS license_by_hand_id
           FROM main.invoices"
    )
}

const REFERENCES: &str = "SELECT * FROM license_references WHERE id = ?1";

#[cfg(test)]
pub const QUERIES: [&str; 1] = [REFERENCES];

struct References {
    product_id: String,
    product_exists: bool,
    policy_id: Option<String>,
    policy_exists: bool,
    license_by_hand: Option<LicenseId>,
}

fn read_references(row: &Row) -> Result<References> {
    Ok(References {
        product_id: column_value(row, "product_id")?,
        product_exists: column_value(row, "product_exists")?,
        policy_id: column_value(row, "policy_id")?,
        policy_exists: column_value(row, "policy_exists")?,
        license_by_hand: column_value::<Option<Box<str>>>(row, "license_by_hand_id")?
            .map(LicenseId),
    })
}

/// Every reason that there is, the one that weighs most first.
///
/// # Errors
///
/// A row does not fit the contract.
pub fn doubts(
    connection: &Connection,
    keysat: Option<&Keysat>,
    log: &Log,
    invoice: &Invoice,
    clock: Clock,
) -> Result<Vec<Doubt>> {
    let mut doubts = Vec::new();
    let of_purchase = keysat.map(|keysat| keysat.doubt_of_purchase(connection, invoice));
    doubts.extend(of_purchase.transpose()?.flatten());
    let references = one(connection, REFERENCES, &[&invoice.id.0], read_references)?;
    let (Some(found), License::None) = (references, &invoice.license) else {
        return Ok(doubts);
    };
    if !found.product_exists {
        doubts.push(Doubt::ProductMissing(found.product_id.clone()));
    }
    doubts.extend(found.license_by_hand.map(Doubt::LicenseByHand));
    let lost = log.lost_license(&invoice.id).cloned();
    let deletion = match (lost, keysat) {
        (None, Some(keysat)) => keysat.deletion(connection, invoice, &found.product_id, clock)?,
        (lost, _) => lost,
    };
    doubts.extend(deletion.map(Doubt::LicenseDeleted));
    let missing = found.policy_id.filter(|_| !found.policy_exists);
    doubts.extend(missing.map(Doubt::PolicyMissing));
    Ok(doubts)
}
