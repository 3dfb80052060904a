//! Builds the parts from a `Config`, runs them, and ends them in order.

mod connect;
mod files;
mod follow;
mod folder;
mod join;
mod observing;
mod pins;
mod publish;
mod reload;
mod retention;
pub mod stdio;
mod stored;
mod usage;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::admin::definition::Serving;
use crate::admin::{self, Admin, Errands};
use crate::auth::{
    self, AuthError, Authenticator, CreateError, EncryptionKeyError, KeyRequest, KeysFrom, Sealer,
    SealerError, Secrets, SecretsError, create_first_key, parse_encryption_key, parse_jwt_secret,
};
use crate::base::{EndpointName, Phase, ServerName};
use crate::bridge::{LegacyFace, ModernFace};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::journal::JournalError;
use crate::journal::usage::Outbox;
use crate::limits::Limits;
use crate::protocol::Era;
use crate::route::{EndpointConfig, Members};
use crate::server::{
    self, ControlBody, ControlPlane, ControlRequest, ControlResponse, Door, ListenError, Shared, Workers,
};
use crate::session::{Sessions, Streams};
use crate::store::{Audit, Grants, Retention, Seen, Store, StoreError};
use crate::topology::{Topology, TopologyBuilder};
use crate::upstream::stdio::Health;
use crate::upstream::{InvalidTarget, TlsRoots, Upstream};

use follow::{Served, Triggers, follow};
use join::Joined;
use stored::Source;

pub use files::shortage;
pub use publish::Publisher;
pub use reload::Reload;

/// The embedded database's file in the data directory.
const DATABASE: &str = "metamcp.sqlite";

/// The last keyring that was read from a database server, in the data directory.
const KEYRING: &str = "keyring.sealed";

/// Likewise the last servers and endpoints.
const FLEET: &str = "fleet.sealed";

/// Where the room for streams that can be taken up again is made, in the data directory.
const STREAMS: &str = "streams";

/// Between two tries to read keys that are known to have changed.
const KEY_RETRY: Duration = Duration::from_secs(1);

/// Between two looks for rotated keys whose grace is over; they open nothing new from the second it is.
const GRACE_POLL: Duration = Duration::from_secs(10);

/// Between two tries to reach a database at the start.
const DATABASE_WAIT: Duration = Duration::from_secs(2);

/// The threads that run argon2 are nicer by this: they get a tenth of what others get of a core that all of them want.
const HASH_NICER: i32 = 10;

/// There is no more (`setpriority(2)`).
const NICE_MAX: i32 = 19;

/// For the workers to end after what was under way was cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);

/// The gateway, running.
pub struct App {
    /// Where it listens, what it serves, and the key of a first start.
    pub greeting: Greeting,
    workers: Workers,
    phase: watch::Sender<Phase>,
    /// Ends when the terminal is closed.
    reloading: JoinHandle<()>,
    /// Moved when nothing more is counted.
    ended: watch::Sender<Phase>,
    handing_on: JoinHandle<()>,
    /// Likewise; ends when the last spans were handed on.
    tracing: Option<JoinHandle<()>>,
    /// What the workers share: how they are to end, and which servers with them.
    shared: Arc<Shared>,
    stop: Stop,
}

/// What whoever started the gateway wants to know.
pub struct Greeting {
    /// `http://host:port`, `https://…`, or `unix:/path`.
    pub url: String,
    /// The key made at a first start: shown once, stored nowhere.
    pub first_key: Option<String>,
    /// Whether a credential is asked for.
    pub asks_for_key: bool,
    /// By name, without addresses.
    pub servers: Vec<ServerName>,
    /// By name, each with its servers.
    pub endpoints: Vec<(EndpointName, Vec<ServerName>)>,
    /// Whether what is served stands in for what is not there yet.
    pub is_demo: bool,
}

