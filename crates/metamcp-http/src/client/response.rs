//! A response, whose body is read by the task that passes it on.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;

use super::body_source::BodySource;
use super::body_timer::{BodyTimeouts, BodyTimer};
use super::connection::Connection;
use super::hyper_connection::poll_without_waker;
use super::idle::IdleConnections;
use super::response_head::ResponseHead;
use crate::error::{FailureStage, UpstreamError};
use crate::limit::InFlightPermit;
use crate::multiplex::{CancelGuard, EventSource, LocalResponse};
use metamcp_core::base::ChargedBuffer;

/// A response: its head, and its body still to be read. Passed on boxed.
pub struct UpstreamResponse {
    pub head: ResponseHead,
    pub body: UpstreamBody,
}

/// A response body that is being read. Holds its connection and its permit among the server's in-flight calls
/// until the last byte. Dropped before that, it closes the connection, which tells the server to stop.
pub struct UpstreamBody {
    source: BodySource,
    /// The connection and the pool that it returns to; `None` once nothing more is to be read.
    connection: Option<PooledConnection>,
    /// `None` where silence is normal.
    timeouts: Option<BodyTimeouts>,
    /// Created by the first wait.
    timer: Option<Box<BodyTimer>>,
    permit: Option<InFlightPermit>,
    /// Whether the timeouts apply now.
    is_awaited: bool,
}

/// A connection on loan from a pool.
pub struct PooledConnection {
    pub connection: Box<Connection>,
    pub idle: Rc<IdleConnections>,
}

/// A body that is silent nearly all of the time, in as little memory as its kind needs.
pub enum IdleBody {
    /// Events from within this process.
    Events(EventSource),
    /// Events from within this process, with the guard that cancels the call.
    GuardedEvents(Box<(EventSource, Option<CancelGuard>)>),
    Other(Box<UpstreamBody>),
}

impl IdleBody {
    /// Returns the next bytes, `None` at the regular end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match self {
            Self::Events(events) => events.poll_next(cx),
            Self::GuardedEvents(guarded) => guarded.0.poll_next(cx),
            Self::Other(body) => body.poll_chunk(cx),
        }
    }
}

impl UpstreamResponse {
    /// Converts the response of an era adapter. It holds no permit and may be silent for any time: the
    /// adapter has its own limits and timeouts.
    pub fn from_local(response: LocalResponse) -> Box<Self> {
        let (head, source) = BodySource::from_local(response, None);
        Box::new(Self { head, body: UpstreamBody::new(source, None, None, None) })
    }
}

impl UpstreamBody {
    pub fn new(
        source: BodySource,
        connection: Option<PooledConnection>,
        timeouts: Option<BodyTimeouts>,
        permit: Option<InFlightPermit>,
    ) -> Self {
        let is_complete = matches!(source, BodySource::Buffered(_) | BodySource::Ended);
        let mut body = Self { source, connection, timeouts, timer: None, permit, is_awaited: true };
        if is_complete {
            body.release();
        }
        body
    }

