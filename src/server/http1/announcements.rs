//! Events that the gateway itself sends on event streams.

use bytes::Bytes;
use serde_json::json;

use crate::catalog::ListKind;
use metamcp_core::frame::write_event;
use metamcp_core::protocol::McpMethod;

/// Sent at the start of a stream, for clients that wait for the first byte, and periodically to keep the
/// connection alive.
pub const COMMENT: &[u8] = b": open\n\n";

/// The lists whose changes are announced, each with its notification. Resource templates change with
/// resources.
pub const ANNOUNCED: [(ListKind, McpMethod); 3] = [
    (ListKind::Tools, McpMethod::ToolsListChanged),
    (ListKind::Prompts, McpMethod::PromptsListChanged),
    (ListKind::Resources, McpMethod::ResourcesListChanged),
];

/// The event that notifies a client of a changed list.
pub fn announcement(method: McpMethod) -> Bytes {
    write_event(json!({"jsonrpc": "2.0", "method": method.as_str()}).to_string().as_bytes())
}
