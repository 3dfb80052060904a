//! Sealing of rows: each row that decides something is sealed together with its columns, under `ENCRYPTION_KEY`.
//!
//! A change to such a row seals it again in the same transaction, from the columns as the tables return them, so that
//! what is read later is what was sealed. A row that does not open is not trusted: it can be deleted or disabled, and
//! nothing else.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::endpoints::EndpointRow;
use super::error::StoreError;
use super::jwt_keys::JwtKeyRow;
use super::keys::KeyRow;
use super::sealed_value::{Plaintext, SealedValue};
use super::servers::ServerRow;
use super::tool_pins::ToolPinsRow;
use super::transaction::Transaction;
use super::value::Value;

/// A row that is sealed.
#[derive(Debug, Clone, Copy)]
pub enum SealedRow<'a> {
    /// Sealed with the verifier of the key's secret.
    Key(&'a KeyRow),
    /// Sealed with the server's secrets, which may be empty.
    Server(&'a ServerRow),
    /// Sealed with an empty plaintext.
    Endpoint(&'a EndpointRow),
    /// Sealed with the signing secret.
    JwtKey(&'a JwtKeyRow),
    /// Sealed with an empty plaintext.
    ToolPins(&'a ToolPinsRow),
}

/// Seals rows and opens them. The implementation defines which columns are authenticated.
pub trait RowSealer: fmt::Debug + Send + Sync {
    /// Seals `plain` together with the columns of the row. The value that the row holds now is ignored.
    fn seal_row(&self, row: SealedRow<'_>, plain: &Plaintext) -> SealedValue;

    /// Opens the sealed value of the row. `None` unless it was sealed under one of our keys with the row's present columns.
    fn open_row(&self, row: SealedRow<'_>) -> Option<Plaintext>;

    /// Whether this version of `ENCRYPTION_KEY` is available.
    fn has_version(&self, version: u8) -> bool;

    /// The version that seals.
    fn sealing_version(&self) -> u8;
}

/// The row sealer of a store handle, if it has one.
#[derive(Debug, Clone, Default)]
pub(super) struct OptionalSealer(Option<Arc<dyn RowSealer>>);

impl SealedRow<'_> {
    /// The sealed bytes of the row, and the version of `ENCRYPTION_KEY` that it names.
    pub fn sealed(&self) -> (&[u8], u8) {
        match self {
            Self::Key(row) => (&row.sealed_hash, row.key_version),
            Self::Server(row) => (&row.secrets.bytes, row.secrets.key_version),
            Self::Endpoint(row) => (&row.seal.bytes, row.seal.key_version),
            Self::JwtKey(row) => (&row.secret.bytes, row.secret.key_version),
            Self::ToolPins(row) => (&row.seal.bytes, row.seal.key_version),
        }
    }
}

impl OptionalSealer {
    pub fn new(binder: Arc<dyn RowSealer>) -> Self {
        Self(Some(binder))
    }

    /// Opens a row. `None` when it does not open, or there is no sealer.
    pub fn open(&self, row: SealedRow<'_>) -> Option<Plaintext> {
        self.0.as_ref()?.open_row(row)
    }

    /// Opens a row of an operation that cannot continue without its plaintext. `kind` names the row in the error.
    pub fn open_required(&self, row: SealedRow<'_>, kind: &'static str) -> Result<Plaintext, StoreError> {
        self.binder()?.open_row(row).ok_or(StoreError::Closed(kind))
    }

    pub fn binder(&self) -> Result<&dyn RowSealer, StoreError> {
        self.0.as_deref().ok_or(StoreError::Unbound)
    }

    /// Seals a row as the tables have it, stores the sealed value, and returns it.
    pub async fn seal<T: Transaction>(
        &self,
        tx: &mut T,
        row: SealedRow<'_>,
        plain: &Plaintext,
    ) -> Result<SealedValue, StoreError> {
        let sealed = self.binder()?.seal_row(row, plain);
        store_sealed(tx, row, &sealed).await?;
        Ok(sealed)
    }
}

/// Stores the sealed value of a row.
pub(super) async fn store_sealed<T: Transaction>(
    tx: &mut T,
    row: SealedRow<'_>,
    sealed: &SealedValue,
) -> Result<(), StoreError> {
    let by_id = |id: Uuid| Value::from(id);
    let (table, column, name, value) = match row {
        SealedRow::Key(row) => ("api_keys", "sealed_hash", "id", by_id(row.id)),
        SealedRow::Server(row) => ("mcp_servers", "sealed_secrets", "id", by_id(row.id)),
        SealedRow::Endpoint(row) => ("endpoints", "seal", "id", by_id(row.id)),
        SealedRow::JwtKey(row) => ("jwt_keys", "sealed_secret", "kid", Value::from(&row.kid)),
        SealedRow::ToolPins(row) => ("tool_pins", "seal", "server", Value::from(&row.server)),
    };
    let sql = format!("UPDATE {table} SET {column} = $1, key_version = $2 WHERE {name} = $3");
    let values = [sealed.bytes.as_slice().into(), sealed.key_version.into(), value];
    tx.execute(&sql, &values).await.map(drop)
}
