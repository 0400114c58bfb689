//! An invoice as a row: the SELECT, and what is made of its columns.

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::Row;

use super::row::column_value;
use crate::invoice::{
    BtcpayInvoiceId, ByService, Invoice, InvoiceId, License, LicenseId, LocalStatus, Purpose,
    Redemption, RedemptionStatus,
};

/// SQL: whether a time column's text begins as the contract's three forms do. SQLite's own reader
/// would also take `now` or a bare number. schema.sql's partial index has the same words.
macro_rules! time_form {
    ($column:literal) => {
        concat!(
            "(",
            $column,
            " GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9][T ]*')"
        )
    };
}

/// SQL: the Unix seconds of a time column; NULL where it cannot be read.
macro_rules! unix_seconds {
    ($column:literal) => {
        concat!(
            "CASE WHEN ",
            time_form!($column),
            " THEN unixepoch(",
            $column,
            ") END"
        )
    };
}

/// SELECT and FROM of an invoice as [`read_invoice`] reads it.
macro_rules! select_invoice {
    () => {
        concat!(
            "SELECT
               invoices.id,
               invoices.btcpay_invoice_id,
               invoices.status,
               invoices.amount_sats,
               ",
            unix_seconds!("invoices.created_at"), "   AS created_seconds,
               ",
            unix_seconds!("invoices.updated_at"), "   AS updated_seconds,
               licenses.id                      AS license_id,
               discount_redemptions.status      AS redemption_status,
               discount_redemptions.license_id  AS redemption_license_id,
               -- Tested for 'not before', so that an unreadable time leaves the doubt standing.
               -- Few licenses have no invoice, and many may be of one product: the hint and the plus
               -- say so, since an index of the service's on products would be taken else.
               CASE WHEN invoices.status = 'settled' AND licenses.id IS NULL THEN (
                 SELECT gift.id
                   FROM licenses AS gift
                  WHERE likelihood(gift.invoice_id IS NULL, 0.01)
                    AND +gift.product_id = invoices.product_id
                    AND gift.buyer_email = invoices.buyer_email COLLATE NOCASE
                    AND (",
            unix_seconds!("gift.issued_at"), " < ", unix_seconds!("invoices.created_at"),
            ") IS NOT TRUE
                  LIMIT 1
               ) END                            AS license_by_hand_id,
               beyond.purpose,
               beyond.is_done,
               beyond.is_ours,
               licenses.id IS NULL AND beyond.license_deleted AS license_deleted
              FROM invoices
               JOIN invoices_beyond AS beyond ON beyond.invoice_id = invoices.id
               LEFT JOIN licenses             ON licenses.invoice_id = invoices.id
               LEFT JOIN discount_redemptions ON discount_redemptions.invoice_id = invoices.id "
        )
    };
}

/// Reads a row of [`select_invoice`].
///
/// # Errors
///
/// A value that does not fit the contract, by its column.
pub fn read_invoice(row: &Row) -> Result<Invoice> {
    let status: String = column_value(row, "status")?;
    let license_id: Option<Box<str>> = column_value(row, "license_id")?;
    let by_hand_id: Option<Box<str>> = column_value(row, "license_by_hand_id")?;
    let license_deleted: bool = column_value(row, "license_deleted")?;
    let redemption_status: Option<String> = column_value(row, "redemption_status")?;
    let redemption_license_id: Option<Box<str>> = column_value(row, "redemption_license_id")?;
    Ok(Invoice {
        id: InvoiceId(column_value(row, "id")?),
        btcpay_id: BtcpayInvoiceId::checked(column_value(row, "btcpay_invoice_id")?)
            .map_err(|why| anyhow!("its btcpay_invoice_id {why}"))?,
        status: LocalStatus::from_word(&status)
            .with_context(|| format!("its status '{status}' is not in the contract"))?,
        amount_sats: column_value(row, "amount_sats")?,
        created: readable_time(row, "created_at", "created_seconds")?,
        purpose: read_purpose(row)?,
        license: match (license_id, by_hand_id, license_deleted) {
            (Some(id), _, _) => License::Issued(LicenseId(id)),
            (None, Some(id), _) => License::PerhapsByHand(LicenseId(id)),
            (None, None, true) => License::PerhapsDeleted,
            (None, None, false) => License::None,
        },
        redemption: redemption_status
            .map(|word| {
                Ok::<_, anyhow::Error>(Redemption {
                    status: RedemptionStatus::from_word(&word).with_context(|| {
                        format!("its redemption's status '{word}' is not in the contract")
                    })?,
                    license_id: redemption_license_id.map(LicenseId),
                })
            })
            .transpose()?,
    })
}

fn read_purpose(row: &Row) -> Result<Purpose> {
    let by_service = match column_value::<Option<bool>>(row, "is_done")? {
        Some(true) => ByService::Done,
        Some(false) | None => ByService::NotDone,
    };
    Ok(
        match column_value::<Option<String>>(row, "purpose")?.as_deref() {
            None => Purpose::Purchase,
            Some("tier_change") => Purpose::TierChange(by_service),
            Some("renewal") => Purpose::Renewal(by_service),
            Some(other) => bail!("its purpose '{other}' is unknown"),
        },
    )
}

/// The Unix seconds of the time column `column`, which `seconds` has in the row.
pub fn readable_time(row: &Row, column: &str, seconds: &str) -> Result<i64> {
    column_value::<Option<i64>>(row, seconds)?.with_context(|| {
        format!(
            "its {column} is no time as schema.sql describes it; correct it in the table invoices, \
             like 2026-11-23T20:13:59Z"
        )
    })
}
