//! Servers that answer a call with what is nothing of the call: it is neither waited for without end, nor passed on, nor a
//! reason to run the call again.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gateway, Peer, Request, Setup, Step, answer, chunk, error, events, legacy_call, modern_call,
    open_session, result, until,
};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";
const REST: &str = "/api/v1/mcp/servers/a/tools/echo/execute";

/// What a call that may last for a second takes at most on a busy machine.
const SECOND_MAX: Duration = Duration::from_secs(5);

/// In a fraction of a second, with a growing delay, a stream is resumed less often than that.
const RESUMED_MAX: usize = 8;

fn gateway(peer: &Peer) -> Gateway {
    Setup::new().server_with("a", peer.address, "era = \"legacy\"\ncall_timeout = \"1s\"").start()
}

/// A call over each way to a server of the older era, each without an adapter between the eras.
fn ways(gateway: &Gateway) -> [Request; 3] {
    let [single, aggregated] = [(SINGLE, "echo"), (AGGREGATED, "a__echo")].map(|(path, tool)| {
        let session = open_session(gateway, path, None);
        legacy_call(path, &session, "1", tool, "{}")
    });
    [single, aggregated, Request::post(REST, "{}")]
}

/// The call ends in time with an error.
#[track_caller]
fn check_timeout(gateway: &Gateway, call: &Request) {
    let begun = Instant::now();
    let response = Client::once(gateway.address, call);
    assert!(response.text().contains("may have run"), "{}", response.text());
    assert!(begun.elapsed() < SECOND_MAX, "{:?}", begun.elapsed());
}

#[test]
fn a_stream_that_breaks_with_a_new_id_and_no_message_is_resumed_a_few_times() {
    let peer = Peer::script([]);
    let gateway = gateway(&peer);
    for call in ways(&gateway) {
        let event = |id: usize| chunk(&format!("retry: 0\nid: n{id}\ndata:\n\n"));
        let broken = |id| vec![Step::Send([events(), event(id)].concat()), Step::Close];
        peer.push([broken(0)]);
        peer.push_resumptions((1..50).map(broken));
        let resumed = || peer.all().iter().filter(|seen| seen.header("last-event-id").is_some()).count();
        let before = resumed();
        check_timeout(&gateway, &call);
        let times = resumed() - before;
        assert!((1..=RESUMED_MAX).contains(&times), "{times}");
    }
}

#[test]
fn answers_to_other_calls_give_a_call_no_time() {
    let peer = Peer::script([]);
    let gateway = gateway(&peer);
    // The last one is translated.
    for call in ways(&gateway).into_iter().chain([modern_call(SINGLE, "echo", "{}")]) {
        let foreign = chunk(&format!("data: {}\n\n", result("\"zz\"", "foreign")));
        let drip = (0..200).flat_map(|_| [Step::Send(foreign.clone()), Step::Pause]);
        peer.push([[Step::Send(events())].into_iter().chain(drip).collect()]);
        check_timeout(&gateway, &call);
    }
}

/// A server that breaks its stream after each message is asked for the rest only as long as a client may want it.
#[test]
fn a_stream_is_not_resumed_for_a_client_that_left() {
    // At least 50 ms apart: more than the test waits for.
    const RESUMPTIONS: usize = 600;
    const QUIET: Duration = Duration::from_secs(1);
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let gateway = setup.with("[session]\nresume_for = \"1s\"").start();
    for call in ways(&gateway) {
        let message =
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
        let broken = |id: usize| {
            let event = chunk(&format!("retry: 0\nid: n{id}\ndata: {message}\n\n"));
            vec![Step::Send([events(), event].concat()), Step::Close]
        };
        peer.push([broken(0)]);
        peer.push_resumptions((1..RESUMPTIONS).map(broken));
        let resumed = || peer.all().iter().filter(|seen| seen.header("last-event-id").is_some()).count();
        let before = resumed();
        let mut client = Client::connect(gateway.address);
        client.send(&call.bytes());
        until("the rest is asked for", || resumed() >= before + 5);
        drop(client);
        until("the rest is asked for no more", || {
            let asked = resumed();
            thread::park_timeout(QUIET);
            resumed() == asked
        });
        assert!(resumed() < before + RESUMPTIONS - 1, "{}", call.path);
        peer.clear_resumptions();
    }
}

#[test]
fn two_texts_in_one_event_are_not_passed_on() {
    let peer = Peer::script([]);
    let gateway = gateway(&peer);
    let session = open_session(&gateway, SINGLE, None);
    let (own, foreign) = (result("1", "own"), result("2", "foreign"));
    for data in [
        format!("data: {foreign}{own}"),
        format!("data: {own}{foreign}"),
        format!("data: {foreign}\ndata: {own}"),
    ] {
        let stream = [events(), chunk(&format!("{data}\n\ndata: {own}\n\n")), chunk("")].concat();
        peer.push([vec![Step::Send(stream)]]);
        let response = Client::once(gateway.address, &legacy_call(SINGLE, &session, "1", "echo", "{}"));
        let text = response.text();
        assert!(text.contains("own") && !text.contains("foreign"), "{data}: {text}");
    }
}

#[test]
fn a_server_that_refuses_pings_too_gets_a_call_once() {
    let peer = Peer::script([]);
    let gateway = gateway(&peer);
    peer.refuse("ping");
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        let session = open_session(&gateway, path, None);
        let before = peer.calls().len();
        peer.push([vec![Step::Send(answer("404 Not Found", ""))]]);
        let response = Client::once(gateway.address, &legacy_call(path, &session, "1", tool, "{}"));
        assert_eq!(error(&response), -32603, "{path}");
        assert!(response.text().contains("may have run"), "{path}: {}", response.text());
        assert_eq!(peer.calls().len(), before + 1, "{path}: it ran twice");
    }
}
