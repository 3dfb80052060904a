//! `/api/v1/events`: what happens is told once, in order, to those whom it concerns, also over a reconnect.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::support::{
    Client, Gateway, Peer, Request, Setup, Step, chunk, events as events_head, legacy_call, modern_call,
    open_session, tool_text, until,
};
use metamcp_store::store::{Grants, Role};

const EVENTS: &str = "/api/v1/events";

/// A gateway with an administrator.
struct Told {
    gateway: Gateway,
    admin: String,
}

/// Reads a stream of events.
struct Reader(Client);

impl Told {
    fn start(setup: Setup) -> Self {
        let gateway = setup.keys().start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        Self { gateway, admin }
    }

    fn open(&self, query: &str) -> Reader {
        self.open_with(&self.admin, query, None)
    }

    fn open_with(&self, key: &str, query: &str, after: Option<&str>) -> Reader {
        let request = Request::new("GET", &format!("{EVENTS}{query}")).with("Authorization", bearer(key));
        let request = match after {
            Some(id) => request.with("Last-Event-ID", id),
            None => request,
        };
        let mut client = Client::connect(self.gateway.address);
        client.send(&request.bytes());
        let head = client.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        // The stream is open once its first line has come.
        assert_eq!(client.raw_event().as_deref(), Some("retry: 2000\n\n"));
        Reader(client)
    }

    fn call(&self, key: &str, path: &str, tool: &str) {
        let request = modern_call(path, tool, "{}").with("Authorization", bearer(key));
        assert_eq!(Client::once(self.gateway.address, &request).status, 200);
    }
}

impl Reader {
    /// The next event, which is checked to be whole.
    #[track_caller]
    fn next(&mut self) -> Value {
        let raw = self.0.raw_event().expect("the stream goes on");
        let field =
            |name: &str| raw.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let event: Value = serde_json::from_str(&field("data: ")).unwrap();
        assert_eq!(event["type"], field("event: "), "{raw}");
        if !field("id: ").is_empty() && event["type"] != "missed" {
            assert_eq!(event["id"], field("id: "), "{raw}");
        }
        event
    }

    /// The next events, as `type server key`, in their order.
    #[track_caller]
    fn summaries<const N: usize>(&mut self) -> [String; N] {
        std::array::from_fn(|_| summary(&self.next()))
    }
}

