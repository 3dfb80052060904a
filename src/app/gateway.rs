//! The running gateway: started from a configuration, stopped by a signal or by its client.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use metamcp_core::base::{ShutdownPhase, set_gateway_id};
use metamcp_core::protocol::Era;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::background::open_journal;
use super::background::quotas::QuotaSync;
use super::background::telemetry::TelemetryDelivery;
use super::background::usage::UsageDelivery;
use super::background::{retention, tls_files, tool_pins, usage};
use super::common_parts::CommonParts;
use super::config_sync::{
    ConfigLoader, LiveConfig, Publisher, ReloadTriggers, ServingState, StoredConfigSource, follow_changes,
};
use super::drain::Drain;
use super::error::AppError;
use super::handover::{HandoverSwitch, ServiceManager};
use super::keyring::{
    create_key_at_first_start, end_grace_periods, find_keys, is_first_start, open_keyring, watch_keys,
};
use super::shutdown_signals::{ShutdownSignals, install_handover, install_hangup};
use super::startup_info::{StartupInfo, StartupKeys};
use crate::admin::{AdminJobRunner, AdminJobs};
use crate::bridge::{LegacyAdapter, ModernAdapter};
use crate::catalog::{CatalogInbox, CatalogTask};
use crate::journal;
use crate::journal::usage::UsageSpool;
use crate::server::{self, ListenTarget, ListeningSockets, SharedState, Workers};
use crate::telemetry::events::EventLog;
use crate::topology::{Topology, TopologyBuilder};
use crate::upstream::stdio::{BehaviorStore, StdioHealth};
use crate::upstream::{Surroundings, Upstream};
use metamcp_config::Config;
use metamcp_config::sections::RetentionPolicy;
use metamcp_http::TlsRoots;
use metamcp_store::auth::Authenticator;
use metamcp_store::store::{Store, WatchState};

/// The file in the data directory that holds the servers and endpoints last read from a database server.
const STORED_CONFIG: &str = "fleet.sealed";

/// The file in the data directory that holds what programs were seen to do.
const PROGRAM_BEHAVIOR: &str = "program-behavior.json";

pub struct App {
    /// What to tell the person who started it.
    pub info: StartupInfo,
    workers: Workers,
    phase: watch::Sender<ShutdownPhase>,
    /// Ends when the terminal is closed.
    config_sync: JoinHandle<()>,
    catalog: JoinHandle<()>,
    deliveries: Deliveries,
    /// What the workers share: the drain settings and the topology among it.
    shared: Arc<SharedState>,
    signals: ShutdownSignals,
    handover: HandoverSwitch,
}

/// What goes on after the workers have ended.
struct Deliveries {
    /// Changed when the workers have ended and nothing more is counted or traced.
    workers_ended: watch::Sender<ShutdownPhase>,
    usage: JoinHandle<()>,
    /// The folder of the usage journal, if there is one.
    usage_folder: Option<PathBuf>,
    telemetry: TelemetryDelivery,
}

impl Deliveries {
    fn start(
        workers_ended: watch::Sender<ShutdownPhase>,
        (delivery, usage_folder): (UsageDelivery, Option<PathBuf>),
        telemetry: TelemetryDelivery,
    ) -> Self {
        let usage = spawn_local(usage::deliver(delivery, workers_ended.subscribe()));
        Self { workers_ended, usage, usage_folder, telemetry }
    }

    /// Lets a gateway start beside this one, which has handed over, until the process ends: the successor may end before.
    fn note_handed_over(&self) {
        let Some(folder) = &self.usage_folder else { return };
        match journal::mark_handed_over(folder) {
            // Never closed: without the mark, the folder would be in use until the process has ended.
            Ok(mark) => std::mem::forget(mark),
            Err(error) => {
                tracing::warn!(%error, "cannot mark the usage journal; if the successor ends, it cannot be restarted before this process has ended");
            }
        }
    }
}

/// What a gateway starts from.
pub struct Launch {
    pub config: Config,
    pub door: ListenTarget,
    /// Called at SIGHUP and when a watched file changes.
    pub load_config: ConfigLoader,
    /// The sockets that were passed to this process.
    pub sockets: Option<ListeningSockets>,
    /// Whether another gateway serves from the same data directory until this one accepts connections.
    pub is_successor: bool,
    /// What is told of changes.
    pub manager: ServiceManager,
}

impl Launch {
    /// A gateway at a private socket, which no service manager has started.
    pub fn private(config: Config, socket: PathBuf, load_config: ConfigLoader) -> Self {
        let (door, manager) = (ListenTarget::Private(socket), ServiceManager::none());
        Self { config, door, load_config, sockets: None, is_successor: false, manager }
    }
}

