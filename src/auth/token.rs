//! Short-lived tokens: JWT (RFC 7519), HS256, made and taken by us alone.
//!
//! The header is ours to the last byte and is compared, not read: so there is no algorithm, key id, embedded key
//! or critical extension that a client could choose. What a token says about its key is checked against the
//! keyring at every use; a token that was verified is only spared the signature and the parsing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::denied::Denied;
use super::identity::{Identity, KeyId};
use super::secrets::random_bytes;
use super::tag::{Tag, derive};

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
    header: Header,
    /// The header as it stands in every token, with the dot behind it.
    pinned: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    lifetime: Duration,
    /// Tokens that were verified, each at the place its tag says.
    verified: Box<[ArcSwapOption<Verified>]>,
}

struct Verified {
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
    pub fn new(secret: &[u8], lifetime: Duration) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(URL_SAFE_NO_PAD.encode(&derive(secret, b"metamcp/v1/kid")[..KID_BYTES]));
        let json = serde_json::to_vec(&header).expect("a header holds nothing but texts");
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        // Times are ours to check, with one clock for fresh and remembered tokens; being claims of a typed
        // payload, they must be there and be whole numbers.
        validation.validate_exp = false;
        Self {
            pinned: format!("{}.", URL_SAFE_NO_PAD.encode(json)),
            header,
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            lifetime,
            verified: (0..VERIFIED_MAX).map(|_| ArcSwapOption::empty()).collect(),
        }
    }

    /// A token for `identity` that ends with its key, if that comes first.
    pub fn mint(
        &self,
        identity: &Identity,
        key_expires_at: Option<u64>,
        unix_s: u64,
    ) -> Result<Token, Denied> {
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
            jsonwebtoken::encode(&self.header, &payload, &self.encoding).map_err(|_| Denied::Busy)?;
        Ok(Token { access_token, expires_in_s: end.saturating_sub(unix_s) })
    }

    /// What a token says, if it is one of ours and its time has come and is not over.
    pub fn open(&self, token: &str, tag: &Tag, unix_s: u64) -> Result<Claim, Denied> {
        let place = &self.verified[usize::try_from(tag.prefix() % VERIFIED_MAX).unwrap_or(0)];
        let known = place.load().as_ref().filter(|verified| verified.tag == *tag).map(|known| known.claim);
        let claim = if let Some(claim) = known {
            claim
        } else {
            let claim = self.verify(token, unix_s)?;
            place.store(Some(Arc::new(Verified { tag: *tag, claim })));
            claim
        };
        if claim.expires_at.saturating_add(LEEWAY_S) <= unix_s { Err(Denied::Expired) } else { Ok(claim) }
    }

    fn verify(&self, token: &str, unix_s: u64) -> Result<Claim, Denied> {
        if !token.starts_with(&self.pinned) {
            return Err(Denied::Invalid);
        }
        let payload: Payload = jsonwebtoken::decode(token, &self.decoding, &self.validation)
            .map_err(|_| Denied::Invalid)?
            .claims;
        let soon = unix_s.saturating_add(LEEWAY_S);
        if payload.iat > soon || payload.nbf.is_some_and(|begin| begin > soon) {
            return Err(Denied::Invalid);
        }
        let key_id = KeyId::parse(&payload.sub).ok_or(Denied::Invalid)?;
        Ok(Claim { key_id, epoch: payload.epoch, expires_at: payload.exp })
    }
}

const ISSUER: &str = "metamcp";
const AUDIENCE: &str = "metamcp";

/// Replicas' clocks may differ by so much.
const LEEWAY_S: u64 = 30;

/// Tells signing keys apart; no secret.
const KID_BYTES: usize = 6;

/// 128 bits: no two tokens are the same.
const JTI_BYTES: usize = 16;

/// Places for verified tokens. Two that meet at one place are verified in turn, which takes some microseconds;
/// 4096 take 32 KiB empty and some 600 KiB full.
const VERIFIED_MAX: u64 = 4096;

#[cfg(test)]
mod tests;
