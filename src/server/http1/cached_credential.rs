//! The credential that a connection presented last, and whose it is.
//!
//! A client sends the same credential with every request of a connection. It is checked again when a second is over or
//! a key has changed, whichever comes first.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::auth::Identity;
use crate::limits::KeyUsage;

/// A credential that was accepted, as of one second and one version of the keys.
pub struct CachedCredential {
    /// The `Authorization` it came with; the connection's own buffer holds it too.
    pub value: Zeroizing<Vec<u8>>,
    /// Whose it is.
    pub identity: Identity,
    /// Counts the requests in flight of its key.
    pub gauge: Arc<KeyUsage>,
    /// The second in which it was checked.
    pub second: u64,
    /// The version of the keys that it was checked against.
    pub keys_version: u64,
}

impl CachedCredential {
    /// Whether it still stands for this value of `Authorization`, now.
    pub fn matches(&self, value: &[u8], second: u64, keys_version: u64) -> bool {
        self.second == second && self.keys_version == keys_version && is_same(&self.value, value)
    }
}

/// Whether two credentials are the same, in a time that tells nothing of where they differ. Eight bytes at a
/// time: a key has seventy.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let (one_words, one_rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let words = one_words.iter().zip(other_words);
    let difference = words.fold(0, |difference, (one, other)| {
        difference | (u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other))
    });
    one.len() == other.len() && bool::from(difference.ct_eq(&0) & one_rest.ct_eq(other_rest))
}
