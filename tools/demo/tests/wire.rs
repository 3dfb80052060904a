//! The server over real sockets, in raw bytes: what each era answers, and what happens when clients cancel,
//! go away, or send rubbish.

#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod peer;

use std::{
    net::{SocketAddr, TcpListener},
    thread,
};

use serde_json::{Value, json};

use crate::peer::{ACCEPT, call, modern, post, send, session};

fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || metamcp_demo::serve(listener));
    address
}

/// The status, and the error's code or null, of a POST with these headers and this body.
fn check(headers: &str, body: &str, status: u16, code: impl Into<Value>) {
    let response = post(server(), headers, body);
    let got = response.status;
    let body_got = response.json();
    assert_eq!((got, &body_got["error"]["code"]), (status, &code.into()), "{headers} {body} -> {body_got}");
}

#[test]
fn refusals() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    check(ACCEPT, "{", 400, -32700);
    check(ACCEPT, "[]", 400, -32600);
    check(ACCEPT, ping, 400, -32000);
    check("Content-Type: application/json\r\n", ping, 406, -32000);
    check("Accept: */*\r\nContent-Type: text/plain\r\n", ping, 415, -32000);
    check(&format!("{ACCEPT}Mcp-Session-Id: x\r\n"), ping, 404, -32000);
    check(&format!("{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\n"), ping, 400, -32602);
    check(&format!("{ACCEPT}Origin: http://evil.example.com\r\n"), ping, 403, -32000);
    let (headers, body) =
        modern(json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "_meta": {} } }));
    check(&headers, &body, 404, -32601);
    check(&headers.replace("Method: ping", "Method: pong"), &body, 400, -32020);
    check(ACCEPT, &body, 400, -32020);
    let (headers, body) = modern(call(1, "unknown", &json!({})));
    check(&headers, &body, 200, -32602);
    check(&headers.replace("Name: unknown", "Name: echo"), &body, 400, -32020);
}

#[test]
fn methods_and_paths() {
    let address = server();
    let status =
        |request: &str| send(address, &format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n")).status;
    assert_eq!(status("GET /mcp"), 406);
    assert_eq!(status("DELETE /mcp"), 400);
    assert_eq!(status("PUT /mcp"), 405);
    assert_eq!(status("GET /"), 404);
    assert_eq!(send(address, "GET /mcp HTTP/1.1\r\nHost: evil.example.com\r\n\r\n").status, 403);
    let modern = "GET /mcp HTTP/1.1\r\nHost: localhost\r\nMCP-Protocol-Version: 2026-07-28\r\n\r\n";
    assert_eq!(send(address, modern).status, 405);
}

#[test]
fn a_short_call_is_answered_in_json_and_one_with_progress_in_events() {
    let address = server();
    let legacy = session(address, &json!({}));
    for (headers, body) in [
        (legacy.clone(), call(1, "echo", &json!({ "text": "hi" })).to_string()),
        modern(call(1, "echo", &json!({ "text": "hi" }))),
    ] {
        let response = post(address, &headers, &body);
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.json()["result"]["content"][0]["text"], "hi");
    }
    let countdown = call(2, "countdown", &json!({ "steps": 2, "delay_ms": 1 }));
    for (headers, body) in [(legacy, countdown.to_string()), modern(countdown)] {
        let mut response = post(address, &headers, &body);
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        let messages: Vec<_> = std::iter::from_fn(|| response.event()).collect();
        let progress = |message: &&Value| message["method"] == "notifications/progress";
        assert_eq!(messages.iter().filter(progress).count(), 2);
        let last = messages.last().unwrap();
        assert_eq!((&last["id"], &last["result"]["content"][0]["text"]), (&json!(2), &json!("Lift-off!")));
    }
}

#[test]
fn a_cancelled_call_sends_nothing_more() {
    let address = server();
    let headers = session(address, &json!({}));
    let body = call(7, "countdown", &json!({ "steps": 600, "delay_ms": 10 })).to_string();
    let mut response = post(address, &headers, &body);
    assert_eq!(response.event().unwrap()["method"], "notifications/progress");
    let duplicate = post(address, &headers, &body).json();
    assert_eq!(duplicate["error"]["code"], -32600, "two requests under one id");
    let cancel =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } });
    assert_eq!(post(address, &headers, &cancel.to_string()).status, 202);
    let rest: Vec<_> = std::iter::from_fn(|| response.event()).collect();
    assert!(
        rest.iter().all(|message| message["id"].is_null()),
        "a response after the cancellation: {rest:?}"
    );
}

#[test]
fn an_ended_session_is_unknown() {
    let address = server();
    let headers = session(address, &json!({}));
    let mut stream = send(address, &format!("GET /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    assert_eq!(stream.status, 200);
    let second = send(address, &format!("GET /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    assert_eq!(second.status, 409);
    assert_eq!(
        send(address, &format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).status,
        200
    );
    assert_eq!(stream.event(), None, "the stream ends with its session");
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(post(address, &headers, ping).status, 404);
}

#[test]
fn listen_begins_with_an_acknowledgement() {
    let address = server();
    let (headers, body) = modern(json!({
        "jsonrpc": "2.0",
        "id": "listen-1",
        "method": "subscriptions/listen",
        "params": { "notifications": { "toolsListChanged": true }, "_meta": {} },
    }));
    let first = post(address, &headers, &body).event().unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "listen-1");
    assert_eq!(first["params"]["notifications"], json!({ "toolsListChanged": true }));
}
