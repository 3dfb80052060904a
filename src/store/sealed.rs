//! What is sealed at rest, and sealing it anew under another version of `ENCRYPTION_KEY`.
//!
//! A run goes through each kind in batches: rows that are not at the wanted version, until there are none. Broken off
//! half-way it goes on where it stopped, since what was done is not found again.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit::{Audit, Change, ObjectKind, record};
use super::page::{fetched, limit, paged};
use super::session::{Access, Session, transact};
use super::value::{Row, Value};
use super::{Paged, Store, StoreError};

/// Sealed bytes, and what sealed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Opaque here.
    pub bytes: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed them.
    pub key_version: u8,
}

/// What holds something sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SealedKind {
    /// The hashes of API keys; named by key id.
    Keys,
    /// The secrets of servers; named by UUID.
    Servers,
    /// The secrets of the keys that sign tokens; named by kid.
    JwtKeys,
}

/// One sealed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRow {
    /// What the kind is named by: see [`SealedKind`].
    pub name: String,
    /// What is there.
    pub sealed: Sealed,
}

/// A sealed value to be put in the place of another.
#[derive(Debug, Clone)]
pub struct Rewrap {
    /// See [`SealedRow::name`].
    pub name: String,
    /// What was found there; if it is something else by now, it is left alone.
    pub from: Vec<u8>,
    /// What is to be there.
    pub to: Sealed,
}

impl SealedKind {
    /// Every kind there is.
    pub const ALL: [Self; 3] = [Self::Keys, Self::Servers, Self::JwtKeys];

    /// Table, column of the name, column of the sealed bytes.
    fn place(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Keys => ("api_keys", "key_id", "sealed_hash"),
            Self::Servers => ("mcp_servers", "CAST(id AS TEXT)", "sealed_secrets"),
            Self::JwtKeys => ("jwt_keys", "kid", "sealed_secret"),
        }
    }

    fn object(self) -> ObjectKind {
        match self {
            Self::Keys => ObjectKind::Key,
            Self::Servers => ObjectKind::Server,
            Self::JwtKeys => ObjectKind::JwtKey,
        }
    }
}

impl Store {
    /// What another version than `key_version` has sealed, by name, beginning behind `after`. Cancel safe.
    pub async fn sealed_otherwise(
        &self,
        kind: SealedKind,
        key_version: u8,
        after: Option<String>,
        items: usize,
    ) -> Result<Paged<SealedRow, String>, StoreError> {
        let limit = limit(items);
        let rows = transact!(self, Access::Read, |session| find(
            session,
            kind,
            [key_version.into(), after.as_deref().unwrap_or_default().into(), fetched(limit)]
        ))?;
        Ok(paged(rows, limit, |row| row.name.clone()))
    }

    /// How many values each version of `ENCRYPTION_KEY` has sealed. Cancel safe.
    pub async fn sealed_versions(&self, kind: SealedKind) -> Result<Vec<(u8, u64)>, StoreError> {
        transact!(self, Access::Read, |session| versions(session, kind))
    }

    /// Puts values sealed anew in the place of what they were made from, all in one transaction, and gives how
    /// many. The keys' own epochs stay: no token is taken back.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn rewrap(
        &self,
        kind: SealedKind,
        values: Vec<Rewrap>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        transact!(self, Access::Administer, |session| replace(session, kind, &values, &audit))
    }
}

async fn find<S: Session>(
    session: &mut S,
    kind: SealedKind,
    values: [Value; 3],
) -> Result<Vec<SealedRow>, StoreError> {
    let (table, name, sealed) = kind.place();
    let sql = format!(
        "SELECT {name}, {sealed}, key_version FROM {table} \
         WHERE key_version <> $1 AND {name} > $2 AND {sealed} IS NOT NULL ORDER BY {name} LIMIT $3"
    );
    session.query(&sql, &values).await?.into_iter().map(read).collect()
}

fn read(mut row: Row) -> Result<SealedRow, StoreError> {
    Ok(SealedRow { name: row.text()?, sealed: Sealed { bytes: row.blob()?, key_version: row.int()? } })
}

async fn versions<S: Session>(session: &mut S, kind: SealedKind) -> Result<Vec<(u8, u64)>, StoreError> {
    let (table, _, sealed) = kind.place();
    let sql = format!(
        "SELECT key_version, count(*) FROM {table} WHERE {sealed} IS NOT NULL GROUP BY key_version ORDER BY 1"
    );
    let rows = session.query(&sql, &[]).await?;
    rows.into_iter().map(|mut row| Ok((row.int()?, row.int()?))).collect()
}

async fn replace<S: Session>(
    session: &mut S,
    kind: SealedKind,
    values: &[Rewrap],
    audit: &Audit,
) -> Result<u64, StoreError> {
    let (table, name, sealed) = kind.place();
    let sql =
        format!("UPDATE {table} SET {sealed} = $1, key_version = $2 WHERE {name} = $3 AND {sealed} = $4");
    let mut count = 0;
    for value in values {
        let bound = [
            value.to.bytes.as_slice().into(),
            value.to.key_version.into(),
            Value::from(&value.name),
            value.from.as_slice().into(),
        ];
        count += session.execute(&sql, &bound).await?;
    }
    if count > 0 {
        let after = json!({"rows": count, "key_version": values[0].to.key_version});
        let change =
            Change { action: "rekey", kind: kind.object(), id: "*".into(), before: None, after: Some(after) };
        record(session, audit, change).await?;
    }
    Ok(count)
}
