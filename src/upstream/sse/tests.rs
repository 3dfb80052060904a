use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::super::shim::{CallOutcome, EventSource, LocalBody, event_channel};
use super::super::{
    Config, EraChoice, FailureStage, ServerAddress, TlsRoots, ToolPinPolicy, Upstream, UpstreamId,
    UpstreamRequest,
};
use super::hub::Hub;
use super::link::{Link, Pending, What};
use super::server::Server;
use metamcp_core::base::ServerName;
use metamcp_core::frame::EventReader;
use metamcp_core::protocol::Era;

/// Port 9 is `discard`; nobody listens there.
const URL: &str = "http://127.0.0.1:9/sse";

/// A session on a server that nothing is sent to.
struct Room {
    link: Rc<Link>,
    reader: EventReader,
    calls: Vec<oneshot::Receiver<CallOutcome>>,
    listening: Option<EventSource>,
}

fn wire(private_addresses: bool) -> Arc<Upstream> {
    upstream(ServerAddress::Http(URL.parse().unwrap()), private_addresses)
}

fn upstream(address: ServerAddress, private_addresses: bool) -> Arc<Upstream> {
    let patience = Duration::from_secs(1);
    let config = Config {
        name: ServerName::new("a").unwrap(),
        address,
        headers: Vec::new(),
        era: EraChoice::Auto,
        connect_timeout: patience,
        first_byte_timeout: patience,
        stream_idle_timeout: patience,
        in_flight_max: 8,
        queue_timeout: patience,
        queue_max: 8,
        idle_connections_max: 1,
        idle_age_max: patience,
        fast_lane: true,
        private_addresses,
        may_be_sse: false,
        has_breaker: true,
        alias: None,
        changed_tools: ToolPinPolicy::Warn,
    };
    let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
    Upstream::new(UpstreamId(0), config, &roots).unwrap()
}

#[test]
fn its_transport_says_what_era_it_is_of() {
    let check = |address: ServerAddress, before: [Option<bool>; 2], after: Option<bool>| {
        let server = upstream(address, true);
        assert_eq!([Era::Legacy, Era::Modern].map(|era| server.speaks(era)), before);
        server.set_spoken(Era::Legacy, Some(true));
        // Whatever it says while it starts anew.
        server.set_spoken(Era::Legacy, None);
        assert_eq!(server.speaks(Era::Legacy), after);
    };
    check(ServerAddress::Sse(URL.parse().unwrap()), [Some(true), Some(false)], Some(true));
    check(ServerAddress::Http(URL.parse().unwrap()), [None, None], None);
}

fn hub() -> Rc<Hub> {
    Hub::new(wire(true), URL.parse().unwrap())
}

impl Room {
    /// With calls under way, each with its id and, where it has one, its progress token. The server knows
    /// them as 1, 2 and so on.
    fn new(calls: &[(&'static str, &'static str)], listens: bool) -> Self {
        let link =
            Link::new(&hub(), HeaderValue::from_static("s"), "/m".parse().unwrap(), (0, Instant::now()));
        link.is_open.set(true);
        let mut room = Self { link, reader: EventReader::new(), calls: Vec::new(), listening: None };
        for (id, token) in calls {
            let (reply, answer) = oneshot::channel();
            let token = (!token.is_empty()).then(|| Bytes::from(*token));
            let pending = Pending::new(room.calls.len() as u64, What::Call, reply);
            let pending = Pending { is_delivered: true, ..pending };
            room.link.state.borrow_mut().table.mint((*id).into(), token, pending);
            room.calls.push(answer);
        }
        if listens {
            let (outlet, events) = event_channel();
            room.link.listen(99, outlet);
            room.listening = Some(events);
        }
        room
    }

    fn feed(&mut self, chunk: &[u8]) {
        self.reader.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = self.reader.next().unwrap() {
            self.link.take_event(&event);
        }
    }

    /// What came of each call, and on the client's stream.
    fn heard(mut self) -> Vec<String> {
        let calls = std::mem::take(&mut self.calls);
        let mut heard: Vec<String> = calls.into_iter().map(came).collect();
        heard.extend(self.listening.as_mut().map(drain));
        heard
    }
}

