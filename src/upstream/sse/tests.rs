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

use super::server::SseServer;
use super::session::{CallKind, PendingCall, SseHub, SseSession};
use super::target::SseTarget;
use metamcp_config::server::ServerSettings;
use metamcp_config::server::settings::DEFAULTS;
use metamcp_core::base::ServerName;
use metamcp_core::frame::EventReader;
use metamcp_http::FailureStage;
use metamcp_http::InFlightLimit;
use metamcp_http::UpstreamRequest;
use metamcp_http::multiplex::{CallEntry, CallOutcome, EventSource, LocalBody, event_channel};
use metamcp_http::{HttpServer, RequestHeads, TlsRoots, UrlTarget, resolve_url};

/// Port 9 is `discard`; no service listens there.
const URL: &str = "http://127.0.0.1:9/sse";

/// A session on a server that nothing is sent to.
struct Fixture {
    session: Rc<SseSession>,
    reader: EventReader,
    calls: Vec<oneshot::Receiver<CallOutcome>>,
    client_stream: Option<EventSource>,
}

fn target(private_addresses: bool) -> SseTarget {
    let url = URL.parse().unwrap();
    let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
    let UrlTarget { target, path, host } = resolve_url(&url, &roots).unwrap();
    let timeout = Duration::from_secs(1);
    let settings = ServerSettings {
        connect_timeout: timeout,
        first_byte_timeout: timeout,
        stream_idle_timeout: timeout,
        idle_connections_max: 1,
        idle_age_max: timeout,
        ..DEFAULTS
    };
    let http = Arc::new(HttpServer {
        settings,
        private_addresses,
        target,
        heads: RequestHeads::new(path, host, &[]),
    });
    let post_limit = Arc::new(InFlightLimit::new(8, 8, timeout));
    let message_limit = Arc::clone(&post_limit);
    SseTarget { name: ServerName::new("a").unwrap(), url, http, post_limit, message_limit }
}

fn hub() -> Rc<SseHub> {
    SseHub::new(target(true))
}

impl Fixture {
    /// Creates in-flight calls from ids and progress tokens. The server knows them as 1, 2 and so on.
    fn new(calls: &[(&'static str, &'static str)], listens: bool) -> Self {
        let session =
            SseSession::new(&hub(), HeaderValue::from_static("s"), "/m".parse().unwrap(), 0, Instant::now());
        session.is_open.set(true);
        let mut fixture =
            Self { session, reader: EventReader::new(), calls: Vec::new(), client_stream: None };
        for (id, token) in calls {
            let (reply, answer) = oneshot::channel();
            let token = (!token.is_empty()).then(|| Bytes::from(*token));
            let pending = PendingCall::new(fixture.calls.len() as u64, CallKind::Call, reply);
            let pending = PendingCall { is_delivered: true, ..pending };
            fixture.session.state.borrow_mut().calls.insert(CallEntry {
                id: (*id).into(),
                token,
                call: pending,
            });
            fixture.calls.push(answer);
        }
        if listens {
            let (sink, events) = event_channel();
            fixture.session.open_client_stream(99, sink);
            fixture.client_stream = Some(events);
        }
        fixture
    }

    fn feed(&mut self, chunk: &[u8]) {
        self.reader.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = self.reader.next().unwrap() {
            self.session.receive_event(&event);
        }
    }

    /// Returns the outcome of each call, and what arrived on the client's stream.
    fn received(mut self) -> Vec<String> {
        let calls = std::mem::take(&mut self.calls);
        let mut received: Vec<String> = calls.into_iter().map(outcome).collect();
        received.extend(self.client_stream.as_mut().map(drain));
        received
    }
}

