//! The soft state of one client's session.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use bytes::Bytes;

use super::id::Seal;
use super::stream::{Mark, Stream};
use super::upstream_session::{Introduction, UpstreamSession};
use crate::route::Endpoint;

/// One client's session over one version of its endpoint: small, shared by all workers, rebuilt from its id
/// when lost. When the endpoint changes, another takes its place ([`Session::over`]); calls under way keep
/// this one.
pub struct Session {
    /// What its id says.
    pub seal: Seal,
    /// The endpoint as it was when the session's state was made.
    pub endpoint: Arc<Endpoint>,
    /// How the client introduced itself; told to each upstream in turn.
    pub introduction: Introduction,
    /// One per server of the endpoint, in its order.
    upstream_sessions: Box<[Arc<UpstreamSession>]>,
    life: Arc<Life>,
}

/// What stays the same over all versions of its endpoint.
#[derive(Default)]
struct Life {
    /// Guards what changes; a few lines at a time.
    state: Mutex<State>,
    /// Moves with each new event stream of the client, so that the one before ends.
    stream_generation: AtomicU32,
    /// Open ones; more than one only while a new one takes over.
    streams: AtomicU32,
    /// Guards who is told: an upstream_session opened, another stream took over, the endpoint changed, or the session
    /// ended.
    changed: Mutex<Changed>,
    ended: AtomicBool,
    /// Seconds since the Unix epoch, in steps of the sweep; good until 2106.
    last_used_s: AtomicU32,
}

// With the counters of its `Arc` the most that the allocator has one size for; there may be thousands.
const _: () = assert!(size_of::<Life>() <= 80);

/// Nothing that an idle session has not got takes more of it than a pointer.
#[derive(Default)]
struct State {
    /// The call that began last, of those under way.
    in_flight: Option<Box<Call>>,
    /// The event streams that can be taken up again.
    kept: Option<Box<Kept>>,
    /// What most never have.
    rare: Option<Box<Rare>>,
}

/// A call under way, and those that began before it.
struct Call {
    /// Raw JSON.
    id: Bytes,
    /// The id of its server.
    upstream: u32,
    before: Option<Box<Self>>,
}

/// Event streams that can be taken up again, as long as they are kept.
#[derive(Default)]
struct Kept(Vec<Weak<Stream>>);

#[derive(Default)]
struct Rare {
    /// The session as it was over earlier versions of its endpoint, as long as calls are under way in it.
    former: Vec<Weak<Session>>,
    /// The log level.
    log_level: Option<Bytes>,
}

/// What the event stream is told. There is one, and for a moment the one that it took over from, which is told by that.
#[derive(Default)]
struct Changed {
    count: u64,
    waker: Option<Waker>,
}

/// So many streams are looked at with each new one: a session has a few.
const WALKED_MAX: usize = 16;

/// Calls of one session under way at once: an agent has a few dozen; a thousand is a runaway loop.
const IN_FLIGHT_MAX: usize = 1024;

impl Session {
    /// The state of a session that nothing has been asked of yet.
    pub fn new(seal: Seal, endpoint: Arc<Endpoint>, introduction: Introduction, now_s: u64) -> Self {
        let upstream_sessions = endpoint.servers.iter().map(|_| Arc::default()).collect();
        let life = Arc::new(Life { last_used_s: AtomicU32::new(seconds(now_s)), ..Life::default() });
        Self { seal, endpoint, introduction, upstream_sessions, life }
    }

    /// The same session over its endpoint as it is now: what is open at a server that did not change is open
    /// there. Also gives what has no place any more.
    pub fn over(self: &Arc<Self>, endpoint: Arc<Endpoint>) -> (Self, Vec<Leftover>) {
        // Whoever has it beside the one who renews it may have it for a call.
        if Arc::strong_count(self) > 1 {
            let mut state = lock(&self.life.state);
            let former = &mut state.rare().former;
            former.retain(|session| session.strong_count() > 0);
            former.push(Arc::downgrade(self));
        }
        let here = |upstream: u32| endpoint.servers.iter().any(|place| place.upstream == upstream);
        let left = self.leftovers().into_iter().filter(|left| !here(left.upstream)).collect();
        let upstream_sessions = endpoint
            .servers
            .iter()
            .map(|place| self.upstream_session_at(place.upstream).map_or_else(Arc::default, Arc::clone))
            .collect();
        let (seal, introduction) = (self.seal.clone(), self.introduction.clone());
        (Self { seal, endpoint, introduction, upstream_sessions, life: Arc::clone(&self.life) }, left)
    }

