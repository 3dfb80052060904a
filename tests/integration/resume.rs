//! Streams that break between the gateway and its client, and between a server and the gateway: each client gets each
//! event once, and nobody gets what is another's.

#[allow(dead_code, reason = "it can do more than is needed here")]
use crate::sse_server as server;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    AGGREGATED, Client, Gate, Gateway, PATIENCE, Peer, Request, Response, SINGLE, Setup, Step, answer, chunk,
    error, events, initialize, is_long, legacy_call, notification, open_session, result,
};
use metamcp::session::{ReadOutcome, ResumableStreams, ResumeError, SessionClaims, SessionKey, StreamReader};
use metamcp_config::sections::StreamsConfig;
use metamcp_core::base::{KeyId, MEMORY};
use metamcp_core::frame::EventSplitter;
use metamcp_core::protocol::{ClientCapabilities, Revision};
use metamcp_store::auth::{Sealer, parse_encryption_key};
use serde_json::Value;

/// Of the answers that are broken off.
const EVENTS: usize = 100;

/// In front of this server, which has sessions.
fn setup(peer: &Peer) -> Setup {
    Setup::new().server_with("a", peer.address, "era = \"legacy\"")
}

/// Who waits for what never comes is not kept waiting by comments.
const SILENT: &str = "[server]\nkeep_alive = \"10m\"";

fn tool(path: &str) -> &'static str {
    if path == SINGLE { "echo" } else { "a__echo" }
}

/// What a client has of a stream.
#[derive(Debug, Default, Clone)]
struct Had {
    messages: Vec<Value>,
    id: Option<String>,
    retry: Option<String>,
}

impl Had {
    /// Reads the events that are whole, as the SDKs' readers do.
    fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body).replace("\r\n", "\n");
        let mut had = Self::default();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
        for event in whole.split("\n\n").filter(|event| !event.is_empty()) {
            let field =
                |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            had.id = field("id").map(str::to_owned).or(had.id);
            had.retry = field("retry").map(str::to_owned).or(had.retry);
            if let Some(data) = field("data").filter(|data| !data.is_empty()) {
                had.messages.push(serde_json::from_str(data).unwrap());
            }
        }
        had
    }

    /// What came and what comes after it.
    fn and(mut self, later: Self) -> Self {
        self.messages.extend(later.messages);
        self
    }

    /// The numbers of the notifications, and whether the answer came behind them.
    fn numbers(&self) -> (Vec<u64>, bool) {
        let numbers =
            self.messages.iter().filter_map(|message| message["params"]["progress"].as_u64()).collect();
        let answers = self.messages.iter().filter(|message| !message["result"].is_null()).count();
        let is_last = self.messages.last().is_some_and(|message| !message["result"].is_null());
        assert!(answers <= 1, "answered twice");
        (numbers, is_last)
    }

    #[track_caller]
    fn check_all(&self, count: u64) {
        assert_eq!(self.numbers(), ((1..=count).collect(), true), "{:?}", self.messages.last());
    }
}

fn progress(number: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{number}}}}}"#
    )
}

/// The number's event as a server writes it: each a little otherwise, half of them with ids of the server's own.
fn event(number: usize) -> String {
    let (data, end) = (progress(number), if number.is_multiple_of(3) { "\r\n" } else { "\n" });
    let id = if number.is_multiple_of(2) { format!("id: own-{number}{end}") } else { String::new() };
    let comment = if number.is_multiple_of(5) { format!(": still here{end}") } else { String::new() };
    format!("{comment}event: message{end}{id}data: {data}{end}{end}")
}

/// The call's answer in so many events, with gates in front of some of them.
fn answer_behind(id: &str, gates: &[(usize, Gate)]) -> Vec<Step> {
    let mut steps = vec![Step::Send(events())];
    for number in 1..=EVENTS {
        if let Some((_, gate)) = gates.iter().find(|(at, _)| *at == number) {
            steps.push(Step::Wait(gate.clone()));
        }
        steps.push(Step::Send(chunk(&event(number))));
    }
    let last = format!("data: {}\n\n", result(id, "done"));
    steps.extend([Step::Send(chunk(&last)), Step::Send(chunk(""))]);
    steps
}

