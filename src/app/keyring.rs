//! The keyring: opened at startup, created at a first start, and refreshed when keys change in the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::error::AppError;
use super::first_key::FirstKey;
use super::startup_info::StartupKeys;
use crate::telemetry::events::{Event, EventKind, EventLog};
use metamcp_config::Config;
use metamcp_config::sections::AuthMode;
use metamcp_core::base::{KeyId, unix_seconds};
use metamcp_store::auth::{
    self, AuthError, Authenticator, CreateKeyError, EncryptionKey, FirstStartError, InstallationSecrets,
    KeyRequest, KeySource, KeyState, Sealer, WrongEncryptionKey, check_first_start, encryption_key_place,
    generate_key, jwt_secret_place, parse_encryption_key, parse_jwt_secret,
};
use metamcp_store::store::{Audit, ForeignTables, Grants, KeyRow, KeyStatus, Store, WatchState};
use zeroize::Zeroizing;

/// The embedded database's file in the data directory.
const DATABASE: &str = "metamcp.sqlite";

/// The file in the data directory that holds the last keyring read from a database server.
const KEYRING: &str = "keyring.sealed";

/// Between two attempts to read keys that have changed.
const REFRESH_RETRY: Duration = Duration::from_secs(1);

/// Time between two checks for rotated keys whose grace period has ended. New requests are refused from that
/// second on; these checks close what is already open.
const GRACE_POLL: Duration = Duration::from_secs(10);

/// Between two attempts to reach a database server at startup.
const DATABASE_RETRY: Duration = Duration::from_secs(2);

/// Added to the nice value of the threads that run argon2: they get a tenth of a contended core.
const HASH_NICE_INCREMENT: i32 = 10;

/// The highest nice value (`setpriority(2)`).
const NICE_MAX: i32 = 19;

/// Opens the store and the keyring in it.
pub async fn open_keyring(config: &Config) -> Result<Arc<Authenticator>, AppError> {
    let data_dir = |source| AppError::DataDir { path: config.data_dir.clone(), source };
    auth::prepare_data_dir(&config.data_dir).map_err(data_dir)?;
    let store = open_store(config).await?;
    let secrets = load_secrets(config, &store).await?;
    let ParsedSecrets { encryption_keys, jwt_secret } = parse_secrets(config, secrets.as_ref())?;
    let timing = &config.auth_timing;
    let auth_config = auth::Config {
        mode: config.auth_mode,
        encryption_keys,
        jwt_secret,
        token_lifetime: timing.token_lifetime,
        hash_permits: timing.hash_permits,
        hash_thread: lower_hash_priority,
        hash_queue_max: timing.hash_queue_max,
        verified_for: timing.verified_for,
    };
    if config.database.is_none() {
        let opened = Authenticator::new(auth_config, store).await;
        return opened.map(Arc::new).map_err(|error| explain_wrong_key(error, config));
    }
    let opened = read_server_keyring(auth_config, config, &store).await;
    opened.map(Arc::new).map_err(|error| explain_wrong_key(error, config))
}

/// Adds to the error of an encryption key that opens nothing where it comes from.
fn explain_wrong_key(error: AuthError, config: &Config) -> AppError {
    let AuthError::WrongEncryptionKey = error else { return error.into() };
    let place = config.secret_places.encryption_key.as_ref();
    let used = config.encryption_key.as_ref().map(|text| text.as_str());
    AppError::WrongEncryptionKey(WrongEncryptionKey::new(place, used, Some(&config.data_dir)))
}

/// The secrets of the configuration, and those of the data directory in the place of missing ones.
struct ParsedSecrets {
    /// Empty if there is no `ENCRYPTION_KEY`.
    encryption_keys: Vec<EncryptionKey>,
    jwt_secret: Option<Zeroizing<Vec<u8>>>,
}

fn parse_secrets(config: &Config, secrets: Option<&InstallationSecrets>) -> Result<ParsedSecrets, AppError> {
    let (data_dir, places) = (Some(config.data_dir.as_path()), &config.secret_places);
    let encryption_key = config.encryption_key.as_ref().or(secrets.map(|secrets| &secrets.encryption_key));
    let parsed = encryption_key.map_or(Ok(Vec::new()), |text| parse_encryption_key(text));
    let encryption_keys = parsed.map_err(|error| AppError::EncryptionKey {
        place: encryption_key_place(places.encryption_key.as_ref(), data_dir),
        error,
    })?;
    let jwt_secret =
        match (&config.jwt_secret, secrets) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(secrets)) => {
                let parsed = parse_jwt_secret(&secrets.jwt_secret);
                Some(parsed.map_err(|error| AppError::JwtSecret {
                    place: jwt_secret_place(None, data_dir),
                    error,
                })?)
            }
            (None, None) => None,
        };
    Ok(ParsedSecrets { encryption_keys, jwt_secret })
}

