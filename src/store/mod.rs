//! What must last: API keys and the epoch of their changes, behind one small interface.
//!
//! Invariants: SQL stands here and in `sql/` only. Every change of a key moves the epoch in the same
//! transaction, by triggers. No caller's thread ever waits for the disk: an engine works on a thread of its own.
//! Does not know: what a sealed hash holds, who is asking, or the wire.

mod error;
mod migrate;
mod row;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;

use std::path::Path;

pub use error::StoreError;
pub use row::{KeyRow, KeyStatus, Keys, NewKey};

/// A handle to the store. Cheap to clone; the engine stops when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Engine,
}

#[derive(Debug, Clone)]
enum Engine {
    Sqlite(sqlite::Sqlite),
}

impl Store {
    /// Opens the SQLite file at `path`, creating it (mode 0600) and bringing its schema up to date.
    ///
    /// Cancel safe.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { engine: Engine::Sqlite(sqlite::Sqlite::open(path).await?) })
    }

    /// Adds a key and gives the row as stored.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_key(&self, key: NewKey) -> Result<KeyRow, StoreError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.call(move |c| sqlite::insert_key(c, &key)).await,
        }
    }

    /// All keys, and the epoch they show, read in one transaction. Cancel safe.
    pub async fn keys(&self) -> Result<Keys, StoreError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.call(sqlite::keys).await,
        }
    }

    /// One key. Cancel safe.
    pub async fn key(&self, key_id: &str) -> Result<Option<KeyRow>, StoreError> {
        let key_id = key_id.to_owned();
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.call(move |c| sqlite::key(c, &key_id)).await,
        }
    }

    /// Switches a key on or off. `false`: there is no such key.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn set_key_status(&self, key_id: &str, status: KeyStatus) -> Result<bool, StoreError> {
        let key_id = key_id.to_owned();
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.call(move |c| sqlite::set_key_status(c, &key_id, status)).await,
        }
    }

    /// The counter that every change of any key moves. Cancel safe.
    pub async fn epoch(&self) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.call(|c| sqlite::epoch(c)).await,
        }
    }
}

#[cfg(test)]
mod tests;
