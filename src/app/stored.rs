//! Servers and endpoints of the store: read, and, of a database that is elsewhere, kept sealed on disk for a start
//! while it is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use super::join::Stored;
use crate::auth::{Sealer, Snapshot};
use crate::store::{Store, StoreError};

/// Where they come from.
pub struct Source {
    store: Store,
    sealer: Arc<Sealer>,
    /// `None`: the store is a file of this machine, and never away.
    snapshot: Option<Arc<Snapshot>>,
    /// What is to be in the snapshot.
    newest: watch::Sender<Option<Arc<Stored>>>,
}

/// A start waits so long for a database before it goes by what was kept: nobody is served meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries to write what is kept: a disk that is full stays so for a while.
const KEEP_RETRY: Duration = Duration::from_secs(5);

impl Source {
    /// `kept`: where to keep what was read. Runs in a `LocalSet`.
    pub fn new(store: Store, sealer: Arc<Sealer>, kept: Option<PathBuf>) -> Self {
        let snapshot = kept.map(|path| Arc::new(Snapshot::of_fleet(path)));
        let newest = watch::Sender::new(None);
        if let Some(snapshot) = &snapshot {
            spawn_local(keep(Arc::clone(snapshot), Arc::clone(&sealer), newest.subscribe()));
        }
        Self { store, sealer, snapshot, newest }
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
        let (snapshot, sealer) = (self.snapshot.clone()?, Arc::clone(&self.sealer));
        match spawn_blocking(move || snapshot.read(&sealer)).await {
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
        if self.snapshot.is_some() {
            self.newest.send_if_modified(|newest| {
                let is_other = newest.as_deref() != Some(stored);
                if is_other {
                    *newest = Some(Arc::new(stored.clone()));
                }
                is_other
            });
        }
    }
}

/// Writes what is newest, each time there is something newer, and again until that succeeds. Ends with the source.
async fn keep(
    snapshot: Arc<Snapshot>,
    sealer: Arc<Sealer>,
    mut newest: watch::Receiver<Option<Arc<Stored>>>,
) {
    let (mut is_due, mut is_told) = (false, false);
    loop {
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = sleep(KEEP_RETRY), if is_due => {}
        }
        let Some(now) = newest.borrow_and_update().clone() else { continue };
        let (snapshot, sealer) = (Arc::clone(&snapshot), Arc::clone(&sealer));
        match spawn_blocking(move || snapshot.write(&sealer, &*now)).await {
            Ok(Ok(())) => (is_due, is_told) = (false, false),
            Ok(Err(error)) => {
                // It is tried again and again, and said once.
                if !is_told {
                    tracing::warn!(%error, "servers and endpoints of the store are not kept for a start without it");
                }
                (is_due, is_told) = (true, true);
            }
            // The runtime is stopping.
            Err(_) => return,
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

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_written_later() {
        let sealer = sealer();
        let home = Folder::new();
        let data = home.join("data");
        let snapshot = Arc::new(Snapshot::of_fleet(data.join("fleet.sealed")));
        let newest = watch::Sender::new(None);
        let keeping = tokio::spawn(keep(Arc::clone(&snapshot), Arc::clone(&sealer), newest.subscribe()));
        newest.send_replace(Some(Arc::new(Stored::default())));
        // Time passes only while nothing is written, so it was tried by then.
        sleep(KEEP_RETRY / 2).await;
        assert!(
            snapshot.read::<Stored>(&sealer).is_ok_and(|kept| kept.is_none()),
            "there is no such directory"
        );
        std::fs::create_dir(&data).expect("made");
        sleep(KEEP_RETRY * 2).await;
        let kept = snapshot.read(&sealer).expect("it opens");
        assert_eq!(kept, Some(Stored::default()));
        drop(newest);
        keeping.await.expect("it ends with the source");
    }
}
