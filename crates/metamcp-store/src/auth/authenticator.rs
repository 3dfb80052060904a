//! Checks the credential of a request, cheapest checks first.
//!
//! ```text
//! check:        form -> keyring -> status, expiry -> cached verdict -> prefilter     no await, no lock, no store
//! authenticate: one refresh from the store, shared by all who wait -> argon2, queued and shared
//! ```
//!
//! The tag of a credential is computed before the keyring is searched, so that an unknown key id takes as long as a
//! known one.

use std::collections::HashMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::store::{Store, StoreError, StoreOutage};

use super::client_certificate::ClientCertificate;
use super::clock::ClockReading;
use super::config::Config;
use super::credential::{Credential, CredentialKind};
use super::denial::AuthDenial;
use super::error::AuthError;
use super::hasher::{SecretHasher, SecretVerdict};
use super::health::AuthHealth;
use super::identity::Identity;
use super::jwt_keyring;
use super::key::ParsedApiKey;
use super::keyring::{CachedVerdict, KeyState};
use super::live_keys::LiveKeys;
use super::mac::{MacKey, MacTag};
use super::rejection_cache::RejectionCache;
use super::seal::Sealer;
use super::secrets::check_jwt_secret;
use super::token::{self, AccessToken, TokenError};
use metamcp_config::sections::AuthMode;
use metamcp_core::base::KeyId;

/// Checks credentials. Shared by all workers behind an `Arc`.
pub struct Authenticator {
    mode: AuthMode,
    keys: LiveKeys,
    anonymous: Identity,
    mac_key: MacKey,
    hasher: SecretHasher,
    /// Credentials with a key id, and kids of tokens, that the store did not know a moment ago.
    unknown: RejectionCache,
    /// Permits for credentials that wait for a refresh and carry nothing that only this installation could have made.
    unproven_permits: Semaphore,
}

/// What is known about a credential without waiting.
#[derive(Debug, Clone)]
pub enum CredentialCheck {
    Granted(Identity),
    Denied(AuthDenial),
    /// [`Authenticator::authenticate`] has to find out.
    Undecided,
}

impl Authenticator {
    /// Reads all keys. Fails when active keys exist and none of them opens.
    ///
    /// Not cancel safe: dropping it may leave threads behind until the process ends.
    pub async fn new(config: Config, store: Store) -> Result<Self, AuthError> {
        Self::with_snapshot(config, store, None).await
    }

    /// Like [`Authenticator::new`], but writes every keyring to the file `snapshot`, and starts from that file when the
    /// store is unavailable. An error that [is transient](AuthError::is_transient) means that there was no usable
    /// snapshot either, and a later start may succeed.
    ///
    /// Not cancel safe: dropping it may leave threads behind until the process ends.
    pub async fn with_snapshot(
        config: Config,
        store: Store,
        snapshot: Option<PathBuf>,
    ) -> Result<Self, AuthError> {
        config.jwt_secret.as_ref().map_or(Ok(()), |secret| check_jwt_secret(secret))?;
        let keys = LiveKeys::load(&config, store, snapshot).await?;
        let hasher = SecretHasher::new(&config)?;
        Ok(Self {
            mode: config.mode,
            keys,
            anonymous: Identity::anonymous(),
            mac_key: MacKey::random(),
            hasher,
            unknown: RejectionCache::new(UNKNOWN_TTL),
            unproven_permits: Semaphore::new(UNPROVEN_MAX),
        })
    }

    /// Checks a credential against what is in memory: no await, no lock, no store access. In `AuthMode::Open` every
    /// client is the anonymous one.
    pub fn check(&self, credential: &Credential<'_>) -> CredentialCheck {
        self.check_at(credential, ClockReading::now())
    }

