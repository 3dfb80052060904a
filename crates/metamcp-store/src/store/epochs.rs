//! Epochs: the counters by which every process learns that something changed.

use super::error::StoreError;
use super::transaction::Transaction;

/// One counter for each kind of row. Each advances in the transaction of every change to its kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epochs {
    pub keys: u64,
    pub servers: u64,
    /// Endpoints with their servers, filters and overrides.
    pub endpoints: u64,
    pub jwt_keys: u64,
}

/// Selects one of the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EpochKind {
    Keys,
    Servers,
    Endpoints,
    JwtKeys,
}

impl Epochs {
    fn get(self, kind: EpochKind) -> u64 {
        match kind {
            EpochKind::Keys => self.keys,
            EpochKind::Servers => self.servers,
            EpochKind::Endpoints => self.endpoints,
            EpochKind::JwtKeys => self.jwt_keys,
        }
    }
}

pub(super) async fn read<T: Transaction>(tx: &mut T) -> Result<Epochs, StoreError> {
    let mut epochs = Epochs::default();
    for mut row in tx.query(SELECT, &[]).await? {
        let kind = row.text()?;
        let value = row.int()?;
        match kind.as_str() {
            "keys" => epochs.keys = value,
            "servers" => epochs.servers = value,
            "endpoints" => epochs.endpoints = value,
            "jwt_keys" => epochs.jwt_keys = value,
            // A later version of this program may count more kinds.
            _ => {}
        }
    }
    Ok(epochs)
}

/// Reads one epoch. Must be read before the rows: rows newer than their epoch are only read again.
pub(super) async fn read_one<T: Transaction>(tx: &mut T, kind: EpochKind) -> Result<u64, StoreError> {
    Ok(read(tx).await?.get(kind))
}

const SELECT: &str = "SELECT kind, value FROM epochs";
