//! The GET stream of a Legacy session: it gathers what the servers behind the endpoint send outside of calls.
//!
//! It is no task: whoever passes its events on polls it, and with it the streams of the servers, so that of a client that does
//! not read nothing is read either. Only asking for those streams goes on by itself.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderValue;
use tokio::task::coop::poll_proceed;
use tokio::task::spawn_local;

use super::bell::{WakeReason, WakeupRegistration};
use super::body::ResponseBody;
use super::fields::{Field, Fields};
use super::kept::{self, Keep, Kept};
use super::reply::{self, Reply};
use super::tag::{self, Passed};
use super::tasks::{TaskIds, TaskPass};
use super::words::{ANNOUNCED, COMMENT, announcement};
use super::worker::Worker;
use crate::auth::Identity;
use crate::base::{Fault, Kind, Phase};
use crate::catalog::{ListKind, Merged, View};
use crate::frame::Event;
use crate::limits::Permit;
use crate::protocol::{Method, header};
use crate::route::{Endpoint, Shape};
use crate::session::{Feed, FeedEnd, OpenStream, Ready, Session, Source};
use crate::telemetry::metrics::{StreamKind, Streaming};
use crate::upstream::UpstreamId;

/// Opens the GET stream of a session. It is answered at once, whatever the servers do, and takes over from
/// the one before.
pub fn open(
    worker: &Rc<Worker>,
    fields: &Fields,
    session: Arc<Session>,
    identity: Identity,
    permit: Permit,
) -> Result<Reply, Fault> {
    if !super::receive::accepts(fields, header::EVENT_STREAM) {
        return Err(Fault::client(Kind::NotAcceptable, "send `Accept: text/event-stream`"));
    }
    let streams = worker.shared.streams.as_ref();
    if let Some((streams, resumes)) = streams.zip(kept::resumes(fields, &session)) {
        let last_event_id = fields.get(Field::LastEventId);
        let permit = match last_event_id {
            None => permit,
            Some(id) => match kept::take_up(streams, &session, id, resumes, permit)? {
                Ok(reply) => return Ok(reply),
                Err(permit) => permit,
            },
        };
        let (writer, reader) = streams.begin(&session.seal, None);
        session.keep_stream(writer.stream());
        writer.comment();
        let mut stream = SessionStream::new(worker, session, identity, None);
        stream.is_kept = true;
        if last_event_id.is_some() {
            stream.announce_all();
        }
        let body = ResponseBody::kept(Kept::new(reader, resumes, streams, Some(permit)));
        spawn_local(Keep::new(stream, writer));
        return Ok(reply::events(body));
    }
    let last_event_id = fields.value(Field::LastEventId);
    if last_event_id.is_some() && session.endpoint.shape != Shape::Single {
        return Err(Fault::client(
            Kind::MethodNotAllowed,
            "streams of an endpoint with several servers cannot be resumed; open one without Last-Event-ID",
        ));
    }
    let mut stream = SessionStream::new(worker, session, identity, last_event_id);
    stream.ready.push(Bytes::from_static(COMMENT));
    stream.permit = Some(permit);
    Ok(reply::events(ResponseBody::session(stream)))
}

/// The events of a session's stream, for a client that has another way to get them than GET. Takes over likewise, and ends
/// when it is dropped.
pub fn follow(worker: &Rc<Worker>, session: Arc<Session>, identity: Identity) -> Box<SessionStream> {
    SessionStream::new(worker, session, identity, None)
}

/// The events of a session outside of calls.
pub struct SessionStream {
    worker: Rc<Worker>,
    session: Arc<Session>,
    generation: u32,
    /// Where the one server's stream is to be taken up, until that was asked for.
    last_event_id: Option<Box<HeaderValue>>,
    /// Whether it is taken up where the client says.
    resumes: bool,
    /// Whether its client may come back.
    is_kept: bool,
    identity: Identity,
    lists: Digests,
    rope: WakeupRegistration,
    /// The last change of the session that was looked at.
    heard: u64,
    /// Nobody has looked yet.
    is_new: bool,
    /// Made here, and not taken yet: a few.
    ready: Vec<Bytes>,
    reads: Reads,
    permit: Option<Permit>,
    _open: OpenStream,
    _streaming: Option<Streaming>,
}

