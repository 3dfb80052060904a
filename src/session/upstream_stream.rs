//! A long-lived event stream from an upstream that reconnects when it breaks: the messages that a Legacy
//! server sends outside of calls, or those that a Modern server sends to a subscription.
//!
//! Events are read only when the consumer polls, and so is the back-off timer. Opening the stream runs in a
//! task of its own, since others wait for the outcome while the consumer may not poll. Most streams are
//! silent for days, so an open stream holds as little memory as possible.

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
use crate::upstream::UpstreamPool;
use metamcp_core::base::KeyId;
use metamcp_core::frame::{Event, EventReader};
use metamcp_core::protocol::{Era, header};
use metamcp_http::{IdleBody, RequestKind, UpstreamRequest, UpstreamResponse};

/// The event stream of one upstream.
pub struct UpstreamStream {
    pool: Rc<UpstreamPool>,
    source: StreamSource,
    state: ConnectionState,
    /// Boxed: few servers send event ids.
    last_event_id: Option<Box<HeaderValue>>,
    backoff_ms: u32,
    /// Whether to reconnect after the server ends the stream.
    reconnects: bool,
}

/// The request that opens the stream.
pub enum StreamSource {
    /// GET in a Legacy session.
    Legacy(Arc<UpstreamSession>),
    /// A POST of `subscriptions/listen`.
    Modern(Box<ListenRequest>),
}

/// A `subscriptions/listen` request to one server.
pub struct ListenRequest {
    /// The whole JSON-RPC message.
    pub message: Bytes,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The key on whose behalf it is sent. `None` for the gateway's own.
    pub owner: Option<KeyId>,
}

enum ConnectionState {
    Opening(OpenTask),
    Open(OpenBody),
    /// Waiting for the back-off to elapse.
    BackingOff(Pin<Box<Sleep>>),
}

/// A task that opens the stream. Dropping it aborts the task.
struct OpenTask(JoinHandle<OpenResult>);

/// The stream's body, or the status that refused it. `Err(None)` means that there was no response.
type OpenResult = Result<IdleBody, Option<StatusCode>>;

/// The body of an open stream.
struct OpenBody {
    body: IdleBody,
    /// Present while an event is partly read.
    reader: Option<Box<EventReader>>,
    /// Whether an event was read before.
    is_mid_stream: bool,
}

/// Why the stream ended permanently.
#[derive(Debug, PartialEq, Eq)]
pub enum UpstreamStreamEnd {
    /// The server has no such stream: 405, or 404 to a Modern request.
    Unsupported,
    /// The server lost the session.
    SessionLost,
    /// The server ended the stream, and it does not reconnect.
    Ended,
}

/// The first back-off of a broken stream. Each further one doubles, up to [`BACKOFF_MAX_MS`].
const BACKOFF_MIN_MS: u32 = 500;

/// The longest back-off. It also bounds the server's `retry` from above.
const BACKOFF_MAX_MS: u32 = 30_000;

