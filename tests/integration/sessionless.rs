//! Clients of the Legacy era that never open a session: each of their requests is a session of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::sse_server;
use crate::support::{
    Client, Form, Gate, Gateway, PATIENCE, Peer, Request, Response, Setup, Step, Stream, chunk, error,
    events, is_long, listed, modern_call, result,
};
use metamcp_demo::{ServerOptions, SupportedEras};
use metamcp_fixture::Fixture;
use metamcp_store::store::Grants;
use serde_json::{Value, json};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

/// A request without a session.
fn request(path: &str, method: &str, params: &str) -> Request {
    Request::post(path, format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{params}}}}}"#))
}

/// A call of a tool without a session.
fn call(path: &str, tool: &str, arguments: &str) -> Request {
    request(path, "tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#))
}

/// The message of a response, in whichever of the two forms it came.
#[track_caller]
fn message(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("mcp-session-id"), None);
    let message = match response.header("content-type") {
        Some("text/event-stream") => response.events().pop().expect("an event"),
        _ => response.json(),
    };
    assert_eq!(message["id"], 7, "{message}");
    message
}

#[track_caller]
fn text(response: &Response) -> String {
    let message = message(response);
    let text = message["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {message}")).to_owned()
}

/// The fixture, which supports the Modern era only.
fn modern_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServerOptions { eras: SupportedEras::Modern, ..ServerOptions::default() };
    thread::spawn(move || metamcp_demo::serve_content(listener, Fixture::new("fixture".into()), options));
    address
}

