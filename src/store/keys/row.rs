//! What a key is at rest.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::store::epochs::{self, Kind};
use crate::store::session::{Session, query_one};
use crate::store::value::{Row, Value, words};
use crate::store::{Plain, Sealed, StoreError};

words! {
    /// Whether a key may be used.
    KeyStatus {
        /// It opens the gateway.
        Active = "active",
        /// It was switched off.
        Inactive = "inactive",
    }
}

words! {
    /// What a key is for.
    Role {
        /// Calls tools.
        Client = "client",
        /// Administers, and calls tools.
        Admin = "admin",
    }
}

/// How often a key may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// On average; at least 1.
    pub per_second: u32,
    /// At once after a pause; at least 1.
    pub burst: u32,
}

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// What it is for.
    pub role: Role,
    /// Names of endpoints; `None`: all.
    pub endpoints: Option<Vec<String>>,
    /// Globs over the names of tools as the client sees them; `None`: all.
    pub tools: Option<Vec<String>>,
    /// `None`: as often as it likes.
    pub rate: Option<Rate>,
    /// Calls at once, at least 1; `None`: what the gateway's limits allow.
    pub concurrency: Option<u32>,
}

impl Grants {
    /// A client that may call whatever there is.
    pub fn everything() -> Self {
        Self { role: Role::Client, endpoints: None, tools: None, rate: None, concurrency: None }
    }
}

/// One API key at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// For administration.
    pub id: Uuid,
    /// The public part of the key.
    pub key_id: String,
    /// Given by whoever made it.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// What it may do.
    pub grants: Grants,
    /// Whether it may be used.
    pub status: KeyStatus,
    /// Opaque here.
    pub sealed_hash: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed it.
    pub key_version: u8,
    /// Seconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
    /// The key that replaces this one, whether or not it still is there.
    pub successor: Option<Uuid>,
    /// Seconds since 1970: a rotated key ends then.
    pub grace_until: Option<u64>,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970.
    pub changed_at: u64,
    /// The keys' epoch at this row's last change that takes back its tokens.
    pub epoch: u64,
}

impl KeyRow {
    /// When it ends by itself, in seconds since 1970; `None`: never.
    pub fn ends_at(&self) -> Option<u64> {
        match (self.expires_at, self.grace_until) {
            (Some(expiry), Some(grace)) => Some(expiry.min(grace)),
            (expiry, grace) => expiry.or(grace),
        }
    }

    /// For the audit log: everything but the hash.
    pub(super) fn describe(&self) -> Json {
        json!({
            "id": self.id.to_string(),
            "key_id": self.key_id,
            "name": self.name,
            "description": self.description,
            "grants": self.grants,
            "status": self.status.as_str(),
            "expires_at": self.expires_at,
            "successor": self.successor.map(|id| id.to_string()),
            "grace_until": self.grace_until,
        })
    }
}

/// A key to be stored; it begins active.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// From [`crate::store::new_id`].
    pub id: Uuid,
    /// The public part of the key: 12 characters.
    pub key_id: String,
    /// Given by whoever made it; not empty.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// What it may do.
    pub grants: Grants,
    /// What its secret is recognised by. Opaque here, and sealed when it is stored.
    pub hash: Plain,
    /// Seconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
}

/// All keys at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The keys' epoch at that moment.
    pub epoch: u64,
    /// Oldest first.
    pub rows: Vec<KeyRow>,
}

pub async fn all<S: Session>(session: &mut S) -> Result<Keys, StoreError> {
    let epoch = epochs::of(session, Kind::Keys).await?;
    let sql = format!("SELECT {COLUMNS} FROM api_keys ORDER BY created_at, key_id");
    let rows = session.query(&sql, &[]).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Keys { epoch, rows })
}

pub async fn find<S: Session>(session: &mut S, reference: &str) -> Result<Option<KeyRow>, StoreError> {
    let (column, value) = match Uuid::parse_str(reference) {
        Ok(id) => ("id", Value::from(id)),
        Err(_) => ("key_id", Value::from(reference)),
    };
    let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE {column} = $1");
    query_one(session, &sql, &[value]).await?.map(read).transpose()
}

fn read(mut row: Row) -> Result<KeyRow, StoreError> {
    // Where something cannot be read, it is taken for the least that it can be.
    let mut key = KeyRow {
        id: row.or(Uuid::nil(), Row::uuid),
        key_id: row.text()?,
        name: row.text()?,
        description: row.text()?,
        grants: Grants {
            role: row.or(Role::Client, |row| row.word(Role::parse)),
            endpoints: row.or(Some(Vec::new()), Row::optional_list),
            tools: row.or(Some(Vec::new()), Row::optional_list),
            rate: read_rate(&mut row),
            concurrency: row.or(Some(1), Row::optional_int),
        },
        status: row.or(KeyStatus::Inactive, |row| row.word(KeyStatus::parse)),
        sealed_hash: row.blob()?,
        key_version: row.or(0, Row::int),
        expires_at: row.or(Some(0), Row::optional_int),
        successor: row.or(None, Row::optional_uuid),
        grace_until: row.or(Some(0), Row::optional_int),
        created_at: row.or(0, Row::int),
        changed_at: row.or(0, Row::int),
        epoch: row.or(0, Row::int),
    };
    let sealed = row.sealed(Sealed { bytes: key.sealed_hash, key_version: key.key_version });
    key.sealed_hash = sealed.bytes;
    Ok(key)
}

/// Both or neither.
fn read_rate(row: &mut Row) -> Option<Rate> {
    let (per_second, burst) = (row.or(Some(1), Row::optional_int), row.or(Some(1), Row::optional_int));
    match (per_second, burst) {
        (Some(per_second), Some(burst)) => Some(Rate { per_second, burst }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => row.or(None, |_| Err(StoreError::Closed("key"))),
    }
}

const COLUMNS: &str = "id, key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, \
                       concurrency, status, sealed_hash, key_version, expires_at, successor, grace_until, \
                       created_at, changed_at, epoch";
