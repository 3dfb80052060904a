//! What a session may do besides single calls, and what ends it or its streams.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Setup, Step, answer, chunk, clear_environment, error, events,
    initialize, legacy, legacy_call, modern, notification, open_session, result,
};
use metamcp_store::store::{Grants, Rate};

const AGGREGATED: &str = "/mcp";

/// The demonstration server, on a thread of this process.
fn demo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || metamcp_demo::serve(listener));
    address
}

fn two_demos() -> Gateway {
    Gateway::open(&[("a", demo()), ("b", demo())])
}

/// A session of the revision that has batches.
fn open_march(gateway: &Gateway) -> String {
    let request = initialize(AGGREGATED);
    let body = String::from_utf8(request.body.clone()).unwrap().replace("2025-11-25", "2025-03-26");
    let opened = Client::once(gateway.address, &request.body(body));
    opened.header("mcp-session-id").unwrap().to_owned()
}

#[track_caller]
fn check_batch(session: &str, gateway: &Gateway, batch: &str, status: u16, expected: &[&str]) {
    let request = Request::post(AGGREGATED, batch).with("Mcp-Session-Id", session);
    let response = Client::once(gateway.address, &request);
    assert_eq!(response.status, status, "{}", response.text());
    let events = if expected.is_empty() { Vec::new() } else { response.events() };
    let answers: Vec<String> =
        events.iter().filter(|event| !event["id"].is_null()).map(|event| event["id"].to_string()).collect();
    assert_eq!(answers, expected, "{}", response.text());
}

#[test]
fn batches_are_accepted_in_2025_03_26_only() {
    let gateway = two_demos();
    let session = open_march(&gateway);
    let ping = |id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    let echo = r#"{"jsonrpc":"2.0","id":"e","method":"tools/call","params":{"name":"a__echo","arguments":{"text":"x"}}}"#;
    let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let counted = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"b__countdown","arguments":{"steps":2,"delay_ms":1},"_meta":{"progressToken":1}}}"#;
    check_batch(
        &session,
        &gateway,
        &format!("[{},{echo},{told},{}]", ping(1), ping(2)),
        200,
        &["1", "\"e\"", "2"],
    );
    check_batch(&session, &gateway, &format!(" [{counted},{}]", ping(3)), 200, &["9", "3"]);
    check_batch(&session, &gateway, &format!("[{told},{told}]"), 202, &[]);
    // One that cannot be read spoils all, before any is run.
    check_batch(&session, &gateway, &format!("[{},7]", ping(1)), 400, &[]);
    check_batch(&session, &gateway, "[]", 400, &[]);
    // Other revisions have none.
    let newer = open_session(&gateway, AGGREGATED, None);
    check_batch(&newer, &gateway, &format!("[{}]", ping(1)), 400, &[]);
}

/// A batch counts as its messages do, one by one.
#[test]
fn a_batch_is_as_many_requests_as_it_has_messages() {
    let gateway = Setup::new().server("a", demo()).keys().start();
    let check = |grants: Grants, count: usize, status: u16| {
        let key = gateway.keys().grant("batch", grants).1;
        let with_key = |request: Request| request.with("Authorization", format!("Bearer {key}"));
        let request = with_key(initialize(AGGREGATED));
        let body = String::from_utf8(request.body.clone()).unwrap().replace("2025-11-25", "2025-03-26");
        let opened = Client::once(gateway.address, &request.body(body));
        let session = opened.header("mcp-session-id").unwrap();
        let pings: Vec<_> =
            (0..count).map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)).collect();
        let batch =
            Request::post(AGGREGATED, format!("[{}]", pings.join(","))).with("Mcp-Session-Id", session);
        let response = Client::once(gateway.address, &with_key(batch));
        assert_eq!(response.status, status, "{count}: {}", response.text());
        if status == 200 {
            assert_eq!(response.events().len(), count);
        }
    };
    let at_once = |max| Grants { concurrency: Some(max), ..Grants::everything() };
    check(at_once(4), 4, 200);
    check(at_once(4), 5, 400);
    check(at_once(1), 1, 200);
    let of_late = |burst| Grants { rate: Some(Rate { per_second: 1, burst }), ..Grants::everything() };
    check(of_late(21), 20, 200);
    // More than its limits ever allow at once, so that another try would not help either.
    check(of_late(21), 22, 400);
}