fn get(path: &str, session: &str, last_event_id: Option<&str>) -> Request {
    let request = Request::new("GET", path)
        .with("Accept", "text/event-stream")
        .with("MCP-Protocol-Version", "2025-11-25")
        .with("Mcp-Session-Id", session);
    match last_event_id {
        Some(id) => request.with("Last-Event-ID", id),
        None => request,
    }
}

/// Reads so many bytes of the body, or all there are, and breaks the connection.
fn read_and_break(mut client: Client, bytes: usize) -> Vec<u8> {
    assert_eq!(client.head().status, 200);
    let mut body = Vec::new();
    while body.len() < bytes {
        match client.chunk().unwrap() {
            Some(chunk) => body.extend(chunk),
            None => break,
        }
    }
    body.truncate(bytes);
    body
}

fn call(gateway: &Gateway, request: &Request) -> Client {
    let mut client = Client::connect(gateway.address);
    client.send(&request.bytes());
    client
}

#[track_caller]
fn resumed(gateway: &Gateway, request: &Request) -> Had {
    let response = Client::once(gateway.address, request);
    assert_eq!((response.status, response.whole), (200, true), "{}", response.text());
    Had::read(&response.body)
}

/// A session of another revision.
fn open_of(gateway: &Gateway, path: &str, revision: &str) -> String {
    let request = initialize(path);
    let body = String::from_utf8(request.body.clone()).unwrap().replace("2025-11-25", revision);
    Client::once(gateway.address, &request.body(body)).header("mcp-session-id").unwrap().to_owned()
}

/// Breaks the answer behind so many bytes, before or while the server writes on, and takes it up.
#[track_caller]
fn check_broken(gateway: &Gateway, peer: &Peer, path: &str, session: &str, cut: usize, goes_on: bool) {
    // One of its own: the call before may not have ended yet.
    let (gate, id) = (Gate::default(), cut.to_string());
    let gates = goes_on.then(|| (EVENTS / 2, gate.clone()));
    peer.push([answer_behind(&id, gates.as_slice())]);
    let client = call(gateway, &legacy_call(path, session, &id, tool(path), "{}"));
    // Of what comes before the gate some 80 bytes an event are sure to come.
    let first = Had::read(&read_and_break(client, if goes_on { cut.min(EVENTS / 2 * 80) } else { cut }));
    gate.open();
    let Some(id) = first.id.clone() else {
        return assert!(first.messages.is_empty());
    };
    if first.numbers().1 {
        return first.check_all(EVENTS as u64);
    }
    first.and(resumed(gateway, &get(path, session, Some(&id)))).check_all(EVENTS as u64);
}

#[test]
fn a_broken_stream_resumes_at_every_event() {
    let peer = Peer::script([]);
    let gateway = setup(&peer).with("[limits]\nkey_in_flight_max = 100000").start();
    let step = if is_long() { 97 } else { 2311 };
    let mut cuts = 0;
    for path in [SINGLE, AGGREGATED] {
        let session = open_session(&gateway, path, None);
        // More than the body has, so that the last ones have all of it.
        for cut in (1..EVENTS * 320).step_by(step) {
            // Without an id the client cannot come back, and the call ends with it: its id is free some time later.
            if cut < 250 {
                continue;
            }
            check_broken(&gateway, &peer, path, &session, cut, cut.is_multiple_of(2));
            cuts += 1;
        }
    }
    println!("{cuts} answers of {EVENTS} events broken off over sockets");
}

/// What a server sends, in pieces that events lie across.
fn pieces() -> Vec<Vec<u8>> {
    let stream: String = (1..=EVENTS).map(event).collect();
    let last = format!("data: {}\n\n", result("7", "done"));
    (stream + &last).as_bytes().chunks(37).map(<[u8]>::to_vec).collect()
}

/// What does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

/// Reads all there is, or so many bytes and some more.
fn read_until(reader: &mut StreamReader, bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < bytes {
        match reader.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ReadOutcome::Events(bytes)) => body.extend_from_slice(&bytes),
            Poll::Ready(ReadOutcome::End) | Poll::Pending => break,
            Poll::Ready(other) => panic!("{other:?}"),
        }
    }
    body
}

