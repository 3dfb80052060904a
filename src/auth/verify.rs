//! The ladder: what a credential has to pass, cheapest first.
//!
//! ```text
//! check: form -> keyring -> status, expiry -> tag of a verified secret -> mark  no await, no lock, no store
//! ask:   one look into the store for all who wait -> argon2, queued and shared
//! ```
//!
//! The tag is taken before the keyring is asked, so that an unknown key id costs the same as a known one.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, MutexGuard, Semaphore, watch};
use tokio::time::sleep_until;
use zeroize::Zeroizing;

use crate::store::{Away, JwtKeys, Keys, Store, StoreError};

use super::credential::{Credential, Kind};
use super::denied::{AuthError, Denied};
use super::hasher::{Hasher, Verdict};
use super::health::{self, First, Health, KeysFrom};
use super::identity::Identity;
use super::key::Parsed;
use super::keyring::{Belief, Keyring};
use super::refusals::Refusals;
use super::ring::{self, Ring};
use super::seal::Sealer;
use super::secrets::check_jwt_secret;
use super::snapshot::{Keeper, Kept, Snapshot};
use super::tag::{Tag, Tagger};
use super::token::{Token, Tokens, Unopened};
use super::{Config, Mode};

/// Checks credentials. Shared by all workers behind an `Arc`.
pub struct Authenticator {
    mode: Mode,
    store: Store,
    sealer: Arc<Sealer>,
    keyring: ArcSwap<Keyring>,
    /// Where each keyring that was read is kept for a start without the store.
    keeper: Option<Arc<Keeper<Kept>>>,
    health: ArcSwap<Health>,
    anonymous: Identity,
    tagger: Tagger,
    tokens: Tokens,
    /// Becomes the first key of a ring that is empty.
    jwt_secret: Zeroizing<Vec<u8>>,
    hasher: Hasher,
    /// Credentials whose key id, and kids that, the store did not know a moment ago.
    unknown: Refusals,
    /// Places for credentials that wait for a look and have shown nothing that only we could have made.
    strangers: Semaphore,
    /// Looks into the store that have begun, ever.
    looks_begun: AtomicU64,
    /// Held while one looks.
    looking: Mutex<()>,
    /// The last look that came to its end.
    look: watch::Sender<Look>,
    /// When the last look began that a credential asked for. Held by the one who asks for the next.
    asked: Mutex<Option<tokio::time::Instant>>,
}

#[derive(Clone, Copy)]
struct Look {
    number: u64,
    found: bool,
}

/// What can be said of a credential at once.
#[derive(Debug, Clone)]
pub enum Check {
    /// It is good.
    Granted(Identity),
    /// It is not.
    Refused(Denied),
    /// That takes `ask`.
    Ask,
}

/// Both clocks, read once for a request.
#[derive(Clone, Copy)]
struct Now {
    instant: Instant,
    unix_s: u64,
}

impl Authenticator {
    /// Reads all keys, and refuses to start when active ones do not open.
    ///
    /// Not cancel safe: dropping it may leave threads behind until the process ends.
    pub async fn new(config: Config, store: Store) -> Result<Self, AuthError> {
        Self::with_snapshot(config, store, None).await
    }

    /// The same, keeping every keyring that is read in the file `snapshot`, and beginning with the one that is there
    /// when the store is away. [`AuthError::NoKeyring`] or [`AuthError::Store`] with an error that
    /// [`StoreError::is_away`]: there is none, and it may help to wait.
    ///
    /// Not cancel safe: dropping it may leave threads behind until the process ends.
    pub async fn with_snapshot(
        config: Config,
        store: Store,
        snapshot: Option<PathBuf>,
    ) -> Result<Self, AuthError> {
        check_jwt_secret(&config.jwt_secret)?;
        let sealer = Arc::new(Sealer::new(&config.encryption_keys)?);
        let store = store.bound_by(Sealer::clone(&sealer));
        let keeper = snapshot.map(|path| Keeper::new(Snapshot::of_keyring(path), Arc::clone(&sealer)));
        let earlier = keeper.as_ref().map(|keeper| keeper.snapshot());
        let First { keys, ring, health } = health::first_keys(&store, earlier, &sealer).await?;
        let keyring = Keyring::build(keys.clone(), &sealer, &Keyring::empty());
        // First: under an ENCRYPTION_KEY that does not open them nothing is to be written.
        keyring.check_start()?;
        let ring = match health.keys_from {
            KeysFrom::Store => Some(ring::read(&store, &sealer, &config.jwt_secret).await?),
            KeysFrom::Snapshot { .. } => ring,
        };
        if let (KeysFrom::Store, Some(keeper), Some(ring)) = (health.keys_from, &keeper, &ring) {
            keeper.keep_now(kept(&keys, ring));
        }
        let ring = match ring {
            Some(keys) => Ring::build(&keys, &sealer, &Ring::empty()),
            None => Ring::alone(&config.jwt_secret),
        };
        ring.check_start()?;
        tell_closed(&keyring, &ring, None);
        if !ring.holds(&config.jwt_secret) {
            tracing::info!(
                "JWT_SECRET signs no tokens any more: it was rotated, and the keys in the database do"
            );
        }
        let hasher = Hasher::new(&config)?;
        Ok(Self {
            mode: config.mode,
            store,
            sealer,
            keyring: ArcSwap::from_pointee(keyring),
            keeper,
            health: ArcSwap::from_pointee(health),
            anonymous: Identity::anonymous(),
            tagger: Tagger::new(),
            tokens: Tokens::new(ring, config.token_lifetime),
            jwt_secret: config.jwt_secret,
            hasher,
            unknown: Refusals::new(UNKNOWN_FOR),
            strangers: Semaphore::new(STRANGERS_MAX),
            looks_begun: AtomicU64::new(0),
            looking: Mutex::new(()),
            look: watch::Sender::new(Look { number: 0, found: false }),
            asked: Mutex::new(None),
        })
    }

