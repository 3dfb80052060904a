//! The keys in use: both keyrings, kept up to date with the store.
//!
//! Readers load the published keyrings and never wait. A refresh compares the epochs of the store with those of the
//! keyrings, and builds and publishes new ones when they differ. Refreshes run one at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use crate::store::{JwtKeys, Keys, RowSealer as _, SealedRow, Store, StoreError, StoreOutage};

use super::clock::ClockReading;
use super::config::Config;
use super::denial::AuthDenial;
use super::error::AuthError;
use super::health::{AuthHealth, KeySource};
use super::initial_keys::InitialKeys;
use super::jwt_keyring::{self, JwtKeyring};
use super::keyring::Keyring;
use super::keyring_snapshot::KeyringSnapshot;
use super::seal::Sealer;
use super::secrets::generate_jwt_secret;
use super::snapshot::{SnapshotFile, SnapshotWriter};
use super::token::TokenAuthority;

pub struct LiveKeys {
    store: Store,
    sealer: Arc<Sealer>,
    keyring: ArcSwap<Keyring>,
    tokens: TokenAuthority,
    health: ArcSwap<AuthHealth>,
    /// Becomes the first token signing key when the store has none.
    jwt_secret: Option<Zeroizing<Vec<u8>>>,
    /// Stores each published keyring for a start without the store.
    snapshot_writer: Option<Arc<SnapshotWriter<KeyringSnapshot>>>,
    /// Refreshes started since the process began.
    refreshes_started: AtomicU64,
    /// Held during a refresh.
    refresh_lock: Mutex<()>,
    /// The result of the last refresh that ended.
    last_refresh: watch::Sender<RefreshResult>,
    /// When the last refresh on behalf of a credential started. Held by the caller that requests the next one.
    last_requested: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy)]
struct RefreshResult {
    /// Refreshes are numbered in the order in which they start.
    number: u64,
    succeeded: bool,
}

impl LiveKeys {
    /// Loads all keys, from the store or from the snapshot at `snapshot`. Fails when no active key opens.
    pub async fn load(config: &Config, store: Store, snapshot: Option<PathBuf>) -> Result<Self, AuthError> {
        let sealer = Arc::new(Sealer::new(&config.encryption_keys)?);
        let store = store.bound_by(Sealer::clone(&sealer));
        let snapshot_writer =
            snapshot.map(|path| SnapshotWriter::new(SnapshotFile::for_keyring(path), Arc::clone(&sealer)));
        let file = snapshot_writer.as_ref().map(|writer| writer.file());
        let InitialKeys { keys, jwt_keys, health } = InitialKeys::load(&store, file, &sealer).await?;
        let keyring = Keyring::build(keys.clone(), &sealer, &Keyring::empty());
        // Before anything is written: an ENCRYPTION_KEY that opens no stored key must not seal new values.
        if let Err(error) = keyring.check_startup() {
            return Err(explain_unopened(error, &keyring, &store, &sealer).await);
        }
        let jwt_secret = config.jwt_secret.as_ref().map(|secret| secret.as_slice());
        let jwt_keys = match health.key_source {
            KeySource::Store => Some(jwt_keyring::load_or_create(&store, &sealer, jwt_secret).await?),
            KeySource::Snapshot { .. } => jwt_keys,
        };
        if let (KeySource::Store, Some(writer), Some(jwt_keys)) =
            (health.key_source, &snapshot_writer, &jwt_keys)
        {
            writer.write_now(to_snapshot(&keys, jwt_keys));
        }
        let jwt_keyring = match (jwt_keys, jwt_secret) {
            (Some(keys), _) => JwtKeyring::build(&keys, &sealer, &JwtKeyring::empty()),
            (None, Some(secret)) => JwtKeyring::from_secret(secret),
            // Tokens of this key are valid until the store is available.
            (None, None) => JwtKeyring::from_secret(generate_jwt_secret().as_bytes()),
        };
        if let Err(error) = jwt_keyring.check_startup() {
            return Err(explain_unopened(error, &keyring, &store, &sealer).await);
        }
        log_unusable_keys(&keyring, &jwt_keyring, None);
        if jwt_secret.is_some_and(|secret| !jwt_keyring.contains_secret(secret)) {
            tracing::info!("JWT_SECRET is not in use: tokens are signed by the rotated keys in the database");
        }
        Ok(Self {
            store,
            sealer,
            keyring: ArcSwap::from_pointee(keyring),
            tokens: TokenAuthority::new(jwt_keyring, config.token_lifetime),
            health: ArcSwap::from_pointee(health),
            jwt_secret: config.jwt_secret.clone(),
            snapshot_writer,
            refreshes_started: AtomicU64::new(0),
            refresh_lock: Mutex::new(()),
            last_refresh: watch::Sender::new(RefreshResult { number: 0, succeeded: false }),
            last_requested: Mutex::new(None),
        })
    }

    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.tokens.set_lifetime(lifetime);
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    fn jwt_secret(&self) -> Option<&[u8]> {
        self.jwt_secret.as_ref().map(|secret| secret.as_slice())
    }

