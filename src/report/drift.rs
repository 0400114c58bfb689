//! Discount codes whose count is wrong, and the SQL that mends one.

use serde::{Serialize, Serializer};

use super::advice::quoted;
use crate::invoice::CountDrift;

#[derive(Serialize)]
struct DriftJson<'drift> {
    code: &'drift str,
    code_id: &'drift str,
    used_count: i64,
    held: i64,
    sql: String,
}

/// As an array of objects.
pub fn serialize<S: Serializer>(drift: &[CountDrift], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(drift.iter().map(|one| DriftJson {
        code: &one.code,
        code_id: &one.code_id,
        used_count: one.used_count,
        held: one.held,
        sql: sql(one),
    }))
}

/// In words, without a line's end.
pub fn line(drift: &CountDrift) -> String {
    format!(
        "code {}: used_count is {}, but {} of its redemptions are pending or redeemed: {}",
        drift.code,
        drift.used_count,
        drift.held,
        sql(drift)
    )
}

/// Counts again, in case a code was redeemed in the meantime.
fn sql(drift: &CountDrift) -> String {
    format!(
        "UPDATE discount_codes SET used_count = (SELECT count(*) FROM discount_redemptions WHERE \
         code_id = discount_codes.id AND status IN ('pending', 'redeemed')) WHERE id = '{}';",
        quoted(&drift.code_id)
    )
}
