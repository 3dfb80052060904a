//! Resumable streams of Legacy sessions (MCP 2025-11-25, transports, resumability). The response to a call
//! continues without its client, and is retained until the client returns.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::session_stream::SessionStream;
use crate::limits::Permit;
use crate::server::http1::fields::{Field, Fields};
use crate::server::mcp::relay::{COMMENT, Relay};
use crate::server::reply::body::{BodyError, BodySource, ResponseBody};
use crate::server::reply::reply::{self, Reply};
use crate::session::{
    EventId, REQUEST_ID_BYTES_MAX, ReadOutcome, ReconnectTimer, ResumableStreams, ResumeError, Session,
    StreamClosed, StreamReader, StreamWriter, UpstreamReconnect,
};
use crate::telemetry::metrics::{Operation, OperationOutcome};
use crate::upstream::UpstreamPool;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{EventPart, EventSplitter};
use metamcp_core::protocol::Revision;
use metamcp_http::{FailureStage, UpstreamError};

/// How a client resumes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeMode {
    /// With the id of an event that it received.
    ById,
    /// Also with the id of an event without data, which only announces an id.
    ByReconnect,
}

/// The response body of a resumable stream.
pub struct ResumableBody {
    reader: StreamReader,
    /// From this time on, the first silence closes the connection of a client that can come back.
    leave_at: Option<Instant>,
    ended: bool,
    /// Boxed, since the stream of a session has none.
    call: Option<Box<CallTracking>>,
    _permit: Option<Permit>,
}

/// The accounting of a call's response.
#[derive(Default)]
struct CallTracking {
    /// Counts the answered message.
    operation: Option<Operation>,
    /// The kind of the gateway's own error that replaced the response.
    failure: FailureCell,
}

/// Reports the failure of a forwarded response to the first body that it passes through.
type FailureCell = Rc<Cell<Option<FaultKind>>>;

/// Whether and how the client can resume streams. Depends on the revision that it sends, or the older one
/// that the server negotiated.
pub fn resume_mode(fields: &Fields, session: &Session) -> Option<ResumeMode> {
    let revision = match fields.get(Field::McpProtocolVersion) {
        Some(revision) => Revision::parse(revision)?,
        None => Revision::FALLBACK,
    };
    match revision.min(session.claims.revision) {
        Revision::V2024_11_05 => None,
        Revision::V2025_03_26 | Revision::V2025_06_18 => Some(ResumeMode::ById),
        Revision::V2025_11_25 | Revision::V2026_07_28 => Some(ResumeMode::ByReconnect),
    }
}

/// A call whose response becomes a resumable stream, if it is an event stream.
pub struct ResumableCall {
    /// The raw id of the call. A copy, since a slice would keep the whole request.
    pub id: Bytes,
    /// Its session, and the place of the server in its endpoint.
    pub session: Arc<Session>,
    pub place: usize,
    /// The connections to that server.
    pub pool: Rc<UpstreamPool>,
    pub mode: ResumeMode,
}

impl ResumableCall {
    /// The response itself, or a body that reads from its resumable stream.
    pub fn into_resumable(self, streams: &Arc<ResumableStreams>, mut relay: Box<Relay>) -> Reply {
        let Self { id, session, place, pool, mode } = self;
        if id.len() > REQUEST_ID_BYTES_MAX {
            return relay.into_reply();
        }
        if let Some(ready) = session.upstream_slot(place).current() {
            relay.reconnect_with(Box::new(UpstreamReconnect::new(pool, ready)));
        }
        let (writer, reader) = streams.begin(&session.claims, Some(id));
        session.add_resumable_stream(writer.stream());
        let mut body = ResumableBody::new(reader, mode, streams, None);
        spawn_local(pump(relay, writer, Rc::clone(&body.of_call().failure)));
        reply::events(ResponseBody::source(Box::new(body)))
    }
}

/// Writes a response to its resumable stream, with or without a reader, until no client waits for it.
async fn pump(mut relay: Box<Relay>, writer: StreamWriter, failure: FailureCell) {
    let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
    let mut is_wanted = true;
    loop {
        let next = tokio::select! {
            biased;
            () = writer.abandoned() => return,
            // After the response nothing more is expected. The client finds it in the retained stream.
            () = writer.unread(), if relay.is_answered() => return writer.finish(),
            // The server may end the stream of a cancelled call without a response, which must then not be
            // requested again.
            () = writer.cancelled(), if is_wanted => {
                is_wanted = false;
                relay.stop_reconnecting();
                continue;
            }
            next = poll_fn(|cx| relay.poll_bytes(cx)) => next,
        };
        failure.set(relay.failure());
        let bytes = match next {
            Some(Ok(bytes)) => bytes,
            // The stream broke within an event, or after the response may have been sent.
            Some(Err(_)) => return writer.stream().abort(),
            // A client whose credential has ended does not come back for what is retained.
            None if relay.failure() == Some(FaultKind::Unauthenticated) && !writer.stream().has_reader() => {
                return writer.stream().abort();
            }
            None => return writer.finish(),
        };
        splitter.feed(&bytes, &mut parts);
        if let Some(reconnect) = relay.reconnect() {
            splitter.take_id().iter().for_each(|id| reconnect.note_id(id));
            splitter.take_retry().into_iter().for_each(|retry_ms| reconnect.note_retry(retry_ms));
        }
        // A comment of the server, or a keep-alive of the gateway.
        if parts.is_empty() && bytes.starts_with(b":") {
            writer.send_comment();
        }
        if !put(&writer, &mut parts, &mut relay).await {
            return;
        }
    }
}

