//! Servers and endpoints of the store: read, and, of a database that is elsewhere, kept sealed on disk for a start
//! while it is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::join::Stored;
use crate::auth::{Sealer, Snapshot};
use crate::store::{Store, StoreError};

/// Where they come from.
pub struct Source {
    store: Store,
    sealer: Arc<Sealer>,
    /// `None`: the store is a file of this machine, and never away.
    snapshot: Option<Arc<Snapshot>>,
    /// What is in the snapshot, if it was written by this process.
    kept: Option<Stored>,
}

/// A start waits so long for a database before it goes by what was kept: nobody is served meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(5);

impl Source {
    /// `kept`: where to keep what was read.
    pub fn new(store: Store, sealer: Arc<Sealer>, kept: Option<PathBuf>) -> Self {
        let snapshot = kept.map(|path| Arc::new(Snapshot::of_fleet(path)));
        Self { store, sealer, snapshot, kept: None }
    }

    /// At a start: as the store says, or else as an earlier run kept it, or else nothing. `is_away`: it is not asked.
    pub async fn first(&self, is_away: bool) -> Stored {
        if !is_away {
            match timeout(START_TIMEOUT, self.read()).await {
                Ok(Ok(stored)) => return stored,
                Ok(Err(error)) => {
                    tracing::error!(%error, "servers and endpoints of the store could not be read");
                }
                Err(_elapsed) => tracing::error!("servers and endpoints of the store were not read in time"),
            }
        }
        let (Some(snapshot), sealer) = (self.snapshot.clone(), Arc::clone(&self.sealer)) else {
            return Stored::default();
        };
        match spawn_blocking(move || snapshot.read(&sealer)).await {
            Ok(Ok(Some(stored))) => {
                tracing::warn!("started with the servers and endpoints of an earlier run");
                stored
            }
            Ok(Ok(None)) => {
                tracing::warn!("no servers and endpoints of the store are known until it answers");
                Stored::default()
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "started without the servers and endpoints of the store");
                Stored::default()
            }
            // The runtime is stopping.
            Err(_) => Stored::default(),
        }
    }

    /// As the store says now. Cancel safe.
    pub async fn read(&self) -> Result<Stored, StoreError> {
        // In this order: a server that an endpoint names is there, unless it was deleted in between.
        let endpoints = self.store.endpoints().await?.rows;
        let servers = self.store.servers().await?.rows;
        Ok(Stored { servers, endpoints })
    }

    /// Keeps what is served, for a start without the store. Waits for the disk. Cancel safe.
    pub async fn keep(&mut self, stored: &Stored) {
        let Some(snapshot) = self.snapshot.clone().filter(|_| self.kept.as_ref() != Some(stored)) else {
            return;
        };
        let (sealer, now) = (Arc::clone(&self.sealer), stored.clone());
        match spawn_blocking(move || snapshot.write(&sealer, &now).map(|()| now)).await {
            Ok(Ok(now)) => self.kept = Some(now),
            Ok(Err(error)) => {
                tracing::warn!(%error, "servers and endpoints of the store are not kept for a start without it");
            }
            // The runtime is stopping.
            Err(_) => {}
        }
    }
}
