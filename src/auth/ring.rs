//! The keys that sign tokens, at one moment. Never changes: a new ring is published.
//!
//! ```text
//! next ──> active ──> retiring ──> taken out          verified by all, signed by the active one
//! ```
//!
//! A key is in the ring of every replica before the first token is signed by it, and stays there until the last one
//! has expired. A replica that lags behind asks the store when it meets a key it does not know.

mod kept;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};

use crate::store::{
    Audit, Binder, Bound, JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, NewJwtKey, Plain, Store, StoreError,
};

use super::closed::Closed;
use super::denied::AuthError;
use super::seal::Sealer;
use super::secrets::generate_jwt_secret;
use super::tag::derive;
use super::token::Verified;

pub use kept::KeptRing;

/// The snapshot that tokens are made and opened with.
pub struct Ring {
    epoch: u64,
    /// Newest first: most tokens are of the first or the second.
    keys: Vec<Arc<RingKey>>,
    signing: Option<Arc<RingKey>>,
    /// What these keys have verified. Handed on to the next ring unless that has lost one of them.
    verified: Arc<Verified>,
    closed: Vec<Closed>,
}

/// One key.
pub struct RingKey {
    kid: String,
    /// As it stands in every token, with the dot behind it. It is compared, not read.
    pinned: String,
    pub header: Header,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
}

impl Ring {
    /// Before any was read.
    pub fn empty() -> Self {
        Self { epoch: 0, keys: Vec::new(), signing: None, verified: Arc::default(), closed: Vec::new() }
    }

    /// Of one key that is nowhere but here: before the store was ever asked.
    pub fn alone(secret: &[u8]) -> Self {
        let key = Arc::new(RingKey::new(kid_of(secret), secret));
        Self { keys: vec![Arc::clone(&key)], signing: Some(key), ..Self::empty() }
    }

    /// Takes over from `previous` what was proven by keys that are still there.
    pub fn build(jwt_keys: &JwtKeys, sealer: &Sealer, previous: &Self) -> Self {
        let (mut keys, mut signing, mut closed) = (Vec::new(), None, Vec::new());
        for row in jwt_keys.rows.iter().rev().take(KEYS_MAX) {
            let (key, is_proven) = open(row, sealer, previous);
            let Some(key) = key else {
                closed.push(Closed::of(&row.kid, row.secret.key_version, sealer));
                continue;
            };
            // One that is only known may not be made to sign again.
            let signed = previous.signing.as_ref().is_some_and(|signing| signing.kid == key.kid);
            if row.phase == JwtPhase::Active && (is_proven || signed) {
                signing = Some(Arc::clone(&key));
            }
            keys.push(key);
        }
        let kept = |key: &Arc<RingKey>| keys.iter().any(|other| other.kid == key.kid);
        let verified =
            if previous.keys.iter().all(kept) { Arc::clone(&previous.verified) } else { Arc::default() };
        Self { epoch: jwt_keys.epoch, keys, signing, verified, closed }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The key that signs.
    pub fn signing(&self) -> Option<&RingKey> {
        self.signing.as_deref()
    }

    /// Whether a secret is one of the keys.
    pub fn holds(&self, secret: &[u8]) -> bool {
        let kid = kid_of(secret);
        self.keys.iter().any(|key| key.kid == kid)
    }

    /// The key whose header a token has.
    pub fn find(&self, token: &str) -> Option<&RingKey> {
        self.keys.iter().find(|key| token.starts_with(&key.pinned)).map(AsRef::as_ref)
    }

    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// An error when there is none that signs, or some do not open.
    pub fn check(&self) -> Result<(), AuthError> {
        if self.signing.is_some() && self.closed.is_empty() {
            return Ok(());
        }
        let keys = self.keys.len() + self.closed.len();
        Err(AuthError::Ring { unopened: self.closed.len(), keys, which: Closed::list(&self.closed) })
    }

    /// The same, but a start does without those that do not open, as long as one signs.
    pub fn check_start(&self) -> Result<(), AuthError> {
        if self.signing.is_none() { self.check() } else { Ok(()) }
    }
}

impl RingKey {
    fn new(kid: String, secret: &[u8]) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        let pinned = format!("{}.", URL_SAFE_NO_PAD.encode(format!("{HEADER_OPEN}{kid}{HEADER_CLOSE}")));
        header.kid = Some(kid.clone());
        Self {
            kid,
            pinned,
            header,
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
        }
    }

