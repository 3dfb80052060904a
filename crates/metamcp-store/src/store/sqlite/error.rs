//! Converts the errors of SQLite to those of the store.

use rusqlite::ErrorCode;
use rusqlite::ffi::{
    SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID,
    SQLITE_CONSTRAINT_UNIQUE,
};

use crate::store::error::StoreError;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let Some(code) = error.sqlite_error_code() else { return Self::Failed(error.to_string()) };
        match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt(error.to_string()),
            ErrorCode::DiskFull => Self::DiskFull,
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => Self::ReadOnly,
            ErrorCode::ConstraintViolation => violation(&error),
            _ => Self::Failed(error.to_string()),
        }
    }
}

fn violation(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error().map(|error| error.extended_code) {
        Some(SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE | SQLITE_CONSTRAINT_ROWID) => {
            StoreError::Exists { field: field(&error.to_string()).to_owned() }
        }
        Some(SQLITE_CONSTRAINT_FOREIGNKEY) => StoreError::Dangling,
        _ => StoreError::Invalid(error.to_string()),
    }
}

/// The last column in `UNIQUE constraint failed: table.a, table.b`.
fn field(message: &str) -> &str {
    message.rsplit_once('.').map_or("value", |(_, column)| column)
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[track_caller]
    fn check(code: i32, message: Option<&str>, expected: &str) {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), message.map(str::to_owned));
        let text = StoreError::from(error).to_string();
        assert!(text.contains(expected), "{expected:?} is not in {text:?}");
    }

    #[test]
    fn messages_say_what_to_do() {
        check(ffi::SQLITE_BUSY, None, "try again");
        check(ffi::SQLITE_BUSY_SNAPSHOT, None, "try again");
        check(ffi::SQLITE_LOCKED, None, "try again");
        check(ffi::SQLITE_CORRUPT, None, "backup");
        check(ffi::SQLITE_NOTADB, None, "backup");
        check(ffi::SQLITE_FULL, None, "free some space");
        check(ffi::SQLITE_READONLY, None, "who owns it");
        check(ffi::SQLITE_CANTOPEN, None, "who owns it");
        let unique = Some("UNIQUE constraint failed: api_keys.key_id");
        check(ffi::SQLITE_CONSTRAINT_PRIMARYKEY, unique, "one with this key_id already");
        let two = Some("UNIQUE constraint failed: usage_batches.source, usage_batches.sequence");
        check(ffi::SQLITE_CONSTRAINT_UNIQUE, two, "one with this sequence already");
        check(ffi::SQLITE_CONSTRAINT_FOREIGNKEY, None, "refers to");
        check(ffi::SQLITE_CONSTRAINT_CHECK, None, "refuses a value");
        check(ffi::SQLITE_IOERR_WRITE, None, "the database failed");
    }
}
