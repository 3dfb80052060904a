//! One HTTP/1.1 connection to a backend, driven by the request that uses it.
//!
//! hyper's client is made of a handle and a connection future that is usually spawned. Here the request's
//! own task polls that future, so that passing a message costs no wake-up of a second task. Nobody polls
//! it while it is idle: [`Wire::is_fresh`] does so before it is used again.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::Socket;

use super::body::RequestBody;
use super::stream::Stream;
use super::{BackendError, Stage};

/// hyper's half that reads and writes.
type Driver = Connection<TokioIo<Stream>, RequestBody>;

/// An established connection.
pub struct Wire {
    sender: SendRequest<RequestBody>,
    /// `None` once nothing can come of it any more.
    connection: Option<Pin<Box<Driver>>>,
    closed: bool,
    /// The same socket, to look into without taking anything out.
    socket: Socket,
    idle_since: Instant,
}

/// hyper reads a response's head into this buffer; a backend may not send more in one.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Header fields of a response; hyper's own default, said here because it is a bound.
const HEADERS_MAX: usize = 100;

impl Wire {
    /// Wraps an established stream. Nothing is sent.
    pub async fn handshake(stream: Stream) -> Result<Self, BackendError> {
        let socket = stream.duplicate().map_err(|error| BackendError::new(Stage::Connect, error))?;
        let (sender, connection) = Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| BackendError::new(Stage::Connect, error))?;
        let mut wire = Self {
            sender,
            connection: Some(Box::pin(connection)),
            closed: false,
            socket,
            idle_since: Instant::now(),
        };
        // hyper takes requests only once its side of the connection has been polled.
        wire.drive(&mut Context::from_waker(Waker::noop()));
        Ok(wire)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// Not cancel safe: dropping it closes the connection, which tells the backend to stop.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
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
            Some(request) => SendError::Unsent(Box::new(request)),
            None => SendError::Sent(BackendError::new(Stage::Sent, error.into_error())),
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

    /// Starts the idle clock.
    pub fn rest(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// Whether nothing has come on the socket that nobody asked for. The runtime knows of what came only
    /// after its next turn, and the answer to the request before may have been followed by another at once.
    fn is_silent(&self) -> bool {
        let peeked = self.socket.peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// After idleness: whether it is young enough, and neither closed nor spoken to out of turn meanwhile.
    pub fn is_fresh(&mut self, now: Instant, age_max: Duration) -> bool {
        now.saturating_duration_since(self.idle_since) < age_max && self.is_reusable() && self.is_silent()
    }
}

/// Why there is no response.
pub enum SendError {
    /// Nothing was written; here is the request again.
    Unsent(Box<Request<RequestBody>>),
    /// It may have been read and run.
    Sent(BackendError),
}

/// Polls without a waker: for what only [`Wire::drive`] can move.
pub fn peek<F: FnOnce(&mut Context<'_>) -> Poll<T>, T>(poll: F) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}
