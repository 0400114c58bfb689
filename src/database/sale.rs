//! What an invoice was for, for whoever looks at a dry run.

use anyhow::{Context, Result};

use super::Database;
use super::row::column_value;
use crate::invoice::{Invoice, Sale};

const WITH_NAME: &str = "
SELECT invoices.buyer_email, coalesce(products.name, invoices.product_id) AS product
  FROM invoices
  LEFT JOIN products ON products.id = invoices.product_id
 WHERE invoices.id = ?1";

const WITHOUT_NAME: &str = "
SELECT buyer_email, product_id AS product
  FROM invoices
 WHERE id = ?1";

#[cfg(test)]
pub const QUERIES: [&str; 2] = [WITH_NAME, WITHOUT_NAME];

impl Database {
    /// None where it cannot be read, which is no trouble of the real run's.
    pub fn sale(&self, invoice: &Invoice) -> Option<Sale> {
        self.read_sale(invoice).ok()
    }

    fn read_sale(&self, invoice: &Invoice) -> Result<Sale> {
        // A service's own table of products may have no names.
        let mut statement = match self.connection.prepare_cached(WITH_NAME) {
            Ok(statement) => statement,
            Err(_) => self.connection.prepare_cached(WITHOUT_NAME)?,
        };
        statement
            .query_and_then([&invoice.id.0], |row| {
                Ok(Sale {
                    buyer_email: column_value(row, "buyer_email")?,
                    product: column_value(row, "product")?,
                    amount_sats: invoice.amount_sats,
                    created: invoice.created,
                })
            })?
            .next()
            .context("its row is gone")?
    }
}
