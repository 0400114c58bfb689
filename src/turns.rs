//! Turns at the database's write lock, so that the service is not kept from writing: it gives up
//! after seconds, and may lose a sale then.

use std::thread;
use std::time::{Duration, Instant};

/// How long the lock is held before others get their turn.
pub const LONGEST: Duration = Duration::from_millis(500);

/// Enough for whoever waits: SQLite looks every 100 ms at least whether the lock is free.
const OTHERS_MOMENT: Duration = Duration::from_millis(150);

/// How it was shared since the others had their turn.
pub struct Turns {
    since: Instant,
    held: Duration,
}

impl Turns {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            held: Duration::ZERO,
        }
    }

    /// Waits until the others have had their turn, if it is theirs; what they had in between counts.
    pub fn give_way(&mut self) {
        if self.held < LONGEST {
            return;
        }
        let free = self.since.elapsed().saturating_sub(self.held);
        thread::sleep(OTHERS_MOMENT.saturating_sub(free));
        *self = Self::new();
    }

    /// Notes that the lock was held, or waited for, for so long.
    pub fn held(&mut self, time: Duration) {
        self.held += time;
    }
}