    /// What is known at once. No await, no lock, no store; in `Mode::Open` everyone is anonymous.
    pub fn check(&self, credential: &Credential<'_>) -> Check {
        self.check_at(credential, Now::read())
    }

    /// Finds out what `check` could not say: looks into the store, or has argon2 verify the secret.
    ///
    /// Cancel safe.
    pub async fn ask(&self, credential: &Credential<'_>) -> Result<Identity, Denied> {
        if let Some(known) = self.check(credential).known() {
            return known;
        }
        // Whatever is not in the keyring may be in the store: a key made a moment ago, or changed.
        if !self.is_in_keyring(credential) {
            let place = self.is_stranger(credential).then(|| self.strangers.try_acquire()).transpose();
            let _place = place.map_err(|_| Denied::Busy)?;
            self.look().await?;
            if let Some(known) = self.check(credential).known() {
                return known;
            }
        }
        match credential.0 {
            Kind::Key(key) => self.verify(&key).await,
            Kind::Token(token) => {
                // Of a key that the ring does not hold: not asked about again for a moment.
                if let Some(kid) = ring::kid(token) {
                    self.unknown.remember(&self.tagger.tag(kid.as_bytes()), Instant::now());
                }
                // Or genuine, and yet the store knows no such key, or only what it was before.
                Err(Denied::Invalid)
            }
        }
    }

    /// Whom everybody is in `Mode::Open`.
    pub fn open_identity(&self) -> Identity {
        self.anonymous.clone()
    }

    /// How requests are authenticated.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A token for a key that is still good. The anonymous client gets none: it needs none.
    pub fn mint_token(&self, identity: &Identity) -> Result<Token, Denied> {
        let now = Now::read();
        let keyring = self.keyring.load();
        let entry = keyring.entry(identity.key_id()).ok_or(Denied::Invalid)?;
        if !entry.admits(now.unix_s) || entry.identity().epoch() != identity.epoch() {
            return Err(Denied::Invalid);
        }
        self.tokens.mint(identity, entry.expires_at(), now.unix_s)
    }

    /// Seals ids and state that clients carry for us.
    pub fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// The store, for changes too.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Keys that are refused though the store has them on, and keys for tokens that are not gone by, for those who
    /// administer: how many, which, why, and what to do.
    pub fn closed(&self) -> Vec<String> {
        closed(&self.keyring.load(), &self.tokens.ring())
    }

    /// Whether the key behind a long-lived stream is what it was when the stream began. The end of a token does
    /// not end the stream it opened; the end of its key does.
    pub fn still_valid(&self, identity: &Identity) -> bool {
        if identity.key_id() == self.anonymous.key_id() {
            return self.mode == Mode::Open;
        }
        let keyring = self.keyring.load();
        let entry = keyring.entry(identity.key_id());
        entry.is_some_and(|e| e.identity().epoch() == identity.epoch() && e.admits(Now::read().unix_s))
    }

