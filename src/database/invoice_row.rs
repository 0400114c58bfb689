//! An invoice as a row of the view `invoice_rows`.

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::Row;

use super::row::column_value;
use super::views::Views;
use crate::invoice::{
    BtcpayInvoiceId, Invoice, InvoiceId, License, LicenseId, LocalStatus, Missing, Provider,
    Purpose, Redemption, RedemptionStatus, Sale,
};

/// Creates the view. Its columns are what [`read_invoice`] and [`read_sale`] read.
pub fn view(views: &Views) -> String {
    let Views {
        is_ours,
        purpose,
        missing_subscription,
        missing_cycle,
        missing_delivery,
        product_name,
        ..
    } = views;
    let created = unix_seconds("invoices.created_at");
    let updated = unix_seconds("invoices.updated_at");
    format!(
        "CREATE TEMP VIEW invoice_rows AS
         SELECT invoices.id                     AS id,
                invoices.btcpay_invoice_id      AS btcpay_invoice_id,
                invoices.status                 AS status,
                invoices.amount_sats            AS amount_sats,
                {created}                       AS created_seconds,
                {updated}                       AS updated_seconds,
                licenses.id                     AS license_id,
                licenses.status = 'active'      AS license_is_active,
                discount_redemptions.status     AS redemption_status,
                discount_redemptions.license_id AS redemption_license_id,
                {purpose}                       AS purpose,
                {is_ours}                       AS is_ours,
                {missing_subscription}          AS missing_subscription,
                {missing_cycle}                 AS missing_cycle,
                {missing_delivery}              AS missing_delivery,
                invoices.buyer_email            AS buyer_email,
                coalesce({product_name}, invoices.product_id) AS product
           FROM main.invoices
           LEFT JOIN main.licenses             ON licenses.invoice_id = invoices.id
           LEFT JOIN main.discount_redemptions ON discount_redemptions.invoice_id = invoices.id"
    )
}

/// SQL: the Unix seconds of a time column, NULL if its text does not begin like the contract's three
/// forms. SQLite's own parser would also take `now` or a bare number.
pub fn unix_seconds(column: &str) -> String {
    format!(
        "CASE WHEN {column} GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9][T ]*'
              THEN unixepoch({column}) END"
    )
}

/// # Errors
///
/// A value that does not fit the contract, by its column.
pub fn read_invoice(row: &Row) -> Result<Invoice> {
    let status: String = column_value(row, "status")?;
    let license_id: Option<Box<str>> = column_value(row, "license_id")?;
    let redemption_status: Option<String> = column_value(row, "redemption_status")?;
    let redemption_license_id: Option<Box<str>> = column_value(row, "redemption_license_id")?;
    let is_true = |column| {
        let value: Option<bool> = column_value(row, column)?;
        Ok::<_, anyhow::Error>(value == Some(true))
    };
    Ok(Invoice {
        id: InvoiceId(column_value(row, "id")?),
        btcpay_id: BtcpayInvoiceId::checked(column_value(row, "btcpay_invoice_id")?)
            .map_err(|why| anyhow!("its btcpay_invoice_id {why}"))?,
        status: LocalStatus::from_word(&status)
            .with_context(|| format!("its status '{status}' is not in schema.sql"))?,
        amount_sats: column_value(row, "amount_sats")?,
        created: readable_time(row, "created_at", "created_seconds")?,
        provider: match column_value::<Option<bool>>(row, "is_ours")? {
            // A free sale is of no store, so it needs none of ours.
            Some(_) => Provider::OurStore,
            None => Provider::Unnamed,
        },
        purpose: match column_value::<Option<String>>(row, "purpose")?.as_deref() {
            None => Purpose::Purchase,
            Some("tier_change") => Purpose::TierChange { applied: false },
            Some("renewal") => Purpose::Renewal { applied: false },
            Some(other) => bail!("its purpose '{other}' is unknown"),
        },
        license: match license_id {
            Some(id) => License::Issued {
                id: LicenseId(id),
                is_active: is_true("license_is_active")?,
            },
            None => License::None,
        },
        missing: Missing {
            subscription: is_true("missing_subscription")?,
            cycle: is_true("missing_cycle")?,
            delivery: is_true("missing_delivery")?,
        },
        redemption: redemption_status
            .map(|word| {
                Ok::<_, anyhow::Error>(Redemption {
                    status: RedemptionStatus::from_word(&word).with_context(|| {
                        format!("its redemption's status '{word}' is not in schema.sql")
                    })?,
                    license_id: redemption_license_id.map(LicenseId),
                })
            })
            .transpose()?,
    })
}

/// What a person sees of `invoice`, which is of the same row. A value that cannot be read is left
/// out: it stops nothing.
pub fn read_sale(row: &Row, invoice: &Invoice) -> Sale {
    Sale {
        buyer_email: row.get("buyer_email").ok(),
        product: row.get("product").ok(),
        ..Sale::of(invoice)
    }
}

/// The Unix seconds of the time column `column`, which the row has as `seconds`.
pub fn readable_time(row: &Row, column: &str, seconds: &str) -> Result<i64> {
    column_value::<Option<i64>>(row, seconds)?.with_context(|| {
        format!(
            "its {column} is not a time as schema.sql defines it. Correct it in the table invoices, \
             for example to 2026-11-23T20:13:59Z"
        )
    })
}
