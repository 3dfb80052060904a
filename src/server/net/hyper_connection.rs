//! hyper, for what is not of the usual shape and for HTTP/2.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::link::{Detached, Link};
use super::rewind::Rewound;
use crate::runtime::{let_others_go_first, runtime_looked};
use crate::server::http1::activity::{Control, Order, Speaks};
use crate::server::http1::socket::Socket;
use crate::server::path::handler::handle;
use crate::server::reply::body::ResponseBody;
use crate::server::reply::response_writer::Writing;
use crate::server::worker::Worker;
use metamcp_core::base::ShutdownPhase;

/// The preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams of one HTTP/2 connection at once: an agent's calls under way. Over it, the client waits.
const HTTP2_STREAMS_MAX: u32 = 256;

/// Of a request that is not read for a while, as a framed stream with many calls under way: a client may have sent so much.
const HTTP2_STREAM_WINDOW: u32 = 128 << 10;

/// Of all of them together. h2 ends a connection on which small frames lie unread that take, with what each of them costs it,
/// half of this: those of one stream, of 30 bytes and more, do not.
const HTTP2_CONNECTION_WINDOW: u32 = 2 << 20;

/// What hyper was left for.
pub enum Left {
    /// The connection is over.
    Gone,
    /// Nothing is under way.
    Rest(Link),
    /// An event stream, of which nothing was written.
    Stream(Link, Box<Detached>),
}

/// Serves a connection by hyper, for as long as it is needed.
pub async fn serve(worker: &Rc<Worker>, control: &Rc<Control>, link: Link) -> Left {
    let mut phase = worker.shared.phase.clone();
    let opened = tokio::select! {
        // What has come is answered, also when the gateway is on its way out.
        biased;
        opened = open(worker, link) => opened,
        () = draining(&mut phase, worker) => return Left::Gone,
    };
    let Some((link, speaks)) = opened else { return Left::Gone };
    control.speak(speaks);
    let stream = Rewound::new(link.ahead, link.socket, Rc::clone(control));
    match speaks {
        Speaks::Http1 => serve_http1(worker, stream, control).await,
        Speaks::Http2 => {
            serve_http2(worker, stream, control).await;
            Left::Gone
        }
    }
}

/// Waits until the gateway is on its way out, and the runtime has looked at what came before.
async fn draining(phase: &mut watch::Receiver<ShutdownPhase>, worker: &Worker) {
    let _ = phase.wait_for(|phase| *phase >= ShutdownPhase::Drain).await;
    runtime_looked(worker.controls.open()).await;
}

/// Waits for enough bytes to know the protocol; `None` when they do not come.
async fn open(worker: &Rc<Worker>, mut link: Link) -> Option<(Link, Speaks)> {
    let config = &worker.shared.config;
    let first = &mut link.ahead;
    match &mut link.socket {
        _ if !first.is_empty() => {}
        // No buffer yet: an idle connection costs its socket.
        Socket::Tcp(tcp) => timeout(config.idle_timeout, tcp.readable()).await.ok()?.ok()?,
        Socket::Unix(unix) => timeout(config.idle_timeout, unix.readable()).await.ok()?.ok()?,
        // The first request may have come with the end of the handshake, and lie in the session.
        Socket::Tls(tls) => {
            timeout(config.idle_timeout, tls.read_buf(first)).await.ok()?.ok().filter(|count| *count > 0)?;
        }
    }
    if let Some(speaks) = link.speaks {
        return Some((link, speaks));
    }
    let speaks = timeout(config.header_timeout, async {
        loop {
            let seen = first.len().min(HTTP2_PREFACE.len());
            if first[..seen] != HTTP2_PREFACE[..seen] {
                return Some(Speaks::Http1);
            }
            if seen == HTTP2_PREFACE.len() {
                return Some(Speaks::Http2);
            }
            if link.socket.read_buf(first).await.ok()? == 0 {
                return None;
            }
        }
    });
    let speaks = speaks.await.ok()??;
    Some((link, speaks))
}

