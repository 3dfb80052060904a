//! What was approved of the tools of each server, and what waits for that: one row a server, bound as a whole, so that
//! who can write into the database approves nothing.
//!
//! Servers are named, not referred to: most are defined in files.

use serde_json::{Value as Json, json};

use super::audit::{Audit, Change, ObjectKind, record};
use super::bound::{Binding, Bound, Plain};
use super::session::{Access, Session, query_one, transact};
use super::value::{Row, Value};
use super::{Sealed, Store, StoreError, servers};

/// What is known of the tools of one server.
#[derive(Debug, Clone, PartialEq)]
pub struct PinsRow {
    /// Its name.
    pub server: String,
    /// Opaque here.
    pub pins: Json,
    /// Bound to the two above, with nothing more in it.
    pub seal: Sealed,
    /// Moves with every change.
    pub version: u64,
    /// Seconds since 1970.
    pub changed_at: u64,
}

/// A change of what is known of a server's tools.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPins {
    /// Whose.
    pub server: String,
    /// See [`PinsRow::pins`].
    pub pins: Json,
    /// The version that is there; `None`: nothing is.
    pub expect: Option<u64>,
    /// For the audit log: what is done, and what changes by it. `None`: nothing that anybody did or has to see to.
    pub told: Option<(&'static str, Json)>,
}

impl Store {
    /// All rows, by server. Cancel safe.
    pub async fn tool_pins(&self) -> Result<Vec<PinsRow>, StoreError> {
        transact!(self, Access::Read, |session| all(session))
    }

    /// The row of one server. Cancel safe.
    pub async fn tool_pins_of(&self, server: &str) -> Result<Option<PinsRow>, StoreError> {
        let server = server.to_owned();
        transact!(self, Access::Read, |session| find(session, &server))
    }

    /// Puts a row there. [`StoreError::Conflict`]: another one is there than was expected; [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn put_tool_pins(&self, new: NewPins, audit: Audit) -> Result<PinsRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| put(session, &binding, &new, &audit))
    }
}

async fn all<S: Session>(session: &mut S) -> Result<Vec<PinsRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tool_pins ORDER BY server");
    session.query(&sql, &[]).await?.into_iter().map(read).collect()
}

pub(super) async fn find<S: Session>(session: &mut S, server: &str) -> Result<Option<PinsRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tool_pins WHERE server = $1");
    query_one(session, &sql, &[server.into()]).await?.map(read).transpose()
}

async fn put<S: Session>(
    session: &mut S,
    binding: &Binding,
    new: &NewPins,
    audit: &Audit,
) -> Result<PinsRow, StoreError> {
    let there = find(session, &new.server).await?;
    if there.map(|row| row.version) != new.expect {
        return Err(StoreError::Conflict);
    }
    // Sealed below, with what the table makes of all this.
    let values = [Value::from(&new.server), (&new.pins).into(), audit.at.into(), Value::Blob(Vec::new())];
    let sql = if new.expect.is_some() { UPDATE } else { INSERT };
    session.execute(sql, &values).await?;
    let mut row = find(session, &new.server).await?.ok_or(StoreError::Conflict)?;
    row.seal = binding.bind(session, Bound::ToolPins(&row), &Plain::nothing()).await?;
    if let Some((action, told)) = &new.told {
        // As other changes of it name it: by its id, where it has one.
        let stored = servers::find(session, &new.server).await?;
        let id = stored.map_or_else(|| new.server.clone(), |stored| stored.id.to_string());
        let after = Some(json!({"server": new.server, "tools": told}));
        record(session, audit, Change { action, kind: ObjectKind::Server, id, before: None, after }).await?;
    }
    Ok(row)
}

/// A server that is gone, or called otherwise, is not known any more.
pub(super) async fn forget<S: Session>(session: &mut S, server: &str) -> Result<(), StoreError> {
    session.execute("DELETE FROM tool_pins WHERE server = $1", &[server.into()]).await.map(drop)
}

fn read(mut row: Row) -> Result<PinsRow, StoreError> {
    let mut pins = PinsRow {
        server: row.text()?,
        pins: row.or(Json::Null, Row::json),
        seal: Sealed { bytes: row.blob()?, key_version: row.or(0, Row::int) },
        version: row.or(0, Row::int),
        changed_at: row.or(0, Row::int),
    };
    pins.seal = row.sealed(pins.seal);
    Ok(pins)
}

const COLUMNS: &str = "server, pins, seal, key_version, version, changed_at";

const INSERT: &str = "INSERT INTO tool_pins (server, pins, seal, key_version, version, changed_at)
    VALUES ($1, $2, $4, 0, 1, $3)";

const UPDATE: &str =
    "UPDATE tool_pins SET pins = $2, seal = $4, version = version + 1, changed_at = $3 WHERE server = $1";
