//! The keyring of token signing keys at one moment. Immutable; a change publishes a new one.
//!
//! ```text
//! next ──> active ──> retiring ──> deleted          all of them verify, the active one signs
//! ```
//!
//! A key is in the keyring of every replica before it signs its first token, and stays there until the last of its
//! tokens has expired. A replica that lags behind asks the store when it meets an unknown kid.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};

use crate::store::{
    Audit, JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, NewJwtKey, Plaintext, RowSealer, SealedRow, Store,
    StoreError,
};

use super::error::AuthError;
use super::kid_digest::KidDigest;
use super::mac::hmac_sha256;
use super::seal::Sealer;
use super::secrets::generate_jwt_secret;
use super::token_cache::TokenCache;
use super::unseal_failure::UnsealFailure;

/// The snapshot of signing keys with which tokens are issued and verified.
pub struct JwtKeyring {
    epoch: u64,
    /// Newest first: most tokens were signed by the first or the second key.
    keys: Vec<Arc<SigningKey>>,
    signing: Option<Arc<SigningKey>>,
    /// Tokens verified with these keys. Shared with the next keyring, unless that one lost a key.
    token_cache: Arc<TokenCache>,
    failures: Vec<UnsealFailure>,
}

/// One token signing key.
pub struct SigningKey {
    kid: String,
    digest: KidDigest,
    /// The first part of every token under this key, encoded and with the dot. It is compared, never parsed.
    encoded_header: String,
    pub header: Header,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
}

impl JwtKeyring {
    /// The keyring before the store was first read.
    pub fn empty() -> Self {
        Self { epoch: 0, keys: Vec::new(), signing: None, token_cache: Arc::default(), failures: Vec::new() }
    }

    /// A keyring of one key that is not in the store, for a start without the store.
    pub fn from_secret(secret: &[u8]) -> Self {
        let key = Arc::new(SigningKey::new(derive_kid(secret), secret));
        Self { keys: vec![Arc::clone(&key)], signing: Some(key), ..Self::empty() }
    }

    /// Builds a keyring from stored rows. Takes over the verified tokens of `previous` if all its keys are still there.
    pub fn build(jwt_keys: &JwtKeys, sealer: &Sealer, previous: &Self) -> Self {
        let (mut keys, mut signing, mut failures) = (Vec::new(), None, Vec::new());
        for row in jwt_keys.rows.iter().rev().take(KEYS_MAX) {
            let (key, is_authentic) = open(row, sealer, previous);
            let Some(key) = key else {
                failures.push(UnsealFailure::new(&row.kid, row.secret.key_version, sealer));
                continue;
            };
            // A row that could not be authenticated must not turn a retired key into the signing one.
            let was_signing = previous.signing.as_ref().is_some_and(|signing| signing.kid == key.kid);
            if row.phase == JwtPhase::Active && (is_authentic || was_signing) {
                signing = Some(Arc::clone(&key));
            }
            keys.push(key);
        }
        let is_present = |key: &Arc<SigningKey>| keys.iter().any(|other| other.kid == key.kid);
        let has_all = previous.keys.iter().all(is_present);
        let token_cache = if has_all { Arc::clone(&previous.token_cache) } else { Arc::default() };
        Self { epoch: jwt_keys.epoch, keys, signing, token_cache, failures }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn signing_key(&self) -> Option<&SigningKey> {
        self.signing.as_deref()
    }

    /// Whether one of the keys was made from this secret.
    pub fn contains_secret(&self, secret: &[u8]) -> bool {
        let kid = derive_kid(secret);
        self.keys.iter().any(|key| key.kid == kid)
    }

    /// The key whose header the token begins with.
    pub fn key_for_token(&self, token: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|key| token.starts_with(&key.encoded_header)).map(AsRef::as_ref)
    }

    /// Whether the key with this digest still verifies tokens.
    pub fn contains(&self, digest: KidDigest) -> bool {
        self.keys.iter().any(|key| key.digest == digest)
    }

    pub fn token_cache(&self) -> &TokenCache {
        &self.token_cache
    }

    /// Fails when no key signs, or some rows do not open.
    pub fn check(&self) -> Result<(), AuthError> {
        if self.signing.is_some() && self.failures.is_empty() {
            return Ok(());
        }
        Err(AuthError::UnusableJwtKeys {
            unsealable: self.failures.len(),
            keys: self.keys.len() + self.failures.len(),
            examples: UnsealFailure::summarize(&self.failures),
        })
    }

