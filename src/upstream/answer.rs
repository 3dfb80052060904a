//! The body of a upstream's response, read by the task that passes it on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::chunked::Chunked;
use super::general::peek;
use super::pool::{Permit, UpstreamPool};
use super::shim::{CallGuard, EventSource, LocalBody, LocalResponse};
use super::wire::Wire;
use super::{FailureStage, UpstreamError};
use metamcp_core::protocol::header;

/// An answer: its head, and its body on its way. Handed on boxed.
pub struct UpstreamResponse {
    /// What it begins with.
    pub head: ResponseHead,
    /// What follows.
    pub body: UpstreamBody,
}

/// The head of an answer, as far as anybody asks.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// Content-Type.
    pub content_type: Option<HeaderValue>,
    /// Mcp-Session-Id.
    pub session_id: Option<HeaderValue>,
    /// Whether the body has a Content-Encoding, which was not asked for.
    pub is_encoded: bool,
}

impl ResponseHead {
    /// Whether the body is an event stream.
    pub fn is_event_stream(&self) -> bool {
        self.content_type.as_ref().is_some_and(|value| header::is_event_stream(value.as_bytes()))
    }

    /// Whether the body is a message, or has no type, and is taken for one.
    pub fn is_json(&self) -> bool {
        self.content_type.as_ref().is_none_or(|value| header::is_json(value.as_bytes()))
    }
}

/// A response body on its way. Holds its connection and its place among the upstream's calls until the
/// last byte; dropped before that, it closes the connection, which tells the upstream to stop.
pub struct UpstreamBody {
    body: BodySource,
    /// `None` once nothing more is to be read.
    wire: Option<Box<Wire>>,
    pool: Rc<UpstreamPool>,
    /// Between two reads; `None` where silence is normal.
    idle_timeout: Option<Duration>,
    /// Made when first waited for: a small answer comes in one piece with its head and needs no clock.
    idle: Option<Pin<Box<Sleep>>>,
    /// Held for its drop.
    permit: Option<Permit>,
}

/// An answer that is silent nearly all of the time, in as little memory as its kind takes.
pub enum IdleBody {
    /// Said within this process.
    Told(EventSource),
    /// Likewise, with what gives the call up.
    Held(Box<(EventSource, Option<CallGuard>)>),
    /// What takes more than its own place.
    Any(Box<UpstreamBody>),
}

/// What is to come of a body.
pub enum BodySource {
    /// This, and nothing more.
    Last(Bytes),
    /// This, and so many bytes behind it, to be read into that.
    Begun(Bytes, u64, BytesMut),
    /// This, and more in chunks.
    Chunks(Bytes, Box<Chunked>),
    /// What hyper reads.
    General(Incoming),
    /// What stands in for a server says, or one that only looks like one of Streamable HTTP.
    Told(Box<(EventSource, Option<CallGuard>)>),
    /// Nothing.
    Ended,
}

impl BodySource {
    /// Of a length that was said.
    pub(super) fn of_length(first: Bytes, left: u64) -> Self {
        match (left, first.is_empty()) {
            (0, true) => Self::Ended,
            (0, false) => Self::Last(first),
            _ => Self::Begun(first, left, BytesMut::new()),
        }
    }

    /// Of a length that nobody knows before its end.
    pub(super) fn in_chunks(first: Bytes, chunked: Box<Chunked>) -> Self {
        if chunked.is_ended() { Self::of_length(first, 0) } else { Self::Chunks(first, chunked) }
    }

    /// Said within this process; the hold gives the call up when the body is dropped.
    pub(super) fn of_reply(reply: LocalResponse, mut hold: Option<CallGuard>) -> (ResponseHead, Self) {
        let LocalResponse { status, session_id, body } = reply;
        let (content_type, body) = match body {
            LocalBody::Message(bytes) => {
                hold.iter_mut().for_each(CallGuard::release);
                (header::JSON, Self::of_length(bytes, 0))
            }
            LocalBody::Events(events) => (header::EVENT_STREAM, Self::Told(Box::new((events, hold)))),
        };
        let content_type = Some(HeaderValue::from_static(content_type));
        (ResponseHead { status, content_type, session_id, is_encoded: false }, body)
    }

