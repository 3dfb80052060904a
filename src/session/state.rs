//! The soft state of one client's session.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use bytes::Bytes;

use super::id::SessionClaims;
use super::stream::{EventId, ResumableStream};
use super::upstream_session::{ClientHandshake, UpstreamSessionSlot};
use crate::route::Endpoint;

/// One client's session over one version of its endpoint: small, shared by all workers, rebuilt from its id
/// when lost. When the endpoint changes, another takes its place ([`Session::over`]); calls under way keep
/// this one.
pub struct Session {
    /// What its id says.
    pub seal: SessionClaims,
    /// The endpoint as it was when the session's state was made.
    pub endpoint: Arc<Endpoint>,
    /// How the client introduced itself; told to each upstream in turn.
    pub introduction: ClientHandshake,
    /// One per server of the endpoint, in its order.
    upstream_slots: Box<[Arc<UpstreamSessionSlot>]>,
    life: Arc<SessionCore>,
}

/// What stays the same over all versions of its endpoint.
#[derive(Default)]
struct SessionCore {
    /// Guards what changes; a few lines at a time.
    state: Mutex<SessionState>,
    /// Moves with each new event stream of the client, so that the one before ends.
    stream_generation: AtomicU32,
    /// Open ones; more than one only while a new one takes over.
    streams: AtomicU32,
    /// Guards who is told: an upstream_session opened, another stream took over, the endpoint changed, or the session
    /// ended.
    changed: Mutex<ChangeSignal>,
    ended: AtomicBool,
    /// Seconds since the Unix epoch, in steps of the sweep; good until 2106.
    last_used_s: AtomicU32,
}

// With the counters of its `Arc` the most that the allocator has one size for; there may be thousands.
const _: () = assert!(size_of::<SessionCore>() <= 80);

/// Nothing that an idle session has not got takes more of it than a pointer.
#[derive(Default)]
struct SessionState {
    /// The call that began last, of those under way.
    in_flight: Option<Box<InFlightCall>>,
    /// The event streams that can be taken up again.
    kept: Option<Box<StreamRefs>>,
    /// What most never have.
    rare: Option<Box<RareState>>,
}

/// A call under way, and those that began before it.
struct InFlightCall {
    /// Raw JSON.
    id: Bytes,
    /// The id of its server.
    upstream: u32,
    before: Option<Box<Self>>,
}

/// Event streams that can be taken up again, as long as they are kept.
#[derive(Default)]
struct StreamRefs(Vec<Weak<ResumableStream>>);

#[derive(Default)]
struct RareState {
    /// The session as it was over earlier versions of its endpoint, as long as calls are under way in it.
    former: Vec<Weak<Session>>,
    /// The log level.
    log_level: Option<Bytes>,
}

/// What the event stream is told. There is one, and for a moment the one that it took over from, which is told by that.
#[derive(Default)]
struct ChangeSignal {
    count: u64,
    waker: Option<Waker>,
}

/// So many streams are looked at with each new one: a session has a few.
const WALKED_MAX: usize = 16;

/// Calls of one session under way at once: an agent has a few dozen; a thousand is a runaway loop.
const IN_FLIGHT_MAX: usize = 1024;

impl Session {
    /// The state of a session that nothing has been asked of yet.
    pub fn new(
        seal: SessionClaims,
        endpoint: Arc<Endpoint>,
        introduction: ClientHandshake,
        now_s: u64,
    ) -> Self {
        let upstream_slots = endpoint.servers.iter().map(|_| Arc::default()).collect();
        let life =
            Arc::new(SessionCore { last_used_s: AtomicU32::new(seconds(now_s)), ..SessionCore::default() });
        Self { seal, endpoint, introduction, upstream_slots, life }
    }

    /// The same session over its endpoint as it is now: what is open at a server that did not change is open
    /// there. Also gives what has no place any more.
    pub fn over(self: &Arc<Self>, endpoint: Arc<Endpoint>) -> (Self, Vec<DetachedUpstreamSession>) {
        // Whoever has it beside the one who renews it may have it for a call.
        if Arc::strong_count(self) > 1 {
            let mut state = lock(&self.life.state);
            let former = &mut state.rare().former;
            former.retain(|session| session.strong_count() > 0);
            former.push(Arc::downgrade(self));
        }
        let here = |upstream: u32| endpoint.servers.iter().any(|place| place.upstream == upstream);
        let left =
            self.detached_upstream_sessions().into_iter().filter(|left| !here(left.upstream)).collect();
        let upstream_slots = endpoint
            .servers
            .iter()
            .map(|place| self.find_upstream_slot(place.upstream).map_or_else(Arc::default, Arc::clone))
            .collect();
        let (seal, introduction) = (self.seal.clone(), self.introduction.clone());
        (Self { seal, endpoint, introduction, upstream_slots, life: Arc::clone(&self.life) }, left)
    }

    /// All that it may have open at servers.
    pub fn detached_upstream_sessions(&self) -> Vec<DetachedUpstreamSession> {
        // Those too that are not open: one may be on its way to be.
        let pairs = self.endpoint.servers.iter().zip(&self.upstream_slots);
        pairs
            .map(|(place, upstream_session)| DetachedUpstreamSession {
                upstream: place.upstream,
                upstream_session: Arc::clone(upstream_session),
            })
            .collect()
    }