/// Broken off behind so many bytes, when so many of the pieces had come; false when the client had all by then.
#[track_caller]
fn check_cut(
    streams: &Arc<ResumableStreams>,
    seal: &SessionClaims,
    pieces: &[Vec<u8>],
    come: usize,
    cut: usize,
) -> bool {
    let (writer, mut reader) = streams.begin(seal, Some("7".into()));
    reader.announce_id();
    let stream = Arc::clone(writer.stream());
    let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
    let mut pass = |pieces: &[Vec<u8>]| {
        for piece in pieces {
            splitter.feed(piece, &mut parts);
        }
        for part in parts.drain(..) {
            now(writer.push(&part)).unwrap();
        }
    };
    pass(&pieces[..come]);
    let mut body = read_until(&mut reader, cut);
    let had_all = body.len() < cut;
    body.truncate(cut);
    drop(reader);
    pass(&pieces[come..]);
    writer.finish();
    let had = Had::read(&body);
    let Some(id) = had.id.clone() else {
        assert!(had.messages.is_empty());
        stream.discard();
        return true;
    };
    let mark = streams.parse_event_id(seal, id.as_bytes()).expect("its own id");
    match StreamReader::resume(&stream, mark.sequence) {
        Ok(mut again) => {
            let rest = Had::read(&read_until(&mut again, usize::MAX));
            had.and(rest).check_all(EVENTS as u64);
        }
        Err(why) => {
            assert_eq!(why, ResumeError::Complete);
            had.check_all(EVENTS as u64);
        }
    }
    stream.discard();
    !had_all
}

