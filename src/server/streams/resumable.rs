//! Streams of Legacy sessions that their clients can take up again where they broke (MCP 2025-11-25, transports,
//! resumability): the answer to a call goes on without its client, and waits for it to come back.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::session_stream::SessionStream;
use crate::limits::Permit;
use crate::server::http1::fields::{Field, Fields};
use crate::server::mcp::reconnect::Again;
use crate::server::mcp::relay::{COMMENT, Relay};
use crate::server::reply::body::{BodyError, BodySource, ResponseBody};
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{
    EventId, REQUEST_ID_BYTES_MAX, ReadOutcome, ReconnectTimer, ResumableStreams, ResumeError, Session,
    StreamClosed, StreamReader, StreamWriter,
};
use crate::telemetry::metrics::{Operation, OperationOutcome};
use crate::upstream::{FailureStage, UpstreamError};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{EventSplitter, EventPart};
use metamcp_core::protocol::Revision;

/// How a client comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumes {
    /// By the id of an event that it got.
    ById,
    /// Likewise, and it takes an event without data that only tells an id.
    ByTold,
}

/// The body of a stream that can be taken up again.
pub struct Kept {
    reader: StreamReader,
    /// A client that comes back is sent away when nothing came for that long since it began: in the first silence from then on.
    leave_at: Option<Instant>,
    ended: bool,
    /// Boxed: the stream of a session is none.
    call: Option<Box<OfCall>>,
    _permit: Option<Permit>,
}

/// What concerns the answer to a call alone.
#[derive(Default)]
struct OfCall {
    /// What counts the message that is answered.
    operation: Option<Operation>,
    /// The error of ours that was passed in place of its answer.
    failure: Failure,
}

/// What whoever passes an answer on has to say of it: to the first body that it passes through.
type Failure = Rc<Cell<Option<FaultKind>>>;

/// Whether the client of a session can come back, by the revision that it speaks: the one it asked for, or an older one
/// that the server chose, which is in its requests.
pub fn resumes(fields: &Fields, session: &Session) -> Option<Resumes> {
    let said = match fields.get(Field::McpProtocolVersion) {
        Some(said) => Revision::parse(said)?,
        None => Revision::FALLBACK,
    };
    match said.min(session.seal.revision) {
        Revision::V2024_11_05 => None,
        Revision::V2025_03_26 | Revision::V2025_06_18 => Some(Resumes::ById),
        Revision::V2025_11_25 | Revision::V2026_07_28 => Some(Resumes::ByTold),
    }
}

/// A call whose answer can be taken up again, when that is an event stream.
pub struct Keeping {
    /// The raw id of the call; a copy, since a slice would keep the whole request.
    pub id: Bytes,
    /// Its session, and the place of the server in its endpoint.
    pub session: Arc<Session>,
    pub place: usize,
    pub resumes: Resumes,
}

impl Keeping {
    /// The answer as it was, or from what is kept of it.
    pub fn keep(self, worker: &Rc<Worker>, streams: &Arc<ResumableStreams>, mut relay: Box<Relay>) -> Reply {
        let Self { id, session, place, resumes } = self;
        if id.len() > REQUEST_ID_BYTES_MAX {
            return relay.into_reply();
        }
        let pool = worker.pool(&session.endpoint.servers[place]).ok();
        if let Some((pool, ready)) = pool.zip(session.upstream_session(place).ready()) {
            relay.ask_again_by(Box::new(Again::new(pool, ready)));
        }
        let (writer, reader) = streams.begin(&session.seal, Some(id));
        session.add_resumable_stream(writer.stream());
        let mut kept = Kept::new(reader, resumes, streams, None);
        spawn_local(pump(relay, writer, Rc::clone(&kept.of_call().failure)));
        reply::events(ResponseBody::source(Box::new(kept)))
    }
}

