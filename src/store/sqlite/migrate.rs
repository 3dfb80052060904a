//! Brings a SQLite file to the schema this program knows.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::store::StoreError;

/// In order; a file's `user_version` counts how many of them it has had. Only ever appended to.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../../sql/sqlite/0001_api_keys.sql"),
    include_str!("../../../sql/sqlite/0002_control_plane.sql"),
    include_str!("../../../sql/sqlite/0003_bound_rows.sql"),
    include_str!("../../../sql/sqlite/0004_tool_pins.sql"),
];

/// "mcpg": marks a SQLite file as ours, so that no other program's database is ever altered.
const APPLICATION_ID: i64 = 0x6d63_7067;

/// Refuses what is another program's, or a later version's. Reads only.
pub fn recognise(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = version(connection)?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    missing(version).map(drop)
}

/// Applies what is missing, in one transaction that other processes wait for.
pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    // Without the write lock when there is nothing to write: reading works while somebody else holds it.
    if missing(version(connection)?)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Asked again: another process may just have done it.
    let missing = missing(version(&transaction)?)?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

fn missing(version: i64) -> Result<&'static [&'static str], StoreError> {
    let had = usize::try_from(version).unwrap_or(usize::MAX);
    MIGRATIONS.get(had..).ok_or(StoreError::NewerSchema { found: version, known: MIGRATIONS.len() })
}
