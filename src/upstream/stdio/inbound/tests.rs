use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::HeaderValue;
use tokio::sync::oneshot;

use super::super::super::shim::{CallOutcome, EventSource, LocalBody, event_channel};
use super::super::super::{EraChoice, FailureStage};
use super::super::supervisor::Supervisor;
use super::super::tests::program;
use super::*;
use metamcp_core::base::ServerName;

/// A process with two clients, `a` and `b`, and as many calls as are asked.
struct Room {
    link: Rc<Link>,
    seats: Vec<SeatId>,
    streams: Vec<Option<EventSource>>,
    calls: Vec<(oneshot::Receiver<CallOutcome>, Option<EventSource>)>,
}

impl Room {
    fn new(era: Era, clients: usize) -> Self {
        let name = ServerName::new("a").expect("valid");
        let supervisor = Supervisor::new(name, program(), EraChoice::Auto, Arc::default());
        let link = Link::new(&supervisor.common, era, 1, tokio::time::Instant::now(), Rc::default());
        let mut room = Self { link, seats: Vec::new(), streams: Vec::new(), calls: Vec::new() };
        for _ in 0..clients {
            let session = HeaderValue::from_static("session");
            let seat = room.link.state.borrow_mut().seats.take(session, true);
            let (outlet, events) = event_channel();
            room.link.state.borrow_mut().seats.get(seat).unwrap().mailbox.open(0, outlet);
            room.seats.push(seat);
            room.streams.push(Some(events));
        }
        room
    }

    fn ask(&mut self, client: Option<usize>, message: &str, what: What) {
        let message = Bytes::from(message.to_owned());
        let envelope = self.link.common.scanner.borrow_mut().scan(&message).unwrap();
        let (reply, answer) = oneshot::channel();
        let call = Some(self.calls.len() as u64);
        let seat = client.map(|client| self.seats[client]);
        let pending = Pending { call, seat, what, to: To::Waiting(reply) };
        assert!(self.link.ask(&message, &envelope, pending).is_ok());
        self.calls.push((answer, None));
    }

    /// What the process was told.
    fn told(&self) -> String {
        String::from_utf8(self.link.take_outbox().to_vec()).unwrap()
    }

    fn say(&self, line: &str) -> Result<(), Babble> {
        self.link.take(&Bytes::from(line.to_owned()))
    }