/// Passes an answer on to what is kept of it, with or without a client, until nobody waits for it any more.
async fn pump(mut relay: Box<Relay>, writer: StreamWriter, failure: Failure) {
    let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
    let mut is_wanted = true;
    loop {
        let next = tokio::select! {
            biased;
            () = writer.abandoned() => return,
            // Of what was answered nothing more is waited for, nor held: the client finds what is kept.
            () = writer.left(), if relay.is_answered() => return writer.finish(),
            // The server may end the stream of a cancelled call without an answer, which then is none to ask for.
            () = writer.cancelled(), if is_wanted => {
                is_wanted = false;
                relay.ask_no_more();
                continue;
            }
            next = poll_fn(|cx| relay.poll_bytes(cx)) => next,
        };
        failure.set(relay.failure());
        let bytes = match next {
            Some(Ok(bytes)) => bytes,
            // Within an event, or where the answer may have passed.
            Some(Err(_)) => return writer.stream().abort(),
            None => return writer.finish(),
        };
        splitter.feed(&bytes, &mut parts);
        if let Some(again) = relay.again() {
            splitter.take_id().iter().for_each(|id| again.note_id(id));
            splitter.take_retry().into_iter().for_each(|retry_ms| again.note_retry(retry_ms));
        }
        // Of the server's, or of the gateway's when it is silent.
        if parts.is_empty() && bytes.starts_with(b":") {
            writer.comment();
        }
        if !put(&writer, &mut parts).await {
            return;
        }
    }
}

/// Writes these parts, as long as somebody waits for them; whether somebody does.
async fn put(writer: &StreamWriter, parts: &mut Vec<EventPart>) -> bool {
    for part in parts.drain(..) {
        let pushed = tokio::select! {
            biased;
            () = writer.abandoned() => return false,
            pushed = writer.push(&part) => pushed,
        };
        if pushed.is_err() {
            return false;
        }
    }
    true
}

/// Passes the events of a session on to what is kept of its stream, with or without a client, until nobody waits for
/// them any more. A task that is silent holds no more than this: of up to 24 bytes it takes 128 of memory, else 256.
pub struct Keep {
    stream: Box<SessionStream>,
    writer: StreamWriter,
    /// While something is waited for beside the next event.
    busy: Option<Box<Busy>>,
}

/// What seldom is.
#[derive(Default)]
struct Busy {
    /// For a client that has gone.
    wait: ReconnectTimer,
    /// For room to write.
    writing: Option<Pin<Box<dyn Future<Output = Written>>>>,
}

/// Whether all was written, or somebody waits for it no more.
type Written = Result<(), StreamClosed>;

const _: () = assert!(size_of::<Keep>() <= 24);

/// Events that are passed on before others have their turn.
const EVENTS_AT_ONCE: usize = 32;

impl Keep {
    /// Whatever comes of the session, for that writer.
    pub fn new(stream: Box<SessionStream>, writer: StreamWriter) -> Self {
        Self { stream, writer, busy: None }
    }

    /// Ready when nobody waits for the stream any more.
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wait = self.busy.as_mut().and_then(|busy| busy.wait.take());
        let polled = self.writer.poll_abandoned(&mut wait, cx);
        if wait.is_some() {
            self.busy.get_or_insert_default().wait = wait;
        }
        polled
    }

    /// Ready when all that came is written, or cannot be.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Written> {
        let writing = self.busy.as_mut().and_then(|busy| busy.writing.as_mut());
        let written = writing.map_or(Poll::Ready(Ok(())), |writing| writing.as_mut().poll(cx));
        if written.is_ready() {
            self.busy.take_if(|busy| busy.wait.is_none());
            self.busy.iter_mut().for_each(|busy| busy.writing = None);
        }
        written
    }

    fn write(&mut self, event: &Bytes) {
        // Each is whole, so that nothing of one is held until the next.
        let mut parts = Vec::new();
        EventSplitter::mid_stream().feed(event, &mut parts);
        if parts.is_empty() {
            // It says nothing but that somebody is there.
            return self.writer.comment();
        }
        let writing = Box::pin(self.writer.push_all(parts));
        self.busy.get_or_insert_default().writing = Some(writing);
    }
}

