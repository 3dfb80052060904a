//! A keyed fingerprint of a credential, so that what was proven about it can be remembered without keeping it.

use std::hash::{Hash, Hasher};

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::secrets::random_bytes;

/// HMAC-SHA256 of a credential under a key that lives and dies with the process.
#[derive(Clone, Copy, Eq)]
pub struct Tag([u8; 32]);

impl PartialEq for Tag {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for Tag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Tag {
    /// A number from its start, as uniform as the tag is.
    pub fn prefix(&self) -> u64 {
        let first = self.0.first_chunk().expect("a tag is longer than a number");
        u64::from_le_bytes(*first)
    }
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Makes tags.
pub struct Tagger(Hmac<Sha256>);

impl Tagger {
    pub fn new() -> Self {
        Self::with_key(&random_bytes::<32>())
    }

    pub fn with_key(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    pub fn tag(&self, credential: &[u8]) -> Tag {
        let mut hmac = self.0.clone();
        hmac.update(credential);
        Tag(hmac.finalize().into_bytes().into())
    }
}

/// HMAC-SHA256 of `text` under `key`.
pub fn derive(key: &[u8], text: &[u8]) -> [u8; 32] {
    Tagger::with_key(key).tag(text).0
}