impl App {
    /// Builds every part and begins to serve. Runs in a `LocalSet`, on which it spawns its background tasks.
    pub async fn start(launch: Launch) -> Result<Self, AppError> {
        let Launch { config, door, load_config, sockets, is_successor, manager } = launch;
        let (hangups, mut signals) = (install_hangup()?, ShutdownSignals::install()?);
        let handover = HandoverSwitch::new(install_handover()?, manager.clone());
        let is_first_start = is_first_start(&config);
        let auth = signals.unless_stopped(Box::pin(open_keyring(&config))).await??;
        set_gateway_id(gateway_id_of(&auth, &door));
        let (store, roots) = (auth.store().clone(), TlsRoots::system());
        let live = LiveConfig::new(&config, &door);
        let events = Arc::<EventLog>::default();
        let mut builder = topology_builder(&config, &live, &auth, &events, roots.clone());
        let (source, state) = read_stored_config(&config, &auth, &live).await;
        let topology = builder.build_next(state.merged().servers.clone(), state.merged().endpoints.clone());
        state.publish_standing(&topology, 0);
        let (parts, senders, catalog_inbox) = CommonParts::new(&config, &auth, &topology, &events);
        let (counters, spool, usage_folder) = open_journal(&config, &door, is_successor).await?;
        let (admin_jobs, runner) = AdminJobs::new();
        let admin = parts.control_plane((&config, &live), &state, admin_jobs, &roots);
        let changes = admin.topology_changes();
        let shared = parts.into_shared_state((&config, &door, &live), counters, admin)?;
        let workers_ended = watch::Sender::new(ShutdownPhase::Serve);
        let delivery = prepare_delivery((&config, &door), spool, &shared, &workers_ended).await;
        let telemetry = TelemetryDelivery::start(&config, &shared, &roots, &workers_ended)?;
        let keys = keys_of_successor(is_successor, (&config, &store, &auth)).await?;
        let workers = server::start(&shared, &door, sockets)?;
        let keys = create_key_at_first_start(keys, &config, &store, &auth).await?;
        let catalog = spawn_jobs((runner, catalog_inbox), &store, live.retention.subscribe(), &shared);
        let info = StartupInfo::new(&config, workers.url.clone(), keys, is_first_start, state.merged());
        topology.table.find_by_path("/mcp").iter().for_each(|endpoint| shared.catalog.prefetch(endpoint));
        let publisher = Publisher::new(builder, senders.topology, Arc::clone(&shared));
        let (running, seen) = (config, store.watch());
        spawn_store_sync(&shared, seen.clone(), senders.keys);
        let triggers = ReloadTriggers { hangups, load_config, running, source, seen, changes, live, manager };
        let config_sync = spawn_local(follow_changes(triggers, state, publisher));
        let deliveries = Deliveries::start(workers_ended, (delivery, usage_folder), telemetry);
        Ok(Self {
            info,
            workers,
            phase: senders.phase,
            config_sync,
            catalog,
            deliveries,
            shared,
            signals,
            handover,
        })
    }

    /// Serves until SIGTERM or SIGINT, until the terminal is closed, until `client` is done, or until a successor accepts
    /// connections; then drains within the deadline. A second signal stops at once. `client` is dropped when serving ends.
    pub async fn run(mut self, client: impl Future<Output = ()>) -> Result<(), AppError> {
        let sockets = self.workers.sockets.take();
        let end = tokio::select! {
            () = self.signals.received() => ServingEnd::Stopped,
            Ok(()) = &mut self.config_sync => ServingEnd::Stopped,
            () = client => ServingEnd::Stopped,
            // The others finish what they have; a supervisor starts the gateway again.
            () = self.workers.failed() => ServingEnd::Failed,
            () = self.handover.hand_over(sockets.as_ref()) => ServingEnd::HandedOver,
        };
        // Only the workers have them from now on, and a successor.
        drop(sockets);
        let mut signals = self.signals;
        let drain = Drain { phase: &self.phase, shared: &self.shared };
        let mut joined = pin!(self.workers.join());
        let mut has_ended = false;
        if end == ServingEnd::HandedOver {
            self.deliveries.note_handed_over();
            has_ended = drain.after_handover(joined.as_mut(), &mut signals).await;
        } else {
            self.handover.note_stopping();
        }
        let shutdown = async {
            if !has_ended {
                drain.at_shutdown(joined).await;
            }
            self.deliveries.workers_ended.send_replace(ShutdownPhase::Abort);
            // Servers that are stopped do not fail.
            self.catalog.abort();
            stop_upstreams(&self.shared.topology).await;
            // Bounded by itself; fails only by a panic, which is reported.
            let _ = self.deliveries.usage.await;
            self.deliveries.telemetry.stop().await;
        };
        tokio::select! {
            () = shutdown => tracing::info!("stopped"),
            () = signals.received() => tracing::warn!("second signal; stopped at once"),
        }
        if end == ServingEnd::Failed { Err(AppError::WorkerEnded) } else { Ok(()) }
    }
}

