//! A long event stream from a upstream, taken up again when it breaks: what a Legacy server sends outside
//! of calls, and what a Modern one sends to a subscription.
//!
//! It is no task: it is read, and waits until it may ask again, while whoever takes its events polls it. The asking is one,
//! which is there only meanwhile: others wait for what comes of it, and its client may not read. Most streams are silent for
//! days, so it holds no more than it needs at the moment.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Sleep, sleep};

use super::upstream_session::UpstreamSession;
use crate::auth::KeyId;
use crate::upstream::{IdleBody, RequestKind, UpstreamPool, UpstreamRequest, UpstreamResponse};
use metamcp_core::frame::{Event, EventReader};
use metamcp_core::protocol::{Era, header};

/// The stream of one upstream.
pub struct UpstreamStream {
    pool: Rc<UpstreamPool>,
    source: StreamSource,
    state: State,
    /// Boxed: few servers tell any.
    last_event_id: Option<Box<HeaderValue>>,
    /// Milliseconds.
    backoff_ms: u32,
    /// Whether it is taken up again after a regular end.
    resumes: bool,
}

/// How the stream is asked for.
pub enum StreamSource {
    /// GET within a Legacy session.
    Legacy(Arc<UpstreamSession>),
    /// POST of `subscriptions/listen`.
    Modern(Box<ListenRequest>),
}

/// `subscriptions/listen` of one server.
pub struct ListenRequest {
    /// The whole message.
    pub message: Bytes,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The key on whose behalf; none for the gateway's own.
    pub owner: Option<KeyId>,
}

enum State {
    Asking(Asking),
    Open(Open),
    /// Until it is asked for again.
    Waiting(Pin<Box<Sleep>>),
}

/// A task that asks; dropped, it asks no more.
struct Asking(JoinHandle<Asked>);

/// The stream; or the status that it is refused with, if it is not for want of an answer.
type Asked = Result<IdleBody, Option<StatusCode>>;

/// What comes of a upstream.
struct Open {
    stream: IdleBody,
    /// While some of an event is here.
    reader: Option<Box<EventReader>>,
    /// Whether some of it has been read.
    is_begun: bool,
}

/// Why there is nothing more to come.
#[derive(Debug, PartialEq, Eq)]
pub enum UpstreamStreamEnd {
    /// The server has no such stream: 405, or 404 to a Modern request.
    Unsupported,
    /// The server does not know the session any more.
    SessionLost,
    /// It ended, and is not to be taken up again.
    Ended,
}

/// The first wait before a broken stream is asked for again, in milliseconds; it doubles up to [`BACKOFF_MAX_MS`].
const BACKOFF_MIN_MS: u32 = 500;

/// No upstream is asked more often than this for long, whatever its `retry` says. Milliseconds.
const BACKOFF_MAX_MS: u32 = 30_000;

