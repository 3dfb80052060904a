//! Rows of token signing keys, and reading them.

use serde_json::{Value as Json, json};

use crate::store::epochs::{self, EpochKind};
use crate::store::error::StoreError;
use crate::store::sealed_value::{Plaintext, SealedValue};
use crate::store::transaction::{Transaction, query_one};
use crate::store::value::{Row, column_enum};

column_enum! {
    /// The signature algorithm of a token signing key.
    JwtAlgorithm {
        Hs256 = "HS256",
        EdDsa = "EdDSA",
    }
}

column_enum! {
    /// The phases of a token signing key.
    JwtPhase {
        /// Verifies tokens, and will sign next. At most one key.
        Next = "next",
        /// Signs and verifies. At most one key.
        Active = "active",
        /// Verifies the tokens that it has signed.
        Retiring = "retiring",
    }
}

/// One token signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKeyRow {
    /// The key id in the header of tokens.
    pub kid: String,
    pub algorithm: JwtAlgorithm,
    /// The signing secret, sealed together with the other columns.
    pub secret: SealedValue,
    pub phase: JwtPhase,
    /// Unix time in seconds.
    pub created_at: u64,
    /// The start of the phase, in seconds since 1970.
    pub changed_at: u64,
}

/// A signing key to be added.
#[derive(Debug, Clone)]
pub struct NewJwtKey {
    pub kid: String,
    pub algorithm: JwtAlgorithm,
    /// The signing secret, to be sealed.
    pub secret: Plaintext,
    /// `Active` for the first key, `Next` for every other.
    pub phase: JwtPhase,
}

/// All signing keys at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKeys {
    /// The epoch of the signing keys at that moment.
    pub epoch: u64,
    /// Sorted by age, oldest first.
    pub rows: Vec<JwtKeyRow>,
}

impl JwtKeyRow {
    /// The row without its secret, for the audit log.
    pub(super) fn describe(&self) -> Json {
        json!({"kid": self.kid, "algorithm": self.algorithm.as_str(), "phase": self.phase.as_str()})
    }
}

pub async fn all<T: Transaction>(tx: &mut T) -> Result<JwtKeys, StoreError> {
    let epoch = epochs::read_one(tx, EpochKind::JwtKeys).await?;
    let sql = format!("SELECT {COLUMNS} FROM jwt_keys ORDER BY created_at, kid");
    let rows = tx.query(&sql, &[]).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(JwtKeys { epoch, rows })
}

pub async fn find<T: Transaction>(
    tx: &mut T,
    column: &str,
    value: &str,
) -> Result<Option<JwtKeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM jwt_keys WHERE {column} = $1");
    query_one(tx, &sql, &[value.into()]).await?.map(read).transpose()
}

fn read(mut row: Row) -> Result<JwtKeyRow, StoreError> {
    let mut key = JwtKeyRow {
        kid: row.text()?,
        algorithm: row.field_or(JwtAlgorithm::Hs256, |row| row.word(JwtAlgorithm::parse)),
        secret: SealedValue { bytes: row.blob()?, key_version: row.field_or(0, Row::int) },
        phase: row.field_or(JwtPhase::Retiring, |row| row.word(JwtPhase::parse)),
        created_at: row.field_or(0, Row::int),
        changed_at: row.field_or(0, Row::int),
    };
    key.secret = row.seal_if_intact(key.secret);
    Ok(key)
}

const COLUMNS: &str = "kid, algorithm, sealed_secret, key_version, phase, created_at, changed_at";
