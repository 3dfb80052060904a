//! What a client declared in `initialize`.

use bytes::Bytes;
use metamcp_core::protocol::{ClientCapabilities, Revision};

/// What a client declared in `initialize`. Usually shared by many sessions, because many clients declare the
/// same.
#[derive(PartialEq, Eq)]
pub struct ClientIntroduction {
    /// The revision that the client and the gateway agreed on.
    pub revision: Revision,
    pub capabilities: ClientCapabilities,
    /// The capabilities as raw JSON, as the server receives them.
    pub declared: Bytes,
    /// The raw `clientInfo`, if the client sent one.
    pub client_info: Option<Bytes>,
}
