//! Temporary views that the queries read. They are created in every database and live and die
//! with the connection; what they say beyond schema.sql depends on the service.

use log::trace;
use rusqlite::{Connection, Result};

use super::{doubt, invoice_row, license};

/// The SQL in which databases differ.
pub struct Views {
    /// An expression over `invoices`: whether it is an invoice of our store; NULL if that is unknown.
    pub is_ours: String,
    /// An expression over `invoices`: `tier_change`, `renewal`, or NULL for a purchase.
    pub purpose: String,
    /// Expressions over `invoices` and `licenses`: which parts of its license are missing.
    pub missing_subscription: String,
    pub missing_cycle: String,
    pub missing_delivery: String,
    /// A SELECT of `invoice_id` and `created_at`: settled invoices that may be incomplete although
    /// they have a license.
    pub incomplete: String,
    /// Expressions over `policies`: when it was archived, whether it is recurring, and with how many
    /// days of trial its licenses begin; or NULL.
    pub archived_at: String,
    pub is_recurring: String,
    pub trial_days: String,
    /// Expressions over `discount_codes`: what the buyer types, and how often it may be used; or NULL.
    pub code: String,
    pub max_uses: String,
    /// An expression over `invoices`: whether its product exists, as far as that can be told.
    pub product_exists: String,
    /// An expression over `invoices`: its product's name, or NULL.
    pub product_name: String,
}

impl Views {
    /// What schema.sql says, and columns that a service may have in addition.
    pub fn of_the_contract(connection: &Connection) -> Result<Self> {
        let has = |table: &str, column: &str| has_column(connection, table, column);
        let or_null = |table: &str, column: &str| {
            let exists = has(table, column)?;
            Ok::<_, rusqlite::Error>(if exists { column } else { "NULL" }.to_owned())
        };
        let of_product = |select: &str, exists: bool, otherwise: &str| {
            if exists {
                format!("({select} FROM main.products WHERE id = invoices.product_id)")
            } else {
                otherwise.to_owned()
            }
        };
        let products = has("products", "id")?;
        Ok(Self {
            is_ours: "1".into(),
            purpose: "NULL".into(),
            missing_subscription: "0".into(),
            missing_cycle: "0".into(),
            missing_delivery: "0".into(),
            incomplete: "SELECT NULL AS invoice_id, NULL AS created_at WHERE 0".into(),
            archived_at: or_null("policies", "archived_at")?,
            is_recurring: "NULL".into(),
            trial_days: "NULL".into(),
            code: or_null("discount_codes", "code")?,
            max_uses: or_null("discount_codes", "max_uses")?,
            product_exists: of_product("SELECT count(*)", products, "1"),
            product_name: of_product("SELECT name", products && has("products", "name")?, "NULL"),
        })
    }

    pub fn create(&self, connection: &Connection) -> Result<()> {
        let views = [
            invoice_row::view(self),
            doubt::view(self),
            license::policy_view(self),
            format!(
                "CREATE TEMP VIEW incomplete_invoices AS {}",
                self.incomplete
            ),
            format!(
                "CREATE TEMP VIEW code_rows AS
                 SELECT id, coalesce({}, id) AS code, used_count, {} AS max_uses
                   FROM main.discount_codes",
                self.code, self.max_uses
            ),
        ];
        // A line of the log each: longer ones are cut.
        for view in &views {
            trace!("view: {view};");
        }
        connection.execute_batch(&views.join(";\n"))
    }
}

/// Whether a table has this column, generated ones included.
pub fn has_column(connection: &Connection, table: &str, column: &str) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM pragma_table_xinfo(?1) WHERE lower(name) = ?2")?
        .exists([table, column])
}
