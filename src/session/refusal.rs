//! Answers to requests of a server that no client is asked.

use std::rc::Rc;

use bytes::Bytes;
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{McpMethod, code};
use metamcp_http::RequestKind;

use super::buffered::{BufferedRequest, deliver};
use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;

/// The longest id of a request that is refused. A refusal holds the id until the server reads it; no server
/// writes longer ones.
const ID_BYTES_MAX: usize = 1024;

/// Whether the message is a `ping`, which the gateway answers itself.
pub fn is_ping(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.decode_bytes(message));
    envelope.kind == MessageKind::Request && method.as_deref() == Some(McpMethod::Ping.as_str().as_bytes())
}

/// Refuses a request of the server. Every request must be answered, because the server waits for it.
pub async fn refuse(
    pool: &Rc<UpstreamPool>,
    upstream_session: &UpstreamSession,
    message: &Bytes,
    envelope: &Envelope,
    why: &str,
) {
    if let Some(refusal) = refusal_of(message, envelope, why) {
        deliver(
            pool,
            BufferedRequest::legacy(upstream_session, McpMethod::Ping, refusal.into()),
            RequestKind::Message,
        )
        .await;
    }
}

/// Builds the refusal of a request, or the response to a `ping`.
pub fn refusal_of(message: &Bytes, envelope: &Envelope, why: &str) -> Option<String> {
    let id = String::from_utf8_lossy(envelope.id?.span.slice(message));
    if id.len() > ID_BYTES_MAX {
        tracing::warn!(bytes = id.len(), "dropped a server request: its id is too long");
        return None;
    }
    Some(if is_ping(message, envelope) {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
    } else {
        let code = code::METHOD_NOT_FOUND;
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{why}"}}}}"#)
    })
}