fn came(mut call: oneshot::Receiver<CallOutcome>) -> String {
    match call.try_recv() {
        Err(_) => "nothing".into(),
        Ok(Err(error)) => format!("{:?}", error.stage),
        Ok(Ok(reply)) => match reply.body {
            LocalBody::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
            LocalBody::Events(mut events) => drain(&mut events),
        },
    }
}

fn drain(events: &mut EventSource) -> String {
    let mut cx = Context::from_waker(Waker::noop());
    let mut text = String::new();
    while let Poll::Ready(Some(next)) = events.poll_next(&mut cx) {
        match next {
            Ok(event) => text += str::from_utf8(&event).unwrap(),
            Err(error) => drop(write!(text, "{:?}", error.stage)),
        }
    }
    text.replace("event: message\ndata: ", "+").replace("\n\n", "")
}

type Calls<'a> = &'a [(&'static str, &'static str)];

/// What comes of calls when a server says that: whole, cut at every byte, and byte by byte. The last is what
/// the client hears on its own stream, where it listens.
fn check(calls: Calls<'_>, listens: bool, said: &str, expected: &[&str]) {
    let told = |pieces: &[&[u8]]| {
        let mut room = Room::new(calls, listens);
        for piece in pieces {
            room.feed(piece);
        }
        room.heard()
    };
    // Refusals and answers to pings are sent by tasks.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What is looked into here is not waited for, so nothing of it is to be put off.
    let looking = tokio::task::unconstrained(async {
        let said = said.as_bytes();
        assert_eq!(told(&[said]), expected, "{}", String::from_utf8_lossy(said));
        for cut in 0..=said.len() {
            assert_eq!(told(&[&said[..cut], &said[cut..]]), expected, "cut at {cut}");
        }
        assert_eq!(told(&said.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    });
    LocalSet::new().block_on(&runtime, looking);
}

#[test]
fn answers_find_their_calls() {
    let calls = [("0", ""), ("\"0\"", ""), ("9007199254740993", "")];
    // In another order, two in one chunk, with all three kinds of line ends.
    check(
        &calls,
        false,
        "event: message\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{}}\r\n\r\n\
         data: {\"jsonrpc\":\"2.0\",\"result\":{\"a\":1},\"id\":1}\n\n\
         event:message\rdata:{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":1,\"message\":\"x\"}}\r\r",
        &[
            r#"{"jsonrpc":"2.0","result":{"a":1},"id":0}"#,
            r#"{"jsonrpc":"2.0","id":"0","error":{"code":1,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":9007199254740993,"result":{}}"#,
        ],
    );
    // On several lines, in a batch, and behind what says nothing.
    check(
        &calls,
        false,
        ": hello\n\nevent: endpoint\ndata: /evil\n\nevent: ping\ndata: {}\n\ndata\n\nid: 7\nretry: 1\ndata: {\"jsonrpc\":\n\
         data: \"2.0\",\"id\":1,\ndata: \"result\":{}}\n\ndata: [{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}, 5]\n\n",
        &[
            "{\"jsonrpc\":\n\"2.0\",\"id\":0,\n\"result\":{}}",
            r#"{"jsonrpc":"2.0","id":"0","result":{}}"#,
            "nothing",
        ],
    );
    // Twice, to nobody, in another spelling, cut off, and no message.
    check(
        &calls,
        false,
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":2}\n\n\
         data: {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":2}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"2\",\"result\":2}\n\n\
         data: {\"jsonrpc\":\"2.0\",\"id\":4,\"result\":2}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":null,\"result\":2}\n\n\
         data: nonsense\n\ndata: {\"id\":3}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n",
        &[r#"{"jsonrpc":"2.0","id":0,"result":1}"#, "nothing", "Nonsense"],
    );
}

#[test]
fn what_is_no_call_goes_where_it_belongs() {
    const PROGRESS: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":2,\"progress\":1}}\n\n";
    const LOG: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    const LOGGED: &str = r#"+{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    let calls = [("0", ""), ("1", "\"t\"")];
    let progress =
        r#"+{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}"#;
    check(&calls, true, PROGRESS, &["nothing", progress, ""]);
    check(&calls[..1], true, PROGRESS, &["nothing", ""]);
    check(&[("0", ""), ("1", "")], true, PROGRESS, &["nothing", "nothing", ""]);
    // A log message: with the only call, else on the client's stream, else with its newest call.
    check(&calls[..1], true, LOG, &[LOGGED, ""]);
    check(&calls, true, LOG, &["nothing", "nothing", LOGGED]);
    check(&calls, false, LOG, &["nothing", LOGGED]);
    check(&[], true, LOG, &[LOGGED]);
    // Lists and resources are of no call.
    for method in
        ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]
    {
        let said = format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/{method}\"}}\n\n");
        let told = format!("+{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/{method}\"}}");
        let said = said.replace("updated\"", "updated\",\"params\":{\"uri\":\"x:y\"}");
        let told = told.replace("updated\"", "updated\",\"params\":{\"uri\":\"x:y\"}");
        check(&calls[..1], true, &said, &["nothing", &told]);
    }
    // Then the answer, on the stream that was begun.
    check(
        &calls[..1],
        false,
        &format!("{LOG}data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{}}}}\n\n"),
        &[&format!("{LOGGED}+{{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{{}}}}")],
    );
    // A ping is answered here.
    check(
        &calls,
        true,
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n\n",
        &["nothing", "nothing", ""],
    );
}

