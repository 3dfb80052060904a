//! Clients that are there and say nothing: what they cost, and that they are as they were when something is said again.

use std::io::ErrorKind;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::support::{
    Client, Gate, Gateway, PATIENCE, Peer, Request, Setup, Step, chunk, events, initialize, modern,
    modern_call, open_session, result,
};

const AGGREGATED: &str = "/mcp";

/// How many connections of a gateway are parked, as the kernel says: those that are watched for what comes and for the
/// other side's end, and not edge by edge as the runtime watches.
fn parked(gateway: &Gateway) -> usize {
    let folder = fs::read_dir(format!("/proc/{}/fdinfo", gateway.pid())).unwrap();
    let infos = folder.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    infos.map(|info| info.lines().filter(|line| line.contains("events:     2019 ")).count()).sum()
}

/// Waits until so many are.
#[track_caller]
fn wait_parked(gateway: &Gateway, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    // Nothing is heard there; it is where time passes.
    let (_sender, silence) = std::sync::mpsc::channel::<()>();
    while parked(gateway) != count {
        assert!(Instant::now() < deadline, "{} are parked, not {count}", parked(gateway));
        let _ = silence.recv_timeout(Duration::from_millis(20));
    }
}

/// The same in a form that the fast lane does not read.
fn by_hyper(request: Request) -> Request {
    let body = [format!("{:x}\r\n", request.body.len()).as_bytes(), &request.body, b"\r\n0\r\n\r\n"].concat();
    request.with("Transfer-Encoding", "chunked").body(body)
}

fn call(text: &str) -> Request {
    modern_call(AGGREGATED, "a__echo", &format!(r#"{{"text":"{text}"}}"#))
}

fn listen() -> Request {
    modern(AGGREGATED, "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#)
}

#[track_caller]
fn check_call(client: &mut Client, request: &Request, text: &str) {
    let response = client.ask(request);
    assert!(response.status == 200 && response.text().contains(text), "{text}: {}", response.text());
}

#[test]
fn a_parked_connection_behaves_as_before() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(gateway.address)).collect();
    check_call(&mut clients[0], &call("one"), "one");
    check_call(&mut clients[1], &by_hyper(call("two")), "two");
    let get = Request::new("GET", "/health");
    assert_eq!(clients[2].ask(&get).status, 200);
    for round in ["again", "and again"] {
        wait_parked(&gateway, 4);
        let [one, two, three, four] = &mut clients[..] else { panic!("four of them") };
        check_call(one, &by_hyper(call(round)), round);
        // Two requests at once, and the first half of a third.
        let bytes = [call("first").bytes(), by_hyper(call("second")).bytes()].concat();
        let third = call(round).bytes();
        let (half, rest) = third.split_at(third.len() / 2);
        two.send(&[&bytes[..], half].concat());
        assert!(two.response().text().contains("first"));
        assert!(two.response().text().contains("second"));
        assert_eq!(parked(&gateway), 2, "half a request is no rest");
        two.send(rest);
        assert!(two.response().text().contains(round));
        // One byte wakes it.
        let bytes = call("slow").bytes();
        three.send(&bytes[..1]);
        three.send(&bytes[1..]);
        assert!(three.response().text().contains("slow"));
        check_call(four, &call(round), round);
    }
    wait_parked(&gateway, 4);
    clients[0].half_close();
    assert!(clients[0].is_closed(), "half a connection is none");
    drop(clients);
    wait_parked(&gateway, 0);
}

#[test]
fn a_parked_connection_may_begin_with_http2() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    wait_parked(&gateway, 1);
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // The first frame of a server is SETTINGS (RFC 9113, section 3.4).
    let frame = client.first_bytes(9);
    assert_eq!(frame[3], 4, "{frame:?}");
}

