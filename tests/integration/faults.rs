//! Servers that fail, clients that go away: what the one who called is told, that nothing half passes for
//! whole, that nothing runs twice, and that nobody else notices.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::{
    Client, Gate, Gateway, PATIENCE, Peer, Request, Response, Seen, Setup, Step, answer, chunk, error,
    events, legacy, legacy_call, listed, modern, modern_call, open_session, result,
};

pub const SINGLE: &str = "/servers/a/mcp";
pub const AGGREGATED: &str = "/mcp";

/// Short enough to wait for, long enough not to be met by an answer on a busy machine.
const SHORT: &str = "first_byte_timeout = \"1s\"\nstream_idle_timeout = \"1s\"";

/// What a wait of one second takes at most, with a busy machine in mind.
const SECOND_MAX: Duration = Duration::from_secs(5);

/// Failures in a row after which a server is left alone.
const FAILURES_MAX: usize = 5;

/// What is answered at once takes at most this long on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(700);

/// A connection for which there is room is made within that.
const QUEUED: Duration = Duration::from_millis(300);

fn short(peer: &Peer) -> Gateway {
    Setup::new().server_with("a", peer.address, SHORT).start()
}

pub fn send(text: impl Into<Vec<u8>>) -> Step {
    Step::Send(text.into())
}

/// A call over each endpoint and era, with what tells them apart.
pub fn ways(gateway: &Gateway) -> Vec<(String, Request)> {
    let mut ways = Vec::new();
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        ways.push((format!("{path} Modern"), modern_call(path, tool, "{}")));
        let session = open_session(gateway, path, None);
        ways.push((format!("{path} Legacy"), legacy_call(path, &session, "1", tool, "{}")));
    }
    ways
}

/// The answer is an error of the server's, in band, under the id of the call.
#[track_caller]
pub fn check_error(what: &str, response: &Response, said: &str) {
    assert_eq!((response.status, error(response)), (200, -32603), "{what}: {}", response.text());
    let message = response.json();
    assert_eq!(message["id"], 1, "{what}");
    let text = message["error"]["message"].as_str().unwrap();
    assert!(text.contains("server `a`") && text.contains(said), "{what}: {text:?} says not {said:?}");
}

#[test]
fn a1_nobody_listens() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", free), ("b", peer.address)]);
    let call = |path| Client::once(gateway.address, &modern_call(path, "echo", "{}"));
    let servers = || {
        let response = Client::once(gateway.address, &Request::new("GET", "/ready"));
        response.json()["servers"].clone()
    };
    // Until it is left alone, which makes no difference to others. The gateway asks it for its lists meanwhile.
    let mut tries = 0..=FAILURES_MAX;
    loop {
        let began = Instant::now();
        let response = call(SINGLE);
        check_error("refused", &response, "the call did not run");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert_eq!(call("/servers/b/mcp").status, 200);
        if response.text().contains("is not called for a moment") {
            break;
        }
        assert!(tries.next().is_some(), "it is asked for ever");
    }
    let [a, b] = [0, 1].map(|place| servers()[place].clone());
    assert_eq!((&a["state"], &a["last_failure"]["stage"]), (&"failing".into(), &"connecting".into()), "{a}");
    // Nobody is asked for a key on this machine, so nobody is told less than an administrator.
    assert!(a["last_failure"]["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{a}");
    assert_eq!((&b["state"], &b["last_failure"]), (&"ok".into(), &serde_json::Value::Null), "{b}");
    // It comes back by itself, as soon as the server does.
    let _back = Peer::start(TcpListener::bind(free).unwrap());
    let until = Instant::now() + PATIENCE;
    while call(SINGLE).json()["result"].is_null() {
        assert!(Instant::now() < until, "it is left alone for ever");
    }
    assert_eq!(servers()[0]["state"], "ok");
}

/// Copies what comes between each connection that is accepted and the peer, until told that the next is the last.
fn door_of(listener: TcpListener, peer: SocketAddr, is_shut: &Arc<AtomicBool>) -> JoinHandle<()> {
    let is_shut = Arc::clone(is_shut);
    thread::spawn(move || {
        for inner in listener.incoming() {
            let (inner, outer) = (inner.unwrap(), TcpStream::connect(peer).unwrap());
            let ways = [(&inner, &outer), (&outer, &inner)];
            for (mut from, mut to) in
                ways.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()))
            {
                thread::spawn(move || {
                    drop(std::io::copy(&mut from, &mut to));
                    drop(to.shutdown(Shutdown::Write));
                });
            }
            if is_shut.load(Ordering::SeqCst) {
                // It listens on, and nobody takes what comes.
                return std::mem::forget(listener);
            }
        }
    })
}

