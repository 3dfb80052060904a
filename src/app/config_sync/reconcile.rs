//! Keeps the served topology in step with the configuration files and the store: after SIGHUP or a change of a file, after a change
//! through this gateway's administration, and after a change by another writer of the store.

use std::io::{IsTerminal as _, stdin};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::sleep;

use super::config_files::ConfigFiles;
use super::live_config::LiveConfig;
use super::merge::{FileConfig, MergedConfig, RowContext, StoredConfig, merge};
use super::publish::Publisher;
use super::reload::{ConfigLoader, NOT_RELOADED, reload};
use super::stored_config::StoredConfigSource;
use crate::admin::StoreStatus;
use crate::app::background::tls_files;
use crate::app::handover::ServiceManager;
use crate::server::SharedState;
use crate::telemetry::events::{Event, EventKind};
use crate::topology::Topology;
use arc_swap::ArcSwap;
use metamcp_config::Config;
use metamcp_config::server::ServingPolicy;
use metamcp_core::base::ShutdownPhase;
use metamcp_store::auth::Sealer;
use metamcp_store::store::WatchState;

/// The configuration that is served, and the two parts it was merged from.
pub struct ServingState {
    files: FileConfig,
    /// The paths that `files` was read from.
    sources: Vec<PathBuf>,
    /// `None` until the store was read once.
    stored: Option<StoredConfig>,
    sealer: Arc<Sealer>,
    serving: Arc<ArcSwap<ServingPolicy>>,
    merged: MergedConfig,
    store_status: watch::Sender<Arc<StoreStatus>>,
}

/// What triggers a change, and what it takes to read the new configuration.
pub struct ReloadTriggers {
    pub hangups: Signal,
    pub load_config: ConfigLoader,
    /// The configuration that the gateway was started with.
    pub running: Config,
    pub source: StoredConfigSource,
    /// The epochs of the store.
    pub seen: watch::Receiver<WatchState>,
    /// Counts the changes through this gateway's administration: see `Admin::topology_changes`.
    pub changes: watch::Receiver<u64>,
    /// What takes over the other settings of a configuration.
    pub live: LiveConfig,
    /// What is told of a reload.
    pub manager: ServiceManager,
}

/// Between two attempts to read a changed store.
const RETRY: Duration = Duration::from_secs(1);

impl ServingState {
    /// Merges the configuration that the gateway starts with.
    pub fn new(
        config: &Config,
        stored: Option<StoredConfig>,
        sealer: Arc<Sealer>,
        serving: Arc<ArcSwap<ServingPolicy>>,
    ) -> Self {
        let files = FileConfig::from(config);
        let merged = merge(&files, stored.as_ref(), RowContext { sealer: &sealer, serving: &serving.load() });
        let sources = config.sources.clone();
        Self { files, sources, stored, sealer, serving, merged, store_status: watch::Sender::default() }
    }

    pub fn merged(&self) -> &MergedConfig {
        &self.merged
    }

    /// Returns what is served of every row of the store, as it changes.
    pub fn store_status(&self) -> watch::Receiver<Arc<StoreStatus>> {
        self.store_status.subscribe()
    }

    /// Publishes the status of every row in this topology.
    pub fn publish_standing(&self, topology: &Topology, changes: u64) {
        let store_status = self.merged.store_status(topology, changes);
        if store_status.rejected != self.store_status.borrow().rejected {
            for text in &store_status.rejected {
                tracing::warn!("{text}");
            }
        }
        self.store_status.send_replace(Arc::new(store_status));
    }

    /// Merges again; returns whether the result differs.
    fn merge_again(&mut self) -> bool {
        let serving = self.serving.load();
        let context = RowContext { sealer: &self.sealer, serving: &serving };
        let merged = merge(&self.files, self.stored.as_ref(), context);
        let has_changed = merged != self.merged;
        self.merged = merged;
        has_changed
    }

