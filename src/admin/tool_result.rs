//! The result of a tool call.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::problem::Problem;
use metamcp_core::protocol::code;

/// Extracts the result of a call from a JSON-RPC response.
pub fn result_of(message: &Bytes) -> Result<Value, Problem> {
    let bad =
        || Problem::new(StatusCode::BAD_GATEWAY, "the server's answer is not the result of a tool call");
    let mut message: Value = serde_json::from_slice(message).map_err(|_| bad())?;
    if let Some(error) = message.get("error") {
        let text: String =
            error["message"].as_str().unwrap_or_default().chars().take(SAID_CHARS_MAX).collect();
        let status = match error["code"].as_i64() {
            Some(number) if number == i64::from(code::INVALID_PARAMS) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_GATEWAY,
        };
        return Err(Problem::new(status, format!("the server rejected the call: {text}")));
    }
    let result = message.get_mut("result").map(Value::take).filter(Value::is_object).ok_or_else(bad)?;
    if result["resultType"] == "input_required" {
        let detail = "the tool asks for input, which is only possible over MCP";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(result)
}

/// The part of a server's error message that is passed on.
const SAID_CHARS_MAX: usize = 300;
