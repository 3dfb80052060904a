//! What the gateway refuses, with which status and code; that nothing of it reaches a server, and that a
//! good call works afterwards.

use std::time::Instant;

use crate::support::{
    Client, Gateway, MODERN, PATIENCE, Peer, Request, Response, Seen, Setup, call, error, initialize, legacy,
    legacy_call, modern, modern_call, notification, open_session,
};

/// A gateway with two servers, and how many good calls were made.
struct World {
    gateway: Gateway,
    peer: Peer,
    other: Peer,
    good: usize,
}

impl World {
    fn new() -> Self {
        let (peer, other) = (Peer::script([]), Peer::script([]));
        let servers = Setup::new().server("a", peer.address).server("b", other.address);
        let gateway = servers.with("[server]\nbody_bytes_max = \"64KiB\"").start();
        Self { gateway, peer, other, good: 0 }
    }

    /// Refused so, and nothing but good calls was seen by a server.
    #[track_caller]
    fn check(&mut self, what: &str, request: &Request, status: u16, code: i64) -> Response {
        let response = Client::once(self.gateway.address, request);
        assert_eq!(response.status, status, "{what}: {}", response.text());
        assert_eq!(error(&response), code, "{what}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"), "{what}");
        self.check_good(what);
        response
    }

    #[track_caller]
    fn check_status(&mut self, what: &str, request: &Request, status: u16) -> Response {
        let response = Client::once(self.gateway.address, request);
        assert_eq!(response.status, status, "{what}: {}", response.text());
        self.check_good(what);
        response
    }

    #[track_caller]
    fn check_good(&mut self, what: &str) {
        let response = Client::once(self.gateway.address, &good(SINGLE));
        self.good += 1;
        assert!(response.status == 200 && response.text().contains("good"), "after {what}");
        let seen = self.peer.calls();
        assert_eq!(seen.len(), self.good, "{what} reached a server: {:?}", seen.last());
        assert!(self.other.calls().is_empty(), "{what} reached the other server");
    }
}

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

