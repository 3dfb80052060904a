//! Brings a SQLite file to the schema this program knows.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// In order; a file's `user_version` counts how many of them it has had. Only ever appended to.
const MIGRATIONS: [&str; 1] = [include_str!("../../sql/sqlite/0001_api_keys.sql")];

/// "mcpg": marks a SQLite file as ours, so that no other program's database is ever altered.
const APPLICATION_ID: i64 = 0x6d63_7067;

/// Applies what is missing, in one transaction that other processes wait for.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let had: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application != 0 || had != 0 || tables != 0) {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    let known = MIGRATIONS.len();
    let Some(missing) = usize::try_from(had).ok().and_then(|had| MIGRATIONS.get(had..)) else {
        let [found, known] = [had, i64::try_from(known).unwrap_or(i64::MAX)]
            .map(|version| u32::try_from(version).unwrap_or(u32::MAX));
        return Err(StoreError::NewerSchema { found, known });
    };
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "user_version", known)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.commit()?;
    Ok(())
}
