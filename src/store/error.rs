//! What can go wrong with the store, said so that the reader knows what to do.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// A store operation that failed. Holds no key material: statements are bound, never quoted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process held the write lock for longer than we wait.
    #[error("the database is locked by another process; try again, or find who holds it with `fuser`")]
    Locked,
    /// A page, an index, or the header is damaged.
    #[error(
        "the database is damaged ({0}); stop every process that uses it and restore it from a backup, \
         or salvage it with `sqlite3 FILE .recover`"
    )]
    Corrupt(String),
    /// No room left for a write.
    #[error("the disk that holds the database is full; free some space, nothing was changed")]
    DiskFull,
    /// Written by a later version of this program.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known}; \
         start a newer metamcp, or restore the backup made before the upgrade"
    )]
    NewerSchema {
        /// In the file.
        found: i64,
        /// The newest one known here.
        known: usize,
    },
    /// A database of some other program.
    #[error("{0} is a SQLite database of another program; name another data directory")]
    Foreign(PathBuf),
    /// The file or its folder cannot be opened, read or written.
    #[error("cannot open the database {path}: {reason}; check that the path exists and who may write it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// It was opened, and now cannot be written.
    #[error("the database cannot be written; check who owns it and whether its disk is mounted read-only")]
    ReadOnly,
    /// A key id that is already taken.
    #[error("a key with this id exists already")]
    Duplicate,
    /// The engine has stopped.
    #[error("the store has stopped; restart the program and read its log for the reason")]
    Stopped,
    /// Anything else the engine reports.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let Some(code) = error.sqlite_error_code() else { return Self::Failed(error.to_string()) };
        match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt(error.to_string()),
            ErrorCode::DiskFull => Self::DiskFull,
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => Self::ReadOnly,
            ErrorCode::ConstraintViolation if is_unique(&error) => Self::Duplicate,
            _ => Self::Failed(error.to_string()),
        }
    }
}

fn is_unique(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    error
        .sqlite_error()
        .is_some_and(|e| [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE].contains(&e.extended_code))
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[track_caller]
    fn check(code: i32, expected: &str) {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let text = StoreError::from(error).to_string();
        assert!(text.contains(expected), "{expected:?} is not in {text:?}");
    }

    #[test]
    fn codes_become_texts_that_say_what_to_do() {
        check(ffi::SQLITE_BUSY, "try again");
        check(ffi::SQLITE_BUSY_SNAPSHOT, "try again");
        check(ffi::SQLITE_LOCKED, "try again");
        check(ffi::SQLITE_CORRUPT, "backup");
        check(ffi::SQLITE_NOTADB, "backup");
        check(ffi::SQLITE_FULL, "free some space");
        check(ffi::SQLITE_READONLY, "who owns it");
        check(ffi::SQLITE_CANTOPEN, "who owns it");
        check(ffi::SQLITE_CONSTRAINT_PRIMARYKEY, "exists already");
        check(ffi::SQLITE_CONSTRAINT_CHECK, "the database failed");
        check(ffi::SQLITE_IOERR_WRITE, "the database failed");
    }
}
