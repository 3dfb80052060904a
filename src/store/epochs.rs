//! The counters that tell every process that something changed.

use super::session::{Access, Session, transact};
use super::{Store, StoreError};

/// One counter a kind. Each moves in the transaction of every change to its kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epochs {
    /// API keys.
    pub keys: u64,
    /// Servers.
    pub servers: u64,
    /// Endpoints, with their servers, filters and overrides.
    pub endpoints: u64,
    /// Keys that sign tokens.
    pub jwt_keys: u64,
}

/// What a counter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Keys,
    Servers,
    Endpoints,
    JwtKeys,
}

impl Epochs {
    pub(super) fn of(self, kind: Kind) -> u64 {
        match kind {
            Kind::Keys => self.keys,
            Kind::Servers => self.servers,
            Kind::Endpoints => self.endpoints,
            Kind::JwtKeys => self.jwt_keys,
        }
    }
}

impl Store {
    /// All counters at one moment. Cancel safe.
    pub async fn epochs(&self) -> Result<Epochs, StoreError> {
        transact!(self, Access::Read, |session| read(session))
    }
}

pub(super) async fn read<S: Session>(session: &mut S) -> Result<Epochs, StoreError> {
    let mut epochs = Epochs::default();
    for mut row in session.query(SELECT, &[]).await? {
        let kind = row.text()?;
        let value = row.int()?;
        match kind.as_str() {
            "keys" => epochs.keys = value,
            "servers" => epochs.servers = value,
            "endpoints" => epochs.endpoints = value,
            "jwt_keys" => epochs.jwt_keys = value,
            // A later version counts more kinds.
            _ => {}
        }
    }
    Ok(epochs)
}

/// The epoch comes first: rows that are newer than it are only read once more.
pub(super) async fn of<S: Session>(session: &mut S, kind: Kind) -> Result<u64, StoreError> {
    Ok(read(session).await?.of(kind))
}

const SELECT: &str = "SELECT kind, value FROM epochs";
