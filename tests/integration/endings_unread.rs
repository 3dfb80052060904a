//! What a credential has open ends with it, also where the gateway waits for a client: for one that takes nothing of a
//! resumable stream or of the events of a REST call, and for one that is asked for input.

use std::fs;
use std::time::Duration;

use crate::endings::{AGGREGATED, End, House, SINGLE, open_session, with_credential};
use crate::support::{
    Client, Gateway, PATIENCE, Peer, Request, Seen, Setup, Step, Transport, chunk, events, legacy_call,
    modern_call, until_within,
};

/// A resumable stream that its server fills without end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filled {
    /// The stream of a call.
    Call,
    /// The stream of a call whose client has left, and may come back.
    CallWithoutClient,
    /// The event stream of a session.
    Session,
}

/// More than streams without unread events keep, and less than one that is full.
const MEMORY_LITTLE: u64 = 128 << 10;

/// A log message of 30 kB. A full stream has room for a few of them.
fn log_message() -> String {
    let data = "y".repeat(30_000);
    format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"level\":\"info\",\"data\":\"{data}\"}}}}\n\n"
    )
}

/// Waits until the server can send nothing more, since nobody takes it.
#[track_caller]
fn wait_full(peer: &Peer, what: &str) {
    let mut before = 0;
    until_within(&format!("{what}: nothing more can be sent"), PATIENCE, || {
        let sent = peer.sent();
        std::mem::replace(&mut before, sent) == sent && sent > 1 << 20
    });
}

#[track_caller]
fn check(filled: Filled, path: &str, end: End) {
    let what = format!("{filled:?} {path} {end:?}");
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let house =
        House::of(Transport::Http1, setup.with("[server]\nkeep_alive = \"1s\"\nidle_timeout = \"1m\""), peer);
    let credential = house.credential(end);
    let session = open_session(&house, path, &credential);
    let tool = if path == SINGLE { "echo" } else { "a__echo" };
    let call = with_credential(legacy_call(path, &session, "1", tool, "{}"), &credential);
    // The server knows the session of this client from now on.
    assert_eq!(house.client.once(&call).0, 200, "{what}");
    let flood = vec![Step::Send(events()), Step::Flood(chunk(&log_message()), usize::MAX)];
    let request = if filled == Filled::Session {
        house.peer.push_streams_of_clients([flood]);
        let get = Request::new("GET", path).with("Accept", "text/event-stream");
        let get = get.with("Mcp-Session-Id", session).with("MCP-Protocol-Version", "2025-11-25");
        with_credential(get, &credential)
    } else {
        house.peer.push([flood]);
        call
    };
    let mut client = Client::connect(house.gateway.address);
    assert!(client.send(&request.bytes()));
    assert_eq!(client.head().status, 200, "{what}");
    // The id by which the client may come back.
    assert!(client.chunk().unwrap().is_some(), "{what}");
    let client = (filled != Filled::CallWithoutClient).then_some(client);
    wait_full(&house.peer, &what);
    let seen = house.peer.all();
    let flooded = seen.iter().rfind(|seen| seen.is_call() || seen.head.starts_with("GET ")).unwrap();
    if end != End::TokenExpired {
        assert_eq!(house.metric("metamcp_streams{"), 1, "{what}");
        // A list may be fetched at this moment, too.
        let calls = u64::from(filled != Filled::Session);
        until_within(&format!("{what}: the call alone"), PATIENCE, || house.in_flight() == calls);
        assert!(house.metric("metamcp_memory_charged_bytes") > MEMORY_LITTLE, "{what}");
    }
    let left = house.end(end, &credential);
    until_within(&format!("{what}: calls in flight"), left, || house.in_flight() == 0);
    until_within(&format!("{what}: open streams"), left, || house.metric("metamcp_streams{") == 0);
    until_within(&format!("{what}: memory"), Duration::from_secs(1), || {
        house.metric("metamcp_memory_charged_bytes") < MEMORY_LITTLE
    });
    house.peer.wait_closed(flooded.connection);
    drop(client);
}