#[test]
fn a_broken_stream_resumes_at_every_byte() {
    let folder = Setup::new().place();
    let config = StreamsConfig {
        bytes_max: 1 << 20,
        stream_bytes_max: 1 << 18,
        retention: PATIENCE,
        poll_after: Duration::ZERO,
    };
    let key = parse_encryption_key("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    let sealer = Arc::new(Sealer::new(&key).unwrap());
    let streams = ResumableStreams::open(&folder.path().join("streams"), config, sealer, &MEMORY).unwrap();
    let seal = SessionClaims {
        key_id: KeyId::parse("AAAAAAAAAAAA").unwrap(),
        revision: Revision::V2025_11_25,
        capabilities: ClientCapabilities::from_byte(0),
        created_s: 1,
        key: SessionKey([1; 16]),
        scope: "e/x".into(),
    };
    let pieces = pieces();
    let mut cuts = 0;
    // All had come when the connection broke; half; and next to nothing.
    for come in [pieces.len(), pieces.len() / 2, 5] {
        let step = if is_long() { 1 } else { 67 };
        cuts += (0..).step_by(step).take_while(|cut| check_cut(&streams, &seal, &pieces, come, *cut)).count();
    }
    assert_eq!(streams.bytes(), 0, "nothing is left");
    assert!(cuts > 300, "{cuts}");
    println!("an answer of {EVENTS} events broken off at {cuts} places");
}

/// A client of an older revision is not told an id before an event comes, and then each event has one.
#[test]
fn event_ids_depend_on_the_revision() {
    let peer = Peer::script([]);
    let gateway = setup(&peer).start();
    let off = setup(&peer).with("[session]\nresume = false").start();
    let check = |gateway: &Gateway, path: &str, revision: &str, is_told: bool, ids: usize| {
        let session = open_of(gateway, path, revision);
        peer.push([answer_behind("7", &[])]);
        let asked = legacy_call(path, &session, "7", tool(path), "{}").set("MCP-Protocol-Version", revision);
        let body = Client::once(gateway.address, &asked).text();
        let had = Had::read(body.as_bytes());
        assert_eq!(had.retry.as_deref(), is_told.then_some("1000"), "{path} {revision}");
        assert_eq!(body.starts_with("id: "), is_told || ids > EVENTS / 2, "{path} {revision}");
        assert_eq!(body.matches("id: ").count(), ids, "{path} {revision}");
        assert_eq!(body.contains("own-"), ids == EVENTS / 2, "{path} {revision}");
        had.check_all(EVENTS as u64);
    };
    for path in [SINGLE, AGGREGATED] {
        // One for each event, for the answer, and for the one that only tells it.
        check(&gateway, path, "2025-11-25", true, EVENTS + 2);
        check(&gateway, path, "2025-06-18", false, EVENTS + 1);
        check(&gateway, path, "2025-03-26", false, EVENTS + 1);
    }
    // The server's own ids pass by name, and are taken out together.
    for (gateway, revision) in [(&gateway, "2024-11-05"), (&off, "2025-11-25")] {
        check(gateway, SINGLE, revision, false, EVENTS / 2);
        check(gateway, AGGREGATED, revision, false, 0);
    }
    // A server that chose an older revision than the client asked for: that is the one of its requests.
    let session = open_session(&gateway, SINGLE, None);
    peer.push([answer_behind("7", &[])]);
    let asked = legacy_call(SINGLE, &session, "7", "echo", "{}").set("MCP-Protocol-Version", "2025-06-18");
    assert_eq!(Had::read(&Client::once(gateway.address, &asked).body).retry, None);
}

/// A call outlives its connection when its client can come back, and else ends with it.
#[test]
fn a_call_continues_without_its_client() {
    let peer = Peer::script([]);
    let gateway = setup(&peer).start();
    for path in [SINGLE, AGGREGATED] {
        let session = open_session(&gateway, path, None);
        let gate = Gate::default();
        peer.push([answer_behind("7", &[(1, gate.clone())])]);
        let mut client = call(&gateway, &legacy_call(path, &session, "7", tool(path), "{}"));
        client.head();
        let told = client.raw_event().unwrap();
        let id = told.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
        drop(client);
        // Nothing has come yet; the client comes back first, breaks again, and comes once more.
        let mut again = call(&gateway, &get(path, &session, Some(&id)));
        assert_eq!(again.head().status, 200);
        assert!(again.raw_event().unwrap().contains(&id));
        drop(again);
        let mut third = call(&gateway, &get(path, &session, Some(&id)));
        assert_eq!(third.head().status, 200);
        gate.open();
        Had::read(&rest_of(third)).check_all(EVENTS as u64);
        // By then it has all; a client that asks nevertheless is told so.
        let last = resumed(&gateway, &get(path, &session, Some(&id))).id.unwrap();
        assert_eq!(Client::once(gateway.address, &get(path, &session, Some(&last))).status, 405);

        // An older client was told no id: the server is left as it leaves.
        let older = open_of(&gateway, path, "2025-06-18");
        peer.push([vec![Step::Send(events()), Step::Hold]]);
        let asked =
            legacy_call(path, &older, "7", tool(path), "{}").set("MCP-Protocol-Version", "2025-06-18");
        let mut client = call(&gateway, &asked);
        client.head();
        let connection = peer.calls().last().unwrap().connection;
        drop(client);
        peer.wait_closed(connection);

        // One that was cancelled is not waited for.
        peer.push([vec![Step::Send(events()), Step::Hold]]);
        let mut client = call(&gateway, &legacy_call(path, &session, "8", tool(path), "{}"));
        client.head();
        client.raw_event().unwrap();
        let connection = peer.calls().last().unwrap().connection;
        let told = notification(path, &session, "notifications/cancelled", r#""requestId":8"#);
        assert_eq!(Client::once(gateway.address, &told).status, 202);
        drop(client);
        peer.wait_closed(connection);

        // Nor is the rest of the stream, whose server holds it open, of one that was answered.
        let answer = format!("data: {}\n\n", result("9", "done"));
        peer.push([vec![Step::Send(events()), Step::Send(chunk(&answer)), Step::Hold]]);
        let mut client = call(&gateway, &legacy_call(path, &session, "9", tool(path), "{}"));
        client.head();
        let last = loop {
            let event = client.raw_event().unwrap();
            if event.contains("done") {
                break event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
            }
        };
        let connection = peer.calls().last().unwrap().connection;
        drop(client);
        peer.wait_closed(connection);
        assert_eq!(Client::once(gateway.address, &get(path, &session, Some(&last))).status, 405);
    }
}

/// All of a body.
fn rest_of(mut client: Client) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(bytes) = client.chunk().unwrap() {
        body.extend(bytes);
    }
    body
}

/// A call with an answer of some events, broken off behind the first one; gives its last id.
#[track_caller]
fn broken_call(gateway: &Gateway, peer: &Peer, path: &str, session: &str, key: Option<&str>) -> String {
    peer.push([answer_behind("7", &[])]);
    let asked = with_key(legacy_call(path, session, "7", tool(path), "{}"), key);
    Had::read(&read_and_break(call(gateway, &asked), 600)).id.expect("an id")
}

fn with_key(request: Request, key: Option<&str>) -> Request {
    match key {
        Some(key) => request.with("Authorization", format!("Bearer {key}")),
        None => request,
    }
}

/// The one event by which a call is told that its answer is not to be had; asked once more, nothing follows.
#[track_caller]
fn check_gone(gateway: &Gateway, path: &str, session: &str, id: &str) {
    let had = resumed(gateway, &get(path, session, Some(id)));
    let [message] = &had.messages[..] else { panic!("{} messages", had.messages.len()) };
    assert_eq!(
        (message["id"].as_i64(), message["error"]["code"].as_i64()),
        (Some(7), Some(-32603)),
        "{message}"
    );
    let over = had.id.unwrap();
    assert_eq!(Client::once(gateway.address, &get(path, session, Some(&over))).status, 405);
}

#[test]
fn an_event_id_is_valid_for_its_own_session_only() {
    let peer = Peer::script([]);
    let gateway = setup(&peer).keys().start();
    let keys: Vec<(String, String)> = ["one", "two"].map(|name| gateway.keys().create(name)).into();
    for path in [SINGLE, AGGREGATED] {
        let (one, two) = (Some(keys[0].1.as_str()), Some(keys[1].1.as_str()));
        let [mine, also_mine] = [(); 2].map(|()| open_session(&gateway, path, one));
        let theirs = open_session(&gateway, path, two);
        // The same id of a call in all three, at the same time.
        let sessions = [(&mine, one), (&also_mine, one), (&theirs, two)];
        let ids = sessions.map(|(session, key)| broken_call(&gateway, &peer, path, session, key));
        let ask = |session: &str, key, id: &str| -> Response {
            Client::once(gateway.address, &with_key(get(path, session, Some(id)), key))
        };
        for (index, (session, key)) in sessions.into_iter().enumerate() {
            for (other, id) in ids.iter().enumerate().filter(|(other, _)| *other != index) {
                let refused = ask(session, key, id);
                assert_eq!(
                    (refused.status, error(&refused)),
                    (400, -32600),
                    "{index} with the id of {other}"
                );
            }
            // Cut off, of another form, and nothing at all.
            for id in [&ids[index][..40], &ids[index][..ids[index].len() - 1], "1", "own-2", "../x", "~"] {
                assert_eq!(ask(session, key, id).status, 400, "{id}");
            }
        }
        // Another's session is unknown, whatever the id.
        assert_eq!(ask(&mine, two, &ids[0]).status, 404);
        for ((session, key), id) in sessions.into_iter().zip(&ids) {
            let had = Had::read(&ask(session, key, id).body);
            assert_eq!(had.messages.last().unwrap()["id"], 7);
            assert_eq!(had.numbers().0.last(), Some(&(EVENTS as u64)));
        }
        // A session that was ended has nothing any more.
        let ended = with_key(Request::new("DELETE", path).with("Mcp-Session-Id", &mine), one);
        assert_eq!(Client::once(gateway.address, &ended).status, 200);
        assert_eq!(ask(&mine, one, &ids[0]).status, 404);
        assert!(Had::read(&ask(&also_mine, one, &ids[1]).body).numbers().0.len() > EVENTS / 2);
    }
    // A key that was switched off meanwhile.
    let session = open_session(&gateway, SINGLE, Some(&keys[1].1));
    let id = broken_call(&gateway, &peer, SINGLE, &session, Some(&keys[1].1));
    gateway.keys().revoke(&keys[1].0);
    let asked = with_key(get(SINGLE, &session, Some(&id)), Some(&keys[1].1));
    let deadline = Instant::now() + PATIENCE;
    while Client::once(gateway.address, &asked).status != 401 {
        assert!(Instant::now() < deadline, "the key still opens");
    }
}

#[test]
fn a_lost_stream_is_an_error_of_its_call() {
    let peer = Peer::script([]);
    let gateway = setup(&peer).start();
    let session = open_session(&gateway, AGGREGATED, None);
    let id = broken_call(&gateway, &peer, AGGREGATED, &session, None);
    // Another process: it knows the session and the id, and has nothing of what was.
    let gateway = gateway.restart();
    check_gone(&gateway, AGGREGATED, &session, &id);
    drop(gateway);
    // Kept for a moment only.
    let short = setup(&peer).with("[session]\nresume_for = \"100ms\"").start();
    let session = open_session(&short, SINGLE, None);
    let id = broken_call(&short, &peer, SINGLE, &session, None);
    let is_gone = || {
        let had = resumed(&short, &get(SINGLE, &session, Some(&id)));
        had.messages.len() == 1 && !had.messages[0]["error"].is_null()
    };
    peer.wait_until("what is kept to go", |_| is_gone());
    check_gone(&short, SINGLE, &session, &id);
    drop(short);
    // Room for little: what ended first goes first.
    let bounds = "[session]\nresume_bytes_max = \"1MiB\"\nresume_stream_bytes_max = \"256KiB\"";
    let small = setup(&peer).with(bounds).start();
    let broken = (0..100).map(|_| {
        let session = open_session(&small, SINGLE, None);
        let id = broken_call(&small, &peer, SINGLE, &session, None);
        (session, id)
    });
    let broken: Vec<(String, String)> = broken.collect();
    check_gone(&small, SINGLE, &broken[0].0, &broken[0].1);
    let (session, id) = &broken[99];
    let last = resumed(&small, &get(SINGLE, session, Some(id)));
    assert_eq!(last.numbers().0.last(), Some(&(EVENTS as u64)));
}

/// Far more than is kept passes to a client that reads it.
#[test]
fn a_long_answer_passes_through_little_storage() {
    let peer = Peer::script([]);
    let bounds = "[session]\nresume_bytes_max = \"1MiB\"\nresume_stream_bytes_max = \"64KiB\"";
    let gateway = setup(&peer).with(bounds).start();
    for path in [SINGLE, AGGREGATED] {
        let session = open_session(&gateway, path, None);
        let long = format!("data: {}\n\n", result("7", &"x".repeat(3 << 20)));
        let small = (1..=2000).map(|number| Step::Send(chunk(&event(number))));
        let mut steps = vec![Step::Send(events())];
        steps.extend(small);
        steps.extend([Step::Send(chunk(&long)), Step::Send(chunk(""))]);
        peer.push([steps]);
        let whole = Client::once(gateway.address, &legacy_call(path, &session, "7", tool(path), "{}"));
        let had = Had::read(&whole.body);
        had.check_all(2000);
        assert!(whole.whole && whole.body.len() > 3 << 20);
    }
}

/// What a server says outside of calls, and asks.
#[test]
fn the_session_stream_resumes() {
    for path in [SINGLE, AGGREGATED] {
        let peer = Peer::script([]);
        let gateway = setup(&peer).with(SILENT).start();
        // A comment may stand within an event, too.
        let said =
            |data: &str| Step::Send(chunk(&format!(": here\nid: own\nevent: message\ndata: {data}\n\n")));
        let (second, third) = (Gate::default(), Gate::default());
        peer.push_streams_of_clients([vec![
            Step::Send(events()),
            said(&progress(1)),
            Step::Wait(second.clone()),
            said(&progress(2)),
            said(r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#),
            Step::Wait(third.clone()),
            said(&progress(3)),
            Step::Hold,
        ]]);
        let session = open_session(&gateway, path, None);
        let mut client = call(&gateway, &get(path, &session, None));
        client.head();
        // The first call opens the session at the server, and with it the stream.
        assert_eq!(
            Client::once(gateway.address, &legacy_call(path, &session, "7", tool(path), "{}")).status,
            200
        );
        let told = client.raw_event().unwrap();
        assert!(told.contains("retry: 1000\ndata: \n"), "{told}");
        let first = client.raw_event().unwrap();
        assert!(first.contains(r#""progress":1"#), "{first}");
        let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
        drop(client);
        second.open();
        let mut again = call(&gateway, &get(path, &session, Some(&id)));
        assert_eq!(again.head().status, 200);
        let next = |client: &mut Client| client.event().unwrap();
        assert_eq!(next(&mut again)["params"]["progress"], 2);
        let asked = next(&mut again);
        assert_eq!(asked["method"], "roots/list");
        let expected = if path == SINGLE { Value::from(1) } else { Value::from("a~MQ") };
        assert_eq!(asked["id"], expected);
        third.open();
        assert_eq!(next(&mut again)["params"]["progress"], 3);
        // One without an id is another stream, and the one before ends.
        let mut other = call(&gateway, &get(path, &session, None));
        assert_eq!(other.head().status, 200);
        assert_eq!(again.event(), None);
        let at_its_end = Client::once(gateway.address, &get(path, &session, Some(&id)));
        assert_eq!(at_its_end.status, 405, "the client has another one");
    }
    // After a restart there is an ordinary one in its place.
    let gateway = setup(&Peer::script([])).with(SILENT).start();
    let session = open_session(&gateway, AGGREGATED, None);
    let mut client = call(&gateway, &get(AGGREGATED, &session, None));
    client.head();
    let told = client.raw_event().unwrap();
    let id = told.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    drop(client);
    let gateway = gateway.restart();
    let mut again = call(&gateway, &get(AGGREGATED, &session, Some(&id)));
    assert_eq!(again.head().status, 200);
    let anew = again.raw_event().unwrap();
    assert!(anew.starts_with("id: ") && !anew.contains(&id), "{anew}");
    // What changed meanwhile is not known: the client is to look.
    assert_eq!(again.event().unwrap()["method"], "notifications/tools/list_changed");
}

/// The server's stream breaks before the answer: it is asked for what followed, if it gave an id.
#[test]
fn a_broken_server_stream_is_resumed_at_the_server() {
    // These events, of the answer, and what is at their end.
    let some = |from: usize, to: usize, end: Vec<Step>| -> Vec<Step> {
        let events_of = (from..=to).map(|number| Step::Send(chunk(&event(number))));
        std::iter::once(Step::Send(events())).chain(events_of).chain(end).collect()
    };
    // Within the next one.
    let broken = |how: Step| vec![Step::Send(chunk("id: half\ndata: {\"jsonrpc\"")), how];
    let rest = |from: usize| {
        let last = format!("data: {}\n\n", result("7", "done"));
        some(from, EVENTS, vec![Step::Send(chunk(&last)), Step::Send(chunk(""))])
    };
    let closed = || vec![Step::Send(chunk("id: own-x\nretry: 60\ndata: \n\n")), Step::Send(chunk(""))];
    for path in [SINGLE, AGGREGATED] {
        let peer = Peer::script([]);
        let gateway = setup(&peer).start();
        let session = open_session(&gateway, path, None);
        let ask = || {
            let response = Client::once(gateway.address, &legacy_call(path, &session, "7", tool(path), "{}"));
            assert!(response.whole);
            Had::read(&response.body)
        };
        let last_asked = || {
            let all = peer.all();
            let asked = all.iter().rev().find(|seen| seen.header("last-event-id").is_some()).cloned();
            asked.and_then(|seen| seen.header("last-event-id").map(str::to_owned))
        };
        // It broke; broke again further on; was closed, to be asked later.
        peer.push([some(1, 10, broken(Step::Reset))]);
        peer.push_resumptions([rest(11)]);
        ask().check_all(EVENTS as u64);
        assert_eq!(last_asked().as_deref(), Some("own-10"));
        peer.push([some(1, 10, broken(Step::Reset))]);
        peer.push_resumptions([some(11, 30, broken(Step::Close)), rest(31)]);
        ask().check_all(EVENTS as u64);
        assert_eq!(last_asked().as_deref(), Some("own-30"));
        peer.push([some(1, 10, closed())]);
        peer.push_resumptions([rest(11)]);
        ask().check_all(EVENTS as u64);
        assert_eq!(last_asked().as_deref(), Some("own-x"));
        // It cannot be reached for a while, and something in front of it says so.
        peer.push([some(1, 10, broken(Step::Reset))]);
        let unavailable = vec![Step::Send(answer("503 Service Unavailable", "")), Step::Close];
        peer.push_resumptions([vec![Step::Close], vec![Step::Reset], unavailable, rest(11)]);
        ask().check_all(EVENTS as u64);
        assert_eq!(last_asked().as_deref(), Some("own-10"));
        // It goes on, and breaks before anything comes: it is asked again, until it refuses.
        peer.push([some(1, 10, broken(Step::Reset))]);
        peer.push_resumptions([some(11, 10, broken(Step::Reset)), some(11, 10, vec![Step::Close]), rest(11)]);
        ask().check_all(EVENTS as u64);
        peer.push([some(1, 10, broken(Step::Reset))]);
        peer.push_resumptions([some(11, 10, broken(Step::Reset))]);
        assert_eq!(ask().messages.last().unwrap()["error"]["code"], -32603);
        // It does not go on: the call is told so, as ever.
        peer.push([some(1, 10, broken(Step::Reset))]);
        let had = ask();
        assert_eq!(had.numbers().0, (1..=10).collect::<Vec<_>>());
        assert_eq!(had.messages.last().unwrap()["error"]["code"], -32603);
        // It gave no id: nobody is asked.
        let before = peer.all().iter().filter(|seen| seen.header("last-event-id").is_some()).count();
        peer.push([some(1, 1, broken(Step::Reset))]);
        assert_eq!(ask().messages.last().unwrap()["error"]["code"], -32603);
        assert_eq!(peer.all().iter().filter(|seen| seen.header("last-event-id").is_some()).count(), before);
    }
}

/// A client that comes back is sent away from a call that takes long, where that is asked for.
#[test]
fn a_client_may_poll_for_its_answer() {
    let peer = Peer::script([]);
    let polled = "[server]\nkeep_alive = \"1s\"\n[session]\npoll_after = \"1s\"";
    let gateway = setup(&peer).with(polled).start();
    let session = open_session(&gateway, AGGREGATED, None);
    let gate = Gate::default();
    peer.push([answer_behind("7", &[(1, gate.clone())])]);
    let response = Client::once(gateway.address, &legacy_call(AGGREGATED, &session, "7", "a__echo", "{}"));
    let had = Had::read(&response.body);
    assert!(response.whole && had.messages.is_empty() && had.retry.is_some());
    gate.open();
    let id = had.id.unwrap();
    resumed(&gateway, &get(AGGREGATED, &session, Some(&id))).check_all(EVENTS as u64);
}

/// The demonstration server, on a thread of this process.
fn demo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || metamcp_demo::serve(listener));
    address
}

/// Servers of every kind: a program, the transport of 2024-11-05, and one of the other era.
#[test]
fn whatever_stands_behind() {
    let fixture = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let old = server::Server::start();
    let tables = format!(
        "[servers.program]\ncommand = {fixture:?}\n\
         [servers.old]\nurl = \"http://{}/sse\"\ntransport = \"sse\"\n\
         [servers.modern]\nurl = \"http://{}/mcp\"\nera = \"modern\"\n",
        old.address,
        demo(),
    );
    let gateway = Setup::new().with(&tables).start();
    let countdown = r#""arguments":{"steps":9,"delay_ms":1}"#;
    let steps = r#""arguments":{"steps":9}"#;
    for (server, tool, arguments) in
        [("program", "progress", steps), ("old", "progress", steps), ("modern", "countdown", countdown)]
    {
        for (path, tool) in [
            (format!("/servers/{server}/mcp"), tool.to_owned()),
            (AGGREGATED.to_owned(), format!("{server}__{tool}")),
        ] {
            let session = open_session(&gateway, &path, None);
            let params = format!(r#""name":"{tool}",{arguments},"_meta":{{"progressToken":1}}"#);
            let asked = crate::support::legacy(&path, &session, "7", "tools/call", &params);
            let whole = Had::read(&Client::once(gateway.address, &asked).body);
            assert!(
                whole.messages.last().unwrap()["result"].is_object(),
                "{server}: {:?}",
                whole.messages.last()
            );
            let expected = whole.messages.len();
            assert!(expected > 1, "{server} {path}: {:?}", whole.messages);
            for cut in [200, 700, 1100] {
                // One of its own: the call before may not have ended yet.
                let id = cut.to_string();
                let asked = crate::support::legacy(&path, &session, &id, "tools/call", &params);
                let first = Had::read(&read_and_break(call(&gateway, &asked), cut));
                let Some(id) = first.id.clone() else { continue };
                let had = first.and(resumed(&gateway, &get(&path, &session, Some(&id))));
                assert_eq!(had.messages.len(), expected, "{server} {path} cut at {cut}: {:?}", had.messages);
                assert!(had.messages.last().unwrap()["result"].is_object());
            }
        }
    }
}
