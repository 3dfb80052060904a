//! Parses and builds JSON-RPC messages.
//!
//! Invariant: a [`Message`] is well formed and needs no further checks. Knows nothing of eras, HTTP or content.

use serde_json::{Map, Value, json};

use crate::protocol::{RpcError, code};

/// The limit for an id, which is kept while its request runs. SDKs use a counter or a UUID.
const ID_BYTES_MAX: usize = 1024;

/// The `params` of a message: always an object, empty if the message has none.
pub type Params = Map<String, Value>;

/// The message in the body of a POST.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// Expects a response with the same `id` (a string or an integer).
    Request {
        id: Value,
        method: String,
        params: Params,
    },
    Notification {
        method: String,
        params: Params,
    },
    /// Answers a request that this server sent.
    Response {
        id: Value,
        outcome: Result<Value, RpcError>,
    },
}

/// Why a body is not a message.
#[derive(Debug, PartialEq)]
pub struct MalformedMessage {
    /// The `id` for the error response; null if it could not be read.
    pub id: Value,
    pub error: RpcError,
}

/// Parses a message. `serde_json` limits the depth of nesting to 128.
pub fn parse(body: &[u8]) -> Result<Message, MalformedMessage> {
    let refuse =
        |id: &Value, code, text: &str| MalformedMessage { id: id.clone(), error: RpcError::new(code, text) };
    let value: Value = serde_json::from_slice(body)
        .map_err(|_| refuse(&Value::Null, code::PARSE, "Parse error: the body is not one JSON value"))?;
    let Value::Object(mut fields) = value else {
        let text = "Invalid request: one JSON-RPC object is expected (batches were removed in 2025-06-18)";
        return Err(refuse(&Value::Null, code::INVALID_REQUEST, text));
    };
    let id = fields.remove("id");
    let readable_id = id.clone().filter(is_id).unwrap_or(Value::Null);
    let invalid = |text: &str| refuse(&readable_id, code::INVALID_REQUEST, text);
    if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid("Invalid request: jsonrpc must be \"2.0\""));
    }
    if id.as_ref().is_some_and(|id| !is_id(id)) {
        return Err(invalid("Invalid request: id must be a string of at most 1024 bytes or an integer"));
    }
    match (fields.remove("method"), id) {
        (Some(Value::String(method)), id) => {
            let params = match fields.remove("params") {
                None => Params::new(),
                Some(Value::Object(params)) => params,
                Some(_) => return Err(invalid("Invalid request: params must be an object")),
            };
            Ok(match id {
                Some(id) => Message::Request { id, method, params },
                None => Message::Notification { method, params },
            })
        }
        (None, Some(id)) => match (fields.remove("result"), fields.remove("error")) {
            (Some(result), None) => Ok(Message::Response { id, outcome: Ok(result) }),
            (None, Some(error)) => Ok(Message::Response { id, outcome: Err(read_error(&error)) }),
            _ => Err(invalid("Invalid request: a response has either a result or an error")),
        },
        _ => Err(invalid("Invalid request: method must be a string")),
    }
}

fn is_id(id: &Value) -> bool {
    id.as_str().map_or(id.is_i64() || id.is_u64(), |id| id.len() <= ID_BYTES_MAX)
}

fn read_error(error: &Value) -> RpcError {
    RpcError {
        code: error["code"].as_i64().unwrap_or(code::INTERNAL),
        message: error["message"].as_str().unwrap_or("no message").to_owned(),
        data: error.get("data").cloned(),
    }
}

/// Builds a response with this result or error.
pub fn response(id: &Value, outcome: &Result<Value, RpcError>) -> Value {
    match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.to_value() }),
    }
}

pub fn notification(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// Builds a request from server to client.
pub fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is the kind of message with its id, or the id and the code of the error.
    fn check(body: &str, expected: &str) {
        let got = match parse(body.as_bytes()) {
            Ok(Message::Request { id, method, .. }) => format!("request {id} {method}"),
            Ok(Message::Notification { method, .. }) => format!("notification {method}"),
            Ok(Message::Response { id, outcome: Ok(result) }) => format!("result {id} {result}"),
            Ok(Message::Response { id, outcome: Err(error) }) => format!("error {id} {}", error.code),
            Err(malformed) => format!("refused {} {}", malformed.id, malformed.error.code),
        };
        assert_eq!(got, expected, "{body}");
    }

    #[test]
    fn messages() {
        check(r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#, "request 0 ping");
        check(r#"{"jsonrpc":"2.0","id":"a","method":"ping","params":{}}"#, "request \"a\" ping");
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            "notification notifications/initialized",
        );
        check(r#"{"jsonrpc":"2.0","id":7,"result":{"x":1}}"#, "result 7 {\"x\":1}");
        check(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}"#, "error 7 -1");
    }

    #[test]
    fn refusals() {
        check("", "refused null -32700");
        check("{", "refused null -32700");
        check(r#"{"jsonrpc":"2.0"} x"#, "refused null -32700");
        check("[]", "refused null -32600");
        check(r#"{"id":1,"method":"ping"}"#, "refused 1 -32600");
        check(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "refused null -32600");
        check(r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "refused null -32600");
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, "refused 1 -32600");
        check(r#"{"jsonrpc":"2.0","id":1,"method":3}"#, "refused 1 -32600");
        check(r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#, "refused 1 -32600");
        check(&"[".repeat(100_000), "refused null -32700");
        let id = "x".repeat(ID_BYTES_MAX + 1);
        check(&format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"ping"}}"#), "refused null -32600");
    }
}
