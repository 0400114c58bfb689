//! The service's `audit_log`: who did what.

use anyhow::Result;
use rusqlite::{Savepoint, named_params};

use super::row::execute_one;

pub const AUDIT: &str = "
INSERT INTO audit_log ( actor_kind,  action,  target_kind,  target_id,  details_json, occurred_at)
VALUES                (:actor_kind, :action, :target_kind, :target_id, :details_json, :now)";

/// Adds one row; `details` is JSON.
pub fn note(
    savepoint: &Savepoint,
    [actor_kind, action, target_kind, target_id]: [&str; 4],
    details: &str,
    now: &str,
) -> Result<()> {
    execute_one(
        savepoint,
        "the audit row",
        AUDIT,
        named_params! {
            ":actor_kind": actor_kind,
            ":action": action,
            ":target_kind": target_kind,
            ":target_id": target_id,
            ":details_json": details,
            ":now": now,
        },
    )
}
