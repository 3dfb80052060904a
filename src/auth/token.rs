//! Short-lived tokens: JWT (RFC 7519), HS256, made and taken by us alone.
//!
//! The header is ours to the last byte and is compared, not read: so there is no algorithm, embedded key or critical
//! extension that a client could choose, and the key id chooses among the keys of our ring alone. What a token says
//! about its key is checked against the keyring at every use; a token that was verified is only spared the signature
//! and the parsing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Serialize};

use super::denied::Denied;
use super::identity::{Identity, KeyId};
use super::ring::{self, Ring, RingKey};
use super::secrets::random_bytes;
use super::tag::Tag;

/// A token and how long it lasts.
#[derive(Clone)]
pub struct Token {
    /// For `Authorization: Bearer`.
    pub access_token: String,
    /// Seconds from now.
    pub expires_in_s: u64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_in_s", &self.expires_in_s).finish_non_exhaustive()
    }
}

/// Makes and opens tokens.
pub struct Tokens {
    ring: ArcSwap<Ring>,
    validation: Validation,
    lifetime: Duration,
}

/// Tokens that were verified, each at the place its tag says.
pub struct Verified(Box<[ArcSwapOption<Known>]>);

struct Known {
    tag: Tag,
    claim: Claim,
}

/// What a genuine token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub key_id: KeyId,
    pub epoch: u64,
    /// Seconds since 1970.
    pub expires_at: u64,
}

/// Why a token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unopened {
    /// It never will.
    Deny(Denied),
    /// It looks like ours, of a key that the ring does not hold, or not yet.
    Unknown {
        /// Which.
        kid: String,
    },
}

/// RFC 7519, section 4.1, and the key's epoch.
#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    aud: String,
    sub: String,
    jti: String,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    exp: u64,
    epoch: u64,
}

impl Tokens {
    pub fn new(ring: Ring, lifetime: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        // Times are ours to check, with one clock for fresh and remembered tokens; being claims of a typed
        // payload, they must be there and be whole numbers.
        validation.validate_exp = false;
        Self { ring: ArcSwap::from_pointee(ring), validation, lifetime }
    }

    pub fn ring(&self) -> Arc<Ring> {
        self.ring.load_full()
    }

    /// From now on tokens are made and opened with this one.
    pub fn publish(&self, ring: Ring) {
        self.ring.store(Arc::new(ring));
    }

    /// A token for `identity` that ends with its key, if that comes first.
    pub fn mint(
        &self,
        identity: &Identity,
        key_expires_at: Option<u64>,
        unix_s: u64,
    ) -> Result<Token, Denied> {
        let ring = self.ring.load();
        let key = ring.signing().ok_or(Denied::Unsigned)?;
        let end = unix_s.saturating_add(self.lifetime.as_secs());
        let end = key_expires_at.map_or(end, |key_end| key_end.min(end));
        let payload = Payload {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: identity.key_id().to_string(),
            jti: URL_SAFE_NO_PAD.encode(random_bytes::<JTI_BYTES>()),
            iat: unix_s,
            nbf: None,
            exp: end,
            epoch: identity.epoch(),
        };
        let access_token =
            jsonwebtoken::encode(&key.header, &payload, &key.encoding).map_err(|_| Denied::Unsigned)?;
        Ok(Token { access_token, expires_in_s: end.saturating_sub(unix_s) })
    }

    /// What a token says, if it is one of ours and its time has come and is not over.
    pub fn open(&self, token: &str, tag: &Tag, unix_s: u64) -> Result<Claim, Unopened> {
        let ring = self.ring.load();
        let known = ring.verified().find(tag);
        let claim = if let Some(claim) = known {
            claim
        } else {
            let claim = self.verify(&ring, token, unix_s)?;
            ring.verified().remember(tag, claim);
            claim
        };
        let over = claim.expires_at.saturating_add(LEEWAY_S) <= unix_s;
        if over { Err(Unopened::Deny(Denied::Expired)) } else { Ok(claim) }
    }

    fn verify(&self, ring: &Ring, token: &str, unix_s: u64) -> Result<Claim, Unopened> {
        match ring.find(token) {
            Some(key) => self.verify_with(key, token, unix_s).map_err(Unopened::Deny),
            None => {
                Err(ring::kid(token).map_or(Unopened::Deny(Denied::Invalid), |kid| Unopened::Unknown { kid }))
            }
        }
    }

    fn verify_with(&self, key: &RingKey, token: &str, unix_s: u64) -> Result<Claim, Denied> {
        let payload: Payload =
            jsonwebtoken::decode(token, &key.decoding, &self.validation).map_err(|_| Denied::Invalid)?.claims;
        let soon = unix_s.saturating_add(LEEWAY_S);
        if payload.iat > soon || payload.nbf.is_some_and(|begin| begin > soon) {
            return Err(Denied::Invalid);
        }
        let key_id = KeyId::parse(&payload.sub).ok_or(Denied::Invalid)?;
        Ok(Claim { key_id, epoch: payload.epoch, expires_at: payload.exp })
    }
}

impl Default for Verified {
    fn default() -> Self {
        Self((0..VERIFIED_MAX).map(|_| ArcSwapOption::empty()).collect())
    }
}

impl Verified {
    fn find(&self, tag: &Tag) -> Option<Claim> {
        let known = self.place(tag).load();
        known.as_ref().filter(|known| known.tag == *tag).map(|known| known.claim)
    }

    fn remember(&self, tag: &Tag, claim: Claim) {
        self.place(tag).store(Some(Arc::new(Known { tag: *tag, claim })));
    }

    #[cfg(test)]
    pub fn holds(&self, tag: &Tag) -> bool {
        self.find(tag).is_some()
    }

    fn place(&self, tag: &Tag) -> &ArcSwapOption<Known> {
        &self.0[usize::try_from(tag.prefix() % VERIFIED_MAX).unwrap_or(0)]
    }
}

const ISSUER: &str = "metamcp";
const AUDIENCE: &str = "metamcp";

/// Replicas' clocks may differ by so much.
const LEEWAY_S: u64 = 30;

/// 128 bits: no two tokens are the same.
const JTI_BYTES: usize = 16;

/// Places for verified tokens. Two that meet at one place are verified in turn, which takes some microseconds;
/// 4096 take 32 KiB empty and some 600 KiB full.
const VERIFIED_MAX: u64 = 4096;

#[cfg(test)]
mod tests;
