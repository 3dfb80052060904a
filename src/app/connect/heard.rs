//! What the endpoint says: told apart as far as it takes to know for whom it is, and written as lines.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::protocol::Method;

/// What a message of the endpoint is.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer to a request of the client's. The id as it was written; none where it is `null`.
    Response {
        /// Of the request.
        id: Option<String>,
        /// Whether it is an error.
        is_error: bool,
    },
    /// The endpoint takes back a request of its own, under that id as it was written.
    TakenBack {
        /// Of the request.
        id: String,
    },
    /// Another request or notification.
    Call {
        /// Its method.
        method: String,
        /// Of a request its id, as it was written.
        id: Option<String>,
    },
}

#[derive(Deserialize)]
struct Written<'a> {
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
struct TakenBack<'a> {
    #[serde(borrow, rename = "requestId")]
    id: &'a RawValue,
}

/// What a message is; `None` where it is none.
pub fn read(message: &[u8]) -> Option<Heard> {
    // All of it goes to the client, so all of it must be text.
    let written: Written<'_> = serde_json::from_str(std::str::from_utf8(message).ok()?).ok()?;
    match written {
        Written { method: Some(method), id: None, params: Some(params), .. }
            if method == Method::Cancelled.as_str() =>
        {
            let taken_back = serde_json::from_str::<TakenBack<'_>>(params.get()).ok();
            Some(taken_back.map_or(Heard::Call { method, id: None }, |taken_back| Heard::TakenBack {
                id: taken_back.id.get().to_owned(),
            }))
        }
        Written { method: Some(method), id, .. } => {
            Some(Heard::Call { method, id: id.map(|id| id.get().to_owned()) })
        }
        Written { id, result, error, .. } if result.is_some() || error.is_some() => {
            Some(Heard::Response { id: id.map(|id| id.get().to_owned()), is_error: error.is_some() })
        }
        Written { .. } => None,
    }
}

/// The messages of an answer: one, or those of a batch (MCP 2025-03-26).
pub fn each(answer: &Bytes) -> Vec<Bytes> {
    let trimmed = answer.trim_ascii();
    if trimmed.first() != Some(&b'[') {
        return vec![answer.slice_ref(trimmed)];
    }
    let items: Vec<&RawValue> = serde_json::from_slice(trimmed).unwrap_or_default();
    items.into_iter().map(|item| answer.slice_ref(item.get().as_bytes())).collect()
}

/// A message as a line. A raw line end within it is white space between its tokens, for in a string it would
/// be written as an escape (RFC 8259, section 7): a space is as good.
pub fn line(message: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(message.len() + 1);
    line.put_slice(message);
    for byte in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    line.put_u8(b'\n');
    line.freeze()
}

/// An error of ours in answer to the request with that id, which is JSON.
pub fn error(id: &[u8], code: i32, text: &str) -> Bytes {
    under_id(id, json!({"code": code, "message": text}).to_string().as_bytes())
}

/// The error of a message that does not say whose it is, in answer to the request with that id; `None` where
/// it has none.
pub fn error_under(id: &[u8], message: &[u8]) -> Option<Bytes> {
    let written: Written<'_> = serde_json::from_slice(message).ok()?;
    written.error.map(|error| under_id(id, error.get().as_bytes()))
}

fn under_id(id: &[u8], error: &[u8]) -> Bytes {
    [br#"{"jsonrpc":"2.0","id":"#, id, br#","error":"#, error, b"}"].concat().into()
}

/// Whether a message is an error of that code.
pub fn is_error_of(message: &[u8], code: i32) -> bool {
    #[derive(Deserialize)]
    struct Error {
        code: i64,
    }
    let written = serde_json::from_slice::<Written<'_>>(message).ok();
    let error = written.and_then(|written| serde_json::from_str::<Error>(written.error?.get()).ok());
    error.is_some_and(|error| error.code == i64::from(code))
}

/// The member `result` of a message.
pub fn result(message: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice::<Written<'_>>(message).ok()?.result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_messages_apart() {
        let check = |message: &str, expected: Option<Heard>| {
            assert_eq!(read(message.as_bytes()), expected, "{message}");
        };
        let response =
            |id: Option<&str>, is_error| Some(Heard::Response { id: id.map(str::to_owned), is_error });
        let call = |method: &str, id: Option<&str>| {
            Some(Heard::Call { method: method.to_owned(), id: id.map(str::to_owned) })
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
        let taken_back = |id: &str| Some(Heard::TakenBack { id: id.to_owned() });
        check(&cancelled(r#"{"requestId":"a","reason":"x"}"#), taken_back(r#""a""#));
        check(&cancelled(r#"{"requestId": 7}"#), taken_back("7"));
        for params in ["{}", "[]", "1"] {
            check(&cancelled(params), call("notifications/cancelled", None));
        }
        for nothing in
            ["", "[]", "1", "{}", r#"{"id":1}"#, r#"{"id":1,"result":{}"#, r#"{"id":1,"id":2,"result":{}}"#]
        {
            check(nothing, None);
        }
        assert_eq!(read(b"{\"id\":1,\"result\":\"\xff\"}"), None);
    }

    #[test]
    fn takes_batches_apart() {
        let check = |answer: &str, expected: &[&str]| {
            let answer = Bytes::copy_from_slice(answer.as_bytes());
            assert_eq!(each(&answer), expected, "{answer:?}");
        };
        check(" {\"a\":1} ", &["{\"a\":1}"]);
        check(" [ {\"a\":1}, 2]\n", &["{\"a\":1}", "2"]);
        check("[", &[]);
        check("", &[""]);
    }

    #[test]
    fn writes_lines() {
        assert_eq!(line(b"{\r\n\"a\":\n1}"), "{  \"a\": 1}\n");
        assert_eq!(
            error(b"\"x\"", -32000, "say \"why\""),
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32000,"message":"say \"why\""}}"#
        );
        let own = error_under(b"7", br#"{"id":null,"error":{"code":-32600,"message":"no"}}"#);
        assert_eq!(
            own.expect("an error"),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32600,"message":"no"}}"#
        );
        assert_eq!(error_under(b"7", br#"{"id":7,"result":{}}"#), None);
        assert!(
            is_error_of(&error(b"7", -32020, "x"), -32020) && !is_error_of(&error(b"7", -1, "x"), -32020)
        );
        assert!(!is_error_of(br#"{"id":7,"result":{"code":-32020}}"#, -32020));
        assert_eq!(result(br#"{"id":7,"result":{"a":1}}"#).map(RawValue::get), Some(r#"{"a":1}"#));
    }
}
