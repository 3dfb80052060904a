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

use super::list_digests::Digests;
use crate::auth::Identity;
use crate::catalog::View;
use crate::limits::Permit;
use crate::route::{Endpoint, EndpointShape};
use crate::server::http1::stream_wakeups::{WakeReason, WakeupRegistration};
use crate::server::http1::words::{ANNOUNCED, COMMENT, announcement};
use crate::server::mcp::id_prefix::{self, Passed};
use crate::server::mcp::tasks::{TaskIds, TaskPass};
use crate::server::reply::body::{BodyError, BodySource};
use crate::server::worker::Worker;
use crate::session::{
    Session, StreamGuard, StreamSource, UpstreamSession, UpstreamStream, UpstreamStreamEnd,
};
use crate::telemetry::metrics::{OpenStreamGuard, StreamKind};
use crate::upstream::UpstreamId;
use metamcp_core::base::ShutdownPhase;
use metamcp_core::frame::Event;

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
    pub is_kept: bool,
    identity: Identity,
    lists: Digests,
    rope: WakeupRegistration,
    /// The last change of the session that was looked at.
    heard: u64,
    /// Nobody has looked yet.
    is_new: bool,
    /// Made here, and not taken yet: a few.
    pub ready: Vec<Bytes>,
    reads: Reads,
    pub permit: Option<Permit>,
    _open: StreamGuard,
    _streaming: Option<OpenStreamGuard>,
}

impl SessionStream {
    /// Takes over from the session's stream before.
    pub fn new(
        worker: &Rc<Worker>,
        session: Arc<Session>,
        identity: Identity,
        last_event_id: Option<HeaderValue>,
    ) -> Box<Self> {
        let (generation, open) = (session.take_over_stream(), session.track_stream());
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
    pub fn announce_all(&mut self) {
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
        if !worker.shared.auth.is_still_valid(&self.identity) {
            return false;
        }
        let before = self.session.endpoint.id;
        let endpoint = worker.endpoint_now(&self.session.endpoint.scope);
        if !endpoint.is_some_and(|endpoint| self.renew(&endpoint)) {
            return false;
        }
        if !self.session.is_current_stream(self.generation)
            || *worker.shared.phase.borrow() >= ShutdownPhase::Drain
        {
            return false;
        }
        let session = Arc::clone(&self.session);
        if session.endpoint.shape != EndpointShape::Single {
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
        self.worker.shared.auth.is_still_valid(&self.identity)
    }

    /// The stream of a server ended; false when this one does as well.
    fn note_end(&mut self, at: usize, end: &UpstreamStreamEnd) -> bool {
        let Read { upstream, ready, .. } = &self.reads.all[at];
        if *end == UpstreamStreamEnd::SessionLost
            && let Some(upstream_session) = self.session.find_upstream_slot(*upstream)
        {
            upstream_session.forget(ready);
        }
        // The one server's stream ended, or cannot be taken up where the client says: so does
        // this one, and the client comes again.
        let ends = *end == UpstreamStreamEnd::Ended || self.resumes;
        !(ends && self.session.endpoint.shape == EndpointShape::Single)
    }

    /// Goes on over its endpoint as it is now; false when the session is over. Streams of servers that are gone end.
    fn renew(&mut self, endpoint: &Arc<Endpoint>) -> bool {
        if self.session.endpoint.id != endpoint.id {
            let Some(session) = self.worker.shared.sessions.renewed(&self.session, endpoint) else {
                return false;
            };
            self.reads.all.retain(|read| session.find_upstream_slot(read.upstream).is_some());
            self.session = session;
        }
        true
    }

    /// Reads the stream of each upstream session that is open and not read yet.
    fn start_reads(&mut self) {
        for (place, upstream_session) in self.session.upstream_slots() {
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
            let resumes = self.session.endpoint.shape != EndpointShape::Single || self.is_kept;
            let source = StreamSource::Legacy(Arc::clone(&ready));
            let feed = UpstreamStream::begin(pool, source, resumes, self.last_event_id.take());
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
        if endpoint.shape == EndpointShape::Single {
            return Some(id_prefix::whole(event.raw));
        }
        let server = endpoint.servers.iter().find(|server| server.upstream == *upstream)?;
        let tasks = ready.features.tasks.calls.then(|| {
            let ids = TaskIds::new(&self.worker, &self.identity, Some(&self.session), endpoint);
            TaskPass::new(ids, false)
        });
        // Nothing was asked here, so nothing is answered.
        let mut scanner = self.worker.scanner.borrow_mut();
        match id_prefix::pass(event, (&server.name, tasks.as_ref()), &mut None, &mut scanner) {
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

impl BodySource for SessionStream {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.poll_next(cx).map(|next| next.map(Ok))
    }

    fn is_event_stream(&self) -> bool {
        true
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
    ready: Arc<UpstreamSession>,
    /// Until its end.
    feed: Option<UpstreamStream>,
}

impl Reads {
    /// What comes next, and of which. What one server says comes in its order.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Result<Event, UpstreamStreamEnd>)> {
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