    /// Decides what [`Authenticator::check`] could not: refreshes from the store, or has argon2 verify the secret.
    ///
    /// Cancel safe.
    pub async fn authenticate(&self, credential: &Credential<'_>) -> Result<Identity, AuthDenial> {
        if let Some(decision) = self.check(credential).into_decision() {
            return decision;
        }
        // A credential that is not in the keyring may be in the store: its key was just created or changed.
        if !self.is_in_keyring(credential) {
            let permit =
                self.is_unproven(credential).then(|| self.unproven_permits.try_acquire()).transpose();
            let _permit = permit.map_err(|_| AuthDenial::Busy)?;
            self.keys.refresh_for_request().await?;
            if let Some(decision) = self.check(credential).into_decision() {
                return decision;
            }
        }
        match credential.0 {
            CredentialKind::Key(key) => self.verify(&key).await,
            CredentialKind::Token(token) => {
                // The signing key is unknown to the store as well: it is not asked again for a moment.
                if let Some(kid) = jwt_keyring::parse_kid(token) {
                    self.unknown.insert(&self.mac_key.tag(kid.as_bytes()), Instant::now());
                }
                // Otherwise the token is genuine, and the store does not know its API key or only an older epoch of it.
                Err(AuthDenial::Invalid)
            }
        }
    }

    /// The identity of a request without a credential, on a connection with a client certificate. It ends with the key that
    /// the certificate stands for, or with the certificate. No await, no lock, no store access: a key that was created a
    /// moment ago is refused until the next refresh.
    pub fn identify_certificate(&self, certificate: ClientCertificate) -> Result<Identity, AuthDenial> {
        let ClientCertificate::Key { key_id, expires_at } = certificate else {
            return Err(AuthDenial::CertificateExcluded);
        };
        if self.mode == AuthMode::Open {
            return Ok(self.anonymous_identity());
        }
        let (keyring, now) = (self.keys.keyring(), ClockReading::now());
        let entry = keyring.entry(key_id).filter(|entry| entry.is_usable(now.unix_s));
        let entry = entry.filter(|_| now.unix_s < expires_at).ok_or(AuthDenial::Certificate)?;
        Ok(entry.identity().with_certificate(expires_at))
    }

    /// The identity of every client in `AuthMode::Open`.
    pub fn anonymous_identity(&self) -> Identity {
        self.anonymous.clone()
    }

    /// Whether clients must present a credential.
    pub fn mode(&self) -> AuthMode {
        self.mode
    }

    /// Issues an access token for a key that is still valid. The anonymous client needs none and gets none.
    pub fn mint_token(&self, identity: &Identity) -> Result<AccessToken, AuthDenial> {
        let now = ClockReading::now();
        let keyring = self.keys.keyring();
        let entry = keyring.entry(identity.key_id()).ok_or(AuthDenial::Invalid)?;
        if !entry.is_usable(now.unix_s) || entry.identity().epoch() != identity.epoch() {
            return Err(AuthDenial::Invalid);
        }
        self.keys.tokens().mint(identity, entry.expires_at(), now.unix_s)
    }

    /// The sealer for ids and state that clients carry.
    pub fn sealer(&self) -> &Arc<Sealer> {
        self.keys.sealer()
    }

    /// The store, with the sealer that changes need.
    pub fn store(&self) -> &Store {
        self.keys.store()
    }

    /// Describes, for administrators, the active API keys and the token signing keys that cannot be used: how many,
    /// which, why, and what to do.
    pub fn unusable_keys(&self) -> Vec<String> {
        self.keys.unusable_keys()
    }

    /// Whether a key is known and active, or keys are not required. Its end of validity is not looked at.
    pub fn is_active(&self, key_id: KeyId) -> bool {
        self.mode == AuthMode::Open || self.keys.keyring().is_active(key_id)
    }

    /// The state of each key, disabled ones included.
    pub fn key_states(&self) -> HashMap<KeyId, KeyState> {
        self.keys.keyring().key_states()
    }

    /// The keys that have a quota.
    pub fn keys_with_quotas(&self) -> Vec<KeyId> {
        self.keys.keyring().keys_with_quotas()
    }

    /// Whether the credential behind a long-lived stream is still valid: its key is unchanged since the stream began, and
    /// still active; a token has not expired, and the key that signed it was not deleted; a client certificate has not
    /// expired.
    pub fn is_still_valid(&self, identity: &Identity) -> bool {
        if identity.key_id() == self.anonymous.key_id() {
            return self.mode == AuthMode::Open;
        }
        let keyring = self.keys.keyring();
        let entry = keyring.entry(identity.key_id());
        let now = ClockReading::now();
        entry.is_some_and(|e| e.identity().epoch() == identity.epoch() && e.is_usable(now.unix_s))
            && identity.certificate_expires_at().is_none_or(|end| now.unix_s < end)
            && identity.token().is_none_or(|token| self.keys.tokens().is_still_valid(token, now.unix_s))
    }