#[test]
fn an_unlisted_resource_is_looked_up_at_every_server() {
    let gateway = two_demos();
    let session = open_session(&gateway, AGGREGATED, None);
    for uri in ["nobody://has/this", "demo://readme"] {
        let params = format!(r#""uri":"{uri}""#);
        let old = legacy(AGGREGATED, &session, "1", "resources/read", &params);
        let new = modern(AGGREGATED, "resources/read", &format!("{params},")).with("Mcp-Name", uri);
        for request in [old, new] {
            let response = Client::once(gateway.address, &request);
            assert_eq!(response.status, 200, "{}", response.text());
            if uri.starts_with("demo") {
                assert!(response.text().contains("\"contents\""), "{}", response.text());
            } else {
                assert_eq!(error(&response), -32602);
                assert!(response.text().contains(uri), "the error names the URI");
            }
        }
    }
}

/// A client that reads nothing of what one server floods it with, while the other thinks about its event stream.
#[test]
fn a_client_that_does_not_read_holds_no_connection_that_others_could_use() {
    for resume in ["true", "false"] {
        let (slow, flooding, thinks) = (Peer::script([]), Peer::script([]), Gate::default());
        let refusal = Step::Send(answer("405 Method Not Allowed", ""));
        slow.push_streams_of_clients([vec![Step::Wait(thinks.clone()), refusal]]);
        let text = "x".repeat(32 << 10);
        let event = chunk(&format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"{text}\"}}\n\n"));
        flooding.push_streams_of_clients([vec![Step::Send(events()), Step::Flood(event, 8192)]]);
        let setup = Setup::new().server("a", slow.address).server("b", flooding.address);
        let gateway = setup.workers(1).with(&format!("[session]\nresume = {resume}")).start();
        let session = open_session(&gateway, AGGREGATED, None);
        let get = Request::new("GET", AGGREGATED)
            .with("Accept", "text/event-stream")
            .with("Mcp-Session-Id", &session);
        let mut client = Client::connect(gateway.address);
        client.send(&get.bytes());
        assert_eq!(client.head().status, 200);
        for tool in ["a__echo", "b__echo"] {
            let call = legacy_call(AGGREGATED, &session, "1", tool, "{}");
            assert_eq!(Client::once(gateway.address, &call).status, 200);
        }
        flooding.wait_quiet();
        let known = slow.calls()[0].header("mcp-session-id").map(str::to_owned);
        let asked = slow
            .all()
            .into_iter()
            .find(|seen| seen.head.starts_with("GET ") && seen.header("mcp-session-id") == known.as_deref());
        let asked = asked.expect("its stream is asked for").connection;
        thinks.open();
        // Calls that are not answered take all other connections.
        let (under_way, held) = (RefCell::new(Vec::new()), Gate::default());
        slow.push(vec![vec![Step::Wait(held.clone()), Step::Answer(result("@id", "late"))]; 256]);
        slow.wait_until("the connection that the refusal came on to be used again", |slow| {
            let mut client = Client::connect(gateway.address);
            let count = under_way.borrow().len() + 2;
            client.send(&legacy_call(AGGREGATED, &session, &count.to_string(), "a__echo", "{}").bytes());
            under_way.borrow_mut().push(client);
            slow.wait_calls(count);
            slow.calls()[count - 1].connection == asked
        });
        held.open();
        for mut client in under_way.into_inner() {
            assert_eq!(client.response().status, 200, "resume: {resume}");
        }
    }
}

