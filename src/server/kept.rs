//! Streams of Legacy sessions that their clients can take up again where they broke (MCP 2025-11-25, transports,
//! resumability): the answer to a call goes on without its client, and waits for it to come back.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

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
use crate::backend::{BackendError, Stage};
use crate::base::{Fault, Kind};
use crate::frame::{EventSplitter, Part};
use crate::limits::Permit;
use crate::protocol::Revision;
use crate::session::{Mark, Next, NotHere, REQUEST_ID_BYTES_MAX, Reader, Session, Streams, Writer};
use crate::telemetry::metrics::{Operation, Outcome};

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
    /// When it began.
    began: Instant,
    /// A client that comes back is sent away when it has waited for so long in silence.
    poll_after: Option<Duration>,
    ended: bool,
    /// What counts the message that is answered.
    operation: Option<Operation>,
    /// The error of ours that was passed in place of its answer.
    failure: Failure,
    _permit: Option<Permit>,
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
        if let Some((pool, ready)) = pool.zip(session.upstream(place).ready()) {
            relay.ask_again_by(Box::new(Again::new(pool, ready)));
        }
        let (writer, reader) = streams.begin(&session.seal, Some(id));
        session.keep_stream(writer.stream());
        let kept = Kept::new(reader, resumes, streams, None);
        spawn_local(pump(relay, writer, Rc::clone(&kept.failure)));
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
/// them any more.
pub async fn keep(mut stream: Box<SessionStream>, writer: Writer) {
    let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
    loop {
        let next = tokio::select! {
            biased;
            () = writer.abandoned() => return,
            next = poll_fn(|cx| stream.poll_next(cx)) => next,
        };
        let Some(bytes) = next else { return };
        if bytes.starts_with(b":") {
            writer.comment();
            continue;
        }
        splitter.feed(&bytes, &mut parts);
        // Boxed: a stream that is silent has no room for what is being written.
        if !Box::pin(put(&writer, &mut parts)).await {
            return;
        }
        parts = Vec::new();
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
        let poll_after = (comes_back && !poll_after.is_zero()).then_some(poll_after);
        Self {
            reader,
            began: Instant::now(),
            poll_after,
            ended: false,
            operation: None,
            failure: Failure::default(),
            _permit: permit,
        }
    }

    /// Counts the message that this answers, with the last byte that the client takes before it leaves.
    pub fn count(&mut self, operation: Operation) {
        self.operation = Some(operation);
    }

    /// The next bytes for the client.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.reader.poll_next(cx));
        let is_polled = self.poll_after.is_some_and(|poll_after| self.began.elapsed() >= poll_after);
        self.ended = !matches!(next, Next::Events(_) | Next::Silence);
        if self.ended
            && let Some(operation) = self.operation.take()
        {
            let is_lost = matches!(next, Next::Lost | Next::Torn);
            match self.failure.get().or(is_lost.then_some(Kind::Broken)) {
                Some(kind) => operation.break_off(kind),
                None => operation.end(Outcome::Answer),
            }
        }
        Poll::Ready(match next {
            Next::Events(bytes) => {
                self.operation.iter_mut().for_each(|operation| operation.pass(bytes.len()));
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
                let words = stream.request().map(|id| last_words(stream.over_line(), Some(id.clone())));
                words.map(Ok)
            }
            Next::Torn => Some(Err(BackendError::bare(Stage::Body).into())),
            Next::End => None,
        })
    }
}
