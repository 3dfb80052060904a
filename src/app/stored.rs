//! Servers and endpoints of the store: read, and, of a database that is elsewhere, kept sealed on disk for a start
//! while it is away.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::join::Stored;
use crate::auth::{Keeper, Sealer, Snapshot};
use crate::store::{Store, StoreError};

/// Where they come from.
pub struct Source {
    store: Store,
    sealer: Arc<Sealer>,
    /// `None`: the store is a file of this machine, and never away.
    keeper: Option<Arc<Keeper<Stored>>>,
    /// What it was given last.
    kept: RefCell<Option<Stored>>,
}

/// A start waits so long for a database before it goes by what was kept: nobody is served meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(5);

impl Source {
    /// `kept`: where to keep what was read.
    pub fn new(store: Store, sealer: Arc<Sealer>, kept: Option<PathBuf>) -> Self {
        let keeper = kept.map(|path| Keeper::new(Snapshot::of_topology(path), Arc::clone(&sealer)));
        Self { store, sealer, keeper, kept: RefCell::default() }
    }

    /// At a start: as the store says, or else as an earlier run kept it. `None`: neither is known, which is not the same as
    /// nothing. `is_away`: it is not asked.
    pub async fn first(&self, is_away: bool) -> Option<Stored> {
        if !is_away {
            match timeout(START_TIMEOUT, self.read()).await {
                Ok(Ok(stored)) => return Some(stored),
                Ok(Err(error)) => {
                    tracing::error!(%error, "servers and endpoints of the store could not be read");
                }
                Err(_elapsed) => tracing::error!("servers and endpoints of the store were not read in time"),
            }
        }
        let (keeper, sealer) = (self.keeper.clone()?, Arc::clone(&self.sealer));
        match spawn_blocking(move || keeper.snapshot().read(&sealer)).await {
            Ok(Ok(Some(stored))) => {
                tracing::warn!("started with the servers and endpoints of an earlier run");
                Some(stored)
            }
            Ok(Ok(None)) => {
                tracing::warn!("no servers and endpoints of the store are known until it answers");
                None
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "started without the servers and endpoints of the store");
                None
            }
            // The runtime is stopping.
            Err(_) => None,
        }
    }

    /// As the store says now. Cancel safe.
    pub async fn read(&self) -> Result<Stored, StoreError> {
        // In this order: a server that an endpoint names is there, unless it was deleted in between.
        let endpoints = self.store.endpoints().await?.rows;
        let servers = self.store.servers().await?.rows;
        Ok(Stored { servers, endpoints })
    }

    /// Has what is served kept, for a start without the store. Does not wait for the disk.
    pub fn keep(&self, stored: &Stored) {
        let is_other = self.kept.borrow().as_ref() != Some(stored);
        if let Some(keeper) = self.keeper.as_ref().filter(|_| is_other) {
            self.kept.replace(Some(stored.clone()));
            keeper.keep(stored.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::EncryptionKey;
    use crate::store::testing::Folder;

    fn sealer() -> Arc<Sealer> {
        let key = EncryptionKey { version: 1, key: zeroize::Zeroizing::new([7; 32]) };
        Arc::new(Sealer::new(&[key]).expect("one key"))
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_read_does_not_say_nothing() {
        let home = Folder::new();
        let database = home.join("metamcp.sqlite");
        let store = Store::open_sqlite(&database).await.expect("it opens");
        let source = Source::new(store, sealer(), None);
        assert_eq!(source.first(false).await, Some(Stored::default()));
        assert_eq!(source.first(true).await, None, "it is not asked");
        let shell = rusqlite::Connection::open(&database).expect("it is there");
        shell.execute_batch("ALTER TABLE mcp_servers RENAME TO away").expect("the table is there");
        assert_eq!(source.first(false).await, None);
    }
}