#[test]
fn a_full_stream_of_a_call_ends_with_its_credential() {
    check(Filled::Call, SINGLE, End::KeyRevoked);
    check(Filled::Call, SINGLE, End::TokenExpired);
    check(Filled::Call, AGGREGATED, End::KeyDeleted);
    check(Filled::Call, AGGREGATED, End::SigningKeyDeleted);
}

#[test]
fn a_full_stream_whose_client_has_left_ends_with_its_credential() {
    check(Filled::CallWithoutClient, SINGLE, End::KeyRevoked);
    check(Filled::CallWithoutClient, SINGLE, End::TokenExpired);
    check(Filled::CallWithoutClient, AGGREGATED, End::KeyDeleted);
}

#[test]
fn a_full_event_stream_of_a_session_ends_with_its_credential() {
    check(Filled::Session, SINGLE, End::KeyRevoked);
    check(Filled::Session, SINGLE, End::TokenExpired);
    check(Filled::Session, AGGREGATED, End::KeyDeleted);
    check(Filled::Session, AGGREGATED, End::SigningKeyDeleted);
}

/// A call whose client does not read the events of the response.
#[track_caller]
fn check_rest(end: End) {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let house = House::of(Transport::Http1, setup.with("[server]\nidle_timeout = \"1m\""), peer);
    let credential = house.credential(end);
    house.peer.push([vec![Step::Send(events()), Step::Flood(chunk(&log_message()), usize::MAX)]]);
    let execute = Request::new("POST", "/api/v1/mcp/servers/a/tools/echo/execute").body("{}");
    let execute = execute.with("Content-Type", "application/json").with("Accept", "text/event-stream");
    let mut client = Client::connect(house.gateway.address);
    assert!(client.send(&with_credential(execute, &credential).bytes()));
    assert_eq!(client.head().status, 200, "{end:?}");
    wait_full(&house.peer, &format!("{end:?}"));
    if end != End::TokenExpired {
        until_within("the call alone", PATIENCE, || house.in_flight() == 1);
    }
    let left = house.end(end, &credential);
    until_within(&format!("{end:?}: calls in flight"), left, || house.in_flight() == 0);
    house.peer.wait_closed(house.peer.calls()[0].connection);
}

#[test]
fn a_rest_call_whose_client_does_not_read_ends_with_its_credential() {
    for end in [End::KeyRevoked, End::KeyDeleted, End::TokenExpired, End::SigningKeyDeleted] {
        check_rest(end);
    }
}

/// A question of a server to the client, in the stream of a call.
const QUESTION: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"elicitation/create\",\"params\":{\"message\":\"Who?\",\"requestedSchema\":{\"type\":\"object\",\"properties\":{}}}}\n\n";

/// A call of a Modern client, during which an older server asks for input. It is held then.
#[track_caller]
fn hold(house: &House, path: &str, tool: &str, credential: &str) {
    let mut call = with_credential(modern_call(path, tool, "{}"), credential);
    let body = String::from_utf8(call.body).unwrap();
    let able = "clientCapabilities\":{\"elicitation\":{},\"roots\":{}}";
    call.body = body.replace("clientCapabilities\":{}", able).into_bytes();
    let (status, text) = house.client.once(&call);
    assert!(status == 200 && text.contains("input_required"), "{status} {text}");
}

/// Waits until the session of a call has ended at the server.
#[track_caller]
fn wait_session_end(peer: &Peer, call: &Seen) {
    let session = call.header("mcp-session-id");
    peer.wait_until("the end of the session", |peer| {
        let seen = peer.all();
        seen.iter().any(|seen| seen.head.starts_with("DELETE ") && seen.header("mcp-session-id") == session)
    });
}