    #[cfg(test)]
    pub fn pinned(&self) -> &str {
        &self.pinned
    }
}

/// A key, and whether it opens. One of a version of `ENCRYPTION_KEY` that this process was not given stays what it was, if
/// it was there.
fn open(row: &JwtKeyRow, sealer: &Sealer, previous: &Ring) -> (Option<Arc<RingKey>>, bool) {
    if row.algorithm != JwtAlgorithm::Hs256 || !is_kid(&row.kid) {
        return (None, false);
    }
    match sealer.open_row(Bound::JwtKey(row)) {
        Some(secret) => (Some(Arc::new(RingKey::new(row.kid.clone(), secret.expose()))), true),
        None if sealer.knows(row.secret.key_version) => (None, false),
        None => (previous.keys.iter().find(|key| key.kid == row.kid).cloned(), false),
    }
}

/// The kid of a header that could be ours: to the last byte as we write it, but for the kid.
pub fn kid(token: &str) -> Option<String> {
    let (header, _) = token.split_once('.')?;
    if header.len() > HEADER_BYTES_MAX {
        return None;
    }
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let kid = json.strip_prefix(HEADER_OPEN)?.strip_suffix(HEADER_CLOSE)?;
    is_kid(kid).then(|| kid.to_owned())
}

fn is_kid(text: &str) -> bool {
    (1..=KID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The ring of the store; where that is empty, `secret` becomes its first key.
///
/// Cancel safe: asked again, it finds what it has done.
pub async fn read(store: &Store, sealer: &Sealer, secret: &[u8]) -> Result<JwtKeys, StoreError> {
    let keys = store.jwt_keys().await?;
    if !keys.rows.is_empty() {
        return Ok(keys);
    }
    let first = named(secret, JwtPhase::Active);
    match store.bound_by(sealer.clone()).insert_jwt_key(first, Audit::by(Audit::GATEWAY)).await {
        // Another replica was faster: its key counts, for all.
        Ok(_) | Err(StoreError::Exists { .. }) => store.jwt_keys().await,
        Err(error) => Err(error),
    }
}

/// A new key for the ring, to wait in the phase `next`.
pub fn new_jwt_key() -> NewJwtKey {
    named(generate_jwt_secret().as_bytes(), JwtPhase::Next)
}

fn named(secret: &[u8], phase: JwtPhase) -> NewJwtKey {
    let (kid, secret) = (kid_of(secret), Plain::new(secret.to_vec()));
    NewJwtKey { kid, algorithm: JwtAlgorithm::Hs256, secret, phase }
}

/// Replicas with the same secret have the same kid for it; of 256 random bits it tells nothing.
fn kid_of(secret: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&derive(secret, b"metamcp/v1/kid")[..KID_BYTES])
}

const HEADER_OPEN: &str = r#"{"typ":"JWT","alg":"HS256","kid":""#;
const HEADER_CLOSE: &str = r#""}"#;

/// Tells signing keys apart; no secret.
const KID_BYTES: usize = 6;

/// Ours have 8; somebody may like theirs longer.
const KID_CHARS_MAX: usize = 32;

/// base64 of the longest header there is.
const HEADER_BYTES_MAX: usize = (HEADER_OPEN.len() + KID_CHARS_MAX + HEADER_CLOSE.len()).div_ceil(3) * 4;

/// A token is compared with each: with a rotation a day these are the keys of half a month.
const KEYS_MAX: usize = 16;

#[cfg(test)]
mod tests;
