//! A connection to a upstream that hyper speaks on, driven by the request that uses it.
//!
//! hyper's client is made of a handle and a connection future that is usually spawned. Here the request's
//! own task polls that future, so that passing a message costs no wake-up of a second task. Nobody polls
//! it while it is idle: [`General::is_reusable`] does so before it is used again.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::RequestBody;
use super::fast_lane::Unwritten;
use super::stream::Stream;
use super::wire::SendError;
use super::{FailureStage, UpstreamError};

/// hyper's half that reads and writes.
type Driver = Connection<TokioIo<Continued>, RequestBody>;

/// A connection under hyper.
pub struct General {
    sender: SendRequest<RequestBody>,
    /// `None` once nothing can come of it any more.
    connection: Option<Pin<Box<Driver>>>,
    closed: bool,
    writes: Rc<Cell<Writes>>,
}

/// hyper reads a response's head into this buffer; a upstream may not send more in one.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Header fields of a response; hyper's own default, said here because it is a bound.
const HEADERS_MAX: usize = 100;

impl General {
    /// On a stream on which nothing was asked.
    pub async fn new(stream: Stream) -> Result<Self, UpstreamError> {
        let failed = |error| UpstreamError::new(FailureStage::Connect, error);
        Self::handshake(Continued::new(stream, Bytes::new(), None, Writes::Passed)).await.map_err(failed)
    }

    /// On a stream on which a request was written but for `rest`, and `first` came as the beginning of its
    /// answer. Gives the whole of that answer.
    ///
    /// Not cancel safe: dropping it closes the connection.
    pub async fn adopt(
        stream: Stream,
        first: Bytes,
        rest: Option<Unwritten>,
    ) -> Result<(Self, Response<Incoming>), UpstreamError> {
        let failed = |error| UpstreamError::new(FailureStage::NoResponse, error);
        let mut general =
            Self::handshake(Continued::new(stream, first, rest, Writes::Awaited)).await.map_err(failed)?;
        // hyper reads an answer only to what it asked itself. What it writes for it goes nowhere.
        let mut stand_in = Request::new(RequestBody::empty());
        *stand_in.method_mut() = http::Method::POST;
        let answered = general.exchange(stand_in).await;
        let response = answered.map_err(|error| match error {
            SendError::Unsent => UpstreamError::from_stage(FailureStage::NoResponse),
            SendError::Sent(error) => error,
        })?;
        Ok((general, response))
    }

    async fn handshake(stream: Continued) -> hyper::Result<Self> {
        let writes = Rc::clone(&stream.writes);
        let (sender, connection) = Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut general = Self { sender, connection: Some(Box::pin(connection)), closed: false, writes };
        // hyper takes requests only once its side of the connection has been polled.
        general.drive(&mut Context::from_waker(Waker::noop()));
        Ok(general)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// Not cancel safe: dropping it closes the connection, which tells the upstream to stop.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        self.writes.set(Writes::Passed);
        self.exchange(request).await
    }

    async fn exchange(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let mut response = pin!(self.sender.try_send_request(request));
        let (connection, closed) = (&mut self.connection, &mut self.closed);
        poll_fn(|cx| {
            if let Some(open) = connection.as_mut().filter(|_| !*closed) {
                *closed = open.as_mut().poll(cx).is_ready();
            }
            // Only the connection, polled just now, can make progress here: no waker is needed, and a
            // real one would wake this task once more for nothing.
            let polled = peek(|cx| response.as_mut().poll(cx));
            if polled.is_pending() && *closed {
                // It ended before it took the request. Only without it, the response ends too.
                *connection = None;
                return peek(|cx| response.as_mut().poll(cx));
            }
            polled
        })
        .await
        .map_err(|mut error| match error.take_message() {
            Some(_unsent) => SendError::Unsent,
            None => SendError::Sent(UpstreamError::new(FailureStage::NoResponse, error.into_error())),
        })
    }

    /// Lets the connection read and write what it can.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.closed) {
            self.closed = connection.as_mut().poll(cx).is_ready();
        }
    }

    /// Whether the peer or an error ended it.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// After a response: whether another request may follow. hyper says no when bytes are left over, the
    /// request was not written whole, or either side asked to close.
    pub fn is_reusable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.closed && self.sender.is_ready()
    }
}

/// Polls without a waker: for what only [`General::drive`] can move.
pub fn peek<F: FnOnce(&mut Context<'_>) -> Poll<T>, T>(poll: F) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

/// What becomes of what hyper writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// It goes to the upstream.
    Passed,
    /// The request was written already. Nothing may be read until hyper believes that it wrote it.
    Awaited,
    /// Likewise, and hyper believes it.
    Dropped,
}

/// A stream in the middle of an exchange.
struct Continued {
    stream: Stream,
    /// What was read of the answer.
    first: Bytes,
    /// What is to be written of the request.
    rest: Option<Unwritten>,
    writes: Rc<Cell<Writes>>,
    /// Whether the upstream takes no more of the request. It may have answered it before, as with 413, and then
    /// closed; hyper would not read that after a write that failed.
    is_deaf: bool,
    /// Of the one who reads, until something was written.
    waker: Option<Waker>,
}

impl Continued {
    fn new(stream: Stream, first: Bytes, rest: Option<Unwritten>, writes: Writes) -> Self {
        Self { stream, first, rest, writes: Rc::new(Cell::new(writes)), is_deaf: false, waker: None }
    }

    /// What becomes of a write, if it did not fail. One that failed is left pending for good: what was answered is
    /// read then, and at its end, or after a reset, the reading fails.
    fn unless_failed<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if !matches!(written, Poll::Ready(Err(_))) {
            return written;
        }
        self.is_deaf = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether a write goes nowhere.
    fn drops_write(&mut self) -> bool {
        if self.writes.get() == Writes::Passed {
            return false;
        }
        self.writes.set(Writes::Dropped);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }
}

impl AsyncRead for Continued {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.writes.get() == Writes::Awaited {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Self { stream, rest, .. } = &mut *self;
        Unwritten::write_on(rest, stream, cx);
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Continued {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.drops_write() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.is_deaf {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_failed(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.drops_write() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        if self.is_deaf {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_failed(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_failed(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
