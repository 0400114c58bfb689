//! The part of schema.sql that this program uses.

use rusqlite::{Connection, Error, Result};

use super::audit::{self, AUDIT};
use super::license::ISSUE_LICENSE;
use super::redemption::{COUNT_USES, MOVE_REDEMPTION};
use super::write::SET_STATUS;

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
    let mut column_names = connection.prepare("SELECT name FROM pragma_table_xinfo(?1)")?;
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
    // SQLite itself says whether it can write them: it refuses to prepare an INSERT without a UNIQUE
    // constraint for its ON CONFLICT, with a parent that is gone, or with a trigger or an index that
    // calls a function of the service's own.
    if missing.is_empty() {
        let log = [("audit_log", audit::query())];
        let statements = STATEMENTS.map(|(table, sql)| (table, sql.to_owned()));
        for (table, sql) in statements.into_iter().chain(log) {
            if let Err(error) = connection.prepare(&sql) {
                missing.push(explain(table, &error));
            }
        }
    }
    Ok(missing)
}

const STATEMENTS: [(&str, &str); 5] = [
    ("licenses", ISSUE_LICENSE),
    ("invoices", SET_STATUS),
    ("discount_redemptions", MOVE_REDEMPTION),
    ("discount_codes", COUNT_USES),
    ("audit_log", AUDIT),
];

fn explain(table: &str, error: &Error) -> String {
    let why = why(error);
    if why.contains("ON CONFLICT clause does not match") {
        "licenses.invoice_id is not UNIQUE (CREATE UNIQUE INDEX licenses_invoice ON \
         licenses(invoice_id) makes it so)"
            .into()
    } else {
        cannot_write(table, &why)
    }
}

pub fn cannot_write(table: &str, why: &str) -> String {
    format!("SQLite cannot write to the table {table} ({why})")
}

/// What SQLite says, without the statement.
pub fn why(error: &Error) -> String {
    match error {
        Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}
