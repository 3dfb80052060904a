//! The credential that a connection presented last, and the identity it resolved to.
//!
//! A client sends the same credential with every request of a connection. The cached result is valid until
//! the second ends or a key changes.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::limits::KeyUsage;
use metamcp_store::auth::Identity;

/// A credential that was accepted in one second with one version of the keys.
pub struct CachedCredential {
    /// The value of `Authorization`. The connection's read buffer holds it too.
    pub value: Zeroizing<Vec<u8>>,
    pub identity: Identity,
    /// The usage of its key.
    pub usage: Arc<KeyUsage>,
    /// The epoch in which it was checked.
    pub epoch: CredentialEpoch,
}

/// The second and the key version in which a credential was found valid. Both matter: a key expires without
/// an event, and changes with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialEpoch {
    /// Seconds since the Unix epoch.
    pub second: u64,
    /// How often the keys have changed.
    pub keys_version: u64,
}

impl CredentialEpoch {
    /// Before every other: nothing was checked yet.
    pub const NEVER: Self = Self { second: 0, keys_version: u64::MAX };
}

impl CachedCredential {
    /// Whether it stands for this value of `Authorization` now.
    pub fn matches(&self, value: &[u8], now: CredentialEpoch) -> bool {
        self.epoch == now && is_same(&self.value, value)
    }
}

/// Compares two credentials in constant time, eight bytes at a time: a key has seventy.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let (one_words, one_rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let words = one_words.iter().zip(other_words);
    let difference = words.fold(0, |difference, (one, other)| {
        difference | (u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other))
    });
    one.len() == other.len() && bool::from(difference.ct_eq(&0) & one_rest.ct_eq(other_rest))
}
