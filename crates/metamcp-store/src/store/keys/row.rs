//! Rows of keys, and reading them.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::store::epochs::{self, EpochKind};
use crate::store::error::StoreError;
use crate::store::quotas::{Quotas, read_quotas};
use crate::store::sealed_value::{Plaintext, SealedValue};
use crate::store::transaction::{Transaction, query_one};
use crate::store::value::{Row, Value, column_enum};

column_enum! {
    /// Whether a key may be used.
    KeyStatus {
        Active = "active",
        Inactive = "inactive",
    }
}

column_enum! {
    /// The role of a key.
    Role {
        /// May call tools, and nothing else.
        Client = "client",
        /// May administer the gateway, and call tools.
        Admin = "admin",
    }
}

/// A limit on the calls of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The average; at least 1.
    pub per_second: u32,
    /// Calls that may come at once after a pause; at least 1.
    pub burst: u32,
}

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    pub role: Role,
    /// Names of endpoints; `None` allows all.
    pub endpoints: Option<Vec<String>>,
    /// Globs over tool names as the client sees them; `None` allows all.
    pub tools: Option<Vec<String>>,
    /// `None` for no limit.
    pub rate: Option<Rate>,
    /// Concurrent calls, at least 1; `None` when only the gateway's own limits apply.
    pub concurrency: Option<u32>,
    /// Left out if there is none, so that what an earlier version wrote is read, and what has no quota is written as before.
    #[serde(default, skip_serializing_if = "Quotas::is_none")]
    pub quotas: Quotas,
}

impl Grants {
    /// The grants of a client that may call every tool.
    pub fn everything() -> Self {
        Self {
            role: Role::Client,
            endpoints: None,
            tools: None,
            rate: None,
            concurrency: None,
            quotas: Quotas::NONE,
        }
    }
}

/// What is decided about a key: everything but its secret, its status, and its successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// The display name: shown in lists, logs and traces.
    pub name: String,
    /// A note for people; may be empty.
    pub description: String,
    pub grants: Grants,
    /// Seconds since 1970; `None` for a key that does not expire.
    pub expires_at: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The id in administration.
    pub id: Uuid,
    /// The public part of the key, in the key itself.
    pub key_id: String,
    pub name: String,
    /// A note for people; may be empty.
    pub description: String,
    pub grants: Grants,
    pub status: KeyStatus,
    /// The sealed verifier of the secret.
    pub sealed_hash: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed it.
    pub key_version: u8,
    /// Seconds since 1970; `None` for a key that does not expire.
    pub expires_at: Option<u64>,
    /// The key that replaces this one. It may have been deleted since.
    pub successor: Option<Uuid>,
    /// The end of the grace period after a rotation, in seconds since 1970.
    pub grace_until: Option<u64>,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds.
    pub changed_at: u64,
    /// The epoch of the keys at the last change of this row that revoked its tokens.
    pub epoch: u64,
}

impl KeyRow {
    /// When the key ends by itself, in seconds since 1970; `None` for never.
    pub fn ends_at(&self) -> Option<u64> {
        match (self.expires_at, self.grace_until) {
            (Some(expiry), Some(grace)) => Some(expiry.min(grace)),
            (expiry, grace) => expiry.or(grace),
        }
    }

    /// The key as it would be requested now.
    pub fn to_request(&self) -> KeyRequest {
        KeyRequest {
            name: self.name.clone(),
            description: self.description.clone(),
            grants: self.grants.clone(),
            expires_at: self.expires_at,
        }
    }

    /// The row without its hash, for the audit log.
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

/// A key to be stored, as active.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub id: Uuid,
    /// The public part of the key: 12 characters.
    pub key_id: String,
    /// The display name; not empty.
    pub name: String,
    /// A note for people; may be empty.
    pub description: String,
    pub grants: Grants,
    /// The verifier of the secret, to be sealed.
    pub hash: Plaintext,
    /// Seconds since 1970; `None` for a key that does not expire.
    pub expires_at: Option<u64>,
}

/// All keys at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The epoch of the keys at that moment.
    pub epoch: u64,
    /// Sorted by age, oldest first.
    pub rows: Vec<KeyRow>,
}

pub async fn all<T: Transaction>(tx: &mut T) -> Result<Keys, StoreError> {
    let epoch = epochs::read_one(tx, EpochKind::Keys).await?;
    let sql = format!("SELECT {COLUMNS} FROM api_keys ORDER BY created_at, key_id");
    let rows = tx.query(&sql, &[]).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Keys { epoch, rows })
}

pub async fn find<T: Transaction>(tx: &mut T, reference: &str) -> Result<Option<KeyRow>, StoreError> {
    let (column, value) = match Uuid::parse_str(reference) {
        Ok(id) => ("id", Value::from(id)),
        Err(_) => ("key_id", Value::from(reference)),
    };
    let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE {column} = $1");
    query_one(tx, &sql, &[value]).await?.map(read).transpose()
}

fn read(mut row: Row) -> Result<KeyRow, StoreError> {
    // A field that cannot be read gets the value that grants the least.
    let mut key = KeyRow {
        id: row.field_or(Uuid::nil(), Row::uuid),
        key_id: row.text()?,
        name: row.text()?,
        description: row.text()?,
        grants: Grants {
            role: row.field_or(Role::Client, |row| row.word(Role::parse)),
            endpoints: row.field_or(Some(Vec::new()), Row::optional_list),
            tools: row.field_or(Some(Vec::new()), Row::optional_list),
            rate: read_rate(&mut row),
            concurrency: row.field_or(Some(1), Row::optional_int),
            quotas: row.field_or(NOTHING, read_quotas),
        },
        status: row.field_or(KeyStatus::Inactive, |row| row.word(KeyStatus::parse)),
        sealed_hash: row.blob()?,
        key_version: row.field_or(0, Row::int),
        expires_at: row.field_or(Some(0), Row::optional_int),
        successor: row.field_or(None, Row::optional_uuid),
        grace_until: row.field_or(Some(0), Row::optional_int),
        created_at: row.field_or(0, Row::int),
        changed_at: row.field_or(0, Row::int),
        epoch: row.field_or(0, Row::int),
    };
    let sealed = row.seal_if_intact(SealedValue { bytes: key.sealed_hash, key_version: key.key_version });
    key.sealed_hash = sealed.bytes;
    Ok(key)
}

/// Reads both columns, which are set together or not at all.
fn read_rate(row: &mut Row) -> Option<Rate> {
    let (per_second, burst) =
        (row.field_or(Some(1), Row::optional_int), row.field_or(Some(1), Row::optional_int));
    match (per_second, burst) {
        (Some(per_second), Some(burst)) => Some(Rate { per_second, burst }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => row.field_or(None, |_| Err(StoreError::Closed("key"))),
    }
}

/// The quotas of a key whose quotas cannot be read.
const NOTHING: Quotas = Quotas {
    calls_per_day: Some(0),
    calls_per_month: Some(0),
    bytes_per_day: Some(0),
    bytes_per_month: Some(0),
};

const COLUMNS: &str = "id, key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, \
                       concurrency, quotas, status, sealed_hash, key_version, expires_at, successor, grace_until, \
                       created_at, changed_at, epoch";
