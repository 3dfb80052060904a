//! The ring as it is kept on disk for a start without the store.

use serde::{Deserialize, Serialize};

use crate::store::{JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, Sealed};

/// As the store gave it: each secret sealed as it is there.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRing {
    epoch: u64,
    keys: Vec<KeptKey>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptKey {
    kid: String,
    algorithm: JwtAlgorithm,
    sealed: Vec<u8>,
    key_version: u8,
    phase: JwtPhase,
    created_at: u64,
    changed_at: u64,
}

impl From<&JwtKeys> for KeptRing {
    fn from(keys: &JwtKeys) -> Self {
        let keep = |row: &JwtKeyRow| KeptKey {
            kid: row.kid.clone(),
            algorithm: row.algorithm,
            sealed: row.secret.bytes.clone(),
            key_version: row.secret.key_version,
            phase: row.phase,
            created_at: row.created_at,
            changed_at: row.changed_at,
        };
        Self { epoch: keys.epoch, keys: keys.rows.iter().map(keep).collect() }
    }
}

impl From<KeptRing> for JwtKeys {
    fn from(kept: KeptRing) -> Self {
        let row = |key: KeptKey| JwtKeyRow {
            kid: key.kid,
            algorithm: key.algorithm,
            secret: Sealed { bytes: key.sealed, key_version: key.key_version },
            phase: key.phase,
            created_at: key.created_at,
            changed_at: key.changed_at,
        };
        Self { epoch: kept.epoch, rows: kept.keys.into_iter().map(row).collect() }
    }
}