    /// Like [`JwtKeyring::check`], for a start: fails only when no key signs.
    pub fn check_startup(&self) -> Result<(), AuthError> {
        if self.signing.is_none() { self.check() } else { Ok(()) }
    }
}

impl SigningKey {
    fn new(kid: String, secret: &[u8]) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        let header_json = format!("{HEADER_OPEN}{kid}{HEADER_CLOSE}");
        let encoded_header = format!("{}.", URL_SAFE_NO_PAD.encode(header_json));
        header.kid = Some(kid.clone());
        Self {
            digest: KidDigest::of(&kid),
            kid,
            encoded_header,
            header,
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
        }
    }

    pub fn digest(&self) -> KidDigest {
        self.digest
    }

    #[cfg(test)]
    pub fn encoded_header(&self) -> &str {
        &self.encoded_header
    }
}

/// The key of a row, and whether the row was authenticated. A row sealed under a version of `ENCRYPTION_KEY` that this
/// process was not given cannot be; if its key is known from `previous`, that one is kept.
fn open(row: &JwtKeyRow, sealer: &Sealer, previous: &JwtKeyring) -> (Option<Arc<SigningKey>>, bool) {
    if row.algorithm != JwtAlgorithm::Hs256 || !is_kid(&row.kid) {
        return (None, false);
    }
    match sealer.open_row(SealedRow::JwtKey(row)) {
        Some(secret) => (Some(Arc::new(SigningKey::new(row.kid.clone(), secret.expose()))), true),
        None if sealer.has_key_version(row.secret.key_version) => (None, false),
        None => (previous.keys.iter().find(|key| key.kid == row.kid).cloned(), false),
    }
}

/// The kid of a token whose header is, apart from the kid, byte for byte the one this program writes.
pub fn parse_kid(token: &str) -> Option<String> {
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

/// Reads the signing keys of the store. If there are none, stores `secret` as the first one, or a random one.
///
/// Cancel safe: a repeated call finds what an earlier one stored.
pub async fn load_or_create(
    store: &Store,
    sealer: &Sealer,
    secret: Option<&[u8]>,
) -> Result<JwtKeys, StoreError> {
    let keys = store.jwt_keys().await?;
    if !keys.rows.is_empty() {
        return Ok(keys);
    }
    let first = match secret {
        Some(secret) => jwt_key_from_secret(secret, JwtPhase::Active),
        None => NewJwtKey { phase: JwtPhase::Active, ..generate_jwt_key() },
    };
    match store.bound_by(sealer.clone()).insert_jwt_key(first, Audit::by(Audit::GATEWAY)).await {
        // If another replica was faster, its key is the one that all use.
        Ok(_) | Err(StoreError::Exists { .. }) => store.jwt_keys().await,
        Err(error) => Err(error),
    }
}

/// Generates a signing key in the phase `next`.
pub fn generate_jwt_key() -> NewJwtKey {
    jwt_key_from_secret(generate_jwt_secret().as_bytes(), JwtPhase::Next)
}

fn jwt_key_from_secret(secret: &[u8], phase: JwtPhase) -> NewJwtKey {
    let (kid, secret) = (derive_kid(secret), Plaintext::new(secret.to_vec()));
    NewJwtKey { kid, algorithm: JwtAlgorithm::Hs256, secret, phase }
}

/// Replicas derive the same kid from the same secret. The secret has 256 random bits, so the kid reveals nothing of use.
fn derive_kid(secret: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&hmac_sha256(secret, b"metamcp/v1/kid")[..KID_BYTES])
}

const HEADER_OPEN: &str = r#"{"typ":"JWT","alg":"HS256","kid":""#;
const HEADER_CLOSE: &str = r#""}"#;

/// Distinguishes signing keys. Not a secret.
const KID_BYTES: usize = 6;

/// Generated kids have 8 characters; other tools may choose longer ones.
const KID_CHARS_MAX: usize = 32;

/// The longest header in base64.
const HEADER_BYTES_MAX: usize = (HEADER_OPEN.len() + KID_CHARS_MAX + HEADER_CLOSE.len()).div_ceil(3) * 4;

/// A token is compared with each key. With a rotation a day, 16 keys cover half a month.
const KEYS_MAX: usize = 16;

#[cfg(test)]
mod tests;