#[test]
fn parked_connections_time_out() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let gateway = setup.with("[server]\nidle_timeout = \"10s\"\nheader_timeout = \"2s\"").start();
    let (mut idle, mut slow) = (Client::connect(gateway.address), Client::connect(gateway.address));
    let began = Instant::now();
    check_call(&mut idle, &call("one"), "one");
    wait_parked(&gateway, 2);
    // Half a head, and then nothing.
    slow.send(&call("slow").bytes()[..40]);
    assert!(slow.is_closed(), "a slow head");
    assert!(idle.is_closed(), "an idle connection");
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn parked_connections_close_at_shutdown() {
    let peer = Peer::script([]);
    let mut gateway = Gateway::open(&[("a", peer.address)]);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(gateway.address)).collect();
    let mut listening = Client::connect(gateway.address);
    listening.send(&listen().bytes());
    assert_eq!(listening.head().status, 200);
    assert!(listening.event().is_some(), "the acknowledgement");
    wait_parked(&gateway, 9);
    gateway.terminate();
    assert!(listening.event().is_some_and(|last| last["result"]["resultType"] == "complete"));
    assert!(listening.event().is_none());
    for client in &mut clients {
        assert!(client.is_closed());
    }
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn requests_received_before_the_signal_are_answered() {
    let peer = Peer::script([]);
    let mut gateway = Gateway::open(&[("a", peer.address)]);
    let requests = [call("echoed"), by_hyper(call("echoed"))];
    let open = || -> Vec<_> {
        let clients = requests.iter().cycle().take(2 * 16).map(|request| {
            let mut client = Client::connect(gateway.address);
            check_call(&mut client, request, "echoed");
            (client, request.bytes())
        });
        clients.collect()
    };
    let mut clients = open();
    wait_parked(&gateway, clients.len());
    clients.extend(open());
    // What comes now, and the signal, it finds together.
    gateway.signal("-STOP");
    for (client, request) in &mut clients {
        client.send(request);
    }
    gateway.terminate();
    gateway.signal("-CONT");
    for (number, (mut client, _)) in clients.into_iter().enumerate() {
        let response = client.response();
        assert!(
            response.status == 200 && response.text().contains("echoed"),
            "{number}: {}",
            response.text()
        );
    }
    assert_eq!(gateway.ended().code(), Some(0));
}

/// A call whose answer is a stream that has said something, and then nothing for long.
fn silent_call(gateway: &Gateway, peer: &Peer, script: Vec<Step>) -> Client {
    peer.push([script]);
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call("/servers/a/mcp", "echo", "{}").bytes());
    assert_eq!(client.head().status, 200);
    assert!(client.chunk().unwrap().is_some());
    client
}

#[test]
fn silent_streams_are_answered_during_drain() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let mut gateway = setup.with("[server]\ndrain_deadline = \"1m\"").start();
    let gate = Gate::default();
    let script = || {
        let message = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
        let last = format!("data: {}\n\n", result("1", "at last"));
        let wait = Step::Wait(gate.clone());
        vec![
            Step::Send(events()),
            Step::Send(chunk(message)),
            wait,
            Step::Send(chunk(&last)),
            Step::Send(chunk("")),
        ]
    };
    let mut idle = Client::connect(gateway.address);
    let mut calls = vec![silent_call(&gateway, &peer, script())];
    wait_parked(&gateway, 2);
    calls.push(silent_call(&gateway, &peer, script()));
    check_call(&mut idle, &call("idle"), "idle");
    gateway.terminate();
    assert!(idle.is_closed(), "an idle connection");
    wait_parked(&gateway, 0);
    gate.open();
    for mut client in calls {
        let mut answer = client.event();
        while answer.as_ref().is_some_and(|message| message["id"].is_null()) {
            answer = client.event();
        }
        assert!(answer.is_some_and(|answer| answer.to_string().contains("at last")));
        assert!(client.event().is_none() && client.is_closed());
    }
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_stream_that_breaks_while_parked_ends_visibly() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for is_parked in [false, true] {
        for end in [Step::Close, Step::Reset] {
            let gate = Gate::default();
            // Too long to be held back until it is whole, so that nothing can be said behind it.
            let torn = format!("data: {}", "x".repeat(100 << 10));
            let wait = Step::Wait(gate.clone());
            let script = vec![Step::Send(events()), Step::Send(chunk(&torn)), wait, end.clone()];
            let mut client = silent_call(&gateway, &peer, script);
            if is_parked {
                wait_parked(&gateway, 1);
            }
            gate.open();
            let end = loop {
                match client.chunk() {
                    Ok(Some(_)) => {}
                    end => break end,
                }
            };
            let error = end.err().map(|error| error.kind());
            assert_eq!(error, Some(ErrorKind::UnexpectedEof), "parked: {is_parked}");
        }
    }
}

