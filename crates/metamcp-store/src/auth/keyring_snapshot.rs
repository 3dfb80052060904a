//! The stored form of the keyrings on disk, from which a start without the store continues.

use serde::{Deserialize, Serialize};

use crate::store::{JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, Keys, SealedValue};

/// The keys of the store at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyringSnapshot {
    /// Unix time in seconds.
    pub written_at: u64,
    pub keys: Keys,
    /// The token signing keys. `None` when an earlier version of this program wrote the snapshot.
    #[serde(rename = "ring")]
    pub jwt_keys: Option<JwtKeyringSnapshot>,
}

/// The token signing keys, each secret sealed as it is in the store.
#[derive(Debug, Serialize, Deserialize)]
pub struct JwtKeyringSnapshot {
    epoch: u64,
    keys: Vec<JwtKeySnapshot>,
}

#[derive(Debug, Serialize, Deserialize)]
struct JwtKeySnapshot {
    kid: String,
    algorithm: JwtAlgorithm,
    sealed: Vec<u8>,
    key_version: u8,
    phase: JwtPhase,
    created_at: u64,
    changed_at: u64,
}

impl From<&JwtKeys> for JwtKeyringSnapshot {
    fn from(keys: &JwtKeys) -> Self {
        let key = |row: &JwtKeyRow| JwtKeySnapshot {
            kid: row.kid.clone(),
            algorithm: row.algorithm,
            sealed: row.secret.bytes.clone(),
            key_version: row.secret.key_version,
            phase: row.phase,
            created_at: row.created_at,
            changed_at: row.changed_at,
        };
        Self { epoch: keys.epoch, keys: keys.rows.iter().map(key).collect() }
    }
}

impl From<JwtKeyringSnapshot> for JwtKeys {
    fn from(snapshot: JwtKeyringSnapshot) -> Self {
        let row = |key: JwtKeySnapshot| JwtKeyRow {
            kid: key.kid,
            algorithm: key.algorithm,
            secret: SealedValue { bytes: key.sealed, key_version: key.key_version },
            phase: key.phase,
            created_at: key.created_at,
            changed_at: key.changed_at,
        };
        Self { epoch: snapshot.epoch, rows: snapshot.keys.into_iter().map(row).collect() }
    }
}