async fn serve_http1(worker: &Rc<Worker>, stream: Rewound, control: &Rc<Control>) -> Left {
    let config = &worker.shared.config;
    let exit = Rc::new(Exit::default());
    let mut connection = http1::Builder::new()
        // Times are kept by `Control`. A client that closes has gone, also when it closes only its sending
        // side: in the Modern era that is how a call is cancelled (MCP 2026-07-28, transports).
        .header_read_timeout(None)
        .half_close(false)
        .max_headers(config.header_count_max)
        .max_header_size(config.header_bytes_max)
        .serve_connection(TokioIo::new(stream), service(worker, control, &exit));
    let (mut is_draining, mut has_begun) = (false, false);
    let is_over = poll_fn(|cx| {
        match control.order(cx.waker()) {
            Order::GoOn => {}
            // What was read before is seen first: a connection that hyper takes for idle would be closed.
            Order::Drain if is_draining || !has_begun => {}
            Order::Drain => {
                is_draining = true;
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                Pin::new(&mut connection).graceful_shutdown();
            }
            Order::Close => return Poll::Ready(true),
        }
        let polled = Pin::new(&mut connection).poll(cx).map(|_ended| true);
        if !std::mem::replace(&mut has_begun, true) && control.order(cx.waker()) != Order::GoOn {
            cx.waker().wake_by_ref();
        }
        if polled.is_pending() && (exit.is_asked() || control.is_at_rest()) && !control.has_unwritten() {
            return Poll::Ready(false);
        }
        polled
    })
    .await;
    if is_over {
        return Left::Gone;
    }
    let parts = connection.into_parts();
    let Rewound { first, socket, .. } = parts.io.into_inner();
    let mut ahead = BytesMut::from(parts.read_buf);
    ahead.unsplit(first);
    let link = Link { socket, ahead, speaks: Some(Speaks::Http1) };
    match exit.take() {
        None => Left::Rest(link),
        Some(detached) => Left::Stream(link, detached),
    }
}

async fn serve_http2(worker: &Rc<Worker>, stream: Rewound, control: &Rc<Control>) {
    let config = &worker.shared.config;
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        // A peer that is gone without a word is noticed.
        .keep_alive_interval(Some(config.idle_timeout))
        .keep_alive_timeout(config.header_timeout)
        .serve_connection(TokioIo::new(stream), service(worker, control, &Rc::default()));
    let mut connection = pin!(connection);
    let mut is_draining = false;
    poll_fn(|cx| {
        match control.order(cx.waker()) {
            Order::GoOn => {}
            _ if is_draining => {}
            // One that is idle for too long is told to go as well: HTTP/2 has a word for it.
            Order::Drain | Order::Close => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Where an answer that hyper is not needed for is put down.
#[derive(Default)]
struct Exit(RefCell<Option<Box<Detached>>>);

impl Exit {
    fn is_asked(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn ask(&self, detached: Detached) {
        *self.0.borrow_mut() = Some(Box::new(detached));
    }

    fn take(&self) -> Option<Box<Detached>> {
        self.0.borrow_mut().take()
    }
}

/// Answers the requests of a connection.
fn service(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
    exit: &Rc<Exit>,
) -> impl HttpService<Incoming, ResBody = ResponseBody, Error = Infallible, Future: 'static> + use<> {
    let (worker, control, exit) = (Rc::clone(worker), Rc::clone(control), Rc::clone(exit));
    service_fn(move |request: Request<Incoming>| {
        let (worker, control, exit) = (Rc::clone(&worker), Rc::clone(&control), Rc::clone(&exit));
        let active = control.begin();
        async move {
            let is_http1 = request.version() < Version::HTTP_2;
            let may_leave = is_kept_alive(&request) && (request.body().is_end_stream() || is_read(&request));
            let reply = handle(&worker, &control, request).await;
            if may_leave && reply.body.is_stream() {
                exit.ask(Detached { writing: Writing::new(reply, &worker.date(), worker.phase()), active });
                // Dropped with hyper, which has nothing more to do for this connection.
                return pending().await;
            }
            let mut response = reply.into_http();
            if is_http1 && worker.phase() >= ShutdownPhase::Unready {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let_others_go_first().await;
            Ok(response.map(|body| body.held_by(active)))
        }
    })
}

/// Whether its connection stays after it, and says so in the one usual way.
fn is_kept_alive(request: &Request<Incoming>) -> bool {
    let said = |headers: &HeaderMap| {
        headers.get_all(CONNECTION).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
    };
    request.version() == Version::HTTP_11 && said(request.headers())
}

/// Whether all of its body is read before it is answered by an event stream.
fn is_read(request: &Request<Incoming>) -> bool {
    request.method() == http::Method::POST
}

/// Spawns on this worker: nothing of a connection moves to another.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}
