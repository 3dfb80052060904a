//! What the gateway itself says on a stream of events.

use bytes::Bytes;
use serde_json::json;

use crate::catalog::ListKind;
use metamcp_core::frame::write_event;
use metamcp_core::protocol::McpMethod;

/// A comment at the start, so that clients that wait for the first byte go on, and now and then.
pub const COMMENT: &[u8] = b": open\n\n";

/// The lists that are announced, each with its notification. Templates change with resources.
pub const ANNOUNCED: [(ListKind, McpMethod); 3] = [
    (ListKind::Tools, McpMethod::ToolsListChanged),
    (ListKind::Prompts, McpMethod::PromptsListChanged),
    (ListKind::Resources, McpMethod::ResourcesListChanged),
];

/// Says that a list changed.
pub fn announcement(method: McpMethod) -> Bytes {
    write_event(json!({"jsonrpc": "2.0", "method": method.as_str()}).to_string().as_bytes())
}
