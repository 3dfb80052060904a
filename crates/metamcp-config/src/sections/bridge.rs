//! Bounds of what the adapter holds for Modern clients at Legacy servers.

use std::time::Duration;

/// Bounds of what the adapter holds for Modern clients at Legacy servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// How long a call is held for the input that its server asked for. After that the call is cancelled at
    /// the server.
    pub hold_timeout: Duration,
    /// Held calls at once, over all keys. Each holds a connection to its server.
    pub holds_max: usize,
    /// Held calls of one key at once.
    pub holds_per_key_max: usize,
    /// Sessions at servers at once, over all keys.
    pub sessions_max: usize,
    /// Sessions of one key at once.
    pub sessions_per_key_max: usize,
    /// A session without a call or a subscription for so long is ended.
    pub session_idle_timeout: Duration,
    /// Whether `server/discover` is answered for a server of the other era.
    pub discover: bool,
}