impl Future for Keep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..EVENTS_AT_ONCE {
            if self.poll_abandoned(cx).is_ready() || ready!(self.poll_written(cx)).is_err() {
                return Poll::Ready(());
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

/// The stream that `Last-Event-ID` names, from there on; `None` where an ordinary one is to be opened in its place.
pub fn take_up(
    streams: &Arc<ResumableStreams>,
    session: &Session,
    last_event_id: &[u8],
    resumes: Resumes,
    permit: Permit,
) -> Result<Result<Reply, Permit>, Fault> {
    let mark = streams.parse_event_id(&session.seal, last_event_id).ok_or_else(|| {
        let text = "this Last-Event-ID is none of this session's; open the stream without it";
        Fault::client(FaultKind::InvalidRequest, text)
    })?;
    let stream = session.find_resumable_stream(&mark).filter(|_| streams.is_from_this_process(&mark));
    let reader = match stream {
        Some(stream) if !mark.is_over() => stream.attach(mark.sequence),
        _ => Err(ResumeError::Lost),
    };
    match (reader, &mark.request) {
        (Ok(reader), _) => {
            let kept = Kept::new(reader, resumes, streams, Some(permit));
            Ok(Ok(reply::events(ResponseBody::source(Box::new(kept)))))
        }
        (Err(ResumeError::Lost), Some(_)) if !mark.is_over() => Ok(Ok(reply::events(gone(&mark)))),
        // A client that has all there is, and asks nevertheless (TypeScript SDK 1, when the answer is an error), takes this
        // for "no such stream" and asks no more.
        (Err(_), Some(_)) => Err(nothing_left()),
        // The client has another one already, which is not to end for this.
        (Err(_), None) if session.has_reader() => Err(nothing_left()),
        // What its servers said meanwhile is lost; what they will say is not.
        (Err(_), None) => Ok(Err(permit)),
    }
}

#[cold]
fn nothing_left() -> Fault {
    Fault::client(FaultKind::MethodNotAllowed, "nothing follows this Last-Event-ID")
}

/// The answer to a call that is not to be had any more: the call fails, rather than wait for it.
#[cold]
fn gone(mark: &EventId) -> ResponseBody {
    ResponseBody::whole(last_words(mark.loss_notice_line(), mark.request.clone()))
}

fn last_words(mut event: Vec<u8>, request: Option<Bytes>) -> Bytes {
    let text = "what followed in this stream is not kept any more; the call may have run";
    let fault = Fault::gateway(FaultKind::ConnectionLost, text).with_id(request);
    event.extend_from_slice(&reply::terminal_event(&fault));
    event.into()
}

impl Kept {
    /// From where the reader stands.
    pub fn new(
        mut reader: StreamReader,
        resumes: Resumes,
        streams: &ResumableStreams,
        permit: Option<Permit>,
    ) -> Self {
        let poll_after = streams.config().poll_after;
        let comes_back = resumes == Resumes::ByTold;
        if comes_back {
            reader.announce_id();
        }
        let leave_at = (comes_back && !poll_after.is_zero()).then(|| Instant::now() + poll_after);
        Self { reader, leave_at, ended: false, call: None, _permit: permit }
    }

    fn of_call(&mut self) -> &mut OfCall {
        self.call.get_or_insert_default()
    }
}

impl BodySource for Kept {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.reader.poll_next(cx));
        let is_polled = self.leave_at.is_some_and(|leave_at| leave_at <= Instant::now());
        self.ended = !matches!(next, ReadOutcome::Events(_) | ReadOutcome::Silence);
        if self.ended
            && let Some(call) = &mut self.call
            && let Some(operation) = call.operation.take()
        {
            let is_lost = matches!(next, ReadOutcome::Lost | ReadOutcome::Torn);
            match call.failure.get().or(is_lost.then_some(FaultKind::ConnectionLost)) {
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
            // The server may end a stream whose client comes back (MCP 2025-11-25, transports, sending messages).
            ReadOutcome::Silence if is_polled => {
                self.ended = true;
                None
            }
            ReadOutcome::Silence => Some(Ok(Bytes::from_static(COMMENT))),
            ReadOutcome::Lost => {
                let stream = self.reader.stream();
                let id = stream.request().map(Bytes::copy_from_slice);
                id.map(|id| Ok(last_words(stream.loss_notice_line(), Some(id))))
            }
            ReadOutcome::Torn => Some(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete).into())),
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
