//! The GET stream of a Legacy session. It merges the events that the servers behind the endpoint send outside
//! of calls.
//!
//! Polling the stream also polls the servers' streams, so nothing is read for a client that does not read.
//! Only the tasks that open the servers' streams run independently.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderValue;
use tokio::task::coop::poll_proceed;

use super::list_digests::ListDigests;
use crate::catalog::View;
use crate::limits::Permit;
use crate::route::{Endpoint, EndpointShape};
use crate::server::http1::announcements::{ANNOUNCED, COMMENT, announcement};
use crate::server::http1::stream_wakeups::{WakeReason, WakeupRegistration};
use crate::server::mcp::id_prefix::{self, EventOrigin, ForwardedEvent, ServerRequests};
use crate::server::mcp::tasks::{TaskIdTranslation, TaskIds};
use crate::server::reply::body::{BodyError, BodySource};
use crate::server::worker::Worker;
use crate::session::{
    Session, StreamGuard, StreamSource, UpstreamSession, UpstreamStream, UpstreamStreamEnd,
};
use crate::telemetry::metrics::{OpenStreamGuard, StreamKind};
use crate::upstream::UpstreamId;
use metamcp_core::base::ShutdownPhase;
use metamcp_core::frame::Event;
use metamcp_store::auth::Identity;

/// The events of a session outside of calls.
pub struct SessionStream {
    worker: Rc<Worker>,
    session: Arc<Session>,
    generation: u32,
    /// The event id to resume the only server's stream from, until that stream is requested.
    last_event_id: Option<Box<HeaderValue>>,
    /// Whether the client asked to resume the stream.
    resumes: bool,
    /// Whether the events go into a resumable stream.
    pub is_kept: bool,
    identity: Identity,
    lists: ListDigests,
    wakeup: WakeupRegistration,
    /// The number of the last session change that was handled.
    seen_changes: u64,
    /// Whether the stream has not been polled yet.
    is_new: bool,
    /// Events of the gateway's own that are not sent yet.
    pub ready: Vec<Bytes>,
    reads: UpstreamReads,
    pub permit: Option<Permit>,
    _open: StreamGuard,
    _streaming: Option<OpenStreamGuard>,
}

impl SessionStream {
    /// Replaces the session's previous stream.
    pub fn new(
        worker: &Rc<Worker>,
        session: Arc<Session>,
        identity: Identity,
        last_event_id: Option<HeaderValue>,
    ) -> Box<Self> {
        let (generation, open) = (session.take_over_stream(), session.track_stream());
        let lists = ListDigests::of(
            &worker.shared.catalog,
            &session.endpoint,
            View::Legacy(session.claims.capabilities),
        );
        Box::new(Self {
            worker: Rc::clone(worker),
            session,
            generation,
            resumes: last_event_id.is_some(),
            last_event_id: last_event_id.map(Box::new),
            is_kept: false,
            identity,
            lists,
            wakeup: worker.stream_wakeups.register(),
            seen_changes: 0,
            is_new: true,
            ready: Vec::new(),
            reads: UpstreamReads::default(),
            permit: None,
            _open: open,
            _streaming: worker.metering.streaming(StreamKind::Session),
        })
    }

    /// Announces all lists as changed: it is unknown what a lost stream announced.
    pub fn announce_all(&mut self) {
        self.ready.extend(ANNOUNCED.map(|(_, method)| announcement(method)));
    }