/// For a client that cancelled a call to read what is written, so that its response ends in good order.
const CANCELLED_WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// Writes parts of events. Returns whether a client still waits for them. The relay is not read meanwhile and notices nothing
/// by itself, so a write that waits for room also waits for the relay to be cut.
async fn put(writer: &StreamWriter, parts: &mut Vec<EventPart>, relay: &mut Relay) -> bool {
    for part in parts.drain(..) {
        let pushed = tokio::select! {
            biased;
            () = writer.abandoned() => return false,
            pushed = writer.push(&part) => pushed,
            () = relay.cut() => {
                writer.stream().abort();
                return false;
            }
            // A client that cancelled the call may never read the rest. It must not hold the place of a call for that.
            () = async { writer.cancelled().await; sleep(CANCELLED_WRITE_TIMEOUT).await } => {
                writer.stream().abort();
                return false;
            }
        };
        if pushed.is_err() {
            return false;
        }
    }
    true
}

/// Writes the events of a session to its resumable stream, with or without a reader, until no client waits for
/// it. An idle task holds only this struct: up to 24 bytes fit an allocation of 128 with the task's header,
/// more would take 256.
pub struct SessionPump {
    stream: Box<SessionStream>,
    writer: StreamWriter,
    /// Present while the pump waits for more than the next event.
    busy: Option<Box<PendingWaits>>,
}

/// What a pump rarely waits for.
#[derive(Default)]
struct PendingWaits {
    /// The time by which a client that left must return.
    wait: ReconnectTimer,
    /// A write that waits for room.
    writing: Option<Pin<Box<dyn Future<Output = WriteResult>>>>,
}

/// The result of a write.
type WriteResult = Result<(), StreamClosed>;

const _: () = assert!(size_of::<SessionPump>() <= 24);

/// Events written per poll.
const EVENTS_AT_ONCE: usize = 32;

impl SessionPump {
    /// Pumps the events of `stream` into `writer`.
    pub fn new(stream: Box<SessionStream>, writer: StreamWriter) -> Self {
        Self { stream, writer, busy: None }
    }

    /// Ready when no client waits for the stream.
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wait = self.busy.as_mut().and_then(|busy| busy.wait.take());
        let polled = self.writer.poll_abandoned(&mut wait, cx);
        if wait.is_some() {
            self.busy.get_or_insert_default().wait = wait;
        }
        polled
    }

    /// Ready when the pending write is done or has failed.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<WriteResult> {
        let writing = self.busy.as_mut().and_then(|busy| busy.writing.as_mut());
        let written = writing.map_or(Poll::Ready(Ok(())), |writing| writing.as_mut().poll(cx));
        if written.is_ready() {
            self.busy.take_if(|busy| busy.wait.is_none());
            self.busy.iter_mut().for_each(|busy| busy.writing = None);
        }
        written
    }

    fn write(&mut self, event: &Bytes) {
        // Every event is complete, so no partial event is carried over.
        let mut parts = Vec::new();
        EventSplitter::mid_stream().feed(event, &mut parts);
        if parts.is_empty() {
            // The event is a comment.
            return self.writer.send_comment();
        }
        let writing = Box::pin(self.writer.push_all(parts));
        self.busy.get_or_insert_default().writing = Some(writing);
    }
}