    /// All that it may have open at servers.
    pub fn leftovers(&self) -> Vec<Leftover> {
        // Those too that are not open: one may be on its way to be.
        let pairs = self.endpoint.servers.iter().zip(&self.upstream_sessions);
        pairs
            .map(|(place, upstream_session)| Leftover {
                upstream: place.upstream,
                upstream_session: Arc::clone(upstream_session),
            })
            .collect()
    }

    /// The session towards the server of that id, when the endpoint has it.
    pub fn upstream_session_at(&self, upstream: u32) -> Option<&Arc<UpstreamSession>> {
        let place = self.endpoint.servers.iter().position(|place| place.upstream == upstream)?;
        self.upstream_sessions.get(place)
    }

    /// The session towards the endpoint's `place`-th server.
    pub fn upstream_session(&self, place: usize) -> &UpstreamSession {
        &self.upstream_sessions[place]
    }

    /// All of them, in the endpoint's order.
    pub fn upstream_sessions(&self) -> impl Iterator<Item = (usize, &UpstreamSession)> {
        self.upstream_sessions.iter().map(AsRef::as_ref).enumerate()
    }

    /// Notes a call under way until the guard is dropped; `None` when there are too many, or one with that
    /// id already.
    pub fn begin_call(self: &Arc<Self>, id: Bytes, place: usize) -> Option<InFlight> {
        let mut state = lock(&self.life.state);
        let (mut count, mut is_doubled) = (0, false);
        for call in state.under_way() {
            count += 1;
            is_doubled |= call.id == id;
        }
        if count >= IN_FLIGHT_MAX || is_doubled {
            return None;
        }
        let upstream = self.endpoint.servers[place].upstream;
        state.in_flight = Some(Box::new(Call { id: id.clone(), upstream, before: state.in_flight.take() }));
        drop(state);
        Some(InFlight { session: Arc::clone(self), id })
    }

    /// Which server of the endpoint holds the call with that raw id; in the session as it was when the call
    /// began, if the server is behind it no more.
    pub fn holder(self: &Arc<Self>, id: &[u8]) -> Option<(Arc<Self>, usize)> {
        let upstream = lock(&self.life.state).under_way().find(|call| call.id == id)?.upstream;
        let all = std::iter::once(Arc::clone(self)).chain(self.former());
        all.into_iter().find_map(|session| {
            let place = session.endpoint.servers.iter().position(|place| place.upstream == upstream)?;
            Some((session, place))
        })
    }

    /// The session as it was over earlier versions of its endpoint, as far as calls are under way in it.
    pub fn former(&self) -> Vec<Arc<Self>> {
        let state = lock(&self.life.state);
        state.rare.iter().flat_map(|rare| &rare.former).filter_map(Weak::upgrade).collect()
    }

    /// The raw JSON of the level last set, for upstreams that are opened later.
    pub fn log_level(&self) -> Option<Bytes> {
        lock(&self.life.state).rare.as_ref()?.log_level.clone()
    }

    /// Remembers the level.
    pub fn remember_log_level(&self, level: Bytes) {
        lock(&self.life.state).rare().log_level = Some(level);
    }

    /// A new event stream of the client takes over from the one before.
    pub fn take_stream(&self) -> u32 {
        let generation = self.life.stream_generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        self.touch_stream();
        generation
    }

    /// Whether the client has an event stream, as far as is known.
    pub fn has_stream(&self) -> bool {
        self.life.streams.load(Ordering::Acquire) > 0
    }

    /// Remembers a stream that can be taken up again, as long as it is kept.
    pub fn keep_stream(&self, stream: &Arc<Stream>) {
        let mut state = lock(&self.life.state);
        let Kept(kept) = &mut **state.kept.get_or_insert_default();
        // Those that are gone still take memory. Of many only now and then, so that the walk over them does not matter.
        if kept.len() < WALKED_MAX || kept.len() == kept.capacity() {
            kept.retain(|stream| stream.strong_count() > 0);
        }
        if kept.capacity() == 0 {
            // Most have their GET stream, and nothing else for long.
            kept.reserve_exact(1);
        }
        kept.push(Arc::downgrade(stream));
    }

    /// The stream that an event id names, as long as it is kept.
    pub fn kept_stream(&self, mark: &Mark) -> Option<Arc<Stream>> {
        self.find_kept(|stream| stream.is(mark))
    }

