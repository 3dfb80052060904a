//! The owner of one client connection.
//!
//! A connection waits with nothing but its socket until the first byte comes; then hyper speaks HTTP/1.1
//! or, when the bytes are its preface, HTTP/2. The owner keeps the socket's first bytes and can put them in
//! front again, which is what parking an idle connection takes.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::handler::handle;
use super::worker::Worker;

/// The preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A TLS handshake takes two round trips; a client that takes longer than this has stalled.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Streams of one HTTP/2 connection at once: an agent's calls under way. Over it, the client waits.
const HTTP2_STREAMS_MAX: u32 = 256;

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, tls: Option<TlsAcceptor>) {
    // A response is written whole, so there is nothing for Nagle's algorithm to gather.
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let socket = match tls {
        None => Socket::Tcp(tcp),
        Some(acceptor) => match timeout(TLS_TIMEOUT, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => Socket::Tls(Box::new(stream)),
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let mut draining = worker.shared.draining.clone();
    let opened = tokio::select! {
        opened = open(&worker, socket) => opened,
        _ = draining.wait_for(|draining| *draining) => return,
    };
    if let Some((stream, protocol)) = opened {
        match protocol {
            Protocol::Http1 => serve_http1(worker, stream).await,
            Protocol::Http2 => serve_http2(worker, stream).await,
        }
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Waits for enough bytes to know the protocol; `None` when they do not come.
async fn open(worker: &Rc<Worker>, mut socket: Socket) -> Option<(Rewound, Protocol)> {
    let config = &worker.shared.config;
    let mut first = BytesMut::new();
    // No buffer yet: an idle connection costs its socket.
    timeout(config.idle_timeout, socket.readable()).await.ok()?.ok()?;
    let protocol = timeout(config.header_timeout, async {
        loop {
            let seen = first.len().min(HTTP2_PREFACE.len());
            if first[..seen] != HTTP2_PREFACE[..seen] {
                return Some(Protocol::Http1);
            }
            if seen == HTTP2_PREFACE.len() {
                return Some(Protocol::Http2);
            }
            if socket.read_buf(&mut first).await.ok()? == 0 {
                return None;
            }
        }
    });
    let protocol = protocol.await.ok()??;
    Some((Rewound { first: first.freeze(), socket }, protocol))
}

async fn serve_http1(worker: Rc<Worker>, stream: Rewound) {
    let config = worker.shared.config.clone();
    let mut draining = worker.shared.draining.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let worker = Rc::clone(&worker);
        async move { Ok::<_, std::convert::Infallible>(handle(worker, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        // Without a timer this timeout is silently off. It covers the wait for the next request too, so the
        // idle timeout is what bounds both, and a slow head is held to it.
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout.max(config.idle_timeout))
        .max_headers(config.header_count_max)
        .max_header_size(config.header_bytes_max)
        // A client that closed its sending side cannot be told from one that has gone, and whose call must
        // end at once: the end of its bytes is the end of its calls.
        .half_close(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = draining.wait_for(|draining| *draining) => {}
    }
    connection.as_mut().graceful_shutdown();
    // The deadline is the listener's: it ends this task.
    let _ = connection.await;
}

async fn serve_http2(worker: Rc<Worker>, stream: Rewound) {
    let mut draining = worker.shared.draining.clone();
    let config = worker.shared.config.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let worker = Rc::clone(&worker);
        async move { Ok::<_, std::convert::Infallible>(handle(worker, request).await) }
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        // A peer that is gone without a word is noticed.
        .keep_alive_interval(Some(config.idle_timeout))
        .keep_alive_timeout(config.header_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = draining.wait_for(|draining| *draining) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
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
enum Socket {
    Tcp(TcpStream),
    /// Boxed: its state is a hundred times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.readable().await,
            Self::Tls(tls) => tls.get_ref().0.readable().await,
        }
    }
}

/// A stream with bytes put in front that were read already.
struct Rewound {
    first: Bytes,
    socket: Socket,
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
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.is_write_vectored(),
            Socket::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
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
        each!(self, socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