    /// Read by hyper.
    pub(super) fn of_response(response: Response<Incoming>) -> (ResponseHead, Self) {
        let (parts, incoming) = response.into_parts();
        let get = |name: &HeaderName| parts.headers.get(name);
        let head = ResponseHead {
            status: parts.status,
            content_type: get(&CONTENT_TYPE).cloned(),
            session_id: get(&header::SESSION_ID).cloned(),
            is_encoded: get(&CONTENT_ENCODING)
                .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")),
        };
        (head, Self::General(incoming))
    }
}

impl IdleBody {
    /// The next bytes, `None` at the regular end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match self {
            Self::Told(events) => events.poll_next(cx),
            Self::Held(said) => said.0.poll_next(cx),
            Self::Any(answer) => answer.poll_chunk(cx),
        }
    }
}

impl UpstreamResponse {
    /// Of what stands in for the pool's server: what it holds, and how long it may be silent, is its own business.
    pub fn from_local(reply: LocalResponse, pool: Rc<UpstreamPool>) -> Box<Self> {
        let (head, body) = BodySource::of_reply(reply, None);
        Box::new(Self { head, body: UpstreamBody::new(body, None, pool, None, None) })
    }
}

impl UpstreamBody {
    pub(super) fn new(
        body: BodySource,
        wire: Option<Box<Wire>>,
        pool: Rc<UpstreamPool>,
        idle_timeout: Option<Duration>,
        permit: Option<Permit>,
    ) -> Self {
        let is_whole = matches!(body, BodySource::Last(_) | BodySource::Ended);
        let mut answer = Self { body, wire, pool, idle_timeout, idle: None, permit };
        if is_whole {
            answer.release();
        }
        answer
    }

