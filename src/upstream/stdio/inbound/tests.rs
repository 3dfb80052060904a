use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::client_slots::{ClientSlotId, SessionOrigin};
use super::super::supervisor::Supervisor;
use super::super::target::StdioTarget;
use super::*;
use metamcp_core::base::KeyId;
use metamcp_core::protocol::ClientCapabilities;
use metamcp_http::FailureStage;
use metamcp_http::multiplex::{CallOutcome, EventSource, LocalBody, ServerRequests, event_channel};

/// A process with clients `a`, `b` and so on, and calls.
struct Fixture {
    connection: Rc<ProcessConnection>,
    clients: Vec<ClientSlotId>,
    streams: Vec<Option<EventSource>>,
    calls: Vec<(oneshot::Receiver<CallOutcome>, Option<EventSource>)>,
}

impl Fixture {
    fn new(era: Era, clients: usize) -> Self {
        let supervisor = Supervisor::new(StdioTarget::sample(), Arc::default());
        let connection =
            ProcessConnection::new(&supervisor.context, era, 1, tokio::time::Instant::now(), Rc::default());
        let mut fixture = Self { connection, clients: Vec::new(), streams: Vec::new(), calls: Vec::new() };
        (0..clients).for_each(|_| fixture.add_client(SessionOrigin::sample("session")));
        fixture
    }

    fn add_client(&mut self, session: SessionOrigin) {
        let client = self.connection.state.borrow_mut().clients.add(session);
        let (sink, events) = event_channel();
        self.connection.state.borrow_mut().clients.get_mut(client).unwrap().stream.open(0, sink);
        self.clients.push(client);
        self.streams.push(Some(events));
    }

    fn send_call(&mut self, client: Option<usize>, message: &str, kind: CallKind) {
        let message = Bytes::from(message.to_owned());
        let envelope = self.connection.context.scanner.borrow_mut().scan(&message).unwrap();
        let (reply, answer) = oneshot::channel();
        let call = Some(self.calls.len() as u64);
        let client = client.map(|client| self.clients[client]);
        let recipient = Recipient::Client(ResponseSink::Waiting(reply));
        let pending = PendingCall { call, client, kind, recipient };
        assert!(self.connection.send_call(&message, &envelope, pending).is_ok());
        self.calls.push((answer, None));
    }

    #[track_caller]
    fn send_call_refused(&self, message: &str) {
        let message = Bytes::from(message.to_owned());
        let envelope = self.connection.context.scanner.borrow_mut().scan(&message).unwrap();
        let recipient = Recipient::Client(ResponseSink::Waiting(oneshot::channel().0));
        let pending = PendingCall { call: None, client: None, kind: CallKind::Call, recipient };
        assert!(self.connection.send_call(&message, &envelope, pending).is_err());
    }

    /// Returns what was written to the process.
    fn written(&self) -> String {
        String::from_utf8(self.connection.take_outbox().to_vec()).unwrap()
    }

    fn receive(&self, line: &str) -> Result<(), TooManyInvalidLines> {
        self.connection.receive_line(&Bytes::from(line.to_owned()))
    }

    /// Returns what clients received since the last call: calls by number, streams by letter.
    fn received(&mut self) -> String {
        let mut received = Vec::new();
        for (number, (answer, events)) in self.calls.iter_mut().enumerate() {
            match answer.try_recv() {
                Ok(Ok(reply)) => match reply.body {
                    LocalBody::Message(message) => received.push(format!("{number}: {}", text(&message))),
                    LocalBody::Events(begun) => *events = Some(begun),
                    LocalBody::Failed(stage) => panic!("{stage}"),
                },
                Ok(Err(error)) => received.push(format!("{number}: {:?}", error.stage)),
                Err(_) => {}
            }
            received.extend(drain(events).into_iter().map(|event| format!("{number}> {event}")));
        }
        for (client, events) in self.streams.iter_mut().enumerate() {
            let letter = ["a", "b", "c"][client];
            received.extend(drain(events).into_iter().map(|event| format!("{letter}> {event}")));
        }
        self.connection.request_ids.untagged(&received.join("\n"))
    }
}

