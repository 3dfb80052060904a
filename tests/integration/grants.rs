//! What a key may see and call: the same for both, on every way, in both eras.

use std::time::Duration;

use metamcp::route::EndpointReference;

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Response, Setup, Step, call_in_other_forms, chunk, error, events,
    legacy, legacy_call, listed, modern, modern_call, open_session, result,
};
use metamcp_store::store::{Grants, Rate};
use serde_json::{Value, json};

fn of(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn with(request: Request, key: &str) -> Request {
    request.with("Authorization", format!("Bearer {key}"))
}

/// What a response says, without the name of the endpoint that was asked for.
fn without_name(path: &str, response: &Response) -> (u16, Vec<String>, String) {
    let reference = EndpointReference::of_path(path).or(EndpointReference::of_stream_path(path));
    let name = reference.unwrap().display_name();
    let (status, headers, text) = response.comparable();
    let headers = headers.into_iter().map(|(name, value)| match &*name {
        "content-length" => name,
        _ => format!("{name}: {value}"),
    });
    (status, headers.collect(), text.replace(&format!("`{name}`"), "`...`"))
}

struct Way<'a> {
    gateway: &'a Gateway,
    key: &'a str,
    path: &'a str,
    session: Option<String>,
}

impl Way<'_> {
    fn tools(&self) -> Vec<String> {
        let request = match &self.session {
            None => modern(self.path, "tools/list", ""),
            Some(session) => legacy(self.path, session, "1", "tools/list", ""),
        };
        let response = Client::once(self.gateway.address, &with(request, self.key));
        assert_eq!(response.status, 200, "{}", response.text());
        if self.session.is_none() && self.path == "/mcp" {
            assert_eq!(response.json()["result"]["cacheScope"], "private");
        }
        listed(&response.json())
    }

    /// Whether it is let through; else it is as if the tool were not there.
    fn calls(&self, tool: &str) -> bool {
        let request = match &self.session {
            None => modern_call(self.path, tool, "{}"),
            Some(session) => legacy_call(self.path, session, "1", tool, "{}"),
        };
        let response = Client::once(self.gateway.address, &with(request, self.key));
        assert_eq!(response.status, 200, "{}", response.text());
        if response.json()["error"].is_null() {
            return true;
        }
        assert_eq!(error(&response), -32602);
        assert_eq!(response.json()["error"]["message"], format!("Unknown tool: {tool}"));
        false
    }
}

#[track_caller]
fn check(gateway: &Gateway, peer: &Peer, globs: &[&str], path: &str, expected: &[&str]) {
    let grants = Grants { tools: Some(of(globs)), ..Grants::everything() };
    let (_, key) = gateway.keys().grant("partial", grants);
    let names = if path == "/mcp" { ["a__echo", "a__other"] } else { ["echo", "other"] };
    for session in [None, Some(open_session(gateway, path, Some(&key)))] {
        let way = Way { gateway, key: &key, path, session };
        assert_eq!(way.tools(), expected, "{globs:?} {path}");
        for name in names {
            let before = peer.calls().len();
            let passes = expected.contains(&name);
            assert_eq!(way.calls(name), passes, "{globs:?} {path} {name}");
            assert_eq!(peer.calls().len() - before, usize::from(passes), "what is refused reaches nobody");
        }
    }
    for name in names {
        let (before, passes) = (peer.calls().len(), expected.contains(&name));
        let answers = call_in_other_forms(gateway, path, Some(&key), name);
        for answer in &answers {
            let unknown = json!({"code": -32602, "message": format!("Unknown tool: {name}")});
            let error = if passes { Value::Null } else { unknown };
            assert_eq!(answer["error"], error, "{globs:?} {path} {name}");
        }
        let calls = if passes { answers.len() } else { 0 };
        assert_eq!(peer.calls().len() - before, calls, "what is refused reaches nobody");
    }
}

#[test]
fn a_key_calls_what_it_is_shown() {
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    check(&gateway, &peer, &["a__*"], "/mcp", &["a__echo", "a__other"]);
    check(&gateway, &peer, &["a__echo"], "/mcp", &["a__echo"]);
    check(&gateway, &peer, &["*__other", "b__*"], "/mcp", &["a__other"]);
    check(&gateway, &peer, &["b__*"], "/mcp", &[]);
    check(&gateway, &peer, &["echo"], "/servers/a/mcp", &["echo"]);
    check(&gateway, &peer, &["a__*"], "/servers/a/mcp", &[]);
}

#[test]
fn an_endpoint_that_a_key_may_not_use_is_like_none() {
    let peer = Peer::script([]);
    let setup = Setup::new().keys().server("a", peer.address).with("[endpoints.team]\nservers = [\"a\"]");
    let gateway = setup.start();
    let grants = Grants { endpoints: Some(of(&["team"])), ..Grants::everything() };
    let (_, key) = gateway.keys().grant("team", grants);
    let pairs = [
        ("/mcp", "/mcp/none"),
        ("/servers/a/mcp", "/servers/none/mcp"),
        ("/metamcp/default/mcp", "/metamcp/none/mcp"),
        ("/api/v1/mcp/stream", "/api/v1/mcp/stream/none"),
        ("/api/v1/mcp/stream/servers/a", "/api/v1/mcp/stream/servers/none"),
    ];
    for (there, nowhere) in pairs {
        for credential in [Some(key.as_str()), Some("mcp_nobody"), None] {
            for method in ["POST", "GET", "DELETE", "OPTIONS"] {
                let ask = |path: &str| {
                    let mut request = modern(path, "tools/list", "");
                    request.method = method.to_owned();
                    let request = match credential {
                        Some(key) => with(request, key),
                        None => request,
                    };
                    without_name(path, &Client::once(gateway.address, &request))
                };
                let found = ask(there);
                assert_eq!(found, ask(nowhere), "{method} {there} {credential:?}");
                let expected = match (method, credential) {
                    ("OPTIONS", _) => 204,
                    (_, Some(credential)) if credential == key => 404,
                    _ => 401,
                };
                assert_eq!(found.0, expected, "{method} {there} {credential:?}");
            }
        }
    }
    assert_eq!(peer.calls().len(), 0);
}

