//! The result of a tool call. Its bytes are passed on as the server wrote them.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::problem::Problem;
use metamcp_core::protocol::code;

/// A JSON-RPC response. What this page does not read stays raw, since not all JSON fits into numbers and strings of Rust.
#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The members of a result that the gateway reads.
#[derive(Deserialize)]
struct ResultKind<'a> {
    #[serde(rename = "resultType", borrow)]
    kind: Option<&'a RawValue>,
}

/// A JSON-RPC error object, as a server wrote it.
#[derive(Deserialize)]
struct CallError<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// Returns the result in a JSON-RPC response, as it stands there.
pub fn result_of(message: &Bytes) -> Result<Bytes, Problem> {
    let bad =
        || Problem::new(StatusCode::BAD_GATEWAY, "the server's answer is not the result of a tool call");
    let response: Response<'_> = serde_json::from_slice(message).map_err(|_| bad())?;
    if let Some(error) = response.error {
        return Err(rejection(error));
    }
    let result = response.result.filter(|result| result.get().starts_with('{')).ok_or_else(bad)?;
    let kind = serde_json::from_str::<ResultKind<'_>>(result.get()).ok().and_then(|result| result.kind);
    if kind.and_then(text).as_deref() == Some("input_required") {
        let detail = "the tool asks for input, which is only possible over MCP";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(message.slice_ref(result.get().as_bytes()))
}

/// The problem for a call that the server answered with an error.
fn rejection(error: &RawValue) -> Problem {
    let error: Option<CallError<'_>> = serde_json::from_str(error.get()).ok();
    let message = error.as_ref().and_then(|error| text(error.message?)).unwrap_or_default();
    let number = error.as_ref().and_then(|error| error.code?.get().parse::<i64>().ok());
    let status = match number {
        Some(number) if number == i64::from(code::INVALID_PARAMS) => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::BAD_GATEWAY,
    };
    let message: String = message.chars().take(SAID_CHARS_MAX).collect();
    Problem::new(status, format!("the server rejected the call: {message}"))
}

/// The string that a JSON value is.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok()
}

/// The part of a server's error message that is passed on.
const SAID_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, expected: Result<&str, StatusCode>) {
        let found = result_of(&Bytes::copy_from_slice(message.as_bytes()));
        let found = found.as_ref().map(|result| std::str::from_utf8(result).expect("JSON is UTF-8"));
        assert_eq!(found.map_err(Problem::status), expected, "{message}");
    }

    #[test]
    fn a_result_is_passed_on_as_it_is_written() {
        for result in [
            "{}",
            r#"{ "content" : [ ] }"#,
            r#"{"text":"\ud800","n":1e400,"long":123456789012345678901234567890.10}"#,
            r#"{"resultType":"complete","a":1,"a":2}"#,
            r#"{"resultType":7}"#,
            r#"{"resultType":"\ud800"}"#,
        ] {
            check(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#), Ok(result));
            check(&format!(" {{ \"result\" : {result}, \"id\": 1, \"jsonrpc\":\"2.0\"}}\n"), Ok(result));
        }
    }

    #[test]
    fn what_is_no_result_is_a_problem() {
        for result in ["7", "[]", "null", "\"{}\""] {
            check(&format!(r#"{{"result":{result}}}"#), Err(StatusCode::BAD_GATEWAY));
        }
        for message in ["", "{", "{}", "[]", r#"{"result":{},"result":{}}"#, r#"{"result":{}} x"#] {
            check(message, Err(StatusCode::BAD_GATEWAY));
        }
        for kind in [r#""input_required""#, r#""input\u005frequired""#] {
            check(&format!(r#"{{"result":{{"resultType":{kind}}}}}"#), Err(StatusCode::CONFLICT));
        }
    }

    #[test]
    fn an_error_of_the_server_is_a_problem() {
        for (error, expected) in [
            (r#"{"code":-32602,"message":"no"}"#, StatusCode::UNPROCESSABLE_ENTITY),
            (r#"{"code":-32603,"message":"\ud800"}"#, StatusCode::BAD_GATEWAY),
            (r#"{"code":1e400}"#, StatusCode::BAD_GATEWAY),
            ("7", StatusCode::BAD_GATEWAY),
        ] {
            check(&format!(r#"{{"error":{error},"result":{{}}}}"#), Err(expected));
        }
    }
}
