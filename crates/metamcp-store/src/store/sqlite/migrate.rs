//! Migrates a SQLite file to the schema of this program.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::store::error::StoreError;

/// In order. The file's `user_version` counts how many of them were applied. New ones may only be appended.
const MIGRATIONS: [&str; 6] = [
    include_str!("../../../../../sql/sqlite/0001_api_keys.sql"),
    include_str!("../../../../../sql/sqlite/0002_control_plane.sql"),
    include_str!("../../../../../sql/sqlite/0003_bound_rows.sql"),
    include_str!("../../../../../sql/sqlite/0004_tool_pins.sql"),
    include_str!("../../../../../sql/sqlite/0005_key_uses.sql"),
    include_str!("../../../../../sql/sqlite/0006_quotas.sql"),
];

/// "mcpg": marks a SQLite file as ours, so that the database of another program is never changed.
const APPLICATION_ID: i64 = 0x6d63_7067;

/// Refuses the database of another program or of a later version of this one. Reads only.
pub fn check_ownership(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = version(connection)?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    missing(version).map(drop)
}

/// Applies the missing migrations in one transaction that other processes wait for.
pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    // Takes no write lock when there is nothing to write: opening works while another process holds it.
    if missing(version(connection)?)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Checks again: another process may just have migrated.
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
    let applied = usize::try_from(version).unwrap_or(usize::MAX);
    MIGRATIONS.get(applied..).ok_or(StoreError::NewerSchema { found: version, known: MIGRATIONS.len() })
}
