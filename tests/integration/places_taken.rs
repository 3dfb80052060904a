//! Servers and keys whose places for calls are all taken: what ends a call, or answers what it asks, still passes.

use crate::support::{
    Client, Form, Gate, Gateway, Peer, Request, Setup, Step, Stream, assert_unanswered, chunk, events,
    legacy_call, notification, open_session, result,
};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

/// As many calls as have a place.
const PLACES: usize = 2;

/// How a client sends a message that is no request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Post,
    Batch,
}

/// The queue is for calls that begin while the gateway reads the lists of the server.
fn gateway(peer: &Peer) -> Gateway {
    let places = format!("in_flight_max = {PLACES}\nqueue_max = 8\nqueue_timeout = \"1s\"");
    Setup::new().server_with("a", peer.address, &places).start()
}

/// A call asks its client under this id, and goes on when the gate is open.
fn asking(id: &str, gate: &Gate) -> Vec<Step> {
    let question = format!(
        r#"{{"jsonrpc":"2.0","id":"{id}","method":"elicitation/create","params":{{"message":"m","requestedSchema":{{"type":"object","properties":{{}}}}}}}}"#
    );
    let begin = [events(), chunk(&format!("data: {question}\n\n"))].concat();
    let end = [chunk(&format!("data: {}\n\n", result("@id", "answered"))), chunk("")].concat();
    vec![Step::Send(begin), Step::Wait(gate.clone()), Step::Send(end)]
}

/// Opens a session of the revision that has batches.
fn open(gateway: &Gateway, path: &str) -> String {
    let params = r#"{"protocolVersion":"2025-03-26","capabilities":{"elicitation":{}},"clientInfo":{"name":"test","version":"1"}}"#;
    let body = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#);
    let opened = Client::once(gateway.address, &Request::post(path, body));
    let session = opened.header("mcp-session-id").expect("a session id").to_owned();
    let told = notification(path, &session, "notifications/initialized", "");
    assert_eq!(Client::once(gateway.address, &told).status, 202);
    session
}

/// Sends a message that is no request in a session.
fn send(gateway: &Gateway, way: Way, path: &str, session: &str, message: &str) {
    let body = if way == Way::Batch { format!("[{message}]") } else { message.to_owned() };
    let request = Request::post(path, body).with("Mcp-Session-Id", session);
    let response = Client::once(gateway.address, &request);
    assert_eq!(response.status, 202, "{way:?} {path}: {}", response.text());
}

/// The text of a message's member.
fn member<'a>(event: &'a serde_json::Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_else(|| panic!("no {name} in {event}"))
}

#[test]
fn what_a_call_asks_is_answered_when_all_places_of_its_server_are_taken() {
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        for way in [Way::Post, Way::Batch] {
            let peer = Peer::script([]);
            let gateway = gateway(&peer);
            let session = open(&gateway, path);
            let gate = Gate::default();
            let mut clients = Vec::new();
            for number in 0..PLACES {
                peer.push([asking(&format!("q{number}"), &gate)]);
                let mut client = Client::connect(gateway.address);
                let id = (200 + number).to_string();
                client.send(&legacy_call(path, &session, &id, tool, "{}").bytes());
                client.head();
                let question = client.event().expect("a question");
                clients.push((client, member(&question, "id").to_owned()));
            }
            for (_, id) in &clients {
                let answer = format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{{"action":"decline"}}}}"#);
                send(&gateway, way, path, &session, &answer);
            }
            let is_answer =
                |text: &str, number| text.contains("decline") && text.contains(&format!("\"q{number}\""));
            for number in 0..PLACES {
                let reached = peer.all().iter().any(|seen| is_answer(&seen.text(), number));
                assert!(reached, "{way:?} {path}: the answer did not reach the server");
            }
            gate.open();
        }
    }
}