    /// All that clients have got since the last look: calls by number, streams by letter.
    fn heard(&mut self) -> String {
        let mut heard = Vec::new();
        for (number, (answer, events)) in self.calls.iter_mut().enumerate() {
            match answer.try_recv() {
                Ok(Ok(reply)) => match reply.body {
                    LocalBody::Message(message) => heard.push(format!("{number}: {}", text(&message))),
                    LocalBody::Events(begun) => *events = Some(begun),
                },
                Ok(Err(error)) => heard.push(format!("{number}: {:?}", error.stage)),
                Err(_) => {}
            }
            heard.extend(drain(events).into_iter().map(|event| format!("{number}> {event}")));
        }
        for (client, events) in self.streams.iter_mut().enumerate() {
            let letter = ["a", "b", "c"][client];
            heard.extend(drain(events).into_iter().map(|event| format!("{letter}> {event}")));
        }
        heard.join("\n")
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
fn answers_get_their_own_ids_back() {
    let mut room = Room::new(Era::Legacy, 2);
    for (client, id) in [(0, "0"), (1, "0"), (0, "\"0\""), (1, "9007199254740993"), (0, r#""a\u0062""#)] {
        room.ask(Some(client), &request(id, ""), What::Call);
    }
    let told = room.told();
    let ids: Vec<_> = told.lines().map(|line| line.split([':', ',']).nth(3).unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    // In any order, spaced as it likes, and an error is an answer as well.
    room.say(r#"{"result":{"id":1},"id": 4 ,"jsonrpc":"2.0"}"#).unwrap();
    room.say(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#).unwrap();
    room.say(r#"[{"jsonrpc":"2.0","id":5,"result":5},{"jsonrpc":"2.0","id":3,"result":3}]"#).unwrap();
    let expected = r#"0: {"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"x"}}
2: {"jsonrpc":"2.0","id":"0","result":3}
3: {"result":{"id":1},"id": 9007199254740993 ,"jsonrpc":"2.0"}
4: {"jsonrpc":"2.0","id":"a\u0062","result":5}"#;
    assert_eq!(room.heard(), expected);
    // Once; and what was never asked is nobody's.
    for id in ["1", "4", "6", "\"2\"", "02", "0"] {
        room.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"stray"}}"#)).unwrap();
    }
    assert_eq!(room.heard(), "");
    room.say(r#"{"jsonrpc":"2.0","id":2,"result":2}"#).unwrap();
    assert_eq!(room.heard(), r#"1: {"jsonrpc":"2.0","id":0,"result":2}"#);
    assert_eq!(room.link.state.borrow().table.len(), 0);
}

#[test]
fn progress_goes_to_the_call_of_its_token() {
    let mut room = Room::new(Era::Legacy, 2);
    room.ask(Some(0), &request("0", r#","_meta":{"progressToken":"t"}"#), What::Call);
    room.ask(Some(1), &request("0", r#","_meta":{"progressToken":7}"#), What::Call);
    room.ask(Some(1), &request("1", ""), What::Call);
    let told = room.told();
    let tokens: Vec<_> = told.lines().map(|line| line.contains(r#""progressToken":"#)).collect();
    assert_eq!(tokens, [true, true, false]);
    assert!(told.lines().next().unwrap().ends_with(r#""_meta":{"progressToken":1}}}"#), "{told}");
    for token in ["2", "1", "3", "7", "\"t\""] {
        room.say(&notification("progress", &format!(r#""progressToken":{token},"progress":1"#))).unwrap();
    }
    room.say(r#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap();
    let expected = r#"0> {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}
0> {"jsonrpc":"2.0","id":0,"result":1}
0> end
1> {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
    assert_eq!(room.heard(), expected);
}

/// What a process says without naming a call: with one client it is that client's, with two nobody's, or
/// everybody's.
#[test]
fn only_what_is_certain_is_passed_on() {
    let check = |clients: usize, subscribed: &[usize], line: &str, expected: &str, told: &str| {
        let mut room = Room::new(Era::Legacy, clients);
        for client in subscribed {
            let uri = "file:///x";
            let message = format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#
            );
            room.ask(Some(*client), &message, What::Subscribe(uri.into()));
            let id = room.calls.len();
            room.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).unwrap();
        }
        room.heard();
        room.told();
        room.say(line).unwrap();
        let heard: Vec<_> = room.heard().lines().map(|line| line[..2].to_owned()).collect();
        assert_eq!(heard.join(" "), expected, "{clients} {line}");
        let refused = room.told();
        assert!(refused.contains(told) && refused.is_empty() == told.is_empty(), "{line}: {refused}");
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

#[test]
fn only_the_one_who_was_asked_answers() {
    let mut room = Room::new(Era::Legacy, 1);
    room.say(r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#).unwrap();
    room.say(r#"{"jsonrpc":"2.0","id":"s","method":"roots/list"}"#).unwrap();
    room.say(r#"{"jsonrpc":"2.0","id":"t","method":"roots/list"}"#).unwrap();
    let late = room.link.state.borrow_mut().seats.take(HeaderValue::from_static("b"), true);
    assert!(!room.link.take_asked(late, b"\"r\""), "another client's answer");
    assert!(room.link.take_asked(room.seats[0], b"\"r\""));
    assert!(!room.link.take_asked(room.seats[0], b"\"r\""), "a second answer");
    assert!(!room.link.take_asked(room.seats[0], b"\"x\""), "an answer to nothing");
    room.heard();
    room.say(&notification("cancelled", r#""requestId":"t""#)).unwrap();
    assert!(room.heard().starts_with("a> "), "the one who was asked is told that it is over");
    assert!(!room.link.take_asked(room.seats[0], b"\"t\""));
    room.told();
    room.link.leave(room.seats[0]);
    assert_eq!(room.told().matches("-32601").count(), 1, "the process does not wait for ever");
}

const ROOTS: &str = r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;

/// Hundreds of calls in which the process asks something, and which nobody waits for to the end.
#[test]
fn questions_of_calls_that_were_given_up_are_refused_and_forgotten() {
    let mut room = Room::new(Era::Legacy, 1);
    let question = |n: usize| format!(r#"{{"jsonrpc":"2.0","id":"q{n}","method":"roots/list"}}"#);
    for n in 0..2 * ASKED_MAX {
        let id = n.to_string();
        room.ask(Some(0), &request(&id, ""), What::Call);
        room.say(&question(n)).unwrap();
        assert_eq!(room.link.state.borrow().asked.len(), 1, "{n}");
        room.told();
        match n % 3 {
            0 => room.link.give_up(n as u64 + 1),
            1 => room.link.cancel(room.seats[0], id.as_bytes()),
            // An answer that is no message.
            _ => room.say(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":1,"error":{{}}}}"#, n + 1)).unwrap(),
        }
        let told = room.told();
        assert!(
            told.contains(&format!(r#""id":"q{n}","error":"#)) && told.contains("given up"),
            "{n}: {told}"
        );
    }
    room.ask(Some(0), &request("0", ""), What::Call);
    for n in 0..ASKED_MAX {
        room.say(&question(n)).unwrap();
    }
    assert_eq!(room.told().lines().skip(1).count(), 0, "all are asked");
    room.say(&question(ASKED_MAX)).unwrap();
    assert!(room.told().contains(FULL));
    // What was asked in a call that is answered still waits for its client.
    room.say(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":1}}"#, 2 * ASKED_MAX + 1)).unwrap();
    assert_eq!(room.link.state.borrow().asked.len(), ASKED_MAX);
}

/// A client that came back, with a session that it has left without a word beside its new one.
#[tokio::test(start_paused = true)]
async fn a_client_that_neither_asks_nor_listens_is_in_nobodys_way() {
    let mut room = Room::new(Era::Legacy, 2);
    for seat in &room.seats {
        room.link.state.borrow_mut().seats.get(*seat).unwrap().mailbox.close(0);
    }
    let check = |room: &mut Room, expected: &str| {
        room.heard();
        room.told();
        room.say(ROOTS).unwrap();
        let heard: Vec<_> = room.heard().lines().map(|line| line[..2].to_owned()).collect();
        assert_eq!(heard.join(" "), expected);
        assert_eq!(room.told().contains(NOT_ALONE), expected.is_empty());
    };
    check(&mut room, "");
    room.ask(Some(1), &request("0", ""), What::Call);
    // The other has just come, and may be about to listen, upon which a call of another makes nobody certain.
    check(&mut room, "");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    check(&mut room, "0>");
    let (outlet, _events) = event_channel();
    room.link.state.borrow_mut().seats.get(room.seats[0]).unwrap().mailbox.open(1, outlet);
    check(&mut room, "");
    room.link.state.borrow_mut().seats.get(room.seats[0]).unwrap().mailbox.close(1);
    check(&mut room, "0>");
    room.ask(Some(0), &request("0", ""), What::Call);
    check(&mut room, "");
    room.link.give_up(2);
    // It may be at that call still.
    check(&mut room, "");
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    check(&mut room, "0>");
}

#[tokio::test(start_paused = true)]
async fn what_a_process_says_to_nobody_is_no_use() {
    let mut room = Room::new(Era::Legacy, 0);
    let timeout = std::time::Duration::from_secs(5);
    let is_idle = |room: &Room| room.link.is_idle_for(tokio::time::Instant::now(), timeout);
    for line in
        [&notification("message", r#""data":1"#), ROOTS, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "x"]
    {
        room.link.touch();
        tokio::time::advance(timeout).await;
        room.say(line).unwrap();
        assert!(is_idle(&room), "{line}");
    }
    room.ask(None, &request("0", ""), What::Call);
    assert!(!is_idle(&room));
    tokio::time::advance(timeout).await;
    room.say(r#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap();
    assert!(!is_idle(&room), "it was asked until now");
}

#[test]
fn what_is_said_during_a_call_goes_with_its_answer() {
    let mut room = Room::new(Era::Legacy, 1);
    room.ask(Some(0), &request("5", ""), What::Call);
    room.say(&notification("message", r#""level":"info","data":1"#)).unwrap();
    room.say(r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#).unwrap();
    room.say(r#"{"jsonrpc":"2.0","id":1,"result":1}"#).unwrap();
    let heard = room.heard();
    assert_eq!(heard.lines().filter(|line| line.starts_with("0> ")).count(), 4, "{heard}");
    assert!(heard.ends_with("0> end"), "{heard}");
}

#[test]
fn a_call_that_is_given_up_is_cancelled() {
    let mut room = Room::new(Era::Legacy, 2);
    for client in [0, 1, 1] {
        room.ask(Some(client), &request(&format!("{client}"), ""), What::Call);
    }
    room.told();
    room.link.give_up(1);
    room.link.give_up(1);
    assert_eq!(room.told().matches(r#""requestId":1,"#).count(), 1);
    // Not by somebody else's id, and answered at once.
    room.link.cancel(room.seats[0], b"1");
    assert_eq!((room.told(), room.heard()), (String::new(), String::new()));
    room.link.cancel(room.seats[1], b"1");
    assert!(room.told().contains(r#""requestId":"#));
    assert!(room.heard().contains(r#""id":1,"error":{"code":-32800"#));
    // Late answers are nobody's.
    room.say(r#"{"jsonrpc":"2.0","id":1,"result":"late"}"#).unwrap();
    assert_eq!(room.heard(), "");
    room.link.close(FailureStage::NoResponse);
    assert_eq!(room.heard().matches("Sent").count(), 1, "one error for the one that is left");
    assert!(!room.link.is_alive() && room.link.common.links.borrow().is_empty());
}

#[test]
fn subscriptions_of_the_modern_era_have_their_own_ids() {
    const KEY: &str = r#""io.modelcontextprotocol/subscriptionId""#;
    let mut room = Room::new(Era::Modern, 0);
    for (id, what) in [("\"listen\"", What::Listen), ("\"listen\"", What::Listen), ("3", What::Call)] {
        room.ask(None, &request(id, ""), what);
    }
    let about = |method: &str, id: u64| notification(method, &format!(r#""_meta":{{{KEY}:{id}}}"#));
    room.say(&about("subscriptions/acknowledged", 2)).unwrap();
    room.say(&about("tools/list_changed", 2)).unwrap();
    room.say(&about("tools/list_changed", 9)).unwrap();
    room.say(&notification("tools/list_changed", "")).unwrap();
    room.say(r#"{"jsonrpc":"2.0","id":"r","method":"sampling/createMessage"}"#).unwrap();
    assert!(room.told().contains("-32601"), "servers of this era send no requests");
    let heard = room.heard();
    assert_eq!(heard.lines().count(), 2, "{heard}");
    assert!(heard.lines().all(|line| line.starts_with("1> ") && line.contains(r#":"listen"}"#)), "{heard}");
    // Two ways to end one.
    room.say(&format!(
        r#"{{"jsonrpc":"2.0","id":2,"result":{{"resultType":"complete","_meta":{{{KEY}:2}}}}}}"#
    ))
    .unwrap();
    let heard = room.heard();
    assert!(heard.contains(r#""id":"listen","#) && heard.contains(r#"Id":"listen"}"#), "{heard}");
    assert!(heard.ends_with("1> end"), "{heard}");
    room.say(&about("subscriptions/acknowledged", 1)).unwrap();
    room.say(&notification("cancelled", r#""requestId":1"#)).unwrap();
    let heard = room.heard();
    assert!(heard.contains(r#""requestId":"listen""#) && heard.ends_with("0> end"), "{heard}");
    // Only a subscription is ended so.
    room.say(&notification("cancelled", r#""requestId":3"#)).unwrap();
    assert_eq!(room.link.state.borrow().table.len(), 1);
}

#[test]
fn log_messages_of_the_modern_era_go_to_the_only_call_that_wants_them() {
    let log = notification("message", r#""level":"info","data":1"#);
    let check = |calls: &[What], expected: usize| {
        let mut room = Room::new(Era::Modern, 0);
        for what in calls {
            let what = match what {
                What::Logged => What::Logged,
                What::Listen => What::Listen,
                _ => What::Call,
            };
            room.ask(None, &request("1", ""), what);
        }
        room.say(&log).unwrap();
        assert_eq!(room.heard().lines().count(), expected, "{calls:?}");
    };
    check(&[What::Logged], 1);
    check(&[What::Call], 0);
    check(&[What::Logged, What::Logged], 0);
    check(&[What::Logged, What::Call], 0);
    check(&[What::Listen, What::Logged], 1);
    check(&[], 0);
}

#[test]
fn nonsense_is_skipped_and_a_babbler_is_ended() {
    let mut room = Room::new(Era::Legacy, 1);
    room.ask(Some(0), &request("0", ""), What::Call);
    room.ask(Some(0), &request("1", ""), What::Call);
    for line in ["", "   ", "Starting...", "{", "null", "[]", "\u{0}", "{}", "[1]", "\u{feff}{}"] {
        room.say(line).unwrap();
    }
    assert_eq!(room.link.common.counts.nonsense.get(), 8);
    // Two ids: readers disagree on which counts. The call is over all the same where one is certain.
    room.say(r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#).unwrap();
    assert_eq!(room.heard(), "");
    room.say(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#).unwrap();
    assert_eq!(room.heard(), "0: Nonsense");
    // A message now and then, and it may print what it likes.
    for _ in 0..5 {
        room.say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
        assert!((1..NONSENSE_MAX).all(|_| room.say("x").is_ok()));
    }
    room.say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
    assert!((1..NONSENSE_MAX).all(|_| room.say("x").is_ok()));
    assert_eq!(room.say("x"), Err(Babble));
}
