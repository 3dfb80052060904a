//! Which session at a server a client uses.

use metamcp_core::protocol::ClientCapabilities;

use crate::upstream::UpstreamId;
use metamcp_core::base::KeyId;

/// Whose session it is, at which server, and what its clients can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdapterSessionKey {
    /// The key of the clients; `None` without authentication.
    pub owner: Option<KeyId>,
    pub upstream: UpstreamId,
    /// The capabilities that the gateway declares to the server.
    pub capabilities: ClientCapabilities,
    /// The position among sessions that are otherwise alike: 0 is shared, the others are exclusive to one
    /// call at a time.
    pub index: u8,
}

impl AdapterSessionKey {
    /// Whether a call has the session to itself.
    pub fn is_exclusive(&self) -> bool {
        self.index > 0
    }
}