/// A session that nothing is going on in.
#[track_caller]
fn check_idle_session(end: End) {
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let house = House::of(Transport::Http1, setup, peer);
    let [ended, kept] = [house.credential(end), house.admin.clone()].map(|credential| {
        let session = open_session(&house, SINGLE, &credential);
        let call = legacy_call(SINGLE, &session, "1", "echo", "{}");
        assert_eq!(house.client.once(&with_credential(call, &credential)).0, 200, "{end:?}");
        (credential, house.peer.calls().last().unwrap().clone())
    });
    house.end(end, &ended.0);
    wait_session_end(&house.peer, &ended.1);
    let kept = kept.1.header("mcp-session-id");
    let is_end = |seen: &Seen| seen.head.starts_with("DELETE ") && seen.header("mcp-session-id") == kept;
    assert!(!house.peer.all().iter().any(is_end), "{end:?}: the session of another key ends");
}

#[test]
fn an_idle_session_ends_with_its_key() {
    check_idle_session(End::KeyRevoked);
    check_idle_session(End::KeyDeleted);
}

#[track_caller]
fn check_held(path: &str, end: End) {
    let what = format!("{path} {end:?}");
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let house = House::of(Transport::Http1, setup, peer);
    let credential = house.credential(end);
    let asks = || vec![Step::Send(events()), Step::Send(chunk(QUESTION)), Step::Hold];
    house.peer.push([asks(), asks(), asks()]);
    let tool = if path == SINGLE { "echo" } else { "a__echo" };
    hold(&house, path, tool, &credential);
    hold(&house, path, tool, &credential);
    let held = house.peer.calls();
    hold(&house, path, tool, &house.admin);
    let left = house.end(end, &credential);
    until_within(&format!("{what}: the calls are cancelled"), left, || {
        house.peer.count("notifications/cancelled") == held.len()
    });
    for call in &held {
        house.peer.wait_closed(call.connection);
        wait_session_end(&house.peer, call);
    }
    // The call of another key is still held.
    assert_eq!(house.peer.count("notifications/cancelled"), held.len(), "{what}");
}

#[test]
fn a_held_call_ends_with_its_credential() {
    check_held(SINGLE, End::KeyRevoked);
    check_held(SINGLE, End::TokenExpired);
    check_held(AGGREGATED, End::KeyDeleted);
    check_held(AGGREGATED, End::SigningKeyDeleted);
}

/// A call of a Modern client that an older server does not answer.
#[track_caller]
fn check_in_flight(end: End) {
    let peer = Peer::script([vec![Step::Hold]]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let house = House::of(Transport::Http1, setup, peer);
    let credential = house.credential(end);
    let opened = house.client.open(&with_credential(modern_call(SINGLE, "echo", "{}"), &credential), false);
    house.peer.wait_calls(1);
    let call = &house.peer.calls()[0];
    let left = house.end(end, &credential);
    until_within(&format!("{end:?}: calls in flight"), left, || house.in_flight() == 0);
    house.peer.wait_closed(call.connection);
    wait_session_end(&house.peer, call);
    assert!(!opened.end().contains("\"result\""), "{end:?}");
}

#[test]
fn the_session_of_a_call_at_an_older_server_ends_with_its_credential() {
    for end in [End::KeyRevoked, End::KeyDeleted, End::TokenExpired] {
        check_in_flight(end);
    }
}

#[track_caller]
fn check_held_by_a_program(end: End) {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let setup = Setup::new().with(&format!("[servers.a]\ncommand = {program:?}\nargs = [\"legacy\"]"));
    let house = House::of(Transport::Http1, setup, Peer::script([]));
    let credential = house.credential(end);
    hold(&house, SINGLE, "ask", &credential);
    hold(&house, SINGLE, "ask", &house.admin);
    let before = programs(&house.gateway);
    let left = house.end(end, &credential);
    // The process of a session that shares it with no other ends with the session, maybe before it reads the cancellation.
    let is_over = || house.gateway.log().contains("stderr: cancelled") || programs(&house.gateway) < before;
    until_within(&format!("{end:?}: the call is over"), left, is_over);
}

/// The processes that the gateway runs.
fn programs(gateway: &Gateway) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    // A thread may end while it is looked at.
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    children.map(|children| children.split_whitespace().count()).sum()
}

#[test]
fn a_call_that_a_program_holds_ends_with_its_credential() {
    for end in [End::KeyRevoked, End::KeyDeleted, End::TokenExpired] {
        check_held_by_a_program(end);
    }
}
