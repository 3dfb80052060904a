//! What workers and the threads of servers exchange: an operation one way, a response the other.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::Value;

use super::event_channel::EventSource;
use super::message::encode_error;
use crate::error::{FailureStage, UpstreamError};
use metamcp_core::base::charge_bytes;

/// An operation of Streamable HTTP.
pub enum HttpOperation {
    Post(Bytes),
    /// Opens the event stream of a session.
    Get,
    Delete,
}

/// The result of an operation.
pub type CallOutcome = Result<LocalResponse, UpstreamError>;

/// A response made within this process, as a Streamable HTTP server would give it.
pub struct LocalResponse {
    pub status: StatusCode,
    /// Set if the operation opened a session.
    pub session_id: Option<HeaderValue>,
    pub body: LocalBody,
}

/// The body of a [`LocalResponse`].
pub enum LocalBody {
    /// One message, or none.
    Message(Bytes),
    Events(EventSource),
    /// There is none: making it failed.
    Failed(FailureStage),
}

impl LocalResponse {
    /// Creates a response without a body.
    pub fn from_status(status: StatusCode) -> Self {
        Self { status, session_id: None, body: LocalBody::Message(Bytes::new()) }
    }

    /// Creates a response with a message, which is charged for from now on. Without memory for it, its body fails.
    pub fn from_message(message: Bytes) -> Self {
        let body =
            charge_bytes(message).map_or(LocalBody::Failed(FailureStage::OutOfMemory), LocalBody::Message);
        Self { status: StatusCode::OK, session_id: None, body }
    }

    /// Creates a JSON-RPC error response to the request with this raw id.
    pub fn from_error(status: StatusCode, id: &[u8], code: i32, text: &str) -> Self {
        Self::from_error_data(status, id, code, text, None)
    }

    /// Creates a JSON-RPC error response with `data`.
    pub fn from_error_data(
        status: StatusCode,
        id: &[u8],
        code: i32,
        text: &str,
        data: Option<&Value>,
    ) -> Self {
        Self { status, ..Self::from_message(encode_error(id, code, text, data)) }
    }

    /// Creates a response with an event stream.
    pub fn from_events(events: EventSource) -> Self {
        Self { status: StatusCode::OK, session_id: None, body: LocalBody::Events(events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_json() {
        let check = |id: &str, text: &str, expected: &str| {
            let LocalBody::Message(message) =
                LocalResponse::from_error(StatusCode::OK, id.as_bytes(), -32600, text).body
            else {
                panic!("a message");
            };
            assert_eq!(message, expected);
        };
        check("1", "a", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"a"}}"#);
        check("\"x\"", "\"", r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"\""}}"#);
        check("", "a", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a"}}"#);
    }
}
