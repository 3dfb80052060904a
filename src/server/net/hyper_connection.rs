//! Serves HTTP/2 and uncommon HTTP/1.1 requests with hyper.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::{AbortHandle, Abortable};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::task_local;
use tokio::time::{sleep, timeout};

use super::connection_transfer::{ConnectionTransfer, DetachedStream};
use super::rewind::RewoundSocket;
use super::strict_feed::StrictFeed;
use crate::runtime::{await_socket_polls, yield_once};
use crate::server::http1::activity::{ConnectionActivity, ConnectionOrder, ConnectionRegistry, HttpVersion};
use crate::server::http1::socket::Socket;
use crate::server::path::handler::handle;
use crate::server::reply::response_writer::ResponseWriter;
use crate::server::reply::transport_body::TransportBody;
use crate::server::worker::Worker;
use metamcp_config::sections::HttpConfig;
use metamcp_core::base::ShutdownPhase;
use metamcp_http::io::with_scratch;

/// The preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is kept of a response stream while the socket accepts nothing, although its client has opened the window. With all
/// streams of a connection, 16 MiB, which are not charged to the bound on memory; hyper's default would be 100 MiB.
const HTTP2_SEND_BUFFER: usize = 64 << 10;

/// Concurrent streams of one HTTP/2 connection: an agent's calls in flight. Beyond it, the client waits.
const HTTP2_STREAMS_MAX: u32 = 256;

/// The receive window of a request: how much a client may send while it is not read, such as a framed stream
/// with many calls in flight.
const HTTP2_STREAM_WINDOW: u32 = 128 << 10;

/// The receive window of a connection. h2 closes a connection whose unread small frames take, with their
/// overhead, half of this. The frames of one stream, of 30 bytes and more, do not.
const HTTP2_CONNECTION_WINDOW: u32 = 2 << 20;

/// Time for a client whose request was answered before it was read to send the rest, to read the answer and to close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What such a client may still send: what the buffers of two sockets usually hold.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// How long a connection of HTTP/2 may take to end after it was ordered to close: a round trip for GOAWAY, and the
/// rest of what its client still takes.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Why hyper stopped serving a connection.
pub enum HyperExit {
    /// The connection has ended.
    Gone,
    /// No request is in flight.
    Rest(ConnectionTransfer),
    /// An event stream that has not been written to yet.
    Stream(ConnectionTransfer, Box<DetachedStream>),
}

/// Serves a connection with hyper as long as necessary.
pub async fn serve(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    link: ConnectionTransfer,
) -> HyperExit {
    let mut phase = worker.shared.phase.clone();
    let settings = worker.settings();
    let opened = tokio::select! {
        // Requests that have arrived are answered, even during shutdown.
        biased;
        opened = open(&settings.config, link) => opened,
        () = draining(&mut phase, &worker.connections) => return HyperExit::Gone,
    };
    let Some((link, speaks)) = opened else { return HyperExit::Gone };
    activity.set_protocol(speaks);
    let feed = (speaks == HttpVersion::Http1).then(|| StrictFeed::new(activity, link.is_pipelined));
    let stream = RewoundSocket::new(link.unprocessed, link.socket, Rc::clone(activity), feed);
    match speaks {
        HttpVersion::Http1 => serve_http1(worker, stream, activity).await,
        HttpVersion::Http2 => {
            serve_http2(worker, stream, activity).await;
            HyperExit::Gone
        }
    }
}

/// Waits until the gateway drains, and the runtime has noticed the bytes that arrived before.
async fn draining(phase: &mut watch::Receiver<ShutdownPhase>, connections: &ConnectionRegistry) {
    let _ = phase.wait_for(|phase| *phase >= ShutdownPhase::Drain).await;
    await_socket_polls(connections.open()).await;
}