fn good(path: &str) -> Request {
    let tool = if path == AGGREGATED { "a__echo" } else { "echo" };
    modern_call(path, tool, r#"{"text":"good"}"#)
}

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

#[test]
fn malformed_messages_are_rejected() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}1{}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let many: Vec<_> = (0..100).map(|n| format!(r#","x{n}":1"#)).collect();
    let many = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"{}}}"#, many.concat());
    let in_params = |members: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{members},{META}}}}}"#)
    };
    let rows: Vec<(&str, Vec<u8>, i64)> = vec![
        ("nothing", vec![], -32700),
        ("half an object", b"{".to_vec(), -32700),
        ("a cut message", br#"{"jsonrpc":"2.0","id":1,"meth"#.to_vec(), -32700),
        ("two messages", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}{}"#.to_vec(), -32700),
        ("not UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}".to_vec(), -32700),
        (
            "a byte order mark",
            b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}".to_vec(),
            -32700,
        ),
        ("a batch", br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#.to_vec(), -32600),
        ("a string", br#""ping""#.to_vec(), -32600),
        ("a number", b"1".to_vec(), -32600),
        ("another version", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.to_vec(), -32600),
        ("no version", br#"{"id":1,"method":"ping"}"#.to_vec(), -32600),
        ("id null", br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_vec(), -32600),
        ("id object", br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#.to_vec(), -32600),
        ("id true", br#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#.to_vec(), -32600),
        ("method number", br#"{"jsonrpc":"2.0","id":1,"method":7}"#.to_vec(), -32600),
        ("no method", br#"{"jsonrpc":"2.0","id":1}"#.to_vec(), -32600),
        ("method and result", br#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#.to_vec(), -32600),
        ("method twice", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}"#.to_vec(), -32600),
        (
            "method twice, escaped",
            br#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"ping"}"#.to_vec(),
            -32600,
        ),
        ("id twice", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#.to_vec(), -32600),
        (
            "Method beside method",
            br#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"x"}"#.to_vec(),
            -32600,
        ),
        ("METHOD alone", br#"{"jsonrpc":"2.0","id":1,"METHOD":"ping"}"#.to_vec(), -32600),
        ("name twice", in_params(r#""name":"echo","name":"other""#).into(), -32600),
        ("name twice, escaped", in_params(r#""name":"echo","n\u0061me":"other""#).into(), -32600),
        // GHSA-4gph-2hhr-5mwg: one reader takes `name`, the server behind it takes `Name`.
        ("the advisory's message", in_params(r#""name":"b__echo","Name":"b__other""#).into(), -32600),
        ("name a number", in_params(r#""name":7"#).into(), -32602),
        ("half a surrogate", in_params(r#""name":"\ud800""#).into(), -32600),
        ("deep", deep.into(), -32600),
        ("many members", many.into(), -32600),
    ];
    let mut world = World::new();
    for (what, body, code) in rows {
        for path in [SINGLE, AGGREGATED] {
            let response = world.check(what, &good(path).body(body.clone()), 400, code);
            assert!(response.json()["id"].is_null() || response.json()["id"] == 1, "{what}");
        }
    }
}

#[test]
fn modern_headers_must_match_the_body() {
    let unknown = call("1", "tools/call", r#""name":"echo","arguments":{},"#).replace(MODERN, "2099-01-01");
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;
    let mut world = World::new();
    for path in [SINGLE, AGGREGATED] {
        let good = || good(path);
        let rows = [
            ("no version", good().without("MCP-Protocol-Version"), -32020),
            ("a Legacy version", good().set("MCP-Protocol-Version", "2025-11-25"), -32020),
            ("two versions", good().with("MCP-Protocol-Version", MODERN), -32020),
            ("no method", good().without("Mcp-Method"), -32020),
            ("another method", good().set("Mcp-Method", "tools/list"), -32020),
            ("a method in capitals", good().set("Mcp-Method", "Tools/Call"), -32020),
            ("two methods", good().with("Mcp-Method", "tools/call"), -32020),
            ("no name", good().without("Mcp-Name"), -32020),
            ("another name", good().set("Mcp-Name", "a__other"), -32020),
            ("two names", good().with("Mcp-Name", "a__echo"), -32020),
            ("a broken name", good().set("Mcp-Name", "=?base64?!!?="), -32020),
            (
                "an unknown version",
                good().set("MCP-Protocol-Version", "2099-01-01").body(unknown.clone()),
                -32022,
            ),
            (
                "an unknown version, header only",
                good().set("MCP-Protocol-Version", "2099-01-01").body(bare),
                -32022,
            ),
            ("no _meta", good().body(bare), -32602),
            (
                "no capabilities",
                good().body(
                    call("1", "tools/call", r#""name":"echo","#)
                        .replace(r#","io.modelcontextprotocol/clientCapabilities":{}"#, ""),
                ),
                -32602,
            ),
        ];
        for (what, request, code) in rows {
            let response = world.check(what, &request, 400, code);
            if code == -32022 {
                let data = &response.json()["error"]["data"];
                assert_eq!(data["supported"][0], MODERN);
                assert_eq!(data["requested"], "2099-01-01");
            }
        }
    }
}

#[test]
fn unknown_names_and_methods_are_errors() {
    let mut world = World::new();
    let session = open_session(&world.gateway, AGGREGATED, None);
    let in_session = |method| legacy(AGGREGATED, &session, "1", method, "");
    world.check("an unknown method", &modern(AGGREGATED, "no/such", ""), 404, -32601);
    world.check("an unknown method in a session", &in_session("no/such"), 200, -32601);
    // Within a session wrong params are an answer, and no matter of the transport.
    for method in ["tools/call", "prompts/get", "resources/read", "completion/complete", "logging/setLevel"] {
        world.check(method, &in_session(method), 200, -32602);
    }
    for tool in ["echo", "a_echo", "a__", "a__nope", "c__echo", "A__echo", "b__a__echo", "__echo", ""] {
        world.check(tool, &modern_call(AGGREGATED, tool, "{}"), 200, -32602);
        world.check(tool, &legacy_call(AGGREGATED, &session, "1", tool, "{}"), 200, -32602);
    }
    world.check("no name", &modern(AGGREGATED, "prompts/get", r#""name":"p","#), 400, -32020);
    world.check(
        "an unknown prompt",
        &modern(AGGREGATED, "prompts/get", r#""name":"p","#).with("Mcp-Name", "p"),
        200,
        -32602,
    );
    let uri = modern(AGGREGATED, "resources/read", r#""uri":"x://y","#).with("Mcp-Name", "x://y");
    world.check("an unknown resource", &uri, 200, -32602);
    world.check("a foreign cursor", &modern(AGGREGATED, "tools/list", r#""cursor":"x","#), 200, -32602);
}

#[test]
fn foreign_methods_and_media_types_are_rejected() {
    let mut world = World::new();
    for path in [SINGLE, AGGREGATED] {
        let good = || good(path);
        let with_head = |method| Request { method: String::from(method), ..good().body("") };
        let rows = [
            ("no Accept", good().without("Accept"), 406),
            ("JSON only", good().set("Accept", "application/json"), 406),
            ("streams only", good().set("Accept", "text/event-stream"), 406),
            ("plain text", good().set("Content-Type", "text/plain"), 415),
            ("no type", good().without("Content-Type"), 415),
            ("packed", good().with("Content-Encoding", "gzip"), 415),
            ("not packed, said so", good().with("Content-Encoding", "identity"), 415),
            ("a foreign Origin", good().with("Origin", "http://evil.example"), 403),
            ("no Origin in words", good().with("Origin", "null"), 403),
            ("a lookalike Origin", good().with("Origin", "http://localhost.evil.example"), 403),
            ("a foreign Host", good().set("Host", "evil.example"), 403),
            ("a lookalike Host", good().set("Host", "127.0.0.1.evil.example"), 403),
            ("a foreign authority", good().path(&format!("http://evil.example{path}")), 403),
            ("a Modern GET", with_head("GET"), 405),
            ("a Modern DELETE", with_head("DELETE"), 405),
            ("PUT", with_head("PUT"), 405),
        ];
        for (what, request, status) in rows {
            world.check(what, &request, status, -32000);
        }
    }
}

#[test]
fn unknown_paths_are_404() {
    let mut world = World::new();
    let long = format!("/mcp/{}", "x".repeat(10 << 10));
    let paths = [
        "/",
        "/mcp//",
        "/mcp/nope",
        "/mcp/a",
        "/mcp/../mcp",
        "/mcp/%2e%2e/mcp",
        "/mcp/.",
        "//mcp",
        "/MCP",
        "/mcp//default",
        "/mcp/default//",
        "/servers//mcp",
        "/servers/nope/mcp",
        "/servers/a/mcp//",
        "/servers/a",
        "/servers/%61/mcp",
        "/servers/../mcp",
        "/servers/a/../b/mcp",
        "/servers/a%2fmcp",
        "/mcp%00",
        "/metamcp//mcp",
        "/metamcp/nope/mcp",
        &long,
    ];
    for path in paths {
        world.check_status(path, &good(SINGLE).path(path), 404);
    }
}

#[test]
fn bodies_over_the_limit_are_413() {
    let mut world = World::new();
    for path in [SINGLE, AGGREGATED] {
        // Refused by its head alone: not a byte of the body is sent.
        let mut client = Client::connect(world.gateway.address);
        client.send(&good(path).body("").with("Content-Length", "65537").bytes());
        let response = client.response();
        assert_eq!((response.status, error(&response)), (413, -32000));
        assert!(client.is_closed(), "the body was still awaited");

        // Endless, and refused when there was enough of it.
        let mut client = Client::connect(world.gateway.address);
        client.send(&good(path).body("").with("Transfer-Encoding", "chunked").bytes());
        // More than the buffers of two sockets hold.
        let piece = crate::support::chunk(&" ".repeat(64 << 10));
        let began = Instant::now();
        let sent = (0..1000).take_while(|_| client.send(&piece)).count();
        assert!(sent < 1000, "an endless body was read on and on");
        assert!(began.elapsed() < PATIENCE, "an endless body was left unread on an open connection");
        world.check_good("bodies over the cap");

        // Cut short by its sender: it is not taken for whole.
        let mut client = Client::connect(world.gateway.address);
        let whole = good(path);
        client.send(&whole.clone().with("Content-Length", (whole.body.len() + 1).to_string()).bytes());
        client.half_close();
        assert!(client.is_closed() || client.response().status == 400);
        world.check_good("a body cut short");
    }
    // One that just fits is no body over the cap.
    let bare = good(SINGLE).body.len();
    let fits = modern_call(SINGLE, "echo", &format!(r#"{{"text":"{}"}}"#, "x".repeat((64 << 10) - bare + 4)));
    assert_eq!(fits.body.len(), 64 << 10);
    assert_eq!(Client::once(world.gateway.address, &fits).status, 200);
}

#[test]
fn an_endless_body_is_413() {
    let world = World::new();
    let mut client = Client::connect(world.gateway.address);
    client.send(&good(SINGLE).body("").with("Transfer-Encoding", "chunked").bytes());
    // One byte over the cap and not one more, so that nothing is left unread when the gateway closes.
    client.send(&crate::support::chunk(&" ".repeat((64 << 10) + 1)));
    let response = client.response();
    assert_eq!((response.status, error(&response)), (413, -32000));
    assert!(world.peer.calls().is_empty());
}

#[test]
fn credentials() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let key = gateway.key.clone().unwrap();
    let (revoked_id, revoked) = gateway.keys().create("revoked");
    let foreign = {
        let other = Setup::new().server("a", peer.address).keys().start();
        other.key.clone().unwrap()
    };
    let bearer = |key: &str| good(SINGLE).with("Authorization", format!("Bearer {key}"));
    let good_call = || assert_eq!(Client::once(gateway.address, &bearer(&key)).status, 200);
    good_call();
    // It works until it is revoked, and then no longer than the poll of the store takes.
    let began = Instant::now();
    while Client::once(gateway.address, &bearer(&revoked)).status == 401 {
        assert!(began.elapsed() < PATIENCE, "a new key was never taken");
    }
    gateway.keys().revoke(&revoked_id);
    let began = Instant::now();
    while Client::once(gateway.address, &bearer(&revoked)).status != 401 {
        assert!(began.elapsed() < PATIENCE, "a revoked key was never refused");
    }
    let mut spoilt = key.clone();
    spoilt.pop();
    let rows = [
        ("none", good(SINGLE)),
        ("a key of another gateway", bearer(&foreign)),
        ("a revoked key", bearer(&revoked)),
        ("a cut key", bearer(&spoilt)),
        ("nothing", bearer("")),
        ("a token of nobody", bearer("e30.e30.e30")),
        ("another scheme", good(SINGLE).with("Authorization", format!("Basic {key}"))),
        ("two that differ", bearer(&key).with("X-API-Key", foreign.as_str())),
        ("in the query", good(&format!("{SINGLE}?api_key={key}"))),
        ("as a cookie", good(SINGLE).with("Cookie", format!("key={key}"))),
    ];
    let refused = modern_call(SINGLE, "echo", r#"{"text":"refused"}"#).body;
    for (what, request) in rows {
        let request = request.body(refused.clone());
        let requests = [
            request.clone(),
            Request { body: vec![], method: "GET".into(), ..request.clone() },
            request.clone().body("{"),
        ];
        for request in requests {
            let response = Client::once(gateway.address, &request);
            assert_eq!((response.status, error(&response)), (401, -32000), "{what}");
            assert!(
                response.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")),
                "{what}"
            );
            for secret in [&key, &foreign, &revoked] {
                assert!(!response.text().contains(secret.as_str()), "{what}");
            }
        }
    }
    // Not counted: the last call with the revoked key may arrive after its refusal.
    let is_refused = |seen: &Seen| seen.text() == "{" || seen.text().contains("refused");
    assert!(!peer.calls().iter().any(is_refused), "a refused request reached the server");
    good_call();
    assert_eq!(Client::once(gateway.address, &good(SINGLE).with("X-API-Key", key.as_str())).status, 200);
    for secret in [&key, &foreign, &revoked] {
        assert!(!gateway.log().contains(secret.as_str()), "a key is in the log");
    }
}

#[test]
fn sessions() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let key = gateway.key.clone().unwrap();
    let (_, stranger) = gateway.keys().create("stranger");
    for (path, elsewhere) in [(AGGREGATED, SINGLE), (SINGLE, AGGREGATED)] {
        let tool = if path == AGGREGATED { "a__echo" } else { "echo" };
        let mine = open_session(&gateway, path, Some(&key));
        let ended = open_session(&gateway, path, Some(&key));
        let request = |path: &str, session: &str, key: &str| {
            legacy_call(path, session, "7", tool, "{}").with("Authorization", format!("Bearer {key}"))
        };
        let bare = |method: &str, path: &str, session: &str, key: &str| {
            let request = request(path, session, key).body("").set("Accept", "text/event-stream");
            Request { method: method.into(), ..request }
        };
        let delete = bare("DELETE", path, &ended, &key);
        assert_eq!(Client::once(gateway.address, &delete).status, 200);
        let good = || assert_eq!(Client::once(gateway.address, &request(path, &mine, &key)).status, 200);
        good();
        let seen = peer.calls().len();
        let unknown = Client::once(gateway.address, &request(path, "none-of-ours", &key));
        assert_eq!((unknown.status, error(&unknown)), (404, -32000));
        let mut spoilt = mine.clone().into_bytes();
        spoilt[20] = if spoilt[20] == b'A' { b'B' } else { b'A' };
        let spoilt = String::from_utf8(spoilt).unwrap();
        let rows = [
            ("foreign", path, &mine, &stranger),
            ("of another endpoint", elsewhere, &mine, &key),
            ("ended", path, &ended, &key),
            ("spoilt", path, &spoilt, &key),
        ];
        for (what, path, session, key) in rows {
            let response = Client::once(gateway.address, &request(path, session, key));
            assert_eq!(response.status, 404, "{what}");
            assert_eq!(response.comparable(), unknown.comparable(), "{what}: told apart from an unknown one");
            for method in ["GET", "DELETE"] {
                let ask = |session: &str, key: &str| {
                    Client::once(gateway.address, &bare(method, path, session, key)).comparable()
                };
                let response = ask(session, key);
                assert_eq!(response.0, 404, "{what} {method}");
                assert_eq!(response, ask("none-of-ours", key), "{what} {method}");
            }
        }
        let wrong_version = request(path, &mine, &key).set("MCP-Protocol-Version", "1999-01-01");
        let response = Client::once(gateway.address, &wrong_version);
        assert_eq!(response.status, 400, "{}", response.text());
        assert_eq!(peer.calls().len(), seen, "a refused call reached the server");
        good();
    }
}

#[test]
fn an_expired_session_is_unknown() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).with("[session]\nlifetime = \"2s\"").start();
    for path in [AGGREGATED, SINGLE] {
        let session = open_session(&gateway, path, None);
        let ping = || Client::once(gateway.address, &legacy(path, &session, "1", "ping", ""));
        assert_eq!(ping().status, 200);
        let began = Instant::now();
        let expired = loop {
            assert!(began.elapsed() < PATIENCE, "the session never expired");
            let response = ping();
            if response.status != 200 {
                break response;
            }
        };
        assert_eq!((expired.status, error(&expired)), (404, -32000));
    }
}

#[test]
fn a_malformed_initialize_is_rejected() {
    let mut world = World::new();
    let rows = [
        r#""params":{}"#,
        r#""params":{"protocolVersion":"2025-11-25"}"#,
        r#""params":{"protocolVersion":"2025-11-25","capabilities":[]}"#,
        r#""params":{"capabilities":{}}"#,
        r#""params":{"protocolVersion":7,"capabilities":{}}"#,
        r#""x":1"#,
    ];
    for path in [SINGLE, AGGREGATED] {
        for params in rows {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize",{params}}}"#);
            let response = world.check(params, &initialize(path).body(body), 400, -32602);
            assert_eq!(response.header("mcp-session-id"), None);
        }
        // One of its names is known; an unknown revision is answered with the latest one.
        let asked = String::from_utf8(initialize(path).body).unwrap().replace("2025-11-25", "1999-01-01");
        let response = Client::once(world.gateway.address, &initialize(path).body(asked));
        assert_eq!(response.json()["result"]["protocolVersion"], "2025-11-25", "{}", response.text());
    }
    let stray = notification(AGGREGATED, "none", "notifications/initialized", "");
    world.check("a notification of nobody's session", &stray, 404, -32000);
}