    /// The session towards the server of that id, when the endpoint has it.
    pub fn find_upstream_slot(&self, upstream: u32) -> Option<&Arc<UpstreamSessionSlot>> {
        let place = self.endpoint.servers.iter().position(|place| place.upstream == upstream)?;
        self.upstream_slots.get(place)
    }

    /// The session towards the endpoint's `place`-th server.
    pub fn upstream_session(&self, place: usize) -> &UpstreamSessionSlot {
        &self.upstream_slots[place]
    }

    /// All of them, in the endpoint's order.
    pub fn upstream_slots(&self) -> impl Iterator<Item = (usize, &UpstreamSessionSlot)> {
        self.upstream_slots.iter().map(AsRef::as_ref).enumerate()
    }

    /// Notes a call under way until the guard is dropped; `None` when there are too many, or one with that
    /// id already.
    pub fn begin_call(self: &Arc<Self>, id: Bytes, place: usize) -> Option<CallGuard> {
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
        state.in_flight =
            Some(Box::new(InFlightCall { id: id.clone(), upstream, before: state.in_flight.take() }));
        drop(state);
        Some(CallGuard { session: Arc::clone(self), id })
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
    pub fn set_log_level(&self, level: Bytes) {
        lock(&self.life.state).rare().log_level = Some(level);
    }

    /// A new event stream of the client takes over from the one before.
    pub fn take_over_stream(&self) -> u32 {
        let generation = self.life.stream_generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        self.notify_stream();
        generation
    }

    /// Whether the client has an event stream, as far as is known.
    pub fn has_stream(&self) -> bool {
        self.life.streams.load(Ordering::Acquire) > 0
    }

    /// Remembers a stream that can be taken up again, as long as it is kept.
    pub fn add_resumable_stream(&self, stream: &Arc<ResumableStream>) {
        let mut state = lock(&self.life.state);
        let StreamRefs(kept) = &mut **state.kept.get_or_insert_default();
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
    pub fn find_resumable_stream(&self, mark: &EventId) -> Option<Arc<ResumableStream>> {
        self.find_kept(|stream| stream.is(mark))
    }

    /// Whether a stream of its own that can be taken up again is read by somebody.
    pub fn has_reader(&self) -> bool {
        self.find_kept(|stream| stream.request().is_none() && stream.has_reader()).is_some()
    }

    /// The call with that raw id was cancelled: nobody comes back for its answer.
    pub fn cancel_stream(&self, request: &[u8]) {
        let of_call = |stream: &ResumableStream| {
            stream.request().is_some_and(|id| *id == *request) && !stream.is_over()
        };
        if let Some(stream) = self.find_kept(of_call) {
            stream.cancel();
        }
    }

    fn find_kept(&self, is_it: impl Fn(&ResumableStream) -> bool) -> Option<Arc<ResumableStream>> {
        let state = lock(&self.life.state);
        let kept: Vec<_> = state.kept.as_ref()?.0.iter().filter_map(Weak::upgrade).collect();
        // Each has a lock of its own, which is held for longer.
        drop(state);
        kept.into_iter().find(|stream| is_it(stream))
    }

    /// Counts an open event stream until the guard is dropped.
    pub fn track_stream(&self) -> StreamGuard {
        self.life.streams.fetch_add(1, Ordering::AcqRel);
        StreamGuard(Arc::clone(&self.life))
    }

    /// Whether that stream is still the one.
    pub fn is_current_stream(&self, generation: u32) -> bool {
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
    pub fn notify_stream(&self) {
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
        self.notify_stream();
        let kept = lock(&self.life.state).kept.take();
        kept.iter().flat_map(|kept| &kept.0).filter_map(Weak::upgrade).for_each(|stream| stream.lose());
    }

    /// Whether it was ended.
    pub fn is_ended(&self) -> bool {
        self.life.ended.load(Ordering::Acquire)
    }

    /// Whether its state may go: nothing under way.
    pub fn is_idle(&self) -> bool {
        lock(&self.life.state).in_flight.is_none()
    }
}

impl SessionState {
    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// The newest first.
    fn under_way(&self) -> impl Iterator<Item = &InFlightCall> {
        std::iter::successors(self.in_flight.as_deref(), |call| call.before.as_deref())
    }
}

/// What a session had open at a server that is behind its endpoint no more.
pub struct DetachedUpstreamSession {
    /// The server's id.
    pub upstream: u32,
    /// Held as well by calls that are under way there.
    pub upstream_session: Arc<UpstreamSessionSlot>,
}

impl DetachedUpstreamSession {
    /// Whether no call is under way in it.
    pub fn is_idle(&self) -> bool {
        Arc::strong_count(&self.upstream_session) == 1
    }
}

/// An open event stream of a client.
pub struct StreamGuard(Arc<SessionCore>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call under way; forgotten when dropped.
pub struct CallGuard {
    session: Arc<Session>,
    id: Bytes,
}

impl Drop for CallGuard {
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
