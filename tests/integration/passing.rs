//! What passes: byte by byte in both directions, with nothing changed but names, and nothing forwarded that
//! belongs to one connection or to the client alone.

use crate::support::{
    Client, FOREIGN_HEADERS, Form, Gate, Gateway, MODERN, Peer, Request, Response, Setup, Step, Stream,
    answer, call, chunk, error, events, initialize, legacy_call, listed, modern, modern_call, notification,
    open_session,
};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

/// One way from a client to the server: era and endpoint.
struct Way {
    path: &'static str,
    session: Option<String>,
}

impl Way {
    /// All four.
    fn all(gateway: &Gateway) -> Vec<Self> {
        let mut ways = Vec::new();
        for path in [SINGLE, AGGREGATED] {
            ways.push(Self { path, session: None });
            ways.push(Self { path, session: Some(open_session(gateway, path, None)) });
        }
        ways
    }

    fn call(&self, arguments: &str) -> Request {
        let tool = tool_of(self.path);
        match &self.session {
            Some(session) => legacy_call(self.path, session, "1", tool, arguments),
            None => modern_call(self.path, tool, arguments),
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.path, if self.session.is_some() { "Legacy" } else { "Modern" })
    }
}

/// The tool `echo` of the server `a` as it is named there.
fn tool_of(path: &str) -> &'static str {
    if path == AGGREGATED { "a__echo" } else { "echo" }
}

/// Answers that a gateway which parses and writes anew would change.
const ODD: [&str; 12] = [
    r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#,
    r#"{"id":1,"result":{"z":1,"a":2,"content":[]},"jsonrpc":"2.0"}"#,
    "\n {\t\"jsonrpc\" : \"2.0\" ,\r\n \"id\" :1, \"result\":{ } } \n",
    r#"{"jsonrpc":"2.0","id":1,"result":{"n":[1e400,1.0,-0,-0.0,1E5,1e+05,0.1000000000000000055511151231257827]}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"n":[9007199254740993,18446744073709551616,123456789012345678901234567890]}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"s":"\u0041\u00e4\/\"\\\b\f\n\r\t\ud83d\ude00"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"s":"ä😀 "}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"lone":"\ud800"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2,"A":3}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{},"unknown":{"deep":[[[[[[]]]]]]},"x":null}"#,
    r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32099,"message":"own \u0065rror","data":[1.0]}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"nul":"\u0000","del":"","html":"</script><!--"}}"#,
];

#[test]
fn json_answers_are_forwarded_unchanged() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for way in Way::all(&gateway) {
        for body in ODD {
            peer.push([vec![Step::Send(answer("200 OK", body))]]);
            let response = Client::once(gateway.address, &way.call("{}"));
            assert_eq!(response.status, 200, "{}", way.name());
            assert_eq!(response.text(), body, "{}", way.name());
            // The same with the length not said.
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            let (first, second) = body.split_at(1);
            let pieces = [head.as_bytes().to_vec(), chunk(first), chunk(second), chunk("")];
            peer.push([pieces.map(Step::Send).to_vec()]);
            assert_eq!(Client::once(gateway.address, &way.call("{}")).text(), body, "{}", way.name());
        }
        // Bigger than what is taken whole.
        let big = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"s":"{}"}}}}"#, "x".repeat(1 << 20));
        peer.push([vec![Step::Send(answer("200 OK", &big))]]);
        let response = Client::once(gateway.address, &way.call("{}"));
        assert!(response.whole && response.text() == big, "{}", way.name());
    }
}