    /// The time until the credential expires by itself; a day, if that is later or never.
    fn time_left(&self, identity: &Identity) -> Duration {
        let keyring = self.keys.keyring();
        let key_end = keyring.entry(identity.key_id()).and_then(|entry| entry.expires_at());
        let ends = key_end.into_iter().chain(identity.token().map(token::expiry));
        let ends = ends.chain(identity.certificate_expires_at());
        let left_s = ends.min().map(|end| end.saturating_sub(ClockReading::now().unix_s));
        left_s.map_or(EXPIRY_LOOK_MAX, |left_s| Duration::from_secs(left_s.max(1)).min(EXPIRY_LOOK_MAX))
    }

    /// Completes when the credential behind a long-lived stream is no longer valid. `changes` moves when keys changed; once
    /// its sender is dropped, only expiry is noticed.
    pub async fn wait_for_revocation(&self, identity: &Identity, mut changes: watch::Receiver<u64>) {
        while self.is_still_valid(identity) {
            let changed = async {
                if changes.changed().await.is_err() {
                    pending::<()>().await;
                }
            };
            // What expires is not announced.
            let _ = timeout(self.time_left(identity), changed).await;
        }
    }

    /// Publishes a new keyring if any key changed; to be called every second. `true` when it did: live streams must then
    /// be checked with [`Authenticator::is_still_valid`].
    ///
    /// Cancel safe.
    pub async fn refresh(&self) -> Result<bool, StoreError> {
        self.keys.refresh().await
    }

    /// Whether the store answers, and where the keys came from.
    pub fn health(&self) -> Arc<AuthHealth> {
        self.keys.health()
    }

    /// Records whether the store answers, as found by the store watcher.
    pub fn set_store_outage(&self, outage: Option<&StoreOutage>) {
        self.keys.set_store_outage(outage);
    }

    /// Applies other times to what is issued and verified from now on.
    pub fn set_timing(&self, token_lifetime: Duration, verified_for: Duration) {
        self.keys.set_token_lifetime(token_lifetime);
        self.hasher.set_verified_for(verified_for);
    }

    /// argon2 runs since the start.
    pub fn hash_runs(&self) -> u64 {
        self.hasher.runs()
    }

    fn check_at(&self, credential: &Credential<'_>, now: ClockReading) -> CredentialCheck {
        if self.mode == AuthMode::Open {
            return CredentialCheck::Granted(self.anonymous_identity());
        }
        match credential.0 {
            CredentialKind::Key(key) => self.check_key(&key, now),
            CredentialKind::Token(token) => self.check_token(token, now),
        }
    }

    fn check_key(&self, key: &ParsedApiKey<'_>, now: ClockReading) -> CredentialCheck {
        let tag = self.tag(key);
        let keyring = self.keys.keyring();
        let Some(entry) = keyring.entry(key.key_id()) else { return self.check_unknown(&tag, now) };
        if !entry.is_usable(now.unix_s) {
            return CredentialCheck::Denied(AuthDenial::Invalid);
        }
        match entry.cached_verdict(&tag, now.instant) {
            CachedVerdict::Valid => {}
            CachedVerdict::RenewalDue => self.hasher.reverify(entry, key, tag),
            CachedVerdict::Absent if !entry.verifier().passes_prefilter(key.secret()) => {
                return CredentialCheck::Denied(AuthDenial::Invalid);
            }
            CachedVerdict::Absent if self.hasher.is_known_wrong(&tag, now.instant) => {
                return CredentialCheck::Denied(AuthDenial::Invalid);
            }
            CachedVerdict::Absent => return CredentialCheck::Undecided,
        }
        CredentialCheck::Granted(entry.identity().clone())
    }

