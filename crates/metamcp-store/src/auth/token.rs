//! Short-lived access tokens: JWT (RFC 7519), HS256, issued and verified by this program alone.
//!
//! The header of a token is compared byte by byte with the one this program writes, and never parsed. A
//! client can therefore not choose an algorithm, an embedded key or a critical extension, and a `kid` only
//! selects among the keys of the keyring. The claims about the API key are checked against the API keyring at
//! every use. A token in the cache is spared the signature check and the parsing, nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Serialize};

use super::denial::AuthDenial;
use super::identity::{Identity, TokenProof};
use super::jwt_keyring::{self, JwtKeyring, SigningKey};
use super::mac::MacTag;
use super::secrets::random_bytes;
use super::token_cache::TokenClaims;
use metamcp_core::base::KeyId;

/// An access token and its lifetime.
#[derive(Clone)]
pub struct AccessToken {
    /// The value for `Authorization: Bearer`.
    pub access_token: String,
    /// Seconds until it expires.
    pub expires_in_s: u64,
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken").field("expires_in_s", &self.expires_in_s).finish_non_exhaustive()
    }
}

/// Issues and verifies access tokens.
pub struct TokenAuthority {
    keyring: ArcSwap<JwtKeyring>,
    validation: Validation,
    lifetime_s: AtomicU64,
}

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// The token is invalid or has expired.
    Denied(AuthDenial),
    /// The token looks like one of this gateway, under a key that is not in the keyring, or not yet.
    UnknownKid { kid: String },
}

/// The claims of RFC 7519, section 4.1, and the key's epoch.
#[derive(Serialize, Deserialize)]
struct JwtPayload {
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

impl TokenAuthority {
    pub fn new(keyring: JwtKeyring, lifetime: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        // Times are checked below, with one clock for fresh and cached tokens. As fields of a typed payload
        // they must be present and whole numbers.
        validation.validate_exp = false;
        Self {
            keyring: ArcSwap::from_pointee(keyring),
            validation,
            lifetime_s: AtomicU64::new(lifetime.as_secs()),
        }
    }

    /// Sets the lifetime of tokens that are issued from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.lifetime_s.store(lifetime.as_secs(), Ordering::Relaxed);
    }

    pub fn keyring(&self) -> Arc<JwtKeyring> {
        self.keyring.load_full()
    }

    /// Replaces the keyring that signs and verifies tokens.
    pub fn publish(&self, keyring: JwtKeyring) {
        self.keyring.store(Arc::new(keyring));
    }

    /// Issues a token for `identity`. It expires with its key, if the key expires first.
    pub fn mint(
        &self,
        identity: &Identity,
        key_expires_at: Option<u64>,
        unix_s: u64,
    ) -> Result<AccessToken, AuthDenial> {
        let keyring = self.keyring.load();
        let key = keyring.signing_key().ok_or(AuthDenial::Unsigned)?;
        let end = unix_s.saturating_add(self.lifetime_s.load(Ordering::Relaxed));
        let end = key_expires_at.map_or(end, |key_end| key_end.min(end));
        let payload = JwtPayload {
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
            jsonwebtoken::encode(&key.header, &payload, &key.encoding).map_err(|_| AuthDenial::Unsigned)?;
        Ok(AccessToken { access_token, expires_in_s: end.saturating_sub(unix_s) })
    }

    /// Verifies a token and returns its claims. `tag` is the tag of the token's text, for the cache.
    pub fn verify(&self, token: &str, tag: &MacTag, unix_s: u64) -> Result<TokenClaims, TokenError> {
        let keyring = self.keyring.load();
        let claims = if let Some(claims) = keyring.token_cache().get(tag) {
            claims
        } else {
            let claims = self.verify_uncached(&keyring, token, unix_s)?;
            keyring.token_cache().insert(tag, claims);
            claims
        };
        let has_expired = expiry(claims.proof) <= unix_s;
        if has_expired { Err(TokenError::Denied(AuthDenial::Expired)) } else { Ok(claims) }
    }

    /// The identity that a verified token proves, of the key `of`. `tag` is the tag of the token's text.
    pub fn identity(&self, tag: &MacTag, of: &Identity, claims: TokenClaims) -> Identity {
        self.keyring.load().token_cache().identity(tag, of, claims.proof)
    }

    /// Whether a token that was verified is still valid: it has not expired, and the key that signed it was not
    /// deleted.
    pub fn is_still_valid(&self, token: TokenProof, unix_s: u64) -> bool {
        unix_s < expiry(token) && self.keyring.load().contains(token.signed_by)
    }

    fn verify_uncached(
        &self,
        keyring: &JwtKeyring,
        token: &str,
        unix_s: u64,
    ) -> Result<TokenClaims, TokenError> {
        match keyring.key_for_token(token) {
            Some(key) => self.verify_with(key, token, unix_s).map_err(TokenError::Denied),
            None => Err(jwt_keyring::parse_kid(token)
                .map_or(TokenError::Denied(AuthDenial::Invalid), |kid| TokenError::UnknownKid { kid })),
        }
    }

    fn verify_with(&self, key: &SigningKey, token: &str, unix_s: u64) -> Result<TokenClaims, AuthDenial> {
        let payload: JwtPayload = jsonwebtoken::decode(token, &key.decoding, &self.validation)
            .map_err(|_| AuthDenial::Invalid)?
            .claims;
        let latest = unix_s.saturating_add(LEEWAY_S);
        if payload.iat > latest || payload.nbf.is_some_and(|begin| begin > latest) {
            return Err(AuthDenial::Invalid);
        }
        let key_id = KeyId::parse(&payload.sub).ok_or(AuthDenial::Invalid)?;
        let proof = TokenProof { expires_at: payload.exp, signed_by: key.digest() };
        Ok(TokenClaims { key_id, epoch: payload.epoch, proof })
    }
}

/// When a token is refused, and what it opened ends: Unix time in seconds.
pub fn expiry(token: TokenProof) -> u64 {
    token.expires_at.saturating_add(LEEWAY_S)
}

const ISSUER: &str = "metamcp";
const AUDIENCE: &str = "metamcp";

/// Tolerated difference between the clocks of replicas.
const LEEWAY_S: u64 = 30;

/// 128 bits, so that no two tokens are the same.
const JTI_BYTES: usize = 16;

#[cfg(test)]
mod tests;
