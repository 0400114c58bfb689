//! Rows of foreign data: read with what is wrong with them in words, and written one at a time.

use anyhow::{Result, anyhow, bail};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, Params, Row, Savepoint, params_from_iter};

/// The one row that a query gives for these texts, if it gives one.
pub fn one<T>(
    connection: &Connection,
    sql: &str,
    texts: &[&str],
    read: impl FnMut(&Row) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query_and_then(params_from_iter(texts), read)?;
    rows.next().transpose()
}

/// Executes a statement that writes one row, `what` in words.
///
/// # Errors
///
/// The database refuses it, or a trigger made something else of it.
pub fn execute_one(
    savepoint: &Savepoint,
    what: &str,
    sql: &str,
    params: impl Params,
) -> Result<()> {
    match savepoint.prepare_cached(sql)?.execute(params)? {
        1 => Ok(()),
        rows => bail!(
            "writing {what} changed {rows} rows instead of one; see the triggers of its table"
        ),
    }
}

/// The value of a column, or what is wrong with it in words.
pub fn column_value<T: FromSql>(row: &Row, column: &str) -> Result<T> {
    row.get(column).map_err(|error| match error {
        rusqlite::Error::InvalidColumnType(_, name, kind) => {
            anyhow!("its {name} does not fit the contract of schema.sql: it is {kind}")
        }
        other => anyhow!(other).context(format!("its {column} cannot be read")),
    })
}

/// Whatever stands in a column, for a person to recognise it.
pub fn shown(value: ValueRef) -> Box<str> {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string().into(),
        ValueRef::Real(number) => number.to_string().into(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into(),
    }
}
