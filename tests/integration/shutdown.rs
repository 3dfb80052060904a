//! SIGTERM: what is under way ends well, and a session goes on after a restart.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Setup, Step, answer, chunk, events, legacy_call, modern,
    modern_call, open_session, result, until,
};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

fn stream(path: &str, session: &str) -> Request {
    Request::new("GET", path).with("Accept", "text/event-stream").with("Mcp-Session-Id", session)
}

#[test]
fn streams_end_and_calls_are_finished() {
    let peer = Peer::script([]);
    let mut gateway = Gateway::open(&[("a", peer.address)]);
    // Long streams of the gateway's own, in both eras.
    let mut streams = Vec::new();
    for path in [SINGLE, AGGREGATED] {
        let session = open_session(&gateway, path, None);
        let mut client = Client::connect(gateway.address);
        client.send(&stream(path, &session).bytes());
        // A single server without such a stream may end it at once.
        assert_eq!(client.head().status, 200);
        streams.push(client);
    }
    let listen = modern(AGGREGATED, "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#);
    let mut listening = Client::connect(gateway.address);
    listening.send(&listen.bytes());
    assert_eq!(listening.head().status, 200);
    assert!(listening.event().is_some(), "the acknowledgement");
    // Calls under way: one that has not begun to answer, one in the midst of its stream.
    let gate = Gate::default();
    peer.push([
        vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))],
        vec![
            Step::Send(events()),
            Step::Send(chunk(
                "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n",
            )),
            Step::Wait(gate.clone()),
            Step::Send(chunk(&format!("data: {}\n\n", result("1", "later")))),
            Step::Send(chunk("")),
        ],
    ]);
    let mut calls: Vec<Client> = Vec::new();
    for count in 1..=2 {
        let mut client = Client::connect(gateway.address);
        client.send(&modern_call(SINGLE, "echo", "{}").bytes());
        peer.wait_calls(count);
        calls.push(client);
    }
    let mut idle = Client::connect(gateway.address);
    assert_eq!(idle.ask(&modern_call(SINGLE, "echo", "{}")).status, 200);

    gateway.terminate();
    for client in &mut streams {
        while client.event().is_some() {}
    }
    while listening.event().is_some() {}
    assert!(idle.is_closed(), "an idle connection was kept");
    gate.open();
    assert!(calls[0].response().text().contains("late"));
    let streamed = calls[1].response();
    assert!(streamed.whole && streamed.text().contains("later"), "{}", streamed.text());
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(std::net::TcpStream::connect(gateway.address).is_err(), "it still listens");
}

#[test]
fn calls_in_flight_are_cut_at_the_drain_deadline() {
    let peer = Peer::script([vec![Step::Hold]]);
    let setup = Setup::new().server("a", peer.address);
    let mut gateway = setup.with("[server]\ndrain_deadline = \"1s\"").start();
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call(SINGLE, "echo", "{}").bytes());
    peer.wait_calls(1);
    let began = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.ended().code(), Some(0));
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert!(client.is_closed());
}

#[test]
fn a_second_signal_ends_at_once() {
    let peer = Peer::script([vec![Step::Hold]]);
    let setup = Setup::new().server("a", peer.address);
    let mut gateway = setup.with("[server]\ndrain_deadline = \"60s\"").start();
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call(SINGLE, "echo", "{}").bytes());
    peer.wait_calls(1);
    let mut idle = Client::connect(gateway.address);
    assert_eq!(idle.ask(&modern_call(SINGLE, "echo", "{}")).status, 200);
    gateway.terminate();
    // The first signal was heard when the idle connection closes.
    assert!(idle.is_closed());
    until("it stops at once", || {
        gateway.terminate();
        gateway.log().contains("second signal")
    });
    assert_eq!(gateway.ended().code(), Some(0));
}

/// Sent to the process and to its group, a signal arrives twice, and means the same.
#[test]
fn a_signal_that_arrives_twice_is_one() {
    let gate = Gate::default();
    let late = answer("200 OK", &result("1", "late"));
    let peer = Peer::script([vec![Step::Wait(gate.clone()), Step::Send(late)]]);
    let mut gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call(SINGLE, "echo", "{}").bytes());
    peer.wait_calls(1);
    let twice = format!("kill -TERM {pid}; sleep 0.01; kill -TERM {pid}", pid = gateway.pid());
    assert!(Command::new("sh").args(["-c", &twice]).status().unwrap().success());
    let starts = || std::net::TcpStream::connect(gateway.address).is_err();
    until("it drains", starts);
    gate.open();
    assert!(client.response().text().contains("late"), "{}", gateway.log());
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(!gateway.log().contains("second signal"), "{}", gateway.log());
}

#[test]
fn a_session_continues_after_a_restart() {
    let peer = Peer::script([]);
    // Otherwise the gateway may find out that the server speaks the Modern era too, which has no `initialize`.
    let gateway = Setup::new().server_with("a", peer.address, "era = \"legacy\"").keys().start();
    let key = gateway.key.clone().unwrap();
    let (_, stranger) = gateway.keys().create("stranger");
    let sessions = [SINGLE, AGGREGATED].map(|path| (path, open_session(&gateway, path, Some(&key))));
    let call = |gateway: &Gateway, path: &str, session: &str, key: &str| {
        let tool = if path == AGGREGATED { "a__echo" } else { "echo" };
        let request = legacy_call(path, session, "1", tool, r#"{"text":"still here"}"#);
        Client::once(gateway.address, &request.with("Authorization", format!("Bearer {key}")))
    };
    for (path, session) in &sessions {
        assert_eq!(call(&gateway, path, session, &key).status, 200);
    }
    let gateway = gateway.restart();
    for (path, session) in &sessions {
        let opened = peer.count("initialize");
        let response = call(&gateway, path, session, &key);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert!(response.text().contains("still here"), "{path}: {}", response.text());
        assert!(peer.count("initialize") > opened, "{path}: the server's own session cannot have lasted");
        assert_eq!(call(&gateway, path, session, &stranger).status, 404, "{path}");
        assert_eq!(call(&gateway, path, session, &key).status, 200, "{path}");
    }
}