    /// Whether a stream of its own that can be taken up again is read by somebody.
    pub fn is_followed(&self) -> bool {
        self.find_kept(|stream| stream.request().is_none() && stream.is_followed()).is_some()
    }

    /// The call with that raw id was cancelled: nobody comes back for its answer.
    pub fn cancel_stream(&self, request: &[u8]) {
        let of_call =
            |stream: &Stream| stream.request().is_some_and(|id| *id == *request) && !stream.is_over();
        if let Some(stream) = self.find_kept(of_call) {
            stream.cancel();
        }
    }

    fn find_kept(&self, is_it: impl Fn(&Stream) -> bool) -> Option<Arc<Stream>> {
        let state = lock(&self.life.state);
        let kept: Vec<_> = state.kept.as_ref()?.0.iter().filter_map(Weak::upgrade).collect();
        // Each has a lock of its own, which is held for longer.
        drop(state);
        kept.into_iter().find(|stream| is_it(stream))
    }

    /// Counts an open event stream until the guard is dropped.
    pub fn count_stream(&self) -> OpenStream {
        self.life.streams.fetch_add(1, Ordering::AcqRel);
        OpenStream(Arc::clone(&self.life))
    }

    /// Whether that stream is still the one.
    pub fn holds_stream(&self, generation: u32) -> bool {
        self.life.stream_generation.load(Ordering::Acquire) == generation && !self.is_ended()
    }

    /// Whether something changed since the one was `heard`; whoever asks is woken by the next change, if not.
    pub fn poll_changed(&self, heard: &mut u64, waker: &Waker) -> bool {
        let mut changed = lock(&self.life.changed);
        if std::mem::replace(heard, changed.count) != changed.count {
            return true;
        }
        if !changed.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            changed.waker = Some(waker.clone());
        }
        false
    }

    /// Says that something changed.
    pub fn touch_stream(&self) {
        let mut changed = lock(&self.life.changed);
        changed.count += 1;
        let waker = changed.waker.take();
        drop(changed);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Marks it used.
    pub fn touch(&self, now_s: u64) {
        // A plain store would dirty the cache line of every request; most come within the same second.
        let now_s = seconds(now_s);
        if self.life.last_used_s.load(Ordering::Relaxed) != now_s {
            self.life.last_used_s.store(now_s, Ordering::Relaxed);
        }
    }

    /// When it was last used.
    pub fn last_used_s(&self) -> u64 {
        self.life.last_used_s.load(Ordering::Relaxed).into()
    }

    /// Ends it: its event stream closes.
    pub fn end(&self) {
        self.life.ended.store(true, Ordering::Release);
        self.touch_stream();
        let kept = lock(&self.life.state).kept.take();
        kept.iter().flat_map(|kept| &kept.0).filter_map(Weak::upgrade).for_each(|stream| stream.lose());
    }

    /// Whether it was ended.
    pub fn is_ended(&self) -> bool {
        self.life.ended.load(Ordering::Acquire)
    }

    /// Whether its state may go: nothing under way.
    pub fn is_quiet(&self) -> bool {
        lock(&self.life.state).in_flight.is_none()
    }
}

impl State {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The newest first.
    fn under_way(&self) -> impl Iterator<Item = &Call> {
        std::iter::successors(self.in_flight.as_deref(), |call| call.before.as_deref())
    }
}

/// What a session had open at a server that is behind its endpoint no more.
pub struct Leftover {
    /// The server's id.
    pub upstream: u32,
    /// Held as well by calls that are under way there.
    pub upstream_session: Arc<UpstreamSession>,
}

impl Leftover {
    /// Whether no call is under way in it.
    pub fn is_quiet(&self) -> bool {
        Arc::strong_count(&self.upstream_session) == 1
    }
}

/// An open event stream of a client.
pub struct OpenStream(Arc<Life>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call under way; forgotten when dropped.
pub struct InFlight {
    session: Arc<Session>,
    id: Bytes,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.session.life.state);
        let mut at = &mut state.in_flight;
        while at.as_ref().is_some_and(|call| call.id != self.id) {
            let Some(call) = at else { return };
            at = &mut call.before;
        }
        if let Some(call) = at.take() {
            *at = call.before;
        }
    }
}

fn seconds(now_s: u64) -> u32 {
    u32::try_from(now_s).unwrap_or(u32::MAX)
}

/// A panic while these few lines held a lock leaves the value whole, so poisoning says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
