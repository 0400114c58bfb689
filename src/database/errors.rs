//! SQLite's errors, as messages that say what to do.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::anyhow;
use rusqlite::{Error, ErrorCode, ffi};

use crate::stop::{Deadline, OutOfTime};

pub const WRITE_PERMISSION: &str = "Give this user write permission for the file and its folder, \
                                    where SQLite keeps its journal, or run reconcile as the \
                                    service's user";

/// What could not be done (`doing`) to the database at `path` before `deadline`, why, and what to do
/// next.
pub fn explain(error: &Error, doing: &str, path: &Path, deadline: Deadline) -> anyhow::Error {
    let shown = path.display();
    if is_interrupted(error) {
        let not_done = format!("could not {doing} the database {shown} in time");
        return OutOfTime::new(not_done).into();
    }
    if is_locked(error) && deadline.is_reached() {
        let not_done = format!(
            "could not {doing} the database {shown}, which another program has locked (fuser -v \
             '{shown}', of the package psmisc, shows which)"
        );
        return OutOfTime::new(not_done).into();
    }
    if let Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) =
        error.sqlite_error_code()
        && let Some(closed) = closed_beside(path)
    {
        return closed;
    }
    let busy;
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly) if needs_recovery(error) => {
            "A program died while writing. The service, or reconcile without --dry-run, repairs the \
             database when it next opens it; then a dry run works again"
        }
        Some(ErrorCode::NotADatabase) => {
            "Is it the licensing service's database, and is it unencrypted?"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            busy = format!(
                "Another program held the lock for longer than reconcile waits (10 s at most). The \
                 next run tries again; if this repeats, fuser -v '{shown}' (package psmisc) shows who holds \
                 it"
            );
            &busy
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "The file is damaged. Stop the service and restore a backup, or save what is readable \
             with: sqlite3 FILE .recover"
        }
        Some(ErrorCode::DiskFull) => "Free some disk space; the next run continues",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => WRITE_PERMISSION,
        Some(ErrorCode::CannotOpen) => {
            "This user may not open the file, or not write to its folder, where SQLite keeps the \
             journal. Correct the permissions, or run reconcile as the service's user"
        }
        Some(ErrorCode::SystemIoFailure) => "The disk failed; look at the system's log",
        _ => "This is probably a bug in reconcile: report it, and keep a copy of the database",
    };
    let why = error.to_string().replace(&format!(": {shown}"), "");
    anyhow!("cannot {doing} the database {shown}: {why}. {advice}")
}

/// What to do about the files that SQLite keeps beside the database at `path`, if this user may not open
/// them: a run of root's, say, left them behind. None if it may.
fn closed_beside(path: &Path) -> Option<anyhow::Error> {
    let shown = path.display();
    let mut closed = ["wal", "shm", "journal"]
        .map(|end| format!("{shown}-{end}"))
        .to_vec();
    closed.retain(|file| {
        let opened = OpenOptions::new().read(true).write(true).open(file);
        opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    });
    let first = closed.first()?;
    Some(anyhow!(
        "this user may not write to {first}, which another user's run left. As root: chown \
         --reference='{shown}' '{}'",
        closed.join("' '")
    ))
}

/// What the database refused to write of one invoice.
pub fn refused(error: &Error) -> anyhow::Error {
    anyhow!("the database refused the change: {error}. Check its triggers and constraints")
}

pub fn is_locked(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the deadline was reached.
pub fn is_interrupted(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// Whether every other invoice would meet this error too. Constraints, triggers and odd values
/// concern one row.
pub fn concerns_the_file(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
                | ErrorCode::OutOfMemory
        )
    )
}

/// Whether an unfinished write's journal is there.
fn needs_recovery(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        matches!(
            error.extended_code,
            ffi::SQLITE_READONLY_ROLLBACK | ffi::SQLITE_READONLY_RECOVERY
        )
    })
}
