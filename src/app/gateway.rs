//! The running gateway: started from a configuration, stopped by a signal or by its client.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metamcp_core::base::{MEMORY, ShutdownPhase};
use metamcp_core::protocol::Era;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::background::quotas::QuotaSync;
use super::background::telemetry::{self, TelemetryDelivery};
use super::background::tool_pins::PinSync;
use super::background::usage::UsageDelivery;
use super::background::{retention, tool_pins, trace_export, usage};
use super::config_sync::{
    ConfigLoader, Publisher, ReloadTriggers, ServingState, StoredConfigSource, follow_changes,
};
use super::control_plane::AdminControlPlane;
use super::error::AppError;
use super::file_limit;
use super::keyring::{
    create_key_at_first_start, end_grace_periods, is_first_start, open_keyring, watch_keys,
};
use super::shutdown_signals::{ShutdownSignals, install_hangup};
use super::startup_info::StartupInfo;
use crate::admin::{self, AdminJobRunner, AdminJobs, ControlPlane};
use crate::bridge::{LegacyAdapter, ModernAdapter};
use crate::catalog::{Catalog, CatalogInbox, CatalogTask};
use crate::journal::usage::UsageSpool;
use crate::limits::Limits;
use crate::server::{self, ListenTarget, SharedState, Workers};
use crate::session::{ResumableStreams, SessionTable};
use crate::topology::{Topology, TopologyBuilder};
use crate::upstream::Upstream;
use crate::upstream::stdio::{BehaviorStore, StdioHealth};
use metamcp_config::Config;
use metamcp_config::sections::{LimitsConfig, RetentionPolicy};
use metamcp_config::server::ServingPolicy;
use metamcp_http::TlsRoots;
use metamcp_store::auth::{Authenticator, Sealer};
use metamcp_store::store::Store;

/// The file in the data directory that holds the servers and endpoints last read from a database server.
const STORED_CONFIG: &str = "fleet.sealed";

/// The file in the data directory that holds the events of resumable streams.
const STREAMS: &str = "streams";

/// The file in the data directory that holds what programs were seen to do.
const PROGRAM_BEHAVIOR: &str = "program-behavior.json";

/// For the workers to end after the requests in flight were aborted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

pub struct App {
    /// What to tell the person who started it.
    pub info: StartupInfo,
    workers: Workers,
    phase: watch::Sender<ShutdownPhase>,
    /// Ends when the terminal is closed.
    config_sync: JoinHandle<()>,
    /// Changed when the workers have ended and nothing more is counted or traced.
    workers_ended: watch::Sender<ShutdownPhase>,
    usage: JoinHandle<()>,
    telemetry: TelemetryDelivery,
    /// What the workers share: the drain settings and the topology among it.
    shared: Arc<SharedState>,
    signals: ShutdownSignals,
}

