//! Clients that open sessions, and servers that speak only the era without: what comes through, by name and
//! together.

// The repository's fixture server, on a thread of this process.
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{
    self, Client, Gateway, Peer, Request, Response, Setup, Step, answer, assert_unanswered, chunk, error,
    events, legacy, legacy_call, listed, notification,
};
use metamcp_demo::{ServerOptions, SupportedEras};
use metamcp_fixture::Fixture;
use serde_json::{Value, json};

/// By name and together, with what stands before its tools there.
const WAYS: [(&str, &str); 2] = [("/servers/a/mcp", ""), ("/mcp", "a__")];

/// The fixture, of those eras.
fn fixture(eras: SupportedEras) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServerOptions { eras, ..ServerOptions::default() };
    thread::spawn(move || metamcp_demo::serve_content(listener, Fixture::new("fixture".into()), options));
    address
}

/// In front of a server of the Modern era whose configuration says nothing about it, and of one of both.
fn gateway() -> Gateway {
    Gateway::open(&[("a", fixture(SupportedEras::Modern)), ("b", fixture(SupportedEras::Dual))])
}

/// A client's session.
struct Session<'a> {
    gateway: &'a Gateway,
    path: &'static str,
    prefix: &'static str,
    id: String,
    opened: Value,
}

fn initialize(path: &str, revision: &str, capabilities: &Value) -> Request {
    let params = json!({"protocolVersion": revision, "capabilities": capabilities, "clientInfo": {"name": "test", "version": "1"}});
    let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    Request::post(path, message.to_string())
}

impl<'a> Session<'a> {
    #[track_caller]
    fn open(
        gateway: &'a Gateway,
        (path, prefix): (&'static str, &'static str),
        capabilities: &Value,
    ) -> Self {
        let opened = Client::once(gateway.address, &initialize(path, "2025-11-25", capabilities));
        assert_eq!(opened.status, 200, "{}", opened.text());
        let id = opened.header("mcp-session-id").expect("a session id").to_owned();
        let session = Self { gateway, path, prefix, id, opened: opened.json() };
        assert_eq!(session.tell("notifications/initialized", "").status, 202);
        session
    }

    #[track_caller]
    fn ask(&self, method: &str, params: &str) -> Response {
        Client::once(self.gateway.address, &legacy(self.path, &self.id, "1", method, params))
    }

    fn tell(&self, method: &str, params: &str) -> Response {
        Client::once(self.gateway.address, &notification(self.path, &self.id, method, params))
    }

    fn call(&self, id: &str, tool: &str, arguments: &str) -> Request {
        legacy_call(self.path, &self.id, id, &format!("{}{tool}", self.prefix), arguments)
    }

    #[track_caller]
    fn result(&self, tool: &str, arguments: &str) -> Value {
        message(&Client::once(self.gateway.address, &self.call("1", tool, arguments)))["result"].clone()
    }

    /// Calls, and answers what the client is asked in that order. Gives the methods of what came before the
    /// answer, and the answer.
    #[track_caller]
    fn converse(&self, call: &Request, answers: &[(&str, Value)]) -> (Vec<String>, Value) {
        let mut client = Client::connect(self.gateway.address);
        client.send(&call.bytes());
        let head = client.head();
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        let (mut came, mut answers) = (Vec::new(), answers.iter());
        loop {
            let event = client.event().expect("an answer");
            let Some(method) = event["method"].as_str() else { return (came, event) };
            came.push(method.to_owned());
            if !event["id"].is_null() {
                let (expected, outcome) = answers.next().expect("no more questions");
                assert_eq!(method, *expected);
                let mut answer = json!({"jsonrpc": "2.0", "id": event["id"]});
                let member = if outcome["code"].is_null() { "result" } else { "error" };
                answer[member] = outcome.clone();
                let answer = Request::post(self.path, answer.to_string())
                    .with("Mcp-Session-Id", &*self.id)
                    .with("MCP-Protocol-Version", "2025-11-25");
                assert_eq!(Client::once(self.gateway.address, &answer).status, 202);
            }
        }
    }