fn drain(events: &mut Option<EventSource>) -> Vec<String> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut found = Vec::new();
    while let Some(Poll::Ready(next)) = events.as_mut().map(|events| events.poll_next(&mut cx)) {
        match next {
            Some(Ok(event)) => {
                let event = text(&event);
                let data = event.strip_prefix("event: message\ndata: ").expect("an event");
                found.push(data.trim_end().to_owned());
            }
            Some(Err(error)) => found.push(format!("{:?}", error.stage)),
            None => {
                found.push("end".to_owned());
                *events = None;
            }
        }
    }
    found
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn request(id: &str, rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x"{rest}}}}}"#)
}

fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{{params}}}}}"#)
}

#[test]
fn responses_get_the_clients_ids() {
    let mut fixture = Fixture::new(Era::Legacy, 2);
    for (client, id) in [(0, "0"), (1, "0"), (0, "\"0\""), (1, "9007199254740993"), (0, r#""a\u0062""#)] {
        fixture.send_call(Some(client), &request(id, ""), CallKind::Call);
    }
    let written = fixture.written();
    let ids: Vec<_> = written.lines().map(|line| line.split([':', ',']).nth(3).unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    // Responses may come in any order and with any spacing. An error is a response too.
    fixture.receive(r#"{"result":{"id":1},"id": 4 ,"jsonrpc":"2.0"}"#).unwrap();
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#).unwrap();
    fixture.receive(r#"[{"jsonrpc":"2.0","id":5,"result":5},{"jsonrpc":"2.0","id":3,"result":3}]"#).unwrap();
    let expected = r#"0: {"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"x"}}
2: {"jsonrpc":"2.0","id":"0","result":3}
3: {"result":{"id":1},"id": 9007199254740993 ,"jsonrpc":"2.0"}
4: {"jsonrpc":"2.0","id":"a\u0062","result":5}"#;
    assert_eq!(fixture.received(), expected);
    // Each id is answered once. Ids that were never sent are ignored.
    for id in ["1", "4", "6", "\"2\"", "02", "0"] {
        fixture.receive(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"stray"}}"#)).unwrap();
    }
    assert_eq!(fixture.received(), "");
    fixture.receive(r#"{"jsonrpc":"2.0","id":2,"result":2}"#).unwrap();
    assert_eq!(fixture.received(), r#"1: {"jsonrpc":"2.0","id":0,"result":2}"#);
    assert_eq!(fixture.connection.state.borrow().calls.len(), 0);
}

#[test]
fn progress_goes_to_the_call_of_its_token() {
    let mut fixture = Fixture::new(Era::Legacy, 2);
    fixture.send_call(Some(0), &request("0", r#","_meta":{"progressToken":"t"}"#), CallKind::Call);
    fixture.send_call(Some(1), &request("0", r#","_meta":{"progressToken":7}"#), CallKind::Call);
    fixture.send_call(Some(1), &request("1", ""), CallKind::Call);
    let written = fixture.written();
    let tokens: Vec<_> = written.lines().map(|line| line.contains(r#""progressToken":"#)).collect();
    assert_eq!(tokens, [true, true, false]);
    assert!(written.lines().next().unwrap().ends_with(r#""_meta":{"progressToken":1}}}"#), "{written}");
    for token in ["2", "1", "3", "7", "\"t\""] {
        fixture
            .receive(&notification("progress", &format!(r#""progressToken":{token},"progress":1"#)))
            .unwrap();
    }
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap();
    let expected = r#"0> {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}
0> {"jsonrpc":"2.0","id":0,"result":1}
0> end
1> {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
    assert_eq!(fixture.received(), expected);
}

/// Messages of a process that name no call. With one client they go to that client, with two to none or to
/// both.
#[test]
fn only_certain_messages_are_passed_on() {
    let check = |clients: usize, subscribed: &[usize], line: &str, expected: &str, written: &str| {
        let mut fixture = Fixture::new(Era::Legacy, clients);
        for client in subscribed {
            let uri = "file:///x";
            let message = format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#
            );
            fixture.send_call(Some(*client), &message, CallKind::Subscribe(uri.into()));
            let id = fixture.calls.len();
            fixture.receive(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).unwrap();
        }
        fixture.received();
        fixture.written();
        fixture.receive(line).unwrap();
        let received: Vec<_> = fixture.received().lines().map(|line| line[..2].to_owned()).collect();
        assert_eq!(received.join(" "), expected, "{clients} {line}");
        let refused = fixture.written();
        assert!(refused.contains(written) && refused.is_empty() == written.is_empty(), "{line}: {refused}");
    };
    let log = notification("message", r#""level":"info","data":"secret""#);
    let changed = notification("tools/list_changed", "");
    let updated = notification("resources/updated", r#""uri":"file:///x""#);
    let roots = r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;
    let ping = r#"{"jsonrpc":"2.0","id":"r","method":"ping"}"#;
    check(1, &[], &log, "a>", "");
    check(2, &[], &log, "", "");
    check(0, &[], &log, "", "");
    check(1, &[], &changed, "a>", "");
    check(2, &[], &changed, "a> b>", "");
    check(2, &[1], &updated, "b>", "");
    check(2, &[0, 1], &updated, "a> b>", "");
    check(2, &[], &updated, "", "");
    check(1, &[], &updated, "", "");
    check(1, &[], roots, "a>", "");
    check(2, &[], roots, "", "-32601");
    check(0, &[], roots, "", "-32601");
    check(2, &[], ping, "", r#""result":{}"#);
    check(1, &[], &notification("cancelled", r#""requestId":"r""#), "", "");
    check(1, &[], &notification("custom/thing", ""), "a>", "");
    check(2, &[], &notification("custom/thing", ""), "", "");
}

/// A log message, on a process with sessions of these keys; `-` is the gateway's own session for its lists.
#[tokio::test(start_paused = true)]
async fn what_names_no_call_goes_to_no_other_key() {
    let key = |letter: char| KeyId::parse(&letter.to_string().repeat(12));
    let check = |keys: &str, expected: &str| {
        let mut fixture = Fixture::new(Era::Legacy, 0);
        for letter in keys.chars() {
            fixture.add_client(SessionOrigin { owner: key(letter), ..SessionOrigin::sample("session") });
        }
        fixture.receive(&notification("message", r#""level":"info","data":"secret""#)).unwrap();
        let received: Vec<_> = fixture.received().lines().map(|line| line[..2].to_owned()).collect();
        assert_eq!(received.join(" "), expected, "{keys}");
        fixture
    };
    check("a", "a>");
    check("-a", "b>");
    check("-", "a>");
    check("aa", "");
    check("-ab", "");
    // The only call in flight is no other key's either.
    let mut fixture = check("ab", "");
    for stream in fixture.streams.drain(..) {
        drop(stream);
    }
    tokio::time::advance(Duration::from_mins(1)).await;
    let log = notification("message", r#""level":"info","data":"secret""#);
    fixture.send_call(Some(1), &request("1", ""), CallKind::Call);
    fixture.receive(&log).unwrap();
    assert_eq!(fixture.received(), "");
    // Nor is the only client that is left, for a while.
    fixture.connection.remove_client(fixture.clients[0]);
    fixture.receive(&log).unwrap();
    assert_eq!(fixture.received(), "");
    tokio::time::advance(Duration::from_secs(10)).await;
    fixture.receive(&log).unwrap();
    assert!(fixture.received().starts_with("0> "));
}

/// A late log message of a Modern process meets a call of another key.
#[test]
fn late_log_messages_meet_no_other_key() {
    let check = |keys: [char; 2], expected: &str| {
        let mut fixture = Fixture::new(Era::Modern, 0);
        for letter in keys {
            fixture.connection.note_caller(KeyId::parse(&letter.to_string().repeat(12)).unwrap());
        }
        fixture.send_call(None, &request("0", ""), CallKind::CallWithLogs);
        fixture.receive(&notification("message", r#""level":"info","data":"secret""#)).unwrap();
        assert_eq!(fixture.received().split(' ').next(), Some(expected), "{keys:?}");
    };
    check(['a', 'a'], "0>");
    check(['a', 'b'], "");
}

#[test]
fn only_the_asked_client_may_respond() {
    let mut fixture = Fixture::new(Era::Legacy, 1);
    fixture.receive(r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#).unwrap();
    fixture.receive(r#"{"jsonrpc":"2.0","id":"s","method":"roots/list"}"#).unwrap();
    fixture.receive(r#"{"jsonrpc":"2.0","id":"t","method":"roots/list"}"#).unwrap();
    let late = fixture.connection.state.borrow_mut().clients.add(SessionOrigin::sample("b"));
    let respond = |client, id: &str| fixture.connection.send_response(client, id.as_bytes(), b"{}");
    let asked = fixture.clients[0];
    assert_eq!(respond(late, "\"r\""), Ok(false), "another client's answer");
    assert_eq!(respond(asked, "\"r\""), Ok(true));
    assert_eq!(respond(asked, "\"r\""), Ok(false), "a second answer");
    assert_eq!(respond(asked, "\"x\""), Ok(false), "an answer to nothing");
    fixture.received();
    fixture.receive(&notification("cancelled", r#""requestId":"t""#)).unwrap();
    assert!(fixture.received().starts_with("a> "), "the asked client learns that the request is cancelled");
    assert_eq!(fixture.connection.send_response(asked, b"\"t\"", b"{}"), Ok(false));
    fixture.written();
    fixture.connection.remove_client(fixture.clients[0]);
    assert_eq!(fixture.written().matches("-32601").count(), 1, "the process does not wait for ever");
}

#[test]
fn a_full_outbox_refuses_answers_and_takes_control_messages() {
    let mut fixture = Fixture::new(Era::Legacy, 1);
    let large = request("1", &format!(r#","text":"{}""#, "x".repeat(9 << 20)));
    fixture.send_call(Some(0), &large, CallKind::Call);
    fixture.receive(ROOTS).unwrap();
    fixture.send_call_refused(&request("2", ""));
    // The process still waits for the answer, so that the client can send it again.
    let respond = |fixture: &Fixture| fixture.connection.send_response(fixture.clients[0], b"\"r\"", b"{}");
    assert_eq!(respond(&fixture), Err(FailureStage::QueueFull));
    fixture.receive(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
    fixture.connection.cancel(fixture.clients[0], b"1");
    let written = fixture.written();
    for message in [r#""id":"p","result""#, "notifications/cancelled", "-32601"] {
        assert_eq!(written.matches(message).count(), 1, "{message}");
    }
    // The call during which it was sent was cancelled, and the request with it.
    assert_eq!(respond(&fixture), Ok(false));
    fixture.receive(ROOTS).unwrap();
    fixture.send_call(Some(0), &large, CallKind::Call);
    assert_eq!(respond(&fixture), Err(FailureStage::QueueFull));
    fixture.written();
    assert_eq!((respond(&fixture), respond(&fixture)), (Ok(true), Ok(false)));
    assert_eq!(fixture.written(), "{}\n");
}

#[test]
fn control_messages_to_a_process_that_reads_nothing_are_bounded() {
    let fixture = Fixture::new(Era::Legacy, 1);
    let has_stalled = || {
        futures_util::future::FutureExt::now_or_never(fixture.connection.input_stalled.notified()).is_some()
    };
    for _ in 0..20_000 {
        fixture.receive(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
    }
    assert!(!has_stalled(), "a process may be slow");
    for _ in 0..20_000 {
        fixture.receive(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
    }
    assert!(has_stalled(), "it is ended, as it would miss the rest");
    let written = fixture.written();
    let pongs = written.matches("result").count();
    assert!((20_000..40_000).contains(&pongs) && written.len() <= 1 << 20, "{pongs}: {}", written.len());
}

const ROOTS: &str = r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;

/// A program that was restarted counts its requests anew.
#[test]
fn an_answer_to_the_process_before_is_for_no_request() {
    let mut fixtures = [(); 2].map(|()| Fixture::new(Era::Legacy, 1));
    let answer = |id: &[u8]| {
        let id = String::from_utf8_lossy(id);
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"roots":[]}}}}"#))
    };
    let answers = fixtures.each_ref().map(|one| answer(&one.connection.request_ids.to_client(b"1")));
    for fixture in &mut fixtures {
        fixture.receive(r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#).unwrap();
        assert!(fixture.received().contains("roots/list"));
    }
    let give = |process: usize, message: &Bytes| {
        let Fixture { connection, clients, .. } = &fixtures[process];
        let envelope = connection.context.scanner.borrow_mut().scan(message).unwrap();
        let sent = connection.receive_answer(clients[0], message, &envelope);
        (sent, fixtures[process].written())
    };
    assert_eq!(give(1, &answers[0]), (Ok(false), String::new()));
    assert_eq!(give(1, &answer(b"1")), (Ok(false), String::new()), "an id that no client was given");
    let own = String::from_utf8_lossy(&answer(b"1")).into_owned();
    assert_eq!(give(1, &answers[1]), (Ok(true), format!("{own}\n")));
    assert_eq!(give(1, &answers[1]), (Ok(false), String::new()), "once");
}

#[test]
fn a_client_is_asked_only_what_it_declared() {
    let rows = [
        ("roots/list", ClientCapabilities::ROOTS),
        ("sampling/createMessage", ClientCapabilities::SAMPLING),
        ("elicitation/create", ClientCapabilities::ELICITATION_FORM),
        ("elicitation/create", ClientCapabilities::ELICITATION_URL),
    ];
    for (method, declared) in rows {
        for (_, capabilities) in rows {
            let mut fixture = Fixture::new(Era::Legacy, 0);
            fixture.add_client(SessionOrigin { capabilities, ..SessionOrigin::sample("session") });
            fixture.send_call(Some(0), &request("1", ""), CallKind::Call);
            fixture.written();
            fixture.receive(&format!(r#"{{"jsonrpc":"2.0","id":"q","method":"{method}"}}"#)).unwrap();
            let is_asked = capabilities == declared || rows.contains(&(method, capabilities));
            assert_eq!(fixture.received().contains(method), is_asked, "{method} {capabilities:?}");
            let is_refused = fixture.written().contains(UNDECLARED);
            assert_eq!(is_refused, !is_asked, "{method} {capabilities:?}");
        }
    }
}

/// Hundreds of calls that are cancelled while the process waits for an answer to its own request.
#[test]
fn requests_during_cancelled_calls_are_refused() {
    let mut fixture = Fixture::new(Era::Legacy, 1);
    let question = |n: usize| format!(r#"{{"jsonrpc":"2.0","id":"q{n}","method":"roots/list"}}"#);
    for n in 0..2 * ServerRequests::<()>::MAX {
        let id = n.to_string();
        fixture.send_call(Some(0), &request(&id, ""), CallKind::Call);
        fixture.receive(&question(n)).unwrap();
        assert_eq!(fixture.connection.state.borrow().server_requests.len(), 1, "{n}");
        fixture.written();
        match n % 3 {
            0 => fixture.connection.cancel_abandoned(n as u64 + 1),
            1 => fixture.connection.cancel(fixture.clients[0], id.as_bytes()),
            // A response that is not a message.
            _ => fixture
                .receive(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":1,"error":{{}}}}"#, n + 1))
                .unwrap(),
        }
        let written = fixture.written();
        assert!(
            written.contains(&format!(r#""id":"q{n}","error":"#)) && written.contains("was cancelled"),
            "{n}: {written}"
        );
    }
    fixture.send_call(Some(0), &request("0", ""), CallKind::Call);
    for n in 0..ServerRequests::<()>::MAX {
        fixture.receive(&question(n)).unwrap();
    }
    assert_eq!(fixture.written().lines().skip(1).count(), 0, "all are asked");
    fixture.receive(&question(ServerRequests::<()>::MAX)).unwrap();
    assert!(fixture.written().contains(TOO_MANY_REQUESTS));
    // A request from an answered call still waits for its client.
    fixture
        .receive(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":1}}"#, 2 * ServerRequests::<()>::MAX + 1))
        .unwrap();
    assert_eq!(fixture.connection.state.borrow().server_requests.len(), ServerRequests::<()>::MAX);
}

/// A client reconnects with a new session and leaves the old one open.
#[tokio::test(start_paused = true)]
async fn silent_clients_are_ignored() {
    let mut fixture = Fixture::new(Era::Legacy, 2);
    for client in &fixture.clients {
        fixture.connection.state.borrow_mut().clients.get_mut(*client).unwrap().stream.close(0);
    }
    let check = |fixture: &mut Fixture, expected: &str| {
        fixture.received();
        fixture.written();
        fixture.receive(ROOTS).unwrap();
        let received: Vec<_> = fixture.received().lines().map(|line| line[..2].to_owned()).collect();
        assert_eq!(received.join(" "), expected);
        assert_eq!(fixture.written().contains(FIRST_REQUEST), expected.is_empty());
    };
    check(&mut fixture, "");
    fixture.send_call(Some(1), &request("0", ""), CallKind::Call);
    // The other client has just connected and may be about to listen, so a call of the first makes no
    // recipient certain.
    check(&mut fixture, "");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    check(&mut fixture, "0>");
    let (sink, _events) = event_channel();
    fixture.connection.state.borrow_mut().clients.get_mut(fixture.clients[0]).unwrap().stream.open(1, sink);
    check(&mut fixture, "");
    fixture.connection.state.borrow_mut().clients.get_mut(fixture.clients[0]).unwrap().stream.close(1);
    check(&mut fixture, "0>");
    fixture.send_call(Some(0), &request("0", ""), CallKind::Call);
    check(&mut fixture, "");
    fixture.connection.cancel_abandoned(2);
    // It may still be processing that call.
    check(&mut fixture, "");
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    check(&mut fixture, "0>");
}

#[tokio::test(start_paused = true)]
async fn messages_without_a_recipient_do_not_keep_a_process() {
    let mut fixture = Fixture::new(Era::Legacy, 0);
    let timeout = std::time::Duration::from_secs(5);
    let is_idle = |fixture: &Fixture| fixture.connection.is_idle_for(tokio::time::Instant::now(), timeout);
    for line in
        [&notification("message", r#""data":1"#), ROOTS, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "x"]
    {
        fixture.connection.touch();
        tokio::time::advance(timeout).await;
        fixture.receive(line).unwrap();
        assert!(is_idle(&fixture), "{line}");
    }
    fixture.send_call(None, &request("0", ""), CallKind::Call);
    assert!(!is_idle(&fixture));
    tokio::time::advance(timeout).await;
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap();
    assert!(!is_idle(&fixture), "it was asked until now");
}

#[test]
fn messages_during_a_call_go_with_its_response() {
    let mut fixture = Fixture::new(Era::Legacy, 1);
    fixture.send_call(Some(0), &request("5", ""), CallKind::Call);
    fixture.receive(&notification("message", r#""level":"info","data":1"#)).unwrap();
    fixture.receive(r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#).unwrap();
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap();
    let received = fixture.received();
    assert_eq!(received.lines().filter(|line| line.starts_with("0> ")).count(), 4, "{received}");
    assert!(received.ends_with("0> end"), "{received}");
}

#[test]
fn abandoned_calls_are_cancelled() {
    let mut fixture = Fixture::new(Era::Legacy, 2);
    for client in [0, 1, 1] {
        fixture.send_call(Some(client), &request(&format!("{client}"), ""), CallKind::Call);
    }
    fixture.written();
    fixture.connection.cancel_abandoned(1);
    fixture.connection.cancel_abandoned(1);
    assert_eq!(fixture.written().matches(r#""requestId":1,"#).count(), 1);
    // A client cannot cancel by another client's id. A cancelled call ends at once.
    fixture.connection.cancel(fixture.clients[0], b"1");
    assert_eq!((fixture.written(), fixture.received()), (String::new(), String::new()));
    fixture.connection.cancel(fixture.clients[1], b"1");
    assert!(fixture.written().contains(r#""requestId":"#));
    // Both calls of the client have this id.
    let received = fixture.received();
    assert!(matches!(&*received, "1: Cancelled" | "2: Cancelled"), "it gets no response: {received}");
    // Late responses are dropped.
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"result":"late"}"#).unwrap();
    assert_eq!(fixture.received(), "");
    fixture.connection.close(FailureStage::NoResponse);
    assert_eq!(fixture.received().matches("NoResponse").count(), 1, "one error for the one that is left");
    assert!(!fixture.connection.is_alive() && fixture.connection.context.connections.borrow().is_empty());
}

#[test]
fn modern_subscriptions_have_their_own_ids() {
    const KEY: &str = r#""io.modelcontextprotocol/subscriptionId""#;
    let mut fixture = Fixture::new(Era::Modern, 0);
    for (id, kind) in
        [("\"listen\"", CallKind::Listen), ("\"listen\"", CallKind::Listen), ("3", CallKind::Call)]
    {
        fixture.send_call(None, &request(id, ""), kind);
    }
    let about = |method: &str, id: u64| notification(method, &format!(r#""_meta":{{{KEY}:{id}}}"#));
    fixture.receive(&about("subscriptions/acknowledged", 2)).unwrap();
    fixture.receive(&about("tools/list_changed", 2)).unwrap();
    fixture.receive(&about("tools/list_changed", 9)).unwrap();
    fixture.receive(&notification("tools/list_changed", "")).unwrap();
    fixture.receive(r#"{"jsonrpc":"2.0","id":"r","method":"sampling/createMessage"}"#).unwrap();
    assert!(fixture.written().contains("-32601"), "servers of this era send no requests");
    let received = fixture.received();
    assert_eq!(received.lines().count(), 2, "{received}");
    assert!(
        received.lines().all(|line| line.starts_with("1> ") && line.contains(r#":"listen"}"#)),
        "{received}"
    );
    // Two ways to end a subscription.
    fixture
        .receive(&format!(
            r#"{{"jsonrpc":"2.0","id":2,"result":{{"resultType":"complete","_meta":{{{KEY}:2}}}}}}"#
        ))
        .unwrap();
    let received = fixture.received();
    assert!(received.contains(r#""id":"listen","#) && received.contains(r#"Id":"listen"}"#), "{received}");
    assert!(received.ends_with("1> end"), "{received}");
    fixture.receive(&about("subscriptions/acknowledged", 1)).unwrap();
    fixture.receive(&notification("cancelled", r#""requestId":1"#)).unwrap();
    let received = fixture.received();
    assert!(received.contains(r#""requestId":"listen""#) && received.ends_with("0> end"), "{received}");
    // Only a subscription can be ended this way.
    fixture.receive(&notification("cancelled", r#""requestId":3"#)).unwrap();
    assert_eq!(fixture.connection.state.borrow().calls.len(), 1);
}

#[test]
fn modern_log_messages_go_to_the_only_call_with_logs() {
    let log = notification("message", r#""level":"info","data":1"#);
    let check = |calls: &[CallKind], expected: usize| {
        let mut fixture = Fixture::new(Era::Modern, 0);
        for kind in calls {
            let kind = match kind {
                CallKind::CallWithLogs => CallKind::CallWithLogs,
                CallKind::Listen => CallKind::Listen,
                _ => CallKind::Call,
            };
            fixture.send_call(None, &request("1", ""), kind);
        }
        fixture.receive(&log).unwrap();
        assert_eq!(fixture.received().lines().count(), expected, "{calls:?}");
    };
    check(&[CallKind::CallWithLogs], 1);
    check(&[CallKind::Call], 0);
    check(&[CallKind::CallWithLogs, CallKind::CallWithLogs], 0);
    check(&[CallKind::CallWithLogs, CallKind::Call], 0);
    check(&[CallKind::Listen, CallKind::CallWithLogs], 1);
    check(&[], 0);
}

#[test]
fn calls_fail_whose_responses_found_no_memory() {
    let mut fixture = Fixture::new(Era::Legacy, 1);
    for id in ["7", "8", "9"] {
        fixture.send_call(Some(0), &request(id, ""), CallKind::Call);
    }
    fixture.written();
    let response = |id: &str| Outline { id: raw_id(id), has_result: true, ..Outline::default() };
    let request = Outline { id: raw_id("\"r\""), has_method: true, ..Outline::default() };
    fixture.connection.receive_dropped(&[response("2"), response("5"), request]);
    assert_eq!(fixture.received(), "1: OutOfMemory");
    let refusal = r#"{"jsonrpc":"2.0","id":"r","error":{"code":-32603,"message":"the gateway has no memory"#;
    let written = fixture.written();
    assert!(written.starts_with(refusal), "{written}");
    assert_eq!(written.lines().count(), 1, "{written}");
    fixture.connection.receive_dropped(&[response("2")]);
    assert_eq!(fixture.received(), "");
    assert_eq!(fixture.connection.context.message_counters.undeliverable.get(), 2);
}

fn raw_id(id: &str) -> OutlineId {
    OutlineId::Raw(id.as_bytes().to_vec())
}

#[test]
fn invalid_lines_are_skipped_up_to_a_limit() {
    let mut fixture = Fixture::new(Era::Legacy, 1);
    fixture.send_call(Some(0), &request("0", ""), CallKind::Call);
    fixture.send_call(Some(0), &request("1", ""), CallKind::Call);
    for line in ["", "   ", "Starting...", "{", "null", "[]", "\u{0}", "{}", "[1]", "\u{feff}{}"] {
        fixture.receive(line).unwrap();
    }
    assert_eq!(fixture.connection.context.message_counters.invalid_lines.get(), 8);
    // Two ids: readers disagree on which one counts. The call still ends if its id is certain.
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#).unwrap();
    assert_eq!(fixture.received(), "");
    fixture.receive(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#).unwrap();
    assert_eq!(fixture.received(), "0: InvalidResponse");
    // It sends a message now and then, and may print anything.
    for _ in 0..5 {
        fixture.receive(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
        assert!((1..INVALID_LINES_MAX).all(|_| fixture.receive("x").is_ok()));
    }
    fixture.receive(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
    assert!((1..INVALID_LINES_MAX).all(|_| fixture.receive("x").is_ok()));
    assert_eq!(fixture.receive("x"), Err(TooManyInvalidLines));
}
