//! What is sealed at rest, and sealing it anew under another version of `ENCRYPTION_KEY`.
//!
//! A run goes through each kind in batches: rows that are not at the wanted version, until there are none. Broken off
//! half-way it goes on where it stopped, since what was done is not found again.

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::audit::{Audit, Change, ObjectKind, record};
use super::bound::{Binding, Bound};
use super::page::{PAGE_ITEMS_MAX, fetched, paged};
use super::session::{Access, Session, transact};
use super::value::Value;
use super::{Store, StoreError, endpoints, jwt_keys, keys, servers, tool_pins};

/// Sealed bytes, and what sealed them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Opaque here.
    pub bytes: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed them.
    pub key_version: u8,
}

/// What holds something sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SealedKind {
    /// API keys; named by key id.
    Keys,
    /// Servers; named by UUID.
    Servers,
    /// Endpoints; named by UUID.
    Endpoints,
    /// The keys that sign tokens; named by kid.
    JwtKeys,
    /// What was approved of servers' tools; named by server.
    ToolPins,
}

/// One batch, sealed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrapped {
    /// How many.
    pub count: u64,
    /// Those that do not open, and were left as they are: named as [`SealedKind`] says.
    pub closed: Vec<String>,
    /// Where the next batch begins; `None`: there is none.
    pub next: Option<String>,
}

impl SealedKind {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [Self::Keys, Self::Servers, Self::JwtKeys, Self::Endpoints, Self::ToolPins];

    /// Table, column of the name as text.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Keys => ("api_keys", "key_id"),
            Self::Servers => ("mcp_servers", "CAST(id AS TEXT)"),
            Self::Endpoints => ("endpoints", "CAST(id AS TEXT)"),
            Self::JwtKeys => ("jwt_keys", "kid"),
            Self::ToolPins => ("tool_pins", "server"),
        }
    }

    fn object(self) -> ObjectKind {
        match self {
            Self::Keys => ObjectKind::Key,
            Self::Servers | Self::ToolPins => ObjectKind::Server,
            Self::Endpoints => ObjectKind::Endpoint,
            Self::JwtKeys => ObjectKind::JwtKey,
        }
    }
}

impl Store {
    /// How many values each version of `ENCRYPTION_KEY` has sealed. Cancel safe.
    pub async fn sealed_versions(&self, kind: SealedKind) -> Result<Vec<(u8, u64)>, StoreError> {
        transact!(self, Access::Read, |session| versions(session, kind))
    }

    /// Seals one batch of rows, beginning behind the name `after`, anew with the version that the binder seals with, in one
    /// transaction. The rows' own epochs and versions stay: no token is taken back.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn rewrap(
        &self,
        kind: SealedKind,
        after: Option<String>,
        audit: Audit,
    ) -> Result<Rewrapped, StoreError> {
        self.rewrap_some(kind, after, PAGE_ITEMS_MAX, audit).await
    }

    /// As many as that.
    pub(crate) async fn rewrap_some(
        &self,
        kind: SealedKind,
        after: Option<String>,
        items: usize,
        audit: Audit,
    ) -> Result<Rewrapped, StoreError> {
        let binding = self.binding.clone();
        let after = after.unwrap_or_default();
        transact!(self, Access::Administer, |session| batch(session, &binding, kind, (&after, items), &audit))
    }
}

async fn batch<S: Session>(
    session: &mut S,
    binding: &Binding,
    kind: SealedKind,
    (after, items): (&str, usize),
    audit: &Audit,
) -> Result<Rewrapped, StoreError> {
    let version = binding.binder()?.sealing_version();
    let (table, name) = kind.place();
    let sql = format!(
        "SELECT {name} FROM {table} WHERE key_version <> $1 AND {name} > $2 ORDER BY {name} LIMIT $3"
    );
    let rows = session.query(&sql, &[version.into(), after.into(), fetched(items)]).await?;
    let names = rows.into_iter().map(|mut row| row.text()).collect::<Result<Vec<_>, _>>()?;
    let page = paged(names, items, String::clone);
    let (mut count, mut closed) = (0, Vec::new());
    for name in page.items {
        match anew(session, binding, kind, &name).await? {
            Some(()) => count += 1,
            None => closed.push(name),
        }
    }
    if count > 0 {
        let after = json!({"rows": count, "key_version": version});
        let change =
            Change { action: "rekey", kind: kind.object(), id: "*".into(), before: None, after: Some(after) };
        record(session, audit, change).await?;
    }
    Ok(Rewrapped { count, closed, next: page.next })
}

/// `None`: it does not open.
async fn anew<S: Session>(
    session: &mut S,
    binding: &Binding,
    kind: SealedKind,
    name: &str,
) -> Result<Option<()>, StoreError> {
    let (key, server, endpoint, jwt_key, pins);
    let row = match kind {
        SealedKind::Keys => {
            key = keys::find(session, name).await?;
            key.as_ref().map(Bound::Key)
        }
        SealedKind::Servers => {
            server = servers::find(session, name).await?;
            server.as_ref().map(Bound::Server)
        }
        SealedKind::Endpoints => {
            endpoint = endpoints::find(session, name).await?;
            endpoint.as_ref().map(Bound::Endpoint)
        }
        SealedKind::JwtKeys => {
            jwt_key = jwt_keys::find(session, "kid", name).await?;
            jwt_key.as_ref().map(Bound::JwtKey)
        }
        SealedKind::ToolPins => {
            pins = tool_pins::find(session, name).await?;
            pins.as_ref().map(Bound::ToolPins)
        }
    };
    let Some(row) = row else { return Ok(None) };
    let plain = match row {
        Bound::Key(row) => keys::hash(binding, row).ok(),
        Bound::Server(_) | Bound::Endpoint(_) | Bound::JwtKey(_) | Bound::ToolPins(_) => binding.open(row),
    };
    let Some(plain) = plain else { return Ok(None) };
    binding.bind(session, row, &plain).await.map(|_| Some(()))
}

async fn versions<S: Session>(session: &mut S, kind: SealedKind) -> Result<Vec<(u8, u64)>, StoreError> {
    let (table, _) = kind.place();
    let sql = format!("SELECT key_version, count(*) FROM {table} GROUP BY key_version ORDER BY 1");
    let rows = session.query(&sql, &[]).await?;
    rows.into_iter().map(|mut row| Ok((row.int()?, row.int()?))).collect()
}

/// Puts what was sealed into the row that it was sealed with.
pub async fn put<S: Session>(session: &mut S, row: Bound<'_>, sealed: &Sealed) -> Result<(), StoreError> {
    let by_id = |id: Uuid| Value::from(id);
    let (table, column, name, value) = match row {
        Bound::Key(row) => ("api_keys", "sealed_hash", "id", by_id(row.id)),
        Bound::Server(row) => ("mcp_servers", "sealed_secrets", "id", by_id(row.id)),
        Bound::Endpoint(row) => ("endpoints", "seal", "id", by_id(row.id)),
        Bound::JwtKey(row) => ("jwt_keys", "sealed_secret", "kid", Value::from(&row.kid)),
        Bound::ToolPins(row) => ("tool_pins", "seal", "server", Value::from(&row.server)),
    };
    let sql = format!("UPDATE {table} SET {column} = $1, key_version = $2 WHERE {name} = $3");
    let values = [sealed.bytes.as_slice().into(), sealed.key_version.into(), value];
    session.execute(&sql, &values).await.map(drop)
}