    /// The next bytes, `None` at the regular end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match &mut self.body {
            BodySource::Ended => Poll::Ready(None),
            BodySource::Last(bytes) => {
                let bytes = std::mem::take(bytes);
                self.body = BodySource::Ended;
                Poll::Ready(Some(Ok(bytes)))
            }
            BodySource::Begun(first, ..) if !first.is_empty() => Poll::Ready(Some(Ok(std::mem::take(first)))),
            BodySource::Begun(_, left, buffer) => {
                let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
                match wire.poll_more(cx, *left, buffer) {
                    Poll::Pending => self.poll_idle(cx),
                    Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                        self.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete))
                    }
                    Poll::Ready(Ok(bytes)) => {
                        *left -= bytes.len() as u64;
                        if *left == 0 {
                            self.release();
                            self.body = BodySource::Ended;
                        }
                        self.note_progress();
                        Poll::Ready(Some(Ok(bytes)))
                    }
                    Poll::Ready(Err(error)) => self.fail(error),
                }
            }
            BodySource::Chunks(first, _) if !first.is_empty() => Poll::Ready(Some(Ok(std::mem::take(first)))),
            BodySource::Chunks(_, chunked) => {
                let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
                match wire.poll_chunks(cx, chunked) {
                    Poll::Pending => self.poll_idle(cx),
                    Poll::Ready(Ok(bytes)) => {
                        let is_ended = chunked.is_ended();
                        if is_ended {
                            self.release();
                            self.body = BodySource::Ended;
                        }
                        match (bytes.is_empty(), is_ended) {
                            (true, true) => return Poll::Ready(None),
                            (true, false) => {
                                return self.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
                            }
                            (false, _) => {}
                        }
                        self.note_progress();
                        Poll::Ready(Some(Ok(bytes)))
                    }
                    Poll::Ready(Err(error)) => self.fail(error),
                }
            }
            BodySource::General(_) => self.poll_general(cx),
            BodySource::Told(said) => match said.0.poll_next(cx) {
                Poll::Pending => self.poll_idle(cx),
                Poll::Ready(Some(Ok(bytes))) => {
                    self.note_progress();
                    Poll::Ready(Some(Ok(bytes)))
                }
                Poll::Ready(Some(Err(error))) => self.fail(error),
                Poll::Ready(None) => {
                    // Dropped with its hold, by which the server forgets where the stream was.
                    self.release();
                    self.body = BodySource::Ended;
                    Poll::Ready(None)
                }
            },
        }
    }

    fn poll_general(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        loop {
            let (BodySource::General(incoming), Some(wire)) = (&mut self.body, &mut self.wire) else {
                return Poll::Ready(None);
            };
            // Asked first, hyper learns that there is a reader; then the connection reads; then the bytes
            // are here.
            let mut polled = peek(|cx| Pin::new(&mut *incoming).poll_frame(cx));
            if polled.is_pending() {
                wire.drive(cx);
                polled = peek(|cx| Pin::new(&mut *incoming).poll_frame(cx));
            }
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers have no meaning in MCP; the end follows them.
                    let Ok(bytes) = frame.into_data() else { continue };
                    if incoming.is_end_stream() {
                        self.release();
                        self.body = BodySource::Ended;
                    }
                    self.note_progress();
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Ready(Some(Err(error))) => {
                    return self.fail(UpstreamError::new(FailureStage::BodyIncomplete, error));
                }
                Poll::Ready(None) => {
                    self.release();
                    self.body = BodySource::Ended;
                    return Poll::Ready(None);
                }
                Poll::Pending if wire.is_closed() => {
                    return self.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
                }
                Poll::Pending => return self.poll_idle(cx),
            }
        }
    }

    /// The next bytes. Cancel safe.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The whole body, when it is not longer than `bytes_max`. Not cancel safe: what was read is lost.
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Bytes, UpstreamError> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() <= bytes_max && self.is_ended() {
            return Ok(first);
        }
        let mut whole = BytesMut::from(first);
        while whole.len() <= bytes_max {
            match self.chunk().await {
                Some(chunk) => whole.extend_from_slice(&chunk?),
                None => return Ok(whole.freeze()),
            }
        }
        Err(UpstreamError::from_stage(FailureStage::ResponseTooLarge))
    }

    /// What comes until the body ends or is longer than `bytes_min`; the rest is still to be read. Not cancel
    /// safe: what was read is lost.
    pub async fn collect_prefix(&mut self, bytes_min: usize) -> Result<Bytes, UpstreamError> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() > bytes_min || self.is_ended() {
            return Ok(first);
        }
        let mut begun = BytesMut::from(first);
        while begun.len() <= bytes_min {
            match self.chunk().await {
                Some(chunk) => begun.extend_from_slice(&chunk?),
                None => break,
            }
        }
        Ok(begun.freeze())
    }

    /// How many bytes are to come, when the upstream said.
    pub fn content_length(&self) -> Option<u64> {
        match &self.body {
            BodySource::Ended => Some(0),
            BodySource::Last(bytes) => Some(bytes.len() as u64),
            BodySource::Begun(first, left, _) => Some(first.len() as u64 + left),
            BodySource::General(incoming) => incoming.size_hint().exact(),
            BodySource::Chunks(..) | BodySource::Told(_) => None,
        }
    }

    /// Waited for by nobody for now, it takes no place among the upstream's calls any more; whoever keeps it bounds how many
    /// there are. From now on the upstream may be silent for so long between two reads; `None`: for as long as it likes.
    pub fn release_permit(&mut self, idle_timeout: Option<Duration>) {
        (self.idle_timeout, self.idle, self.permit) = (idle_timeout, None, None);
    }

    /// Whether the last byte was taken.
    pub fn is_ended(&self) -> bool {
        matches!(self.body, BodySource::Ended)
    }

    /// The same, for whoever holds it for days while nothing comes.
    pub fn into_idle(self) -> IdleBody {
        let holds_nothing = self.idle_timeout.is_none() && self.permit.is_none() && self.wire.is_none();
        match self {
            Self { body: BodySource::Told(said), .. } if holds_nothing => match *said {
                (events, None) => IdleBody::Told(events),
                held => IdleBody::Held(Box::new(held)),
            },
            answer => IdleBody::Any(Box::new(answer)),
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let Some(timeout) = self.idle_timeout else { return Poll::Pending };
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if idle.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.fail(UpstreamError::from_stage(FailureStage::BodyIdle))
    }

    /// The upstream is alive.
    fn note_progress(&mut self) {
        if let (Some(idle), Some(timeout)) = (&mut self.idle, self.idle_timeout) {
            idle.as_mut().reset(Instant::now() + timeout);
        }
    }

    /// Closes the connection: nothing more can come of it.
    fn fail(&mut self, error: UpstreamError) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        self.wire = None;
        self.body = BodySource::Ended;
        // Nor is a place held for it: who asks again takes one of its own.
        self.permit = None;
        Poll::Ready(Some(Err(error)))
    }

    fn release(&mut self) {
        if let Some(wire) = self.wire.take() {
            self.pool.put(wire);
        }
        self.permit = None;
    }
}
