//! Rows of a database that is not ours: reading them with errors that name the column, and writing
//! exactly one.

use anyhow::{Result, anyhow, bail};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, Params, Row, Savepoint, params_from_iter};

/// The first row of a query with these parameters, if there is one.
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

/// Executes a statement that writes one row: `what`.
///
/// # Errors
///
/// The database refuses it, or a trigger turned it into something else.
pub fn execute_one(
    savepoint: &Savepoint,
    what: &str,
    sql: &str,
    params: impl Params,
) -> Result<()> {
    match savepoint.prepare_cached(sql)?.execute(params)? {
        1 => Ok(()),
        rows => bail!(
            "writing {what} changed {rows} rows instead of one. Check the triggers of its table"
        ),
    }
}

/// The value of a column.
///
/// # Errors
///
/// It does not fit the contract; the message names the column.
pub fn column_value<T: FromSql>(row: &Row, column: &str) -> Result<T> {
    row.get(column).map_err(|error| match error {
        rusqlite::Error::InvalidColumnType(_, name, _) => match row.get_ref(column) {
            Ok(value) => anyhow!(
                "its {name} does not match schema.sql: it is {}",
                kind(value)
            ),
            Err(error) => anyhow!(error).context(format!("its {name} cannot be read")),
        },
        other => anyhow!(other).context(format!("its {column} cannot be read")),
    })
}

/// A value with its type.
pub fn kind(value: ValueRef) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        value => format!("{} '{}'", value.data_type(), shown(value)),
    }
}

/// A yes or no of `table`, as services write it: 0, f, false, no, or 1, t, true, yes, in any case and
/// type.
///
/// # Errors
///
/// It is anything else.
pub fn flag(row: &Row, table: &str, column: &str) -> Result<bool> {
    let value = row.get_ref(column)?;
    match shown(value).to_lowercase().as_str() {
        "0" | "f" | "false" | "no" => Ok(false),
        "1" | "t" | "true" | "yes" => Ok(true),
        _ => bail!(
            "{table}.{column} is {}, neither yes nor no. Set it to 0 or 1",
            kind(value)
        ),
    }
}

/// Whatever a column holds, for a person to recognize it.
pub fn shown(value: ValueRef) -> Box<str> {
    /// Longer than any id.
    const LONGEST: usize = 256;
    let text = match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into(),
    };
    if text.chars().nth(LONGEST).is_none() {
        return text.into();
    }
    let beginning: String = text.chars().take(LONGEST).chain(['…']).collect();
    beginning.into()
}