    pub fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    pub fn keyring(&self) -> Guard<Arc<Keyring>> {
        self.keyring.load()
    }

    pub fn tokens(&self) -> &TokenAuthority {
        &self.tokens
    }

    pub fn health(&self) -> Arc<AuthHealth> {
        self.health.load_full()
    }

    pub fn set_store_outage(&self, outage: Option<&StoreOutage>) {
        self.health.rcu(|health| AuthHealth { outage: outage.cloned(), ..(**health).clone() });
    }

    /// Describes the active API keys and the token signing keys that cannot be used: how many, which, why, and what
    /// to do.
    pub fn unusable_keys(&self) -> Vec<String> {
        describe_unusable_keys(&self.keyring(), &self.tokens.keyring())
    }

    /// Publishes new keyrings if any key changed in the store. `true` when it did.
    ///
    /// Cancel safe.
    pub async fn refresh(&self) -> Result<bool, StoreError> {
        let lock = self.refresh_lock.lock().await;
        self.run_refresh(&lock).await
    }

    /// Refreshes on behalf of a credential that is not in the keyrings. Callers at the same time share one refresh, and
    /// refreshes start at least [`REQUEST_INTERVAL`] apart, however many credentials are made up. `Busy` when the store
    /// cannot be read.
    ///
    /// Cancel safe: when the caller that runs the refresh is dropped, the next one runs it.
    pub async fn refresh_for_request(&self) -> Result<(), AuthDenial> {
        let started = self.refreshes_started.load(Ordering::Acquire);
        // A refresh that started after this call has seen everything that was stored before it.
        let is_newer = |refresh: &RefreshResult| refresh.number > started;
        let mut results = self.last_refresh.subscribe();
        let mut last_requested = tokio::select! {
            biased;
            Ok(refresh) = results.wait_for(is_newer) => return refresh.outcome(),
            last_requested = self.last_requested.lock() => last_requested,
        };
        if self.health.load().outage.is_some() {
            // The store watcher retries every second. A request would only hold its connection for as long.
            return Err(AuthDenial::Busy);
        }
        // Waits before taking the refresh lock: the periodic refresh, which learns of revoked keys, must not wait.
        if let Some(last) = *last_requested {
            sleep_until(last + REQUEST_INTERVAL).await;
        }
        *last_requested = Some(Instant::now());
        let lock = self.refresh_lock.lock().await;
        if !is_newer(&self.last_refresh.borrow()) {
            drop(self.run_refresh(&lock).await);
        }
        self.last_refresh.borrow().outcome()
    }

    async fn run_refresh(&self, _lock: &MutexGuard<'_, ()>) -> Result<bool, StoreError> {
        let number = self.refreshes_started.fetch_add(1, Ordering::AcqRel) + 1;
        let changed = self.reload().await;
        self.last_refresh.send_replace(RefreshResult { number, succeeded: changed.is_ok() });
        changed
    }

