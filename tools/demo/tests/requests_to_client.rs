//! What a server says to its client while a call is under way, in both eras, with content made for it.

#![allow(clippy::unwrap_used)] // in a test a panic is the report

mod peer;

use std::{
    net::{SocketAddr, TcpListener},
    thread,
    time::Instant,
};

use metamcp_demo::{
    Call, Demo, Era, HandlerResult, InputRequest, RpcError, ServerContent, ServerOptions, serve_content,
    structured, text,
};
use serde_json::{Value, json};

use crate::peer::{PATIENCE, call, modern, post, send, session};

/// Tools that ask, wait and count.
struct Asking;

impl ServerContent for Asking {
    fn info(&self) -> Value {
        json!({ "name": "asking", "version": "1" })
    }

    fn instructions(&self) -> Option<&str> {
        None
    }

    fn tools(&self, _era: Era) -> Vec<Value> {
        vec![json!({ "name": "ask", "inputSchema": { "type": "object" } })]
    }

    fn resources(&self) -> Vec<Value> {
        Vec::new()
    }

    fn resource_templates(&self) -> Vec<Value> {
        Vec::new()
    }

    fn prompts(&self) -> Vec<Value> {
        Vec::new()
    }

    async fn call_tool(&self, name: &str, call: &Call) -> HandlerResult {
        match name {
            "ask" => {
                call.state()?;
                let answers = call.ask_all(&[("roots", InputRequest::roots())], Some("asked")).await?;
                Ok(structured(&answers["roots"]["roots"]))
            }
            "leave" => {
                call.disconnect();
                Ok(text("back again"))
            }
            "stats" => Ok(structured(&json!(call.hub.calls().1))),
            _ => Demo.call_tool(name, call).await,
        }
    }

    async fn get_prompt(&self, _name: &str, _call: &Call) -> HandlerResult {
        Err(RpcError::invalid_params("Unknown prompt").into())
    }

    async fn read_resource(&self, uri: &str, call: &Call) -> HandlerResult {
        Err(RpcError::resource_not_found(call.era, uri).into())
    }

    fn complete(&self, _reference: &Value, _argument: &str, _prefix: &str) -> Vec<String> {
        Vec::new()
    }
}

fn server(resumable: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        serve_content(listener, Asking, ServerOptions { resumable, ..ServerOptions::default() })
    });
    address
}

#[test]
fn a_legacy_client_is_asked_on_the_stream_of_the_call() {
    let address = server(false);
    let headers = session(address, &json!({ "roots": {} }));
    let mut response = post(address, &headers, &call(1, "ask", &json!({})).to_string());
    let asked = response.event().unwrap();
    assert_eq!(asked["method"], "roots/list");
    let reply = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "roots": ["r"] } }).to_string();
    // A reply to nothing, and one from another session, change nothing.
    let other = session(address, &json!({ "roots": {} }));
    let stray = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "roots": ["stray"] } }).to_string();
    assert_eq!(post(address, &other, &stray).status, 202);
    assert_eq!(post(address, &headers, &reply).status, 202);
    assert_eq!(response.event().unwrap()["result"]["structuredContent"], json!(["r"]));
    assert_eq!(response.event(), None);
}

#[test]
fn a_client_without_the_capability_is_not_asked() {
    let address = server(false);
    let headers = session(address, &json!({}));
    let refused = post(address, &headers, &call(1, "ask", &json!({})).to_string()).json();
    assert_eq!(refused["result"]["isError"], true);
    let (headers, body) = modern(call(1, "ask", &json!({})));
    let refused = post(address, &headers, &body);
    assert_eq!(refused.status, 400);
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["code"], &error["data"]["requiredCapabilities"]),
        (&json!(-32021), &json!({ "roots": {} }))
    );
}

#[test]
fn a_modern_client_brings_the_answer_and_the_state() {
    let address = server(false);
    let ask = |answers: Option<&Value>, state: Option<&Value>| {
        let mut message = call(1, "ask", &json!({}));
        if let Some(answers) = answers {
            message["params"]["inputResponses"] = answers.clone();
        }
        if let Some(state) = state {
            message["params"]["requestState"] = state.clone();
        }
        let (headers, body) = modern(message);
        let able = r#"clientCapabilities":{"roots":{}}"#;
        post(address, &headers, &body.replace(r#"clientCapabilities":{}"#, able)).json()
    };
    let first = ask(None, None);
    assert_eq!(first["result"]["resultType"], "input_required");
    assert_eq!(first["result"]["inputRequests"]["roots"]["method"], "roots/list");
    let (answers, state) = (json!({ "roots": { "roots": ["r"] } }), &first["result"]["requestState"]);
    let second = ask(Some(&answers), Some(state));
    assert_eq!(second["result"]["structuredContent"], json!(["r"]));
    assert_eq!(second["result"]["resultType"], "complete");
    let tampered = json!(format!("{}x", state.as_str().unwrap()));
    assert_eq!(ask(Some(&answers), Some(&tampered))["error"]["code"], -32602);
    assert_eq!(ask(Some(&json!({ "roots": 3 })), Some(state))["result"]["resultType"], "input_required");
    assert_eq!(ask(Some(&json!(null)), Some(state))["error"]["code"], -32602);
}

#[test]
fn a_modern_client_cancels_by_going_away() {
    let address = server(false);
    let (headers, body) = modern(call(1, "countdown", &json!({ "steps": 600, "delay_ms": 10 })));
    let mut response = post(address, &headers, &body);
    assert_eq!(response.event().unwrap()["method"], "notifications/progress");
    drop(response);
    let begun = Instant::now();
    let (headers, body) = modern(call(2, "stats", &json!({})));
    while post(address, &headers, &body).json()["result"]["structuredContent"] != 1 {
        assert!(begun.elapsed() < PATIENCE, "the call runs on");
    }
}

#[test]
fn a_legacy_client_comes_back_to_its_stream() {
    let address = server(true);
    let headers = session(address, &json!({}));
    let mut response = post(address, &headers, &call(1, "leave", &json!({})).to_string());
    let (id, data) = response.raw_event().unwrap();
    assert_eq!(data, "", "the first event only tells where to come back to");
    assert_eq!(response.raw_event(), None, "the connection ends before the answer");
    let get = |id: &str| {
        send(
            address,
            &format!("GET /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}Last-Event-ID: {id}\r\n\r\n"),
        )
    };
    let answer = get(&id).event().unwrap();
    assert_eq!(answer["result"]["content"][0]["text"], "back again");
    assert_eq!(get("999-0").status, 400);
    assert_eq!(get("nonsense").status, 400);
}
