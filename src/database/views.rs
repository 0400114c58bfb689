//! Temporary views that the room's queries read. They are created in every database and live and die
//! with the connection; what they say beyond schema.sql depends on the service.

use log::trace;
use rusqlite::{Connection, Result};

use super::{invoice_row, license};

/// The SQL in which databases differ.
pub struct Views {
    /// An expression over `invoices`: whether it is an invoice of our store.
    pub is_ours: String,
    /// An expression over `invoices`: `tier_change`, `renewal`, or NULL for a purchase.
    pub purpose: String,
    /// An expression over `invoices`: whether its license may have been deleted.
    pub license_deleted: String,
    /// A SELECT of `invoice_id` and `created_at`: settled invoices that may be incomplete although
    /// they have a license.
    pub incomplete: String,
    /// An expression over `policies`: whether it is archived.
    pub is_archived: String,
    /// An expression over `policies`: with how many days of trial its licenses begin, or NULL.
    pub trial_days: String,
    /// An expression over `invoices`: its product's name, or NULL.
    pub product_name: String,
}

impl Views {
    /// What schema.sql says, and columns that a service may have in addition.
    pub fn of_the_contract(connection: &Connection) -> Result<Self> {
        let has = |table: &str, column: &str| {
            connection
                .prepare_cached("SELECT 1 FROM pragma_table_info(?1) WHERE lower(name) = ?2")?
                .exists([table, column])
        };
        let archived = has("policies", "archived_at")?;
        let product_names = has("products", "id")? && has("products", "name")?;
        let product_name = "(SELECT name FROM main.products WHERE id = invoices.product_id)";
        Ok(Self {
            is_ours: "1".into(),
            purpose: "NULL".into(),
            license_deleted: "0".into(),
            incomplete: "SELECT NULL AS invoice_id, NULL AS created_at WHERE 0".into(),
            is_archived: if archived {
                "policies.archived_at IS NOT NULL"
            } else {
                "0"
            }
            .into(),
            trial_days: "NULL".into(),
            product_name: if product_names { product_name } else { "NULL" }.into(),
        })
    }

    pub fn create(&self, connection: &Connection) -> Result<()> {
        let sql = format!(
            "{};\n{};\nCREATE TEMP VIEW incomplete_invoices AS\n{};",
            invoice_row::view(self),
            license::policy_view(self),
            self.incomplete
        );
        trace!("{sql}");
        connection.execute_batch(&sql)
    }
}
