//! Builds the parts from a `Config`, runs them, and ends them in order.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::admin::definition::{Commands, Rules};
use crate::admin::{self, Admin, ErrandRunner, Errands, Fleet};
use crate::auth::{
    self, AuthError, Authenticator, CreateError, EncryptionKeyError, KeyRequest, SealerError, Secrets,
    SecretsError, create_key, parse_encryption_key, parse_jwt_secret,
};
use crate::backend::{Backend, BackendId, InvalidTarget, Pool, TlsRoots};
use crate::base::{Phase, ServerName};
use crate::catalog::{Catalog, KeeperSeed, View};
use crate::config::Config;
use crate::limits::Limits;
use crate::route::{EndpointConfig, Place, Table, TableError};
use crate::server::{self, ControlPlane, ControlRequest, ControlResponse, ListenError, Shared, Workers};
use crate::session::{Sessions, farewell};
use crate::store::{Audit, Grants, ServerKind, Store, StoreError};

/// The embedded database's file in the data directory.
const DATABASE: &str = "metamcp.sqlite";

/// Between two looks at the store for keys that changed: how long a revoked key may still work.
const KEY_POLL: Duration = Duration::from_secs(1);

/// Between two looks for sessions that are over.
const SESSION_SWEEP: Duration = Duration::from_secs(30);

/// For the workers to end after what was under way was cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);

/// The gateway, running.
pub struct App {
    /// Where it listens, what it serves, and the key of a first start.
    pub greeting: Greeting,
    workers: Workers,
    phase: watch::Sender<Phase>,
    drain_delay: Duration,
    drain_deadline: Duration,
}

/// What whoever started the gateway wants to know.
pub struct Greeting {
    /// `http://host:port` or `https://…`.
    pub url: String,
    /// The key made at a first start: shown once, stored nowhere.
    pub first_key: Option<String>,
    /// Whether a credential is asked for.
    pub asks_for_key: bool,
    /// By name, without addresses.
    pub servers: Vec<ServerName>,
    /// By name.
    pub endpoints: Vec<EndpointConfig>,
}

/// Why the gateway cannot start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A database that is not built yet.
    #[error(
        "DATABASE_URL names PostgreSQL, which this version does not reach yet; unset it to use the embedded database"
    )]
    Postgres,
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
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A server's address.
    #[error("server `{server}`: {source}")]
    Target {
        /// Which.
        server: ServerName,
        /// Why.
        source: InvalidTarget,
    },
    /// An endpoint's servers.
    #[error("endpoint `{}` names a server `{}`, which is not configured", .0.endpoint, .0.server)]
    Table(TableError),
    /// The sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The signals that end the gateway.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

impl App {
    /// Builds everything and begins to serve. Runs in a `LocalSet`, on which it leaves its background tasks.
    pub async fn start(config: Config) -> Result<Self, AppError> {
        if config.database_url.is_some() {
            return Err(AppError::Postgres);
        }
        let (authenticator, store) = keys(&config).await?;
        let roots = TlsRoots::from_system();
        let backends = backends(&config, &roots)?;
        let names: Vec<ServerName> = config.servers.iter().map(|server| server.name.clone()).collect();
        let table = Arc::new(Table::build(&names, &config.endpoints).map_err(AppError::Table)?);
        let (catalog, keeper) = Catalog::new(config.catalog.clone(), &backends);
        let sessions = Arc::new(Sessions::new(config.session.clone(), Arc::clone(authenticator.sealer())));
        let (phase, phases) = watch::channel(Phase::Serve);
        let keys_changed = watch::Sender::new(0);
        let limits = Arc::new(Limits::new(config.limits.clone()));
        let (errands, runner) = Errands::new();
        let admin = Admin::new(admin::Parts {
            auth: Arc::clone(&authenticator),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            catalog_config: config.catalog.clone(),
            limits: Arc::clone(&limits),
            fleet: Arc::new(Served {
                table: Arc::clone(&table),
                backends: backends.clone(),
                sessions: Arc::clone(&sessions),
            }),
            errands,
            roots,
            rules: rules(&config),
            phase: phases.clone(),
        });
        let shared = Arc::new(Shared {
            guard: server::Guard::new(&config.server),
            config: config.server.clone(),
            auth: Arc::clone(&authenticator),
            table: Arc::clone(&table),
            catalog: Arc::clone(&catalog),
            sessions: Arc::clone(&sessions),
            limits,
            backends,
            control: Arc::new(Plane(admin)),
            phase: phases,
            keys: keys_changed.subscribe(),
        });
        let workers = server::start(&shared)?;
        // Only now: a key that is made and never shown is lost.
        let first_key = first_key(&config, &store, &authenticator).await?;
        spawn_background(keeper, runner, sessions, &catalog, &table);
        spawn_local(watch_keys(authenticator, keys_changed));
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        let greeting = Greeting {
            url: format!("{scheme}://{}", workers.address),
            first_key,
            asks_for_key: config.auth_mode == auth::Mode::Keys,
            servers: names,
            endpoints: config.endpoints,
        };
        let server::Config { drain_delay, drain_deadline, .. } = config.server;
        Ok(Self { greeting, workers, phase, drain_delay, drain_deadline })
    }

