//! Message authentication codes: HMAC-SHA256 (RFC 2104).
//!
//! A tag under a random process key stands for a credential in caches, so that the credential itself is not kept.

use std::hash::{Hash, Hasher};

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::secrets::random_bytes;

/// An HMAC-SHA256 tag. Compares in constant time.
#[derive(Clone, Copy, Eq)]
pub struct MacTag([u8; 32]);

impl PartialEq for MacTag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for MacTag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl MacTag {
    /// The first 64 bits, as uniformly distributed as the whole tag.
    pub fn prefix(&self) -> u64 {
        let first = self.0.first_chunk().expect("a tag is longer than 64 bits");
        u64::from_le_bytes(*first)
    }
}

impl AsRef<[u8]> for MacTag {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A key for HMAC-SHA256.
pub struct MacKey(Hmac<Sha256>);

impl MacKey {
    /// A new key from the operating system's random source: it lives and dies with the process.
    pub fn random() -> Self {
        Self::from_bytes(&random_bytes::<32>())
    }

    pub fn from_bytes(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC accepts keys of any length"))
    }

    pub fn tag(&self, message: &[u8]) -> MacTag {
        let mut hmac = self.0.clone();
        hmac.update(message);
        MacTag(hmac.finalize().into_bytes().into())
    }
}

/// The raw HMAC-SHA256 of `text` under `key`.
pub fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    MacKey::from_bytes(key).tag(text).0
}