#[test]
fn event_streams_are_forwarded_unchanged() {
    let peer = Peer::script([]);
    let (kept, gateway) = (Gateway::open(&[("a", peer.address)]), unkept(&peer));
    let notice = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1.0}}"#;
    for way in Way::all(&gateway) {
        for body in ODD.iter().filter(|body| !body.contains('\n')) {
            let stream = format!("event: message\ndata: {notice}\n\ndata:{body}\n\n");
            for stream in [stream.replace('\n', "\r\n"), stream] {
                for size in [1, 7, 4096] {
                    check_stream(&gateway, &peer, &way, &stream, size);
                }
            }
        }
    }
    // Where the client of a session can come back, each event has an id, and its lines are as they were.
    for way in Way::all(&kept) {
        for body in ODD.iter().filter(|body| !body.contains('\n')) {
            let stream = format!("event: message\r\ndata: {notice}\r\n\r\ndata:{body}\r\n\r\n");
            let text = passed(&kept, &peer, &way, &stream, 7);
            let (told, lines) = (text.matches("id: ").count(), stream.replace("\r\n", "\n"));
            assert_eq!(told, if way.session.is_some() { 3 } else { 0 }, "{}: {text}", way.name());
            let text = text.replace("\r\n", "\n").replace("retry: 1000\ndata: \n\n", "");
            let without = text.split_inclusive('\n').filter(|line| !line.starts_with("id: "));
            assert_eq!(without.collect::<String>(), lines, "{}", way.name());
        }
    }
}

/// Where the streams of sessions are as the server has them.
fn unkept(peer: &Peer) -> Gateway {
    Setup::new().server("a", peer.address).with("[session]\nresume = false").start()
}

/// The stream passes as it is when it comes in chunks of that many characters.
#[track_caller]
fn check_stream(gateway: &Gateway, peer: &Peer, way: &Way, stream: &str, size: usize) {
    assert_eq!(passed(gateway, peer, way, stream, size), stream, "{} in pieces of {size}", way.name());
}

#[track_caller]
fn passed(gateway: &Gateway, peer: &Peer, way: &Way, stream: &str, size: usize) -> String {
    let characters: Vec<char> = stream.chars().collect();
    let pieces = characters.chunks(size).map(|piece| chunk(&piece.iter().collect::<String>()));
    let mut steps = vec![Step::Send(events())];
    if size == 1 {
        // In one write: each of hundreds would take a wake-up of everybody.
        steps.push(Step::Send(pieces.flatten().collect()));
    } else {
        steps.extend(pieces.map(Step::Send));
    }
    steps.push(Step::Send(chunk("")));
    peer.push([steps]);
    let response = Client::once(gateway.address, &way.call("{}"));
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert!(response.whole, "{}", way.name());
    response.text()
}

#[test]
fn a_single_servers_stream_keeps_its_ids_and_comments() {
    let peer = Peer::script([]);
    let gateway = unkept(&peer);
    let stream = ": hello\n\nid: 7\nretry: 1500\ndata:\n\nid: 8\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\"result\":{}}\n\n";
    for session in [None, Some(open_session(&gateway, SINGLE, None))] {
        let way = Way { path: SINGLE, session };
        peer.push([vec![Step::Send(events()), Step::Send(chunk(stream)), Step::Send(chunk(""))]]);
        assert_eq!(Client::once(gateway.address, &way.call("{}")).text(), stream, "{}", way.name());
    }
}

/// Arguments that a gateway which parses and writes anew would change.
const ARGUMENTS: [&str; 6] = [
    "{}",
    r#"{ "z" : 1e400, "a":1.0,"n":[123456789012345678901234567890,-0.0] }"#,
    r#"{"name":"a__other","uri":"x","params":{"name":"b"}}"#,
    r#"{"s":"\u0041\/\ud83d\ude00 ä😀","lone":"\udc00"}"#,
    "{\n\t\"a\": [ ] }",
    r#"{"a":1,"a":2,"A":3}"#,
];

#[test]
fn only_the_name_of_a_request_changes() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for way in Way::all(&gateway) {
        for arguments in ARGUMENTS {
            let sent = way.call(arguments);
            let before = peer.calls().len();
            peer.push([vec![Step::Send(answer("200 OK", ODD[0]))]]);
            assert_eq!(Client::once(gateway.address, &sent).status, 200, "{}", way.name());
            let calls = peer.calls();
            assert_eq!(calls.len(), before + 1);
            let seen = &calls[before];
            let expected = String::from_utf8(sent.body.clone()).unwrap().replacen("a__echo", "echo", 1);
            assert_eq!(seen.text(), expected, "{}", way.name());
            assert_eq!(seen.header("content-length"), Some(expected.len().to_string().as_str()));
            assert_eq!(seen.header("transfer-encoding"), None);
            assert_eq!(seen.header("content-type"), Some("application/json"));
            assert_eq!(seen.header("host"), Some(peer.address.to_string().as_str()));
            let name = way.session.is_none().then_some("echo");
            assert_eq!(seen.header("mcp-name"), name, "{}", way.name());
        }
    }
}

