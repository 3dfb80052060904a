//! The owner of one client connection.
//!
//! A connection waits with nothing but its socket until the first byte comes; then hyper speaks HTTP/1.1
//! or, when the bytes are its preface, HTTP/2. The owner keeps the socket's first bytes and can put them in
//! front again, which is what parking an idle connection takes.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::ResponseBody;
use super::control::{Control, Order, Speaks};
use super::fast_lane::{self, End};
use super::handler::handle;
use super::worker::Worker;
use crate::base::{Phase, let_others_go_first, poll_write_gathered};

/// The preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A TLS handshake takes two round trips; a client that takes longer than this has stalled.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Streams of one HTTP/2 connection at once: an agent's calls under way. Over it, the client waits.
const HTTP2_STREAMS_MAX: u32 = 256;

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, socket: Socket, tls: Option<TlsAcceptor>) {
    let mut socket = match (tls, socket) {
        (Some(acceptor), Socket::Tcp(tcp)) => match timeout(TLS_TIMEOUT, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => Socket::Tls(Box::new(stream)),
            Ok(Err(_)) | Err(_) => return,
        },
        (_, plain) => plain,
    };
    let control = Control::new();
    let _watched = worker.controls.watch(&control);
    let mut before = Before { came: Bytes::new(), speaks: None };
    if worker.shared.config.fast_lane {
        match fast_lane::serve(&worker, &control, &mut socket).await {
            End::Gone => return,
            End::Unusual { came, is_first } => {
                before = Before { came, speaks: (!is_first).then_some(Speaks::Http1) };
            }
        }
    }
    // Boxed: what hyper needs is a hundred times what an idle connection has.
    Box::pin(serve_general(&worker, &control, before, socket)).await;
}

/// What is known of a connection when hyper is to serve it.
struct Before {
    /// Read and not used.
    came: Bytes,
    /// The protocol, when it is known.
    speaks: Option<Speaks>,
}

/// Serves a connection by hyper, to its end.
async fn serve_general(worker: &Rc<Worker>, control: &Rc<Control>, before: Before, socket: Socket) {
    let mut phase = worker.shared.phase.clone();
    let opened = tokio::select! {
        // What has come is answered, also when the gateway is on its way out.
        biased;
        opened = open(worker, before, socket) => opened,
        _ = phase.wait_for(|phase| *phase >= Phase::Drain) => return,
    };
    let Some((first, socket, speaks)) = opened else { return };
    control.speak(speaks);
    let stream = Rewound { first, socket, control: Rc::clone(control) };
    match speaks {
        Speaks::Http1 => serve_http1(worker, stream, control).await,
        Speaks::Http2 => serve_http2(worker, stream, control).await,
    }
}

/// Waits for enough bytes to know the protocol; `None` when they do not come.
async fn open(worker: &Rc<Worker>, before: Before, mut socket: Socket) -> Option<(Bytes, Socket, Speaks)> {
    let Before { came: first, speaks } = before;
    if let Some(speaks) = speaks {
        return Some((first, socket, speaks));
    }
    let config = &worker.shared.config;
    let mut first = BytesMut::from(first);
    match &mut socket {
        _ if !first.is_empty() => {}
        // No buffer yet: an idle connection costs its socket.
        Socket::Tcp(tcp) => timeout(config.idle_timeout, tcp.readable()).await.ok()?.ok()?,
        Socket::Unix(unix) => timeout(config.idle_timeout, unix.readable()).await.ok()?.ok()?,
        // The first request may have come with the end of the handshake, and lie in the session.
        Socket::Tls(tls) => {
            timeout(config.idle_timeout, tls.read_buf(&mut first))
                .await
                .ok()?
                .ok()
                .filter(|count| *count > 0)?;
        }
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
            if socket.read_buf(&mut first).await.ok()? == 0 {
                return None;
            }
        }
    });
    let speaks = speaks.await.ok()??;
    Some((first.freeze(), socket, speaks))
}

async fn serve_http1(worker: &Rc<Worker>, stream: Rewound, control: &Rc<Control>) {
    let config = &worker.shared.config;
    let connection = http1::Builder::new()
        // Times are kept by `Control`. A client that closes has gone, also when it closes only its sending
        // side: in the Modern era that is how a call is cancelled (MCP 2026-07-28, transports).
        .header_read_timeout(None)
        .half_close(false)
        .max_headers(config.header_count_max)
        .max_header_size(config.header_bytes_max)
        .serve_connection(TokioIo::new(stream), service(worker, control));
    let mut connection = pin!(connection);
    let (mut is_draining, mut has_begun) = (false, false);
    poll_fn(|cx| {
        match control.order(cx.waker()) {
            Order::GoOn => {}
            // What was read before is seen first: a connection that hyper takes for idle would be closed.
            Order::Drain if is_draining || !has_begun => {}
            Order::Drain => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Close => return Poll::Ready(()),
        }
        let polled = connection.as_mut().poll(cx).map(drop);
        if !std::mem::replace(&mut has_begun, true) && control.order(cx.waker()) != Order::GoOn {
            cx.waker().wake_by_ref();
        }
        polled
    })
    .await;
}

async fn serve_http2(worker: &Rc<Worker>, stream: Rewound, control: &Rc<Control>) {
    let config = &worker.shared.config;
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        // A peer that is gone without a word is noticed.
        .keep_alive_interval(Some(config.idle_timeout))
        .keep_alive_timeout(config.header_timeout)
        .serve_connection(TokioIo::new(stream), service(worker, control));
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

/// Answers the requests of a connection.
fn service(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
) -> impl HttpService<Incoming, ResBody = ResponseBody, Error = Infallible, Future: 'static> + use<> {
    let (worker, control) = (Rc::clone(worker), Rc::clone(control));
    service_fn(move |request: Request<Incoming>| {
        let (worker, control) = (Rc::clone(&worker), Rc::clone(&control));
        let active = control.begin();
        async move {
            let is_http1 = request.version() < http::Version::HTTP_2;
            let mut response = handle(&worker, &control, request).await;
            if is_http1 && worker.phase() >= Phase::Leave {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let_others_go_first().await;
            Ok(response.map(|body| body.held_by(active)))
        }
    })
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

/// A client's byte stream.
pub enum Socket {
    Tcp(TcpStream),
    /// Boxed: its state is a hundred times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
    /// Of this process itself, on the private socket.
    Unix(UnixStream),
}

impl Socket {
    /// Whether it is known without reading that nothing has come, and the task is woken when something does.
    pub fn is_silent(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx).is_pending(),
            // What has come may lie in the session.
            Self::Tls(_) => false,
            Self::Unix(unix) => unix.poll_read_ready(cx).is_pending(),
        }
    }
}

/// A stream with bytes put in front that were read already.
struct Rewound {
    first: Bytes,
    socket: Socket,
    control: Rc<Control>,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            self.control.note_read();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.control.note_read();
        }
        read
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.control.note_write(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.control.note_write(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.is_write_vectored(),
            Socket::Tls(tls) => tls.is_write_vectored(),
            Socket::Unix(unix) => unix.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        // Over TLS a small answer is taken at once, and waits here for the client to read.
        self.control.note_write(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

macro_rules! each {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($socket) => $call,
            Socket::Tls($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, socket => poll_write_gathered(socket, cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