/// Checks the secrets as far as that is possible without starting.
pub fn check_secrets(config: &Config) -> Result<(), AppError> {
    let secrets = load_existing_secrets(config)?;
    let ParsedSecrets { encryption_keys, .. } = parse_secrets(config, secrets.as_ref())?;
    if !encryption_keys.is_empty() {
        Sealer::new(&encryption_keys)?;
    } else if config.database.is_none() {
        check_first_start(&config.data_dir, &config.data_dir.join(DATABASE))?;
    }
    Ok(())
}

/// Opens the store, and logs which one it is, and where secrets come from. A database server is not connected to yet.
async fn open_store(config: &Config) -> Result<Store, AppError> {
    for place in config.secret_places.elsewhere() {
        tracing::info!(%place, "using a secret that is not from the data directory");
    }
    let Some(database) = &config.database else {
        let path = config.data_dir.join(DATABASE);
        tracing::info!(database = %path.display(), "using the embedded database");
        return Ok(Store::open_sqlite(&path).await?);
    };
    tracing::info!(%database, "using a PostgreSQL database");
    let foreign_tables = if database.is_shared { ForeignTables::Accept } else { ForeignTables::Refuse };
    Ok(Store::postgres(&database.url)?.with_foreign_tables(foreign_tables))
}

/// Reads the secrets of the data directory, if the configuration lacks one. `None` if there are none.
fn load_existing_secrets(config: &Config) -> Result<Option<InstallationSecrets>, AppError> {
    if config.encryption_key.is_some() && config.jwt_secret.is_some() {
        return Ok(None);
    }
    Ok(InstallationSecrets::load_existing(&config.data_dir)?)
}

/// Reads the secrets of the data directory. Creates them at the first start, if the configuration has no `ENCRYPTION_KEY`.
///
/// `JWT_SECRET` is not required: the database has the keys that sign tokens, sealed with `ENCRYPTION_KEY`.
async fn load_secrets(config: &Config, store: &Store) -> Result<Option<InstallationSecrets>, AppError> {
    if config.encryption_key.is_some() {
        return load_existing_secrets(config);
    }
    let data_dir = &config.data_dir;
    loop {
        match InstallationSecrets::load_or_create_at_first_start(data_dir, store).await {
            Err(FirstStartError::Store(error)) if error.is_away() && config.database.is_some() => {
                // Written beside a database with keys, and sealed with the secret that is missing.
                if data_dir.join(KEYRING).exists() {
                    return Err(FirstStartError::missing(data_dir).into());
                }
                wait_for_database(config, &error).await;
            }
            result => return Ok(Some(result?)),
        }
    }
}

/// Reports that the database server cannot be reached, and waits until the next attempt.
async fn wait_for_database(config: &Config, error: &dyn std::error::Error) {
    if let Some(database) = &config.database {
        tracing::warn!(%error, %database, "waiting for the database");
    }
    sleep(DATABASE_RETRY).await;
}

/// Lowers the priority of a thread that runs argon2. When many uncached keys arrive, hashing gets only the
/// time that the other threads leave.
fn lower_hash_priority() {
    let lower =
        |nice: i32| rustix::process::setpriority_process(None, (nice + HASH_NICE_INCREMENT).min(NICE_MAX));
    if let Err(error) = rustix::process::getpriority_process(None).and_then(lower) {
        tracing::debug!(%error, "cannot lower the priority of key verification threads");
    }
}

/// Reads the keyring from a database server. Waits while the server is unreachable, unless a snapshot of an
/// earlier run can stand in: exiting would only make a supervisor restart the gateway, and faster.
async fn read_server_keyring(
    auth_config: auth::Config,
    config: &Config,
    store: &Store,
) -> Result<Authenticator, AuthError> {
    let snapshot = config.data_dir.join(KEYRING);
    loop {
        let (auth_config, snapshot) = (auth_config.clone(), Some(snapshot.clone()));
        match Authenticator::with_snapshot(auth_config, store.clone(), snapshot).await {
            Err(error) if error.is_transient() => wait_for_database(config, &error).await,
            result => return result,
        }
    }
}

/// Whether the gateway never ran with this data directory. A database server may have been set up by others.
pub fn is_first_start(config: &Config) -> bool {
    config.database.is_none() && !config.data_dir.join(DATABASE).exists()
}

/// Finds out whether there are keys; `None` if the installation never had one.
pub async fn find_keys(
    config: &Config,
    store: &Store,
    authenticator: &Authenticator,
) -> Result<Option<StartupKeys>, AppError> {
    // A keyring from a snapshot means that a key existed before.
    let from_store = authenticator.health().key_source == KeySource::Store;
    if config.auth_mode == AuthMode::Open {
        return Ok(Some(StartupKeys::NotRequired));
    }
    if !from_store {
        return Ok(Some(StartupKeys::Active));
    }
    let rows = store.keys().await?.rows;
    if rows.is_empty() {
        return Ok(None);
    }
    let now = unix_seconds();
    let is_active =
        |row: &KeyRow| row.status == KeyStatus::Active && row.expires_at.is_none_or(|end| end > now);
    let is_any_active = rows.iter().any(is_active);
    Ok(Some(if is_any_active { StartupKeys::Active } else { StartupKeys::NoneActive }))
}

