//! The part of schema.sql that this program uses.

use rusqlite::{Connection, Result};

use super::license::ISSUE_LICENSE;

/// A table a line, with its columns.
const COLUMNS: &str = "\
invoices id btcpay_invoice_id product_id policy_id status buyer_email amount_sats created_at updated_at
policies id product_id name slug duration_seconds grace_seconds max_machines is_trial entitlements_json active
licenses id product_id invoice_id policy_id status issued_at expires_at grace_seconds max_machines \
    entitlements_json is_trial buyer_email metadata_json
discount_codes id used_count updated_at
discount_redemptions id code_id invoice_id license_id status updated_at
audit_log actor_kind action target_kind target_id details_json occurred_at";

/// What the database lacks of it, as phrases; empty if nothing.
pub fn missing(connection: &Connection) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut column_names = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    for line in COLUMNS.lines() {
        let (table, columns) = line.split_once(' ').unwrap_or((line, ""));
        let found: Vec<String> = column_names
            .query_map([table], |row| row.get(0))?
            .collect::<Result<_>>()?;
        if found.is_empty() {
            missing.push(format!("table {table} is missing"));
            continue;
        }
        let columns = columns.split_whitespace();
        missing.extend(
            columns
                .filter(|column| !found.iter().any(|name| name.eq_ignore_ascii_case(column)))
                .map(|column| format!("column {table}.{column} is missing")),
        );
    }
    // SQLite knows whether anything makes invoice_id unique: otherwise it refuses to prepare the
    // statement for its ON CONFLICT.
    if missing.is_empty() && connection.prepare(ISSUE_LICENSE).is_err() {
        missing.push(
            "licenses.invoice_id is not UNIQUE (CREATE UNIQUE INDEX licenses_invoice ON \
             licenses(invoice_id) makes it so)"
                .into(),
        );
    }
    Ok(missing)
}
