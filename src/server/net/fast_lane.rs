//! Serves HTTP/1.1 requests of the common form: a small POST to an MCP path with a `Content-Length`, or a
//! DELETE without a body. hyper serves all other requests, from their first byte, and what follows them on
//! the connection.
//!
//! Invariant: hyper would parse such a request in the same way. Both use httparse.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::connection_transfer::{ConnectionTransfer, DetachedStream};
use crate::runtime::yield_once;
use crate::server::http1::activity::{ConnectionActivity, ConnectionOrder, HttpVersion};
use crate::server::http1::codec::{ParseOutcome, read_request};
use crate::server::http1::request::EndpointRequest;
use crate::server::path::handler;
use crate::server::reply::response_writer::ResponseWriter;
use crate::server::worker::Worker;
use crate::server::worker::revocable_calls::CredentialEnded;
use metamcp_core::base::ShutdownPhase;
use metamcp_http::io::with_scratch;

/// For the last events of a stream whose credential has ended. A client that reads takes them at once.
const LAST_EVENTS_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the fast lane ended.
pub enum FastLaneExit {
    /// The connection has ended.
    Gone,
    /// The connection is idle and can be parked.
    Rest,
    /// The connection carries a silent event stream, and can be parked with it.
    SilentStream(Box<ResponseWriter>),
    /// The received bytes are for hyper.
    Unusual,
}

/// Bytes of pipelined requests. If a client sends more, its disconnect is noticed only after the current
/// call.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// How long the rest of a request may take. Clients send head and body in close succession; slower ones are
/// left to hyper, which has timeouts for them.
const PARTIAL_REQUEST_TIMEOUT: Duration = Duration::from_millis(50);

/// Serves a connection as long as its requests are of the common form, after the event stream that it
/// carries.
pub async fn serve(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    link: &mut ConnectionTransfer,
    stream: Option<Box<DetachedStream>>,
) -> FastLaneExit {
    let mut lane = FastLane { worker, activity, link };
    if let Some(detached) = stream {
        match Box::pin(lane.write_stream(detached)).await {
            ReadOutcome::Rest => {}
            pause => return pause.end(),
        }
    }
    let can_be_parked = lane.link.socket.can_be_parked();
    loop {
        if !worker.settings().config.fast_lane {
            lane.note_pipelining();
            let is_at_rest = can_be_parked && activity.can_park() && lane.link.unprocessed.is_empty();
            return if is_at_rest { FastLaneExit::Rest } else { FastLaneExit::Unusual };
        }
        let pause = match lane.next(can_be_parked).await {
            // Boxed while requests follow one another, so that an idle connection does not hold the memory of
            // an exchange.
            Ok(request) => Box::pin(lane.serve_busy(request)).await,
            Err(pause) => pause,
        };
        match pause {
            ReadOutcome::Rest if can_be_parked => return FastLaneExit::Rest,
            ReadOutcome::Rest => {}
            pause => return pause.end(),
        }
    }
}

struct FastLane<'a> {
    worker: &'a Rc<Worker>,
    activity: &'a Rc<ConnectionActivity>,
    link: &'a mut ConnectionTransfer,
}

/// Why no request is served next.
enum ReadOutcome {
    /// None arrived for a while.
    Rest,
    /// A silent event stream is in flight.
    SilentStream(Box<ResponseWriter>),
    /// The received part of it is in `ahead`.
    Unusual,
    Gone,
}

impl ReadOutcome {
    fn end(self) -> FastLaneExit {
        match self {
            Self::Rest => FastLaneExit::Rest,
            Self::SilentStream(writing) => FastLaneExit::SilentStream(writing),
            Self::Unusual => FastLaneExit::Unusual,
            Self::Gone => FastLaneExit::Gone,
        }
    }
}

