//! Whose invoice it is, where a service takes money in several ways.

use std::fmt;

use reqwest::Url;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::shown;
use crate::store::Store;

const BTCPAY_PROVIDERS: &str = "
SELECT id, CAST(base_url AS TEXT) AS base_url, CAST(store_id AS TEXT) AS store_id
  FROM main.payment_providers
 WHERE kind = 'btcpay'
 ORDER BY rowid";

const OUR_PROVIDERS: &str = "CREATE TEMP TABLE our_providers (id TEXT PRIMARY KEY) WITHOUT ROWID";

/// None of the database's payment providers is the store that is to be asked.
#[derive(Debug)]
pub struct NoProvider {
    wanted: Store,
    /// Address and store of each.
    found: Vec<(String, String)>,
}

/// Notes in `our_providers` which payment providers are `store`, and gives whether an invoice that
/// names none can only be of it.
pub fn note_ours(
    connection: &Connection,
    store: &Store,
) -> rusqlite::Result<Result<bool, NoProvider>> {
    connection.execute_batch(OUR_PROVIDERS)?;
    let mut note = connection.prepare("INSERT INTO temp.our_providers VALUES (?1)")?;
    let mut statement = connection.prepare(BTCPAY_PROVIDERS)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    let mut ours = 0;
    while let Some(row) = rows.next()? {
        let base_url: Option<String> = row.get("base_url")?;
        let store_id: Option<String> = row.get("store_id")?;
        let (base_url, store_id) = (base_url.unwrap_or_default(), store_id.unwrap_or_default());
        if store.is_at(&base_url, &store_id) {
            note.execute([row.get::<_, Value>("id")?])?;
            ours += 1;
        }
        found.push((base_url, store_id));
    }
    Ok(if ours == 0 {
        Err(NoProvider {
            wanted: store.clone(),
            found,
        })
    } else {
        Ok(ours == found.len())
    })
}

impl fmt::Display for NoProvider {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Store { url, id } = &self.wanted;
        write!(
            f,
            "none of its payment providers is the store {id} at {url}: "
        )?;
        if self.found.is_empty() {
            return f.write_str("it has none of kind btcpay; connect the service to BTCPay first");
        }
        f.write_str("give --btcpay-url and --store-id as the service has them:")?;
        for (place, (url, id)) in self.found.iter().enumerate() {
            let before = if place == 0 { "" } else { " or" };
            write!(f, "{before} {} and {id}", shown_address(url))?;
        }
        Ok(())
    }
}

fn shown_address(url: &str) -> String {
    Url::parse(url.trim()).map_or_else(
        |_| "an address that cannot be read".into(),
        |url| shown::without_password(url).into(),
    )
}
