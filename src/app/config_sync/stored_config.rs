//! Reads the servers and endpoints of the store. For a database server it also keeps a sealed snapshot on
//! disk, to start from while the database is unreachable.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::merge::StoredConfig;
use crate::runtime::{BlockingError, run_blocking};
use metamcp_store::auth::{Sealer, SnapshotFile, SnapshotWriter};
use metamcp_store::store::{Store, StoreError};

/// The store as the source of servers and endpoints, with its snapshot.
pub struct StoredConfigSource {
    store: Store,
    sealer: Arc<Sealer>,
    /// `None` for the embedded database, which is always reachable.
    snapshots: Option<Arc<SnapshotWriter<StoredConfig>>>,
    /// The last configuration that was saved.
    saved: RefCell<Option<StoredConfig>>,
}

/// How long startup waits for the database before it uses the snapshot; no request is served meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(5);

impl StoredConfigSource {
    /// `snapshot` is the file to save to.
    pub fn new(store: Store, sealer: Arc<Sealer>, snapshot: Option<PathBuf>) -> Self {
        let snapshots =
            snapshot.map(|path| SnapshotWriter::new(SnapshotFile::for_topology(path), Arc::clone(&sealer)));
        Self { store, sealer, snapshots, saved: RefCell::default() }
    }

    /// Reads the configuration at startup, from the store or else from the snapshot. `None` if neither can be
    /// read, which differs from an empty store. `is_away` skips the store.
    pub async fn read_at_start(&self, is_away: bool) -> Option<StoredConfig> {
        if !is_away {
            match timeout(START_TIMEOUT, self.read()).await {
                Ok(Ok(stored)) => return Some(stored),
                Ok(Err(error)) => {
                    tracing::error!(%error, "cannot read servers and endpoints from the store");
                }
                Err(_elapsed) => tracing::error!("timed out reading servers and endpoints from the store"),
            }
        }
        let (snapshots, sealer) = (self.snapshots.clone()?, Arc::clone(&self.sealer));
        match run_blocking(move || snapshots.file().read(&sealer)).await {
            Ok(Ok(Some(stored))) => {
                tracing::warn!("using the servers and endpoints of an earlier run");
                Some(stored)
            }
            Ok(Ok(None)) => {
                tracing::warn!(
                    "no snapshot of servers and endpoints; serving none of them until the store answers"
                );
                None
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot read the snapshot of servers and endpoints; serving none of them");
                None
            }
            Err(BlockingError::Panicked) => {
                tracing::error!("reading the snapshot of servers and endpoints failed; serving none of them");
                None
            }
            Err(BlockingError::Stopped) => None,
        }
    }

    /// Reads the store. Cancel safe.
    pub async fn read(&self) -> Result<StoredConfig, StoreError> {
        // In this order, so that a server named by an endpoint is found unless it was deleted in between.
        let endpoints = self.store.endpoints().await?.rows;
        let servers = self.store.servers().await?.rows;
        Ok(StoredConfig { servers, endpoints })
    }

    /// Saves the configuration to the snapshot in the background.
    pub fn save_snapshot(&self, stored: &StoredConfig) {
        let has_changed = self.saved.borrow().as_ref() != Some(stored);
        if let Some(snapshots) = self.snapshots.as_ref().filter(|_| has_changed) {
            self.saved.replace(Some(stored.clone()));
            snapshots.enqueue(stored.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_store::auth::EncryptionKey;
    use metamcp_store::store::testing::Folder;

    fn sealer() -> Arc<Sealer> {
        let key = EncryptionKey { version: 1, key: zeroize::Zeroizing::new([7; 32]) };
        Arc::new(Sealer::new(&[key]).expect("one key"))
    }

    #[tokio::test]
    async fn an_unreadable_store_differs_from_an_empty_one() {
        let home = Folder::create();
        let database = home.join("metamcp.sqlite");
        let store = Store::open_sqlite(&database).await.expect("it opens");
        let source = StoredConfigSource::new(store, sealer(), None);
        assert_eq!(source.read_at_start(false).await, Some(StoredConfig::default()));
        assert_eq!(source.read_at_start(true).await, None, "the store is skipped");
        let shell = rusqlite::Connection::open(&database).expect("it is there");
        shell.execute_batch("ALTER TABLE mcp_servers RENAME TO away").expect("the table is there");
        assert_eq!(source.read_at_start(false).await, None);
    }
}
