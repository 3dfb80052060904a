//! Who is asking.

use std::fmt;
use std::sync::Arc;

use super::key::{KEY_ID_BYTES, is_base62};
use crate::store::{Grants, Role};

/// The public part of an API key: 12 characters of base62. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl KeyId {
    /// What an anonymous client goes by in `Mode::Open`. Never the id of a key: `-` is not of base62.
    pub const ANONYMOUS: Self = Self(*b"anonymous---");

    /// Takes exactly 12 characters of base62.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; KEY_ID_BYTES] = text.as_bytes().try_into().ok()?;
        bytes.iter().copied().all(is_base62).then_some(Self(bytes))
    }

    /// Back from [`KeyId::as_bytes`]: of a key, or the anonymous one.
    pub fn from_bytes(bytes: &[u8; KEY_ID_BYTES]) -> Option<Self> {
        if *bytes == Self::ANONYMOUS.0 {
            return Some(Self::ANONYMOUS);
        }
        Self::parse(std::str::from_utf8(bytes).ok()?)
    }

    /// As in the key.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("both constructors take ASCII only")
    }

    /// As in the key.
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

/// Evidence that a credential was checked. Only `auth` makes one; cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Claims>);

#[derive(Debug)]
struct Claims {
    key_id: KeyId,
    name: String,
    epoch: u64,
    grants: Grants,
}

impl Identity {
    pub(super) fn new(key_id: KeyId, name: String, epoch: u64, grants: Grants) -> Self {
        Self(Arc::new(Claims { key_id, name, epoch, grants }))
    }

    /// Evidence without a check, for the tests of modules that ask for it.
    #[cfg(test)]
    pub fn sample(key_id: &str) -> Self {
        Self::new(
            KeyId::parse(key_id).expect("12 characters of base62"),
            "sample".into(),
            1,
            Grants::everything(),
        )
    }

    pub(super) fn anonymous() -> Self {
        Self::new(KeyId::ANONYMOUS, "anonymous".into(), 0, Grants::everything())
    }

    /// Whom it is about.
    pub fn key_id(&self) -> KeyId {
        self.0.key_id
    }

    /// The name its maker gave the key.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The key's epoch when the credential was checked. A key that has moved on has another.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// What the key may do.
    pub fn grants(&self) -> &Grants {
        &self.0.grants
    }

    /// Whether it administers.
    pub fn is_admin(&self) -> bool {
        self.0.grants.role == Role::Admin
    }
}
