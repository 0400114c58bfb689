//! The licensing service's SQLite database; all SQL of the program is in this module.
//!
//! # Locks
//!
//! The database belongs to the service, which writes to it at any time. Listing is one read.
//! Writing happens in an IMMEDIATE transaction, which takes the write lock before it reads: what
//! it read is then still true when it writes. Nobody holds a lock while BTCPay Server is asked.
//! A lock of somebody else's is waited for, [`BUSY_TIMEOUT`] at most and never past the deadline.
//!
//! # What is never done
//!
//! The database is never created, migrated or re-configured; its journal mode stays as found.
//! A dry run opens it read-only.

// First, because the others use its macros.
#[macro_use]
mod invoice_row;

mod apply;
mod audit;
mod beyond;
mod candidates;
mod contract;
mod indexes;
mod new_license;
mod row;
mod sale;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use log::{Level, info, log_enabled};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

pub use apply::{Applied, RedemptionMoved, WriteError, Writing};
pub use candidates::Window;

use crate::deadline::Deadline;
use crate::store::Store;
use beyond::Beyond;

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The statements that run once an invoice; rusqlite keeps 16 unless told.
const CACHED_STATEMENTS: usize = 32;

/// What a run may do to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A dry run: opened read-only.
    Read,
    Write,
}

pub struct Database {
    connection: Connection,
    path: PathBuf,
    access: Access,
    deadline: Deadline,
    beyond: Beyond,
}

impl Database {
    /// Opens the database at `path` and checks that it keeps the contract of schema.sql. `store` is
    /// the one that will be asked about its invoices.
    ///
    /// # Errors
    ///
    /// No such file, no permission, not a database, locked for longer than [`BUSY_TIMEOUT`],
    /// something of the contract is missing, or the database knows the store not; each names the
    /// file and what to do.
    pub fn open(path: &Path, access: Access, store: &Store, deadline: Deadline) -> Result<Self> {
        let shown = path.display();
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "there is no database at {shown}: give --database the licensing service's file, \
                 or make a new one with: sqlite3 '{shown}' < schema.sql"
            ),
            Err(error) => {
                return Err(error).context(format!("could not look at the database {shown}"));
            }
            Ok(metadata) if metadata.is_dir() => {
                bail!("{shown} is a folder: give --database the database file in it")
            }
            Ok(_) => {}
        }
        let flags = match access {
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|error| in_words(error, "open", path))?;
        let unreadable = |error| in_words(error, "read", path);
        prepare(&connection, deadline).map_err(unreadable)?;
        let database = Self {
            beyond: Beyond::look(&connection).map_err(unreadable)?,
            connection,
            path: path.to_owned(),
            access,
            deadline,
        };
        database.check_contract()?;
        database
            .beyond
            .make_views(&database.connection, store)
            .map_err(unreadable)?
            .map_err(|no_provider| anyhow!("the database {shown} cannot be used: {no_provider}"))?;
        if log_enabled!(Level::Info) {
            database.tell_missing_indexes().map_err(unreadable)?;
        }
        Ok(database)
    }

    fn check_contract(&self) -> Result<()> {
        let shown = self.path.display();
        let missing = contract::missing(&self.connection)
            .map_err(|error| in_words(error, "read", &self.path))?;
        if !missing.is_empty() {
            bail!(
                "the database {shown} is not of the shape that schema.sql describes: {}; give \
                 --database the licensing service's file, or bring the service up to date",
                missing.join(", ")
            );
        }
        let missing = self.beyond.missing();
        if !missing.is_empty() {
            bail!(
                "the database {shown} has tables of Keysat's, but not as this version of reconcile \
                 knows them: {}; update reconcile",
                missing.join(", ")
            );
        }
        let read_only = self
            .connection
            .is_readonly("main")
            .map_err(|error| in_words(error, "read", &self.path))?;
        if self.access == Access::Write && read_only {
            bail!("the database {shown} may not be written by this user: {WRITE_PERMISSION}");
        }
        Ok(())
    }

    fn tell_missing_indexes(&self) -> rusqlite::Result<()> {
        for index in indexes::missing(&self.connection)? {
            info!(
                "the database {} lacks an index of schema.sql, which would make runs faster: \
                 {index};",
                self.path.display()
            );
        }
        Ok(())
    }
}

const WRITE_PERMISSION: &str = "give this user write permission on the file and its folder \
                                (SQLite keeps its journal there), or run it as the service's user";

/// Settings of this connection alone; nothing of them stays in the file.
fn prepare(connection: &Connection, deadline: Deadline) -> rusqlite::Result<()> {
    wait_for_locks(connection, deadline)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Else a statement may be planned anew each time that it gets other values.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // What a savepoint may have to undo is bounded, and need not go through the disk; nor need the
    // temporary views.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "foreign_keys", true)
}

fn wait_for_locks(connection: &Connection, deadline: Deadline) -> rusqlite::Result<()> {
    connection.busy_timeout(deadline.shrink(BUSY_TIMEOUT))
}

