//! Discount codes whose count is not what their redemptions add up to.

use anyhow::Result;

use super::Database;
use super::errors::explain;
use super::row::shown;
use crate::invoice::CountDrift;

/// One pass over the redemptions. A count that is no number is said when the code is used.
const DRIFT: &str = "
SELECT code_rows.id,
       code_rows.code,
       code_rows.used_count,
       coalesce(held.count, 0) AS held
  FROM code_rows
  LEFT JOIN (SELECT code_id, count(*) AS count
               FROM discount_redemptions
              WHERE status IN ('pending', 'redeemed')
              GROUP BY code_id) AS held ON held.code_id = code_rows.id
 WHERE code_rows.used_count <> coalesce(held.count, 0)
   AND typeof(code_rows.used_count) = 'integer'
 ORDER BY code_rows.code";

impl Database {
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn count_drift(&self) -> Result<Vec<CountDrift>> {
        let read = || -> rusqlite::Result<Vec<CountDrift>> {
            let mut statement = self.connection.prepare(DRIFT)?;
            let drift = statement.query_map([], |row| {
                Ok(CountDrift {
                    code_id: shown(row.get_ref("id")?).into(),
                    code: shown(row.get_ref("code")?).into(),
                    used_count: row.get("used_count")?,
                    held: row.get("held")?,
                })
            })?;
            drift.collect()
        };
        read().map_err(|error| {
            explain(
                &error,
                "read the discount codes of",
                &self.path,
                self.deadline,
            )
        })
    }
}