impl SessionStream {
    /// Takes over from the session's stream before.
    fn new(
        worker: &Rc<Worker>,
        session: Arc<Session>,
        identity: Identity,
        last_event_id: Option<HeaderValue>,
    ) -> Box<Self> {
        let (generation, open) = (session.take_stream(), session.count_stream());
        let lists = Digests::of(worker, &session.endpoint, View::Legacy(session.seal.capabilities));
        Box::new(Self {
            worker: Rc::clone(worker),
            session,
            generation,
            resumes: last_event_id.is_some(),
            last_event_id: last_event_id.map(Box::new),
            is_kept: false,
            identity,
            lists,
            rope: worker.bell.rope(),
            heard: 0,
            is_new: true,
            ready: Vec::new(),
            reads: Reads::default(),
            permit: None,
            _open: open,
            _streaming: worker.streaming(StreamKind::Session),
        })
    }

    /// What changed in a stream that is gone is not known: the client is to look.
    fn announce_all(&mut self) {
        self.ready.extend(ANNOUNCED.map(|(_, method)| announcement(method)));
    }

    /// The next event, or comment; `None` when the session ended, or another stream took over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // Each turn takes something that has come.
        for _ in 0..TURNS_AT_ONCE {
            if !self.ready.is_empty() {
                let bytes = self.ready.remove(0);
                if self.ready.is_empty() {
                    self.ready = Vec::new();
                }
                return Poll::Ready(Some(bytes));
            }
            let goes_on = if std::mem::take(&mut self.is_new)
                || self.session.poll_changed(&mut self.heard, cx.waker())
            {
                self.look()
            } else if let Poll::Ready(rung) = self.rope.poll(cx) {
                match rung {
                    WakeReason::Changed => self.look(),
                    WakeReason::Due => self.keep_alive(),
                }
            } else {
                // Servers on other threads may say one thing after the other for as long as they are heard.
                let coop = ready!(poll_proceed(cx));
                let read = ready!(self.reads.poll(cx));
                coop.made_progress();
                match read {
                    (at, Ok(event)) => match self.pass(at, event) {
                        Some(bytes) => return Poll::Ready(Some(bytes)),
                        None => true,
                    },
                    (at, Err(end)) => self.note_end(at, &end),
                }
            };
            if !goes_on {
                return Poll::Ready(None);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Something may have changed; false when that is the end.
    fn look(&mut self) -> bool {
        let worker = Rc::clone(&self.worker);
        // A key that was taken back takes its streams with it.
        if !worker.shared.auth.still_valid(&self.identity) {
            return false;
        }
        let before = self.session.endpoint.id;
        let endpoint = worker.endpoint_now(&self.session.endpoint.scope);
        if !endpoint.is_some_and(|endpoint| self.renew(&endpoint)) {
            return false;
        }
        if !self.session.holds_stream(self.generation) || *worker.shared.phase.borrow() >= Phase::Drain {
            return false;
        }
        let session = Arc::clone(&self.session);
        if session.endpoint.shape != Shape::Single {
            let view = View::Legacy(session.seal.capabilities);
            self.ready.extend(self.lists.changed(&worker, &session.endpoint, view));
        } else if session.endpoint.id != before {
            self.lists = Digests::of(&worker, &session.endpoint, View::Legacy(session.seal.capabilities));
        }
        self.start_reads();
        true
    }

    /// It was silent for a while; false when that is the end.
    fn keep_alive(&mut self) -> bool {
        self.ready.push(Bytes::from_static(COMMENT));
        self.session.touch(self.worker.now_s());
        // A key may also expire, of which nobody tells.
        self.worker.shared.auth.still_valid(&self.identity)
    }

    /// The stream of a server ended; false when this one does as well.
    fn note_end(&mut self, at: usize, end: &FeedEnd) -> bool {
        let Read { upstream, ready, .. } = &self.reads.all[at];
        if *end == FeedEnd::SessionLost
            && let Some(upstream_session) = self.session.upstream_session_at(*upstream)
        {
            upstream_session.forget(ready);
        }
        // The one server's stream ended, or cannot be taken up where the client says: so does
        // this one, and the client comes again.
        let ends = *end == FeedEnd::Ended || self.resumes;
        !(ends && self.session.endpoint.shape == Shape::Single)
    }

    /// Goes on over its endpoint as it is now; false when the session is over. Streams of servers that are gone end.
    fn renew(&mut self, endpoint: &Arc<Endpoint>) -> bool {
        if self.session.endpoint.id != endpoint.id {
            let Some(session) = self.worker.shared.sessions.renewed(&self.session, endpoint) else {
                return false;
            };
            self.reads.all.retain(|read| session.upstream_session_at(read.upstream).is_some());
            self.session = session;
        }
        true
    }

    /// Reads the stream of each upstream session that is open and not read yet.
    fn start_reads(&mut self) {
        for (place, upstream_session) in self.session.upstream_sessions() {
            let Some(ready) = upstream_session.ready() else { continue };
            let server = &self.session.endpoint.servers[place];
            let upstream = server.upstream;
            let all = &mut self.reads.all;
            if all.iter().any(|read| read.upstream == upstream && Arc::ptr_eq(&read.ready, &ready)) {
                continue;
            }
            // Gone in this moment: the stream is about to follow.
            let Ok(pool) = self.worker.pool(server) else { continue };
            // A client that knows the server's own ids comes back by them.
            let resumes = self.session.endpoint.shape != Shape::Single || self.is_kept;
            let source = Source::Legacy(Arc::clone(&ready));
            let feed = Feed::begin(pool, source, resumes, self.last_event_id.take());
            all.retain(|read| read.upstream != upstream);
            if all.capacity() == 0 {
                // Most clients use one server.
                all.reserve_exact(1);
            }
            all.push(Read { upstream, ready, feed: Some(feed) });
        }
    }

    /// An event of a server, as the client gets it.
    fn pass(&self, at: usize, event: Event) -> Option<Bytes> {
        let Read { upstream, ready, .. } = &self.reads.all[at];
        let endpoint = &self.session.endpoint;
        if endpoint.shape == Shape::Single {
            return Some(tag::whole(event.raw));
        }
        let server = endpoint.servers.iter().find(|server| server.upstream == *upstream)?;
        let tasks = ready.features.tasks.calls.then(|| {
            let ids = TaskIds::new(&self.worker, &self.identity, Some(&self.session), endpoint);
            TaskPass::new(ids, false)
        });
        // Nothing was asked here, so nothing is answered.
        let mut scanner = self.worker.scanner.borrow_mut();
        match tag::pass(event, (&server.name, tasks.as_ref()), &mut None, &mut scanner) {
            Passed::Untouched(bytes) | Passed::Tagged(bytes) => Some(bytes),
            Passed::ListChanged(bytes) => {
                // The client will list now: what is known is stale before it is told.
                self.worker.shared.catalog.mark_stale(UpstreamId(*upstream));
                Some(bytes)
            }
            Passed::Dropped => None,
        }
    }
}

const _: () = assert!(size_of::<SessionStream>() <= 192);

/// What is taken before others have their turn; most of it is passed on, which ends the turn earlier.
const TURNS_AT_ONCE: usize = 64;

/// Events of one server before the next has its turn. Each change of turns asks all that are silent.
const EVENTS_IN_A_ROW: u8 = 16;

/// The streams of servers that one stream of a client gathers.
#[derive(Default)]
struct Reads {
    /// One for each server whose stream was asked for.
    all: Vec<Read>,
    turns: Turns,
}

/// A session at a server whose stream was asked for: what ended of itself is not asked for again.
struct Read {
    upstream: u32,
    ready: Arc<Ready>,
    /// Until its end.
    feed: Option<Feed>,
}

impl Reads {
    /// What comes next, and of which. What one server says comes in its order.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Result<Event, FeedEnd>)> {
        let Self { all, turns } = self;
        turns.poll(all.len(), |at| poll_until_end(&mut all[at].feed, |feed| feed.poll_next(cx)))
    }
}

/// What one of them has: its end is the last of it.
fn poll_until_end<F, T, E>(
    feed: &mut Option<F>,
    poll: impl FnOnce(&mut F) -> Poll<Result<T, E>>,
) -> Poll<Result<T, E>> {
    let polled = feed.as_mut().map_or(Poll::Pending, poll);
    feed.take_if(|_| matches!(polled, Poll::Ready(Err(_))));
    polled
}

/// Whose turn it is, so that one server that says much keeps no other from being heard.
#[derive(Default)]
struct Turns {
    /// Counted on and on.
    turn: u32,
    /// How much was taken in this turn.
    in_a_row: u8,
}

impl Turns {
    /// What one of so many has, and which; all are asked when none has anything.
    fn poll<T>(&mut self, count: usize, mut poll: impl FnMut(usize) -> Poll<T>) -> Poll<(usize, T)> {
        if self.in_a_row >= EVENTS_IN_A_ROW {
            self.pass();
        }
        for _ in 0..count {
            let at = self.turn as usize % count;
            if let Poll::Ready(taken) = poll(at) {
                self.in_a_row += 1;
                return Poll::Ready((at, taken));
            }
            self.pass();
        }
        Poll::Pending
    }