#[test]
fn a_name_is_replaced_however_it_is_written() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let session = open_session(&gateway, AGGREGATED, None);
    let written = ["a__echo", r"a__ech\u006f", r"\u0061\u005f_echo", r"\u0061\u005F\u005F\u0065cho"];
    for name in written {
        let members = format!(r#""arguments":{{"after":"😀"}} , "name" : "{name}" ,"#);
        // In plain, and as base64 of the same.
        for header in ["a__echo", "=?base64?YV9fZWNobw==?="] {
            let request = modern(AGGREGATED, "tools/call", &members).with("Mcp-Name", header);
            check_renamed(&gateway, &peer, &request, name);
            assert_eq!(peer.calls().last().unwrap().header("mcp-name"), Some("echo"));
        }
        let body =
            format!(r#"{{"method":"tools/call","params":{{{members}"x":1}},"id":"1","jsonrpc":"2.0"}}"#);
        let request = legacy_call(AGGREGATED, &session, "1", "a__echo", "{}").body(body);
        check_renamed(&gateway, &peer, &request, name);
    }
    // On one connection to the server: a length that is wrong by a byte would spoil the next request.
    assert!(peer.connections() < 8, "{} connections", peer.connections());
}

#[track_caller]
fn check_renamed(gateway: &Gateway, peer: &Peer, request: &Request, name: &str) {
    let response = Client::once(gateway.address, request);
    assert_eq!(response.status, 200, "{}", response.text());
    let sent = String::from_utf8(request.body.clone()).unwrap();
    let expected = sent.replacen(&format!("\"{name}\""), "\"echo\"", 1);
    let seen = peer.calls().pop().unwrap();
    assert_eq!(seen.text(), expected);
    assert_eq!(seen.header("content-length"), Some(expected.len().to_string().as_str()));
}

#[test]
fn names_that_need_base64_are_rewritten_in_it() {
    // Its one tool has a name that no header can carry as it is.
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"gr\u00fc\u00dfe","inputSchema":{"type":"object"}}],"resultType":"complete"}}"#;
    let peer = Peer::script([]);
    peer.list_tools(list);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let tools = Client::once(gateway.address, &modern(AGGREGATED, "tools/list", ""));
    assert_eq!(listed(&tools.json()), ["a__grüße"]);
    let request = modern(AGGREGATED, "tools/call", r#""name":"a__grüße","arguments":{},"#)
        .with("Mcp-Name", "=?base64?YV9fZ3LDvMOfZQ==?=");
    assert_eq!(Client::once(gateway.address, &request).status, 200);
    let seen = peer.calls().pop().unwrap();
    assert_eq!(seen.header("mcp-name"), Some("=?base64?Z3LDvMOfZQ==?="));
    assert!(seen.text().contains(r#""name":"gr"#), "{}", seen.text());
}

#[test]
fn only_listed_headers_are_forwarded() {
    let peer = Peer::script([]);
    let servers = Setup::new().server_with(
        "a",
        peer.address,
        "bearer = \"the-servers-own\"\nheaders = { \"X-Team\" = \"configured\" }",
    );
    let gateway = servers.keys().start();
    let key = gateway.key.clone().unwrap();
    let canary = "canary-7f3a";
    let mut request = modern_call(SINGLE, "echo", "{}")
        .with("Authorization", format!("Bearer {key}"))
        .with("Mcp-Param-Region", "eu")
        .with("mcp-param-tenant", "=?base64?w6Q=?=")
        .with("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .with("Tracestate", "a=b")
        .with("Baggage", "k=v")
        .with("Connection", "keep-alive, X-Hop")
        .with("X-Hop", canary);
    for name in FOREIGN_HEADERS {
        let value = if name == "X-API-Key" { key.clone() } else { canary.to_owned() };
        request = request.with(name, value);
    }
    let response = Client::once(gateway.address, &request);
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = peer.calls().pop().unwrap();
    let expected = [
        ("authorization", Some("Bearer the-servers-own")),
        ("x-team", Some("configured")),
        ("mcp-param-region", Some("eu")),
        ("mcp-param-tenant", Some("=?base64?w6Q=?=")),
        ("traceparent", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ("tracestate", Some("a=b")),
        ("baggage", Some("k=v")),
        ("mcp-protocol-version", Some(MODERN)),
        ("mcp-method", Some("tools/call")),
        ("accept", Some("application/json, text/event-stream")),
        ("x-hop", None),
        ("connection", None),
    ];
    for (name, value) in expected {
        assert_eq!(seen.header(name), value, "{name}: {}", seen.head);
    }
    for seen in peer.all() {
        let head = seen.head.to_lowercase();
        assert!(!head.contains(canary), "{head}");
        assert!(!head.contains(&key.to_lowercase()), "the client's key went to a server");
    }
}

/// On every way, nothing of a client's headers reaches a server but the listed ones.
#[test]
fn no_credential_of_a_client_reaches_a_server_on_any_way() {
    let peer = Peer::script([]);
    let lines = "bearer = \"the-servers-own\"";
    let gateway = Setup::new().server_with("a", peer.address, lines).keys().start();
    let (key, canary) = (gateway.key.clone().unwrap(), "canary-7f3a");
    let with_all = |request: Request| {
        let request = FOREIGN_HEADERS.iter().fold(request, |request, name| {
            let value = if *name == "X-API-Key" { key.as_str() } else { canary };
            request.with(name, value)
        });
        request.with("aUTHORIZATION", format!("Bearer {key}"))
    };
    let served = |request: Request| {
        let before = peer.calls().len();
        let response = Client::once(gateway.address, &with_all(request));
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(peer.calls().len(), before + 1, "{}", response.text());
    };
    for path in [SINGLE, AGGREGATED] {
        for session in [None, Some(open_session(&gateway, path, Some(&key)))] {
            let call = Way { path, session }.call("{}");
            served(call.clone());
            let twice = call.with("Authorization", format!("Bearer {key}x"));
            assert_eq!(Client::once(gateway.address, &with_all(twice)).status, 401, "{path}");
        }
        let call = String::from_utf8(legacy_call(path, "", "1", tool_of(path), "{}").body).unwrap();
        served(Request::post(path, format!("[{call}]")));
        let stream = format!("{}{}", Stream::PATH, if path == SINGLE { "/servers/a" } else { "" });
        let stream = with_all(Request::new("POST", &stream));
        let before = peer.calls().len();
        let mut stream = Stream::open_with(&gateway, &stream, Form::Lines);
        let answer = stream.ask(&String::from_utf8(modern_call(path, tool_of(path), "{}").body).unwrap());
        assert!(answer["result"].is_object(), "{answer}");
        assert_eq!(peer.calls().len(), before + 1);
    }
    for seen in peer.all() {
        let text = format!("{}{}", seen.head, seen.text());
        assert!(!text.contains(canary) && !text.contains(&key), "{text}");
        assert_eq!(seen.header("authorization"), Some("Bearer the-servers-own"), "{text}");
    }
}

#[test]
fn each_server_sees_its_own_session_id() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for path in [SINGLE, AGGREGATED] {
        let session = open_session(&gateway, path, None);
        let way = Way { path, session: Some(session.clone()) };
        assert_eq!(Client::once(gateway.address, &way.call("{}")).status, 200);
        let seen = peer.calls().pop().unwrap();
        assert!(seen.header("mcp-session-id").is_some_and(|id| id.starts_with("peer-")), "{}", seen.head);
        assert_eq!(seen.header("mcp-protocol-version"), Some("2025-11-25"));
        let ended = legacy_call(path, &session, "1", "echo", "{}").body("");
        let ended = Request { method: "DELETE".into(), ..ended };
        assert_eq!(Client::once(gateway.address, &ended).status, 200);
        assert!(
            peer.all().iter().all(|seen| !seen.head.contains(&session)),
            "the client's session id was told"
        );
    }
}

#[test]
fn server_statuses_are_translated() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let own = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"needs \u0061 thing","data":1.0}}"#;
    let canary = Peer::script([]);
    let elsewhere = format!("307 Temporary Redirect\r\nLocation: http://{}/mcp", canary.address);
    // Status, body; then the status and code towards the client.
    let rows = [
        ("400 Bad Request", own, 400, -32021),
        ("404 Not Found", own, 404, -32021),
        ("409 Conflict", own, 409, -32021),
        ("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"theirs\"", own, 200, -32603),
        ("403 Forbidden", own, 200, -32603),
        ("407 Proxy Authentication Required", own, 200, -32603),
        ("429 Too Many Requests", own, 200, -32603),
        ("500 Internal Server Error", own, 200, -32603),
        ("503 Service Unavailable", "", 200, -32603),
        ("400 Bad Request", "<html>no</html>", 200, -32603),
        ("410 Gone", "", 200, -32603),
        ("301 Moved Permanently", "", 200, -32603),
        (elsewhere.as_str(), "", 200, -32603),
        ("308 Permanent Redirect\r\nLocation: /elsewhere", "", 200, -32603),
    ];
    for way in Way::all(&gateway) {
        for (status, body, expected, code) in rows {
            let is_session_question = way.session.is_some() && status.starts_with("404");
            if is_session_question {
                continue; // Of a session it means something else: see the tests of faults.
            }
            peer.push([vec![Step::Send(answer(status, body))]]);
            let before = peer.calls().len();
            let response = Client::once(gateway.address, &way.call("{}"));
            let what = format!("{} {status}", way.name());
            assert_eq!((response.status, error(&response)), (expected, code), "{what}: {}", response.text());
            assert_eq!(response.json()["id"], 1, "{what}");
            assert_eq!(response.header("www-authenticate"), None, "{what}");
            assert_eq!(response.header("location"), None, "{what}");
            if code == -32021 {
                assert_eq!(response.text(), own, "{what}");
            } else {
                assert_eq!(response.json()["error"]["data"]["origin"], "server", "{what}");
                let told = ["the call did not run", "the call may have run"];
                assert!(
                    told.iter().any(|told| response.text().contains(told)),
                    "{what}: {}",
                    response.text()
                );
            }
            assert_eq!(peer.calls().len(), before + 1, "{what}: asked again");
        }
    }
    assert_eq!(canary.connections(), 0, "a redirect was followed");
}

