//! Sessions that their clients end while calls are in flight, and calls that their clients cancel: the client gets an error,
//! the server is told, and what a call held is free.

use std::time::{Duration, Instant};

use crate::support::{
    Client, Gateway, Peer, Request, Setup, Step, answer, chunk, events, legacy_call, notification,
    open_session,
};

const PATHS: [(&str, &str); 2] = [("/servers/a/mcp", "echo"), ("/mcp", "a__echo")];

/// Within which the place of a call is free.
const SOON: Duration = Duration::from_secs(2);

const EVENT: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n";

/// The server has a place for one call.
fn gateway(peer: &Peer) -> Gateway {
    Setup::new().server_with("a", peer.address, "in_flight_max = 1\nqueue_timeout = \"1500ms\"").start()
}

/// Waits until the server has a place for a call again.
#[track_caller]
fn await_place(gateway: &Gateway, (path, tool): (&str, &str), since: Instant) {
    let session = open_session(gateway, path, None);
    loop {
        let response = Client::once(gateway.address, &legacy_call(path, &session, "1", tool, "{}"));
        if response.text().contains("\"result\"") {
            break;
        }
        assert!(since.elapsed() < SOON, "{path}: {}", response.text());
    }
}

#[test]
fn calls_end_with_their_session() {
    let begun = answer("200 OK", &"x".repeat(200_000));
    for way in PATHS {
        for (what, script) in [
            ("no head", vec![Step::Hold]),
            ("an event", vec![Step::Send(events()), Step::Send(chunk(EVENT)), Step::Hold]),
            ("a part of a body", vec![Step::Send(begun[..100_000].to_vec()), Step::Hold]),
        ] {
            let peer = Peer::script([script]);
            let gateway = gateway(&peer);
            let session = open_session(&gateway, way.0, None);
            let mut client = Client::connect(gateway.address);
            client.send(&legacy_call(way.0, &session, "\"a\"", way.1, "{}").bytes());
            peer.wait_calls(1);
            // What the server sends has reached the client.
            peer.wait_quiet();
            let end = Request::new("DELETE", way.0).with("Mcp-Session-Id", session);
            assert_eq!(Client::once(gateway.address, &end).status, 200);
            let ended = Instant::now();
            await_place(&gateway, way, ended);
            let response = client.response();
            assert!(ended.elapsed() < SOON, "{what} {way:?}");
            if what == "a part of a body" {
                assert!(!response.whole, "{way:?}");
            } else {
                let text = response.text();
                // On a resumable stream, the error says that what followed is not kept.
                assert!(text.contains(r#""id":"a","error":{"code":-32"#), "{what} {way:?}: {text}");
                assert_eq!(response.status, if what == "no head" { 404 } else { 200 }, "{way:?}: {text}");
            }
            peer.wait_until("the end", |peer| peer.all().iter().any(|seen| seen.head.starts_with("DELETE")));
            assert_eq!(peer.count("notifications/cancelled"), 1, "{what} {way:?}: the server is told");
        }
    }
}

/// A client that cancels a call and does not read its stream, of which more is retained than may be.
#[test]
fn a_cancelled_call_holds_no_place_for_a_client_that_does_not_read() {
    for way in PATHS {
        let message = EVENT.replace('1', &format!("\"{}\"", "x".repeat(30_000)));
        let flood = (0..1000).map(|_| Step::Send(chunk(&message)));
        let peer = Peer::script([std::iter::once(Step::Send(events())).chain(flood).collect::<Vec<_>>()]);
        let gateway = gateway(&peer);
        let session = open_session(&gateway, way.0, None);
        let mut client = Client::connect(gateway.address);
        client.send(&legacy_call(way.0, &session, "\"a\"", way.1, "{}").bytes());
        peer.wait_calls(1);
        peer.wait_quiet();
        let told = notification(way.0, &session, "notifications/cancelled", r#""requestId":"a""#);
        assert_eq!(Client::once(gateway.address, &told).status, 202);
        await_place(&gateway, way, Instant::now());
    }
}
