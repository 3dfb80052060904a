//! What the gateway itself says on a stream of events.

use bytes::Bytes;
use serde_json::json;

use crate::catalog::ListKind;
use crate::frame::write_event;
use crate::protocol::Method;

/// A comment at the start, so that clients that wait for the first byte go on, and now and then.
pub const COMMENT: &[u8] = b": open\n\n";

/// The lists that are announced, each with its notification. Templates change with resources.
pub const ANNOUNCED: [(ListKind, Method); 3] = [
    (ListKind::Tools, Method::ToolsListChanged),
    (ListKind::Prompts, Method::PromptsListChanged),
    (ListKind::Resources, Method::ResourcesListChanged),
];

/// Says that a list changed.
pub fn announcement(method: Method) -> Bytes {
    write_event(json!({"jsonrpc": "2.0", "method": method.as_str()}).to_string().as_bytes())
}
