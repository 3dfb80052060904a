//! Messages of both eras, and what is usually asked of their answers.

use serde_json::Value;

use super::{Client, Gateway, Request, Response, text};

/// The revision without sessions.
pub const MODERN: &str = "2026-07-28";

/// The raw message of a Modern request; `params` are the members before `_meta`, with a comma at the end
/// when there are any.
pub fn call(id: &str, method: &str, params: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}

/// A Modern request without a name.
pub fn modern(path: &str, method: &str, params: &str) -> Request {
    Request::post(path, call("1", method, params))
        .with("MCP-Protocol-Version", MODERN)
        .with("Mcp-Method", method)
}

/// A Modern call of a tool.
pub fn modern_call(path: &str, tool: &str, arguments: &str) -> Request {
    modern(path, "tools/call", &format!(r#""name":"{tool}","arguments":{arguments},"#)).with("Mcp-Name", tool)
}

/// A request within a Legacy session.
pub fn legacy(path: &str, session: &str, id: &str, method: &str, params: &str) -> Request {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#);
    Request::post(path, body).with("Mcp-Session-Id", session).with("MCP-Protocol-Version", "2025-11-25")
}

/// A Legacy call of a tool.
pub fn legacy_call(path: &str, session: &str, id: &str, tool: &str, arguments: &str) -> Request {
    legacy(path, session, id, "tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#))
}

/// A notification within a Legacy session.
pub fn notification(path: &str, session: &str, method: &str, params: &str) -> Request {
    let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#);
    Request::post(path, body).with("Mcp-Session-Id", session).with("MCP-Protocol-Version", "2025-11-25")
}

/// Opens a Legacy session.
pub fn initialize(path: &str) -> Request {
    Request::post(
        path,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#,
    )
}

/// Opens a Legacy session and gives its id. The credential, when there is one, is added to both requests.
#[track_caller]
pub fn open_session(gateway: &Gateway, path: &str, key: Option<&str>) -> String {
    let with_key = |request: Request| match key {
        Some(key) => request.with("Authorization", format!("Bearer {key}")),
        None => request,
    };
    let mut client = Client::connect(gateway.address);
    let opened = client.ask(&with_key(initialize(path)));
    assert_eq!(opened.status, 200, "{}", opened.text());
    let session = opened.header("mcp-session-id").expect("a session id").to_owned();
    let told = client.ask(&with_key(notification(path, &session, "notifications/initialized", "")));
    assert_eq!(told.status, 202, "{}", told.text());
    session
}

/// The code of the error that the response is.
#[track_caller]
pub fn error(response: &Response) -> i64 {
    response.json()["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {}", response.text()))
}

/// The response to a cancelled call: an event stream that ends in good order without a message.
#[track_caller]
pub fn assert_unanswered(response: &Response) {
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    assert!(response.whole && response.events().is_empty(), "{}", response.text());
}

/// The message of the response, in whichever of the two forms it came. Of several events it is the last.
#[track_caller]
pub fn message(response: &Response) -> Value {
    if response.header("content-type") == Some("text/event-stream") {
        return response.events().pop().expect("an event");
    }
    response.json()
}

/// The text that the called tool returned.
#[track_caller]
pub fn tool_text(response: &Response) -> String {
    text(&message(response)).to_owned()
}

/// The names in a listing of tools.
pub fn listed(message: &Value) -> Vec<String> {
    let tools = message["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools: {message}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}