/// Why the gateway cannot start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The secrets of the data directory.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// `ENCRYPTION_KEY`.
    #[error("ENCRYPTION_KEY: {0}")]
    EncryptionKey(#[from] EncryptionKeyError),
    /// `JWT_SECRET`.
    #[error("jwt_secret: {0}")]
    JwtSecret(#[from] auth::WeakJwtSecret),
    /// The versions of `ENCRYPTION_KEY`.
    #[error("ENCRYPTION_KEY: {0}")]
    Sealer(#[from] SealerError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys in it.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The first key.
    #[error("the first API key could not be made: {0}")]
    FirstKey(#[from] CreateError),
    /// The data directory.
    #[error("cannot use the data directory {path}: {source}; name another by --data-dir")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The journal of what is used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It was told to stop before it served.
    #[error("told to stop before anything was served")]
    Stopped,
    /// The signals that end the gateway.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    /// Standard input and output, where they are the way to the client.
    #[error("cannot use standard input and output: {0}; start this from a program that speaks MCP over them")]
    Pipes(std::io::Error),
    /// The directory for the private socket.
    #[error(
        "cannot make a private directory for a socket: {0}; is the one for temporary files (TMPDIR) writable?"
    )]
    Private(std::io::Error),
    /// The endpoint that the one client is to be served.
    #[error("there is no endpoint `{name}`; there are: {known}")]
    NoEndpoint {
        /// Which.
        name: EndpointName,
        /// Those that there are.
        known: String,
    },
    /// Where traces go.
    #[error("telemetry.traces.endpoint: {0}")]
    Collector(InvalidTarget),
    /// The address to connect to.
    #[error("cannot connect to that URL: {0}")]
    Endpoint(InvalidTarget),
}

impl App {
    /// Builds everything and begins to serve. Runs in a `LocalSet`, on which it leaves its background tasks.
    /// `reload` is asked at SIGHUP.
    pub async fn start(config: Config, door: Door, reload: Reload) -> Result<Self, AppError> {
        let (hangups, mut stop) = signals()?;
        let authenticator = stop.unless_told(keys(&config)).await??;
        let store = authenticator.store().clone();
        let roots = system_roots();
        let mut builder = topology_builder(&config, &authenticator, roots.clone());
        let serving = Arc::new(config.serving.clone());
        let (source, served) = stored(&config, &authenticator, &store, &serving).await;
        let topology = builder.next(served.joined().servers.clone(), served.joined().endpoints.clone());
        served.note(&topology, 0);
        let (catalog, keeper) = Catalog::new(config.catalog.clone(), &topology);
        let sessions = Arc::new(Sessions::new(config.session.clone(), Arc::clone(authenticator.sealer())));
        let (phase, phases) = watch::channel(Phase::Serve);
        let (counters, outbox) = usage::open(&config.data_dir, config.server.workers, &door)?.unzip();
        let (topologies, topology_now) = watch::channel(Arc::clone(&topology));
        let (keys_changed, ended) = (watch::Sender::new(0), watch::Sender::new(Phase::Serve));
        let (limits, metrics) = (Arc::new(Limits::new(config.limits.clone())), observing::metrics(&config));
        let (errands, runner) = Errands::new();
        let admin = Admin::new(admin::Parts {
            auth: Arc::clone(&authenticator),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            catalog_config: config.catalog.clone(),
            limits: Arc::clone(&limits),
            topology: topology_now.clone(),
            standing: served.standing(),
            sessions: Arc::clone(&sessions),
            errands,
            roots: roots.clone(),
            serving,
            metrics: observing::scraped(&config, metrics.as_ref()),
            phase: phases.clone(),
            keys: keys_changed.subscribe(),
        });
        let changes = admin.topology_changes();
        let shared = Arc::new(Shared {
            guard: server::Guard::new(&config.server),
            config: files::reserve(&config, &door),
            auth: Arc::clone(&authenticator),
            topology: topology_now,
            followed: watch::Sender::new(vec![0; config.server.workers.max(1)]),
            catalog: Arc::clone(&catalog),
            sessions,
            streams: streams(&config, &door, authenticator.sealer()),
            limits,
            usage: counters,
            metrics,
            control: Arc::new(Plane(admin)),
            phase: phases,
            keys: keys_changed.subscribe(),
        });
        let tracing = observing::hand_on(&shared, &roots, ended.subscribe())?;
        let workers = server::start(&shared, &door)?;
        // Only now: a key that is made and never shown is lost.
        let first_key = first_key(&config, &store, &authenticator).await?;
        spawn_local(runner.run());
        spawn_local(keeper.plant().run());
        let greeting = greeting(&config, &workers, first_key, served.joined());
        topology.table.find("/mcp").iter().for_each(|endpoint| catalog.list_early(endpoint));
        let publisher = Publisher::new(builder, topologies, Arc::clone(&shared));
        let seen = store.watch();
        let pinned = pins::Keeping { store: store.clone(), sealer: authenticator.sealer().clone(), catalog };
        spawn_local(pins::keep(pinned, seen.clone()));
        spawn_local(watch_keys(authenticator, seen.clone(), keys_changed));
        tidy_up(&store, config.retention.clone());
        let triggers = Triggers { hangups, reload, running: config, source, seen, changes };
        let reloading = spawn_local(follow(triggers, served, publisher));
        let handing_on = hand_on_usage(outbox, store, ended.subscribe());
        Ok(Self { greeting, workers, phase, reloading, ended, handing_on, tracing, shared, stop })
    }

    /// Serves until SIGTERM or SIGINT, until its terminal is closed, or until `client` has ended, which is dropped at any
    /// of these. Then lets what is under way end, within the deadline. A second signal ends at once.
    pub async fn run(self, client: impl Future<Output = ()>) -> Result<(), AppError> {
        let mut stop = self.stop;
        tokio::select! {
            () = stop.told() => {}
            Ok(()) = self.reloading => {}
            () = client => {}
        }
        tracing::info!("stopping: no new connections; what is under way may end");
        let end = async {
            self.phase.send_replace(Phase::Leave);
            sleep(self.shared.config.drain_delay).await;
            self.phase.send_replace(Phase::Drain);
            let joined = self.workers.join();
            tokio::pin!(joined);
            if timeout(self.shared.config.drain_deadline, &mut joined).await.is_err() {
                tracing::warn!("the drain deadline has passed; what is left is cut");
                self.phase.send_replace(Phase::Cut);
                if timeout(CUT_TIMEOUT, joined).await.is_err() {
                    tracing::warn!("a worker did not end; it is left behind");
                }
            }
            self.ended.send_replace(Phase::Cut);
            stop_servers(&self.shared.topology).await;
            // It has its own bounds; it fails only by a panic, which is told.
            let _ = self.handing_on.await;
            if let Some(tracing) = self.tracing {
                let _ = tracing.await;
            }
        };
        tokio::select! {
            () = end => tracing::info!("stopped"),
            () = stop.told() => tracing::warn!("stopped at once"),
        }
        Ok(())
    }
}

/// What ends the gateway. Made before there is anything to end, so that what comes while it starts is heeded then.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

/// What has the configuration read again, and what ends the gateway.
fn signals() -> Result<(Signal, Stop), AppError> {
    let of = |kind| signal(kind).map_err(AppError::Signals);
    let stop = Stop { terminate: of(SignalKind::terminate())?, interrupt: of(SignalKind::interrupt())? };
    Ok((of(SignalKind::hangup())?, stop))
}

impl Stop {
    /// What comes of that, unless it is to be given up: a database may be waited for, for as long as it takes.
    async fn unless_told<T>(&mut self, work: impl Future<Output = T>) -> Result<T, AppError> {
        tokio::select! {
            done = work => Ok(done),
            () = self.told() => Err(AppError::Stopped),
        }
    }

    /// Waits for SIGTERM or SIGINT, which may have come since it was asked last. Cancel safe.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Has what is over go from the store, now and then.
fn tidy_up(store: &Store, retention: Retention) {
    spawn_local(end_grace(store.clone()));
    spawn_local(retention::keep(store.clone(), retention));
}

/// Room for the streams that clients can take up again. Without it the gateway serves all the same; and the one client
/// that comes over a pipe of its own has no connection that breaks.
fn streams(config: &Config, door: &Door, sealer: &Arc<Sealer>) -> Option<Arc<Streams>> {
    let bounds = config.session.streams.clone().filter(|_| *door == Door::Public)?;
    match Streams::open(&config.data_dir.join(STREAMS), bounds, Arc::clone(sealer)) {
        Ok(streams) => Some(streams),
        Err(error) => {
            tracing::error!(%error, "streams that break cannot be resumed: make room and start again");
            None
        }
    }
}

/// Ends the servers that are processes, all at once; each within a bound of its own. A second signal does not wait for
/// it: they end with the gateway all the same.
async fn stop_servers(topology: &watch::Receiver<Arc<Topology>>) {
    let upstreams: Vec<_> = topology.borrow().upstreams().cloned().collect();
    let stopping: Vec<_> = upstreams.into_iter().map(|upstream| spawn_local(stop_server(upstream))).collect();
    for stopped in stopping {
        // It fails only by a panic, which is told.
        let _ = stopped.await;
    }
}

async fn stop_server(upstream: Arc<Upstream>) {
    if let Some(health) = upstream.process_health().await {
        let Health { started, failed, nonsense, unmeant, lost, refused, .. } = health;
        let server = upstream.name();
        tracing::info!(%server, started, failed, nonsense, unmeant, lost, refused, "its processes, all in all");
        upstream.stop().await;
    }
}

/// What the store says at the start, with what the files say, and where to read it again.
async fn stored(
    config: &Config,
    auth: &Authenticator,
    store: &Store,
    serving: &Arc<Serving>,
) -> (Source, Served) {
    let kept = config.database_url.is_some().then(|| config.data_dir.join(FLEET));
    let source = Source::new(store.clone(), Arc::clone(auth.sealer()), kept);
    let stored = source.first(auth.health().away.is_some()).await;
    (source, Served::new(config, stored, Arc::clone(auth.sealer()), Arc::clone(serving)))
}

fn greeting(config: &Config, workers: &Workers, first_key: Option<String>, joined: &Joined) -> Greeting {
    let servers: Vec<ServerName> = joined.servers.iter().map(|server| server.name.clone()).collect();
    let of = |endpoint: &EndpointConfig| match &endpoint.servers {
        Members::Every => servers.clone(),
        Members::These(members) => members.iter().map(|member| member.server.clone()).collect(),
    };
    Greeting {
        url: workers.url.clone(),
        first_key,
        asks_for_key: config.auth_mode == auth::Mode::Keys,
        endpoints: joined.endpoints.iter().map(|endpoint| (endpoint.name.clone(), of(endpoint))).collect(),
        is_demo: config.stand_in.as_ref().is_some_and(|stand_in| joined.servers.contains(stand_in)),
        servers,
    }
}

/// With what stands in for servers of the other era.
fn topology_builder(config: &Config, auth: &Authenticator, roots: TlsRoots) -> TopologyBuilder {
    TopologyBuilder::new(roots)
        .with_face(Era::Legacy, Arc::new(LegacyFace::new(config.bridge.hold_timeout)))
        .with_face(Era::Modern, ModernFace::new(&config.bridge, Arc::clone(auth.sealer())))
}

/// The keyring, with the store it comes from.
async fn keys(config: &Config) -> Result<Arc<Authenticator>, AppError> {
    let data_dir = |source| AppError::DataDir { path: config.data_dir.clone(), source };
    auth::prepare_data_dir(&config.data_dir).map_err(data_dir)?;
    let kept = if config.encryption_key.is_none() || config.jwt_secret.is_none() {
        Some(Secrets::load_or_create(&config.data_dir)?.0)
    } else {
        None
    };
    let encryption_keys = match (&config.encryption_key, &kept) {
        (Some(text), _) => parse_encryption_key(text)?,
        (None, Some(kept)) => parse_encryption_key(&kept.encryption_key)?,
        (None, None) => Vec::new(),
    };
    let jwt_secret = match (&config.jwt_secret, &kept) {
        (Some(secret), _) => secret.clone(),
        (None, Some(kept)) => parse_jwt_secret(&kept.jwt_secret)?,
        (None, None) => zeroize::Zeroizing::default(),
    };
    let timing = &config.auth_timing;
    let auth_config = auth::Config {
        mode: config.auth_mode,
        encryption_keys,
        jwt_secret,
        token_lifetime: timing.token_lifetime,
        hash_permits: timing.hash_permits,
        hash_thread: make_way,
        hash_queue_max: timing.hash_queue_max,
        verified_for: timing.verified_for,
    };
    let Some(url) = &config.database_url else {
        let store = Store::open_sqlite(&config.data_dir.join(DATABASE)).await?;
        return Ok(Arc::new(Authenticator::new(auth_config, store).await?));
    };
    let store = Store::postgres(url)?;
    let authenticator = keys_of_server(auth_config, &store, config.data_dir.join(KEYRING)).await?;
    Ok(Arc::new(authenticator))
}

/// Many keys at once that were not seen for a while have argon2 run all the time: what is left of the cores is enough for
/// that.
fn make_way() {
    let nicer = |nice: i32| rustix::process::setpriority_process(None, (nice + HASH_NICER).min(NICE_MAX));
    if let Err(error) = rustix::process::getpriority_process(None).and_then(nicer) {
        tracing::debug!(%error, "threads that verify keys compete with those that answer");
    }
}

/// A server that is away is waited for, unless an earlier run left its keyring: whoever restarts us would only do the
/// same, and faster.
async fn keys_of_server(
    config: auth::Config,
    store: &Store,
    keyring: PathBuf,
) -> Result<Authenticator, AuthError> {
    loop {
        let (config, keyring) = (config.clone(), Some(keyring.clone()));
        match Authenticator::with_snapshot(config, store.clone(), keyring).await {
            Err(error) if error.is_away() => {
                tracing::warn!(%error, "waiting for the database");
                sleep(DATABASE_WAIT).await;
            }
            other => return other,
        }
    }
}

/// The key of an installation that never had one. Keys that were all switched off stay so.
async fn first_key(
    config: &Config,
    store: &Store,
    authenticator: &Authenticator,
) -> Result<Option<String>, AppError> {
    // With the keyring of an earlier run there was a key once.
    let from_store = authenticator.health().keys_from == KeysFrom::Store;
    if config.auth_mode == auth::Mode::Open || !from_store || !store.keys().await?.rows.is_empty() {
        return Ok(None);
    }
    let request = KeyRequest {
        name: "first".into(),
        description: "made at the first start".into(),
        grants: Grants::everything(),
        expires_at: None,
    };
    let audit = Audit::by(Audit::GATEWAY);
    // Another replica may be at its first start too: one of them shows the key that there then is.
    let key = create_first_key(store, authenticator.sealer(), request, audit).await?;
    authenticator.refresh().await?;
    Ok(key.map(|key| key.expose().to_owned()))
}

/// The system's certificate authorities, which upstreams are verified by.
fn system_roots() -> TlsRoots {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors = found.errors;
        tracing::warn!(?errors, "no certificate authorities are known here: https servers cannot be reached");
    }
    TlsRoots::from_roots(roots)
}

/// Hands on what is used until it is told that nothing more is.
fn hand_on_usage(outbox: Option<Outbox>, store: Store, end: watch::Receiver<Phase>) -> JoinHandle<()> {
    spawn_local(async move {
        if let Some(outbox) = outbox {
            usage::hand_on(outbox, store, end).await;
        }
    })
}

/// Looks for keys that changed, and says so.
async fn watch_keys(
    authenticator: Arc<Authenticator>,
    mut watch: watch::Receiver<Seen>,
    changed: watch::Sender<u64>,
) {
    let mut known = None;
    loop {
        let Seen { epochs, away, asked } = watch.borrow_and_update().clone();
        if asked {
            authenticator.note_away(away.as_ref());
        }
        if asked && away.is_none() && known != Some((epochs.keys, epochs.jwt_keys)) {
            match authenticator.refresh().await {
                // Whether or not it was this look that found the news: a request may just have had one of its own.
                Ok(_) => {
                    known = Some((epochs.keys, epochs.jwt_keys));
                    changed.send_modify(|version| *version += 1);
                }
                Err(error) => {
                    tracing::warn!(%error, "keys could not be read again; those that are known go on");
                }
            }
        }
        // What could not be read is tried again, changed or not.
        if let Ok(Err(_)) = timeout(KEY_RETRY, watch.changed()).await {
            tracing::error!(
                "the store is no longer watched: keys that are switched off stay good; start again"
            );
            return;
        }
    }
}

/// Switches rotated keys off when their time is over: nothing else takes back what they opened.
async fn end_grace(store: Store) {
    let mut poll = interval(GRACE_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        match store.end_grace(Audit::by(Audit::GATEWAY)).await {
            Ok(over) if over.is_empty() => {}
            Ok(over) => tracing::info!(keys = over.len(), "the grace of rotated keys is over"),
            // Said aloud by the one who watches; the keys open nothing new any more.
            Err(error) => tracing::debug!(%error, "rotated keys could not be switched off"),
        }
    }
}

/// Joins the two planes, which know nothing of each other.
struct Plane(Admin);

impl ControlPlane for Plane {
    fn methods(&self, path: &str) -> Option<String> {
        admin::methods(path)
    }

    fn answer<'a>(
        &'a self,
        request: ControlRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = ControlResponse> + 'a>> {
        let ControlRequest { head, body, counters, metrics } = request;
        Box::pin(async move {
            let response = self.0.answer(admin::Asked { head, body, counters, metrics }).await;
            response.map(|body| match body {
                admin::Body::Whole(bytes, permit) => ControlBody::Whole(bytes, permit),
                admin::Body::Events(events) => ControlBody::Stream(events),
            })
        })
    }
}