/// Creates a key if the installation never had one, unless it is `known` which keys there are. Keys that are all inactive are
/// left so. To be called after everything that can fail: a key that is created and never shown is lost.
pub async fn create_key_at_first_start(
    known: Option<StartupKeys>,
    config: &Config,
    store: &Store,
    authenticator: &Authenticator,
) -> Result<StartupKeys, AppError> {
    let known = match known {
        Some(known) => Some(known),
        None => find_keys(config, store, authenticator).await?,
    };
    if let Some(known) = known {
        return Ok(known);
    }
    let request = KeyRequest {
        name: "first".into(),
        description: "made at the first start".into(),
        grants: Grants::everything(),
        expires_at: None,
    };
    let audit = Audit::by(Audit::GATEWAY);
    // Another replica may be at its first start too; only one of them creates the key and shows it.
    let sealer = authenticator.sealer();
    let (key, row) = generate_key(store, sealer, request, audit.at).await?;
    let first_key = match FirstKey::deliver(&key, &config.data_dir) {
        Ok(first_key) => first_key,
        Err(undeliverable) => return Ok(StartupKeys::NotCreated(undeliverable)),
    };
    // If this fails, the key may have been stored all the same, so its file stays.
    let stored = store.bound_by(Sealer::clone(sealer)).insert_first_key(row, audit).await;
    let is_stored = stored.map_err(CreateKeyError::from)?.is_some();
    authenticator.refresh().await?;
    if is_stored {
        return Ok(StartupKeys::Created(first_key));
    }
    first_key.discard();
    Ok(StartupKeys::Active)
}

/// Refreshes the keyring whenever keys change in the store, and increments `changed` each time.
pub async fn watch_keys(
    authenticator: Arc<Authenticator>,
    mut watch: watch::Receiver<WatchState>,
    changed: watch::Sender<u64>,
    events: Arc<EventLog>,
) {
    let mut known = None;
    let mut told = authenticator.key_states();
    loop {
        let WatchState { epochs, away, asked } = watch.borrow_and_update().clone();
        if asked {
            authenticator.set_store_outage(away.as_ref());
        }
        if asked && away.is_none() && known != Some((epochs.keys, epochs.jwt_keys)) {
            match authenticator.refresh().await {
                // Counts even if this call read nothing new: a request may just have refreshed the keyring itself.
                Ok(_) => {
                    known = Some((epochs.keys, epochs.jwt_keys));
                    changed.send_modify(|version| *version += 1);
                    tell_changed_keys(&mut told, authenticator.key_states(), &events);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot refresh the keyring; the known keys stay in use");
                }
            }
        }
        // After a failure, try again without waiting for a change.
        if let Ok(Err(_)) = timeout(REFRESH_RETRY, watch.changed()).await {
            tracing::error!("store watch ended: revoked keys are still accepted; restart the gateway");
            return;
        }
    }
}

/// Tells which keys differ from those that were told last.
fn tell_changed_keys(
    told: &mut HashMap<KeyId, KeyState>,
    states: HashMap<KeyId, KeyState>,
    events: &EventLog,
) {
    let before = std::mem::replace(told, states);
    let was_active = |key_id: &KeyId| before.get(key_id).is_some_and(|before| before.is_active);
    let mut changes: Vec<(KeyId, EventKind)> = told
        .iter()
        .filter(|(key_id, state)| before.get(key_id) != Some(state))
        .filter_map(|(key_id, state)| match (before.get(key_id), state.is_active) {
            (None, true) => Some((*key_id, EventKind::KeyCreated)),
            (Some(_), true) => Some((*key_id, EventKind::KeyChanged)),
            (_, false) => was_active(key_id).then_some((*key_id, EventKind::KeyRevoked)),
        })
        .collect();
    let removed = before.keys().filter(|key_id| !told.contains_key(key_id) && was_active(key_id));
    changes.extend(removed.map(|key_id| (*key_id, EventKind::KeyRevoked)));
    changes.sort_unstable_by_key(|(key_id, _)| *key_id);
    for (key_id, kind) in changes {
        events.add(Event::of_key(kind, key_id));
    }
}

/// Deactivates rotated keys when their grace ends, which also revokes the sessions and tokens opened with them.
pub async fn end_grace_periods(store: Store) {
    let mut poll = interval(GRACE_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        match store.end_grace(Audit::by(Audit::GATEWAY)).await {
            Ok(ended) if ended.is_empty() => {}
            Ok(ended) => tracing::info!(keys = ended.len(), "deactivated rotated keys whose grace has ended"),
            // The store's watch reports an outage; the keys open nothing new in the meantime.
            Err(error) => tracing::debug!(%error, "cannot deactivate rotated keys"),
        }
    }
}
