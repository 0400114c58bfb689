//! When a run must end.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// `seconds` from now; never for 0.
    pub fn after(seconds: u32) -> Self {
        let limit = Duration::from_secs(u64::from(seconds));
        Self(
            (seconds > 0)
                .then(|| Instant::now().checked_add(limit))
                .flatten(),
        )
    }

    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// `limit`, or what is left if that is less.
    pub fn shrink(self, limit: Duration) -> Duration {
        limit.min(self.left())
    }

    fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |end| {
            end.saturating_duration_since(Instant::now())
        })
    }
}
