//! The kinds of client that servers show different items to.

use std::fmt;

use http::{HeaderName, HeaderValue};

use metamcp_core::protocol::{ClientCapabilities, Revision, header};

/// A kind of client. Servers show different items to different kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// Lists of 2026-07-28 do not vary by connection or capability (MCP 2026-07-28, server features).
    Modern,
    /// Legacy servers register tools according to the capabilities that the client declared.
    Legacy(ClientCapabilities),
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Modern => f.write_str("modern"),
            Self::Legacy(capabilities) => write!(f, "legacy {}", capabilities.to_json()),
        }
    }
}

/// Returns the header fields of a Modern request of the gateway's own; the sender adds `Mcp-Method`.
pub fn modern_headers() -> Vec<(HeaderName, HeaderValue)> {
    vec![(header::PROTOCOL_VERSION, HeaderValue::from_static(Revision::MODERN_LATEST.as_str()))]
}

/// Returns the `_meta` object of a Modern request of the gateway's own. The gateway only lists, so it
/// declares all capabilities: a tool that needs what a client lacks is refused by its server when it is
/// called (-32021).
pub fn modern_meta() -> String {
    format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{{"name":"metamcp","version":"{}"}}}}"#,
        Revision::MODERN_LATEST,
        ClientCapabilities::ALL.to_json(),
        env!("CARGO_PKG_VERSION"),
    )
}
