//! What must last: keys, servers, endpoints, usage, the audit log, behind one small interface.
//!
//! Two engines, SQLite and PostgreSQL, stand behind it. Operations are written once, in SQL that both understand,
//! and run in a transaction of either.
//!
//! Invariants: SQL stands here and in `sql/` only. Every change moves the epoch of its kind and is in the audit log,
//! in the transaction of the change itself. What decides is bound to `ENCRYPTION_KEY` (`bound`). No caller's thread ever
//! waits for the disk.
//! Does not know: what sealed bytes or a definition hold, who is asking, or the wire.

mod audit;
mod bound;
mod clock;
mod endpoints;
mod epochs;
mod error;
mod jwt_keys;
mod keys;
mod metamcp;
mod page;
mod postgres;
mod retention;
mod sealed;
mod servers;
mod session;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
mod tool_pins;
mod usage;
mod value;
mod watch;

use std::path::Path;

pub use audit::{Audit, AuditFilter, AuditRow, ObjectKind};
pub use bound::{Binder, Bound, Plain};
pub use endpoints::{EndpointRow, EndpointServer, EndpointSpec, Endpoints, PrefixMode, ToolOverride};
pub use epochs::Epochs;
pub use error::StoreError;
pub use jwt_keys::{JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, NewJwtKey};
pub use keys::{Grants, KeyRow, KeyStatus, Keys, NewKey, Predecessor, Rate, Role, Rotation};
pub use metamcp::{
    MetaEndpoint, MetaKey, MetaMcp, MetaMember, MetaNamespace, MetaServer, MetaTool, OddColumn,
};
pub use page::{PAGE_ITEMS_MAX, Paged};
pub use retention::{Retention, Retired};
pub use sealed::{Rewrapped, Sealed, SealedKind};
pub use servers::{Secrets, ServerKind, ServerRow, ServerSpec, Servers};
pub use tool_pins::{NewPins, PinsRow};
pub use usage::{Applied, Counts, UsageBatch, UsageFilter, UsageKey, UsageRow};
pub use uuid::Uuid;
pub use watch::{Away, Seen};

/// A handle to the store. Cheap to clone; the engine stops when the last one is dropped. Reads and deletes; for changes to
/// what is bound it takes [`Store::bound_by`].
#[derive(Debug, Clone)]
pub struct Store {
    engine: Engine,
    binding: bound::Binding,
}

#[derive(Debug, Clone)]
enum Engine {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

/// What a change expects to find (`If-Match`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Whatever is there.
    Any,
    /// This version and no other.
    Version(u64),
}

/// What became of something put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Create,
    /// It is there instead of what was there.
    Replace,
    /// It was so already.
    Keep,
}

/// Something put, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Put<T> {
    /// What was done.
    pub outcome: Outcome,
    /// As it is now.
    pub row: T,
}

impl Store {
    /// Opens the SQLite file at `path`, creating it (mode 0600) and bringing its schema up to date.
    ///
    /// Cancel safe.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(Engine::Sqlite(sqlite::Sqlite::open(path).await?)))
    }

    /// Opens the PostgreSQL database that `url` (`postgres://...`) names, and brings its schema up to date.
    ///
    /// Cancel safe.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = Self::postgres(url)?;
        store.prepare().await?;
        Ok(store)
    }

    /// The same without asking the server anything yet: the first operation does, or [`Store::prepare`]. Called in the
    /// runtime that is to drive the connections; fails only for an address that cannot be one.
    pub fn postgres(url: &str) -> Result<Self, StoreError> {
        Ok(Self::over(Engine::Postgres(postgres::Postgres::new(url)?)))
    }

    /// Reaches the database and brings its schema up to date. Done already, it costs nothing.
    ///
    /// Cancel safe.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(engine) => engine.prepare().await,
        }
    }

    fn over(engine: Engine) -> Self {
        Self { engine, binding: bound::Binding::default() }
    }
}

/// Whether the PostgreSQL database that `url` names was never one of ours. Changes nothing, and makes no schema.
///
/// Cancel safe.
pub async fn is_new_postgres(url: &str) -> Result<bool, StoreError> {
    postgres::Postgres::new(url)?.is_new().await
}

impl Match {
    fn check(self, version: u64) -> Result<(), StoreError> {
        match self {
            Self::Version(expected) if expected != version => Err(StoreError::Conflict),
            Self::Any | Self::Version(_) => Ok(()),
        }
    }
}

/// A new id. Those made later are greater (RFC 9562, version 7), which keeps indexes small.
pub fn new_id() -> Uuid {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system has random numbers");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests;
