//! Rows of tool pins, reading them, and deleting them together with their server.

use serde_json::Value as Json;

use crate::store::error::StoreError;
use crate::store::sealed_value::SealedValue;
use crate::store::transaction::{Transaction, query_one};
use crate::store::value::Row;

/// The tool pins of one server: its approved tools, and those that wait for approval.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolPinsRow {
    /// The name of the server.
    pub server: String,
    /// Opaque to the store.
    pub pins: Json,
    /// An empty plaintext, sealed together with the two columns above.
    pub seal: SealedValue,
    /// Rises with every change.
    pub version: u64,
    /// Unix time in seconds.
    pub changed_at: u64,
}

/// A change of the tool pins of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct NewToolPins {
    /// The name of the server.
    pub server: String,
    pub pins: Json,
    /// The version that must be stored now; `None` when there must be none.
    pub expect: Option<u64>,
    /// The action and the changes, for the audit log. `None` for a change that needs no audit entry.
    pub told: Option<(&'static str, Json)>,
}

pub async fn all<T: Transaction>(tx: &mut T) -> Result<Vec<ToolPinsRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tool_pins ORDER BY server");
    tx.query(&sql, &[]).await?.into_iter().map(read).collect()
}

pub async fn find<T: Transaction>(tx: &mut T, server: &str) -> Result<Option<ToolPinsRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tool_pins WHERE server = $1");
    query_one(tx, &sql, &[server.into()]).await?.map(read).transpose()
}

/// Deletes the tool pins of a server that was deleted or renamed.
pub async fn delete<T: Transaction>(tx: &mut T, server: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM tool_pins WHERE server = $1", &[server.into()]).await.map(drop)
}

fn read(mut row: Row) -> Result<ToolPinsRow, StoreError> {
    let mut pins = ToolPinsRow {
        server: row.text()?,
        pins: row.field_or(Json::Null, Row::json),
        seal: SealedValue { bytes: row.blob()?, key_version: row.field_or(0, Row::int) },
        version: row.field_or(0, Row::int),
        changed_at: row.field_or(0, Row::int),
    };
    pins.seal = row.seal_if_intact(pins.seal);
    Ok(pins)
}

const COLUMNS: &str = "server, pins, seal, key_version, version, changed_at";