#[test]
fn a_key_learns_nothing_of_other_endpoints() {
    let peer = Peer::script([]);
    let gateway =
        Setup::new().keys().server("a", peer.address).with("[endpoints.team]\nservers = [\"a\"]").start();
    let grants = Grants { endpoints: Some(of(&["team"])), ..Grants::everything() };
    let (_, key) = gateway.keys().grant("team", grants);
    let list = |path: &str| {
        let listing = with(modern(path, "tools/list", ""), &key);
        without_name(path, &Client::once(gateway.address, &listing))
    };
    assert_eq!(list("/mcp/team").0, 200);
    let unknown = list("/mcp/none");
    assert_eq!(unknown.0, 404);
    for path in ["/mcp", "/servers/a/mcp"] {
        assert_eq!(list(path), unknown, "{path}");
    }
    assert_eq!(peer.calls().len(), 0);
}

#[test]
fn a_key_asks_as_often_and_as_much_as_it_may() {
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    let rate = Some(Rate { per_second: 1, burst: 3 });
    let (_, key) = gateway.keys().grant("slow", Grants { rate, ..Grants::everything() });
    let mut client = Client::connect(gateway.address);
    let call = with(modern_call("/mcp", "a__echo", "{}"), &key);
    let outcomes: Vec<u16> = (0..5).map(|_| client.ask(&call).status).collect();
    // The burst, and by then perhaps one more.
    assert_eq!(outcomes[..3], [200; 3]);
    assert_eq!(outcomes[4], 429);
    let refused = client.ask(&call);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));

    let grants = Grants { concurrency: Some(1), ..Grants::everything() };
    let (_, key) = gateway.keys().grant("single", grants);
    let session = open_session(&gateway, "/mcp", Some(&key));
    let mut stream = Client::connect(gateway.address);
    let get = Request::new("GET", "/mcp").with("Accept", "text/event-stream");
    stream.send(&with(get.with("Mcp-Session-Id", session), &key).bytes());
    assert_eq!(stream.head().status, 200);
    // A stream is no call.
    let call = with(modern_call("/mcp", "a__echo", "{}"), &key);
    assert_eq!(Client::once(gateway.address, &call).status, 200);
    let so_far = peer.calls().len();
    peer.push([vec![Step::Hold]]);
    let mut busy = Client::connect(gateway.address);
    busy.send(&call.bytes());
    peer.wait_calls(so_far + 1);
    assert_eq!(Client::once(gateway.address, &call).status, 429);
}

/// What is left of a stream, and whether it ended as it should.
fn rest(client: &mut Client) -> (String, bool) {
    let mut text = Vec::new();
    loop {
        match client.chunk() {
            Ok(Some(bytes)) => text.extend(bytes),
            end => return (String::from_utf8_lossy(&text).into_owned(), end.is_ok()),
        }
    }
}

const NOTICE: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";

/// Nobody tells of a key that expires.
#[test]
fn the_streams_of_a_key_end_when_it_expires() {
    let peer = Peer::script([]);
    let setup = Setup::new().keys().server("a", peer.address).with("[server]\nkeep_alive = \"1s\"");
    let gateway = setup.start();
    let (_, key) = gateway.keys().lend("guest", Duration::from_secs(5));
    let calls = [("/mcp", "a__echo"), ("/servers/a/mcp", "echo")];
    let mut clients = calls.map(|(path, tool)| {
        peer.push([vec![Step::Send(events()), Step::Send(chunk(NOTICE)), Step::Hold]]);
        let mut client = Client::connect(gateway.address);
        assert!(client.send(&with(modern_call(path, tool, "{}"), &key).bytes()));
        assert_eq!(client.head().status, 200);
        client
    });
    for client in &mut clients {
        let (text, whole) = rest(client);
        assert!(whole && text.contains("it has expired; the call may have run"), "{whole} {text}");
    }
}

/// After an answer that was too big to be held back, the end of the key is the regular end of the stream, whatever form the
/// answer has; in the middle of it, it is none.
#[test]
fn a_stream_breaks_visibly_with_its_key_within_its_answer() {
    for start in ["{", "{ "] {
        check_end_of_long_answer(start, true);
        check_end_of_long_answer(start, false);
    }
}

fn check_end_of_long_answer(start: &str, is_passed: bool) {
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    let (id, key) = gateway.keys().create("key");
    let answer = result("1", &"x".repeat(256 << 10)).replacen('{', start, 1);
    let event = format!("data: {answer}\n\n");
    let (first, second) = event.split_at(event.len() / 2);
    let gate = Gate::default();
    let sent = if is_passed { event.len() } else { first.len() };
    let (first, second) = (Step::Send(chunk(first)), Step::Send(chunk(second)));
    peer.push([vec![Step::Send(events()), first, Step::Wait(gate.clone()), second, Step::Hold]]);
    let mut client = Client::connect(gateway.address);
    assert!(client.send(&with(modern_call("/servers/a/mcp", "echo", "{}"), &key).bytes()));
    assert_eq!(client.head().status, 200);
    let mut taken = client.chunk().ok().flatten().expect("the first part").len();
    if is_passed {
        gate.open();
    }
    while taken < sent {
        taken += client.chunk().ok().flatten().expect("the rest").len();
    }
    gateway.keys().revoke(&id);
    assert_eq!(rest(&mut client), (String::new(), is_passed), "{start:?}");
}