/// Reads enough bytes to detect the protocol. `None` if they do not arrive.
async fn open(
    config: &HttpConfig,
    mut link: ConnectionTransfer,
) -> Option<(ConnectionTransfer, HttpVersion)> {
    let first = &mut link.unprocessed;
    match &mut link.socket {
        _ if !first.is_empty() => {}
        // No buffer is allocated yet: an idle connection only costs its socket.
        Socket::Tcp(tcp) => timeout(config.idle_timeout, tcp.readable()).await.ok()?.ok()?,
        Socket::Unix(unix) => timeout(config.idle_timeout, unix.readable()).await.ok()?.ok()?,
        // The first request may have arrived with the end of the handshake, and be buffered in the TLS
        // session.
        Socket::Tls(tls) => {
            timeout(config.idle_timeout, tls.read_buf(first)).await.ok()?.ok().filter(|count| *count > 0)?;
        }
    }
    if let Some(speaks) = link.protocol {
        return Some((link, speaks));
    }
    let speaks = timeout(config.header_timeout, async {
        loop {
            let seen = first.len().min(HTTP2_PREFACE.len());
            if first[..seen] != HTTP2_PREFACE[..seen] {
                return Some(HttpVersion::Http1);
            }
            if seen == HTTP2_PREFACE.len() {
                return Some(HttpVersion::Http2);
            }
            if link.socket.read_buf(first).await.ok()? == 0 {
                return None;
            }
        }
    });
    let speaks = speaks.await.ok()??;
    Some((link, speaks))
}

async fn serve_http1(
    worker: &Rc<Worker>,
    stream: RewoundSocket,
    activity: &Rc<ConnectionActivity>,
) -> HyperExit {
    let config = &worker.settings().config;
    let exit = Rc::new(DetachSlot::default());
    let mut connection = http1::Builder::new()
        // [`ConnectionActivity`] handles the timeouts. A client that closes only its sending side has left
        // too: in the Modern era this cancels a call (MCP 2026-07-28, transports). `RewoundSocket` hides it from
        // hyper behind pipelined requests.
        .header_read_timeout(None)
        .half_close(false)
        .max_headers(config.header_count_max)
        .max_header_size(config.header_bytes_max)
        .serve_connection(TokioIo::new(stream), service(worker, activity, &exit));
    let (mut is_draining, mut has_begun) = (false, false);
    let is_over = poll_fn(|cx| {
        match activity.current_order(cx.waker()) {
            ConnectionOrder::Continue => {}
            // hyper must first see the bytes that were read before, or it would close the connection as idle.
            ConnectionOrder::Drain if is_draining || !has_begun => {}
            ConnectionOrder::Drain => {
                is_draining = true;
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                Pin::new(&mut connection).graceful_shutdown();
            }
            ConnectionOrder::Close => return Poll::Ready(true),
        }
        let polled = Pin::new(&mut connection).poll(cx).map(|_ended| true);
        if !std::mem::replace(&mut has_begun, true)
            && activity.current_order(cx.waker()) != ConnectionOrder::Continue
        {
            cx.waker().wake_by_ref();
        }
        if polled.is_pending() && (exit.is_asked() || activity.can_park()) && !activity.has_unwritten() {
            return Poll::Ready(false);
        }
        polled
    })
    .await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    if is_over {
        if stream.has_unread_request() {
            // hyper holds nothing any more, and this holds no buffer of its own.
            let _ = timeout(LINGER_TIMEOUT, discard(stream.socket)).await;
        }
        return HyperExit::Gone;
    }
    let is_pipelined = stream.is_pipelined();
    let RewoundSocket { first, socket, .. } = stream;
    // Empty, unless it is idle: the next request is in `first` until this one is answered.
    let mut ahead = BytesMut::from(parts.read_buf);
    ahead.unsplit(first);
    let protocol = Some(HttpVersion::Http1);
    let link = ConnectionTransfer { socket, unprocessed: ahead, protocol, is_pipelined };
    match exit.take() {
        None => HyperExit::Rest(link),
        Some(detached) => HyperExit::Stream(link, detached),
    }
}