#[tokio::test]
async fn a_request_of_the_server_is_answered_once() {
    LocalSet::new()
        .run_until(async {
            let mut room = Room::new(&[], true);
            room.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"roots/list\"}\n\n");
            room.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"r\",\"method\":\"roots/list\"}\n\n");
            room.feed(b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":\"r\"}}\n\n");
            let check = |id: &str, expected| assert_eq!(room.link.take_asked(id.as_bytes()), expected, "{id}");
            check("q", false);
            check("\"r\"", false);
            check("\"q\"", true);
            check("\"q\"", false);
            // More than a client answers are refused.
            let mut room = Room::new(&[], true);
            for id in 0..300 {
                room.feed(format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"roots/list\"}}\n\n").as_bytes());
            }
            assert_eq!(room.link.state.borrow().asked.len(), 256);
            // What was asked in a call that is given up goes with it.
            for is_cancelled in [false, true] {
                let mut room = Room::new(&[("0", "")], true);
                room.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"roots/list\"}\n\n");
                assert_eq!(room.link.state.borrow().asked.len(), 1);
                if is_cancelled {
                    let message = Bytes::from_static(br#"{"params":{"requestId":0}}"#);
                    let id = metamcp_core::frame::Span { start: 23, end: 24 };
                    room.link.cancel(&UpstreamRequest::from_message(message.clone()), &message, id);
                } else {
                    room.link.give_up(1);
                }
                assert_eq!(room.link.state.borrow().asked.len(), 0);
            }
            let mut room = Room::new(&[], true);
            let id = "x".repeat(2000);
            room.feed(format!("data: {{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":\"roots/list\"}}\n\n").as_bytes());
            assert_eq!(room.heard(), [""]);
        })
        .await;
}

#[tokio::test]
async fn says_why_a_session_cannot_be_opened() {
    const INITIALIZE: &str =
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}"#;
    for (private_addresses, expected) in
        [(true, FailureStage::Connect), (false, FailureStage::PrivateAddress)]
    {
        let server = Server::deploy(wire(private_addresses), URL.parse().unwrap()).unwrap();
        let outcome = server.call(UpstreamRequest::from_message(INITIALIZE.into())).await;
        assert_eq!(outcome.map(|_| ()).map_err(|error| error.stage), Err(expected));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_fails_each_call_once() {
    let mut room = Room::new(&[("0", "\"t\""), ("1", ""), ("2", "")], false);
    room.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n\n");
    room.feed(
        b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1}}\n\n",
    );
    room.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{");
    let link = Rc::clone(&room.link);
    link.break_off(FailureStage::BodyIncomplete);
    link.break_off(FailureStage::ResponseTooLarge);
    room.feed(b"}}\n\n");
    let progress =
        r#"+{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t"}}Body"#;
    assert_eq!(room.heard(), [progress, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "Body"]);
    assert_eq!(link.hub.failures.borrow().in_a_row(), 0, "it was open");
    let unopened =
        Link::new(&link.hub, HeaderValue::from_static("t"), "/m".parse().unwrap(), (1, Instant::now()));
    unopened.break_off(FailureStage::BodyIncomplete);
    assert_eq!(link.hub.failures.borrow().in_a_row(), 1);
}
