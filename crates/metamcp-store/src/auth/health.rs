//! Health of authentication: whether the store answers, and where the keys in use came from.

use crate::store::StoreOutage;

/// Whether the keys in use are known to be current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthHealth {
    /// Since when and why the store does not answer; `None` while it answers.
    pub outage: Option<StoreOutage>,
    pub key_source: KeySource,
}

/// Where the keys in use were loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// The store, at some time since the start.
    Store,
    /// The file written by an earlier run. Changes made since then are not known yet.
    Snapshot {
        /// Unix time in seconds.
        written_at: u64,
    },
}

impl AuthHealth {
    /// Whether the store answers and the keys came from it.
    pub fn is_healthy(&self) -> bool {
        self.outage.is_none() && self.key_source == KeySource::Store
    }
}
