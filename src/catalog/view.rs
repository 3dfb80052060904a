//! For whom a list is fetched.

use http::{HeaderName, HeaderValue};

use crate::protocol::{ClientCapabilities, Revision, header};

/// Servers show other items to other clients: a view is one such kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// Lists of 2026-07-28 do not vary by connection or capability (MCP 2026-07-28, server features).
    Modern,
    /// Legacy servers register tools by what the client declared.
    Legacy(ClientCapabilities),
}

/// The header fields of a Modern request of the gateway's own; `Mcp-Method` is added by the sender.
pub fn modern_headers() -> Vec<(HeaderName, HeaderValue)> {
    vec![(header::PROTOCOL_VERSION, HeaderValue::from_static(Revision::MODERN_LATEST.as_str()))]
}

/// The `_meta` object of a Modern request of the gateway's own. It lists only, so it declares everything:
/// a tool that needs what a client lacks is refused when it is called, by the server (-32021).
pub fn modern_meta() -> String {
    format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{{"name":"metamcp","version":"{}"}}}}"#,
        Revision::MODERN_LATEST,
        ClientCapabilities::ALL.to_json(),
        env!("CARGO_PKG_VERSION"),
    )
}
