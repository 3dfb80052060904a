//! Reads and changes of tool pins, each in one transaction; changes with their entry in the audit log.

use serde_json::json;

use super::row::{self, NewToolPins, ToolPinsRow, find};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::error::StoreError;
use crate::store::handle::{Store, transact};
use crate::store::row_sealer::{OptionalSealer, SealedRow};
use crate::store::sealed_value::Plaintext;
use crate::store::servers;
use crate::store::transaction::{AccessMode, Transaction};
use crate::store::value::Value;

impl Store {
    /// The tool pins of all servers, by name. Cancel safe.
    pub async fn tool_pins(&self) -> Result<Vec<ToolPinsRow>, StoreError> {
        transact!(self, AccessMode::Read, |tx| row::all(tx))
    }

    /// The tool pins of one server. Cancel safe.
    pub async fn tool_pins_of(&self, server: &str) -> Result<Option<ToolPinsRow>, StoreError> {
        let server = server.to_owned();
        transact!(self, AccessMode::Read, |tx| find(tx, &server))
    }

    /// Stores the tool pins of a server. [`StoreError::Conflict`] when the stored version is not the expected one;
    /// [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn put_tool_pins(&self, new: NewToolPins, audit: Audit) -> Result<ToolPinsRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| put(tx, &binding, &new, &audit))
    }
}

async fn put<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    new: &NewToolPins,
    audit: &Audit,
) -> Result<ToolPinsRow, StoreError> {
    let stored = find(tx, &new.server).await?;
    if stored.map(|row| row.version) != new.expect {
        return Err(StoreError::Conflict);
    }
    // Sealed below, together with the columns as the table stores them.
    let values = [Value::from(&new.server), (&new.pins).into(), audit.at.into(), Value::Blob(Vec::new())];
    let sql = if new.expect.is_some() { UPDATE } else { INSERT };
    tx.execute(sql, &values).await?;
    let mut row = find(tx, &new.server).await?.ok_or(StoreError::Conflict)?;
    row.seal = binding.seal(tx, SealedRow::ToolPins(&row), &Plaintext::nothing()).await?;
    if let Some((action, tools)) = &new.told {
        // Other changes of the server are logged under its id, if it has one.
        let server = servers::find(tx, &new.server).await?;
        let id = server.map_or_else(|| new.server.clone(), |server| server.id.to_string());
        let after = Some(json!({"server": new.server, "tools": tools}));
        record(tx, audit, Change { action, kind: ObjectKind::Server, id, before: None, after }).await?;
    }
    Ok(row)
}

const INSERT: &str = "INSERT INTO tool_pins (server, pins, seal, key_version, version, changed_at)
    VALUES ($1, $2, $4, 0, 1, $3)";

const UPDATE: &str =
    "UPDATE tool_pins SET pins = $2, seal = $4, version = version + 1, changed_at = $3 WHERE server = $1";
