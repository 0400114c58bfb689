//! Opening the database and checking that it keeps the contract.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Result, anyhow, bail};
use log::{Level, info, log_enabled};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::clock::Clock;
use super::errors::{WRITE_PERMISSION, explain};
use super::keysat::Keysat;
use super::locks::{Turns, Waiting};
use super::views::Views;
use super::{Access, Database, contract, indexes};
use crate::invoice::Store;
use crate::stop::Deadline;

/// One for each statement that runs once per invoice; rusqlite's default is 16.
const CACHED_STATEMENTS: usize = 32;

impl Database {
    /// Opens the database at `path` at Unix second `now`, and checks that it keeps the contract of
    /// schema.sql. `store` is the one in which its invoices will be looked up.
    ///
    /// # Errors
    ///
    /// The file does not exist, may not be opened, is not a database, or is locked; it breaks the
    /// contract; or its service does not use `store`.
    pub fn open(
        path: &Path,
        access: Access,
        store: &Store,
        now: i64,
        deadline: Deadline,
    ) -> Result<Self> {
        let shown = path.display();
        let identity = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "no database at {shown}. Set --database to the licensing service's file, or create \
                 a new one: sqlite3 '{shown}' < /usr/share/doc/reconcile/schema.sql (which comes \
                 with the package, and with the source)"
            ),
            Err(error) => bail!(
                "cannot access the database {shown}: {}. Set --database to the licensing service's \
                 file, or run reconcile as the service's user",
                error.kind()
            ),
            Ok(metadata) if metadata.is_dir() => {
                bail!("{shown} is a folder. Set --database to the database file in it")
            }
            Ok(metadata) => (metadata.dev(), metadata.ino()),
        };
        let flags = match access {
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let mut connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(|error| explain(&error, "open", path, deadline))?;
        let unreadable = |error| explain(&error, "read", path, deadline);
        let waiting = Waiting::default();
        waiting
            .set_up(&mut connection, deadline)
            .map_err(unreadable)?;
        prepare(&connection).map_err(unreadable)?;
        check_contract(&connection, access, path, deadline)?;
        let log = Rc::default();
        let keysat = Keysat::recognize(&connection, Rc::clone(&log)).map_err(unreadable)?;
        let mut views = Views::of_the_contract(&connection).map_err(unreadable)?;
        if let Some(keysat) = &keysat {
            let missing = keysat.missing();
            if !missing.is_empty() {
                bail!(
                    "the database {shown} has Keysat's tables, but in a form unknown to this version \
                     of reconcile: {}. Update reconcile",
                    missing.join(", ")
                );
            }
            let unwritable = keysat.unwritable(&connection);
            if !unwritable.is_empty() {
                bail!(
                    "cannot use the database {shown}: {}. Correct the triggers, indexes and \
                     references of its tables",
                    unwritable.join(", ")
                );
            }
            keysat
                .change_views(&mut views, &connection, store)
                .map_err(unreadable)?
                .map_err(|unknown| anyhow!("cannot use the database {shown}: {unknown}"))?;
        }
        views.create(&connection).map_err(unreadable)?;
        if log_enabled!(Level::Info) {
            for index in indexes::missing(&connection).map_err(unreadable)? {
                info!(
                    "the database {shown} lacks an index of schema.sql that makes runs faster: \
                     {index};"
                );
            }
        }
        Ok(Self {
            connection,
            path: path.to_owned(),
            identity,
            waiting,
            access,
            deadline,
            clock: Clock {
                now,
                with_offset: keysat.is_some(),
            },
            turns: Turns::new(),
            keysat,
            log,
        })
    }
}

impl Database {
    /// Whether the file that is open is still the one that the path names.
    ///
    /// # Errors
    ///
    /// It is not: what was written would be lost.
    pub(super) fn check_identity(&self) -> Result<()> {
        let shown = self.path.display();
        let identity = self
            .path
            .metadata()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        match identity {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) | Err(_) => bail!(
                "the database {shown} was replaced by another file during the run, perhaps by a \
                 backup that was restored. The last changes may be lost; the next run looks at the \
                 new file"
            ),
        }
    }
}

/// Settings of this connection only; none of them changes the file.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Otherwise a statement may be planned again whenever it gets other values.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Writing to the file before the commit takes locks that others notice.
    connection.pragma_update(None, "cache_spill", false)?;
    // Temporary views and what a savepoint may have to undo are small.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "foreign_keys", true)
}

fn check_contract(
    connection: &Connection,
    access: Access,
    path: &Path,
    deadline: Deadline,
) -> Result<()> {
    let shown = path.display();
    let unreadable = |error| explain(&error, "read", path, deadline);
    let missing = contract::missing(connection).map_err(unreadable)?;
    if !missing.is_empty() {
        bail!(
            "the database {shown} does not match schema.sql: {}. Set --database to the licensing \
             service's file, or update the service",
            missing.join(", ")
        );
    }
    let read_only = connection.is_readonly("main").map_err(unreadable)?;
    if access == Access::Write && read_only {
        bail!("this user may not write to the database {shown}. {WRITE_PERMISSION}");
    }
    Ok(())
}
