//! A connection driven by hyper, polled by the request that uses it.
//!
//! hyper's client consists of a handle and a connection future that is usually spawned. Here the task of the
//! request polls that future itself, so that a message costs no wake-up of a second task. Nobody polls it
//! while it is idle: [`HyperConnection::is_reusable`] does so before the connection is used again.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head_check::{AmbiguousHead, HeadCheck};
use super::pending_write::PendingWrite;
use super::request_body::RequestBody;
use super::stream::Stream;
use super::tls_alert::stage_before_response;
use crate::error::{FailureStage, SendError, UpstreamError};

type Driver = Connection<TokioIo<HandoverStream>, RequestBody>;

/// A connection driven by hyper.
pub struct HyperConnection {
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended and nothing more can be read.
    driver: Option<Pin<Box<Driver>>>,
    is_closed: bool,
    write_mode: Rc<Cell<WriteMode>>,
    head: Rc<RefCell<ResponseProgress>>,
}

/// What was read since a request was sent.
#[derive(Default)]
struct ResponseProgress {
    /// How many bytes; `None` once hyper has read the head of the response.
    bytes: Option<usize>,
    check: HeadCheck,
    /// Whether the head was refused.
    is_refused: bool,
}

/// Bytes before the response to a request, and of its head: a head of the greatest size, and as much again of
/// interim responses (1xx), which hyper reads and drops without end.
const BYTES_BEFORE_RESPONSE_MAX: usize = 2 * HEAD_BYTES_MAX;

/// hyper reads a response head into a buffer of this size; a longer head is an error.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Header fields of a response. hyper's own default, set explicitly because it is a bound.
const HEADERS_MAX: usize = 100;

impl HyperConnection {
    /// Takes over a stream on which nothing was sent.
    pub async fn new(stream: Stream) -> Result<Self, UpstreamError> {
        let failed = |error| UpstreamError::new(FailureStage::Connect, error);
        let stream = HandoverStream::new(stream, Bytes::new(), None, WriteMode::Forward);
        Self::handshake(stream).await.map_err(failed)
    }

    /// Takes over a stream on which a request was written, except for `rest`, and `received` is the beginning
    /// of its response. Returns the whole response.
    ///
    /// Not cancel safe: dropping it closes the connection.
    pub async fn take_over(
        stream: Stream,
        received: Bytes,
        rest: Option<PendingWrite>,
    ) -> Result<(Self, Response<Incoming>), UpstreamError> {
        let failed = |error| UpstreamError::new(FailureStage::NoResponse, error);
        let stream = HandoverStream::new(stream, received, rest, WriteMode::AwaitPlaceholder);
        let mut connection = Self::handshake(stream).await.map_err(failed)?;
        // hyper reads a response only to a request that it sent itself. What it writes for this one is
        // discarded.
        let mut placeholder = Request::new(RequestBody::empty());
        *placeholder.method_mut() = http::Method::POST;
        let response = connection.exchange(placeholder).await;
        let response = response.map_err(|error| match error {
            SendError::NotSent => UpstreamError::from_stage(FailureStage::NoResponse),
            SendError::Failed(error) => error,
        })?;
        Ok((connection, response))
    }

    async fn handshake(stream: HandoverStream) -> hyper::Result<Self> {
        let write_mode = Rc::clone(&stream.write_mode);
        let head = Rc::clone(&stream.head);
        let (sender, driver) = Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = Some(Box::pin(driver));
        let mut connection = Self { sender, driver, is_closed: false, write_mode, head };
        // hyper accepts requests only once the connection future has been polled.
        connection.drive(&mut Context::from_waker(Waker::noop()));
        Ok(connection)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// Not cancel safe: dropping it closes the connection, which tells the server to stop.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        self.write_mode.set(WriteMode::Forward);
        self.exchange(request).await
    }

