//! How a client opened its session, which the gateway repeats to each upstream.

use std::sync::Arc;

use bytes::Bytes;

use metamcp_core::base::KeyId;
use metamcp_core::protocol::{ClientCapabilities, Revision};

/// How the gateway introduces itself to upstreams on behalf of a client.
#[derive(Clone)]
pub struct ClientHandshake {
    /// Shared by all clients that send the same `initialize` parameters.
    pub params: Arc<InitializeParams>,
    /// The client's key. `None` for the gateway's own sessions.
    pub owner: Option<KeyId>,
    /// Whether the upstream session shares nothing with other sessions, not even a process.
    pub is_isolated: bool,
}

/// The parameters of an `initialize` request.
#[derive(PartialEq, Eq)]
pub struct InitializeParams {
    /// The revision that the client asks for.
    pub revision: Revision,
    pub capabilities: ClientCapabilities,
    /// The raw `params` member.
    pub raw: Bytes,
}

impl ClientHandshake {
    /// The gateway's own handshake: for the catalog, and for a session whose client handshake was lost.
    pub fn gateway(revision: Revision, capabilities: ClientCapabilities) -> Self {
        let raw = format!(
            r#"{{"protocolVersion":"{}","capabilities":{},"clientInfo":{{"name":"metamcp","version":"{}"}}}}"#,
            revision,
            capabilities.to_json(),
            env!("CARGO_PKG_VERSION"),
        );
        let params = Arc::new(InitializeParams { revision, capabilities, raw: raw.into() });
        Self { params, owner: None, is_isolated: false }
    }
}