fn outcome(mut call: oneshot::Receiver<CallOutcome>) -> String {
    match call.try_recv() {
        Err(_) => "nothing".into(),
        Ok(Err(error)) => format!("{:?}", error.stage),
        Ok(Ok(reply)) => match reply.body {
            LocalBody::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
            LocalBody::Events(mut events) => drain(&mut events),
            LocalBody::Failed(stage) => panic!("{stage}"),
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

/// Checks the outcome of calls when a server sends `stream`: whole, cut at every byte, and byte by byte. The
/// last expected text is what arrives on the client's own stream, if it listens.
fn check(calls: Calls<'_>, listens: bool, stream: &str, expected: &[&str]) {
    let feed = |pieces: &[&[u8]]| {
        let mut fixture = Fixture::new(calls, listens);
        for piece in pieces {
            fixture.feed(piece);
        }
        fixture.received()
    };
    // Refusals and answers to pings are sent by tasks.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Nothing here is waited for, so nothing may be deferred by the cooperative budget.
    let checks = tokio::task::unconstrained(async {
        let stream = stream.as_bytes();
        assert_eq!(feed(&[stream]), expected, "{}", String::from_utf8_lossy(stream));
        for cut in 0..=stream.len() {
            assert_eq!(feed(&[&stream[..cut], &stream[cut..]]), expected, "cut at {cut}");
        }
        assert_eq!(feed(&stream.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    });
    LocalSet::new().block_on(&runtime, checks);
}

#[test]
fn responses_match_their_calls() {
    let calls = [("0", ""), ("\"0\"", ""), ("9007199254740993", "")];
    // In another order, two in one chunk, with all three kinds of line end.
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
    // On several lines, in a batch, and after messages without content.
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
    // A duplicate, an unknown id, another spelling, a truncated message, and no message.
    check(
        &calls,
        false,
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":2}\n\n\
         data: {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":2}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"2\",\"result\":2}\n\n\
         data: {\"jsonrpc\":\"2.0\",\"id\":4,\"result\":2}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":null,\"result\":2}\n\n\
         data: nonsense\n\ndata: {\"id\":3}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n",
        &[r#"{"jsonrpc":"2.0","id":0,"result":1}"#, "nothing", "InvalidResponse"],
    );
}

#[test]
fn messages_outside_of_calls_reach_their_recipient() {
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
    // List and resource changes belong to no call.
    for method in
        ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]
    {
        let said = format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/{method}\"}}\n\n");
        let event = format!("+{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/{method}\"}}");
        let said = said.replace("updated\"", "updated\",\"params\":{\"uri\":\"x:y\"}");
        let event = event.replace("updated\"", "updated\",\"params\":{\"uri\":\"x:y\"}");
        check(&calls[..1], true, &said, &["nothing", &event]);
    }
    // Then the response, on the stream that has started.
    check(
        &calls[..1],
        false,
        &format!("{LOG}data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{}}}}\n\n"),
        &[&format!("{LOGGED}+{{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{{}}}}")],
    );
    // The gateway answers a ping itself.
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
            let mut fixture = Fixture::new(&[], true);
            fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"roots/list\"}\n\n");
            fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"r\",\"method\":\"roots/list\"}\n\n");
            fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":\"r\"}}\n\n");
            let check = |id: &str, expected| assert_eq!(fixture.session.take_server_request(id.as_bytes()), expected, "{id}");
            check("q", false);
            check("\"r\"", false);
            check("\"q\"", true);
            check("\"q\"", false);
            // Some servers escape a slash; clients do not.
            fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"q\\/1\",\"method\":\"roots/list\"}\n\n");
            assert!(fixture.session.take_server_request(b"\"q/1\""));
            // Requests over the limit per client are refused.
            let mut fixture = Fixture::new(&[], true);
            for id in 0..300 {
                fixture.feed(format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"roots/list\"}}\n\n").as_bytes());
            }
            assert_eq!(fixture.session.state.borrow().server_requests.len(), 256);
            // A request from a cancelled call is dropped with it.
            for is_cancelled in [false, true] {
                let mut fixture = Fixture::new(&[("0", "")], true);
                fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"roots/list\"}\n\n");
                assert_eq!(fixture.session.state.borrow().server_requests.len(), 1);
                if is_cancelled {
                    let message = Bytes::from_static(br#"{"params":{"requestId":0}}"#);
                    let id = metamcp_core::frame::Span { start: 23, end: 24 };
                    fixture.session.cancel(&UpstreamRequest::from_message(message.clone()), &message, id);
                } else {
                    fixture.session.cancel_abandoned(1);
                }
                assert_eq!(fixture.session.state.borrow().server_requests.len(), 0);
            }
            let mut fixture = Fixture::new(&[], true);
            let id = "x".repeat(2000);
            fixture.feed(format!("data: {{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":\"roots/list\"}}\n\n").as_bytes());
            assert_eq!(fixture.received(), [""]);
        })
        .await;
}

#[tokio::test]
async fn reports_why_a_session_cannot_be_opened() {
    const INITIALIZE: &str =
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}"#;
    for (private_addresses, expected) in
        [(true, FailureStage::Connect), (false, FailureStage::PrivateAddress)]
    {
        let server = SseServer::start(target(private_addresses)).unwrap();
        let outcome = server.call(UpstreamRequest::from_message(INITIALIZE.into())).await;
        assert_eq!(outcome.map(|_| ()).map_err(|error| error.stage), Err(expected));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_fails_each_call_once() {
    let mut fixture = Fixture::new(&[("0", "\"t\""), ("1", ""), ("2", "")], false);
    fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n\n");
    fixture.feed(
        b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1}}\n\n",
    );
    fixture.feed(b"data: {\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{");
    let session = Rc::clone(&fixture.session);
    session.fail(FailureStage::BodyIncomplete);
    session.fail(FailureStage::ResponseTooLarge);
    fixture.feed(b"}}\n\n");
    let progress = r#"+{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t"}}BodyIncomplete"#;
    assert_eq!(fixture.received(), [progress, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "BodyIncomplete"]);
    assert_eq!(session.hub.failures.borrow().count(), 0, "it was open");
    let unopened = SseSession::new(
        &session.hub,
        HeaderValue::from_static("t"),
        "/m".parse().unwrap(),
        1,
        Instant::now(),
    );
    unopened.fail(FailureStage::BodyIncomplete);
    assert_eq!(session.hub.failures.borrow().count(), 1);
}