    /// Loads the configuration again and serves it; `None` if it has a mistake, which changes nothing. `changes` is the
    /// version of the administration that is served.
    async fn reload(
        &mut self,
        triggers: &ReloadTriggers,
        publisher: &mut Publisher,
        changes: u64,
    ) -> Option<Config> {
        let events = Arc::clone(&publisher.shared().events);
        triggers.manager.reloading();
        let loaded = self.load(triggers, publisher.shared()).await;
        if let Some(config) = &loaded {
            triggers.live.apply(publisher.shared(), config, &triggers.running);
            self.files = FileConfig::from(config);
            self.sources.clone_from(&config.sources);
            self.merge_again();
            let topology = self.publish(publisher).await;
            self.publish_standing(&topology, changes);
            tracing::info!(epoch = topology.epoch, "configuration reloaded");
            events.add(Event::now(EventKind::ConfigurationReloaded));
        } else {
            events.add(Event::now(EventKind::ConfigurationRefused));
        }
        triggers.manager.ready();
        loaded
    }

    /// Loads everything that can fail, and takes over what of it is TLS.
    async fn load(&self, triggers: &ReloadTriggers, shared: &Arc<SharedState>) -> Option<Config> {
        let config = reload(&triggers.load_config, &triggers.running, &self.sources)?;
        if tls_files::reload(shared, config.server.tls.as_ref()).await {
            return Some(config);
        }
        tracing::error!("{NOT_RELOADED}");
        None
    }

    async fn publish(&self, publisher: &mut Publisher) -> Arc<Topology> {
        publisher.publish(self.merged.servers.clone(), self.merged.endpoints.clone()).await
    }
}

/// Follows all triggers. While the store is unreachable, the last configuration stays served.
///
/// Ends when the terminal that the gateway was started from is closed, which also arrives as SIGHUP.
pub async fn follow_changes(mut triggers: ReloadTriggers, mut state: ServingState, mut publisher: Publisher) {
    let had_terminal = stdin().is_terminal();
    let mut files = ConfigFiles::new(&triggers.running);
    // The counters at the last read of the store. `None` at startup, so that the store is read again.
    let (mut changes, mut epochs) = (0, None);
    let (mut is_behind, mut logged_error) = (state.stored.is_none(), None);
    loop {
        tokio::select! {
            hangup = triggers.hangups.recv() => {
                if hangup.is_none() || (had_terminal && !stdin().is_terminal()) {
                    return;
                }
                if let Some(config) = state.reload(&triggers, &mut publisher, changes).await {
                    files.follow(&config);
                }
                continue;
            }
            // After a hand-over, the successor follows them.
            () = files.changed(), if *publisher.shared().phase.borrow() == ShutdownPhase::Serve => {
                tracing::info!("a configuration file has changed");
                if let Some(config) = state.reload(&triggers, &mut publisher, changes).await {
                    files.follow(&config);
                }
                continue;
            }
            Ok(()) = triggers.changes.changed() => {}
            Ok(()) = triggers.seen.changed() => {}
            () = sleep(RETRY), if is_behind => {}
        }
        // Taken before the read: a change during the read causes another one.
        let now = *triggers.changes.borrow_and_update();
        let WatchState { epochs: seen, away, .. } = triggers.seen.borrow_and_update().clone();
        let seen = Some((seen.servers, seen.endpoints));
        is_behind = now != changes || (away.is_none() && seen != epochs);
        if !is_behind {
            continue;
        }
        match triggers.source.read().await {
            Ok(stored) => {
                let stored = stored.with_known(state.stored.as_ref(), &state.sealer);
                // Does not wait for the disk: the next change may be there already.
                triggers.source.save_snapshot(&stored);
                (state.stored, changes, epochs) = (Some(stored), now, seen);
                (is_behind, logged_error) = (false, None);
                let topology = if state.merge_again() {
                    state.publish(&mut publisher).await
                } else {
                    publisher.current()
                };
                state.publish_standing(&topology, changes);
            }
            // Retried each second, and logged once.
            Err(error) => {
                let text = error.to_string();
                if logged_error.as_ref() != Some(&text) {
                    tracing::warn!(
                        error = text,
                        "cannot read servers and endpoints from the store; the last configuration stays served"
                    );
                    logged_error = Some(text);
                }
            }
        }
    }
}