#[test]
fn input_required_and_its_retry_are_forwarded_unchanged() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let asked = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k\u0065y":{"method":"elicitation/create","params":{"message":"who?","requestedSchema":{"type":"object","properties":{}}}}},"requestState":"c2VhbGVk\/\u002b=="}}"#;
    for path in [SINGLE, AGGREGATED] {
        let way = Way { path, session: None };
        peer.push([vec![Step::Send(answer("200 OK", asked))]]);
        assert_eq!(Client::once(gateway.address, &way.call("{}")).text(), asked);
        let tool = if path == AGGREGATED { "a__echo" } else { "echo" };
        let members = format!(
            r#""requestState":"c2VhbGVk\/\u002b==","inputResponses":{{"k\u0065y":{{"action":"accept","content":{{"n":1.0}}}}}},"name":"{tool}","arguments":{{}},"#
        );
        let again = modern(path, "tools/call", &members).with("Mcp-Name", tool).body(call(
            "\"two\"",
            "tools/call",
            &members,
        ));
        assert_eq!(Client::once(gateway.address, &again).status, 200);
        let expected = String::from_utf8(again.body).unwrap().replacen("a__echo", "echo", 1);
        assert_eq!(peer.calls().pop().unwrap().text(), expected);
    }
}

#[test]
fn ids_are_returned_as_written() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let session = open_session(&gateway, AGGREGATED, None);
    let ids = [
        "1",
        "0",
        "-7",
        "\"1\"",
        "\"\"",
        "9007199254740993",
        "123456789012345678901234567890",
        r#""\u0041\/ä""#,
    ];
    for id in ids {
        // Answered by the gateway itself.
        let own = [
            crate::support::legacy(AGGREGATED, &session, id, "ping", ""),
            crate::support::legacy(AGGREGATED, &session, id, "tools/list", ""),
            modern(AGGREGATED, "tools/list", "").body(call(id, "tools/list", "")),
            modern(AGGREGATED, "no/such", "").body(call(id, "no/such", "")),
            initialize(AGGREGATED).body(
                String::from_utf8(initialize("").body).unwrap().replace("\"id\":0", &format!("\"id\":{id}")),
            ),
        ];
        for request in own {
            let response: Response = Client::once(gateway.address, &request);
            assert!(
                response.text().starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{id},"#)),
                "{}",
                response.text()
            );
        }
    }
}

