//! What the store gives and takes.

/// Whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// It opens the gateway.
    Active,
    /// It was switched off.
    Inactive,
}

impl KeyStatus {
    /// As written in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "active" => Some(Self::Active),
            "inactive" => Some(Self::Inactive),
            _ => None,
        }
    }
}

/// One API key at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The public part of the key.
    pub key_id: String,
    /// Given by whoever made it.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Whether it may be used.
    pub status: KeyStatus,
    /// Opaque here.
    pub sealed_hash: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed it.
    pub key_version: u8,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
    /// The store's epoch at this row's last change.
    pub epoch: u64,
}

/// A key to be stored; it begins active.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The public part of the key: 12 characters.
    pub key_id: String,
    /// Given by whoever made it.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Opaque here.
    pub sealed_hash: Vec<u8>,
    /// The version of `ENCRYPTION_KEY` that sealed it.
    pub key_version: u8,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
}

/// All keys at one moment.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The epoch at that moment.
    pub epoch: u64,
    /// Oldest first.
    pub rows: Vec<KeyRow>,
}