/// Whether somebody tries to connect there.
fn is_being_connected_to(address: SocketAddr) -> bool {
    let remote = format!(":{:04X} 02 ", address.port());
    fs::read_to_string("/proc/net/tcp").unwrap().contains(&remote)
}

#[test]
fn a2_a_server_with_no_room_for_connections() {
    let peer = Peer::script([]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let is_shut = Arc::default();
    let door = door_of(listener, peer.address, &is_shut);
    // Nobody is to give up here.
    let lines = "idle_connections_max = 1\nconnect_timeout = \"1m\"";
    let gateway = Setup::new().workers(1).server_with("a", address, lines).start();
    let call = modern_call(SINGLE, "echo", "{}");
    assert_eq!(Client::once(gateway.address, &call).status, 200);
    // The last is taken, and then as many wait as may.
    is_shut.store(true, Ordering::SeqCst);
    let _last = TcpStream::connect(address).unwrap();
    door.join().unwrap();
    let _waiting: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&address, QUEUED).ok()).collect();
    // Calls have the connections that there are, and the last waits for one of its own.
    let gate = Gate::default();
    let mut clients = Vec::new();
    while !is_being_connected_to(address) {
        peer.push([vec![Step::Wait(gate.clone()), send(answer("200 OK", &result("1", "late")))]]);
        clients.push(Client::connect(gateway.address));
        clients.last_mut().unwrap().send(&call.bytes());
        let calls = 1 + clients.len();
        peer.wait_until("a call", |peer| peer.calls().len() == calls || is_being_connected_to(address));
    }
    // What is free is there for whoever waits.
    gate.open();
    for client in &mut clients {
        let response = client.response();
        assert!(response.json()["result"].is_object(), "{}", response.text());
    }
}

#[test]
fn a3_a_server_that_never_answers() {
    let peer = Peer::script([]);
    let gateway = short(&peer);
    for (what, request) in ways(&gateway) {
        peer.push([vec![Step::Hold]]);
        let began = Instant::now();
        check_error(&what, &Client::once(gateway.address, &request), "the call may have run");
        assert!(began.elapsed() < SECOND_MAX, "{what}: {:?}", began.elapsed());
        let asked = peer.calls().pop().unwrap();
        peer.wait_closed(asked.connection);
    }
    assert_eq!(peer.calls().len(), 4, "a call was repeated");
}

#[test]
fn a4_a_server_that_stops_after_its_head() {
    let peer = Peer::script([]);
    let lines = "stream_idle_timeout = \"1500ms\"";
    let setup = Setup::new().server_with("a", peer.address, lines);
    // Comments of the gateway's own must not keep the server's silence alive.
    let gateway = setup.with("[server]\nkeep_alive = \"1s\"").start();
    for (what, request) in ways(&gateway) {
        let first = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
        peer.push([vec![send(events()), send(chunk(first)), send(chunk("data: {\"half")), Step::Hold]]);
        let response = Client::once(gateway.address, &request);
        assert!(response.whole, "{what}");
        let text = response.text();
        assert!(!text.contains("half"), "{what}: {text}");
        assert!(text.contains(": keep-alive\n\n"), "{what}: {text}");
        let told = response.events();
        assert_eq!(told.len(), 2, "{what}: {text}");
        assert_eq!((&told[1]["id"], &told[1]["error"]["code"]), (&1.into(), &(-32603).into()), "{what}");

        let cut = answer("200 OK", &result("1", "whole"));
        peer.push([vec![send(&cut[..cut.len() - 3]), Step::Hold]]);
        check_error(&what, &Client::once(gateway.address, &request), "went silent");
    }
}

/// The client learns that there is no answer: by an error event, or because the stream breaks visibly.
#[test]
fn a17_a_line_without_end() {
    let peer = Peer::script([]);
    let gateway = short(&peer);
    for (what, request) in ways(&gateway) {
        for ends in [Step::Hold, Step::Close, Step::Send(chunk(""))] {
            let line = chunk(&"x".repeat(64 << 10));
            let flood = Step::Flood(line, 160);
            peer.push([vec![send(events()), send(chunk("data: {\"a\":\"")), flood, ends.clone()]]);
            let response = Client::once(gateway.address, &request);
            let text = response.text();
            let last =
                text.rsplit_once("data: ").and_then(|(_, last)| serde_json::from_str::<Value>(last).ok());
            let is_error = last.is_some_and(|last| last["id"] == 1 && last["error"].is_object());
            assert!(is_error || !response.whole, "{what} {ends:?}: it ends in good order without an answer");
        }
    }
}