/// Why the gateway no longer serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServingEnd {
    Stopped,
    /// A worker has ended.
    Failed,
    /// A successor accepts connections.
    HandedOver,
}

/// Which keys a successor finds; `None` for any other gateway. A successor finds them before it accepts connections, and
/// creates none: after that nothing may fail or wait, because its predecessor would end it together with its connections.
async fn keys_of_successor(
    is_successor: bool,
    (config, store, auth): (&Config, &Store, &Authenticator),
) -> Result<Option<StartupKeys>, AppError> {
    if !is_successor {
        return Ok(None);
    }
    Ok(Some(find_keys(config, store, auth).await?.unwrap_or(StartupKeys::NoneActive)))
}

/// Keeps tool pins and keys in step with the store. `changes` is shared by all who follow the store: each watch of it reads
/// the database once a second.
fn spawn_store_sync(
    shared: &SharedState,
    changes: watch::Receiver<WatchState>,
    keys_changed: watch::Sender<u64>,
) {
    let (auth, catalog) = (Arc::clone(&shared.auth), Arc::clone(&shared.catalog));
    let pin_sync = tool_pins::PinSync { store: auth.store().clone(), sealer: auth.sealer().clone(), catalog };
    spawn_local(tool_pins::sync(pin_sync, changes.clone()));
    let events = Arc::clone(&shared.events);
    spawn_local(watch_keys(auth, changes, keys_changed, events));
}

/// The same for all gateways that share secrets and serve the network, so that a replica or a successor recognizes the
/// answers of the others. A gateway for one client may have one of them as a server, and has an id of its own.
fn gateway_id_of(auth: &Authenticator, door: &ListenTarget) -> String {
    let kind = if *door == ListenTarget::Public { "network" } else { "private" };
    let [_version, id @ ..] = auth.sealer().mac(format!("metamcp/v1/gateway-id {kind}").as_bytes());
    format!("{:032x}", u128::from_be_bytes(id))
}

fn topology_builder(
    config: &Config,
    live: &LiveConfig,
    auth: &Authenticator,
    events: &Arc<EventLog>,
    roots: TlsRoots,
) -> TopologyBuilder {
    let bridge = || Arc::clone(&live.bridge);
    let behavior = BehaviorStore::open(config.data_dir.join(PROGRAM_BEHAVIOR));
    TopologyBuilder::new(roots)
        .within(Surroundings { behavior, events: Some(Arc::clone(events)) })
        .with_adapter(Era::Legacy, Arc::new(LegacyAdapter::new(bridge())))
        .with_adapter(Era::Modern, ModernAdapter::new(bridge(), Arc::clone(auth.sealer())))
}

/// Reads the servers and endpoints of the store, and merges them with those of the configuration files.
async fn read_stored_config(
    config: &Config,
    auth: &Authenticator,
    live: &LiveConfig,
) -> (StoredConfigSource, ServingState) {
    let snapshot = config.database.is_some().then(|| config.data_dir.join(STORED_CONFIG));
    let source = StoredConfigSource::new(auth.store().clone(), Arc::clone(auth.sealer()), snapshot);
    let stored = source.read_at_start(auth.health().outage.is_some()).await;
    (source, ServingState::new(config, stored, Arc::clone(auth.sealer()), Arc::clone(&live.serving)))
}

/// Runs what the control plane asks for, the fetching of lists, and the upkeep of the store and of certificates, until the
/// program ends. Returns the task that fetches lists.
fn spawn_jobs(
    (runner, inbox): (AdminJobRunner, CatalogInbox),
    store: &Store,
    retention: watch::Receiver<RetentionPolicy>,
    shared: &Arc<SharedState>,
) -> JoinHandle<()> {
    spawn_local(tls_files::follow(Arc::clone(shared)));
    spawn_local(end_grace_periods(store.clone()));
    spawn_local(retention::enforce(store.clone(), retention));
    spawn_local(runner.run());
    spawn_local(CatalogTask::new(inbox, Arc::clone(&shared.events)).run())
}

/// Reads what keys with a quota have used, before any of them calls. Also delivers what other processes left in the data
/// directory of a public gateway, until the workers have ended.
async fn prepare_delivery(
    (config, door): (&Config, &ListenTarget),
    outbox: Option<UsageSpool>,
    shared: &SharedState,
    workers_ended: &watch::Sender<ShutdownPhase>,
) -> UsageDelivery {
    let snapshots = config.database.is_some().then_some(&*config.data_dir);
    let quotas = QuotaSync::new(Arc::clone(&shared.auth), Arc::clone(&shared.limits), snapshots);
    let store = shared.auth.store().clone();
    let mut delivery = UsageDelivery::new(outbox, store.clone());
    delivery.prepare(quotas).await;
    if *door == ListenTarget::Public {
        let data_dir = config.data_dir.clone();
        spawn_local(usage::deliver_leftovers(data_dir, store, workers_ended.subscribe()));
    }
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