impl FastLane<'_> {
    /// Answers a request and those that follow it.
    async fn serve_busy(&mut self, first: EndpointRequest) -> ReadOutcome {
        self.link.protocol = Some(HttpVersion::Http1);
        let mut request = first;
        loop {
            let active = self.activity.begin_request();
            match self.answer(request).await {
                RequestOutcome::KeepAlive => drop(active),
                RequestOutcome::Gone => return ReadOutcome::Gone,
                RequestOutcome::Stream(writing) => {
                    match Box::pin(self.write_stream(Box::new(DetachedStream { writing, active }))).await {
                        ReadOutcome::Rest => {}
                        pause => return pause,
                    }
                }
            }
            match self.next(true).await {
                Ok(next) => request = next,
                Err(pause) => return pause,
            }
        }
    }

    /// Waits for the next request. A connection that holds memory waits no longer than until it can be
    /// parked.
    async fn next(&mut self, until_rest: bool) -> Result<EndpointRequest, ReadOutcome> {
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        self.note_pipelining();
        if !self.link.unprocessed.is_empty() {
            self.activity.note_read();
            if let Some(next) = self.read_ahead() {
                return next;
            }
        }
        poll_fn(|cx| {
            let order = self.activity.current_order(cx.waker());
            if order == ConnectionOrder::Close {
                return Poll::Ready(Err(ReadOutcome::Gone));
            }
            loop {
                match self.poll_read(cx) {
                    Poll::Ready(Some(next)) => return Poll::Ready(next),
                    Poll::Ready(None) => {}
                    // Checked only here, since a request that has begun is answered.
                    Poll::Pending if self.link.unprocessed.is_empty() && order == ConnectionOrder::Drain => {
                        return Poll::Ready(Err(ReadOutcome::Gone));
                    }
                    Poll::Pending
                        if self.link.unprocessed.is_empty() && until_rest && self.activity.can_park() =>
                    {
                        return Poll::Ready(Err(ReadOutcome::Rest));
                    }
                    Poll::Pending if self.link.unprocessed.is_empty() => return Poll::Pending,
                    Poll::Pending => {
                        let timer = timer.get_or_insert_with(|| Box::pin(sleep(PARTIAL_REQUEST_TIMEOUT)));
                        return timer.as_mut().poll(cx).map(|()| Err(ReadOutcome::Unusual));
                    }
                }
            }
        })
        .await
    }

    /// Records whether the next request has begun to arrive before the last one was answered.
    fn note_pipelining(&mut self) {
        self.link.is_pipelined = !self.link.unprocessed.is_empty();
    }

    /// Reads once. `None` while the request is incomplete.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<EndpointRequest, ReadOutcome>>> {
        let (settings, pools) = (self.worker.settings(), self.worker.topology.pools());
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.link.socket).poll_read(cx, &mut buffer));
            let received = buffer.filled();
            if read.is_err() || received.is_empty() {
                return Poll::Ready(Some(Err(ReadOutcome::Gone)));
            }
            self.activity.note_read();
            if self.link.unprocessed.is_empty()
                && let ParseOutcome::Usual(request, bytes) =
                    read_request(&settings.config, &pools.topology().table, received)
            {
                self.link.unprocessed.extend_from_slice(&received[bytes..]);
                return Poll::Ready(Some(Ok(request)));
            }
            self.link.unprocessed.extend_from_slice(received);
            Poll::Ready(self.read_ahead())
        })
    }

    /// Parses the bytes that were received before.
    fn read_ahead(&mut self) -> Option<Result<EndpointRequest, ReadOutcome>> {
        let (settings, pools) = (self.worker.settings(), self.worker.topology.pools());
        match read_request(&settings.config, &pools.topology().table, &self.link.unprocessed) {
            ParseOutcome::Partial => None,
            ParseOutcome::Unusual => Some(Err(ReadOutcome::Unusual)),
            ParseOutcome::Usual(request, bytes) => {
                self.link.unprocessed.advance(bytes);
                if self.link.unprocessed.is_empty() {
                    self.link.unprocessed = BytesMut::new();
                }
                Some(Ok(request))
            }
        }
    }

    /// Answers a request. Event streams are left to the caller.
    async fn answer(&mut self, request: EndpointRequest) -> RequestOutcome {
        let reply = {
            let mut answering = pin!(handler::answer(self.worker, self.activity, request));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(reply) => Poll::Ready(Some(reply)),
                Poll::Pending if self.is_over(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        let Some(reply) = reply else { return RequestOutcome::Gone };
        yield_once().await;
        let is_last = self.worker.clock.phase() > ShutdownPhase::Serve || self.activity.is_closing();
        let mut writing = ResponseWriter::new(reply, &self.worker.clock.date(), is_last);
        if writing.is_stream() {
            return RequestOutcome::Stream(writing);
        }
        if self.write_owned(&mut writing).await { RequestOutcome::KeepAlive } else { RequestOutcome::Gone }
    }

    /// Writes an event stream until it ends or becomes silent.
    async fn write_stream(&mut self, detached: Box<DetachedStream>) -> ReadOutcome {
        let DetachedStream { mut writing, active } = *detached;
        self.activity.note_stream(true);
        let pause = self.write_owned_events(&mut writing).await;
        self.activity.note_stream(false);
        drop(active);
        pause.unwrap_or_else(|| ReadOutcome::SilentStream(Box::new(writing)))
    }

    /// Writes events as [`Self::write_events`] does, as long as the credential that the stream needs is valid.
    async fn write_owned_events(&mut self, writing: &mut ResponseWriter) -> Option<ReadOutcome> {
        let Some(owner) = writing.owner().cloned() else { return self.write_events(writing).await };
        let worker = self.worker;
        let written = {
            let events = pin!(self.write_events(writing));
            worker.revocable_calls.until_revoked(owner, events).await
        };
        if let Ok(pause) = written {
            return pause;
        }
        // It ends by itself, and says why. A client that does not read does not learn of it.
        let ending = timeout(LAST_EVENTS_TIMEOUT, self.write_events(writing)).await;
        ending.unwrap_or(Some(ReadOutcome::Gone))
    }

    /// Writes events until the stream ends, or until it can be parked: then `None`.
    async fn write_events(&mut self, writing: &mut ResponseWriter) -> Option<ReadOutcome> {
        let can_be_parked = self.link.socket.can_be_parked();
        poll_fn(|cx| match writing.poll(&mut self.link.socket, self.activity, cx) {
            Poll::Ready(true) => Poll::Ready(Some(ReadOutcome::Rest)),
            Poll::Ready(false) => Poll::Ready(Some(ReadOutcome::Gone)),
            Poll::Pending if self.is_over(cx) => Poll::Ready(Some(ReadOutcome::Gone)),
            Poll::Pending => {
                let is_at_rest = can_be_parked && self.activity.can_park() && writing.is_silent();
                // While it is parked, a client that closed its sending side would have left.
                if is_at_rest && self.link.unprocessed.is_empty() && !self.link.is_pipelined {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Writes a response, as long as the credential that it needs is valid. Returns whether another request may follow.
    async fn write_owned(&mut self, writing: &mut ResponseWriter) -> bool {
        let Some(owner) = writing.owner().cloned() else { return self.write(writing).await };
        let worker = self.worker;
        let written = {
            let writing = pin!(self.write(writing));
            worker.revocable_calls.until_revoked(owner, writing).await
        };
        match written {
            Ok(may_follow) => may_follow,
            Err(CredentialEnded) if writing.ends_with_credential() => {
                timeout(LAST_EVENTS_TIMEOUT, self.write(writing)).await.unwrap_or(false)
            }
            // Without its end, the connection closes.
            Err(CredentialEnded) => false,
        }
    }

    async fn write(&mut self, writing: &mut ResponseWriter) -> bool {
        poll_fn(|cx| match writing.poll(&mut self.link.socket, self.activity, cx) {
            Poll::Pending if self.is_over(cx) => Poll::Ready(false),
            polled => polled,
        })
        .await
    }

    /// Whether the client left, or the connection is ordered to close. A client that closes only its sending
    /// side has left too: in the Modern era this cancels a call (MCP 2026-07-28, transports). But it waits for
    /// the answers of requests that it sent one behind the other.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.activity.current_order(cx.waker()) == ConnectionOrder::Close {
            return true;
        }
        // Pipelined requests are received too, up to a bound, since the disconnect may follow them.
        while self.link.unprocessed.len() < AHEAD_BYTES_MAX && !self.link.socket.is_silent(cx) {
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = Pin::new(&mut self.link.socket).poll_read(cx, &mut buffer);
                self.link.unprocessed.extend_from_slice(buffer.filled());
                read.map(|read| read.map(|()| buffer.filled().len()))
            });
            match read {
                Poll::Pending => return false,
                Poll::Ready(Ok(0)) => return !self.link.is_pipelined && self.link.unprocessed.is_empty(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return true,
            }
        }
        false
    }
}

/// The outcome of a request.
enum RequestOutcome {
    /// Another request may follow.
    KeepAlive,
    Gone,
    /// An event stream that has not been written to yet.
    Stream(ResponseWriter),
}