/// Neither the first byte nor silence has a timeout here: only the whole takes too long.
#[test]
fn a5_a_server_that_sends_byte_by_byte() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server_with("a", peer.address, "call_timeout = \"700ms\"").start();
    let drip = |text: &str| text.bytes().flat_map(|byte| [send([byte]), Step::Pause]).collect::<Vec<_>>();
    for (what, request) in ways(&gateway) {
        let whole = answer("200 OK", &result("1", &"slow ".repeat(20)));
        let (head, body) = whole.split_at(whole.len() - 100);
        let body = String::from_utf8(body.to_vec()).unwrap();
        peer.push([[vec![send(head)], drip(&body)].concat()]);
        check_error(&what, &Client::once(gateway.address, &request), "did not complete its answer in time");
        peer.wait_closed(peer.calls().last().unwrap().connection);

        let event = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
        let bytes = event.bytes().flat_map(|byte| [send(chunk(&char::from(byte).to_string())), Step::Pause]);
        peer.push([[send(events()), send(chunk(event))].into_iter().chain(bytes).collect()]);
        let response = Client::once(gateway.address, &request);
        assert!(response.whole, "{what}");
        let told = response.events();
        assert_eq!(
            (told.len(), &told[1]["error"]["code"]),
            (2, &(-32603).into()),
            "{what}: {}",
            response.text()
        );

        // Messages are progress: such a stream may take longer.
        let messages = (0..30).flat_map(|_| [send(chunk(event)), Step::Pause]);
        let last = [send(chunk(&format!("data: {}\n\n", result("1", "done")))), send(chunk(""))];
        peer.push([[send(events())].into_iter().chain(messages).chain(last).collect()]);
        let told = Client::once(gateway.address, &request).events();
        assert_eq!((told.len(), told[30]["result"].is_object()), (31, true), "{what}");
    }
}

/// Every way to break off: RST and FIN, after each byte of the answer.
#[track_caller]
fn check_cut(gateway: &Gateway, peer: &Peer, (what, request): &(String, Request), whole: &[u8], end: &Step) {
    let is_stream = whole.windows(17).any(|window| window == b"text/event-stream");
    // One byte in three in a debug build: each cut costs a connection.
    let step = if cfg!(debug_assertions) { 3 } else { 1 };
    for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
        peer.push([vec![send(&whole[..at]), end.clone()]]);
        let response = Client::once(gateway.address, request);
        let what = format!("{what} cut at {at} of {} by {end:?}", whole.len());
        if response.header("content-type") != Some("text/event-stream") {
            check_error(&what, &response, "broke off");
            continue;
        }
        assert!(is_stream && response.whole, "{what}");
        let text = response.text();
        assert!(text.ends_with("\n\n"), "{what}: a part of an event was passed: {text:?}");
        let told = response.events();
        let results = told.iter().filter(|event| event["id"] == 1);
        let is_error = told.last().is_some_and(|event| event["error"]["code"] == -32603);
        let is_result = told.last().is_some_and(|event| event["result"].is_object());
        assert_eq!(results.count(), 1, "{what}: not one outcome: {text}");
        assert!(is_error != is_result, "{what}: {text}");
    }
}

#[test]
fn a6_json_that_breaks_off() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let body = result("1", "whole");
    let (first, second) = body.split_at(30);
    let mut chunked =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in [first, second, ""] {
        chunked.extend(chunk(piece));
    }
    for way in ways(&gateway) {
        check_cut(&gateway, &peer, &way, &answer("200 OK", &body), &Step::Reset);
        check_cut(&gateway, &peer, &way, &answer("200 OK", &body), &Step::Close);
        check_cut(&gateway, &peer, &way, &chunked, &Step::Close);
    }
}

#[test]
fn a6_event_streams_that_break_off() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let notice =
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    let mut whole = events();
    for piece in [notice, &format!("data: {}\n\n", result("1", "whole")), ""] {
        whole.extend(chunk(piece));
    }
    for way in ways(&gateway) {
        check_cut(&gateway, &peer, &way, &whole, &Step::Reset);
        check_cut(&gateway, &peer, &way, &whole, &Step::Close);
    }
}

#[test]
fn a6_event_streams_that_end_without_the_answer() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let notice = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    let foreign = format!("data: {}\n\n", result("2", "foreign"));
    for pieces in [&[][..], &[notice], &[notice, notice, &foreign], &["data: {\"jsonrpc\""]] {
        let whole: Vec<u8> =
            events().into_iter().chain(pieces.iter().chain(&[""]).flat_map(|piece| chunk(piece))).collect();
        for (what, request) in ways(&gateway) {
            peer.push([vec![send(&whole[..])]]);
            let response = Client::once(gateway.address, &request);
            let said = if response.header("content-type") == Some("text/event-stream") {
                response.events().pop().unwrap_or_default()
            } else {
                response.json()
            };
            assert_eq!(
                (&said["id"], &said["error"]["code"]),
                (&1.into(), &(-32603).into()),
                "{what} {pieces:?}: {said}"
            );
        }
    }
}

