//! Traces: what a collector is told of calls on every way, what servers are told, and that a collector can do no harm.

#[allow(dead_code, reason = "only what it was asked is looked at")]
use crate::sse_server as server;

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use crate::support::{
    Client, Form, Gateway, PATIENCE, Peer, Request, Response, Setup, Stream, initialize, legacy_call, modern,
    modern_call, open_session,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use prost::Message as _;
use serde_json::Value;

/// A collector that answers by a script, and with 200 after that.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    state: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Default)]
struct Collected {
    heads: Vec<String>,
    exports: Vec<ExportTraceServiceRequest>,
    answers: VecDeque<Reaction>,
}

enum Reaction {
    Send(Vec<u8>),
    Hang,
}

/// A span, as far as it is looked at.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: i32,
    state: String,
    links: Vec<String>,
    is_error: bool,
    attributes: BTreeMap<String, String>,
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

impl Collector {
    fn start(answers: impl IntoIterator<Item = Reaction>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let collected = Collected { answers: answers.into_iter().collect(), ..Collected::default() };
        let collector = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new((Mutex::new(collected), Condvar::new())),
        };
        let accepting = collector.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), collector) = (stream, accepting.clone()) else { return };
                thread::spawn(move || collector.serve(stream));
            }
        });
        collector
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let (head, length) = loop {
            let mut more = [0; 4096];
            match stream.read(&mut more) {
                Ok(count) if count > 0 => bytes.extend_from_slice(&more[..count]),
                _ => return,
            }
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.unwrap().parse().unwrap();
                bytes.drain(..end + 4);
                break (head, length);
            }
        };
        let mut rest = vec![0; length - bytes.len()];
        stream.read_exact(&mut rest).unwrap();
        bytes.extend(rest);
        let answer = {
            let mut state = self.state.0.lock().unwrap();
            state.heads.push(head);
            state.exports.push(ExportTraceServiceRequest::decode(&*bytes).unwrap());
            self.state.1.notify_all();
            state.answers.pop_front()
        };
        match answer {
            None => drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
            Some(Reaction::Send(bytes)) => drop(stream.write_all(&bytes)),
            Some(Reaction::Hang) => drop(stream.read(&mut [0; 1])),
        }
    }

    /// `[telemetry.traces]` with these lines.
    fn setup(&self, lines: &str) -> Setup {
        Setup::new().with(&format!("[telemetry.traces]\nendpoint = \"http://{}\"\n{lines}", self.address))
    }

    /// What came so far.
    fn spans(&self) -> Vec<Span> {
        Self::read(&self.state.0.lock().unwrap())
    }

    fn read(state: &Collected) -> Vec<Span> {
        let resources = state.exports.iter().flat_map(|export| &export.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(Span::read).collect()
    }

    fn requests(&self) -> usize {
        self.state.0.lock().unwrap().heads.len()
    }

    /// Waits for so many.
    #[track_caller]
    fn wait(&self, spans: usize) -> Vec<Span> {
        let state = self.state.0.lock().unwrap();
        let (state, _) = self
            .state
            .1
            .wait_timeout_while(state, PATIENCE, |state| Self::read(state).len() < spans)
            .unwrap();
        let found = Self::read(&state);
        assert_eq!(found.len(), spans, "{found:#?}");
        found
    }

    #[track_caller]
    fn wait_requests(&self, count: usize) {
        let state = self.state.0.lock().unwrap();
        let few = |state: &mut Collected| state.heads.len() < count;
        let (state, _) = self.state.1.wait_timeout_while(state, PATIENCE, few).unwrap();
        assert!(state.heads.len() >= count);
    }
}