    /// The GET stream, open.
    fn listen(&self) -> Client {
        let request = Request::new("GET", self.path)
            .with("Accept", "text/event-stream")
            .with("Mcp-Session-Id", &*self.id);
        let mut client = Client::connect(self.gateway.address);
        client.send(&request.bytes());
        assert_eq!(client.head().status, 200);
        client
    }

    #[track_caller]
    fn wait_stat(&self, what: &str, expected: u64) {
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        loop {
            let stats = &self.result("stats", "{}")["structuredContent"];
            if stats[what] == expected {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{what} is not {expected}: {stats}");
        }
    }
}

/// The message of an answer.
#[track_caller]
fn message(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    support::message(response)
}

#[track_caller]
fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {result}"))
}

#[test]
fn sessions_are_opened_and_ended() {
    let gateway = gateway();
    let check = |way: (&'static str, &'static str), asked: &str, expected: &str| {
        let opened = Client::once(gateway.address, &initialize(way.0, asked, &json!({})));
        let result = &opened.json()["result"];
        assert_eq!(result["protocolVersion"], expected, "{}", opened.text());
        assert!(result["capabilities"]["tools"].is_object() && result["capabilities"]["logging"].is_object());
        assert_eq!(result["capabilities"]["resources"]["subscribe"], true);
        assert!(result["resultType"].is_null() && result["ttlMs"].is_null());
    };
    for way in WAYS {
        check(way, "2025-11-25", "2025-11-25");
        check(way, "2025-03-26", "2025-03-26");
        check(way, "1999-01-01", "2025-11-25");
        let session = Session::open(&gateway, way, &json!({}));
        if way.1.is_empty() {
            assert_eq!(session.opened["result"]["serverInfo"]["name"], "fixture");
        }
        assert_eq!(message(&session.ask("ping", ""))["result"], json!({}));
        let end = Request::new("DELETE", way.0).with("Mcp-Session-Id", &*session.id);
        assert_eq!(Client::once(gateway.address, &end).status, 200);
        assert_eq!(session.ask("ping", "").status, 404);
        assert_eq!(session.ask("tools/list", "").status, 404);
    }
}