    async fn reload(&self) -> Result<bool, StoreError> {
        let (current, current_jwt) = (self.keyring.load_full(), self.tokens.keyring());
        let is_from_store = self.health.load().key_source == KeySource::Store;
        let epochs = self.store.epochs().await?;
        if (epochs.keys, epochs.jwt_keys) == (current.epoch(), current_jwt.epoch()) && is_from_store {
            return Ok(false);
        }
        let keys = self.store.keys().await?;
        let jwt_keys = jwt_keyring::load_or_create(&self.store, &self.sealer, self.jwt_secret()).await?;
        let sealer = Arc::clone(&self.sealer);
        let snapshot = self.snapshot_writer.as_ref().map(|writer| (writer, to_snapshot(&keys, &jwt_keys)));
        // Thousands of keys take milliseconds, and the caller may be a worker with streams to serve.
        let build = tokio::task::spawn_blocking(move || {
            let next = Keyring::build(keys, &sealer, &current);
            let next_jwt = JwtKeyring::build(&jwt_keys, &sealer, &current_jwt);
            log_unusable_keys(&next, &next_jwt, Some((&current, &current_jwt)));
            (next, next_jwt)
        });
        let (next, next_jwt) = build.await.map_err(|error| {
            // A defect, which must not look as if the store were unavailable.
            if error.is_panic() {
                StoreError::Failed("the keys could not be read, because of a panic".into())
            } else {
                StoreError::Stopped
            }
        })?;
        self.tokens.publish(next_jwt);
        self.keyring.store(Arc::new(next));
        self.health.rcu(|health| AuthHealth { key_source: KeySource::Store, ..(**health).clone() });
        if let Some((writer, snapshot)) = snapshot {
            writer.enqueue(snapshot);
        }
        Ok(true)
    }

    #[cfg(test)]
    pub fn refreshes_started(&self) -> u64 {
        self.refreshes_started.load(Ordering::Relaxed)
    }
}

impl RefreshResult {
    fn outcome(self) -> Result<(), AuthDenial> {
        if self.succeeded { Ok(()) } else { Err(AuthDenial::Busy) }
    }
}

fn describe_unusable_keys(keyring: &Keyring, jwt_keyring: &JwtKeyring) -> Vec<String> {
    let checks = [keyring.check(), jwt_keyring.check()];
    checks.into_iter().filter_map(|check| check.err().map(|error| error.to_string())).collect()
}

/// Returns the error of a start at which keys do not open. If none opens, not even one for tokens, the encryption key is
/// wrong, rather than every row altered.
async fn explain_unopened(error: AuthError, keyring: &Keyring, store: &Store, sealer: &Sealer) -> AuthError {
    let Ok(jwt_keys) = store.jwt_keys().await else { return error };
    let opens_any = !keyring.is_empty()
        || jwt_keys.rows.iter().any(|row| sealer.open_row(SealedRow::JwtKey(row)).is_some());
    if opens_any { error } else { AuthError::WrongEncryptionKey }
}

/// Logs unusable keys unless the same was logged for `previous`. The other keys continue to work.
fn log_unusable_keys(keyring: &Keyring, jwt_keyring: &JwtKeyring, previous: Option<(&Keyring, &JwtKeyring)>) {
    let logged = previous.map(|(keyring, jwt)| describe_unusable_keys(keyring, jwt)).unwrap_or_default();
    for error in
        describe_unusable_keys(keyring, jwt_keyring).into_iter().filter(|text| !logged.contains(text))
    {
        tracing::error!(error, "some keys cannot be used");
    }
}

fn to_snapshot(keys: &Keys, jwt_keys: &JwtKeys) -> KeyringSnapshot {
    let written_at = ClockReading::now().unix_s;
    KeyringSnapshot { written_at, keys: keys.clone(), jwt_keys: Some(jwt_keys.into()) }
}

/// Time between two refreshes on behalf of credentials: at most 50 a second. The wait for a key that was just created
/// is too short to notice.
pub const REQUEST_INTERVAL: Duration = Duration::from_millis(20);