impl App {
    /// Builds every part and begins to serve. Runs in a `LocalSet`, on which it spawns its background tasks.
    /// `load_config` is called at SIGHUP.
    pub async fn start(
        config: Config,
        door: ListenTarget,
        load_config: ConfigLoader,
    ) -> Result<Self, AppError> {
        let (hangups, mut signals) = (install_hangup()?, ShutdownSignals::install()?);
        let is_first_start = is_first_start(&config);
        let authenticator = signals.unless_stopped(Box::pin(open_keyring(&config))).await??;
        let (store, roots) = (authenticator.store().clone(), TlsRoots::system());
        let mut builder = topology_builder(&config, &authenticator, roots.clone());
        let serving = Arc::new(config.serving_policy.clone());
        let (source, state) = read_stored_config(&config, &authenticator, &store, &serving).await;
        let topology = builder.build_next(state.merged().servers.clone(), state.merged().endpoints.clone());
        state.publish_standing(&topology, 0);
        let (catalog, catalog_inbox) = Catalog::new(config.catalog.clone(), &topology);
        let sessions =
            Arc::new(SessionTable::new(config.session.clone(), Arc::clone(authenticator.sealer())));
        let (phase, phases) = watch::channel(ShutdownPhase::Serve);
        let (counters, outbox) = usage::open_journal(&config.data_dir, config.server.workers, &door)?.unzip();
        let (topology_sender, topology_receiver) = watch::channel(Arc::clone(&topology));
        let (keys_changed, workers_ended) = (watch::Sender::new(0), watch::Sender::new(ShutdownPhase::Serve));
        let (limits, (metrics, records)) = (apply_limits(&config.limits), telemetry::new_registries(&config));
        let (admin_jobs, runner) = AdminJobs::new();
        let admin = ControlPlane::new(admin::ControlPlaneParts {
            auth: Arc::clone(&authenticator),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            catalog_config: config.catalog.clone(),
            limits: Arc::clone(&limits),
            topology: topology_receiver.clone(),
            store_status: state.store_status(),
            sessions: Arc::clone(&sessions),
            admin_jobs,
            roots: roots.clone(),
            serving,
            metrics: trace_export::scraped_metrics(&config, metrics.as_ref()),
            phase: phases.clone(),
            keys: keys_changed.subscribe(),
        });
        let changes = admin.topology_changes();
        let shared = Arc::new(SharedState {
            guard: server::OriginGuard::new(&config.server),
            config: file_limit::fit_to_limit(&config, &door),
            auth: Arc::clone(&authenticator),
            topology: topology_receiver,
            followed: watch::Sender::new(vec![0; config.server.workers.max(1)]),
            catalog: Arc::clone(&catalog),
            sessions,
            streams: open_streams(&config, &door, authenticator.sealer()),
            limits: Arc::clone(&limits),
            usage: counters,
            metrics,
            records,
            control_plane: Arc::new(AdminControlPlane(admin)),
            phase: phases,
            keys: keys_changed.subscribe(),
        });
        let delivery = prepare_delivery(&config, outbox, &authenticator, limits).await;
        let telemetry = TelemetryDelivery::start(&shared, &roots, &workers_ended)?;
        let workers = server::start(&shared, &door)?;
        // After everything that can fail: a key that is created and never shown is lost.
        let keys = create_key_at_first_start(&config, &store, &authenticator).await?;
        spawn_jobs(runner, catalog_inbox);
        let info = StartupInfo::new(&config, workers.url.clone(), keys, is_first_start, state.merged());
        topology.table.find_by_path("/mcp").iter().for_each(|endpoint| catalog.prefetch(endpoint));
        let publisher = Publisher::new(builder, topology_sender, Arc::clone(&shared));
        let (sealer, seen) = (authenticator.sealer().clone(), store.watch());
        spawn_local(tool_pins::sync(PinSync { store: store.clone(), sealer, catalog }, seen.clone()));
        spawn_local(watch_keys(authenticator, seen.clone(), keys_changed));
        spawn_cleanup(&store, config.retention.clone());
        let triggers = ReloadTriggers { hangups, load_config, running: config, source, seen, changes };
        let config_sync = spawn_local(follow_changes(triggers, state, publisher));
        let usage = spawn_local(usage::deliver(delivery, workers_ended.subscribe()));
        Ok(Self { info, workers, phase, config_sync, workers_ended, usage, telemetry, shared, signals })
    }

    /// Serves until SIGTERM or SIGINT, until the terminal is closed, or until `client` is done; then drains
    /// within the deadline. A second signal stops at once. `client` is dropped when serving ends.
    pub async fn run(self, client: impl Future<Output = ()>) -> Result<(), AppError> {
        let mut signals = self.signals;
        let has_failed = tokio::select! {
            () = signals.received() => false,
            Ok(()) = self.config_sync => false,
            () = client => false,
            // The others finish what they have; a supervisor starts the gateway again.
            () = self.workers.failed() => true,
        };
        tracing::info!("shutting down: accepting no new connections, draining requests in flight");
        let shutdown = async {
            self.phase.send_replace(ShutdownPhase::Unready);
            sleep(self.shared.config.drain_delay).await;
            self.phase.send_replace(ShutdownPhase::Drain);
            let joined = self.workers.join();
            tokio::pin!(joined);
            if timeout(self.shared.config.drain_deadline, &mut joined).await.is_err() {
                tracing::warn!("drain deadline exceeded; aborting the requests in flight");
                self.phase.send_replace(ShutdownPhase::Abort);
                if timeout(ABORT_TIMEOUT, joined).await.is_err() {
                    tracing::warn!("a worker did not end in time; leaving it behind");
                }
            }
            self.workers_ended.send_replace(ShutdownPhase::Abort);
            stop_upstreams(&self.shared.topology).await;
            // Bounded by itself; fails only by a panic, which is reported.
            let _ = self.usage.await;
            self.telemetry.stop().await;
        };
        tokio::select! {
            () = shutdown => tracing::info!("stopped"),
            () = signals.received() => tracing::warn!("second signal; stopped at once"),
        }
        if has_failed { Err(AppError::WorkerEnded) } else { Ok(()) }
    }
}

