//! The headers in which a Modern request repeats parts of its body, so that intermediaries can route without parsing it:
//! `MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name`, `Mcp-Param-*` (SEP-2243).
//!
//! A server must check that the headers match the body; a mismatch is the error -32020.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use crate::protocol::{RpcError, code};

/// The revision of the request.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// The session of a Legacy request.
pub const SESSION_ID: &str = "mcp-session-id";

/// A value that is not visible ASCII is sent as `=?base64?<base64 of UTF-8>?=`.
const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// The schema keyword that names the header in which an argument is repeated.
const KEYWORD: &str = "x-mcp-header";

fn mismatch(message: String) -> RpcError {
    RpcError::new(code::HEADER_MISMATCH, message)
}

/// Decodes a header value; `None` if it is malformed.
fn decode(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let encoded = text.strip_prefix(ENCODED.0).and_then(|rest| rest.strip_suffix(ENCODED.1));
    match encoded {
        None => Some(text.to_owned()),
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
    }
}

/// Returns the decoded value of a header that may occur only once.
fn only(headers: &HeaderMap, name: &str) -> Result<Option<String>, RpcError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(mismatch(format!("The header {name} occurs more than once"))),
        (Some(value), None) => match decode(value) {
            Some(text) => Ok(Some(text)),
            None => Err(mismatch(format!("The value of the header {name} is malformed"))),
        },
    }
}

/// Checks that the header `name` exists and has the value `expected`.
pub fn require(headers: &HeaderMap, name: &str, expected: &str) -> Result<(), RpcError> {
    match only(headers, name)? {
        None => Err(mismatch(format!("The header {name} is missing"))),
        Some(text) if text == expected => Ok(()),
        Some(_) => Err(mismatch(format!("The header {name} does not match the body"))),
    }
}

/// Checks the `Mcp-Param-*` headers that a tool's `inputSchema` requires against the arguments.
pub fn check_params(
    headers: &HeaderMap,
    schema: &Value,
    arguments: Option<&Map<String, Value>>,
) -> Result<(), RpcError> {
    let Some(properties) = schema["properties"].as_object() else { return Ok(()) };
    for (property, definition) in properties {
        let argument = arguments.and_then(|arguments| arguments.get(property));
        if let Some(suffix) = definition[KEYWORD].as_str() {
            check_param(headers, suffix, argument.filter(|argument| !argument.is_null()))?;
        }
        // A property inside an object may be annotated too. The depth is bounded, since the schemas are this server's own.
        check_params(headers, definition, argument.and_then(Value::as_object))?;
    }
    Ok(())
}

fn check_param(headers: &HeaderMap, suffix: &str, argument: Option<&Value>) -> Result<(), RpcError> {
    let name = format!("mcp-param-{}", suffix.to_ascii_lowercase());
    let header = only(headers, &name)?;
    let (Some(text), Some(argument)) = (&header, argument) else {
        return match (header, argument) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(mismatch(format!("The header {name} is missing"))),
            _ => Err(mismatch(format!("The header {name} has no argument in the body"))),
        };
    };
    let same = match argument {
        Value::String(argument) => argument == text,
        Value::Bool(argument) => argument.to_string() == *text,
        // Integers are compared as numbers, since a header may contain `+5` or `05`.
        Value::Number(argument) => text.parse::<i64>().ok() == argument.as_i64() && argument.is_i64(),
        _ => false,
    };
    if same { Ok(()) } else { Err(mismatch(format!("The header {name} does not match the body"))) }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use serde_json::json;

    use super::*;

    /// Checks whether the header `Mcp-Param-Where: value` is accepted for this argument.
    fn check(value: Option<&str>, argument: &Value, expected: bool) {
        let schema = json!({ "properties": { "where": { "x-mcp-header": "Where" }, "other": {} } });
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(HeaderName::from_static("mcp-param-where"), value.parse().unwrap());
        }
        let arguments = json!({ "where": argument });
        let passed = check_params(&headers, &schema, arguments.as_object());
        assert_eq!(passed.is_ok(), expected, "{value:?} {argument}");
    }

    #[test]
    fn params() {
        check(Some("Hello"), &json!("Hello"), true);
        check(Some("hello"), &json!("Hello"), false);
        check(None, &json!("Hello"), false);
        check(None, &Value::Null, true);
        check(Some("Hello"), &Value::Null, false);
        check(Some("42"), &json!(42), true);
        check(Some("042"), &json!(42), true);
        check(Some("43"), &json!(42), false);
        check(Some("4.5"), &json!(4.5), false);
        check(Some("true"), &json!(true), true);
        check(Some("x"), &json!(["x"]), false);
    }

    #[test]
    fn encoded_values() {
        check(Some("=?base64?SGVsbG8=?="), &json!("Hello"), true);
        check(Some("=?base64?SGVsbG8?="), &json!("Hello"), false);
        check(Some("=?base64?SGVs!!!bG8=?="), &json!("Hello"), false);
        check(Some("=?base64?/w==?="), &json!("\u{ff}"), false);
        check(Some("=?base64?w7w=?="), &json!("ü"), true);
        check(Some("SGVsbG8="), &json!("SGVsbG8="), true);
        check(Some("=?base64?SGVsbG8="), &json!("=?base64?SGVsbG8="), true);
    }

    #[test]
    fn a_repeated_header_is_rejected() {
        let mut headers = HeaderMap::new();
        headers.append("mcp-method", HeaderValue::from_static("ping"));
        assert!(require(&headers, "mcp-method", "ping").is_ok());
        headers.append("mcp-method", HeaderValue::from_static("ping"));
        assert!(require(&headers, "mcp-method", "ping").is_err());
        assert!(require(&headers, "mcp-name", "x").is_err());
    }
}
