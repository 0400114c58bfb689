//! Payment providers: whose an invoice is, if the service takes money in several ways.

use std::fmt;

use reqwest::Url;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::Keysat;
use crate::invoice::{Store, without_password};

const BTCPAY_PROVIDERS: &str = "
SELECT id, CAST(base_url AS TEXT) AS base_url, CAST(store_id AS TEXT) AS store_id
  FROM main.payment_providers
 WHERE kind = 'btcpay'
 ORDER BY rowid";

const OUR_PROVIDERS: &str = "CREATE TEMP TABLE our_providers (id TEXT PRIMARY KEY) WITHOUT ROWID";

/// None of the service's payment providers is the store in which invoices will be looked up.
#[derive(Debug)]
pub struct UnknownStore {
    wanted: Store,
    /// Address and store of each.
    found: Vec<(String, String)>,
}

/// Records in `our_providers` which providers are `store`; gives whether an invoice that names no
/// provider can only be of it.
pub fn note_ours(
    connection: &Connection,
    store: &Store,
) -> rusqlite::Result<Result<bool, UnknownStore>> {
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
        Err(UnknownStore {
            wanted: store.clone(),
            found,
        })
    } else {
        Ok(ours == found.len())
    })
}

impl fmt::Display for UnknownStore {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Store { url, id } = &self.wanted;
        write!(f, "none of its payment providers is store {id} at {url}. ")?;
        if self.found.is_empty() {
            return f.write_str("It has none of kind btcpay; connect the service to BTCPay first");
        }
        f.write_str("Set --btcpay-url and --store-id as in the service:")?;
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
        |url| without_password(url).into(),
    )
}

const PROVIDER_OF_SUBSCRIPTION: &str = "
(SELECT subscriptions.payment_provider_id
   FROM main.subscription_invoices AS cycle
   JOIN main.subscriptions ON subscriptions.id = cycle.subscription_id
  WHERE cycle.invoice_id = invoices.id
    AND subscriptions.payment_provider_id IS NOT NULL)";

impl Keysat {
    /// SQL over `invoices`: whether an invoice is of our store. A renewal names no provider, but its
    /// subscription does.
    pub(super) fn is_ours(&self, unnamed_are_ours: bool) -> String {
        let of_subscription =
            if self.has_subscriptions() && self.has("subscriptions", "payment_provider_id") {
                PROVIDER_OF_SUBSCRIPTION
            } else {
                "NULL"
            };
        // Which of several stores an invoice without a provider is of, BTCPay will say.
        let unnamed = if unnamed_are_ours { "1" } else { "NULL" };
        format!(
            "coalesce(coalesce(invoices.payment_provider_id, {of_subscription})
                      IN (SELECT id FROM temp.our_providers), {unnamed})"
        )
    }
}
