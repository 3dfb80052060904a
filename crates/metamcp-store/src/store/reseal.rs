//! Re-sealing stored values under another version of `ENCRYPTION_KEY`.
//!
//! A run goes through each kind of row in batches: rows that are not at the wanted version, until there are none. An
//! interrupted run continues where it stopped, since rows that are done are not found again.

use std::path::Path;

use serde_json::json;

use super::audit::{Audit, Change, ObjectKind, record};
use super::error::StoreError;
use super::handle::{Store, transact};
use super::page::{PAGE_ITEMS_MAX, fetch_limit, to_page};
use super::row_sealer::{OptionalSealer, SealedRow};
use super::sqlite;
use super::transaction::{AccessMode, Transaction};
use super::{endpoints, jwt_keys, keys, servers, tool_pins};

/// The kinds of rows with a sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SealedKind {
    /// API keys, identified by key id.
    Keys,
    /// Servers, identified by UUID.
    Servers,
    /// Endpoints, identified by UUID.
    Endpoints,
    /// Token signing keys, identified by kid.
    JwtKeys,
    /// Approved tools, identified by server name.
    ToolPins,
}

/// The result of re-sealing one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResealedBatch {
    /// Rows that were re-sealed.
    pub count: u64,
    /// Rows that do not open and were left unchanged, identified as [`SealedKind`] says.
    pub closed: Vec<String>,
    /// The start of the next batch; `None` after the last one.
    pub next: Option<String>,
}

impl SealedKind {
    pub const ALL: [Self; 5] = [Self::Keys, Self::Servers, Self::JwtKeys, Self::Endpoints, Self::ToolPins];

    /// The table, and its identifying column as text.
    fn table_and_name(self) -> (&'static str, &'static str) {
        match self {
            Self::Keys => ("api_keys", "key_id"),
            Self::Servers => ("mcp_servers", "CAST(id AS TEXT)"),
            Self::Endpoints => ("endpoints", "CAST(id AS TEXT)"),
            Self::JwtKeys => ("jwt_keys", "kid"),
            Self::ToolPins => ("tool_pins", "server"),
        }
    }

    fn object_kind(self) -> ObjectKind {
        match self {
            Self::Keys => ObjectKind::Key,
            Self::Servers | Self::ToolPins => ObjectKind::Server,
            Self::Endpoints => ObjectKind::Endpoint,
            Self::JwtKeys => ObjectKind::JwtKey,
        }
    }
}

/// Whether the SQLite file at `path` has sealed rows. Changes nothing, and migrates no schema.
pub fn sqlite_has_sealed_rows(path: &Path) -> Result<bool, StoreError> {
    sqlite::has_rows(path, SealedKind::ALL.map(|kind| kind.table_and_name().0))
}

impl Store {
    /// Whether any row is sealed, so that a new `ENCRYPTION_KEY` would make it unreadable. Cancel safe.
    pub async fn has_sealed_rows(&self) -> Result<bool, StoreError> {
        transact!(self, AccessMode::Read, |tx| has_rows(tx))
    }

    /// The number of values sealed under each version of `ENCRYPTION_KEY`. Cancel safe.
    pub async fn sealed_versions(&self, kind: SealedKind) -> Result<Vec<(u8, u64)>, StoreError> {
        transact!(self, AccessMode::Read, |tx| versions(tx, kind))
    }

    /// Re-seals one batch of rows, starting after the name `after`, under the version that the sealer seals with, in one
    /// transaction. The epochs and versions of the rows do not change, so no token is revoked.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn rewrap(
        &self,
        kind: SealedKind,
        after: Option<String>,
        audit: Audit,
    ) -> Result<ResealedBatch, StoreError> {
        self.rewrap_some(kind, after, PAGE_ITEMS_MAX, audit).await
    }

    /// Like [`Store::rewrap`], for at most `items` rows.
    pub(crate) async fn rewrap_some(
        &self,
        kind: SealedKind,
        after: Option<String>,
        items: usize,
        audit: Audit,
    ) -> Result<ResealedBatch, StoreError> {
        let binding = self.binding.clone();
        let after = after.unwrap_or_default();
        transact!(self, AccessMode::Administer, |tx| batch(tx, &binding, kind, (&after, items), &audit))
    }
}