    async fn exchange(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        *self.head.borrow_mut() = ResponseProgress { bytes: Some(0), ..ResponseProgress::default() };
        let mut response = pin!(self.sender.try_send_request(request));
        let (driver, is_closed) = (&mut self.driver, &mut self.is_closed);
        let exchanged = poll_fn(|cx| {
            if let Some(open) = driver.as_mut().filter(|_| !*is_closed) {
                *is_closed = open.as_mut().poll(cx).is_ready();
            }
            // Only the driver, polled just now, can make progress here. No waker is needed, and a real one
            // would wake this task once more for nothing.
            let polled = poll_without_waker(|cx| response.as_mut().poll(cx));
            if polled.is_pending() && *is_closed {
                // The connection ended before it took the request. Dropping the driver ends the response too.
                *driver = None;
                return poll_without_waker(|cx| response.as_mut().poll(cx));
            }
            polled
        });
        let exchanged = exchanged.await;
        let ResponseProgress { bytes, is_refused, .. } = std::mem::take(&mut *self.head.borrow_mut());
        exchanged.map_err(|mut error| match error.take_message() {
            Some(_unsent) => SendError::NotSent,
            None if is_refused => {
                SendError::Failed(UpstreamError::new(FailureStage::InvalidResponse, AmbiguousHead))
            }
            None => {
                let error = error.into_error();
                let is_first = bytes == Some(0);
                let stage = if is_first { stage_before_response(&error) } else { FailureStage::NoResponse };
                SendError::Failed(UpstreamError::new(stage, error))
            }
        })
    }

    /// Lets the connection read and write what it can.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = self.driver.as_mut().filter(|_| !self.is_closed) {
            self.is_closed = driver.as_mut().poll(cx).is_ready();
        }
    }

    /// Whether the peer or an error ended the connection.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether another request may follow a response. hyper refuses when bytes are left over, the request was
    /// not written whole, or either side asked to close.
    pub fn is_reusable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.is_closed && self.sender.is_ready()
    }
}

/// Polls without a waker: for what only [`HyperConnection::drive`] can advance.
pub fn poll_without_waker<F: FnOnce(&mut Context<'_>) -> Poll<T>, T>(poll: F) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

/// What happens to the bytes that hyper writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteMode {
    /// They go to the server.
    Forward,
    /// They are discarded, because the request was already written. Nothing may be read until hyper has
    /// written its placeholder.
    AwaitPlaceholder,
    /// They are discarded, and hyper has written its placeholder.
    Discard,
}

/// A stream handed to hyper in the middle of an exchange.
struct HandoverStream {
    stream: Stream,
    /// The beginning of the response.
    received: Bytes,
    /// The rest of the request.
    rest: Option<PendingWrite>,
    write_mode: Rc<Cell<WriteMode>>,
    /// What was read of the response, shared with [`HyperConnection`].
    head: Rc<RefCell<ResponseProgress>>,
    /// Whether a write failed. The server may have answered before it closed, as with 413, and hyper does not
    /// read after a failed write.
    has_write_failed: bool,
    /// The reader, until the placeholder is written.
    reader: Option<Waker>,
}

impl HandoverStream {
    fn new(stream: Stream, received: Bytes, rest: Option<PendingWrite>, write_mode: WriteMode) -> Self {
        let write_mode = Rc::new(Cell::new(write_mode));
        let head = Rc::default();
        Self { stream, received, rest, write_mode, head, has_write_failed: false, reader: None }
    }

    /// Checks what hyper reads before a response has begun. Fails if it is too much, or a head that is refused.
    fn check_head(&self, read: &[u8]) -> io::Result<()> {
        let invalid =
            |why: Box<dyn Error + Send + Sync>| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let mut head = self.head.borrow_mut();
        let Some(before) = head.bytes else { return Ok(()) };
        if before > BYTES_BEFORE_RESPONSE_MAX {
            return invalid("too many interim responses".into());
        }
        head.bytes = Some(before.saturating_add(read.len()));
        if let Err(ambiguous) = head.check.read(read) {
            head.is_refused = true;
            return invalid(ambiguous.into());
        }
        Ok(())
    }

    /// Returns the result of a write unless it failed. A failed write stays pending forever: hyper then
    /// reads the response, and at its end, or after a reset, the read fails.
    fn hide_write_error<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if !matches!(written, Poll::Ready(Err(_))) {
            return written;
        }
        self.has_write_failed = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether a write must be discarded. From then on reads are allowed.
    fn discards_write(&mut self) -> bool {
        if self.write_mode.get() == WriteMode::Forward {
            return false;
        }
        self.write_mode.set(WriteMode::Discard);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        true
    }
}

impl AsyncRead for HandoverStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.write_mode.get() == WriteMode::AwaitPlaceholder {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Self { stream, rest, .. } = &mut *self;
        PendingWrite::continue_write(rest, stream, cx);
        if !self.received.is_empty() {
            let count = self.received.len().min(buffer.remaining());
            let part = self.received.split_to(count);
            buffer.put_slice(&part);
            return Poll::Ready(self.check_head(&part));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(self.check_head(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for HandoverStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.discards_write() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.has_write_failed {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.hide_write_error(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.discards_write() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        if self.has_write_failed {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.hide_write_error(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_write_failed {
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.hide_write_error(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