#[test]
fn servers_of_every_kind_are_used_without_a_session() {
    let (http, sse) = (Peer::script([]), sse_server::Server::start());
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let gateway = Setup::new()
        .server("http", http.address)
        .server("modern", modern_server())
        .with(&format!(
            "[servers.sse]\nurl = \"http://{}/sse\"\ntransport = \"sse\"\n[servers.stdio]\ncommand = {program:?}",
            sse.address
        ))
        .start();
    let check = |server: &str, tool: &str, arguments: &str, expected: &str| {
        for revision in [None, Some("2024-11-05"), Some("2025-03-26"), Some("2025-06-18"), Some("2025-11-25")]
        {
            for (path, prefix) in [
                (format!("/servers/{server}/mcp"), String::new()),
                (AGGREGATED.into(), format!("{server}__")),
            ] {
                let ask = |request: Request| {
                    let request = match revision {
                        Some(revision) => request.with("MCP-Protocol-Version", revision),
                        None => request,
                    };
                    Client::once(gateway.address, &request)
                };
                let name = format!("{prefix}{tool}");
                assert!(text(&ask(call(&path, &name, arguments))).contains(expected), "{path} {revision:?}");
                assert_eq!(message(&ask(request(&path, "ping", "")))["result"], json!({}), "{path}");
                let names = listed(&message(&ask(request(&path, "tools/list", ""))));
                assert!(names.contains(&name), "{path} {revision:?}: {names:?}");
            }
        }
    };
    check("http", "echo", r#"{"n":"sent"}"#, "sent");
    check("modern", "test_simple_text", "{}", "simple text");
    check("sse", "echo", r#"{"text":"sent"}"#, "sent");
    check("stdio", "echo", r#"{"text":"sent"}"#, "sent");
}

#[test]
fn all_methods_of_requests_are_answered() {
    let gateway = Gateway::open(&[("a", modern_server())]);
    let check = |path: &str, method: &str, params: &str, expected: &str| {
        let response = Client::once(gateway.address, &request(path, method, params));
        let result = &message(&response)["result"];
        assert!(result.get(expected).is_some(), "{path} {method}: {}", response.text());
    };
    for (path, prefix) in [(SINGLE, ""), (AGGREGATED, "a__")] {
        let prompt = format!(r#""name":"{prefix}test_simple_prompt""#);
        check(path, "prompts/list", "", "prompts");
        check(path, "prompts/get", &prompt, "messages");
        check(path, "resources/list", "", "resources");
        check(path, "resources/templates/list", "", "resourceTemplates");
        check(path, "resources/read", r#""uri":"test://static-text""#, "contents");
        let reference = format!(
            r#""ref":{{"type":"ref/prompt","name":"{prefix}test_prompt_with_arguments"}},"argument":{{"name":"arg1","value":"x"}}"#
        );
        check(path, "completion/complete", &reference, "completion");
    }
    let level = Client::once(gateway.address, &request(AGGREGATED, "logging/setLevel", r#""level":"debug""#));
    assert_eq!(message(&level)["result"], json!({}));
}

/// The session ids that the server received DELETE for.
fn ended_sessions(peer: &Peer) -> Vec<String> {
    let all = peer.all();
    let deletes = all.iter().filter(|seen| seen.head.starts_with("DELETE "));
    deletes.filter_map(|seen| seen.header("mcp-session-id").map(str::to_owned)).collect()
}

#[track_caller]
fn wait_ended(peer: &Peer, session: &str) {
    peer.wait_until("the end of the session", |peer| ended_sessions(peer).iter().any(|id| id == session));
}

#[test]
fn the_server_has_a_session_for_each_request() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let check = |path: &str, tool: &str, header: Option<&str>, revision: &str| {
        let before = peer.all().len();
        let asked = call(path, tool, "{}");
        let asked = header.map_or(asked.clone(), |header| asked.clone().with("MCP-Protocol-Version", header));
        assert_eq!(text(&Client::once(gateway.address, &asked)), "{}");
        let session = peer.calls().last().unwrap().header("mcp-session-id").unwrap().to_owned();
        wait_ended(&peer, &session);
        let all = peer.all().split_off(before);
        let opened = all.iter().find(|seen| {
            let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let params = &message["params"];
            seen.is("initialize")
                && (&params["protocolVersion"], &params["capabilities"]) == (&json!(revision), &json!({}))
        });
        assert!(opened.is_some(), "{path} {header:?}: {all:?}");
        session
    };
    let mut sessions = Vec::new();
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        sessions.push(check(path, tool, None, "2025-03-26"));
        sessions.push(check(path, tool, Some("2025-06-18"), "2025-06-18"));
        sessions.push(check(path, tool, Some("2025-11-25"), "2025-11-25"));
    }
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(sessions.len(), 6, "no session is used twice: {sessions:?}");
}

#[test]
fn requests_of_the_server_are_refused_and_its_notifications_forwarded() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        let refused = Gate::default();
        let event =
            |message: &str| Step::Send(chunk(&format!("id: 1\ndata: {{\"jsonrpc\":\"2.0\",{message}}}\n\n")));
        let answer = format!("data: {}\n\n", result("7", "answered"));
        peer.push([vec![
            Step::Send(events()),
            event(r#""method":"notifications/progress","params":{"progressToken":"t","progress":1}"#),
            event(r#""id":0,"method":"elicitation/create","params":{"message":"?"}"#),
            event(r#""id":"p","method":"ping""#),
            event(r#""method":"notifications/cancelled","params":{"requestId":0}"#),
            event(r#""method":"notifications/message","params":{"level":"info","data":"x"}"#),
            Step::Wait(refused.clone()),
            Step::Send(chunk(&answer)),
            Step::Send(chunk("")),
        ]]);
        let before = peer.calls().len();
        let mut client = Client::connect(gateway.address);
        assert!(client.send(&call(path, tool, "{}").bytes()));
        assert_eq!(client.head().header("content-type"), Some("text/event-stream"));
        assert_eq!(client.event().unwrap()["params"]["progressToken"], "t");
        // The answers arrive while the call is in flight.
        peer.wait_calls(before + 3);
        let answers: Vec<Value> = peer.calls()[before + 1..]
            .iter()
            .map(|seen| serde_json::from_slice(&seen.body).unwrap())
            .collect();
        assert_eq!((&answers[0]["id"], &answers[0]["error"]["code"]), (&json!(0), &json!(-32601)));
        assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
        assert_eq!(client.event().unwrap()["method"], "notifications/message");
        refused.open();
        assert_eq!(client.event().unwrap()["result"]["content"][0]["text"], "answered");
        assert!(client.event().is_none());
        wait_ended(&peer, peer.calls()[before].header("mcp-session-id").unwrap());
    }
}

#[test]
fn what_needs_a_session_is_refused() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    assert_eq!(text(&Client::once(gateway.address, &call(AGGREGATED, "a__echo", "{}"))), "{}");
    let seen = peer.calls().len();
    let check = |what: &str, request: &Request, status: u16, code: Option<i64>| {
        let response = Client::once(gateway.address, request);
        assert_eq!(response.status, status, "{what}: {}", response.text());
        assert_eq!(response.header("mcp-session-id"), None, "{what}");
        match code {
            Some(code) => assert_eq!(error(&response), code, "{what}: {}", response.text()),
            None => assert!(response.body.is_empty(), "{what}: {}", response.text()),
        }
    };
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        let post = |message: &str| Request::post(path, format!(r#"{{"jsonrpc":"2.0",{message}}}"#));
        for method in ["resources/subscribe", "resources/unsubscribe", "tasks/list", "tasks/get", "tasks/x"] {
            check(method, &request(path, method, r#""uri":"a://b","taskId":"x""#), 400, Some(-32000));
        }
        let task = format!(r#""name":"{tool}","arguments":{{}},"task":{{"ttl":1}}"#);
        check("a task", &request(path, "tools/call", &task), 400, Some(-32000));
        // Accepted and dropped: they concern nothing that there is.
        for method in ["initialized", "cancelled", "progress", "roots/list_changed", "x", "../../"] {
            let params = r#""params":{"requestId":7,"progressToken":"t"}"#;
            check(method, &post(&format!(r#""method":"notifications/{method}",{params}"#)), 202, None);
        }
        check("initialize without an id", &post(r#""method":"initialize""#), 202, None);
        check("a response", &post(r#""id":7,"result":{}"#), 400, Some(-32600));
        check("an error", &post(r#""id":null,"error":{"code":1,"message":"m"}"#), 400, Some(-32600));
        for session in ["x", "", "%00", &"A".repeat(8000)] {
            let named = call(path, tool, "{}").with("Mcp-Session-Id", session);
            check("an unknown session", &named, 404, Some(-32000));
        }
        let get = Request::new("GET", path).with("Accept", "text/event-stream");
        check("GET", &get, 400, Some(-32000));
        check("DELETE", &Request { method: "DELETE".into(), ..get }, 400, Some(-32000));
        for revision in ["1999-01-01", "", "2025-11-25x"] {
            let unknown = call(path, tool, "{}").with("MCP-Protocol-Version", revision);
            check(revision, &unknown, 400, Some(-32022));
        }
        check(
            "no header of the Modern era",
            &modern_call(path, tool, "{}").without("Mcp-Method"),
            400,
            Some(-32020),
        );
    }
    assert_eq!(peer.calls().len(), seen, "a refused message reached the server");
    assert!(!gateway.log().contains("panicked"));
}

#[test]
fn batches_of_the_revision_that_has_them() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let check = |header: Option<&str>, batch: &str, status: u16, expected: &[&str]| {
        for path in [SINGLE, AGGREGATED] {
            let request = Request::post(path, batch);
            let request =
                header.map_or(request.clone(), |header| request.with("MCP-Protocol-Version", header));
            let response = Client::once(gateway.address, &request);
            assert_eq!(response.status, status, "{path} {batch}: {}", response.text());
            let events = if expected.is_empty() { Vec::new() } else { response.events() };
            let ids: Vec<String> = events.iter().map(|event| event["id"].to_string()).collect();
            assert_eq!(ids, expected, "{path} {batch}: {}", response.text());
        }
    };
    for header in [None, Some("2025-03-26")] {
        check(header, &format!("[{},{told},{}]", ping("1"), ping("\"1\"")), 200, &["1", "\"1\""]);
        // Each message is a session of its own, so ids need not differ.
        check(header, &format!(" [{},{}]", ping("1"), ping("1")), 200, &["1", "1"]);
        check(header, &format!("[{told}]"), 202, &[]);
        check(header, "[]", 400, &[]);
        check(header, "[", 400, &[]);
        check(header, &format!("[{},7]", ping("1")), 400, &[]);
        check(header, r#"[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}]"#, 400, &[]);
    }
    check(Some("2025-06-18"), &format!("[{}]", ping("1")), 400, &[]);
    check(Some("2026-07-28"), &format!("[{}]", ping("1")), 400, &[]);
    check(Some("1999-01-01"), &format!("[{}]", ping("1")), 400, &[]);
}

#[test]
fn a_client_that_leaves_leaves_no_session() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        assert_eq!(text(&Client::once(gateway.address, &call(path, tool, "{}"))), "{}");
        // While the server works, before and after the head of its response.
        for script in [vec![Step::Hold], vec![Step::Send(events()), Step::Hold]] {
            let count = peer.calls().len() + 1;
            peer.push([script]);
            let mut client = Client::connect(gateway.address);
            assert!(client.send(&call(path, tool, "{}").bytes()));
            peer.wait_calls(count);
            drop(client);
            wait_ended(&peer, peer.calls().last().unwrap().header("mcp-session-id").unwrap());
        }
        // While the server opens the session.
        let gate = Gate::default();
        peer.open_behind(&gate);
        let (opened, calls) = (peer.count("initialize"), peer.calls().len());
        let mut client = Client::connect(gateway.address);
        assert!(client.send(&call(path, tool, "{}").bytes()));
        peer.wait_until("initialize", |peer| peer.count("initialize") > opened);
        drop(client);
        gate.open();
        wait_ended(&peer, &format!("peer-{opened}"));
        assert_eq!(peer.calls().len(), calls, "the call of a client that left was sent");
    }
    let rest = Client::once(gateway.address, &Request::new("GET", "/metrics"));
    assert!(rest.text().contains("\nmetamcp_sessions 0\n"), "{}", rest.text());
}

#[test]
fn a_program_for_each_session_ends_with_the_request() {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let gateway =
        Setup::new().with(&format!("[servers.a]\ncommand = {program:?}\nsharing = \"session\"")).start();
    let pids = [(); 3].map(|()| text(&Client::once(gateway.address, &call(SINGLE, "pid", "{}"))));
    assert!(pids[0] != pids[1] && pids[1] != pids[2], "{pids:?}");
    let deadline = Instant::now() + PATIENCE;
    for pid in &pids {
        while fs::exists(format!("/proc/{pid}")).unwrap() {
            assert!(Instant::now() < deadline, "process {pid} did not end");
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

#[test]
fn keys_limits_and_grants_apply() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let (_, one) = gateway.keys().grant("one", Grants { concurrency: Some(1), ..Grants::everything() });
    let (_, few) =
        gateway.keys().grant("few", Grants { tools: Some(vec!["a__other".into()]), ..Grants::everything() });
    let with =
        |key: &str, tool: &str| call(AGGREGATED, tool, "{}").with("Authorization", format!("Bearer {key}"));
    let missing = Client::once(gateway.address, &call(AGGREGATED, "a__echo", "{}"));
    assert_eq!(missing.status, 401);
    assert_eq!(error(&Client::once(gateway.address, &with(&few, "a__echo"))), -32602);
    // The permit is held while the session is opened and the call runs, and free afterwards.
    assert_eq!(text(&Client::once(gateway.address, &with(&one, "a__echo"))), "{}");
    peer.push([vec![Step::Hold]]);
    let count = peer.calls().len() + 1;
    let mut client = Client::connect(gateway.address);
    assert!(client.send(&with(&one, "a__echo").bytes()));
    peer.wait_calls(count);
    assert_eq!(Client::once(gateway.address, &with(&one, "a__echo")).status, 429);
    drop(client);
    let deadline = Instant::now() + PATIENCE;
    while Client::once(gateway.address, &with(&one, "a__echo")).status != 200 {
        assert!(Instant::now() < deadline, "the permit of a client that left is not free");
    }
}

#[test]
fn a_framed_stream_without_a_session() {
    let peer = Peer::script([vec![Step::Hold]]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Lines);
    let call = |id: u32| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a__echo","arguments":{{}}}}}}"#
        )
    };
    stream.send(&[&call(1)]);
    peer.wait_calls(1);
    let answered = stream.ask(&call(2));
    assert_eq!(answered["id"], 2, "{answered}");
    stream.send(&[r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#]);
    wait_ended(&peer, peer.calls()[0].header("mcp-session-id").unwrap());
    let refused = stream.ask(r#"{"jsonrpc":"2.0","id":3,"method":"tasks/list"}"#);
    assert_eq!(refused["error"]["code"], -32000, "{refused}");
}

#[test]
fn a_gateway_that_stops_cuts_the_requests_in_flight() {
    let peer = Peer::script([vec![Step::Send(events()), Step::Hold]]);
    let mut gateway = Setup::new()
        .server("a", peer.address)
        .with("[server]\ndrain_delay = \"0s\"\ndrain_deadline = \"1s\"")
        .start();
    let mut client = Client::connect(gateway.address);
    assert!(client.send(&call(SINGLE, "echo", "{}").bytes()));
    assert_eq!(client.head().status, 200);
    gateway.terminate();
    let last = client.event().expect("the reason");
    assert_eq!((&last["id"], last["error"]["code"].is_i64()), (&json!(7), true), "{last}");
    assert!(gateway.ended().success());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

/// Thousands of requests without a session leave nothing behind.
#[test]
fn many_requests_leave_nothing() {
    if !is_long() {
        return;
    }
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    let ask = |client: &mut Client, count: usize| {
        for _ in 0..count {
            assert_eq!(text(&client.ask(&call(SINGLE, "echo", "{}"))), "{}");
        }
    };
    ask(&mut client, 1000);
    let before = gateway.resident_bytes();
    ask(&mut client, 10_000);
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    peer.wait_until("all sessions to end", |peer| ended_sessions(peer).len() >= 11_000);
}