#[test]
fn a7_a_big_answer_that_breaks_off_is_not_taken_for_whole() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let whole = answer("200 OK", &result("1", &"x".repeat(300 << 10)));
    for (what, request) in ways(&gateway) {
        for end in [Step::Reset, Step::Close] {
            peer.push([vec![send(&whole[..whole.len() / 2]), end]]);
            let mut client = Client::connect(gateway.address);
            client.send(&request.bytes());
            let is_whole = |response: &Response| response.whole && response.json()["error"].is_null();
            assert!(
                !client.outcome().is_some_and(|response| is_whole(&response)),
                "{what}: half an answer passed for a whole one"
            );
        }
    }
}

#[test]
fn a8_surplus_bytes_reach_nobody() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).start();
    let forged = answer("200 OK", &result("1", "forged"));
    let surplus: [&[u8]; 3] = [b"X", b"\r\n", &forged];
    for (what, request) in ways(&gateway) {
        for surplus in surplus {
            for is_late in [false, true] {
                let mut good = answer("200 OK", &result("1", "first"));
                let (gate, sent) = (Gate::default(), Gate::default());
                let mut steps = if is_late {
                    vec![send(good.clone()), Step::Wait(gate.clone()), send(surplus)]
                } else {
                    good.extend(surplus);
                    vec![send(good)]
                };
                steps.push(Step::Open(sent.clone()));
                peer.push([steps, vec![send(answer("200 OK", &result("1", "second")))]]);
                let first = Client::once(gateway.address, &request);
                assert!(first.text().contains("first"), "{what}: {}", first.text());
                gate.open();
                sent.wait();
                // The late surplus is on its way: each worker has a pool, so both are asked.
                let second = Client::once(gateway.address, &request);
                assert!(!second.text().contains("forged"), "{what}: {}", second.text());
                if is_late && second.text().contains("broke off") {
                    // On a busy machine the surplus can cross the call on its way; then it is told.
                    Client::once(gateway.address, &request);
                    continue;
                }
                assert!(second.text().contains("second"), "{what}: {}", second.text());
                let calls = peer.calls();
                let [.., before, after] = &calls[..] else { panic!("two calls came") };
                assert_ne!(before.connection, after.connection, "{what}: a spoilt connection was used again");
            }
        }
    }
}

#[test]
fn a11_answers_of_another_type() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let page = "<html>Sign in</html>";
    let head =
        |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{page}", page.len());
    for (what, request) in ways(&gateway) {
        for fields in [
            "Content-Type: text/html\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            "Content-Type: text/event-stream\r\nContent-Encoding: br\r\n",
        ] {
            peer.push([vec![send(head(fields))]]);
            let response = Client::once(gateway.address, &request);
            assert!(!response.text().contains("Sign in"), "{what} {fields:?}: {}", response.text());
            check_error(&what, &response, "");
        }
    }
}

#[test]
fn a17_an_endless_event_is_cut() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let session = open_session(&gateway, AGGREGATED, None);
    peer.push([vec![
        send(events()),
        send(chunk("data: ")),
        Step::Flood(chunk(&"x".repeat(64 << 10)), 16 << 10),
    ]]);
    let began = gateway.resident_bytes();
    let response = Client::once(gateway.address, &legacy_call(AGGREGATED, &session, "1", "a__echo", "{}"));
    let told = response.events();
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["id"], &told[0]["error"]["code"]), (&1.into(), &(-32603).into()), "{}", told[0]);
    peer.wait_closed(peer.calls().pop().unwrap().connection);
    let grown = gateway.resident_bytes().saturating_sub(began);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

#[test]
fn a27_a_server_that_closes_between_calls() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut met_closing = 0;
    for round in 0..200 {
        peer.push([vec![send(answer("200 OK", &result("1", "once"))), Step::Close]]);
        let arguments = format!(r#"{{"round":"canary-{round}-"}}"#);
        let response = Client::once(gateway.address, &modern_call(SINGLE, "echo", &arguments));
        let canary = format!("canary-{round}-");
        let runs = peer.calls().iter().filter(|seen| seen.text().contains(&canary)).count();
        // A call that met the closing connection may have run, and is not repeated.
        let is_told = runs <= 1 && response.text().contains("broke off");
        assert!(
            is_told || (runs == 1 && response.text().contains("once")),
            "{runs} runs: {}",
            response.text()
        );
        met_closing += usize::from(is_told);
    }
    assert!(peer.connections() + met_closing >= 200);
}