fn summary(event: &Value) -> String {
    let text = |member: &str| event[member].as_str().unwrap_or("-").to_owned();
    format!("{} {} {}", text("type"), text("server"), text("key_id"))
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn program(args: &str) -> String {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    format!("[servers.p]\ncommand = {program:?}\nargs = [{args}]\nprewarm = false\nera = \"legacy\"\n")
}

#[test]
fn calls_are_told_to_their_key_and_to_administrators() {
    let peer = Peer::script([]);
    let told = Told::start(Setup::new().server("a", peer.address));
    let [(id, key), (other_id, other)] = ["one", "two"].map(|name| told.gateway.keys().create(name));
    let mut all = told.open("?type=call.*");
    let (mut own, mut others) =
        (told.open_with(&key, "", None), told.open_with(&other, "?type=call.ended", None));
    told.call(&key, "/mcp", "a__echo");
    told.call(&other, "/servers/a/mcp", "echo");
    let [started, ended] = ["started", "ended"].map(|when| format!("call.{when} a {id}"));
    assert_eq!(own.summaries(), [started.clone(), ended.clone()]);
    let [others_started, others_ended] = ["started", "ended"].map(|when| format!("call.{when} a {other_id}"));
    assert_eq!(summary(&others.next()), others_ended, "and nothing of the other key");
    assert_eq!(all.summaries(), [started, ended, others_started, others_ended]);
    // Refused before a server was asked.
    let refused =
        modern_call("/mcp", "a__echo", "{}").with("Authorization", bearer(&key)).without("Mcp-Name");
    assert_eq!(Client::once(told.gateway.address, &refused).status, 400);
    let event = own.next();
    assert_eq!((summary(&event), &event["severity"]), (format!("call.ended - {id}"), &json!("warning")));
    assert_eq!(
        (&event["data"]["outcome"], &event["data"]["method"]),
        (&json!("refused"), &json!("tools/call"))
    );
    assert_eq!(event["endpoint"], "default");
}

#[test]
fn an_event_has_no_argument_and_no_result() {
    let peer = Peer::script([]);
    let told = Told::start(Setup::new().server("a", peer.address));
    let mut all = told.open("");
    let call = modern_call("/mcp", "a__echo", r#"{"secret":"canary"}"#);
    let answered = Client::once(told.gateway.address, &call.with("Authorization", bearer(&told.admin)));
    assert_eq!(answered.status, 200);
    for _ in 0..2 {
        let event = all.next();
        assert!(!event.to_string().contains("canary") && event["data"]["tool"] == "echo", "{event}");
        assert!(event["data"]["bytes_in"].as_u64().is_some_and(|bytes| bytes > 0), "{event}");
    }
}

/// What happened between two connections is told at the second, once.
#[test]
fn a_reader_that_comes_back_misses_nothing() {
    let peer = Peer::script([]);
    let told = Told::start(Setup::new().server("a", peer.address));
    let (_, key) = told.gateway.keys().create("one");
    let mut reader = told.open("?type=call.ended");
    let mut last = None;
    for round in 0..3 {
        for _ in 0..5 {
            told.call(&key, "/mcp", "a__echo");
        }
        // Reads some, and leaves the rest for later.
        for _ in 0..3 {
            let event = reader.next();
            let id = event["id"].as_str().unwrap().to_owned();
            let number = |id: &str| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
            assert!(last.as_deref().is_none_or(|last| number(last) < number(&id)), "{round} {event}");
            last = Some(id);
        }
        reader = told.open_with(&told.admin, "?type=call.ended", last.as_deref());
    }
    // Six were left, and there are no more.
    reader.summaries::<6>();
    told.gateway.keys().create("last");
    told.call(&key, "/mcp", "a__other");
    assert_eq!(reader.next()["data"]["tool"], "other");
}

#[test]
fn a_reader_of_another_process_is_told_that_it_missed_events() {
    let told = Told::start(Setup::new());
    let mut reader = told.open_with(&told.admin, "?type=key.*", Some("0123abcd-7"));
    assert_eq!(reader.next()["data"]["count"], Value::Null);
    for (id, status) in [("nonsense", 400), ("0123abcd-", 400), ("+123abcd-7", 400), ("0123abcd-+7", 400)] {
        let request = Request::new("GET", EVENTS).with("Authorization", bearer(&told.admin));
        assert_eq!(
            Client::once(told.gateway.address, &request.with("Last-Event-ID", id)).status,
            status,
            "{id}"
        );
    }
}

#[test]
fn keys_and_configuration_are_told() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let told = Told::start(setup.clone());
    let mut keys = told.open("?type=key.*");
    let mut configuration = told.open("?type=configuration.*");
    let (id, key) = told.gateway.keys().create("one");
    // The administrator's key may be told first.
    let mut next_is = |what: &str| while summary(&keys.next()) != format!("key.{what} - {id}") {};
    next_is("created");
    let mut own = told.open_with(&key, "", None);
    told.gateway.keys().revoke(&id);
    next_is("revoked");
    // Its own stream ends with it.
    while let Some(event) = own.0.raw_event() {
        assert!(event.contains("key.revoked") || event.starts_with("event: error"), "{event}");
    }
    told.gateway.reload(&setup.clone().server("b", peer.address), "configuration reloaded");
    let event = configuration.next();
    assert_eq!(
        (&event["type"], &event["data"]["servers"]["added"]),
        (&json!("configuration.changed"), &json!(["b"]))
    );
    assert_eq!(configuration.next()["type"], "configuration.reloaded");
    told.gateway.reload(&setup.with("nonsense = 1"), "configuration not reloaded");
    let event = configuration.next();
    assert_eq!((&event["type"], &event["severity"]), (&json!("configuration.refused"), &json!("error")));
}

#[test]
fn the_life_of_a_program_is_told() {
    let told = Told::start(Setup::new());
    let mut reader = told.open("?type=server.started,server.stopped,server.failed,server.restarted");
    told.gateway.reload(&Setup::new().with(&program("\"legacy\"")), "configuration reloaded");
    let session = || open_session(&told.gateway, "/servers/p/mcp", Some(&told.admin));
    let call = |session: &str, tool: &str| {
        let call = legacy_call("/servers/p/mcp", session, "1", tool, r#"{"text":"x"}"#);
        Client::once(told.gateway.address, &call.with("Authorization", bearer(&told.admin)))
    };
    let first = session();
    assert_eq!(tool_text(&call(&first, "echo")), "x");
    call(&first, "die");
    until("another process serves it", || {
        let answered = call(&session(), "echo");
        answered.status == 200 && answered.text().contains("\"x\"")
    });
    // The catalog may have one of its own, which starts and stops as it likes.
    let mut seen = Vec::new();
    while !seen.contains(&"server.restarted".to_owned()) {
        let event = reader.next();
        assert_eq!(event["server"], "p");
        if event["type"] == "server.failed" {
            assert_eq!(event["data"]["stage"], "running", "{event}");
            assert!(event["data"]["reason"].as_str().is_some_and(|reason| reason.contains('6')), "{event}");
        }
        seen.push(event["type"].as_str().unwrap().to_owned());
    }
    let at = |kind: &str| seen.iter().position(|seen| seen == kind);
    assert!(at("server.started").is_some() && at("server.started") < at("server.failed"), "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| *seen == "server.failed").count(), 1, "{seen:?}");
}

#[test]
fn the_health_and_the_tools_of_a_server_are_told() {
    let peer = Peer::script([]);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let setup = Setup::new().with("[catalog]\nrefresh_after = \"1s\"").server("a", peer.address);
    let told = Told::start(setup.clone());
    let lists = |tool: &str| {
        let list =
            crate::support::modern("/mcp", "tools/list", "").with("Authorization", bearer(&told.admin));
        Client::once(told.gateway.address, &list).text().contains(tool)
    };
    until("the list is read", || lists("a__echo"));
    let mut reader = told.open("?type=server.*&severity=error");
    let mut tools = told.open("?type=server.tools_changed&server=a");
    // A server that nobody has called is tried when it is added.
    told.gateway.reload(&setup.server("b", gone), "configuration reloaded");
    let event = reader.next();
    assert_eq!((&event["type"], &event["server"]), (&json!("server.unhealthy"), &json!("b")));
    peer.list_tools(
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"new","inputSchema":{"type":"object"}}],"resultType":"complete"}}"#,
    );
    until("the list is read again", || lists("a__new"));
    let event = tools.next();
    assert_eq!(event["data"], json!({"added": ["new"], "changed": [], "removed": ["echo", "other"]}));
}