impl UpstreamStream {
    /// Asks at once, where it broke off if that is said. `resumes`: taken up again whenever it ends; else only what is
    /// sent until the first end. Runs in a `LocalSet`.
    pub fn begin(
        pool: Rc<UpstreamPool>,
        source: StreamSource,
        resumes: bool,
        last_event_id: Option<Box<HeaderValue>>,
    ) -> Self {
        let state = State::Asking(Asking::begin(&pool, &source, last_event_id.as_deref()));
        Self { pool, source, state, last_event_id, backoff_ms: BACKOFF_MIN_MS, resumes }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, UpstreamStreamEnd> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next event. After an end there is nothing more to ask.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, UpstreamStreamEnd>> {
        loop {
            self.state = match &mut self.state {
                State::Asking(Asking(asking)) => match ready!(Pin::new(asking).poll(cx)) {
                    Ok(Ok(stream)) => State::Open(Open { stream, reader: None, is_begun: false }),
                    Ok(Err(Some(status))) => match self.refused(status) {
                        Ok(()) => self.wait(),
                        Err(end) => return Poll::Ready(Err(end)),
                    },
                    // It did not answer; or the asking failed, or ends with its thread.
                    Ok(Err(None)) | Err(_) => self.wait(),
                },
                State::Open(open) => match ready!(open.poll_event(cx)) {
                    Some(event) => {
                        self.note(&event);
                        return Poll::Ready(Ok(event));
                    }
                    None if self.resumes => self.wait(),
                    None => return Poll::Ready(Err(UpstreamStreamEnd::Ended)),
                },
                State::Waiting(waiting) => {
                    ready!(waiting.as_mut().poll(cx));
                    State::Asking(Asking::begin(&self.pool, &self.source, self.last_event_id.as_deref()))
                }
            };
        }
    }

    /// What an event says of the stream itself.
    fn note(&mut self, event: &Event) {
        if let Some(retry_ms) = event.retry {
            let retry_ms = u32::try_from(retry_ms).unwrap_or(u32::MAX);
            self.backoff_ms = retry_ms.clamp(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
        } else if event.data.is_some() {
            self.backoff_ms = BACKOFF_MIN_MS;
        }
        if let Some(id) = &event.id {
            self.last_event_id = HeaderValue::from_bytes(id).ok().map(Box::new);
        }
    }

    /// Whether a refusal is for good.
    fn refused(&self, status: StatusCode) -> Result<(), UpstreamStreamEnd> {
        match (&self.source, status) {
            (_, StatusCode::METHOD_NOT_ALLOWED) => Err(UpstreamStreamEnd::Unsupported),
            (StreamSource::Legacy(ready), StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
                if ready.session_id.is_some() =>
            {
                Err(UpstreamStreamEnd::SessionLost)
            }
            // A success that is no event stream answers the request otherwise; so does any other 4xx but
            // those that pass.
            (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT) => Ok(()),
            (_, status) if status.is_server_error() => Ok(()),
            _ => Err(UpstreamStreamEnd::Unsupported),
        }
    }

    /// Longer each time.
    fn wait(&mut self) -> State {
        let backoff = Duration::from_millis(self.backoff_ms.into());
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MAX_MS);
        State::Waiting(Box::pin(sleep(backoff)))
    }
}

impl StreamSource {
    fn request(&self, last_event_id: Option<&HeaderValue>) -> UpstreamRequest {
        let mut request = match self {
            Self::Legacy(ready) => {
                let mut request = UpstreamRequest::get();
                ready.write_headers(&mut request);
                request
            }
            Self::Modern(listen) => {
                let ListenRequest { message, headers, owner } = &**listen;
                let mut request = UpstreamRequest::from_message(message.clone());
                request.set_era(Era::Modern);
                request.set_owner(*owner);
                for (name, value) in headers {
                    request.add_header(name, value);
                }
                request
            }
        };
        if let Some(id) = last_event_id {
            request.set_header(&header::LAST_EVENT_ID, id);
        }
        request
    }
}

impl Asking {
    fn begin(pool: &Rc<UpstreamPool>, source: &StreamSource, last_event_id: Option<&HeaderValue>) -> Self {
        let (pool, request) = (Rc::clone(pool), source.request(last_event_id));
        let ready = match source {
            StreamSource::Legacy(ready) => Some(Arc::clone(ready)),
            StreamSource::Modern(_) => None,
        };
        Self(spawn_local(async move {
            let answered = pool.send(&request, RequestKind::Stream).await;
            if let Some(ready) = ready {
                ready.mark_stream_settled();
            }
            let UpstreamResponse { head, body } = *answered.map_err(|_failed| None)?;
            let is_stream = head.status.is_success() && head.is_event_stream();
            // Of a refusal nothing more is read, and no connection is held for it until the client reads.
            if is_stream { Ok(body.into_idle()) } else { Err(Some(head.status)) }
        }))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Open {
    /// The next event; `None` at the end of the stream, regular or not.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(reader) = &mut self.reader {
                match reader.next() {
                    Ok(Some(event)) => return Poll::Ready(Some(event)),
                    Ok(None) if reader.is_idle() => {
                        self.is_begun = true;
                        self.reader = None;
                    }
                    Ok(None) => {}
                    Err(_too_long) => return Poll::Ready(None),
                }
            }
            let Some(Ok(chunk)) = ready!(self.stream.poll_chunk(cx)) else { return Poll::Ready(None) };
            let begin = || if self.is_begun { EventReader::mid_stream() } else { EventReader::new() };
            self.reader.get_or_insert_with(|| Box::new(begin())).push(chunk);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::{LocalSet, spawn_blocking};
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::session::ServerFeatures;
    use crate::upstream::shim::event_channel;
    use crate::upstream::{Config, EraChoice, ServerAddress, TlsRoots, ToolPinPolicy, Upstream, UpstreamId};
    use metamcp_core::base::ServerName;
    use metamcp_core::protocol::Revision;

    const STREAM: &str =
        "\u{feff}id: 1\r\ndata: a\r\n\r\n: c\n\ndata: b\r\rdata: \u{feff}c\n\n\u{feff}data: d\n\n";

    /// The events of a stream that comes in two pieces, and whether something is held when it is silent.
    fn read(at: usize) -> (Vec<Event>, bool) {
        let (outlet, events) = event_channel();
        let mut open = Open { stream: IdleBody::Told(events), reader: None, is_begun: false };
        let (mut cx, mut read) = (Context::from_waker(Waker::noop()), Vec::new());
        for piece in [&STREAM[..at], &STREAM[at..]] {
            assert!(outlet.try_send(Bytes::copy_from_slice(piece.as_bytes())));
            while let Poll::Ready(event) = open.poll_event(&mut cx) {
                read.push(event.expect("it has not ended"));
            }
        }
        let is_held = open.reader.is_some();
        drop(outlet);
        assert_eq!(open.poll_event(&mut cx), Poll::Ready(None));
        (read, is_held)
    }

    #[test]
    fn a_silent_stream_holds_nothing_however_it_came() {
        let (whole, _) = read(0);
        let data: Vec<_> = whole.iter().map(|event| event.data.as_deref()).collect();
        assert_eq!(data, [Some(&b"a"[..]), None, Some(b"b"), Some("\u{feff}c".as_bytes()), None]);
        for at in (0..=STREAM.len()).filter(|at| STREAM.is_char_boundary(*at)) {
            let (events, is_held) = read(at);
            let said = |events: &[Event]| -> Vec<_> {
                events.iter().map(|event| (event.data.clone(), event.id.clone())).collect()
            };
            assert_eq!((said(&events), is_held), (said(&whole), false), "cut at {at}");
        }
    }

    /// As a client has it that opened its stream and reads nothing: while the server thinks, it is polled no more.
    struct Unread {
        pool: Rc<UpstreamPool>,
        ready: Arc<UpstreamSession>,
        feed: Option<UpstreamStream>,
        /// The request for the stream, at the server.
        asked: UnixStream,
        listener: UnixListener,
        _socket: Socket,
        /// Until it is dropped, or for too long, the paused clock stands.
        _still: mpsc::Sender<()>,
    }

    /// For what takes a moment; whoever waits for longer has failed.
    pub const PATIENCE: Duration = Duration::from_mins(1);

    impl Unread {
        /// Of a server that could not be reached for a while, so that the request for the stream is the one let through.
        async fn new(name: &str) -> Self {
            let (still, ends) = mpsc::channel();
            spawn_blocking(move || ends.recv_timeout(PATIENCE).ok());
            let socket = Socket::new(name);
            let pool = pool(&socket);
            while pool.upstream().status().left_alone.is_none() {
                assert!(
                    pool.send(&UpstreamRequest::get(), RequestKind::Call).await.is_err(),
                    "nobody is there"
                );
            }
            advance(PATIENCE).await;
            let listener = UnixListener::bind(&socket.0).unwrap();
            let features = Arc::new(ServerFeatures::default());
            let ready = Arc::new(UpstreamSession::new(None, Revision::LEGACY_LATEST, features));
            let mut feed =
                UpstreamStream::begin(Rc::clone(&pool), StreamSource::Legacy(Arc::clone(&ready)), true, None);
            let asked = tokio::select! {
                _ = feed.next() => panic!("nothing is answered yet"),
                asked = hear_new(&listener) => asked,
            };
            assert!(
                pool.send(&UpstreamRequest::get(), RequestKind::Call).await.is_err(),
                "one is let through"
            );
            Self { pool, ready, feed: Some(feed), asked, listener, _socket: socket, _still: still }
        }
    }

    /// Where a server will listen.
    pub struct Socket(pub PathBuf);

    impl Socket {
        pub fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("metamcp-session-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    pub fn pool(socket: &Socket) -> Rc<UpstreamPool> {
        let address = ServerAddress::Unix { socket: socket.0.clone(), path: "/mcp".into() };
        let config = Config {
            name: ServerName::new("a").unwrap(),
            address,
            headers: Vec::new(),
            era: EraChoice::Legacy,
            connect_timeout: PATIENCE,
            first_byte_timeout: PATIENCE,
            stream_idle_timeout: PATIENCE,
            in_flight_max: 8,
            queue_timeout: PATIENCE,
            queue_max: 8,
            idle_connections_max: 8,
            idle_age_max: 10 * PATIENCE,
            fast_lane: true,
            private_addresses: true,
            may_be_sse: false,
            has_breaker: true,
            alias: None,
            changed_tools: ToolPinPolicy::Allow,
        };
        let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
        UpstreamPool::new(Upstream::new(UpstreamId(0), config, &roots).unwrap())
    }

    /// Reads the head of the next request on it.
    async fn hear(stream: &mut UnixStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0, "it is asked");
        }
    }

    async fn hear_new(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        hear(&mut stream).await;
        stream
    }

    const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
        9\r\ndata: a\n\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn what_is_answered_is_known_before_the_client_reads() {
        // What the client has once it reads, and how many connections are free before.
        let check = async |name: &str,
                           answer: &str,
                           expected: Result<&[u8], UpstreamStreamEnd>,
                           idle: usize| {
            let mut unread = Unread::new(name).await;
            unread.asked.write_all(answer.as_bytes()).await.unwrap();
            timeout(PATIENCE, unread.ready.wait_stream_settled()).await.expect("it is answered");
            assert_eq!(
                (unread.pool.idle_connections(), unread.pool.upstream().status().left_alone),
                (idle, None),
                "{name}"
            );
            let (request, answer) = (UpstreamRequest::get(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let Unread { pool, asked, listener, .. } = &mut unread;
            let another = async {
                let mut new = tokio::select! {
                    () = hear(asked) => None,
                    new = hear_new(listener) => Some(new),
                };
                new.as_mut().unwrap_or(asked).write_all(answer).await.unwrap();
            };
            let (sent, ()) = tokio::join!(pool.send(&request, RequestKind::Call), another);
            assert_eq!(sent.err().map(|error| error.stage), None, "{name}: another is let through");
            let next = unread.feed.as_mut().unwrap().next().await.map(|event| event.data.unwrap_or_default());
            assert_eq!(next.as_deref(), expected.as_ref().copied(), "{name}");
        };
        let refused = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        LocalSet::new()
            .run_until(async {
                check("open", EVENTS, Ok(b"a"), 0).await;
                check("refused", &refused("405 No"), Err(UpstreamStreamEnd::Unsupported), 1).await;
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_given_up_is_asked_for_no_more() {
        let given_up = async {
            let mut unread = Unread::new("given up").await;
            unread.feed = None;
            // The request would be given up by itself in the end.
            let told = timeout(PATIENCE / 2, unread.asked.read(&mut [0; 1])).await;
            assert_eq!(told.expect("the server is told").unwrap(), 0);
        };
        LocalSet::new().run_until(given_up).await;
    }
}