#[test]
fn a_revoked_key_ends_its_streams() {
    let gateway = Setup::new().server("a", demo()).keys().start();
    let keys = gateway.keys();
    let (id, key) = keys.create("to be taken back");
    let with_key = |request: Request| request.with("Authorization", format!("Bearer {key}"));
    let session = open_session(&gateway, AGGREGATED, Some(&key));
    let get =
        Request::new("GET", AGGREGATED).with("Accept", "text/event-stream").with("Mcp-Session-Id", &session);
    let listen = modern(AGGREGATED, "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#);
    let mut streams: Vec<Client> = [get, listen]
        .into_iter()
        .map(|request| {
            let mut client = Client::connect(gateway.address);
            client.send(&with_key(request).bytes());
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    let mut busy = Client::connect(gateway.address);
    let ping = with_key(legacy(AGGREGATED, &session, "1", "ping", ""));
    assert_eq!(busy.ask(&ping).status, 200);

    keys.revoke(&id);
    let revoked = Instant::now();
    for client in &mut streams {
        while client.event().is_some() {}
    }
    assert!(revoked.elapsed() < Duration::from_secs(3), "streams went on for {:?}", revoked.elapsed());
    // Also on a connection on which the key was just good.
    assert_eq!(busy.ask(&ping).status, 401);
}

#[test]
fn a_slow_request_head_times_out_and_an_idle_client_does_not() {
    let gateway = Setup::new()
        .server("a", demo())
        .with("[server]\nheader_timeout = \"1s\"\nidle_timeout = \"30s\"")
        .start();
    let mut slow = Client::connect(gateway.address);
    slow.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
    let mut idle = Client::connect(gateway.address);
    let session = open_session(&gateway, AGGREGATED, None);
    let ping = legacy(AGGREGATED, &session, "1", "ping", "");
    assert_eq!(idle.ask(&ping).status, 200);
    let begun = Instant::now();
    assert!(slow.is_closed());
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    assert_eq!(idle.ask(&ping).status, 200, "a connection that says nothing between requests is kept");
}

#[test]
fn a_port_in_use_is_reported() {
    let gateway = Gateway::open(&[("a", demo())]);
    let port = gateway.address.port().to_string();
    let second = clear_environment(&mut Command::new(env!("CARGO_BIN_EXE_metamcp")))
        .current_dir(gateway.path())
        .args(["--port", &port, "--data-dir", "other", "--no-auth"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another program") && said.contains("--port"), "{said}");
}

#[test]
fn a_second_stream_replaces_the_first() {
    let gateway = two_demos();
    let session = open_session(&gateway, AGGREGATED, None);
    let get =
        Request::new("GET", AGGREGATED).with("Accept", "text/event-stream").with("Mcp-Session-Id", &session);
    let mut first = Client::connect(gateway.address);
    first.send(&get.bytes());
    assert_eq!(first.head().status, 200);
    let mut second = Client::connect(gateway.address);
    second.send(&get.bytes());
    assert_eq!(second.head().status, 200);
    while first.event().is_some() {}
    // Ended by the client, the session takes the second with it, and is unknown.
    let end = Request::new("DELETE", AGGREGATED).with("Mcp-Session-Id", &session);
    assert_eq!(Client::once(gateway.address, &end).status, 200);
    while second.event().is_some() {}
    let late = notification(AGGREGATED, &session, "notifications/initialized", "");
    assert_eq!(Client::once(gateway.address, &late).status, 404);
}

/// What one request proved says nothing about the next one on the connection.
#[test]
fn each_request_needs_its_own_credential() {
    let gateway = Setup::new().server("a", demo()).keys().start();
    let (_, key) = gateway.keys().create("good");
    let ping = initialize(AGGREGATED);
    let bearer = |value: &str| ping.clone().with("Authorization", value);
    let rows: [(Request, u16); 9] = [
        (ping.clone().with("X-API-Key", &key), 200),
        (ping.clone(), 401),
        (bearer("Basic x").with("X-API-Key", &key), 200),
        (bearer("Basic x"), 401),
        (bearer(&format!("Bearer {key}")), 200),
        (bearer(&format!("Bearer {key}x")), 401),
        (bearer(&format!("Bearer {key}")).with("Authorization", "Bearer other"), 401),
        (bearer(&format!("Bearer {key}")).with("X-API-Key", "mcp_other"), 401),
        (bearer(&format!("bearer {key}")), 200),
    ];
    let mut client = Client::connect(gateway.address);
    for (row, (request, expected)) in rows.iter().enumerate() {
        assert_eq!(client.ask(request).status, *expected, "row {row}");
    }
}

/// Who has no key cannot make the gateway hold what it sends.
#[test]
fn bodies_are_rejected_before_they_are_read() {
    let gateway = Setup::new().server("a", demo()).keys().start();
    for (path, length, expected) in
        [("/nothing", "1000000", 404), ("/health", "1000000", 405), ("/api/v1/auth/token", "5000", 413)]
    {
        let mut client = Client::connect(gateway.address);
        client.send(&Request::post(path, "").set("Content-Length", length).bytes());
        assert_eq!(client.head().status, expected, "{path}: answered before a byte of the body");
    }
}

#[test]
fn the_first_key_survives_a_failed_start() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gateway = Gateway::open(&[("a", demo())]);
    let start = |port: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metamcp"));
        clear_environment(&mut command).current_dir(gateway.path()).args([
            "--port",
            port,
            "--data-dir",
            "fresh",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut failed = start(&taken.local_addr().unwrap().port().to_string());
    assert!(!failed.wait().unwrap().success());
    let mut second = start("0");
    let mut first_line = String::new();
    let mut out = std::io::BufReader::new(second.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut first_line).unwrap();
    let key = std::fs::read_to_string(gateway.path().join("fresh/first-key")).unwrap();
    assert!(key.starts_with("mcp_"), "{first_line}");
    second.kill().unwrap();
    second.wait().unwrap();
}
