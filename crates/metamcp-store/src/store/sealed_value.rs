//! Sealed bytes of a row, and their plaintext.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Sealed bytes, opaque to the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedValue {
    pub bytes: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed them.
    pub key_version: u8,
}

/// The plaintext of a sealed value. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The plaintext of a row that has no secret.
    pub fn nothing() -> Self {
        Self::new(Vec::new())
    }

    /// The secret bytes: not to be logged or shown.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain(..)")
    }
}