    fn pass(&mut self) {
        (self.turn, self.in_a_row) = (self.turn.wrapping_add(1), 0);
    }
}

/// Which lists an endpoint had, to tell which of them changed.
pub struct Digests([u64; 3]);

impl Digests {
    pub fn of(worker: &Worker, endpoint: &Endpoint, view: View) -> Self {
        let merged = worker.shared.catalog.snapshot(endpoint, view);
        Self(merged.as_deref().map_or([0; 3], |merged| digests(merged, view)))
    }

    /// The kinds that changed since the last look.
    pub fn moved(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Method> {
        let Some(merged) = worker.shared.catalog.snapshot(endpoint, view) else { return Vec::new() };
        let now = digests(&merged, view);
        let before = std::mem::replace(&mut self.0, now);
        let moved = before.iter().zip(now).map(|(before, now)| *before != now);
        moved.zip(ANNOUNCED).filter_map(|(moved, (_, method))| moved.then_some(method)).collect()
    }

    fn changed(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Bytes> {
        self.moved(worker, endpoint, view).into_iter().map(announcement).collect()
    }
}

/// What a server says of a change is told to clients of sessions as it says it; to the others by this.
fn digests(merged: &Merged, view: View) -> [u64; 3] {
    let mut announced = if view == View::Modern { merged.announced } else { [0; 3] }.into_iter();
    ANNOUNCED.map(|(kind, _)| {
        let digest = match kind {
            ListKind::Resources => {
                merged.listing(kind).digest ^ merged.listing(ListKind::Templates).digest.rotate_left(1)
            }
            kind => merged.listing(kind).digest,
        };
        // Small counts, beside a hash: one that moves moves the sum.
        digest.wrapping_add(announced.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much each of some servers has to say, and the order in which they are heard.
    #[track_caller]
    fn check(mut left: Vec<usize>, expected: &[usize]) {
        let (mut turns, mut heard) = (Turns::default(), Vec::new());
        let mut poll = |at: usize| {
            left[at] = left[at].checked_sub(1)?;
            Some(())
        };
        let count = 3;
        let mut next = || turns.poll(count, |at| poll(at).map_or(Poll::Pending, Poll::Ready));
        while let Poll::Ready((at, ())) = next() {
            heard.push(at);
        }
        let shortened = heard.chunk_by(|one, next| one == next).flat_map(|run| [run[0], run.len()]);
        assert_eq!(shortened.collect::<Vec<_>>(), expected);
    }

    /// Pairs of a server and how many of its events come in a row.
    #[test]
    fn nobody_is_kept_from_being_heard() {
        check(vec![0, 0, 0], &[]);
        check(vec![0, 3, 0], &[1, 3]);
        check(vec![40, 1, 0], &[0, 16, 1, 1, 0, 24]);
        check(vec![17, 20, 2], &[0, 16, 1, 16, 2, 2, 0, 1, 1, 4]);
    }

    /// How much each of three servers says before its end, if it has not ended, and what is heard: an end is `None`.
    #[track_caller]
    fn check_ends(mut feeds: [Option<usize>; 3], expected: &[(usize, Option<()>)]) {
        let (mut turns, mut heard) = (Turns::default(), Vec::new());
        let mut next = || {
            turns.poll(3, |at| {
                poll_until_end(&mut feeds[at], |left| match left.checked_sub(1) {
                    Some(less) => {
                        *left = less;
                        Poll::Ready(Ok(()))
                    }
                    None => Poll::Ready(Err(())),
                })
            })
        };
        while let Poll::Ready((at, said)) = next() {
            heard.push((at, said.ok()));
            assert!(heard.len() <= expected.len(), "{heard:?}");
        }
        assert_eq!(heard, expected);
        assert_eq!(feeds, [None; 3]);
    }

    #[test]
    fn an_end_is_heard_once() {
        check_ends([None, None, None], &[]);
        check_ends([None, Some(0), None], &[(1, None)]);
        check_ends(
            [Some(1), None, Some(2)],
            &[(0, Some(())), (0, None), (2, Some(())), (2, Some(())), (2, None)],
        );
        check_ends([Some(0), Some(0), Some(0)], &[(0, None), (1, None), (2, None)]);
    }
}