#[test]
fn responses_reach_the_server_that_asked() {
    let (peer, other) = (Peer::script([]), Peer::script([]));
    let gateway = Gateway::open(&[("a", peer.address), ("b", other.address)]);
    let session = open_session(&gateway, AGGREGATED, None);
    // Both ask the same client under the same id at the same time.
    let asked =
        r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"who?","n":1.0}}"#;
    let gate = Gate::default();
    let mut clients = Vec::new();
    for (number, (server, tool)) in [(&peer, "a__echo"), (&other, "b__echo")].into_iter().enumerate() {
        server.push([vec![
            Step::Send(events()),
            Step::Send(chunk(&format!("data: {asked}\n\n"))),
            Step::Wait(gate.clone()),
            Step::Send(chunk(&format!(
                "data: {}\n\n",
                crate::support::result(&number.to_string(), "thanks")
            ))),
            Step::Send(chunk("")),
        ]]);
        let mut client = Client::connect(gateway.address);
        client.send(&legacy_call(AGGREGATED, &session, &number.to_string(), tool, "{}").bytes());
        assert_eq!(client.head().status, 200);
        assert!(client.raw_event().unwrap().ends_with("\ndata: \n\n"), "which tells only an id");
        let event = client.raw_event().unwrap();
        let (_, event) = event.split_once('\n').unwrap();
        let id = event.split("\"id\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
        assert_eq!(event.replace(&id, "7"), format!("event: message\ndata: {asked}\n\n"));
        clients.push((client, id));
    }
    assert_ne!(clients[0].1, clients[1].1);
    for ((_, id), server) in clients.iter().zip([&peer, &other]) {
        let answer = r#"{"jsonrpc":"2.0","result":{"action":"accept","content":{"n":1.0}},"id":7}"#;
        let body = answer.replace('7', id);
        let request = legacy_call(AGGREGATED, &session, "0", "", "").body(body);
        assert_eq!(Client::once(gateway.address, &request).status, 202);
        assert_eq!(server.calls().last().unwrap().text(), answer);
        assert_eq!(server.calls().len(), 2, "the call and the answer, and nothing of the other's");
    }
    // An answer to nobody's question reaches nobody.
    for id in ["7", "\"a~\"", "\"c~Nw\"", "\"a~e30\""] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        let request = legacy_call(AGGREGATED, &session, "0", "", "").body(body);
        assert_eq!(Client::once(gateway.address, &request).status, 400, "{id}");
    }
    assert_eq!((peer.calls().len(), other.calls().len()), (2, 2));
    // A cancellation goes to the one that holds the call.
    let cancel = notification(AGGREGATED, &session, "notifications/cancelled", r#""requestId":1"#);
    assert_eq!(Client::once(gateway.address, &cancel).status, 202);
    assert_eq!((peer.calls().len(), other.calls().len()), (2, 3));
    gate.open();
    let [(answered, _), (cancelled, _)] = &mut clients[..] else { panic!("two clients") };
    assert_eq!(answered.event().unwrap()["result"]["content"][0]["text"], "thanks");
    assert!(answered.event().is_none());
    assert!(cancelled.event().is_none(), "a cancelled call has no answer");
}