impl Span {
    fn read(span: &WireSpan) -> Self {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
        let text = |value: &Any| match value {
            Any::StringValue(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        let attribute = |of: &opentelemetry_proto::tonic::common::v1::KeyValue| {
            (of.key.clone(), text(of.value.as_ref().unwrap().value.as_ref().unwrap()))
        };
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name.clone(),
            kind: span.kind,
            state: span.trace_state.clone(),
            links: span
                .links
                .iter()
                .map(|link| format!("{}-{}", hex(&link.trace_id), hex(&link.span_id)))
                .collect(),
            is_error: span.status.as_ref().is_some_and(|status| status.code == 2),
            attributes: span.attributes.iter().map(attribute).collect(),
        }
    }

    #[track_caller]
    fn is(&self, expected: &[(&str, &str)]) {
        let expected =
            expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(self.attributes, expected, "{}", self.name);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Of the `number`-th trace, from a client's span.
fn traceparent(number: usize, flags: &str) -> String {
    format!("00-{number:032x}-00f067aa0ba902b7-{flags}")
}

/// The same with these members in its `_meta`.
fn with_meta(request: &Request, members: &str) -> Request {
    let bytes = request.bytes();
    let text = String::from_utf8(bytes).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    request.clone().body(body.replace("\"_meta\":{", &format!("\"_meta\":{{{members},")))
}

/// What a server was told of the trace: the header field and the member of `_meta`.
fn told(peer: &Peer) -> (Option<String>, Value) {
    let seen = peer.calls().pop().unwrap();
    let message: Value = serde_json::from_slice(&seen.body).unwrap();
    (seen.header("traceparent").map(str::to_owned), message["params"]["_meta"]["traceparent"].clone())
}

#[track_caller]
fn succeeded(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    assert!(text.contains("\"result\""), "{text}");
    text
}

/// The two spans of the one call of a trace: of the client's message, and of what a server was asked.
#[track_caller]
fn pair(spans: &[Span], number: usize) -> (&Span, &Span) {
    let mut of: Vec<&Span> = spans.iter().filter(|span| span.trace == format!("{number:032x}")).collect();
    of.sort_by_key(|span| span.kind);
    let [server, client] = of[..] else { panic!("{number}: {of:#?}") };
    assert_eq!((server.kind, client.kind), (SERVER, CLIENT));
    assert_eq!(client.parent, server.id);
    assert_ne!(client.id, server.id);
    (server, client)
}

/// Servers of every kind behind one gateway, and what they were told last.
struct House {
    gateway: Gateway,
    collector: Collector,
    plain: Peer,
    of_sessions: Peer,
    without: Peer,
    sse: server::Server,
    traces: usize,
}

impl House {
    fn start(lines: &str) -> Self {
        let collector = Collector::start([]);
        let (plain, of_sessions, without) = (Peer::script([]), Peer::script([]), Peer::script([]));
        let sse = server::Server::start();
        let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
        let gateway = collector
            .setup(lines)
            .server("plain", plain.address)
            .server_with("old", of_sessions.address, "era = \"legacy\"")
            .server_with("new", without.address, "era = \"modern\"")
            .with(&format!("[servers.program]\ncommand = {program:?}"))
            .with(&format!("[servers.events]\nurl = \"http://{}/sse\"\ntransport = \"sse\"", sse.address))
            .start();
        Self { gateway, collector, plain, of_sessions, without, sse, traces: 0 }
    }

    /// A call of a trace of its own.
    fn next(&mut self, request: &Request) -> (usize, Request) {
        self.traces += 1;
        (self.traces, request.clone().with("Traceparent", traceparent(self.traces, "01")))
    }

    fn ask(&self, request: &Request) -> Response {
        Client::once(self.gateway.address, request)
    }
}

/// By which servers a call goes, under which name, and where it was told what.
fn each_server(mut check: impl FnMut(&str, &str)) {
    for server in ["plain", "old", "new", "program", "events"] {
        check(server, &format!("/servers/{server}/mcp"));
        check(server, "/mcp");
    }
}

impl House {
    /// The span that a server was told that it is below of, by its header or by its message.
    fn told(&self, server: &str, answer: &str) -> String {
        let of_peer = |peer: &Peer| told(peer).0.unwrap();
        match server {
            "plain" => of_peer(&self.plain),
            "old" => of_peer(&self.of_sessions),
            "new" => of_peer(&self.without),
            "events" => {
                let (_, message) = self.sse.seen("tools/call").pop().unwrap();
                message["params"]["_meta"]["traceparent"].as_str().unwrap().to_owned()
            }
            _ => {
                let at = answer.find("traceparent").unwrap_or_else(|| panic!("not told: {answer}"));
                let from = answer[at..].find("00-").unwrap();
                answer[at + from..][..55].to_owned()
            }
        }
    }
}

fn every_way(lines: &str) {
    let mut house = House::start(lines);
    let mut expected = Vec::new();
    each_server(|server, path| {
        let tool = if path == "/mcp" { format!("{server}__echo") } else { "echo".to_owned() };
        let arguments = r#"{"text":"_meta"}"#;
        let session = open_session(&house.gateway, path, None);
        let asked = [
            ("2026-07-28", modern_call(path, &tool, arguments)),
            ("2025-11-25", legacy_call(path, &session, "1", &tool, arguments)),
        ];
        for (revision, request) in asked {
            let (number, request) = house.next(&request);
            let answer = succeeded(&house.ask(&request));
            let told = house.told(server, &answer);
            expected.push((number, server.to_owned(), path.to_owned(), tool.clone(), revision, told));
        }
    });
    let handshakes = expected.len();
    // The session of each was opened with two messages, that nobody traced before.
    let spans = house.collector.wait(2 * expected.len() + handshakes);
    for (number, server, path, tool, revision, told) in expected {
        let (of_message, of_exchange) = pair(&spans, number);
        assert_eq!(of_message.parent, "00f067aa0ba902b7");
        assert_eq!(told, format!("00-{number:032x}-{}-01", of_exchange.id), "{server} {path} {revision}");
        let endpoint = if path == "/mcp" { "default".to_owned() } else { format!("servers/{server}") };
        let common = [
            ("mcp.method.name", "tools/call"),
            ("gen_ai.operation.name", "execute_tool"),
            ("jsonrpc.request.id", "1"),
            ("mcp.protocol.version", revision),
            ("metamcp.outcome", "ok"),
        ];
        let with = |more: [(&'static str, &str); 2]| -> Vec<(String, String)> {
            common
                .iter()
                .chain(&more)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let is = |span: &Span, name: &str, attributes: Vec<(String, String)>| {
            assert_eq!(span.name, name);
            assert_eq!(span.attributes, attributes.into_iter().collect());
            assert!(!span.is_error && span.links.is_empty() && span.state.is_empty());
        };
        let attributes = with([("gen_ai.tool.name", &tool), ("metamcp.endpoint", &endpoint)]);
        is(of_message, &format!("tools/call {tool}"), attributes);
        let attributes = with([("gen_ai.tool.name", "echo"), ("metamcp.server", &server)]);
        is(of_exchange, "tools/call echo", attributes);
    }
}

#[test]
fn every_way_is_told_by_the_fast_lane() {
    every_way("");
}

#[test]
fn every_way_is_told_by_the_general_engine() {
    every_way("[server]\nfast_lane = false\n[backend]\nfast_lane = false");
}

#[test]
fn messages_of_a_framed_stream_are_told_one_by_one() {
    let (collector, peer) = (Collector::start([]), Peer::script([]));
    let gateway = collector.setup("").server("a", peer.address).start();
    for (at, form) in Form::BOTH.into_iter().enumerate() {
        let head = Request::new("POST", Stream::PATH).with("Traceparent", traceparent(1, "01"));
        let mut stream = Stream::open_with(&gateway, &head, form);
        let call = crate::support::call("1", "tools/call", r#""name":"a__echo","arguments":{},"#);
        let own = format!("\"_meta\":{{\"traceparent\":\"{}\",", traceparent(2 + at, "01"));
        let answer = stream.ask(&call.replace("\"_meta\":{", &own));
        assert_eq!(answer["id"], 1, "{answer}");
        let spans = collector.wait(2 + 4 * at);
        let (of_message, of_exchange) = pair(&spans, 2 + at);
        // The head of the stream is of all of them.
        assert_eq!(of_message.links, [format!("{:032x}-00f067aa0ba902b7", 1)]);
        let onward = format!("00-{:032x}-{}-01", 2 + at, of_exchange.id);
        assert_eq!(told(&peer), (Some(onward.clone()), onward.into()));
        let plain = stream.ask(&call);
        assert_eq!(plain["id"], 1);
    }
    let spans = collector.wait(8);
    let of_head = spans.iter().filter(|span| span.trace == format!("{:032x}", 1));
    assert_eq!(of_head.filter(|span| span.kind == SERVER && span.parent == "00f067aa0ba902b7").count(), 2);
}

/// What a server is told of a message with these header fields and members of `_meta`, and how many spans there are of it.
#[track_caller]
fn check(
    lines: &str,
    fields: &[(&str, &str)],
    members: &str,
    expected: (&[(&str, Option<&str>)], &str, usize),
) {
    let (collector, peer) = (Collector::start([]), Peer::script([]));
    let mut gateway = collector.setup(lines).server("a", peer.address).start();
    let mut request = modern_call("/servers/a/mcp", "echo", "{}");
    if !members.is_empty() {
        request = with_meta(&request, members);
    }
    let request = fields.iter().fold(request, |request, (name, value)| request.with(name, *value));
    succeeded(&Client::once(gateway.address, &request));
    let seen = peer.calls().pop().unwrap();
    // At its end it has told all there is.
    gateway.terminate();
    assert!(gateway.ended().success());
    let spans = collector.spans();
    assert_eq!(spans.len(), expected.2, "{spans:#?}");
    let onward = spans.iter().find(|span| span.kind == CLIENT);
    let onward = onward.map_or_else(String::new, |span| format!("00-{}-{}-01", span.trace, span.id));
    for (name, value) in expected.0 {
        let value = value.map(|value| if value == "ONWARD" { onward.as_str() } else { value });
        // The flags are at the end; an id may contain the same digits.
        let said = seen.header(name).map(|said| match said.strip_suffix("-03") {
            Some(rest) => format!("{rest}-01"),
            None => said.to_owned(),
        });
        assert_eq!(said.as_deref(), value, "{name} of {fields:?} {members}");
    }
    let meta = seen.text();
    let meta = meta.split_once("\"_meta\":{").unwrap().1.replace("-03\"", "-01\"");
    assert!(meta.starts_with(&expected.1.replace("ONWARD", &onward)), "{members}: {meta}");
}

#[test]
fn what_goes_on_says_where_it_is() {
    let (sampled, not) = (traceparent(1, "01"), traceparent(1, "00"));
    let member = |value: &str| format!("\"traceparent\":\"{value}\"");
    let plain = "\"io.modelcontextprotocol/protocolVersion\"";
    let (parent, state) = ("traceparent", "tracestate");
    let onward = (parent, Some("ONWARD"));
    let said = member("ONWARD");
    check("", &[(parent, &sampled)], "", (&[onward, (state, None)], plain, 2));
    let fields = [(parent, sampled.as_str()), (state, "a=b"), ("baggage", "k=v")];
    check("", &fields, "", (&[onward, (state, Some("a=b")), ("baggage", Some("k=v"))], plain, 2));
    check("", &[], &member(&sampled), (&[onward], &said, 2));
    // Its state is that of the same place; what a field says without a trace is of none.
    let with_state = format!("{},\"tracestate\":\"c=d\"", member(&sampled));
    check("", &[(state, "a=b")], &with_state, (&[onward, (state, Some("c=d"))], &said, 2));
    check("", &[(state, "a=b")], "", (&[onward, (state, None)], plain, 2));
    // A name written with an escape is the same name.
    let escaped = format!("\"trace\\u0070arent\":\"{sampled}\"");
    check("", &[], &escaped, (&[onward], "\"trace\\u0070arent\":\"ONWARD\"", 2));
    // What is not valid begins a trace anew.
    check("", &[(parent, "00-xyz")], &member("no"), (&[onward], &said, 2));
    // Who is not traced passes as it came, in both.
    let fields = [(parent, not.as_str()), (state, "a=b"), ("baggage", "k=v")];
    let unchanged = [(parent, Some(not.as_str())), (state, Some("a=b")), ("baggage", Some("k=v"))];
    let members = format!("{},\"tracestate\":\"c=d\",\"baggage\":\"e=f\"", member(&not));
    check("", &fields, &members, (&unchanged, &members, 0));
    let fields = [(parent, sampled.as_str())];
    let unchanged = [(parent, Some(sampled.as_str()))];
    check("parents = \"ignore\"\nsample = 0", &fields, &member(&sampled), (&unchanged, &member(&sampled), 0));
    check("sample = 0", &[], "", (&[(parent, None)], plain, 0));
    check("sample = 0", &[(parent, "00-xyz")], "", (&[(parent, Some("00-xyz"))], plain, 0));
}

#[test]
fn off_is_nothing() {
    let (collector, peer) = (Collector::start([]), Peer::script([]));
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let gateway = Setup::new()
        .server("a", peer.address)
        .with(&format!("[servers.program]\ncommand = {program:?}\n[telemetry.traces]\nsample = 1.0"))
        .start();
    let sampled = traceparent(1, "01");
    let request = modern_call("/servers/a/mcp", "echo", "{}").with("Traceparent", &*sampled);
    let request = with_meta(&request, "\"traceparent\":\"00-anything\"");
    succeeded(&Client::once(gateway.address, &request));
    assert_eq!(told(&peer), (Some(sampled.clone()), "00-anything".into()));
    // What a server without header fields cannot see there is said in the message.
    let request = modern_call("/servers/program/mcp", "echo", r#"{"text":"_meta"}"#);
    let answer = succeeded(&Client::once(gateway.address, &request.with("Traceparent", &*sampled)));
    assert!(answer.contains(&sampled), "{answer}");
    assert_eq!(collector.requests(), 0);
}

#[test]
fn errors_are_told_and_secrets_are_not() {
    let (collector, peer) = (Collector::start([]), Peer::script([]));
    let canary = "kanarienvogel";
    let lines = format!("headers = {{ Api-Key = \"{canary}\" }}\nattributes = {{ \"host.name\" = \"h\" }}");
    let gateway = collector.setup(&lines).server("a", peer.address).keys().start();
    let key = gateway.key.clone().unwrap();
    let bearer = format!("Bearer {key}");
    let with_key = |request: Request| request.with("Authorization", bearer.clone());
    let session = open_session(&gateway, "/mcp", Some(&key));
    let mut client = Client::connect(gateway.address);
    let long = "x".repeat(4000);
    let arguments = format!("{{\"text\":\"{canary}\"}}");
    for request in [
        legacy_call("/mcp", &session, "\"\\u00e4\"", "a__none", &arguments),
        legacy_call("/mcp", &session, &format!("\"{long}\""), "a__echo", &arguments),
        modern("/mcp", "resources/read", &format!("\"uri\":\"file:///{canary}\","))
            .with("Mcp-Name", format!("file:///{canary}")),
        modern("/mcp", &format!("x/{long}"), ""),
    ] {
        client.ask(&with_key(request));
    }
    // Without a key there is no message yet.
    assert_eq!(client.ask(&initialize("/mcp")).status, 401);
    let mut gateway = gateway;
    gateway.terminate();
    assert!(gateway.ended().success());
    let spans = collector.spans();
    let unknown = spans.iter().find(|span| span.name == "tools/call a__none").unwrap();
    unknown.is(&[
        ("mcp.method.name", "tools/call"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "a__none"),
        ("jsonrpc.request.id", "\u{e4}"),
        ("mcp.protocol.version", "2025-11-25"),
        ("metamcp.endpoint", "default"),
        ("metamcp.outcome", "error"),
        ("error.type", "invalid_params"),
        ("rpc.response.status_code", "-32602"),
    ]);
    assert!(unknown.is_error && unknown.parent.is_empty() && unknown.trace != "0".repeat(32));
    assert!(spans.iter().all(|span| span.name.len() < 300));
    let ids: Vec<_> = spans.iter().filter_map(|span| span.attributes.get("jsonrpc.request.id")).collect();
    assert!(ids.iter().all(|id| id.len() <= 512) && ids.iter().any(|id| id.len() == 128), "{ids:?}");
    let told = format!("{spans:?}");
    for secret in [canary, &key, &session] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    assert!(!gateway.log().contains(canary));
    let state = collector.state.0.lock().unwrap();
    let head = state.heads[0].to_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf") && head.contains(&format!("api-key: {canary}"))
    );
    let resource = state.exports[0].resource_spans[0].resource.clone().unwrap();
    let names: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(names, ["service.name", "service.version", "service.instance.id", "host.name"]);
}

#[test]
fn a_client_that_says_it_is_traced_has_a_budget() {
    let (collector, peer) = (Collector::start([]), Peer::script([]));
    let mut gateway =
        collector.setup("traces_per_second_max = 1").server("a", peer.address).workers(1).start();
    let began = Instant::now();
    let mut client = Client::connect(gateway.address);
    let request = modern_call("/servers/a/mcp", "echo", "{}").with("Traceparent", traceparent(1, "01"));
    for _ in 0..50 {
        succeeded(&client.ask(&request));
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    gateway.terminate();
    assert!(gateway.ended().success());
    let spans = collector.spans().len();
    assert!((2..=2 * seconds).contains(&spans), "{spans} in {seconds} s");
}

/// A gateway whose collector does that goes on, tells nobody else, and ends in time.
#[track_caller]
fn check_hostile(reaction: Reaction, log: &str) {
    let (collector, peer) = (Collector::start([reaction, Reaction::Hang, Reaction::Hang]), Peer::script([]));
    let setup = collector.setup("timeout = \"500ms\"").with("[telemetry]\nmetrics = \"open\"");
    let mut gateway = setup.server("a", peer.address).start();
    let mut client = Client::connect(gateway.address);
    let request = modern_call("/servers/a/mcp", "echo", "{}");
    succeeded(&client.ask(&request));
    collector.wait_requests(1);
    for _ in 0..100 {
        succeeded(&client.ask(&request));
    }
    let deadline = Instant::now() + PATIENCE;
    let metrics = Request::new("GET", "/metrics");
    let told = || Client::once(gateway.address, &metrics).text();
    while !gateway.log().contains(log) {
        assert!(Instant::now() < deadline, "{}", gateway.log());
        thread::park_timeout(std::time::Duration::from_millis(20));
    }
    assert!(told().contains("metamcp_trace_spans_total{outcome=\"dropped\"}"));
    let began = Instant::now();
    gateway.terminate();
    assert!(gateway.ended().success());
    assert!(began.elapsed() < PATIENCE / 2, "the end waits for a collector: {:?}", began.elapsed());
    assert!(gateway.log().matches("does not take them").count() <= 1, "{}", gateway.log());
}

#[test]
fn a_collector_that_redirects_is_not_followed() {
    let elsewhere = Collector::start([]);
    let head = format!(
        "HTTP/1.1 307 Elsewhere\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n",
        elsewhere.address
    );
    check_hostile(Reaction::Send(head.into_bytes()), "HTTP 307");
    assert_eq!(elsewhere.requests(), 0);
}

#[test]
fn a_collector_that_never_answers_is_left() {
    check_hostile(Reaction::Hang, "it did not answer in time");
}

#[test]
fn a_collector_that_answers_nonsense_is_left() {
    check_hostile(Reaction::Send(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), "does not accept spans");
}

#[test]
fn the_answer_of_a_collector_is_not_read_without_end() {
    let mut flood = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec();
    flood.resize(100_000_000, b'x');
    let (collector, peer) = (Collector::start([Reaction::Send(flood)]), Peer::script([]));
    let gateway = collector.setup("").server("a", peer.address).start();
    let request = modern_call("/servers/a/mcp", "echo", "{}");
    succeeded(&Client::once(gateway.address, &request));
    collector.wait(2);
    // It was taken: that it was said at length is no reason to say it again.
    succeeded(&Client::once(gateway.address, &request));
    collector.wait(4);
    assert!(gateway.resident_bytes() < 90 << 20, "{}", gateway.resident_bytes());
}