#[test]
fn a_lost_session_is_opened_again_and_the_call_repeated_once() {
    for status in ["404 Not Found", "400 Bad Request"] {
        for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
            let peer = Peer::script([]);
            let gateway = Gateway::open(&[("a", peer.address)]);
            let session = open_session(&gateway, path, None);
            let call = |id: &str| {
                let request = legacy_call(path, &session, id, tool, r#"{"text":"again"}"#);
                Client::once(gateway.address, &request)
            };
            assert_eq!(call("1").status, 200);
            // The catalog's sessions, which bear the gateway's name, are lost as well, and opened again when it
            // notices.
            let opened = || {
                let of_client =
                    |seen: &&Seen| seen.is("initialize") && seen.text().contains(r#""name":"test""#);
                peer.all().iter().filter(of_client).count()
            };
            let (opened_before, called) = (opened(), peer.calls().len());
            peer.lose_sessions(status);
            let response = call("2");
            assert_eq!(response.status, 200, "{path} {status}: {}", response.text());
            assert_eq!(response.json()["id"], 2, "{path} {status}");
            assert!(response.text().contains("again"), "{path} {status}: {}", response.text());
            assert_eq!(peer.calls().len(), called + 2, "{path} {status}: refused once, run once");
            assert_eq!(opened(), opened_before + 1, "{path} {status}: opened again once");
            assert_eq!(call("3").status, 200);
            assert_eq!(peer.calls().len(), called + 3, "{path} {status}");
        }
    }
}

/// The log level and the subscriptions of a client outlive its session at the server.
#[test]
fn a_session_that_is_opened_again_is_told_what_the_client_has_set() {
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        let peer = Peer::script([]);
        peer.hide_resources();
        let gateway = Gateway::open(&[("a", peer.address)]);
        let session = open_session(&gateway, path, None);
        let ask = |method: &str, params: &str| {
            let response = Client::once(gateway.address, &legacy(path, &session, "1", method, params));
            assert_eq!(response.status, 200, "{path} {method}: {}", response.text());
        };
        ask("logging/setLevel", r#""level":"debug""#);
        ask("logging/setLevel", r#""level":"error""#);
        for (method, uri) in
            [("subscribe", "x:1"), ("subscribe", "x:2"), ("unsubscribe", "x:1"), ("subscribe", "x:2")]
        {
            ask(&format!("resources/{method}"), &format!(r#""uri":"{uri}""#));
        }
        // The server does not accept these, and one URI is written in two ways.
        ask("logging/setLevel", r#""level":"refused""#);
        ask("resources/subscribe", r#""uri":"x:refused""#);
        ask("resources/subscribe", r#""uri":"x:3""#);
        ask("resources/unsubscribe", r#""uri":"x\u003a3""#);
        let before = peer.all().len();
        peer.lose_sessions("404 Not Found");
        let call = legacy_call(path, &session, "2", tool, "{}");
        assert_eq!(Client::once(gateway.address, &call).status, 200, "{path}");
        let set = || -> Vec<String> {
            peer.all()[before..]
                .iter()
                .filter(|seen| seen.is("logging/setLevel") || seen.is("resources/subscribe"))
                .map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap()["params"].to_string())
                .collect()
        };
        // No call waits for the subscriptions.
        peer.wait_until("the subscription is repeated", |_| set().len() >= 2);
        peer.wait_quiet();
        assert_eq!(set(), [r#"{"level":"error"}"#, r#"{"uri":"x:2"}"#], "{path}");
        peer.hold("resources/subscribe");
        peer.lose_sessions("404 Not Found");
        let begun = Instant::now();
        assert_eq!(Client::once(gateway.address, &call).status, 200, "{path}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{path}: {:?}", begun.elapsed());
    }
}

/// Events without a message are no progress, whether or not the call crosses the eras.
#[test]
fn a5_a_stream_without_messages() {
    for era in ["legacy", "modern"] {
        let peer = Peer::script([]);
        let lines = format!("call_timeout = \"700ms\"\nera = \"{era}\"");
        let gateway = Setup::new().server_with("a", peer.address, &lines).start();
        for (what, request) in ways(&gateway) {
            for event in [": comment\n\n", "id: 5\ndata:\n\n"] {
                let drip = (0..60).flat_map(|_| [send(chunk(event)), Step::Pause]);
                peer.push([[send(events())].into_iter().chain(drip).chain([Step::Hold]).collect()]);
                let response = Client::once(gateway.address, &request);
                let text = response.text();
                assert!(text.contains("did not complete its answer in time"), "{era} {what}: {text}");
                let held = peer.calls().last().unwrap().connection;
                peer.wait_closed(held);
            }
        }
    }
}

const SESSION_NOT_FOUND: &str =
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;

#[test]
fn a_server_that_loses_every_session_is_asked_twice_and_no_more() {
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        let peer = Peer::script([]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let session = open_session(&gateway, path, None);
        let call = legacy_call(path, &session, "1", tool, "{}");
        assert_eq!(Client::once(gateway.address, &call).status, 200);
        let called = peer.calls().len();
        peer.lose_sessions("404 Not Found");
        // The first call is refused because its session is lost, the second one by this script.
        peer.push([vec![send(answer("404 Not Found", SESSION_NOT_FOUND))]]);
        let response = Client::once(gateway.address, &call);
        assert!(response.json()["error"].is_object(), "{path}: {}", response.text());
        assert_eq!(peer.calls().len(), called + 2, "{path}");
    }
}

/// An application behind the server may answer 404 after it ran the call, while the session is alive.
#[test]
fn a_call_is_not_repeated_after_a_404_in_a_living_session() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        for status in ["404 Not Found", "400 Bad Request"] {
            let session = open_session(&gateway, path, None);
            let called = peer.calls().len();
            peer.push([vec![send(answer(status, SESSION_NOT_FOUND))]]);
            let call = legacy_call(path, &session, "1", tool, "{}");
            let response = Client::once(gateway.address, &call);
            assert!(response.json()["error"].is_object(), "{path}: {}", response.text());
            assert_eq!(peer.calls().len(), called + 1, "{path} {status}");
            assert_eq!(
                Client::once(gateway.address, &call).status,
                200,
                "{path} {status}: the session is alive"
            );
        }
    }
}

/// A server that answers under the call's id has read the call. That it loses its sessions a moment later does not mean that
/// the call did not run.
#[test]
fn a_call_is_not_repeated_if_its_session_is_lost_after_it_ran() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, tool) in [(SINGLE, "echo"), (AGGREGATED, "a__echo")] {
        for status in ["404 Not Found", "400 Bad Request"] {
            let session = open_session(&gateway, path, None);
            let (called, gate) = (peer.calls().len(), Gate::default());
            let error = SESSION_NOT_FOUND.replace("null", "1");
            peer.push([vec![Step::Wait(gate.clone()), send(answer(status, &error))]]);
            let call = legacy_call(path, &session, "1", tool, "{}");
            let mut client = Client::connect(gateway.address);
            client.send(&call.bytes());
            peer.wait_calls(called + 1);
            peer.lose_sessions(status);
            gate.open();
            let response = client.response();
            assert!(response.json()["error"].is_object(), "{path}: {}", response.text());
            assert_eq!(peer.calls().len(), called + 1, "{path} {status}");
            let next = Client::once(gateway.address, &call);
            assert!(next.json()["result"].is_object(), "{path} {status}: {}", next.text());
        }
    }
}

#[test]
fn c1_a_client_that_goes_away_takes_its_call_with_it() {
    let peer = Peer::script([]);
    // Else one that can come back is waited for: see resume.rs.
    let gateway = Setup::new().server("a", peer.address).with("[session]\nresume = false").start();
    let event = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    for (what, request) in ways(&gateway) {
        for is_stream in [true, false] {
            // The machine is busy: the quickest of some tries tells.
            let quickest = (0..5).map(|_| {
                let steps = [vec![send(events()), send(chunk(event)), Step::Hold], vec![Step::Hold]];
                peer.push([steps[usize::from(!is_stream)].clone()]);
                let called = peer.calls().len();
                let mut client = Client::connect(gateway.address);
                client.send(&request.bytes());
                peer.wait_calls(called + 1);
                if is_stream {
                    assert_eq!(client.head().status, 200);
                    assert!(client.event().is_some());
                }
                let gone = Instant::now();
                drop(client);
                peer.wait_closed(peer.calls().pop().unwrap().connection).saturating_duration_since(gone)
            });
            let quickest = quickest.min().unwrap();
            assert!(quickest < Duration::from_millis(100), "{what} stream {is_stream}: {quickest:?}");
        }
    }
}

#[test]
fn c3_a_client_that_does_not_read_makes_the_server_wait() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let text = "x".repeat(32 << 10);
    let event =
        format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":{{\"text\":\"{text}\"}}}}\n\n");
    let last = format!("data: {}\n\n", result("1", "done"));
    let times = 2048;
    for (what, request) in ways(&gateway) {
        let began = (gateway.resident_bytes(), peer.sent());
        let flood = Step::Flood(chunk(&event), times);
        peer.push([vec![send(events()), flood, send(chunk(&last)), send(chunk(""))]]);
        let mut client = Client::connect(gateway.address);
        client.send(&request.bytes());
        assert_eq!(client.head().status, 200);
        peer.wait_quiet();
        let (resident, sent) = (gateway.resident_bytes().saturating_sub(began.0), peer.sent() - began.1);
        // The buffers of four sockets, which the kernel grows to some MiB each.
        assert!(sent < 48 << 20, "{what}: the server got rid of {sent} bytes that nobody read");
        assert!(resident < 16 << 20, "{what}: {resident} bytes are kept for one slow client");
        // Nobody else waits for it.
        let other = Client::once(gateway.address, &modern_call(SINGLE, "echo", "{}"));
        assert_eq!(other.status, 200);
        // And once it reads, it gets everything.
        let (mut bytes, mut whole) = (0, 0);
        while let Some(event) = client.raw_event() {
            // Without the ids by which a client of a session can come back.
            let data = event.lines().find(|line| line.starts_with("data: ") && line.len() > "data: ".len());
            bytes += data.map_or(0, |data| data.len() + "\n\n".len());
            whole += usize::from(data.is_some());
        }
        assert_eq!((bytes, whole), (times * event.len() + last.len(), times + 1), "{what}");
    }
}

#[test]
fn c14_requests_in_one_packet_and_in_many() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for path in [SINGLE, AGGREGATED] {
        let tool = if path == AGGREGATED { "a__echo" } else { "echo" };
        let request = |n: usize| modern_call(path, tool, &format!(r#"{{"n":"number-{n}-"}}"#));
        // All at once: answered in the order of the requests.
        let mut client = Client::connect(gateway.address);
        let all: Vec<u8> = (0..8).flat_map(|n| request(n).bytes()).collect();
        client.send(&all);
        for n in 0..8 {
            let response = client.response();
            assert!(response.text().contains(&format!("number-{n}-")), "{n}: {}", response.text());
        }
        // Byte by byte, by one client as well as by another in the midst of it.
        let mut client = Client::connect(gateway.address);
        for (at, byte) in request(9).bytes().iter().enumerate() {
            client.stream().write_all(&[*byte]).unwrap();
            if at == 100 {
                assert_eq!(Client::once(gateway.address, &request(8)).status, 200);
            }
        }
        assert!(client.response().text().contains("number-9-"));
    }
}

#[test]
fn c14_nothing_is_smuggled() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let hidden = String::from_utf8(modern_call(SINGLE, "echo", r#"{"smuggled":1}"#).bytes()).unwrap();
    let good = modern_call(SINGLE, "echo", "{}");
    let body = String::from_utf8(good.body.clone()).unwrap();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n{hidden}", body.len());
    let length = |bytes: usize| bytes.to_string();
    let rows = [
        ("two lengths", good.clone().with("Content-Length", length(body.len())).with("Content-Length", "0")),
        ("a signed length", good.clone().with("Content-Length", format!("+{}", body.len()))),
        ("a list of lengths", good.clone().with("Content-Length", format!("{0}, {0}", body.len()))),
        ("an unknown coding", good.clone().with("Transfer-Encoding", "xchunked")),
        ("a coding behind chunked", good.clone().with("Transfer-Encoding", "chunked, identity")),
        (
            "a length and a coding",
            good.clone()
                .with("Content-Length", length(chunked.len()))
                .with("Transfer-Encoding", "chunked")
                .body(chunked.clone()),
        ),
        ("a space before the colon", good.clone().with("Content-Length ", "0")),
        ("a folded line", good.clone().with("X-A", "1\r\n Content-Length: 0")),
    ];
    for (what, request) in rows {
        let mut client = Client::connect(gateway.address);
        client.send(&request.bytes());
        client.half_close();
        let response = client.response();
        let calls = peer.calls();
        let smuggled = calls.iter().filter(|seen| seen.text().contains("smuggled")).count();
        assert_eq!(response.status, 400, "{what}: {response:?}");
        assert_eq!(smuggled, 0, "{what} was let through");
    }
}

/// Two servers behind one endpoint, the second of which does not answer.
fn with_hanging() -> (Peer, Gateway) {
    let (peer, hanging) = (Peer::script([]), Peer::hanging());
    let setup = Setup::new().server("a", peer.address).server_with("b", hanging.address, SHORT);
    (peer, setup.with("[catalog]\nlist_deadline = \"2s\"").start())
}

/// Twice the deadline, for a busy machine.
const LIST_MAX: Duration = Duration::from_secs(4);

#[test]
fn a_hanging_server_is_named_and_the_others_are_listed() {
    let (_peer, gateway) = with_hanging();
    let began = Instant::now();
    let session = open_session(&gateway, AGGREGATED, None);
    assert!(began.elapsed() < LIST_MAX, "{:?}", began.elapsed());
    for request in [modern(AGGREGATED, "tools/list", ""), legacy(AGGREGATED, &session, "1", "tools/list", "")]
    {
        let began = Instant::now();
        let response = Client::once(gateway.address, &request);
        assert!(began.elapsed() < LIST_MAX, "{:?}", began.elapsed());
        let message = response.json();
        assert_eq!(listed(&message), ["a__echo", "a__other"]);
        let missing = &message["result"]["_meta"]["dev.metamcp/missing"];
        assert_eq!(missing.as_array().map(Vec::len), Some(1), "{message}");
        assert_eq!(missing[0]["server"], "b");
        assert!(missing[0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        assert!(["slow", "failed"].contains(&missing[0]["state"].as_str().unwrap()), "{missing}");
    }
    for request in
        [modern_call(AGGREGATED, "b__echo", "{}"), legacy_call(AGGREGATED, &session, "1", "b__echo", "{}")]
    {
        let began = Instant::now();
        let response = Client::once(gateway.address, &request);
        assert!(began.elapsed() < LIST_MAX, "{:?}", began.elapsed());
        assert_eq!((response.status, error(&response)), (200, -32603), "{}", response.text());
        let text = response.text();
        // The server itself decides: it was asked, and this is what became of it.
        assert!(text.contains("server `b` ") && text.contains("run"), "{text}");
    }
}

#[test]
fn a_hanging_server_slows_no_call_to_another() {
    let (_peer, gateway) = with_hanging();
    // From the very first one: what is known of one server does not wait for another.
    for n in 0..20 {
        let began = Instant::now();
        let response = Client::once(gateway.address, &modern_call(AGGREGATED, "a__echo", "{}"));
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(response.json()["result"].is_object(), "{}", response.text());
        assert!(began.elapsed() < AT_ONCE, "call {n} took {:?}", began.elapsed());
    }
    let session = open_session(&gateway, AGGREGATED, None);
    for n in 0..20 {
        let began = Instant::now();
        let request = legacy_call(AGGREGATED, &session, "1", "a__echo", "{}");
        assert!(Client::once(gateway.address, &request).json()["result"].is_object());
        assert!(began.elapsed() < AT_ONCE, "call {n} took {:?}", began.elapsed());
    }
}

#[test]
fn calls_that_fill_one_server_leave_room_for_another() {
    let (full, free) = (Peer::script([]), Peer::script([]));
    let lines = "in_flight_max = 4\nqueue_max = 2\nqueue_timeout = \"1s\"";
    let gateway = Setup::new().server_with("a", full.address, lines).server("b", free.address).start();
    full.push((0..4).map(|_| vec![Step::Hold]));
    let mut held: Vec<Client> = Vec::new();
    for n in 1..=4 {
        let mut client = Client::connect(gateway.address);
        client.send(&modern_call(SINGLE, "echo", "{}").bytes());
        full.wait_calls(n);
        held.push(client);
    }
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Client::connect(gateway.address);
            client.send(&modern_call(SINGLE, "echo", "{}").bytes());
            client
        })
        .collect();
    let began = Instant::now();
    let response = Client::once(gateway.address, &modern_call("/servers/b/mcp", "echo", "{}"));
    assert!(response.json()["result"].is_object());
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    for mut client in waiting {
        check_error("over the limit", &client.response(), "too many calls");
    }
    drop(held);
    // The places are free again.
    let began = Instant::now();
    while Client::once(gateway.address, &modern_call(SINGLE, "echo", "{}")).json()["error"].is_object() {
        assert!(began.elapsed() < PATIENCE, "places were not given back");
    }
}

#[test]
fn a9_a14_answers_that_are_no_http() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let good = answer("200 OK", &result("1", "good"));
    let behind = |head: &str| [head.as_bytes(), &good].concat();
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let broken: [(&str, Vec<u8>); 10] = [
        ("no HTTP", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        ("no number", b"HTTP/1.1 OK\r\n\r\n".to_vec()),
        ("a chunk of no size", format!("{chunked}\r\nzz\r\n{{}}\r\n0\r\n\r\n").into()),
        ("a chunk beyond all", format!("{chunked}\r\nfffffffffffffffff\r\n{{}}").into()),
        ("an endless chunk extension", format!("{chunked}\r\n1;{}", "x".repeat(1 << 20)).into()),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}".to_vec()),
        ("a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}".to_vec()),
        ("an endless head", format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20)).into()),
        ("many headers", format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000)).into()),
        (
            "another protocol",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec(),
        ),
    ];
    for (what, request) in ways(&gateway) {
        for (kind, bytes) in &broken {
            peer.push([vec![send(bytes.clone()), Step::Close]]);
            check_error(&format!("{what}: {kind}"), &Client::once(gateway.address, &request), "");
        }
        // What may come before an answer, in any number.
        for head in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"] {
            peer.push([vec![send(behind(&head.repeat(1000)))]]);
            let response = Client::once(gateway.address, &request);
            assert_eq!((response.status, response.header("link")), (200, None), "{what}");
            assert!(response.text().contains("good"), "{what}: {}", response.text());
        }
    }
}