impl UpstreamStream {
    /// Opens the stream, after `last_event_id` if given. `reconnects`: whether to open it again whenever it
    /// ends. Must be called within a `LocalSet`.
    pub fn open(
        pool: Rc<UpstreamPool>,
        source: StreamSource,
        reconnects: bool,
        last_event_id: Option<Box<HeaderValue>>,
    ) -> Self {
        let state = ConnectionState::Opening(OpenTask::spawn(&pool, &source, last_event_id.as_deref()));
        Self { pool, source, state, last_event_id, backoff_ms: BACKOFF_MIN_MS, reconnects }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, UpstreamStreamEnd> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next event. Must not be called again after an error.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, UpstreamStreamEnd>> {
        loop {
            self.state = match &mut self.state {
                ConnectionState::Opening(OpenTask(task)) => match ready!(Pin::new(task).poll(cx)) {
                    Ok(Ok(body)) => {
                        ConnectionState::Open(OpenBody { body, reader: None, is_mid_stream: false })
                    }
                    Ok(Err(Some(status))) => match self.check_status(status) {
                        Ok(()) => self.back_off(),
                        Err(end) => return Poll::Ready(Err(end)),
                    },
                    // No response, or the task failed or is shutting down with its thread.
                    Ok(Err(None)) | Err(_) => self.back_off(),
                },
                ConnectionState::Open(open) => match ready!(open.poll_event(cx)) {
                    Some(event) => {
                        self.note_event(&event);
                        return Poll::Ready(Ok(event));
                    }
                    None if self.reconnects => self.back_off(),
                    None => return Poll::Ready(Err(UpstreamStreamEnd::Ended)),
                },
                ConnectionState::BackingOff(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    let last_event_id = self.last_event_id.as_deref();
                    ConnectionState::Opening(OpenTask::spawn(&self.pool, &self.source, last_event_id))
                }
            };
        }
    }

    /// Records the fields of an event that concern the stream: `retry` and `id`.
    fn note_event(&mut self, event: &Event) {
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

    /// Whether to retry after a status that did not open the stream.
    fn check_status(&self, status: StatusCode) -> Result<(), UpstreamStreamEnd> {
        match (&self.source, status) {
            (_, StatusCode::METHOD_NOT_ALLOWED) => Err(UpstreamStreamEnd::Unsupported),
            (StreamSource::Legacy(session), StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
                if session.session_id.is_some() =>
            {
                Err(UpstreamStreamEnd::SessionLost)
            }
            // Temporary. Any other 4xx, and a success without an event stream, mean that the server has none.
            (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT) => Ok(()),
            (_, status) if status.is_server_error() => Ok(()),
            _ => Err(UpstreamStreamEnd::Unsupported),
        }
    }

    /// Starts the back-off timer, and doubles the next back-off.
    fn back_off(&mut self) -> ConnectionState {
        let backoff = Duration::from_millis(self.backoff_ms.into());
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MAX_MS);
        ConnectionState::BackingOff(Box::pin(sleep(backoff)))
    }
}

impl StreamSource {
    fn request(&self, last_event_id: Option<&HeaderValue>) -> UpstreamRequest {
        let mut request = match self {
            Self::Legacy(session) => {
                let mut request = UpstreamRequest::get();
                session.write_headers(&mut request);
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

impl OpenTask {
    fn spawn(pool: &Rc<UpstreamPool>, source: &StreamSource, last_event_id: Option<&HeaderValue>) -> Self {
        let (pool, request) = (Rc::clone(pool), source.request(last_event_id));
        let session = match source {
            StreamSource::Legacy(session) => Some(Arc::clone(session)),
            StreamSource::Modern(_) => None,
        };
        Self(spawn_local(async move {
            let sent = pool.send(&request, RequestKind::Stream).await;
            if let Some(session) = session {
                session.mark_stream_settled();
            }
            let UpstreamResponse { head, body } = *sent.map_err(|_failed| None)?;
            let is_stream = head.status.is_success() && head.is_event_stream();
            // Drop the body of a refusal, so that it holds no connection until the client reads.
            if is_stream { Ok(body.into_idle()) } else { Err(Some(head.status)) }
        }))
    }
}

impl Drop for OpenTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl OpenBody {
    /// The next event. `None` at the end of the stream, regular or not.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(reader) = &mut self.reader {
                match reader.next() {
                    Ok(Some(event)) => return Poll::Ready(Some(event)),
                    Ok(None) if reader.is_idle() => {
                        self.is_mid_stream = true;
                        self.reader = None;
                    }
                    Ok(None) => {}
                    Err(_too_long) => return Poll::Ready(None),
                }
            }
            let Some(Ok(chunk)) = ready!(self.body.poll_chunk(cx)) else { return Poll::Ready(None) };
            let new_reader =
                || if self.is_mid_stream { EventReader::mid_stream() } else { EventReader::new() };
            self.reader.get_or_insert_with(|| Box::new(new_reader())).push(chunk);
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
    use crate::upstream::{Upstream, UpstreamId};
    use metamcp_config::server::settings::DEFAULTS;
    use metamcp_config::server::{EraChoice, ServerAddress, ServerConfig, ServerSettings, ToolPinPolicy};
    use metamcp_core::base::ServerName;
    use metamcp_core::protocol::Revision;
    use metamcp_http::TlsRoots;
    use metamcp_http::multiplex::event_channel;

    const STREAM: &str =
        "\u{feff}id: 1\r\ndata: a\r\n\r\n: c\n\ndata: b\r\rdata: \u{feff}c\n\n\u{feff}data: d\n\n";

    /// Reads a stream that arrives in two chunks. Returns its events, and whether memory is held while it is
    /// silent.
    fn read(at: usize) -> (Vec<Event>, bool) {
        let (outlet, events) = event_channel();
        let mut open = OpenBody { body: IdleBody::Events(events), reader: None, is_mid_stream: false };
        let (mut cx, mut read) = (Context::from_waker(Waker::noop()), Vec::new());
        for chunk in [&STREAM[..at], &STREAM[at..]] {
            assert!(outlet.try_send(Bytes::copy_from_slice(chunk.as_bytes())));
            while let Poll::Ready(event) = open.poll_event(&mut cx) {
                read.push(event.expect("the stream has not ended"));
            }
        }
        let is_held = open.reader.is_some();
        drop(outlet);
        assert_eq!(open.poll_event(&mut cx), Poll::Ready(None));
        (read, is_held)
    }

    #[test]
    fn a_silent_stream_holds_no_memory() {
        let (whole, _) = read(0);
        let data: Vec<_> = whole.iter().map(|event| event.data.as_deref()).collect();
        assert_eq!(data, [Some(&b"a"[..]), None, Some(b"b"), Some("\u{feff}c".as_bytes()), None]);
        for at in (0..=STREAM.len()).filter(|at| STREAM.is_char_boundary(*at)) {
            let (events, is_held) = read(at);
            let data_and_ids = |events: &[Event]| -> Vec<_> {
                events.iter().map(|event| (event.data.clone(), event.id.clone())).collect()
            };
            assert_eq!((data_and_ids(&events), is_held), (data_and_ids(&whole), false), "cut at {at}");
        }
    }

    /// The stream of a client that opened it and does not read: it is not polled while the server works.
    struct UnreadStream {
        pool: Rc<UpstreamPool>,
        session: Arc<UpstreamSession>,
        stream: Option<UpstreamStream>,
        /// The server's end of the connection that requests the stream.
        connection: UnixStream,
        listener: UnixListener,
        _socket: Socket,
        /// Stops the paused clock until it is dropped, or for [`TIMEOUT`].
        _clock_guard: mpsc::Sender<()>,
    }

    /// Longer waits count as failures.
    pub const TIMEOUT: Duration = Duration::from_mins(1);

    impl UnreadStream {
        /// Uses a server that was unreachable for a while, so that the request for the stream is the
        /// breaker's probe.
        async fn new(name: &str) -> Self {
            let (clock_guard, released) = mpsc::channel();
            spawn_blocking(move || released.recv_timeout(TIMEOUT).ok());
            let socket = Socket::new(name);
            let pool = pool(&socket);
            while pool.upstream().status().retry_in.is_none() {
                assert!(
                    pool.send(&UpstreamRequest::get(), RequestKind::Call).await.is_err(),
                    "the server is unreachable"
                );
            }
            advance(TIMEOUT).await;
            let listener = UnixListener::bind(&socket.0).unwrap();
            let features = Arc::new(ServerFeatures::default());
            let session = Arc::new(UpstreamSession::new(None, Revision::LEGACY_LATEST, features));
            let mut stream = UpstreamStream::open(
                Rc::clone(&pool),
                StreamSource::Legacy(Arc::clone(&session)),
                true,
                None,
            );
            let connection = tokio::select! {
                _ = stream.next() => panic!("there is no response yet"),
                connection = accept_request(&listener) => connection,
            };
            assert!(
                pool.send(&UpstreamRequest::get(), RequestKind::Call).await.is_err(),
                "only the probe is sent"
            );
            Self {
                pool,
                session,
                stream: Some(stream),
                connection,
                listener,
                _socket: socket,
                _clock_guard: clock_guard,
            }
        }
    }

    /// The path of a server's socket.
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
        let settings = ServerSettings {
            era: EraChoice::Legacy,
            connect_timeout: TIMEOUT,
            first_byte_timeout: TIMEOUT,
            stream_idle_timeout: TIMEOUT,
            in_flight_max: 8,
            queue_timeout: TIMEOUT,
            queue_max: 8,
            idle_connections_max: 8,
            idle_age_max: 10 * TIMEOUT,
            changed_tools: ToolPinPolicy::Allow,
            ..DEFAULTS
        };
        let config = ServerConfig::new(ServerName::new("a").unwrap(), address, Vec::new(), settings);
        let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
        UpstreamPool::new(Upstream::new(UpstreamId(0), config, &roots).unwrap())
    }

    /// Reads the head of the next request.
    async fn read_request(stream: &mut UnixStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0, "a request arrives");
        }
    }

    async fn accept_request(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream
    }

    const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
        9\r\ndata: a\n\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn the_response_is_noted_before_the_client_reads() {
        // What the client reads, and how many connections are idle before.
        let check =
            async |name: &str, answer: &str, expected: Result<&[u8], UpstreamStreamEnd>, idle: usize| {
                let mut unread = UnreadStream::new(name).await;
                unread.connection.write_all(answer.as_bytes()).await.unwrap();
                timeout(TIMEOUT, unread.session.wait_stream_settled()).await.expect("the stream is settled");
                assert_eq!(
                    (unread.pool.idle_connections(), unread.pool.upstream().status().retry_in),
                    (idle, None),
                    "{name}"
                );
                let (request, response) =
                    (UpstreamRequest::get(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                let UnreadStream { pool, connection, listener, .. } = &mut unread;
                let respond_to_call = async {
                    let mut new = tokio::select! {
                        () = read_request(connection) => None,
                        new = accept_request(listener) => Some(new),
                    };
                    new.as_mut().unwrap_or(connection).write_all(response).await.unwrap();
                };
                let (sent, ()) = tokio::join!(pool.send(&request, RequestKind::Call), respond_to_call);
                assert_eq!(sent.err().map(|error| error.stage), None, "{name}: the breaker is closed");
                let next =
                    unread.stream.as_mut().unwrap().next().await.map(|event| event.data.unwrap_or_default());
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
    async fn dropping_a_stream_aborts_its_request() {
        let all = async {
            let mut unread = UnreadStream::new("dropped").await;
            unread.stream = None;
            // The request would time out eventually.
            let read = timeout(TIMEOUT / 2, unread.connection.read(&mut [0; 1])).await;
            assert_eq!(read.expect("the connection closes").unwrap(), 0);
        };
        LocalSet::new().run_until(all).await;
    }
}
