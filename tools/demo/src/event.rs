//! The encoding of a server-sent event.

use bytes::Bytes;
use serde_json::Value;

/// Encodes a message as one event. The JSON of `serde_json` has no line breaks, so it fits on one `data:` line.
pub fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}