    /// The next event or comment. `None` when the session ends or another stream takes over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // Each iteration handles one item.
        for _ in 0..TURNS_AT_ONCE {
            if !self.ready.is_empty() {
                let bytes = self.ready.remove(0);
                if self.ready.is_empty() {
                    self.ready = Vec::new();
                }
                return Poll::Ready(Some(bytes));
            }
            let goes_on = if std::mem::take(&mut self.is_new)
                || self.session.poll_changed(&mut self.seen_changes, cx.waker())
            {
                self.apply_changes()
            } else if let Poll::Ready(reason) = self.wakeup.poll(cx) {
                match reason {
                    WakeReason::Changed => self.apply_changes(),
                    WakeReason::Due => self.keep_alive(),
                }
            } else {
                // Servers on other threads can produce events as fast as they are read, so use the task's
                // budget.
                let coop = ready!(poll_proceed(cx));
                let read = ready!(self.reads.poll(cx));
                coop.made_progress();
                match read {
                    (at, Ok(event)) => match self.rewrite_event(at, event) {
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

    /// Ready when the stream must end, whether or not its events are taken. Other changes are handled by the next
    /// [`Self::poll_next`].
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Each iteration takes a change or a keep-alive, neither of which comes again in this poll.
        while self.session.poll_changed(&mut self.seen_changes, cx.waker()) || self.wakeup.poll(cx).is_ready()
        {
            self.is_new = true;
            if self.is_over() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Whether the key was revoked, the endpoint or the session has ended, another stream took over, or the gateway drains.
    fn is_over(&self) -> bool {
        let shared = &self.worker.shared;
        !shared.auth.is_still_valid(&self.identity)
            || self.worker.topology.endpoint_now(&self.session.endpoint.scope).is_none()
            || !self.session.is_current_stream(self.generation)
            || *shared.phase.borrow() >= ShutdownPhase::Drain
    }

    /// Handles a possible change. Returns false if the stream ends.
    fn apply_changes(&mut self) -> bool {
        let worker = Rc::clone(&self.worker);
        let before = self.session.endpoint.id;
        let endpoint = worker.topology.endpoint_now(&self.session.endpoint.scope);
        if self.is_over() || !endpoint.is_some_and(|endpoint| self.renew(&endpoint)) {
            return false;
        }
        let session = Arc::clone(&self.session);
        if session.endpoint.shape != EndpointShape::Single {
            let view = View::Legacy(session.claims.capabilities);
            self.ready.extend(self.lists.changed(&worker.shared.catalog, &session.endpoint, view));
        } else if session.endpoint.id != before {
            self.lists = ListDigests::of(
                &worker.shared.catalog,
                &session.endpoint,
                View::Legacy(session.claims.capabilities),
            );
        }
        self.start_reads();
        true
    }

    /// Sends a keep-alive comment. Returns false if the stream ends.
    fn keep_alive(&mut self) -> bool {
        self.ready.push(Bytes::from_static(COMMENT));
        self.session.touch(self.worker.clock.now_s());
        // A key may have expired, which is not announced.
        self.worker.shared.auth.is_still_valid(&self.identity)
    }

    /// Handles the end of a server's stream. Returns false if this stream ends too.
    fn note_end(&mut self, at: usize, end: &UpstreamStreamEnd) -> bool {
        let UpstreamRead { upstream, ready, .. } = &self.reads.all[at];
        if *end == UpstreamStreamEnd::SessionLost
            && let Some(upstream_session) = self.session.find_upstream_slot(*upstream)
        {
            upstream_session.discard(ready);
        }
        // If the only server's stream ended or cannot be resumed, this one ends, and the client opens
        // another.
        let ends = *end == UpstreamStreamEnd::Ended || self.resumes;
        !(ends && self.session.endpoint.shape == EndpointShape::Single)
    }

    /// Moves to the current version of the endpoint. Returns false if the session is over. Streams of removed
    /// servers end.
    fn renew(&mut self, endpoint: &Arc<Endpoint>) -> bool {
        if self.session.endpoint.id != endpoint.id {
            let Some(session) = self.worker.shared.sessions.refresh(&self.session, endpoint) else {
                return false;
            };
            self.reads.all.retain(|read| session.find_upstream_slot(read.upstream).is_some());
            self.session = session;
        }
        true
    }

    /// Opens the stream of each open upstream session that has none.
    fn start_reads(&mut self) {
        for (place, upstream_session) in self.session.upstream_slots() {
            let Some(ready) = upstream_session.current() else { continue };
            let server = &self.session.endpoint.servers[place];
            let upstream = server.upstream;
            let all = &mut self.reads.all;
            if all.iter().any(|read| read.upstream == upstream && Arc::ptr_eq(&read.ready, &ready)) {
                continue;
            }
            // The server was removed just now; the stream will be updated soon.
            let Ok(pool) = self.worker.topology.pool(server) else { continue };
            // A client that sees the server's own event ids resumes with them itself.
            let resumes = self.session.endpoint.shape != EndpointShape::Single || self.is_kept;
            let source = StreamSource::Legacy(Arc::clone(&ready));
            let feed = UpstreamStream::open(pool, source, resumes, self.last_event_id.take());
            all.retain(|read| read.upstream != upstream);
            if all.capacity() == 0 {
                // Most clients use one server.
                all.reserve_exact(1);
            }
            all.push(UpstreamRead { upstream, ready, feed: Some(feed) });
        }
    }

    /// Rewrites an event of a server for the client.
    fn rewrite_event(&self, at: usize, event: Event) -> Option<Bytes> {
        let UpstreamRead { upstream, ready, .. } = &self.reads.all[at];
        let endpoint = &self.session.endpoint;
        if endpoint.shape == EndpointShape::Single {
            return Some(id_prefix::complete_line_end(event.raw));
        }
        let server = endpoint.servers.iter().find(|server| server.upstream == *upstream)?;
        let tasks = ready.features.tasks.calls.then(|| {
            let ids =
                TaskIds::new(self.worker.shared.auth.sealer(), &self.identity, Some(&self.session), endpoint);
            TaskIdTranslation::new(ids, false)
        });
        // No request was sent on this stream, so none is answered.
        let mut scanner = self.worker.scanner.borrow_mut();
        let origin =
            EventOrigin { server: &server.name, tasks: tasks.as_ref(), requests: ServerRequests::Forward };
        match id_prefix::rewrite_event(event, origin, &mut None, &mut scanner) {
            ForwardedEvent::Untouched(bytes) | ForwardedEvent::Rewritten(bytes) => Some(bytes),
            ForwardedEvent::ListChanged(bytes) => {
                // The client is about to fetch the list, so mark the cached one stale first.
                self.worker.shared.catalog.mark_stale(UpstreamId(*upstream));
                Some(bytes)
            }
            ForwardedEvent::Dropped | ForwardedEvent::Refused(_) => None,
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

    fn owner(&self) -> Option<&Identity> {
        Some(&self.identity)
    }
}

const _: () = assert!(size_of::<SessionStream>() <= 192);

/// Items handled per poll. Most are events, which end the poll earlier.
const TURNS_AT_ONCE: usize = 64;

/// Events read from one server before the next is polled. Each switch polls all silent servers.
const EVENTS_IN_A_ROW: u8 = 16;

/// The server streams that are merged into one client stream.
#[derive(Default)]
struct UpstreamReads {
    /// One entry for each server whose stream was opened.
    all: Vec<UpstreamRead>,
    turns: RoundRobin,
}

/// The stream of one upstream session. A stream that ended by itself is not opened again.
struct UpstreamRead {
    upstream: u32,
    ready: Arc<UpstreamSession>,
    /// `None` once the stream has ended.
    feed: Option<UpstreamStream>,
}

impl UpstreamReads {
    /// The next event of any stream, and the index of the stream. The events of one server keep their order.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Result<Event, UpstreamStreamEnd>)> {
        let Self { all, turns } = self;
        turns.poll(all.len(), |at| poll_until_end(&mut all[at].feed, |feed| feed.poll_next(cx)))
    }
}

/// Polls a stream, and drops it at its end.
fn poll_until_end<F, T, E>(
    feed: &mut Option<F>,
    poll: impl FnOnce(&mut F) -> Poll<Result<T, E>>,
) -> Poll<Result<T, E>> {
    let polled = feed.as_mut().map_or(Poll::Pending, poll);
    feed.take_if(|_| matches!(polled, Poll::Ready(Err(_))));
    polled
}

/// Polls streams in turn, so that a busy server does not starve the others.
#[derive(Default)]
struct RoundRobin {
    /// Where the next poll begins, modulo the number of streams.
    turn: u32,
    /// Events taken in this turn.
    in_a_row: u8,
}

impl RoundRobin {
    /// The next item of any of `count` streams, and its index.
    fn poll<T>(&mut self, count: usize, mut poll: impl FnMut(usize) -> Poll<T>) -> Poll<(usize, T)> {
        if self.in_a_row >= EVENTS_IN_A_ROW {
            self.next_server();
        }
        for _ in 0..count {
            let at = self.turn as usize % count;
            if let Poll::Ready(taken) = poll(at) {
                self.in_a_row += 1;
                return Poll::Ready((at, taken));
            }
            self.next_server();
        }
        Poll::Pending
    }

    fn next_server(&mut self) {
        (self.turn, self.in_a_row) = (self.turn.wrapping_add(1), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks in which order servers with `left` events each are polled.
    #[track_caller]
    fn check(mut left: Vec<usize>, expected: &[usize]) {
        let (mut turns, mut seen_changes) = (RoundRobin::default(), Vec::new());
        let mut poll = |at: usize| {
            left[at] = left[at].checked_sub(1)?;
            Some(())
        };
        let count = 3;
        let mut next = || turns.poll(count, |at| poll(at).map_or(Poll::Pending, Poll::Ready));
        while let Poll::Ready((at, ())) = next() {
            seen_changes.push(at);
        }
        let shortened = seen_changes.chunk_by(|one, next| one == next).flat_map(|run| [run[0], run.len()]);
        assert_eq!(shortened.collect::<Vec<_>>(), expected);
    }

    /// Pairs of a server and how many of its events come in a row.
    #[test]
    fn servers_take_turns() {
        check(vec![0, 0, 0], &[]);
        check(vec![0, 3, 0], &[1, 3]);
        check(vec![40, 1, 0], &[0, 16, 1, 1, 0, 24]);
        check(vec![17, 20, 2], &[0, 16, 1, 16, 2, 2, 0, 1, 1, 4]);
    }

    /// Checks the order in which three servers' events and ends are returned. A feed is the number of events
    /// before the end, or `None` if it has ended; an end is returned as `None`.
    #[track_caller]
    fn check_ends(mut feeds: [Option<usize>; 3], expected: &[(usize, Option<()>)]) {
        let (mut turns, mut seen_changes) = (RoundRobin::default(), Vec::new());
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
            seen_changes.push((at, said.ok()));
            assert!(seen_changes.len() <= expected.len(), "{seen_changes:?}");
        }
        assert_eq!(seen_changes, expected);
        assert_eq!(feeds, [None; 3]);
    }

    #[test]
    fn the_end_of_a_feed_is_returned_once() {
        check_ends([None, None, None], &[]);
        check_ends([None, Some(0), None], &[(1, None)]);
        check_ends(
            [Some(1), None, Some(2)],
            &[(0, Some(())), (0, None), (2, Some(())), (2, Some(())), (2, None)],
        );
        check_ends([Some(0), Some(0), Some(0)], &[(0, None), (1, None), (2, None)]);
    }
}
