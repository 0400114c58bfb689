//! A store's list of invoices, and its query.

use std::cmp::Reverse;

use serde_json::json;

use super::greenfield::{Reply, decoded, unprocessable};
use super::{Invoice, State, Version};

/// The times that a date of .NET can have, in Unix seconds.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

const STATUSES: [&str; 5] = ["new", "processing", "settled", "expired", "invalid"];

impl State {
    /// Newest first. Within one second the order differs from request to request.
    pub fn list(&mut self, store: &str, query: &str) -> Result<Reply, Reply> {
        let version = self.version;
        let wanted = Wanted::of(query, version)?;
        let mut found: Vec<&Invoice> = self
            .invoices
            .iter()
            .filter(|invoice| invoice.store_id == store && wanted.has(invoice))
            .collect();
        self.chance.shuffle(&mut found);
        found.sort_by_key(|invoice| Reverse(invoice.created));
        let page = found.into_iter().skip(wanted.skip).take(wanted.take);
        Ok(Reply::json(
            200,
            &page.map(|invoice| invoice.json(version)).collect(),
        ))
    }
}

struct Wanted {
    /// In lower case; `None` for any.
    statuses: Option<Vec<String>>,
    order_ids: Vec<String>,
    start: Option<i64>,
    end: Option<i64>,
    archived_too: bool,
    skip: usize,
    take: usize,
}

impl Wanted {
    /// What it does not know, it ignores.
    fn of(query: &str, version: Version) -> Result<Self, Reply> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<(&str, String)> = pairs
            .map(|(name, value)| (name, decoded(&value.replace('+', "%20"))))
            .collect();
        let values = |name: &str| {
            let pairs = pairs.iter().filter(|(found, _)| *found == name);
            pairs.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let first = |name: &str| values(name).into_iter().find(|value| !value.is_empty());
        let not_valid = |name: &str, value: &str| {
            unprocessable(name, &format!("The value '{value}' is not valid."))
        };

        let time = |name: &str| {
            let time = first(name).map(|value| value.parse().ok());
            time.map(|time| time.filter(|time| TIMES.contains(time)))
                .map(|time| time.ok_or_else(|| unprocessable(name, "Invalid unix timestamp")))
                .transpose()
        };
        let number = |name: &str, default: usize| {
            first(name).map_or(Ok(default), |value| {
                let number: i32 = value.parse().map_err(|_| not_valid(name, &value))?;
                usize::try_from(number).map_err(|_| Reply::empty(500))
            })
        };
        let (start, end) = (time("startDate")?, time("endDate")?);
        if start.zip(end).is_some_and(|(start, end)| start > end) {
            return Err(Reply::json(
                422,
                &json!([
                    {"path": "endDate", "message": "endDate should not be below startDate"},
                    {"path": "startDate", "message": "startDate should not be above endDate"},
                ]),
            ));
        }
        let archived_too = match first("includeArchived") {
            None => false,
            Some(value) => value
                .to_lowercase()
                .parse()
                .map_err(|_| not_valid("includeArchived", &value))?,
        };
        let mut statuses = values("status");
        if statuses.iter().any(String::is_empty) {
            return Err(Reply::empty(500));
        }
        for status in &mut statuses {
            status.make_ascii_lowercase();
        }
        if version > Version::UpTo1_13 {
            statuses.retain(|status| STATUSES.contains(&status.as_str()));
        }
        Ok(Self {
            statuses: Some(statuses).filter(|statuses| !statuses.is_empty()),
            order_ids: values("orderId"),
            start,
            end,
            archived_too,
            skip: number("skip", 0)?,
            take: number("take", usize::MAX)?,
        })
    }

    fn has(&self, invoice: &Invoice) -> bool {
        let status = invoice.status.to_lowercase();
        let order_id = invoice.order_id.as_deref().unwrap_or_default();
        (self.archived_too || !invoice.archived)
            && self
                .statuses
                .as_ref()
                .is_none_or(|any| any.contains(&status))
            && (self.order_ids.is_empty() || self.order_ids.iter().any(|id| id == order_id))
            && self.start.is_none_or(|start| invoice.created >= start)
            && self.end.is_none_or(|end| invoice.created <= end)
    }
}