    fn check_token(&self, token: &str, now: ClockReading) -> CredentialCheck {
        let tag = self.mac_key.tag(token.as_bytes());
        let claims = match self.keys.tokens().verify(token, &tag, now.unix_s) {
            Ok(claims) => claims,
            Err(TokenError::Denied(denial)) => return CredentialCheck::Denied(denial),
            // Another replica signs with a key that is new to this one, or the kid is made up.
            Err(TokenError::UnknownKid { kid }) => {
                return self.check_unknown(&self.mac_key.tag(kid.as_bytes()), now);
            }
        };
        let keyring = self.keys.keyring();
        match keyring.entry(claims.key_id) {
            Some(entry) if entry.identity().epoch() > claims.epoch => {
                CredentialCheck::Denied(AuthDenial::Invalid)
            }
            Some(entry) if entry.identity().epoch() < claims.epoch => CredentialCheck::Undecided,
            Some(entry) if entry.is_usable(now.unix_s) => {
                CredentialCheck::Granted(self.keys.tokens().identity(&tag, entry.identity(), claims))
            }
            Some(_) => CredentialCheck::Denied(AuthDenial::Invalid),
            None => CredentialCheck::Undecided,
        }
    }

    /// A key id or kid that is not in the keyrings: refused if the store did not know it a moment ago.
    fn check_unknown(&self, tag: &MacTag, now: ClockReading) -> CredentialCheck {
        if self.unknown.contains(tag, now.instant) {
            CredentialCheck::Denied(AuthDenial::Invalid)
        } else {
            CredentialCheck::Undecided
        }
    }

    fn is_in_keyring(&self, credential: &Credential<'_>) -> bool {
        match credential.0 {
            CredentialKind::Key(key) => self.keys.keyring().entry(key.key_id()).is_some(),
            CredentialKind::Token(_) => false,
        }
    }

    /// Whether anyone could have made the credential up. Of the credentials that are not in the keyring, only a token
    /// signed by one of our keys is proven.
    fn is_unproven(&self, credential: &Credential<'_>) -> bool {
        match credential.0 {
            CredentialKind::Key(_) => true,
            CredentialKind::Token(token) => {
                let tag = self.mac_key.tag(token.as_bytes());
                self.keys.tokens().verify(token, &tag, ClockReading::now().unix_s).is_err()
            }
        }
    }

    async fn verify(&self, key: &ParsedApiKey<'_>) -> Result<Identity, AuthDenial> {
        let tag = self.tag(key);
        let entry = self.keys.keyring().entry(key.key_id()).cloned();
        let Some(entry) = entry else {
            self.unknown.insert(&tag, Instant::now());
            return Err(AuthDenial::Invalid);
        };
        match self.hasher.verify(&entry, key, tag).await {
            Ok(SecretVerdict::Match) => {}
            Ok(SecretVerdict::Differ) => return Err(AuthDenial::Invalid),
            Err(_) => return Err(AuthDenial::Busy),
        }
        // The key may have been disabled during the run.
        let entry = self.keys.keyring().entry(key.key_id()).cloned().ok_or(AuthDenial::Invalid)?;
        let is_usable = entry.is_usable(ClockReading::now().unix_s);
        if is_usable { Ok(entry.identity().clone()) } else { Err(AuthDenial::Invalid) }
    }

    fn tag(&self, key: &ParsedApiKey<'_>) -> MacTag {
        self.mac_key.tag(key.as_bytes())
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl CredentialCheck {
    fn into_decision(self) -> Option<Result<Identity, AuthDenial>> {
        match self {
            Self::Granted(identity) => Some(Ok(identity)),
            Self::Denied(denial) => Some(Err(denial)),
            Self::Undecided => None,
        }
    }
}

/// How long an unknown key id is refused without another refresh. No longer than the poll takes to learn of a new key:
/// with several replicas the store may lag by a moment.
const UNKNOWN_TTL: Duration = Duration::from_secs(1);

/// Unproven credentials that may wait for one refresh. They are answered all at once, ahead of other work, so
/// a larger burst would delay other requests. The next one gets a "try again later"; if it is genuine, its
/// key is known by then.
const UNPROVEN_MAX: usize = 4;

/// Between two looks whether a credential that expires late has expired: a clock may be set.
const EXPIRY_LOOK_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
