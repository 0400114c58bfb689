//! The write lock. The service gives up waiting for it after seconds, and may lose a sale then, so no
//! transaction lasts much longer than [`LONGEST`], and between them others get their turn.
//!
//! Writing happens in IMMEDIATE transactions, which take the lock before they read: what they read is
//! still true when they write. No lock is held while BTCPay Server is asked.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rusqlite::Connection;

use super::{Database, WriteError, Writing};
use crate::deadline::Deadline;

/// How long this program waits for another program's lock, unless its deadline is nearer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the lock is held before others get a turn.
const LONGEST: Duration = Duration::from_millis(500);

/// A turn for others: SQLite looks at least every 100 ms whether the lock is free.
const TURN: Duration = Duration::from_millis(150);

pub fn wait_for_locks(connection: &Connection, deadline: Deadline) -> rusqlite::Result<()> {
    connection.busy_timeout(deadline.shrink(BUSY_TIMEOUT))
}

/// Use of the lock since others last had a turn.
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

    /// Waits for the rest of the others' turn, if one is due.
    fn yield_if_due(&mut self) {
        if self.held < LONGEST {
            return;
        }
        let free = self.since.elapsed().saturating_sub(self.held);
        thread::sleep(TURN.saturating_sub(free));
        *self = Self::new();
    }
}

impl Database {
    /// Writes each of `items`, many to a transaction; in a dry run, only reads. `written` hears of
    /// each once its transaction is committed, with what `write` gave or why the item failed.
    /// A transaction that is refused as a whole is repeated with each item by itself.
    ///
    /// # Errors
    ///
    /// Nothing more can be written, or the deadline has passed.
    pub fn write_each<Item, Outcome>(
        &mut self,
        mut items: Vec<Item>,
        write: impl Fn(&mut Writing, &Item) -> Result<Outcome, WriteError>,
        mut written: impl FnMut(Item, Result<Outcome>),
    ) -> Result<()> {
        let mut at_most = items.len();
        while !items.is_empty() {
            self.turns.yield_if_due();
            let began = Instant::now();
            let outcomes = self.write_together(&items, at_most, &write);
            self.turns.held += began.elapsed();
            let outcomes = match outcomes {
                Ok(outcomes) => outcomes,
                Err(WriteError::Database(error)) => return Err(error),
                Err(WriteError::Invoice(_) | WriteError::Transaction(_)) if at_most > 1 => {
                    at_most = 1;
                    continue;
                }
                Err(WriteError::Invoice(error) | WriteError::Transaction(error)) => {
                    vec![Err(error)]
                }
            };
            let left = items.split_off(outcomes.len());
            items
                .into_iter()
                .zip(outcomes)
                .for_each(|(item, outcome)| written(item, outcome));
            items = left;
            if !items.is_empty() && self.deadline.has_passed() {
                bail!(
                    "deadline reached: {} changes were not written. The next run continues; raise \
                     --deadline if this repeats",
                    items.len()
                );
            }
        }
        Ok(())
    }

    /// In one transaction, up to `at_most` of the items, for about [`LONGEST`].
    fn write_together<Item, Outcome>(
        &mut self,
        items: &[Item],
        at_most: usize,
        write: impl Fn(&mut Writing, &Item) -> Result<Outcome, WriteError>,
    ) -> Result<Vec<Result<Outcome>>, WriteError> {
        let mut writing = self.begin().map_err(WriteError::Database)?;
        let began = Instant::now();
        let mut outcomes = Vec::new();
        for item in items.iter().take(at_most) {
            outcomes.push(match write(&mut writing, item) {
                Err(WriteError::Invoice(error)) => Err(error),
                other => Ok(other?),
            });
            if began.elapsed() > LONGEST {
                break;
            }
        }
        writing.commit()?;
        Ok(outcomes)
    }
}