    /// Returns the next bytes, `None` at the regular end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match &mut self.source {
            BodySource::Ended => Poll::Ready(None),
            BodySource::Buffered(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = BodySource::Ended;
                Poll::Ready(Some(Ok(bytes)))
            }
            BodySource::Length { first, .. } | BodySource::Chunked { first, .. } if !first.is_empty() => {
                Poll::Ready(Some(Ok(std::mem::take(first))))
            }
            BodySource::Length { .. } => self.poll_sized(cx),
            BodySource::Chunked { .. } => self.poll_chunked(cx),
            BodySource::Hyper(_) => self.poll_hyper(cx),
            BodySource::Events(guarded) => match guarded.0.poll_next(cx) {
                Poll::Pending => self.poll_idle(cx),
                Poll::Ready(Some(Ok(bytes))) => self.pass(bytes),
                Poll::Ready(Some(Err(error))) => self.fail(error),
                Poll::Ready(None) => {
                    // Drops the guard, by which the server forgets where the stream was.
                    self.finish();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn poll_sized(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let (BodySource::Length { left, buffer, .. }, Some(pooled)) =
            (&mut self.source, &mut self.connection)
        else {
            return Poll::Ready(None);
        };
        match pooled.connection.poll_sized_body(cx, *left, buffer) {
            Poll::Pending => self.poll_idle(cx),
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                self.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete))
            }
            Poll::Ready(Ok(bytes)) => {
                *left -= bytes.len() as u64;
                if *left == 0 {
                    self.finish();
                }
                self.pass(bytes)
            }
            Poll::Ready(Err(error)) => self.fail(error),
        }
    }

    fn poll_chunked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let (BodySource::Chunked { decoder, .. }, Some(pooled)) = (&mut self.source, &mut self.connection)
        else {
            return Poll::Ready(None);
        };
        match pooled.connection.poll_chunked_body(cx, decoder) {
            Poll::Pending => self.poll_idle(cx),
            Poll::Ready(Ok(bytes)) => {
                let is_ended = decoder.is_ended();
                if is_ended {
                    self.finish();
                }
                match (bytes.is_empty(), is_ended) {
                    (true, true) => return Poll::Ready(None),
                    (true, false) => {
                        return self.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
                    }
                    (false, _) => {}
                }
                self.pass(bytes)
            }
            Poll::Ready(Err(error)) => self.fail(error),
        }
    }

    fn poll_hyper(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        loop {
            let (BodySource::Hyper(incoming), Some(pooled)) = (&mut self.source, &mut self.connection) else {
                return Poll::Ready(None);
            };
            // The first poll tells hyper that there is a reader; then the connection reads; then the bytes
            // are here.
            let mut polled = poll_without_waker(|cx| Pin::new(&mut *incoming).poll_frame(cx));
            if polled.is_pending() {
                pooled.connection.drive(cx);
                polled = poll_without_waker(|cx| Pin::new(&mut *incoming).poll_frame(cx));
            }
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers have no meaning in MCP; the end follows them.
                    let Ok(bytes) = frame.into_data() else { continue };
                    if incoming.is_end_stream() {
                        self.finish();
                    }
                    return self.pass(bytes);
                }
                Poll::Ready(Some(Err(error))) => {
                    return self.fail(UpstreamError::new(FailureStage::BodyIncomplete, error));
                }
                Poll::Ready(None) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Poll::Pending if pooled.connection.is_closed() => {
                    return self.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
                }
                Poll::Pending => return self.poll_idle(cx),
            }
        }
    }

    /// Returns the next bytes, `None` at the regular end. Cancel safe.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Reads the whole body, which may have at most `bytes_max`. Not cancel safe: what was read is lost.
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Bytes, UpstreamError> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() <= bytes_max && self.is_ended() {
            return Ok(first);
        }
        let mut whole = ChargedBuffer::begin(first)?;
        while whole.len() <= bytes_max {
            match self.chunk().await {
                Some(chunk) => whole.extend(&chunk?)?,
                None => return Ok(whole.freeze()),
            }
        }
        Err(UpstreamError::from_stage(FailureStage::ResponseTooLarge))
    }

    /// Reads until the body ends or more than `bytes_min` were read; the rest can still be read. Not cancel
    /// safe: what was read is lost.
    pub async fn collect_prefix(&mut self, bytes_min: usize) -> Result<Bytes, UpstreamError> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() > bytes_min || self.is_ended() {
            return Ok(first);
        }
        let mut prefix = BytesMut::from(first);
        while prefix.len() <= bytes_min {
            match self.chunk().await {
                Some(chunk) => prefix.extend_from_slice(&chunk?),
                None => break,
            }
        }
        Ok(prefix.freeze())
    }

    /// Returns how many bytes are still to come, when the server declared it.
    pub fn content_length(&self) -> Option<u64> {
        match &self.source {
            BodySource::Ended => Some(0),
            BodySource::Buffered(bytes) => Some(bytes.len() as u64),
            BodySource::Length { first, left, .. } => Some(first.len() as u64 + left),
            BodySource::Hyper(incoming) => incoming.size_hint().exact(),
            BodySource::Chunked { .. } | BodySource::Events(_) => None,
        }
    }

    /// Releases the permit while the body stays open, for a call whose response is not awaited at the moment.
    /// The caller bounds how many there are. Silence has no limit until [`Self::restart_timeouts`].
    pub fn release_permit(&mut self) {
        (self.timer, self.permit) = (None, None);
        self.is_awaited = false;
    }

    /// Limits silence again, after [`Self::release_permit`].
    pub fn restart_timeouts(&mut self) {
        self.is_awaited = true;
    }

    /// Limits the time of each message of an event stream. The caller reports each to [`Self::note_message`].
    pub fn limit_messages(&mut self) {
        self.timeouts.iter_mut().for_each(BodyTimeouts::limit_messages);
    }

    /// Notes that a message of an event stream is complete.
    pub fn note_message(&mut self) {
        self.timer.iter_mut().for_each(|timer| timer.note_message());
    }

    /// Whether the last byte was read.
    pub fn is_ended(&self) -> bool {
        matches!(self.source, BodySource::Ended)
    }

    /// Converts the body for a holder that keeps it for days while nothing comes.
    pub fn into_idle(self) -> IdleBody {
        let holds_nothing = self.timeouts.is_none() && self.permit.is_none() && self.connection.is_none();
        match self {
            Self { source: BodySource::Events(guarded), .. } if holds_nothing => match *guarded {
                (events, None) => IdleBody::Events(events),
                guarded => IdleBody::GuardedEvents(Box::new(guarded)),
            },
            body => IdleBody::Other(Box::new(body)),
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let Some(timeouts) = self.timeouts.filter(|_| self.is_awaited) else { return Poll::Pending };
        match self.timer.get_or_insert_with(|| Box::new(BodyTimer::start(timeouts))).poll_idle(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(stage) => self.fail(UpstreamError::from_stage(stage)),
        }
    }

    /// Hands out bytes, unless they come too late.
    fn pass(&mut self, bytes: Bytes) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match self.timer.as_mut().map_or(Ok(()), |timer| timer.note_read()) {
            Ok(()) => Poll::Ready(Some(Ok(bytes))),
            Err(stage) => self.fail(UpstreamError::from_stage(stage)),
        }
    }

    /// Ends the body and closes the connection, which can give no more.
    fn fail(&mut self, error: UpstreamError) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        self.connection = None;
        self.source = BodySource::Ended;
        // A retry takes a permit of its own.
        self.permit = None;
        Poll::Ready(Some(Err(error)))
    }

    fn finish(&mut self) {
        self.release();
        self.source = BodySource::Ended;
    }

    fn release(&mut self) {
        if let Some(PooledConnection { connection, idle }) = self.connection.take() {
            idle.put(connection);
        }
        self.permit = None;
    }
}
