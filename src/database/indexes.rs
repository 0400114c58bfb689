//! Which indexes of schema.sql a database lacks. Results are the same without them, but slower.

use rusqlite::{Connection, Result, Row};

const INDEXES: &str = "
SELECT lower(tables.name) AS table_name,
       list.origin = 'pk' AS is_key,
       lower((SELECT group_concat(coalesce(name, '?') || ' ' || coll, ', ' ORDER BY seqno)
                FROM pragma_index_xinfo(list.name)
               WHERE key)) AS columns,
       coalesce(own.sql,
                'CREATE UNIQUE INDEX ' || tables.name || '_'
                || (SELECT group_concat(name, '_' ORDER BY seqno) FROM pragma_index_info(list.name))
                || ' ON ' || tables.name || ' ('
                || (SELECT group_concat(name, ', ' ORDER BY seqno) FROM pragma_index_info(list.name))
                || ')') AS sql
  FROM sqlite_schema AS tables
  JOIN pragma_index_list(tables.name) AS list
  LEFT JOIN sqlite_schema AS own ON own.type = 'index' AND own.name = list.name
 WHERE tables.type = 'table'
   AND lower(tables.name) IN ('invoices', 'licenses', 'discount_redemptions', 'audit_log')
 ORDER BY tables.rowid, own.rowid";

struct Index {
    table: String,
    is_key: bool,
    /// With their collations.
    columns: String,
    /// Of a partial index.
    condition: Option<String>,
    /// Its CREATE statement, on one line.
    sql: String,
}

/// The statements that create the missing ones.
pub fn missing(connection: &Connection) -> Result<Vec<String>> {
    let model = Connection::open_in_memory()?;
    model.execute_batch(include_str!("../../schema.sql"))?;
    let found = indexes(connection)?;
    Ok(indexes(&model)?
        .into_iter()
        .filter(|wanted| !wanted.is_key && !found.iter().any(|index| index.serves_as(wanted)))
        .map(|wanted| wanted.sql)
        .collect())
}

fn indexes(connection: &Connection) -> Result<Vec<Index>> {
    connection.prepare(INDEXES)?.query_map([], read)?.collect()
}

fn read(row: &Row) -> Result<Index> {
    let columns: String = row.get("columns")?;
    let sql: String = row.get("sql")?;
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let condition = sql
        .to_lowercase()
        .split_once(" where ")
        .map(|(_, condition)| condition.to_owned())
        // A lookup of a value needs no rows with NULL.
        .filter(|condition| {
            condition.strip_suffix(" is not null") != columns.split_whitespace().next()
        });
    Ok(Index {
        table: row.get("table_name")?,
        is_key: row.get("is_key")?,
        columns,
        condition,
        sql,
    })
}

impl Index {
    fn serves_as(&self, wanted: &Self) -> bool {
        self.table == wanted.table
            && self.condition == wanted.condition
            && self
                .columns
                .strip_prefix(&wanted.columns)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(", "))
    }
}