/// An SQLite error as a person can act on it.
fn in_words(error: rusqlite::Error, doing: &str, path: &Path) -> anyhow::Error {
    let shown = path.display();
    let busy;
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly) if must_be_recovered(&error) => {
            "a program died while it was writing; what it left is undone by whoever next opens the \
             database to write, the service or a real run, and then a dry run can read it again"
        }
        Some(ErrorCode::NotADatabase) => {
            "it is not an SQLite database, or it is encrypted; give --database the licensing \
             service's file"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            busy = format!(
                "another program held its lock for as long as this run could wait (10 s at most); \
                 the next run tries again, and if this lasts, fuser -v '{shown}' says who holds it"
            );
            &busy
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "the file is damaged; stop the service and restore a backup, or save what can be read \
             with: sqlite3 FILE .recover"
        }
        Some(ErrorCode::DiskFull) => "the disk is full; make room, and the next run goes on",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => WRITE_PERMISSION,
        Some(ErrorCode::CannotOpen) => {
            "this user may not open it, or may not write to its folder, where SQLite keeps the \
             journal; correct the permissions, or run it as the service's user"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk failed; look at the system's log",
        _ => "this should not happen; keep the message, and a copy of the database",
    };
    anyhow!(error).context(format!("could not {doing} the database {shown}: {advice}"))
}

/// Whether a journal of a write that was never ended is there.
fn must_be_recovered(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        matches!(
            error.extended_code,
            ffi::SQLITE_READONLY_ROLLBACK | ffi::SQLITE_READONLY_RECOVERY
        )
    })
}

/// The moment of a run, and how the database's service writes times.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// Unix seconds.
    now: i64,
    /// UTC as `+00:00`, not as `Z`.
    with_offset: bool,
}

impl Clock {
    fn text_after_days(self, days: i64) -> Option<String> {
        self.text_after(days.checked_mul(86_400)?)
    }

    /// So many seconds from now, in RFC 3339, UTC. None outside the calendar.
    fn text_after(self, seconds: i64) -> Option<String> {
        let time = jiff::Timestamp::from_second(self.now.checked_add(seconds)?).ok()?;
        let text = time.to_string();
        Some(match text.strip_suffix('Z') {
            Some(time) if self.with_offset => format!("{time}+00:00"),
            Some(_) | None => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store {
            url: "https://btcpay.example.com".parse().unwrap(),
            id: "store".into(),
        }
    }

    /// The plan of `sql` in a database made from schema.sql and `indexes`.
    fn plan(sql: &str, indexes: &str) -> String {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(include_str!("../../schema.sql"))
            .unwrap();
        connection.execute_batch(indexes).unwrap();
        let beyond = Beyond::look(&connection).unwrap();
        beyond.make_views(&connection, &store()).unwrap().unwrap();
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let steps = statement
            .raw_query()
            .mapped(|row| row.get::<_, String>("detail"));
        steps.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
    }

    #[test]
    fn a_full_disk_stops_the_run_and_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("licenses.db");
        let service = Connection::open(&path).unwrap();
        service
            .execute_batch(include_str!("../../schema.sql"))
            .unwrap();
        service
            .execute_batch(
                "INSERT INTO products (id, slug, name) VALUES ('pro', 'pro', 'Pro');
                 INSERT INTO invoices (id, btcpay_invoice_id, product_id, amount_sats)
                 VALUES ('a', 'there', 'pro', 21000);
                 WITH RECURSIVE rows (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM rows WHERE n < 500)
                 INSERT INTO audit_log (actor_kind, action) SELECT 'service', 'filler' FROM rows;",
            )
            .unwrap();
        let mut database =
            Database::open(&path, Access::Write, &store(), Deadline::after(0)).unwrap();
        let pages: i64 = database
            .connection
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .unwrap();
        database
            .connection
            .pragma_update(None, "max_page_count", pages)
            .unwrap();
        let settle = crate::decide::Change::Settle {
            issue_license: false,
            redemption: None,
        };
        let mut writing = database.begin(1_795_000_000).unwrap();
        let invoice = crate::invoice::InvoiceId("a".into());
        let invoice = writing.reread(&invoice).unwrap().unwrap();
        // The audit log takes a page more at some time.
        let refused = (0..1_000)
            .find_map(|_| writing.write(&invoice, &settle).err())
            .unwrap();
        let WriteError::Database(error) = refused else {
            panic!("{refused:?}");
        };
        assert!(
            format!("{error:#}").contains("the disk is full"),
            "{error:#}"
        );
        drop(writing);
        let status: String = service
            .query_row("SELECT status FROM invoices", [], |row| row.get(0))
            .unwrap();
        assert_eq!(status, "pending");
    }

    #[test]
    fn no_query_reads_every_invoice_or_license() {
        for sql in candidates::QUERIES
            .iter()
            .chain(&apply::QUERIES)
            .chain(&new_license::QUERIES)
            .chain(&sale::QUERIES)
        {
            let plan = plan(sql, "");
            // The index of pending redemptions alone is meant to be read from end to end.
            let plan = plan.replace(
                "SCAN discount_redemptions USING COVERING INDEX discount_redemptions_pending",
                "",
            );
            // As is a view that is empty here.
            let plan = plan
                .replace("SCAN half_done_beyond", "")
                .replace("SCAN CONSTANT ROW", "");
            assert!(!plan.contains("SCAN"), "{sql}\n{plan}");
            assert!(!plan.contains("BLOOM FILTER"), "{sql}\n{plan}");
        }
    }

    #[test]
    fn a_license_by_hand_is_not_looked_for_among_all_of_its_product() {
        for ours in ["", "DROP INDEX licenses_without_invoice;"] {
            let indexes = format!(
                "{ours}
                 CREATE INDEX of_product ON licenses (product_id);
                 CREATE INDEX of_buyer ON licenses (buyer_email);"
            );
            for sql in candidates::QUERIES.iter().chain(&apply::QUERIES) {
                let plan = plan(sql, &indexes);
                for step in plan.lines().filter(|step| step.contains("gift")) {
                    assert!(
                        step.contains("(buyer_email=?)") || step.contains("(invoice_id=?)"),
                        "{step}"
                    );
                }
            }
        }
    }
}