#[test]
fn requests_and_answers_pass() {
    let gateway = gateway();
    for way in WAYS {
        let session = Session::open(&gateway, way, &json!({}));
        let tools = message(&session.ask("tools/list", ""));
        assert!(listed(&tools).contains(&format!("{}test_simple_text", way.1)), "{tools}");
        assert!(tools["result"]["resultType"].is_null());
        let called = session.result("test_simple_text", "{}");
        assert!(text(&called).starts_with("This is a simple text"));
        assert!(called["resultType"].is_null());
        assert_eq!(session.result("test_error_handling", "{}")["isError"], true);
        assert_eq!(text(&session.result("blob", r#"{"bytes":3000000}"#)).len(), 3_000_000);
        let arguments = json!({"region": "eu\u{fc}", "shard": 7, "dry_run": false, "query": "q"});
        let repeated = session.result("test_x_mcp_header", &arguments.to_string());
        assert_eq!(repeated["structuredContent"], arguments);

        let params = format!(r#""name":"{}test_simple_prompt""#, way.1);
        let prompt = message(&session.ask("prompts/get", &params));
        assert!(prompt["result"]["messages"].is_array(), "{prompt}");
        let read = message(&session.ask("resources/read", r#""uri":"test://static-text""#));
        assert_eq!(read["result"]["contents"][0]["uri"], "test://static-text");
        let params = format!(
            r#""ref":{{"type":"ref/prompt","name":"{}greet"}},"argument":{{"name":"name","value":"A"}}"#,
            way.1
        );
        let completed = message(&session.ask("completion/complete", &params));
        assert_eq!(completed["result"]["completion"]["values"][0], "Ada");

        let unknown = session.call("1", "nope", "{}");
        assert_eq!(error(&Client::once(gateway.address, &unknown)), -32602);
        for (method, params, code) in [
            ("resources/read", r#""uri":"test://nope""#, -32602),
            ("resources/subscribe", "", -32602),
            ("logging/setLevel", r#""level":"loud""#, -32602),
            ("server/discover", "", -32601),
            ("nobody/knows", "", -32601),
        ] {
            let refused = session.ask(method, params);
            // Of an aggregate, these do not come to the server.
            if way.1.is_empty() || !["resources/subscribe", "logging/setLevel"].contains(&method) {
                assert_eq!((refused.status, error(&refused)), (200, code), "{method}: {}", refused.text());
            }
        }
    }
}

#[test]
fn a_server_hears_what_the_client_said_of_itself() {
    let gateway = gateway();
    for way in WAYS {
        let declared = json!({"roots": {"listChanged": true}, "elicitation": {}});
        let session = Session::open(&gateway, way, &declared);
        let params = format!(
            r#""name":"{}whoami","_meta":{{"x":[1],"io.modelcontextprotocol/clientCapabilities":{{"sampling":{{}}}}}}"#,
            way.1
        );
        let heard = message(&session.ask("tools/call", &params))["result"]["structuredContent"].clone();
        assert_eq!((&heard["era"], &heard["session"]), (&json!("modern"), &Value::Null));
        assert_eq!(heard["clientInfo"]["name"], "test");
        assert_eq!(heard["clientCapabilities"], json!({"elicitation": {"form": {}}, "roots": {}}));
        assert_eq!(heard["meta"]["x"], json!([1]));
    }
}

#[test]
fn progress_and_log_messages_pass() {
    let gateway = gateway();
    for way in WAYS {
        let session = Session::open(&gateway, way, &json!({}));
        let params = format!(r#""name":"{}test_tool_with_progress","_meta":{{"progressToken":"t"}}"#, way.1);
        let call = legacy(way.0, &session.id, "\"p\"", "tools/call", &params);
        let (came, answer) = session.converse(&call, &[]);
        assert_eq!(came, ["notifications/progress"; 3]);
        assert_eq!((&answer["id"], text(&answer["result"])), (&json!("p"), "\"t\""));

        let quiet = session.result("log_all_levels", "{}");
        assert_eq!(text(&quiet), "Logged at eight levels");
        assert_eq!(message(&session.ask("logging/setLevel", r#""level":"error""#))["result"], json!({}));
        let (came, _) = session.converse(&session.call("1", "log_all_levels", "{}"), &[]);
        assert_eq!(came, ["notifications/message"; 4]);
    }
}

const FORM: &str = "elicitation/create";
const SAMPLE: &str = "sampling/createMessage";
const ROOTS: &str = "roots/list";

#[test]
fn what_a_server_wants_to_know_is_asked() {
    let gateway = gateway();
    let given = |name: &str, value: &str| json!({"action": "accept", "content": {name: value}});
    let sampled = || json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}});
    for way in WAYS {
        let declared = json!({"roots": {}, "sampling": {}, "elicitation": {"form": {}, "url": {}}});
        let session = Session::open(&gateway, way, &declared);
        let check = |tool: &str, answers: &[(&str, Value)], expected: &str| {
            let (came, answer) = session.converse(&session.call("7", tool, "{}"), answers);
            let asked: Vec<_> = answers.iter().map(|(method, _)| (*method).to_owned()).collect();
            assert_eq!(came, asked, "{tool}");
            assert_eq!(answer["id"], 7, "{answer}");
            let answer = answer.to_string();
            assert!(answer.contains(expected), "{tool}: {answer}");
        };
        check("test_input_required_result_elicitation", &[(FORM, given("name", "Ada"))], "Hello, Ada!");
        check(
            "test_elicitation_sep1034_defaults",
            &[(FORM, json!({"action": "decline"}))],
            "Elicitation completed: action=decline",
        );
        check(
            "test_elicitation_sep1034_defaults",
            &[(FORM, json!({"code": -1, "message": "cannot"}))],
            "Elicitation completed: action=cancel",
        );
        check("test_input_required_result_sampling", &[(SAMPLE, sampled())], "Sampling result: Paris");
        check(
            "test_input_required_result_sampling",
            &[(SAMPLE, json!({"code": -1, "message": "User rejected"}))],
            "did not answer sampling/createMessage: User rejected",
        );
        check("list_roots", &[(ROOTS, json!({"roots": [{"uri": "file:///x"}]}))], "file:///x");
        check(
            "test_input_required_result_request_state",
            &[(FORM, json!({"action": "accept", "content": {"ok": true}}))],
            "state-ok",
        );
        check(
            "test_input_required_result_multi_round",
            &[(FORM, given("name", "Ada")), (FORM, given("color", "red"))],
            "Ada likes red",
        );
        check("elicit_url", &[(FORM, json!({"action": "accept"}))], "action=accept");
        check(
            "test_input_required_result_multiple_inputs",
            &[(ROOTS, json!({"roots": []})), (SAMPLE, sampled()), (FORM, given("name", "Ada"))],
            "Name: Ada; Greeting: Paris; Roots: 0",
        );
        let prompt = format!(r#""name":"{}test_input_required_result_prompt""#, way.1);
        let call = legacy(way.0, &session.id, "7", "prompts/get", &prompt);
        let (_, answer) = session.converse(&call, &[(FORM, given("context", "nothing much"))]);
        assert!(answer.to_string().contains("nothing much"), "{answer}");
        let tool = format!(r#""name":"{}test_streaming_elicitation","_meta":{{"progressToken":1}}"#, way.1);
        let call = legacy(way.0, &session.id, "7", "tools/call", &tool);
        let (came, answer) = session.converse(&call, &[(FORM, given("name", "Ada"))]);
        assert_eq!(came, ["notifications/progress", FORM, "notifications/progress"], "{answer}");
        assert_eq!(text(&answer["result"]), "Hello, Ada!");
    }
}

#[test]
fn nobody_is_asked_what_it_did_not_declare() {
    let gateway = gateway();
    for way in WAYS {
        let session = Session::open(&gateway, way, &json!({"roots": {}}));
        let refused =
            Client::once(gateway.address, &session.call("1", "test_elicitation", r#"{"message":"?"}"#));
        assert_eq!((refused.status, error(&refused)), (200, -32021), "{}", refused.text());
    }
    // And of a server that asks all the same.
    let asks = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{}}}}}"#;
    let peer = Peer::script([vec![Step::Send(answer("200 OK", asks))]]);
    let gateway = Setup::new().server_with("a", peer.address, "era = \"modern\"").start();
    let session = Session::open(&gateway, WAYS[0], &json!({"roots": {}}));
    let (_, refused) = session.converse(&session.call("1", "echo", "{}"), &[]);
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
    assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({"elicitation": {"form": {}}}));
    assert_eq!(peer.calls().len(), 1);
}

#[test]
fn calls_are_cancelled_at_the_server() {
    let gateway = gateway();
    for (way, so_far) in WAYS.into_iter().zip([0, 2]) {
        let session = Session::open(&gateway, way, &json!({}));
        let begun = || session.result("stats", "{}")["structuredContent"]["begun"].as_u64().unwrap();
        // A call that the server has begun. Each look is one too.
        let begin = || {
            let (before, mut looks) = (begun(), 1);
            let mut client = Client::connect(gateway.address);
            let call = session.call("\"slow\"", "canary_echo", r#"{"canary":"c","delay_ms":60000}"#);
            client.send(&call.bytes());
            while begun() == before + looks {
                looks += 1;
            }
            client
        };
        let mut client = begin();
        assert_eq!(session.tell("notifications/cancelled", r#""requestId":"slow""#).status, 202);
        assert_unanswered(&client.response());
        session.wait_stat("cancelled", so_far + 1);
        // Gone is cancelled too.
        drop(begin());
        session.wait_stat("cancelled", so_far + 2);
    }
}

#[test]
fn changes_are_told_on_the_stream_of_the_session() {
    let gateway = gateway();
    for way in WAYS {
        let session = Session::open(&gateway, way, &json!({}));
        // Of an aggregate, the session at the server is opened by the first call.
        session.result("test_simple_text", "{}");
        // The catalog listens: for Modern clients, and since the first call for Legacy ones.
        session.wait_stat("listens", 2);
        let mut stream = session.listen();
        session.wait_stat("listens", 3);
        let uri = r#""uri":"test://watched-resource""#;
        assert_eq!(message(&session.ask("resources/subscribe", uri))["result"], json!({}));
        session.result("touch_resource", &format!("{{{uri}}}"));
        let told = stream.event().unwrap();
        assert_eq!(told["method"], "notifications/resources/updated", "{told}");
        assert_eq!(told["params"]["uri"], "test://watched-resource");
        assert_eq!(message(&session.ask("resources/unsubscribe", uri))["result"], json!({}));
        session.result("touch_resource", &format!("{{{uri}}}"));
        session.result("test_trigger_prompt_change", "{}");
        assert_eq!(stream.event().unwrap()["method"], "notifications/prompts/list_changed");
        let end = Request::new("DELETE", way.0).with("Mcp-Session-Id", &*session.id);
        assert_eq!(Client::once(gateway.address, &end).status, 200);
        // For a moment after it has subscribed first, a session is told of lists both ways.
        let told = std::iter::from_fn(|| stream.event()).collect::<Vec<_>>();
        assert!(told.len() <= 1, "the session is over: {told:?}");
        assert!(told.iter().all(|told| told["method"] == "notifications/prompts/list_changed"), "{told:?}");
    }
}

/// Sessions that are told the same take one stream of the server; who wants more has one of its own.
#[test]
fn sessions_that_are_alike_share_a_stream_of_the_server() {
    let gateway = gateway();
    let sessions: Vec<_> = (0..5).map(|_| Session::open(&gateway, WAYS[0], &json!({}))).collect();
    let other = Session::open(&gateway, WAYS[0], &json!({"roots": {}}));
    other.result("test_simple_text", "{}");
    // The catalog's own.
    let before = 2;
    other.wait_stat("listens", before);
    let mut streams: Vec<_> = sessions.iter().map(Session::listen).collect();
    other.wait_stat("listens", before + 1);
    streams.push(other.listen());
    other.wait_stat("listens", before + 2);
    let told = AtomicBool::new(false);
    thread::scope(|scope| {
        // The last may have come when the first was told.
        scope.spawn(|| {
            while !told.load(Ordering::Relaxed) {
                other.result("test_trigger_prompt_change", "{}");
            }
        });
        for stream in &mut streams {
            assert_eq!(stream.event().unwrap()["method"], "notifications/prompts/list_changed");
        }
        told.store(true, Ordering::Relaxed);
    });
    other.wait_stat("listens", before + 2);
    let uri = r#""uri":"test://watched-resource""#;
    assert_eq!(message(&sessions[0].ask("resources/subscribe", uri))["result"], json!({}));
    other.wait_stat("listens", before + 3);
    // With its last session the shared one ends.
    for session in &sessions {
        let end = Request::new("DELETE", WAYS[0].0).with("Mcp-Session-Id", &*session.id);
        assert_eq!(Client::once(gateway.address, &end).status, 200);
    }
    other.wait_stat("listens", before + 1);
}

/// A server that is scripted, known to be Modern, and a session with it.
fn scripted(scripts: Vec<Vec<Step>>) -> (Peer, Gateway) {
    let peer = Peer::script(scripts);
    let gateway = Setup::new().server_with("a", peer.address, "era = \"modern\"").start();
    (peer, gateway)
}

#[test]
fn a_call_is_made_again_as_the_server_wants_it() {
    let asks = |state: &str| {
        Step::Answer(format!(
            r#"{{"jsonrpc":"2.0","id":@id,"result":{{"inputRequests":{{"k/\u00e9":{{"method":"roots/list"}}}},"requestState":{state},"resultType":"input_required"}}}}"#
        ))
    };
    let state = r#""\u0061\/b \"c\"""#;
    let (peer, gateway) = scripted(vec![vec![asks(state)]]);
    let session = Session::open(&gateway, WAYS[0], &json!({"roots": {}}));
    let call = session.call("1", "echo", r#"{"n":1.0e2}"#);
    let (_, answered) = session.converse(&call, &[(ROOTS, json!({"roots": []}))]);
    assert_eq!(answered["id"], 1);
    let calls = peer.calls();
    let [first, again] = &calls[..] else { panic!("{} calls", calls.len()) };
    assert_ne!(
        serde_json::from_slice::<Value>(&first.body).unwrap()["id"],
        serde_json::from_slice::<Value>(&again.body).unwrap()["id"]
    );
    let expected = format!(r#","inputResponses":{{"k/é":{{"roots":[]}}}},"requestState":{state}}}}}"#);
    assert!(again.text().ends_with(&expected), "{}", again.text());
    assert!(again.text().contains(r#""arguments":{"n":1.0e2}"#), "{}", again.text());
    for call in &calls {
        assert_eq!(call.header("mcp-protocol-version"), Some("2026-07-28"));
        assert_eq!((call.header("mcp-method"), call.header("mcp-name")), (Some("tools/call"), Some("echo")));
        assert_eq!(call.header("mcp-session-id"), None);
    }
    // One that never has enough.
    peer.push((0..10).map(|_| vec![asks(state)]));
    let answers: Vec<_> = (0..8).map(|_| (ROOTS, json!({"roots": []}))).collect();
    let (_, refused) = session.converse(&call, &answers);
    assert!(refused["error"]["message"].as_str().unwrap().contains("more than 8 times"), "{refused}");
    assert_eq!(peer.calls().len(), 2 + 9);
}

#[test]
fn failures_are_told_as_errors_of_the_call() {
    let not_found = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
    let progress = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n";
    let foreign = r#"{"jsonrpc":"2.0","id":987,"result":{"resultType":"complete","content":[]}}"#.to_owned();
    let (peer, gateway) = scripted(vec![
        vec![Step::Send(answer("404 Not Found", not_found))],
        vec![Step::Send(answer("404 Not Found", "gone"))],
        vec![Step::Send(answer("503 Service Unavailable", ""))],
        vec![Step::Send(answer("200 OK", r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task"}}"#))],
        vec![Step::Send(answer("200 OK", "nonsense"))],
        vec![Step::Send(events()), Step::Send(chunk(progress)), Step::Reset],
        // Of another call, or of none.
        vec![Step::Send(answer("200 OK", &foreign))],
        vec![Step::Send(events()), Step::Send(chunk(&format!("data: {foreign}\n\n"))), Step::Send(chunk(""))],
    ]);
    let session = Session::open(&gateway, WAYS[0], &json!({}));
    let check = |code: i64, part: &str| {
        let response = Client::once(gateway.address, &session.call("1", "echo", "{}"));
        let message = message(&response);
        assert_eq!(message["error"]["code"], code, "{message}");
        assert!(message.to_string().contains(part), "{message}");
    };
    check(-32601, "no");
    check(-32603, "server `a`");
    check(-32603, "server `a`");
    check(-32603, "its resultType is unknown");
    check(-32603, "not an MCP message");
    check(-32603, "broke off");
    check(-32603, "its id is not the id of the request");
    check(-32603, "broke off");
    assert_eq!(peer.calls().len(), 8, "nothing was sent twice");
    assert_eq!(text(&session.result("echo", "{}")), "{}");
}

/// A client that leaves while it is asked takes the call with it, and one that cancels does so too.
#[test]
fn nobody_waits_for_a_client_that_is_gone() {
    let gateway = gateway();
    let session = Session::open(&gateway, WAYS[0], &json!({"elicitation": {}}));
    let call = session.call("1", "test_input_required_result_elicitation", "{}");
    let mut asked = Client::connect(gateway.address);
    asked.send(&call.bytes());
    assert_eq!(asked.head().status, 200);
    let question = asked.event().unwrap();
    assert_eq!(session.tell("notifications/cancelled", r#""requestId":1"#).status, 202);
    assert!(asked.event().is_none(), "a cancelled call gets no response");
    // An answer that comes too late is nobody's.
    let late = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "cancel"}});
    let late = Request::post(WAYS[0].0, late.to_string()).with("Mcp-Session-Id", &*session.id);
    assert_eq!(Client::once(gateway.address, &late).status, 202);
    // The id is free again.
    let (_, answer) =
        session.converse(&call, &[(FORM, json!({"action": "accept", "content": {"name": "B"}}))]);
    assert_eq!(text(&answer["result"]), "Hello, B!");
}

/// Questions of all sessions have ids alike: an answer is for the one that it came in.
#[test]
fn nobody_answers_for_another() {
    let gateway = gateway();
    for way in WAYS {
        let declared = json!({"elicitation": {}});
        let (one, other) = (Session::open(&gateway, way, &declared), Session::open(&gateway, way, &declared));
        let mut asked = Client::connect(gateway.address);
        asked.send(&one.call("1", "test_input_required_result_elicitation", "{}").bytes());
        assert_eq!(asked.head().status, 200);
        let question = asked.event().unwrap();
        let answer = |session: &Session<'_>, name: &str| {
            let result = json!({"action": "accept", "content": {"name": name}});
            let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": result});
            let answer = Request::post(way.0, answer.to_string()).with("Mcp-Session-Id", &*session.id);
            assert_eq!(Client::once(gateway.address, &answer).status, 202);
        };
        other.result("test_simple_text", "{}");
        answer(&other, "Mallory");
        answer(&one, "Ada");
        assert_eq!(text(&asked.event().unwrap()["result"]), "Hello, Ada!");
    }
}

#[test]
fn sessions_outlive_the_gateway() {
    let gateway = gateway();
    let ids = WAYS.map(|way| Session::open(&gateway, way, &json!({"elicitation": {}})).id);
    let gateway = gateway.restart();
    for ((path, prefix), id) in WAYS.into_iter().zip(ids) {
        let session = Session { gateway: &gateway, path, prefix, id, opened: Value::Null };
        let call = session.call("1", "test_input_required_result_elicitation", "{}");
        let given = json!({"action": "accept", "content": {"name": "Ada"}});
        let (_, answer) = session.converse(&call, &[(FORM, given)]);
        assert_eq!(text(&answer["result"]), "Hello, Ada!");
    }
}

#[test]
fn batches_go_on_working() {
    let gateway = gateway();
    for way in WAYS {
        let opened = Client::once(gateway.address, &initialize(way.0, "2025-03-26", &json!({})));
        let session = opened.header("mcp-session-id").unwrap().to_owned();
        let tool = format!("{}test_simple_text", way.1);
        let batch = json!([
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "ping"},
        ]);
        let request = Request::post(way.0, batch.to_string()).with("Mcp-Session-Id", session);
        let answers = Client::once(gateway.address, &request).events();
        let ids: Vec<_> = answers.iter().map(|answer| answer["id"].clone()).collect();
        assert_eq!(ids, [1, 2], "{answers:?}");
    }
}

#[test]
fn servers_that_are_programs_have_it_too() {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let table = format!("[servers.a]\ncommand = {program:?}\nera = \"modern\"");
    let gateway = Setup::new().with(&table).start();
    for way in WAYS {
        let session = Session::open(&gateway, way, &json!({}));
        assert_eq!(text(&session.result("echo", r#"{"text":"x"}"#)), "x");
        let params =
            format!(r#""name":"{}progress","arguments":{{"steps":2}},"_meta":{{"progressToken":5}}"#, way.1);
        let call = legacy(way.0, &session.id, "1", "tools/call", &params);
        let (came, answer) = session.converse(&call, &[]);
        assert_eq!((came.len(), text(&answer["result"])), (2, "done"));
        let refused = if way.1.is_empty() { -32601 } else { -32602 };
        assert_eq!(
            error(&session.ask("resources/subscribe", r#""uri":"x:y""#)),
            refused,
            "it has no resources"
        );
    }
}

/// The eras of a server that are asked for are what it speaks, or what is configured.
#[test]
fn a_server_that_opens_sessions_is_asked_itself() {
    let check = |lines: &str, eras: SupportedEras, expected: &str| {
        let gateway = Setup::new().server_with("a", fixture(eras), lines).start();
        for way in WAYS {
            let session = Session::open(&gateway, way, &json!({}));
            assert_eq!(session.result("whoami", "{}")["structuredContent"]["era"], expected);
        }
    };
    check("", SupportedEras::Dual, "legacy");
    check("", SupportedEras::Legacy, "legacy");
    check("", SupportedEras::Modern, "modern");
    check("era = \"modern\"", SupportedEras::Dual, "modern");
    check("era = \"legacy\"", SupportedEras::Dual, "legacy");
}

/// Of a server that is replaced by one of another era it is found out what it is now.
#[test]
fn what_a_server_is_is_found_out_again() {
    let hidden = Relay::before(&[
        fixture(SupportedEras::Legacy),
        fixture(SupportedEras::Modern),
        fixture(SupportedEras::Legacy),
    ]);
    let gateway = Gateway::open(&[("a", hidden.address)]);
    let gone_through = Session::open(&gateway, WAYS[1], &json!({}));
    for expected in ["legacy", "modern", "legacy"] {
        // One whose client does not know of it goes on.
        assert_eq!(gone_through.result("whoami", "{}")["structuredContent"]["era"], expected);
        for way in WAYS {
            let session = Session::open(&gateway, way, &json!({}));
            assert_eq!(session.result("whoami", "{}")["structuredContent"]["era"], expected, "{}", way.0);
        }
        hidden.next();
    }
}

/// A stream of changes that breaks is opened again, with all that was subscribed to.
#[test]
fn a_broken_stream_of_changes_is_opened_again() {
    let server = fixture(SupportedEras::Modern);
    let hidden = Relay::before(&[server, server]);
    let gateway = Gateway::open(&[("a", hidden.address)]);
    let session = Session::open(&gateway, WAYS[0], &json!({}));
    session.result("test_simple_text", "{}");
    session.wait_stat("listens", 2);
    let mut stream = session.listen();
    session.wait_stat("listens", 3);
    let uri = r#""uri":"test://watched-resource""#;
    assert_eq!(message(&session.ask("resources/subscribe", uri))["result"], json!({}));
    hidden.next();
    // What changes while nobody listens is not told.
    let (told, touched) = (AtomicBool::new(false), format!("{{{uri}}}"));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !told.load(Ordering::Relaxed) {
                session.result("touch_resource", &touched);
            }
        });
        let event = stream.event();
        told.store(true, Ordering::Relaxed);
        assert_eq!(event.unwrap()["params"]["uri"], "test://watched-resource");
    });
}

#[test]
fn a_server_that_misses_a_header_gets_it() {
    let (peer, gateway) = scripted(vec![]);
    let session = Session::open(&gateway, WAYS[0], &json!({}));
    session.result("echo", "{}");
    // The tool is another than it was, and nobody said so.
    let schema =
        json!({"type": "object", "properties": {"where": {"type": "string", "x-mcp-header": "Where"}}});
    let tools = json!({"resultType": "complete", "tools": [{"name": "echo", "inputSchema": schema}]});
    peer.list_tools(&json!({"jsonrpc": "2.0", "id": 1, "result": tools}).to_string());
    let mismatch =
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"Mcp-Param-Where is missing"}}"#;
    peer.push([vec![Step::Send(answer("400 Bad Request", mismatch))]]);
    let called = session.call("1", "echo", r#"{"where":"here"}"#).with("Mcp-Param-Where", "there");
    assert_eq!(text(&message(&Client::once(gateway.address, &called))["result"]), r#"{"where":"here"}"#);
    let headers: Vec<_> =
        peer.calls().iter().map(|seen| seen.header("mcp-param-where").map(str::to_owned)).collect();
    assert_eq!(headers, [None, None, Some("here".to_owned())]);
    // Once is enough: what it misses now is for it to say.
    peer.push((0..2).map(|_| vec![Step::Send(answer("400 Bad Request", mismatch))]));
    let refused = Client::once(gateway.address, &session.call("1", "echo", "{}"));
    assert_eq!((refused.status, error(&refused)), (200, -32020));
    assert_eq!(peer.calls().len(), 5);
}

/// One address with one server after the other behind it.
struct Relay {
    address: SocketAddr,
    now: Arc<Mutex<(VecDeque<SocketAddr>, Vec<TcpStream>)>>,
}

impl Relay {
    fn before(servers: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let now = Arc::new(Mutex::new((servers.iter().copied().collect(), Vec::new())));
        let relay = Self { address, now: Arc::clone(&now) };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut now: std::sync::MutexGuard<'_, (VecDeque<SocketAddr>, Vec<TcpStream>)> =
                    now.lock().unwrap();
                let Some(server) = now.0.front().and_then(|address| TcpStream::connect(address).ok()) else {
                    continue;
                };
                now.1.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                drop(now);
                let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
                let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
                thread::spawn(move || {
                    drop(std::io::copy(&mut from_client, &mut to_server));
                    drop(to_server.shutdown(Shutdown::Both));
                });
                thread::spawn(move || {
                    drop(std::io::copy(&mut from_server, &mut to_client));
                    drop(to_client.shutdown(Shutdown::Both));
                });
            }
        });
        relay
    }

    /// The server is gone, and another is there.
    fn next(&self) {
        let mut now = self.now.lock().unwrap();
        now.0.pop_front();
        for stream in now.1.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}