/// The limits of keys. Sets that of the process.
fn apply_limits(config: &LimitsConfig) -> Arc<Limits> {
    MEMORY.set_bytes_max(config.memory_max);
    Arc::new(Limits::new(config.clone()))
}

fn topology_builder(config: &Config, auth: &Authenticator, roots: TlsRoots) -> TopologyBuilder {
    TopologyBuilder::new(roots)
        .with_behavior(BehaviorStore::open(config.data_dir.join(PROGRAM_BEHAVIOR)))
        .with_adapter(Era::Legacy, Arc::new(LegacyAdapter::new(config.bridge.hold_timeout)))
        .with_adapter(Era::Modern, ModernAdapter::new(&config.bridge, Arc::clone(auth.sealer())))
}

/// Reads the servers and endpoints of the store, and merges them with those of the configuration files.
async fn read_stored_config(
    config: &Config,
    auth: &Authenticator,
    store: &Store,
    serving: &Arc<ServingPolicy>,
) -> (StoredConfigSource, ServingState) {
    let snapshot = config.database.is_some().then(|| config.data_dir.join(STORED_CONFIG));
    let source = StoredConfigSource::new(store.clone(), Arc::clone(auth.sealer()), snapshot);
    let stored = source.read_at_start(auth.health().outage.is_some()).await;
    (source, ServingState::new(config, stored, Arc::clone(auth.sealer()), Arc::clone(serving)))
}

/// Opens the storage of resumable streams. Without it the gateway serves, and streams that break cannot be
/// resumed. The one client on a private socket needs none: its connection does not break.
fn open_streams(config: &Config, door: &ListenTarget, sealer: &Arc<Sealer>) -> Option<Arc<ResumableStreams>> {
    let bounds = config.session.streams.clone().filter(|_| *door == ListenTarget::Public)?;
    match ResumableStreams::open(&config.data_dir.join(STREAMS), bounds, Arc::clone(sealer)) {
        Ok(streams) => Some(streams),
        Err(error) => {
            tracing::error!(%error, "resumable streams disabled: free disk space and restart");
            None
        }
    }
}

fn spawn_cleanup(store: &Store, retention: RetentionPolicy) {
    spawn_local(end_grace_periods(store.clone()));
    spawn_local(retention::enforce(store.clone(), retention));
}

/// Runs what the control plane asks for, and the fetching of lists, until the program ends.
fn spawn_jobs(runner: AdminJobRunner, inbox: CatalogInbox) {
    spawn_local(runner.run());
    spawn_local(CatalogTask::new(inbox).run());
}

/// Reads what keys with a quota have used, before any of them calls.
async fn prepare_delivery(
    config: &Config,
    outbox: Option<UsageSpool>,
    auth: &Arc<Authenticator>,
    limits: Arc<Limits>,
) -> UsageDelivery {
    let snapshots = config.database.is_some().then_some(&*config.data_dir);
    let quotas = QuotaSync::new(Arc::clone(auth), limits, snapshots);
    let mut delivery = UsageDelivery::new(outbox, auth.store().clone(), quotas);
    delivery.prepare().await;
    delivery
}

/// Stops the stdio servers, all at once; each within its own timeout. After a second signal this is not
/// awaited: the processes end with the gateway in any case.
async fn stop_upstreams(topology: &watch::Receiver<Arc<Topology>>) {
    let upstreams: Vec<_> = topology.borrow().upstreams().cloned().collect();
    let stopping: Vec<_> =
        upstreams.into_iter().map(|upstream| spawn_local(stop_upstream(upstream))).collect();
    for stopped in stopping {
        // Fails only by a panic, which is reported.
        let _ = stopped.await;
    }
}

async fn stop_upstream(upstream: Arc<Upstream>) {
    if let Some(health) = upstream.process_health().await {
        let StdioHealth { started, failed, invalid_lines, undeliverable, dropped, refused_requests, .. } =
            health;
        let server = upstream.name();
        tracing::info!(%server, started, failed, invalid_lines, undeliverable, dropped, refused_requests, "stopping the server's processes");
        upstream.stop().await;
    }
}
