//! Small parts of JSON-RPC messages that the transports read and write themselves.

use bytes::Bytes;
use http::HeaderValue;
use serde_json::Value;

use crate::error::{FailureStage, UpstreamError};
use metamcp_core::frame::Envelope;
use metamcp_core::protocol::McpMethod;

/// Returns the method of a message, if the gateway knows it.
pub fn known_method(message: &Bytes, envelope: &Envelope) -> Option<McpMethod> {
    McpMethod::parse(envelope.method?.decode(message).as_bytes())
}

/// Returns the raw id of a message, empty if it has none.
pub fn raw_id<'a>(message: &'a Bytes, envelope: &Envelope) -> &'a [u8] {
    envelope.id.map_or(&b""[..], |id| id.span.slice(message))
}

/// Encodes an error response to the request with this raw id; an empty id becomes `null`.
pub fn encode_error(id: &[u8], code: i32, text: &str, data: Option<&Value>) -> Bytes {
    let id = if id.is_empty() { "null".into() } else { String::from_utf8_lossy(id) };
    let text = Value::from(text);
    let data = data.map_or_else(String::new, |data| format!(r#","data":{data}"#));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text}{data}}}}}"#).into()
}

/// Encodes the notification that tells a server that a call was abandoned.
pub fn encode_cancellation(number: u64) -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client gave it up"}}}}"#
    )
    .into()
}

/// Encodes the response to a ping.
pub fn encode_pong(id: &[u8]) -> Bytes {
    let id = String::from_utf8_lossy(id);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into()
}

/// Creates a session id of 128 random bits.
pub fn new_session_id() -> Result<HeaderValue, UpstreamError> {
    let mut random = [0; 16];
    let failed = |error: String| UpstreamError::new(FailureStage::NotSent, error);
    getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
    let text = format!("{:032x}", u128::from_be_bytes(random));
    HeaderValue::from_str(&text).map_err(|error| failed(error.to_string()))
}