async fn has_rows<T: Transaction>(tx: &mut T) -> Result<bool, StoreError> {
    for kind in SealedKind::ALL {
        let (table, _) = kind.table_and_name();
        if !tx.query(&format!("SELECT 1 FROM {table} LIMIT 1"), &[]).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn batch<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    kind: SealedKind,
    (after, items): (&str, usize),
    audit: &Audit,
) -> Result<ResealedBatch, StoreError> {
    let version = binding.binder()?.sealing_version();
    let (table, name) = kind.table_and_name();
    let sql = format!(
        "SELECT {name} FROM {table} WHERE key_version <> $1 AND {name} > $2 ORDER BY {name} LIMIT $3"
    );
    let rows = tx.query(&sql, &[version.into(), after.into(), fetch_limit(items)]).await?;
    let names = rows.into_iter().map(|mut row| row.text()).collect::<Result<Vec<_>, _>>()?;
    let page = to_page(names, items, String::clone);
    let (mut count, mut unsealable) = (0, Vec::new());
    for name in page.items {
        match reseal_row(tx, binding, kind, &name).await? {
            Some(()) => count += 1,
            None => unsealable.push(name),
        }
    }
    if count > 0 {
        let after = json!({"rows": count, "key_version": version});
        let change = Change {
            action: "rekey",
            kind: kind.object_kind(),
            id: "*".into(),
            before: None,
            after: Some(after),
        };
        record(tx, audit, change).await?;
    }
    Ok(ResealedBatch { count, closed: unsealable, next: page.next })
}

/// Re-seals one row; `None` when it does not open.
async fn reseal_row<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    kind: SealedKind,
    name: &str,
) -> Result<Option<()>, StoreError> {
    let (key, server, endpoint, jwt_key, pins);
    let row = match kind {
        SealedKind::Keys => {
            key = keys::find(tx, name).await?;
            key.as_ref().map(SealedRow::Key)
        }
        SealedKind::Servers => {
            server = servers::find(tx, name).await?;
            server.as_ref().map(SealedRow::Server)
        }
        SealedKind::Endpoints => {
            endpoint = endpoints::find(tx, name).await?;
            endpoint.as_ref().map(SealedRow::Endpoint)
        }
        SealedKind::JwtKeys => {
            jwt_key = jwt_keys::find(tx, "kid", name).await?;
            jwt_key.as_ref().map(SealedRow::JwtKey)
        }
        SealedKind::ToolPins => {
            pins = tool_pins::find(tx, name).await?;
            pins.as_ref().map(SealedRow::ToolPins)
        }
    };
    let Some(row) = row else { return Ok(None) };
    let plain = match row {
        SealedRow::Key(row) => keys::open_hash(binding, row).ok(),
        SealedRow::Server(_) | SealedRow::Endpoint(_) | SealedRow::JwtKey(_) | SealedRow::ToolPins(_) => {
            binding.open(row)
        }
    };
    let Some(plain) = plain else { return Ok(None) };
    binding.seal(tx, row, &plain).await.map(|_| Some(()))
}

async fn versions<T: Transaction>(tx: &mut T, kind: SealedKind) -> Result<Vec<(u8, u64)>, StoreError> {
    let (table, _) = kind.table_and_name();
    let sql = format!("SELECT key_version, count(*) FROM {table} GROUP BY key_version ORDER BY 1");
    let rows = tx.query(&sql, &[]).await?;
    rows.into_iter().map(|mut row| Ok((row.int()?, row.int()?))).collect()
}