#[test]
fn a_breaker_is_told_when_it_opens_and_closes() {
    let peer = Peer::script([]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let setup = Setup::new().server("b", peer.address);
    let told = Told::start(setup.clone());
    let mut reader = told.open("?type=server.breaker_opened,server.breaker_closed");
    told.gateway.reload(&setup.server("a", address), "configuration reloaded");
    for _ in 0..6 {
        told.call(&told.admin, "/servers/a/mcp", "x");
    }
    let event = reader.next();
    assert_eq!(
        (summary(&event), &event["severity"]),
        ("server.breaker_opened a -".to_owned(), &json!("warning"))
    );
    let back = Peer::start(TcpListener::bind(address).unwrap());
    until("the server is reached", || {
        told.call(&told.admin, "/servers/a/mcp", "echo");
        !back.calls().is_empty()
    });
    assert_eq!(reader.summaries(), ["server.breaker_closed a -"]);
}

#[test]
fn queries_are_checked() {
    let told = Told::start(Setup::new());
    let (id, key) = told.gateway.keys().create("one");
    let (other, _) = told.gateway.keys().create("two");
    let ask = |path: &str, key: &str| {
        let request = Request::new("GET", path).with("Authorization", bearer(key));
        let mut client = Client::connect(told.gateway.address);
        client.send(&request.bytes());
        client.head()
    };
    for (query, status) in [
        ("?type=call.ended,key.*&severity=warning&server=a&endpoint=team", 200),
        ("?type=nothing", 400),
        ("?type=*", 400),
        ("?type=call.ended,", 400),
        ("?severity=loud", 400),
        ("?server=a%20b", 400),
        ("?key=short", 400),
        ("?types=call.*", 400),
        ("?type=call.*&type=key.*", 400),
    ] {
        assert_eq!(ask(&format!("{EVENTS}{query}"), &told.admin).status, status, "{query}");
    }
    assert_eq!(ask(&format!("{EVENTS}?key={id}"), &key).status, 200);
    assert_eq!(ask(&format!("{EVENTS}?key={other}"), &key).status, 403);
    assert_eq!(ask(&format!("{EVENTS}?key={other}"), &told.admin).status, 200);
    assert_eq!(ask("/api/v1/events/health", &key).status, 403);
    assert_eq!(ask(EVENTS, "mcp_none").status, 401);
}

#[test]
fn the_health_of_the_gateway_is_sampled() {
    let told = Told::start(Setup::new());
    let mut reader = told.open("/health");
    let event = reader.next();
    assert_eq!(event["type"], "gateway.health");
    for member in ["resident_bytes", "open_files", "open_files_max", "memory_max_bytes"] {
        assert!(event["data"][member].as_u64().is_some_and(|value| value > 0), "{member}: {event}");
    }
    assert!(reader.next()["data"]["cpu_percent"].is_number());
}

/// Of the test with a reader that stalls: almost two megabytes of events.
const CALLS: usize = 2_000;

/// A reader that reads nothing takes nothing from calls and from other readers.
#[test]
fn a_reader_that_stalls_costs_nothing_to_others() {
    let peer = Peer::script([]);
    let told = Told::start(Setup::new().server("a", peer.address));
    let mut stalled = told.open("?type=call.*");
    let mut reader = told.open("?type=call.ended");
    let (_, key) = told.gateway.keys().create("one");
    let mut client = Client::connect(told.gateway.address);
    let call = modern_call("/mcp", "a__echo", "{}").with("Authorization", bearer(&key));
    for number in 0..CALLS {
        assert_eq!(client.ask(&call).status, 200, "{number}");
        assert_eq!(reader.next()["type"], "call.ended", "{number}");
    }
    for number in 0..CALLS {
        let types = stalled.summaries::<2>().map(|summary| summary.split(' ').next().unwrap().to_owned());
        assert_eq!(types, ["call.started", "call.ended"], "{number}");
    }
}

/// Streams end when the gateway stops, so that clients connect to the next one.
#[test]
fn streams_end_at_a_shutdown() {
    let peer = Peer::script([vec![Step::Send(events_head()), Step::Send(chunk("")), Step::Close]]);
    let mut told = Told::start(Setup::new().server("a", peer.address));
    let (mut events, mut health) = (told.open(""), told.open("/health"));
    told.gateway.terminate();
    while events.0.raw_event().is_some() {}
    while health.0.raw_event().is_some() {}
    assert!(told.gateway.ended().success());
}
