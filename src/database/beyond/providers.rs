//! Whose invoice it is, where a service takes money in several ways.

use std::fmt;

use reqwest::Url;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::store::Store;

const PROVIDERS: &str = "
SELECT id,
       kind IS 'btcpay' AS is_btcpay,
       CAST(base_url AS TEXT) AS base_url,
       CAST(store_id AS TEXT) AS store_id
  FROM main.payment_providers
 ORDER BY rowid";

const NOTED: &str = "CREATE TEMP TABLE providers (id TEXT PRIMARY KEY, is_ours) WITHOUT ROWID";

/// None of the database's payment providers is the store that is to be asked.
#[derive(Debug)]
pub struct NoProvider {
    wanted: Store,
    /// Address and store of each.
    found: Vec<(String, String)>,
}

/// Notes in `temp.providers` which payment providers are `store`, and gives whether an invoice that
/// names none of them can only be of it.
pub fn note(connection: &Connection, store: &Store) -> rusqlite::Result<Result<bool, NoProvider>> {
    connection.execute_batch(NOTED)?;
    let mut note = connection.prepare("INSERT INTO temp.providers VALUES (?1, ?2)")?;
    let mut statement = connection.prepare(PROVIDERS)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    let mut ours = 0;
    while let Some(row) = rows.next()? {
        let base_url: Option<String> = row.get("base_url")?;
        let store_id: Option<String> = row.get("store_id")?;
        let (base_url, store_id) = (base_url.unwrap_or_default(), store_id.unwrap_or_default());
        let is_btcpay: bool = row.get("is_btcpay")?;
        let is_ours = is_btcpay && store.is_at(&base_url, &store_id);
        note.execute((row.get::<_, Value>("id")?, is_ours))?;
        ours += usize::from(is_ours);
        if is_btcpay {
            found.push((base_url, store_id));
        }
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
            write!(f, "{before} {} and {id}", without_password(url))?;
        }
        Ok(())
    }
}

fn without_password(url: &str) -> String {
    let Ok(mut url) = Url::parse(url.trim()) else {
        return "an address that cannot be read".into();
    };
    // Refused where there can be none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}