/// Reads and discards what such a client still sends. To close a connection with unread bytes resets it, and
/// the response would be lost.
async fn discard(mut socket: Socket) {
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        let read = poll_fn(|cx| {
            with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                Pin::new(&mut socket)
                    .poll_read(cx, &mut buffer)
                    .map(|read| read.map(|()| buffer.filled().len()))
            })
        });
        match read.await {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

async fn serve_http2(worker: &Rc<Worker>, stream: RewoundSocket, activity: &Rc<ConnectionActivity>) {
    let config = &worker.settings().config;
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        // Detects a peer that disappeared.
        .keep_alive_interval(Some(config.idle_timeout))
        .keep_alive_timeout(config.header_timeout)
        .serve_connection(TokioIo::new(stream), service(worker, activity, &Rc::default()));
    let mut connection = pin!(connection);
    let (mut is_draining, mut grace) = (false, None);
    poll_fn(|cx| {
        let order = activity.current_order(cx.waker());
        // An idle connection is closed gracefully too, as HTTP/2 supports it.
        if order != ConnectionOrder::Continue && !std::mem::replace(&mut is_draining, true) {
            connection.as_mut().graceful_shutdown();
        }
        // One whose client accepts nothing would never end that way.
        if order == ConnectionOrder::Close
            && grace.get_or_insert_with(|| Box::pin(sleep(CLOSE_GRACE))).as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Takes a response that does not need hyper.
#[derive(Default)]
struct DetachSlot(RefCell<Option<Box<DetachedStream>>>);

impl DetachSlot {
    fn is_asked(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn offer(&self, detached: DetachedStream) {
        *self.0.borrow_mut() = Some(Box::new(detached));
    }

    fn take(&self) -> Option<Box<DetachedStream>> {
        self.0.borrow_mut().take()
    }
}

/// The hyper service that answers the requests of a connection.
fn service(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    exit: &Rc<DetachSlot>,
) -> impl HttpService<Incoming, ResBody = TransportBody, Error = Infallible, Future: 'static> + use<> {
    let (worker, activity, exit) = (Rc::clone(worker), Rc::clone(activity), Rc::clone(exit));
    service_fn(move |request: Request<Incoming>| {
        let (worker, activity, exit) = (Rc::clone(&worker), Rc::clone(&activity), Rc::clone(&exit));
        let active = activity.begin_request();
        async move {
            let is_http1 = request.version() < Version::HTTP_2;
            let may_leave = is_kept_alive(&request) && (request.body().is_end_stream() || is_read(&request));
            let reply = handle(&worker, &activity, request).await;
            let is_last = worker.clock.phase() > ShutdownPhase::Serve || activity.is_closing();
            if may_leave && reply.body.is_stream() {
                exit.offer(DetachedStream {
                    writing: ResponseWriter::new(reply, &worker.clock.date(), is_last),
                    active,
                });
                // The future is dropped together with hyper's connection.
                return pending().await;
            }
            let mut response = reply.into_http();
            if is_http1 && is_last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            yield_once().await;
            Ok(response.map(|body| {
                // On HTTP/1, a complete body holds nothing but its connection.
                let is_watched = !(body.is_end_stream() || (is_http1 && body.is_complete()));
                let body = body.held_by(active);
                if !is_watched {
                    return TransportBody::unwatched(body);
                }
                worker.bodies.watch(body, STREAM_TASK.try_with(AbortHandle::clone).ok())
            }))
        }
    })
}

/// Whether the connection stays open after the request, and the request says so in the common way.
fn is_kept_alive(request: &Request<Incoming>) -> bool {
    let is_common = |headers: &HeaderMap| {
        headers.get_all(CONNECTION).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
    };
    request.version() == Version::HTTP_11 && is_common(request.headers())
}

/// Whether the whole body is read before an event stream answers the request.
fn is_read(request: &Request<Incoming>) -> bool {
    request.method() == http::Method::POST
}

/// Spawns tasks on this worker's thread: one for each stream of HTTP/2.
#[derive(Clone, Copy)]
struct LocalExecutor;

task_local! {
    /// Ends the task of a stream of HTTP/2. h2 resets a stream whose task is gone.
    static STREAM_TASK: AbortHandle;
}

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        let (task, registration) = AbortHandle::new_pair();
        spawn_local(STREAM_TASK.scope(task, Abortable::new(future, registration)));
    }
}
