//! The licensing service's SQLite database. All of the program's SQL is in this module. It knows nothing
//! about BTCPay Server; it writes what `decide` concluded.
//!
//! The database belongs to the service, which writes to it at any time. It is never created, migrated
//! or reconfigured; its journal mode stays as found. A dry run opens it read-only.
//!
//! - `open`: opening it, and the contract of schema.sql (`contract`, `indexes`)
//! - `candidates`: which invoices may be out of date; `invoice_row`: an invoice as a row
//! - `write`: one invoice's change, all of it or nothing (`license`, `redemption`, `audit`); `doubt`:
//!   what speaks against a license
//! - `locks`: how long the write lock is held, and who else gets a turn
//! - `keysat`: what Keysat's database has beyond schema.sql, recognized table by table

mod audit;
mod candidates;
mod clock;
mod contract;
mod doubt;
mod drift;
mod errors;
mod indexes;
mod invoice_row;
mod keysat;
mod license;
mod locks;
mod open;
mod redemption;
mod row;
mod views;
mod whole;
mod write;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use rusqlite::Connection;

pub use candidates::{Unreadable, Window};
pub use write::{WriteError, Writing};

use crate::stop::Deadline;
use audit::Log;
use clock::Clock;
use keysat::Keysat;
use locks::{Turns, Waiting};

/// What a run may do to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A dry run.
    Read,
    Write,
}

pub struct Database {
    connection: Connection,
    path: PathBuf,
    /// The file's device and inode.
    identity: (u64, u64),
    waiting: Waiting,
    access: Access,
    deadline: Deadline,
    clock: Clock,
    turns: Turns,
    keysat: Option<Keysat>,
    log: Rc<RefCell<Log>>,
}
