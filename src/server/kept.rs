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

use super::again::Again;
use super::body::{BodyError, ResponseBody};
use super::event_stream::SessionStream;
use super::fields::{Field, Fields};
use super::relay::{COMMENT, Relay};
use super::reply::{self, Reply};
use super::worker::Worker;
use crate::base::{Fault, Kind};
use crate::frame::{EventSplitter, Part};
use crate::limits::Permit;
use crate::protocol::Revision;
use crate::session::{
    Gone, Mark, Next, NotHere, REQUEST_ID_BYTES_MAX, Reader, Session, Streams, Wait, Writer,
};
use crate::telemetry::metrics::{Operation, Outcome};
use crate::upstream::{Stage, UpstreamError};

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
    reader: Reader,
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
type Failure = Rc<Cell<Option<Kind>>>;

/// Whether the client of a session can come back, by the revision that it speaks: the one it asked for, or an older one
/// that the server chose, which is in its requests.
pub fn resumes(fields: &Fields, session: &Session) -> Option<Resumes> {
    let said = match fields.get(Field::McpProtocolVersion) {
        Some(said) => Revision::parse(said)?,
        None => Revision::UNSAID,
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
    pub fn keep(self, worker: &Rc<Worker>, streams: &Arc<Streams>, mut reply: Reply) -> Reply {
        let Self { id, session, place, resumes } = self;
        if id.len() > REQUEST_ID_BYTES_MAX {
            return reply;
        }
        let Some(mut relay) = reply.body.take_events() else { return reply };
        let pool = worker.pool(&session.endpoint.servers[place]).ok();
        if let Some((pool, ready)) = pool.zip(session.upstream_session(place).ready()) {
            relay.ask_again_by(Box::new(Again::new(pool, ready)));
        }
        let (writer, reader) = streams.begin(&session.seal, Some(id));
        session.keep_stream(writer.stream());
        let mut kept = Kept::new(reader, resumes, streams, None);
        spawn_local(pump(relay, writer, Rc::clone(&kept.of_call().failure)));
        reply.body = ResponseBody::kept(kept);
        reply
    }
}

/// Passes an answer on to what is kept of it, with or without a client, until nobody waits for it any more.
async fn pump(mut relay: Box<Relay>, writer: Writer, failure: Failure) {
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
            next = poll_fn(|cx| relay.poll(cx)) => next,
        };
        failure.set(relay.failure());
        let bytes = match next {
            Some(Ok(bytes)) => bytes,
            // Within an event, or where the answer may have passed.
            Some(Err(_)) => return writer.stream().tear(),
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
async fn put(writer: &Writer, parts: &mut Vec<Part>) -> bool {
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
    writer: Writer,
    /// While something is waited for beside the next event.
    busy: Option<Box<Busy>>,
}

/// What seldom is.
#[derive(Default)]
struct Busy {
    /// For a client that has gone.
    wait: Wait,
    /// For room to write.
    writing: Option<Pin<Box<dyn Future<Output = Written>>>>,
}

/// Whether all was written, or somebody waits for it no more.
type Written = Result<(), Gone>;

const _: () = assert!(size_of::<Keep>() <= 24);

/// Events that are passed on before others have their turn.
const EVENTS_AT_ONCE: usize = 32;

impl Keep {
    /// Whatever comes of the session, for that writer.
    pub fn new(stream: Box<SessionStream>, writer: Writer) -> Self {
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
        EventSplitter::going_on().feed(event, &mut parts);
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
    streams: &Arc<Streams>,
    session: &Session,
    last_event_id: &[u8],
    resumes: Resumes,
    permit: Permit,
) -> Result<Result<Reply, Permit>, Fault> {
    let mark = streams.read_mark(&session.seal, last_event_id).ok_or_else(|| {
        let text = "this Last-Event-ID is none of this session's; open the stream without it";
        Fault::client(Kind::InvalidRequest, text)
    })?;
    let stream = session.kept_stream(&mark).filter(|_| streams.is_of_now(&mark));
    let reader = match stream {
        Some(stream) if !mark.is_over() => stream.attach(mark.sequence),
        _ => Err(NotHere::Lost),
    };
    match (reader, &mark.request) {
        (Ok(reader), _) => {
            let kept = Kept::new(reader, resumes, streams, Some(permit));
            Ok(Ok(reply::events(ResponseBody::kept(kept))))
        }
        (Err(NotHere::Lost), Some(_)) if !mark.is_over() => Ok(Ok(reply::events(gone(&mark)))),
        // A client that has all there is, and asks nevertheless (TypeScript SDK 1, when the answer is an error), takes this
        // for "no such stream" and asks no more.
        (Err(_), Some(_)) => Err(nothing_left()),
        // The client has another one already, which is not to end for this.
        (Err(_), None) if session.is_followed() => Err(nothing_left()),
        // What its servers said meanwhile is lost; what they will say is not.
        (Err(_), None) => Ok(Err(permit)),
    }
}

#[cold]
fn nothing_left() -> Fault {
    Fault::client(Kind::MethodNotAllowed, "nothing follows this Last-Event-ID")
}

/// The answer to a call that is not to be had any more: the call fails, rather than wait for it.
#[cold]
fn gone(mark: &Mark) -> ResponseBody {
    ResponseBody::whole(last_words(mark.over_line(), mark.request.clone()))
}

fn last_words(mut event: Vec<u8>, request: Option<Bytes>) -> Bytes {
    let text = "what followed in this stream is not kept any more; the call may have run";
    let fault = Fault::gateway(Kind::Broken, text).answering(request);
    event.extend_from_slice(&reply::terminal_event(&fault));
    event.into()
}

impl Kept {
    /// From where the reader stands.
    pub fn new(mut reader: Reader, resumes: Resumes, streams: &Streams, permit: Option<Permit>) -> Self {
        let poll_after = streams.config().poll_after;
        let comes_back = resumes == Resumes::ByTold;
        if comes_back {
            reader.tell_id();
        }
        let leave_at = (comes_back && !poll_after.is_zero()).then(|| Instant::now() + poll_after);
        Self { reader, leave_at, ended: false, call: None, _permit: permit }
    }

    /// Counts the message that this answers, with the last byte that the client takes before it leaves.
    pub fn count(&mut self, operation: Operation) {
        self.of_call().operation = Some(operation);
    }

    fn of_call(&mut self) -> &mut OfCall {
        self.call.get_or_insert_default()
    }

    /// The next bytes for the client.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.reader.poll_next(cx));
        let is_polled = self.leave_at.is_some_and(|leave_at| leave_at <= Instant::now());
        self.ended = !matches!(next, Next::Events(_) | Next::Silence);
        if self.ended
            && let Some(call) = &mut self.call
            && let Some(operation) = call.operation.take()
        {
            let is_lost = matches!(next, Next::Lost | Next::Torn);
            match call.failure.get().or(is_lost.then_some(Kind::Broken)) {
                Some(kind) => operation.break_off(kind),
                None => operation.end(Outcome::Answer),
            }
        }
        Poll::Ready(match next {
            Next::Events(bytes) => {
                let operation = self.call.iter_mut().flat_map(|call| &mut call.operation);
                operation.for_each(|operation| operation.pass(bytes.len()));
                Some(Ok(bytes))
            }
            // The server may end a stream whose client comes back (MCP 2025-11-25, transports, sending messages).
            Next::Silence if is_polled => {
                self.ended = true;
                None
            }
            Next::Silence => Some(Ok(Bytes::from_static(COMMENT))),
            Next::Lost => {
                let stream = self.reader.stream();
                let id = stream.request().map(Bytes::copy_from_slice);
                id.map(|id| Ok(last_words(stream.over_line(), Some(id))))
            }
            Next::Torn => Some(Err(UpstreamError::bare(Stage::Body).into())),
            Next::End => None,
        })
    }
}
