//! The moment of a run, and times as the database's service writes them.

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Unix seconds.
    pub now: i64,
    /// UTC as `+00:00`, not as `Z`.
    pub with_offset: bool,
}

impl Clock {
    /// `days` from now, in RFC 3339, UTC; None outside the calendar.
    pub fn text_after_days(self, days: i64) -> Option<String> {
        self.text_after(days.checked_mul(86_400)?)
    }

    /// `seconds` from now, in RFC 3339, UTC; None outside the calendar.
    pub fn text_after(self, seconds: i64) -> Option<String> {
        let time = jiff::Timestamp::from_second(self.now.checked_add(seconds)?).ok()?;
        let text = time.to_string();
        Some(match text.strip_suffix('Z') {
            Some(time) if self.with_offset => format!("{time}+00:00"),
            Some(_) | None => text,
        })
    }
}

/// The Unix seconds of a time as schema.sql defines it.
pub fn unix_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let with_zone = text.parse().ok();
    let utc = || format!("{text}Z").parse().ok();
    with_zone.or_else(utc).map(jiff::Timestamp::as_second)
}
