//! A cache of access tokens whose signature was verified.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::identity::{Identity, IdentityData, TokenProof};
use super::mac::MacTag;
use metamcp_core::base::KeyId;

/// The claims of a genuine token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenClaims {
    pub key_id: KeyId,
    /// The epoch of the API key when the token was issued.
    pub epoch: u64,
    pub proof: TokenProof,
}

/// Verified tokens in a fixed table. The tag of a token selects its slot.
pub struct TokenCache(Box<[ArcSwapOption<CachedToken>]>);

struct CachedToken {
    tag: MacTag,
    claims: TokenClaims,
    /// What the token last proved, so that no request makes it again.
    identity: ArcSwapOption<IdentityData>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| ArcSwapOption::empty()).collect())
    }
}

impl TokenCache {
    pub fn get(&self, tag: &MacTag) -> Option<TokenClaims> {
        let cached = self.slot(tag).load();
        cached.as_ref().filter(|cached| cached.tag == *tag).map(|cached| cached.claims)
    }

    pub fn insert(&self, tag: &MacTag, claims: TokenClaims) {
        self.slot(tag).store(Some(Arc::new(CachedToken {
            tag: *tag,
            claims,
            identity: ArcSwapOption::empty(),
        })));
    }

    /// The identity that a verified token proves, of the key `of`.
    pub fn identity(&self, tag: &MacTag, of: &Identity, proof: TokenProof) -> Identity {
        let cached = self.slot(tag).load();
        let Some(cached) = cached.as_ref().filter(|cached| cached.tag == *tag) else {
            return of.with_token(proof);
        };
        let known = cached.identity.load_full().map(Identity::from_data);
        known.filter(|known| known.has_same_key(of)).unwrap_or_else(|| {
            let identity = of.with_token(proof);
            cached.identity.store(Some(Arc::clone(identity.data())));
            identity
        })
    }

    fn slot(&self, tag: &MacTag) -> &ArcSwapOption<CachedToken> {
        &self.0[usize::try_from(tag.prefix() % SLOTS).unwrap_or(0)]
    }
}

/// Two tokens that share a slot are verified in turn, which takes some microseconds each. 4096 slots take 32 KiB empty
/// and about 600 KiB full.
const SLOTS: u64 = 4096;
