//! The public part of an API key.

use std::fmt;

/// The public part of an API key: 12 base62 characters. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_BYTES]);

pub const KEY_ID_BYTES: usize = 12;

impl KeyId {
    /// The id of the anonymous client in `AuthMode::Open`. Never the id of a key: `-` is not a base62 digit.
    pub const ANONYMOUS: Self = Self(*b"anonymous---");

    /// Accepts exactly 12 base62 characters.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; KEY_ID_BYTES] = text.as_bytes().try_into().ok()?;
        bytes.iter().copied().all(is_base62).then_some(Self(bytes))
    }

    /// The inverse of [`KeyId::as_bytes`]: accepts the id of a key, and the anonymous id.
    pub fn from_bytes(bytes: &[u8; KEY_ID_BYTES]) -> Option<Self> {
        if *bytes == Self::ANONYMOUS.0 {
            return Some(Self::ANONYMOUS);
        }
        Self::parse(std::str::from_utf8(bytes).ok()?)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("both constructors accept ASCII only")
    }

    pub fn as_bytes(&self) -> &[u8; KEY_ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

pub fn is_base62(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}
