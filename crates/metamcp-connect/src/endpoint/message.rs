//! Messages of the endpoint: parsed as far as routing needs, and written to the client as lines.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use metamcp_core::protocol::McpMethod;

/// A message of the endpoint, as far as the bridge reads it. Ids are kept as written.
#[derive(Debug, PartialEq, Eq)]
pub enum EndpointMessage {
    /// The response to a request of the client.
    Response {
        /// The id of the request; `None` where it is `null` or missing.
        id: Option<String>,
        is_error: bool,
    },
    /// The endpoint cancels the request of its own with this id.
    Cancelled { id: String },
    /// Any other request, which has an id, or notification.
    Call { method: String, id: Option<String> },
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CancelledParams<'a> {
    #[serde(borrow, rename = "requestId")]
    id: &'a RawValue,
}

/// Parses a message; `None` if it is not a JSON-RPC message.
pub fn parse(message: &[u8]) -> Option<EndpointMessage> {
    // The whole message goes to the client, so all of it must be UTF-8.
    let raw: RawMessage<'_> = serde_json::from_str(std::str::from_utf8(message).ok()?).ok()?;
    match raw {
        RawMessage { method: Some(method), id: None, params: Some(params), .. }
            if method == McpMethod::Cancelled.as_str() =>
        {
            let cancelled = serde_json::from_str::<CancelledParams<'_>>(params.get()).ok();
            Some(cancelled.map_or(EndpointMessage::Call { method, id: None }, |cancelled| {
                EndpointMessage::Cancelled { id: cancelled.id.get().to_owned() }
            }))
        }
        RawMessage { method: Some(method), id, .. } => {
            Some(EndpointMessage::Call { method, id: id.map(|id| id.get().to_owned()) })
        }
        RawMessage { id, result, error, .. } if result.is_some() || error.is_some() => {
            Some(EndpointMessage::Response {
                id: id.map(|id| id.get().to_owned()),
                is_error: error.is_some(),
            })
        }
        RawMessage { .. } => None,
    }
}

/// Splits a body into its messages: one, or those of a batch (MCP 2025-03-26).
pub fn split_batch(body: &Bytes) -> Vec<Bytes> {
    let trimmed = body.trim_ascii();
    if trimmed.first() != Some(&b'[') {
        return vec![body.slice_ref(trimmed)];
    }
    let items: Vec<&RawValue> = serde_json::from_slice(trimmed).unwrap_or_default();
    items.into_iter().map(|item| body.slice_ref(item.get().as_bytes())).collect()
}

/// Writes a message as one line. A raw line break in JSON is white space between tokens, since strings escape
/// theirs (RFC 8259, section 7), so a space replaces it.
pub fn to_line(message: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(message.len() + 1);
    line.put_slice(message);
    for byte in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    line.put_u8(b'\n');
    line.freeze()
}

/// Builds an error response. `id` is raw JSON.
pub fn error_response(id: &[u8], code: i32, text: &str) -> Bytes {
    with_id(id, json!({"code": code, "message": text}).to_string().as_bytes())
}

/// Returns the error of a message without an id as a response to the request `id`; `None` if it has no error.
pub fn error_with_id(id: &[u8], message: &[u8]) -> Option<Bytes> {
    let raw: RawMessage<'_> = serde_json::from_slice(message).ok()?;
    raw.error.map(|error| with_id(id, error.get().as_bytes()))
}

fn with_id(id: &[u8], error: &[u8]) -> Bytes {
    [br#"{"jsonrpc":"2.0","id":"#, id, br#","error":"#, error, b"}"].concat().into()
}

/// Whether a message is an error response with this code.
pub fn has_error_code(message: &[u8], code: i32) -> bool {
    #[derive(Deserialize)]
    struct ErrorObject {
        code: i64,
    }
    let raw = serde_json::from_slice::<RawMessage<'_>>(message).ok();
    let error = raw.and_then(|raw| serde_json::from_str::<ErrorObject>(raw.error?.get()).ok());
    error.is_some_and(|error| error.code == i64::from(code))
}

/// Returns the `result` member of a response.
pub fn result(message: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice::<RawMessage<'_>>(message).ok()?.result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_messages() {
        let check = |message: &str, expected: Option<EndpointMessage>| {
            assert_eq!(parse(message.as_bytes()), expected, "{message}");
        };
        let response = |id: Option<&str>, is_error| {
            Some(EndpointMessage::Response { id: id.map(str::to_owned), is_error })
        };
        let call = |method: &str, id: Option<&str>| {
            Some(EndpointMessage::Call { method: method.to_owned(), id: id.map(str::to_owned) })
        };
        check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, response(Some("1"), false));
        check("{\n\"id\": \"a\\u0062\",\r\n\"result\":{} }", response(Some(r#""a\u0062""#), false));
        check(r#"{"id":1,"error":{"code":1}}"#, response(Some("1"), true));
        check(r#"{"id":null,"error":{"code":1}}"#, response(None, true));
        check(r#"{"error":{"code":1}}"#, response(None, true));
        check(r#"{"id":7,"method":"ping"}"#, call("ping", Some("7")));
        check(
            r#"{"method":"notifications/message","params":{"x":"y"}}"#,
            call("notifications/message", None),
        );
        let cancelled = |params: &str| format!(r#"{{"method":"notifications/cancelled","params":{params}}}"#);
        let cancelled_request = |id: &str| Some(EndpointMessage::Cancelled { id: id.to_owned() });
        check(&cancelled(r#"{"requestId":"a","reason":"x"}"#), cancelled_request(r#""a""#));
        check(&cancelled(r#"{"requestId": 7}"#), cancelled_request("7"));
        for params in ["{}", "[]", "1"] {
            check(&cancelled(params), call("notifications/cancelled", None));
        }
        for invalid in
            ["", "[]", "1", "{}", r#"{"id":1}"#, r#"{"id":1,"result":{}"#, r#"{"id":1,"id":2,"result":{}}"#]
        {
            check(invalid, None);
        }
        assert_eq!(parse(b"{\"id\":1,\"result\":\"\xff\"}"), None);
    }

    #[test]
    fn splits_batches() {
        let check = |answer: &str, expected: &[&str]| {
            let answer = Bytes::copy_from_slice(answer.as_bytes());
            assert_eq!(split_batch(&answer), expected, "{answer:?}");
        };
        check(" {\"a\":1} ", &["{\"a\":1}"]);
        check(" [ {\"a\":1}, 2]\n", &["{\"a\":1}", "2"]);
        check("[", &[]);
        check("", &[""]);
    }

    #[test]
    fn writes_lines() {
        assert_eq!(to_line(b"{\r\n\"a\":\n1}"), "{  \"a\": 1}\n");
        assert_eq!(
            error_response(b"\"x\"", -32000, "say \"why\""),
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32000,"message":"say \"why\""}}"#
        );
        let own = error_with_id(b"7", br#"{"id":null,"error":{"code":-32600,"message":"no"}}"#);
        assert_eq!(
            own.expect("an error"),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32600,"message":"no"}}"#
        );
        assert_eq!(error_with_id(b"7", br#"{"id":7,"result":{}}"#), None);
        assert!(
            has_error_code(&error_response(b"7", -32020, "x"), -32020)
                && !has_error_code(&error_response(b"7", -1, "x"), -32020)
        );
        assert!(!has_error_code(br#"{"id":7,"result":{"code":-32020}}"#, -32020));
        assert_eq!(result(br#"{"id":7,"result":{"a":1}}"#).map(RawValue::get), Some(r#"{"a":1}"#));
    }
}