    /// Completes when the key behind a long-lived stream is not what it was any more. `changes` moves when keys changed;
    /// when nobody is left to tell of a change, none is known of. Does not notice that a key expires: nobody tells of
    /// that, and whoever waits for long asks for it now and then.
    pub async fn taken_back(&self, identity: &Identity, mut changes: watch::Receiver<u64>) {
        while self.still_valid(identity) {
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Publishes a new keyring if anything about a key has changed; to be called every second.
    /// `true`: it has, and live streams are to be asked whether they are `still_valid`.
    ///
    /// Cancel safe.
    pub async fn refresh(&self) -> Result<bool, StoreError> {
        let looking = self.looking.lock().await;
        self.run_look(&looking).await
    }

    /// Whether the store answers, and where the keys came from.
    pub fn health(&self) -> Arc<Health> {
        self.health.load_full()
    }

    /// What whoever watches the store has found out.
    pub fn note_away(&self, away: Option<&Away>) {
        self.health.rcu(|health| Health { away: away.cloned(), ..(**health).clone() });
    }

    /// argon2 runs since the start.
    pub fn hash_runs(&self) -> u64 {
        self.hasher.runs()
    }

    fn check_at(&self, credential: &Credential<'_>, now: Now) -> Check {
        if self.mode == Mode::Open {
            return Check::Granted(self.open_identity());
        }
        match credential.0 {
            Kind::Key(key) => self.check_key(&key, now),
            Kind::Token(token) => self.check_token(token, now),
        }
    }

    fn check_key(&self, key: &Parsed<'_>, now: Now) -> Check {
        let tag = self.tag(key);
        let keyring = self.keyring.load();
        let Some(entry) = keyring.entry(key.key_id()) else {
            let refused = self.unknown.hold(&tag, now.instant);
            return if refused { Check::Refused(Denied::Invalid) } else { Check::Ask };
        };
        if !entry.admits(now.unix_s) {
            return Check::Refused(Denied::Invalid);
        }
        match entry.belief(&tag, now.instant) {
            Belief::Hold => {}
            Belief::Renew => self.hasher.renew(entry, key, tag),
            Belief::Lack if !entry.imprint().may_be(key.secret()) => {
                return Check::Refused(Denied::Invalid);
            }
            Belief::Lack if self.hasher.knows_wrong(&tag, now.instant) => {
                return Check::Refused(Denied::Invalid);
            }
            Belief::Lack => return Check::Ask,
        }
        Check::Granted(entry.identity().clone())
    }

    fn check_token(&self, token: &str, now: Now) -> Check {
        let claim = match self.tokens.open(token, &self.tagger.tag(token.as_bytes()), now.unix_s) {
            Ok(claim) => claim,
            Err(Unopened::Deny(denied)) => return Check::Refused(denied),
            // Another replica signs with a key that this one has not heard of, or somebody makes them up.
            Err(Unopened::Unknown { kid }) => {
                let refused = self.unknown.hold(&self.tagger.tag(kid.as_bytes()), now.instant);
                return if refused { Check::Refused(Denied::Invalid) } else { Check::Ask };
            }
        };
        let keyring = self.keyring.load();
        match keyring.entry(claim.key_id) {
            Some(entry) if entry.identity().epoch() > claim.epoch => Check::Refused(Denied::Invalid),
            Some(entry) if entry.identity().epoch() < claim.epoch => Check::Ask,
            Some(entry) if entry.admits(now.unix_s) => Check::Granted(entry.identity().clone()),
            Some(_) => Check::Refused(Denied::Invalid),
            None => Check::Ask,
        }
    }

    fn is_in_keyring(&self, credential: &Credential<'_>) -> bool {
        match credential.0 {
            Kind::Key(key) => self.keyring.load().entry(key.key_id()).is_some(),
            Kind::Token(_) => false,
        }
    }

    /// Whether anybody could have made it up: of what is not in the keyring, all but a token that a key of our ring signed.
    fn is_stranger(&self, credential: &Credential<'_>) -> bool {
        match credential.0 {
            Kind::Key(_) => true,
            Kind::Token(token) => {
                let opened = self.tokens.open(token, &self.tagger.tag(token.as_bytes()), Now::read().unix_s);
                opened.is_err()
            }
        }
    }

    async fn verify(&self, key: &Parsed<'_>) -> Result<Identity, Denied> {
        let tag = self.tag(key);
        let entry = self.keyring.load().entry(key.key_id()).cloned();
        let Some(entry) = entry else {
            self.unknown.remember(&tag, Instant::now());
            return Err(Denied::Invalid);
        };
        match self.hasher.verify(&entry, key, tag).await {
            Ok(Verdict::Match) => {}
            Ok(Verdict::Differ) => return Err(Denied::Invalid),
            Err(_) => return Err(Denied::Busy),
        }
        // The key may have been switched off in the meantime.
        let now = self.keyring.load().entry(key.key_id()).cloned().ok_or(Denied::Invalid)?;
        if now.admits(Now::read().unix_s) { Ok(now.identity().clone()) } else { Err(Denied::Invalid) }
    }

    fn tag(&self, key: &Parsed<'_>) -> Tag {
        self.tagger.tag(key.as_bytes())
    }

    /// Looks into the store, together with everybody who wants to at this moment, and not more often than
    /// [`LOOK_PACE`], whatever is made up. Cancel safe: when the one who looks goes away, the next one does.
    async fn look(&self) -> Result<(), Denied> {
        let begun = self.looks_begun.load(Ordering::Acquire);
        // A look that began after we came has seen whatever was there when we came.
        let is_newer = |look: &Look| look.number > begun;
        let mut looks = self.look.subscribe();
        let mut asked = tokio::select! {
            biased;
            Ok(look) = looks.wait_for(is_newer) => return look.outcome(),
            asked = self.asked.lock() => asked,
        };
        if self.health.load().away.is_some() {
            // Whoever watches the store tries every second; a request would only hold its connection for as long.
            return Err(Denied::Busy);
        }
        // Not under the lock that a refresh needs: a key that was switched off does not wait.
        if let Some(last) = *asked {
            sleep_until(last + LOOK_PACE).await;
        }
        *asked = Some(tokio::time::Instant::now());
        let looking = self.looking.lock().await;
        if !is_newer(&self.look.borrow()) {
            drop(self.run_look(&looking).await);
        }
        self.look.borrow().outcome()
    }

    async fn run_look(&self, _looking: &MutexGuard<'_, ()>) -> Result<bool, StoreError> {
        let number = self.looks_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let changed = self.reload().await;
        self.look.send_replace(Look { number, found: changed.is_ok() });
        changed
    }

    async fn reload(&self) -> Result<bool, StoreError> {
        let (current, ring) = (self.keyring.load_full(), self.tokens.ring());
        let from_store = self.health.load().keys_from == KeysFrom::Store;
        let epochs = self.store.epochs().await?;
        if (epochs.keys, epochs.jwt_keys) == (current.epoch(), ring.epoch()) && from_store {
            return Ok(false);
        }
        let keys = self.store.keys().await?;
        let jwt_keys = ring::read(&self.store, &self.sealer, &self.jwt_secret).await?;
        let sealer = Arc::clone(&self.sealer);
        let kept = self.keeper.as_ref().map(|keeper| (keeper, kept(&keys, &jwt_keys)));
        // With thousands of keys it takes milliseconds, and whoever asks may be a worker with streams to serve.
        let build = tokio::task::spawn_blocking(move || {
            let next = Keyring::build(keys, &sealer, &current);
            let next_ring = Ring::build(&jwt_keys, &sealer, &ring);
            tell_closed(&next, &next_ring, Some((&current, &ring)));
            (next, next_ring)
        });
        let (next, ring) = build.await.map_err(|_| StoreError::Stopped)?;
        self.tokens.publish(ring);
        self.keyring.store(Arc::new(next));
        self.health.rcu(|health| Health { keys_from: KeysFrom::Store, ..(**health).clone() });
        if let Some((keeper, kept)) = kept {
            keeper.keep(kept);
        }
        Ok(true)
    }
}

fn closed(keyring: &Keyring, ring: &Ring) -> Vec<String> {
    let checked = [keyring.check(), ring.check()];
    checked.into_iter().filter_map(|checked| checked.err().map(|error| error.to_string())).collect()
}

/// Says what was not said already. The other keys must go on working.
fn tell_closed(keyring: &Keyring, ring: &Ring, before: Option<(&Keyring, &Ring)>) {
    let told = before.map(|(keyring, ring)| closed(keyring, ring)).unwrap_or_default();
    for error in closed(keyring, ring).into_iter().filter(|text| !told.contains(text)) {
        tracing::error!(error, "some keys cannot be used");
    }
}

fn kept(keys: &Keys, ring: &JwtKeys) -> Kept {
    Kept { written_at: Now::read().unix_s, keys: keys.clone(), ring: Some(ring.into()) }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Look {
    fn outcome(self) -> Result<(), Denied> {
        if self.found { Ok(()) } else { Err(Denied::Busy) }
    }
}

impl Check {
    fn known(self) -> Option<Result<Identity, Denied>> {
        match self {
            Self::Granted(identity) => Some(Ok(identity)),
            Self::Refused(denied) => Some(Err(denied)),
            Self::Ask => None,
        }
    }
}

impl Now {
    fn read() -> Self {
        // A clock before 1970 lets no token and no key with an end pass for longer than it should.
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        Self { instant: Instant::now(), unix_s }
    }
}

/// How long an unknown key id is refused without another look. No longer than the poll takes to learn of a new
/// key: with several replicas the store may lag by a moment.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// From one look into the store to the next that credentials ask for: 50 a second at most. A key that was made a moment
/// ago waits no longer than anybody notices.
const LOOK_PACE: Duration = Duration::from_millis(20);

/// Credentials that anybody could have made up, waiting for one look. They are answered all at once, in front of others:
/// a burst of more would be felt there. Beyond it they are told to come again, and a key that is genuine is known by then.
const STRANGERS_MAX: usize = 4;

#[cfg(test)]
mod tests;
