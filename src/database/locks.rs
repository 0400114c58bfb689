//! The write lock. The service gives up waiting for it after seconds, and may lose a sale then, so no
//! write transaction lasts much longer than twice [`LONGEST`], waiting for its commit included, and between them
//! others get their turn.
//!
//! Writing happens in IMMEDIATE transactions, which take the lock before they read: what they read is
//! still true when they write. No lock waits for BTCPay Server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rusqlite::Connection;

use super::errors::explain;
use super::{Database, WriteError, Writing};
use crate::stop::{Deadline, OutOfTime};

/// How long this program waits for another program's lock, unless its deadline is nearer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a transaction works before others get a turn, and how long its commit may then wait for
/// readers: in a rollback journal that keeps new ones out. Half a second in all.
const LONGEST: Duration = Duration::from_millis(250);

/// A turn for others: SQLite looks at least every 100 ms whether the lock is free.
const TURN: Duration = Duration::from_millis(150);

/// How often a locked database is tried again.
const LOOK: Duration = Duration::from_millis(20);

/// SQLite's instructions between two looks at the deadline.
const INSTRUCTIONS: i32 = 10_000;

/// How the connection waits for locks.
#[derive(Clone, Default)]
pub struct Waiting {
    /// Whether it has the write lock, and so makes others wait while it waits itself.
    holds_lock: Arc<AtomicBool>,
}

impl Waiting {
    /// Makes `connection` wait for locks until the deadline, [`BUSY_TIMEOUT`] at most, or with the
    /// write lock [`LONGEST`]; and makes it end a statement that runs beyond the deadline.
    pub fn set_up(&self, connection: &mut Connection, deadline: Deadline) -> rusqlite::Result<()> {
        let holds_lock = Arc::clone(&self.holds_lock);
        let mut began = Instant::now();
        connection.busy_handler(Some(move |times| {
            if times == 0 {
                began = Instant::now();
            }
            let most = if holds_lock.load(Ordering::Relaxed) {
                LONGEST
            } else {
                BUSY_TIMEOUT
            };
            let waits = began.elapsed() < most && !deadline.is_reached();
            if waits {
                thread::sleep(LOOK);
            }
            waits
        }))?;
        connection.progress_handler(INSTRUCTIONS, Some(move || deadline.is_reached()))
    }

    pub fn has_lock(&self, has_lock: bool) {
        self.holds_lock.store(has_lock, Ordering::Relaxed);
    }
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
    /// Writes each of `items`, many to a transaction; in a dry run, only reads. After each commit,
    /// `written` hears of the items that were in it, with what `write` gave or why the item failed.
    /// A transaction that is refused as a whole is repeated with each item by itself.
    ///
    /// # Errors
    ///
    /// Nothing more can be written, the deadline is reached, or `written` says so.
    pub fn write_each<Item, Outcome>(
        &mut self,
        mut items: Vec<Item>,
        write: impl Fn(&mut Writing, &Item) -> Result<Outcome, WriteError>,
        mut written: impl FnMut(Vec<(Item, Result<Outcome>)>) -> Result<()>,
    ) -> Result<()> {
        if !items.is_empty() {
            // Not under the lock: it may be long.
            let mut log = self.log.borrow_mut();
            log.read_once(&self.connection)
                .map_err(|error| explain(&error, "read", &self.path, self.deadline))?;
        }
        let mut at_most = items.len();
        let mut locked_since = None;
        while !items.is_empty() {
            self.turns.yield_if_due();
            self.check_identity()?;
            let began = Instant::now();
            let outcomes = self.write_together(&items, at_most, &write);
            self.turns.held += began.elapsed();
            self.waiting.has_lock(false);
            let outcomes = match outcomes {
                Ok(outcomes) => outcomes,
                Err(WriteError::Locked(error)) => {
                    let since = *locked_since.get_or_insert(began);
                    if self.deadline.is_reached() {
                        return Err(not_written(items.len()));
                    }
                    if since.elapsed() > BUSY_TIMEOUT {
                        return Err(error);
                    }
                    self.turns.held = self.turns.held.max(LONGEST);
                    continue;
                }
                Err(WriteError::Interrupted) => return Err(not_written(items.len())),
                Err(WriteError::Database(error)) => return Err(error),
                Err(WriteError::Invoice(_) | WriteError::Transaction(_)) if at_most > 1 => {
                    at_most = 1;
                    continue;
                }
                Err(WriteError::Invoice(error) | WriteError::Transaction(error)) => {
                    vec![Err(error)]
                }
            };
            locked_since = None;
            self.check_identity()?;
            let left = items.split_off(outcomes.len());
            written(items.into_iter().zip(outcomes).collect())?;
            items = left;
            if !items.is_empty() && self.deadline.is_reached() {
                return Err(not_written(items.len()));
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
        let deadline = self.deadline;
        let mut writing = self.begin().map_err(WriteError::Database)?;
        let began = Instant::now();
        let mut outcomes = Vec::new();
        for item in items.iter().take(at_most) {
            outcomes.push(match write(&mut writing, item) {
                Err(WriteError::Invoice(error)) => Err(error),
                // What is whole is kept.
                Err(WriteError::Interrupted) if !outcomes.is_empty() => break,
                other => Ok(other?),
            });
            if began.elapsed() > LONGEST || deadline.is_reached() {
                break;
            }
        }
        writing.commit()?;
        Ok(outcomes)
    }
}

fn not_written(count: usize) -> anyhow::Error {
    OutOfTime::new(format!("{count} changes were not written")).into()
}