impl Future for SessionPump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..EVENTS_AT_ONCE {
            if self.poll_abandoned(cx).is_ready() {
                return Poll::Ready(());
            }
            match self.poll_written(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(StreamClosed)) => return Poll::Ready(()),
                // The stream is not read while a write waits for room.
                Poll::Pending => return self.stream.poll_over(cx),
            }
            match ready!(self.stream.poll_next(cx)) {
                Some(event) => self.write(&event),
                None => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Resumes the stream that `Last-Event-ID` names. Returns the permit if a new stream must be opened instead.
pub fn resume(
    streams: &Arc<ResumableStreams>,
    session: &Session,
    last_event_id: &[u8],
    mode: ResumeMode,
    permit: Permit,
) -> Result<Result<Reply, Permit>, Fault> {
    let mark = streams.parse_event_id(&session.claims, last_event_id).ok_or_else(|| {
        let text = "this Last-Event-ID is none of this session's; open the stream without it";
        Fault::client(FaultKind::InvalidRequest, text)
    })?;
    let stream = session.find_resumable_stream(&mark).filter(|_| streams.is_from_this_process(&mark));
    let reader = match stream {
        Some(stream) if !mark.is_loss_notice() => StreamReader::resume(&stream, mark.sequence),
        _ => Err(ResumeError::Lost),
    };
    match (reader, &mark.request_id) {
        (Ok(reader), _) => {
            let body = ResumableBody::new(reader, mode, streams, Some(permit));
            Ok(Ok(reply::events(ResponseBody::source(Box::new(body)))))
        }
        (Err(ResumeError::Lost), Some(_)) if !mark.is_loss_notice() => Ok(Ok(reply::events(gone(&mark)))),
        // A client that has everything and asks nevertheless (TypeScript SDK 1, after an error response)
        // takes this for "no such stream" and stops.
        (Err(_), Some(_)) => Err(nothing_left()),
        // The client has another open stream, which must not end.
        (Err(_), None) if session.has_reader() => Err(nothing_left()),
        // The events since then are lost, but a new stream delivers later ones.
        (Err(_), None) => Ok(Err(permit)),
    }
}

#[cold]
fn nothing_left() -> Fault {
    Fault::client(FaultKind::MethodNotAllowed, "nothing follows this Last-Event-ID")
}

/// The response to a call is lost: the call fails instead of waiting for it.
#[cold]
fn gone(mark: &EventId) -> ResponseBody {
    let request = mark.request_id.clone();
    ResponseBody::whole(last_words(mark.loss_notice_line(), request, FaultKind::ConnectionLost, NOT_KEPT))
}

const NOT_KEPT: &str = "what followed in this stream is not kept any more; the call may have run";

const NO_MEMORY: &str = "the gateway has no memory left for what follows in this stream (limits.memory_max); the call may have run";

/// What the loss of the rest of a stream counts as.
fn loss_kind(outcome: &ReadOutcome) -> Option<FaultKind> {
    match outcome {
        ReadOutcome::Lost | ReadOutcome::Truncated => Some(FaultKind::ConnectionLost),
        ReadOutcome::OutOfMemory => Some(FaultKind::OutOfMemory),
        ReadOutcome::Events(_) | ReadOutcome::KeepAlive | ReadOutcome::End => None,
    }
}

fn last_words(mut event: Vec<u8>, request: Option<Bytes>, kind: FaultKind, text: &'static str) -> Bytes {
    let fault = Fault::gateway(kind, text).with_id(request);
    event.extend_from_slice(&reply::terminal_event(&fault));
    event.into()
}

impl ResumableBody {
    /// Continues at the reader's position.
    pub fn new(
        mut reader: StreamReader,
        mode: ResumeMode,
        streams: &ResumableStreams,
        permit: Option<Permit>,
    ) -> Self {
        let poll_after = streams.config().poll_after;
        let comes_back = mode == ResumeMode::ByReconnect;
        if comes_back {
            reader.announce_id();
        }
        let leave_at = (comes_back && !poll_after.is_zero()).then(|| Instant::now() + poll_after);
        Self { reader, leave_at, ended: false, call: None, _permit: permit }
    }

    fn of_call(&mut self) -> &mut CallTracking {
        self.call.get_or_insert_default()
    }

    /// The call fails. The stream of a session just ends.
    #[cold]
    fn last_words(&self, kind: FaultKind, text: &'static str) -> Option<Result<Bytes, BodyError>> {
        let stream = self.reader.stream();
        let id = stream.request_id().map(Bytes::copy_from_slice)?;
        Some(Ok(last_words(stream.loss_notice_line(), Some(id), kind, text)))
    }
}

impl BodySource for ResumableBody {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.reader.poll_next(cx));
        let is_polled = self.leave_at.is_some_and(|leave_at| leave_at <= Instant::now());
        self.ended = !matches!(next, ReadOutcome::Events(_) | ReadOutcome::KeepAlive);
        if self.ended
            && let Some(call) = &mut self.call
            && let Some(operation) = call.operation.take()
        {
            match call.failure.get().or(loss_kind(&next)) {
                Some(kind) => operation.fail_streaming(kind),
                None => operation.end(OperationOutcome::Answer),
            }
        }
        Poll::Ready(match next {
            ReadOutcome::Events(bytes) => {
                let operation = self.call.iter_mut().flat_map(|call| &mut call.operation);
                operation.for_each(|operation| operation.add_response_bytes(bytes.len()));
                Some(Ok(bytes))
            }
            // The server may close the connection of a client that can come back (MCP 2025-11-25, transports,
            // sending messages).
            ReadOutcome::KeepAlive if is_polled && self.reader.stream().can_be_resumed_here() => {
                self.ended = true;
                None
            }
            ReadOutcome::KeepAlive => Some(Ok(Bytes::from_static(COMMENT))),
            ReadOutcome::Lost => self.last_words(FaultKind::ConnectionLost, NOT_KEPT),
            ReadOutcome::OutOfMemory => self.last_words(FaultKind::OutOfMemory, NO_MEMORY),
            ReadOutcome::Truncated => {
                Some(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete).into()))
            }
            ReadOutcome::End => None,
        })
    }

    fn is_event_stream(&self) -> bool {
        true
    }

    /// With the last byte that the client takes before it leaves.
    fn count(&mut self, operation: Operation) {
        self.of_call().operation = Some(operation);
    }
}