#[test]
fn calls_are_cancelled_when_all_places_of_their_server_are_taken() {
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        for way in [Way::Post, Way::Batch] {
            let peer = Peer::script([]);
            let gateway = gateway(&peer);
            let session = open(&gateway, path);
            let gate = Gate::default();
            let mut clients = Vec::new();
            for number in 0..PLACES {
                peer.push([vec![Step::Wait(gate.clone()), Step::Close]]);
                let mut client = Client::connect(gateway.address);
                let id = (200 + number).to_string();
                client.send(&legacy_call(path, &session, &id, tool, "{}").bytes());
                peer.wait_calls(number + 1);
                clients.push(client);
            }
            for number in 0..PLACES {
                let id = 200 + number;
                let cancelled = format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
                );
                send(&gateway, way, path, &session, &cancelled);
            }
            assert_eq!(peer.count("notifications/cancelled"), PLACES, "{way:?} {path}");
            gate.open();
            for client in &mut clients {
                assert_unanswered(&client.response());
            }
        }
    }
}

#[test]
fn framed_calls_are_cancelled_when_all_places_of_their_server_are_taken() {
    for (path, tool) in [("/api/v1/mcp/stream/servers/a", "echo"), (Stream::PATH, "a__echo")] {
        let peer = Peer::script([]);
        let gateway = gateway(&peer);
        let mut stream = Stream::open(&gateway, path, Form::Lines);
        stream.initialize("{}");
        let gate = Gate::default();
        for number in 0..PLACES {
            peer.push([vec![Step::Wait(gate.clone()), Step::Close]]);
            let id = 200 + number;
            stream.send(&[&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
            )]);
            peer.wait_calls(number + 1);
        }
        for number in 0..PLACES {
            let id = 200 + number;
            stream.send(&[&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            )]);
        }
        peer.wait_until("the cancellations", |peer| peer.count("notifications/cancelled") == PLACES);
        gate.open();
    }
}

#[test]
fn a_key_with_all_its_calls_in_flight_cancels_one() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).with("[limits]\nkey_in_flight_max = 1\n").start();
    let session = open_session(&gateway, SINGLE, None);
    let gate = Gate::default();
    peer.push([vec![Step::Wait(gate.clone()), Step::Close]]);
    let call = |id| legacy_call(SINGLE, &session, id, "echo", "{}");
    let mut client = Client::connect(gateway.address);
    client.send(&call("1").bytes());
    peer.wait_calls(1);
    let refused = Client::once(gateway.address, &call("2"));
    assert_eq!(refused.status, 429, "{}", refused.text());
    let cancelled = notification(SINGLE, &session, "notifications/cancelled", r#""requestId":1"#);
    let told = Client::once(gateway.address, &cancelled);
    assert_eq!(told.status, 202, "{}", told.text());
    assert_eq!(peer.count("notifications/cancelled"), 1);
    gate.open();
    assert_unanswered(&client.response());
}

#[test]
fn a_session_ends_when_all_places_are_taken() {
    for limits in ["[limits]\nkey_in_flight_max = 2\n", ""] {
        let peer = Peer::script([]);
        let places = format!("in_flight_max = {PLACES}\nqueue_max = 8\nqueue_timeout = \"1s\"");
        let gateway = Setup::new().server_with("a", peer.address, &places).with(limits).start();
        let [session, other] = [(); 2].map(|()| open_session(&gateway, SINGLE, None));
        let call = |session: &str, id: usize| legacy_call(SINGLE, session, &id.to_string(), "echo", "{}");
        // Opens the session at the server.
        assert_eq!(Client::once(gateway.address, &call(&other, 1)).status, 200);
        let gate = Gate::default();
        let mut clients = Vec::new();
        for number in 0..PLACES {
            peer.push([vec![Step::Wait(gate.clone()), Step::Close]]);
            let mut client = Client::connect(gateway.address);
            client.send(&call(&session, 2 + number).bytes());
            peer.wait_calls(2 + number);
            clients.push(client);
        }
        let end = Request::new("DELETE", SINGLE).with("Mcp-Session-Id", &*other);
        let ended = Client::once(gateway.address, &end);
        assert_eq!(ended.status, 200, "{limits}: {}", ended.text());
        peer.wait_until("the end of the session", |peer| {
            peer.all().iter().any(|seen| seen.head.starts_with("DELETE "))
        });
        gate.open();
    }
}