#[test]
fn a_parked_stream_still_sends_events() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address).keys();
    let gateway = setup.with("[server]\nkeep_alive = \"4s\"").start();
    let (id, key) = gateway.keys().create("streams");
    let with_key = |request: Request| request.with("Authorization", format!("Bearer {key}"));
    let get = |revision: &str| {
        let session = open_session(&gateway, AGGREGATED, Some(&key));
        let get = Request::new("GET", AGGREGATED).with("Accept", "text/event-stream");
        with_key(get.with("Mcp-Session-Id", session).with("MCP-Protocol-Version", revision))
    };
    let requests = [with_key(listen()), by_hyper(with_key(listen())), get("2025-11-25"), get("2024-11-05")];
    let mut streams: Vec<_> = requests
        .iter()
        .map(|request| {
            let mut client = Client::connect(gateway.address);
            client.send(&request.bytes());
            assert_eq!(client.head().status, 200);
            assert!(client.chunk().unwrap().is_some());
            client
        })
        .collect();
    for _ in 0..2 {
        wait_parked(&gateway, streams.len());
        for stream in &mut streams {
            let comment = stream.chunk().unwrap().unwrap();
            assert!(comment.starts_with(b":"), "{}", comment.escape_ascii());
        }
        assert_eq!(parked(&gateway), streams.len(), "a comment takes no task");
    }
    // What the client says meanwhile waits for the end of the stream.
    streams[0].send(&with_key(call("behind")).bytes());
    drop(streams.pop());
    wait_parked(&gateway, 2);
    gateway.keys().revoke(&id);
    for stream in &mut streams {
        while stream.event().is_some() {}
    }
    assert_eq!(streams[0].head().status, 401);
}

/// So many sessions at once take some MiB.
const SESSIONS: usize = 5000;

#[test]
fn memory_returns_to_the_system() {
    let peer = Peer::script([]);
    let without = Setup::new().workers(1).server("b", peer.address);
    let with = || Setup::new().workers(1).server("b", peer.address).server("a", peer.address);
    let gateway = with().start();
    let mut client = Client::connect(gateway.address);
    // They are over all at once, and not by what the worker does itself.
    let mut come_and_go = |count: usize| {
        for _ in 0..count {
            assert_eq!(client.ask(&initialize("/servers/a/mcp")).status, 200);
        }
        let highest = gateway.resident_bytes();
        gateway.reload(&without, "configuration reloaded");
        highest
    };
    come_and_go(SESSIONS / 100);
    gateway.reload(&with(), "configuration reloaded");
    let before = gateway.resident_bytes();
    let taken = come_and_go(SESSIONS) - before;
    assert!(taken > SESSIONS * 500, "{taken} bytes is nothing that could be given back");
    // Nobody asks anything of it, which would have the allocator come by.
    let deadline = Instant::now() + PATIENCE;
    while gateway.resident_bytes() > before + taken / 4 {
        assert!(Instant::now() < deadline, "{} of {taken} bytes are kept", gateway.resident_bytes() - before);
        thread::park_timeout(Duration::from_millis(200));
    }
}
