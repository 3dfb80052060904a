//! Calls of a tool in the forms that are neither a request of its own nor a Legacy request in a session.

use serde_json::Value;

use super::{Client, Form, Gateway, Request, Stream, call, initialize, legacy};

/// A call of a tool in a batch of one, without a session and in a session of 2025-03-26, and on framed streams: the
/// response message of each.
#[track_caller]
pub fn call_in_other_forms(gateway: &Gateway, path: &str, key: Option<&str>, tool: &str) -> Vec<Value> {
    let with_key = |request: Request| match key {
        Some(key) => request.with("Authorization", format!("Bearer {key}")),
        None => request,
    };
    let opening = String::from_utf8(initialize(path).body).unwrap().replace("2025-11-25", "2025-03-26");
    let opened = Client::once(gateway.address, &with_key(initialize(path).body(opening)));
    let session = opened.header("mcp-session-id").expect("a session id").to_owned();
    let params = format!(r#""name":"{tool}","arguments":{{"a":1}}"#);
    let message = String::from_utf8(legacy(path, "", "1", "tools/call", &params).body).unwrap();
    let batch = with_key(Request::post(path, format!("[{message}]")));
    let batches = [batch.clone(), batch.with("Mcp-Session-Id", session)];
    let mut answers = Vec::new();
    for batch in batches {
        let response = Client::once(gateway.address, &batch);
        let mut events = response.events();
        assert_eq!((response.status, events.len()), (200, 1), "{}", response.text());
        answers.extend(events.pop());
    }
    let stream_path = match path.strip_prefix("/servers/").and_then(|rest| rest.strip_suffix("/mcp")) {
        Some(server) => format!("{}/servers/{server}", Stream::PATH),
        None => format!("{}{}", Stream::PATH, path.strip_prefix("/mcp").expect("a path of MCP")),
    };
    for form in Form::BOTH {
        let mut stream = Stream::open_with(gateway, &with_key(Request::new("POST", &stream_path)), form);
        answers.push(stream.ask(&call("1", "tools/call", &format!("{params},"))));
    }
    answers
}