    /// Serves until SIGTERM or SIGINT, then lets what is under way end, within the deadline. A second signal
    /// ends at once.
    pub async fn run(self) -> Result<(), AppError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: no new connections; what is under way may end");
        let end = async {
            self.phase.send_replace(Phase::Leave);
            sleep(self.drain_delay).await;
            self.phase.send_replace(Phase::Drain);
            let joined = self.workers.join();
            tokio::pin!(joined);
            if timeout(self.drain_deadline, &mut joined).await.is_err() {
                tracing::warn!("the drain deadline has passed; what is left is cut");
                self.phase.send_replace(Phase::Cut);
                if timeout(CUT_TIMEOUT, joined).await.is_err() {
                    tracing::warn!("a worker did not end; it is left behind");
                }
            }
        };
        tokio::select! {
            () = end => tracing::info!("stopped"),
            _ = terminate.recv() => tracing::warn!("stopped at once"),
            _ = interrupt.recv() => tracing::warn!("stopped at once"),
        }
        Ok(())
    }
}

/// The keyring, and the store it comes from.
async fn keys(config: &Config) -> Result<(Arc<Authenticator>, Store), AppError> {
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
    let store = Store::open_sqlite(&config.data_dir.join(DATABASE)).await?;
    let timing = &config.auth_timing;
    let auth_config = auth::Config {
        mode: config.auth_mode,
        encryption_keys,
        jwt_secret,
        token_lifetime: timing.token_lifetime,
        hash_permits: timing.hash_permits,
        hash_queue_max: timing.hash_queue_max,
        verified_for: timing.verified_for,
    };
    Ok((Arc::new(Authenticator::new(auth_config, store.clone()).await?), store))
}

/// The key of an installation that never had one. Keys that were all switched off stay so.
async fn first_key(
    config: &Config,
    store: &Store,
    authenticator: &Authenticator,
) -> Result<Option<String>, AppError> {
    if config.auth_mode == auth::Mode::Open || !store.keys().await?.rows.is_empty() {
        return Ok(None);
    }
    let request = KeyRequest {
        name: "first".into(),
        description: "made at the first start".into(),
        grants: Grants::everything(),
        expires_at: None,
    };
    let audit = Audit::by(Audit::GATEWAY);
    let (key, _) = create_key(store, authenticator.sealer(), request, audit).await?;
    authenticator.refresh().await?;
    Ok(Some(key.expose().to_owned()))
}

fn backends(config: &Config, roots: &TlsRoots) -> Result<Vec<Arc<Backend>>, AppError> {
    let numbered = (0..).map(BackendId).zip(&config.servers);
    numbered
        .map(|(id, server)| {
            Backend::new(id, server.clone(), roots)
                .map_err(|source| AppError::Target { server: server.name.clone(), source })
        })
        .collect()
}

/// What may be defined over HTTP. A server on a private address is as good as any where nobody comes from outside.
fn rules(config: &Config) -> Rules {
    Rules {
        served: vec![ServerKind::Http],
        commands: Commands::Only(Vec::new()),
        allow_private: config.server.listen.ip().to_canonical().is_loopback(),
    }
}

fn spawn_background(
    keeper: KeeperSeed,
    errands: ErrandRunner,
    sessions: Arc<Sessions>,
    catalog: &Arc<Catalog>,
    table: &Arc<Table>,
) {
    spawn_local(errands.run());
    let pools: Rc<[_]> = keeper.backends().iter().cloned().map(Pool::new).collect();
    spawn_local(keeper.plant().run());
    spawn_local(async move {
        let mut sweep = interval(SESSION_SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            sweep.tick().await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let over = sessions.sweep(now.map_or(0, |since| since.as_secs()));
            pools.iter().for_each(|pool| pool.sweep());
            // One after the other, for there may be thousands, and beside the sweep, for a server may be slow.
            let pools = Rc::clone(&pools);
            spawn_local(async move {
                for session in over {
                    farewell(session, Rc::clone(&pools)).await;
                }
            });
        }
    });
    // Asked for before a client does: the era of each server is known by then.
    let (catalog, table) = (Arc::clone(catalog), Arc::clone(table));
    spawn_local(async move {
        if let Some(endpoint) = table.find("/mcp") {
            catalog.merged(endpoint, View::Modern).await;
        }
    });
}

/// Looks for keys that changed, and says so.
async fn watch_keys(authenticator: Arc<Authenticator>, changed: watch::Sender<u64>) {
    let mut poll = interval(KEY_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        match authenticator.refresh().await {
            Ok(true) => changed.send_modify(|version| *version += 1),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "keys could not be read again; those that are known go on"),
        }
    }
}

/// Joins the two planes, which know nothing of each other.
struct Plane(Admin);

impl ControlPlane for Plane {
    fn body_bytes_max(&self, head: &Parts) -> usize {
        self.0.body_bytes_max(head)
    }

    fn answer(&self, request: ControlRequest) -> Pin<Box<dyn Future<Output = ControlResponse> + Send + '_>> {
        Box::pin(self.0.answer(request))
    }
}

/// What is served, as the control plane sees it.
struct Served {
    table: Arc<Table>,
    backends: Vec<Arc<Backend>>,
    sessions: Arc<Sessions>,
}

impl Fleet for Served {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    fn backend(&self, place: &Place) -> Option<Arc<Backend>> {
        self.backends.get(place.backend as usize).cloned()
    }

    fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.sessions)
    }
}
