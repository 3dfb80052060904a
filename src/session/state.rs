//! The in-memory state of one client's session.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::calls_in_flight::CallsInFlight;
use super::claims::{SessionClaims, SessionKey};
use super::client_handshake::ClientHandshake;
use super::client_settings::ClientSettings;
use super::stream::{EventId, ResumableStream};
use super::upstream_slot::UpstreamSessionSlot;
use crate::limits::Permit;
use crate::route::Endpoint;
use metamcp_core::base::KeyId;
use metamcp_core::protocol::{ClientCapabilities, LogLevel, Revision, is_same_id};

/// One client's session with one version of its endpoint. Shared by all workers, and rebuilt from its id when lost.
/// When the endpoint changes, a new version replaces it ([`Session::with_endpoint`]); in-flight calls keep this one.
pub struct Session {
    pub claims: SessionClaims,
    /// The endpoint as it was when this version was made.
    pub endpoint: Arc<Endpoint>,
    pub handshake: ClientHandshake,
    /// One slot for each server of the endpoint, in the same order.
    upstream_slots: Box<[Arc<UpstreamSessionSlot>]>,
    core: Arc<SessionCore>,
}

/// The state that all versions of a session share.
#[derive(Default)]
struct SessionCore {
    /// Guards the variable parts; held for a few lines at a time.
    state: Mutex<SessionState>,
    /// Incremented by each new event stream of the client, which ends the previous one.
    stream_generation: AtomicU32,
    /// Open event streams. More than one only while a new one takes over.
    streams: AtomicU32,
    /// Wakes the event stream when an upstream session opens, another stream takes over, the endpoint changes, or the
    /// session ends.
    changed: Mutex<ChangeSignal>,
    ended: AtomicBool,
    /// Whether the client ended the session, and its calls with it.
    calls_ended: AtomicBool,
    /// Seconds since the Unix epoch, at the resolution of the sweep. Sufficient until 2106.
    last_used_s: AtomicU32,
}

// With the counters of its `Arc`, this is the largest size in its size class. There may be thousands of sessions.
const _: () = assert!(size_of::<SessionCore>() <= 80);

/// Each part that an idle session lacks takes no more than a pointer.
#[derive(Default)]
struct SessionState {
    in_flight: CallsInFlight,
    resumable_streams: Option<Box<StreamRefs>>,
    rare: Option<Box<RareState>>,
}

/// The session's resumable streams, as long as they are retained.
#[derive(Default)]
struct StreamRefs(Vec<Weak<ResumableStream>>);

/// State that most sessions never have.
#[derive(Default)]
struct RareState {
    /// Earlier versions of the session that have calls in flight.
    former_versions: Vec<Weak<Session>>,
    settings: ClientSettings,
    /// The permit of the request that the session is for.
    _permit: Option<Permit>,
}

/// Notifies the session's event stream of changes. Only one waker is needed: during a takeover, the earlier stream is
/// woken by the change that ends it.
#[derive(Default)]
struct ChangeSignal {
    count: u64,
    waker: Option<Waker>,
}

/// Below this length, every insertion removes dropped streams. A session has a few streams.
const PRUNED_STREAMS_MAX: usize = 16;

impl Session {
    pub fn new(
        claims: SessionClaims,
        endpoint: Arc<Endpoint>,
        handshake: ClientHandshake,
        now_s: u64,
    ) -> Self {
        Self::with_state(claims, endpoint, handshake, now_s, SessionState::default())
    }

    fn with_state(
        claims: SessionClaims,
        endpoint: Arc<Endpoint>,
        handshake: ClientHandshake,
        now_s: u64,
        state: SessionState,
    ) -> Self {
        let upstream_slots = endpoint.servers.iter().map(|_| Arc::default()).collect();
        let (state, last_used_s) = (Mutex::new(state), AtomicU32::new(seconds(now_s)));
        let core = Arc::new(SessionCore { state, last_used_s, ..SessionCore::default() });
        Self { claims, endpoint, handshake, upstream_slots, core }
    }

    /// A session for one request of a client that opened none: without an id and capabilities, and not in the
    /// session table. It holds `permit`.
    pub fn for_one_request(
        key_id: KeyId,
        endpoint: Arc<Endpoint>,
        revision: Revision,
        now_s: u64,
        permit: Option<Permit>,
    ) -> Arc<Self> {
        let (capabilities, scope) = (ClientCapabilities::default(), Arc::clone(&endpoint.scope));
        let key = SessionKey::NONE;
        let claims = SessionClaims { key_id, revision, capabilities, created_s: now_s, key, scope };
        let gateway = ClientHandshake::gateway(revision, capabilities);
        let handshake = ClientHandshake { owner: Some(key_id), ..gateway };
        let rare = RareState { _permit: permit, ..RareState::default() };
        let state = SessionState { rare: Some(Box::new(rare)), ..SessionState::default() };
        Arc::new(Self::with_state(claims, endpoint, handshake, now_s, state))
    }

    /// Whether the client has an id of the session. The session of one request has none.
    pub fn has_id(&self) -> bool {
        self.claims.key != SessionKey::NONE
    }

    /// Returns the version of this session for a newer version of its endpoint, and the slots that the new version no
    /// longer has. Upstream sessions with unchanged servers stay open.
    pub fn with_endpoint(self: &Arc<Self>, endpoint: Arc<Endpoint>) -> (Self, Vec<DetachedUpstreamSession>) {
        // A reference besides the caller's may belong to a call.
        if Arc::strong_count(self) > 1 {
            let mut state = lock(&self.core.state);
            let former = &mut state.rare().former_versions;
            former.retain(|session| session.strong_count() > 0);
            former.push(Arc::downgrade(self));
        }
        let has_upstream = |upstream: u32| endpoint.servers.iter().any(|server| server.upstream == upstream);
        if let Some(rare) = &mut lock(&self.core.state).rare {
            rare.settings.retain_upstreams(has_upstream);
        }
        let mut detached = self.detached_upstream_sessions();
        detached.retain(|detached| !has_upstream(detached.upstream));
        let upstream_slots = endpoint
            .servers
            .iter()
            .map(|server| self.find_upstream_slot(server.upstream).map_or_else(Arc::default, Arc::clone))
            .collect();
        let (claims, handshake) = (self.claims.clone(), self.handshake.clone());
        (Self { claims, endpoint, handshake, upstream_slots, core: Arc::clone(&self.core) }, detached)
    }

    /// All upstream slots, to be terminated. Includes those without an open session, since one may be opening.
    pub fn detached_upstream_sessions(&self) -> Vec<DetachedUpstreamSession> {
        let pairs = self.endpoint.servers.iter().zip(&self.upstream_slots);
        pairs
            .map(|(server, slot)| DetachedUpstreamSession {
                upstream: server.upstream,
                slot: Arc::clone(slot),
            })
            .collect()
    }

    /// The slot of an upstream, if the endpoint has it.
    pub fn find_upstream_slot(&self, upstream: u32) -> Option<&Arc<UpstreamSessionSlot>> {
        self.upstream_slots.get(self.server_index(upstream)?)
    }

    /// The slot of the server at `server_index` in the endpoint.
    pub fn upstream_slot(&self, server_index: usize) -> &UpstreamSessionSlot {
        &self.upstream_slots[server_index]
    }

    /// All slots with their server's index in the endpoint.
    pub fn upstream_slots(&self) -> impl Iterator<Item = (usize, &UpstreamSessionSlot)> {
        self.upstream_slots.iter().map(AsRef::as_ref).enumerate()
    }

    fn server_index(&self, upstream: u32) -> Option<usize> {
        self.endpoint.servers.iter().position(|server| server.upstream == upstream)
    }

    /// Records a call as in flight until the guard is dropped. `None` if there are too many, or if a call with the same
    /// id is in flight.
    pub fn begin_call(self: &Arc<Self>, id: Bytes, server_index: usize) -> Option<CallGuard> {
        let upstream = self.endpoint.servers[server_index].upstream;
        let is_added = lock(&self.core.state).in_flight.add(id.clone(), upstream);
        is_added.then(|| CallGuard { session: Arc::clone(self), id, waker: None })
    }

    /// Finds the server that has the call with this raw id. The returned version of the session is an earlier one if
    /// the endpoint no longer has that server.
    pub fn find_call(self: &Arc<Self>, id: &[u8]) -> Option<(Arc<Self>, usize)> {
        let upstream = lock(&self.core.state).in_flight.find_upstream(id)?;
        let all = std::iter::once(Arc::clone(self)).chain(self.former_versions());
        all.into_iter().find_map(|session| {
            let server_index = session.server_index(upstream)?;
            Some((session, server_index))
        })
    }

    /// The earlier versions of this session that have calls in flight.
    pub fn former_versions(&self) -> Vec<Arc<Self>> {
        let state = lock(&self.core.state);
        state.rare.iter().flat_map(|rare| &rare.former_versions).filter_map(Weak::upgrade).collect()
    }

    /// The log level that the client set last. Upstream sessions that open later get it too.
    pub fn log_level(&self) -> Option<LogLevel> {
        lock(&self.core.state).rare.as_ref()?.settings.log_level()
    }

    pub fn set_log_level(&self, level: LogLevel) {
        lock(&self.core.state).rare().settings.set_log_level(level);
    }

    /// Records that the client subscribed to a resource of the server at `server_index`.
    pub fn note_subscribed(&self, server_index: usize, uri: &str) {
        let upstream = self.endpoint.servers[server_index].upstream;
        lock(&self.core.state).rare().settings.subscribe(upstream, uri);
    }

    /// Records that the client wants to end a subscription.
    pub fn note_unsubscribed(&self, server_index: usize, uri: &str) {
        let upstream = self.endpoint.servers[server_index].upstream;
        if let Some(rare) = &mut lock(&self.core.state).rare {
            rare.settings.unsubscribe(upstream, uri);
        }
    }

    /// The URIs that the client has subscribed to at the server at `server_index`.
    pub fn subscriptions(&self, server_index: usize) -> Vec<Box<str>> {
        let upstream = self.endpoint.servers[server_index].upstream;
        let state = lock(&self.core.state);
        state.rare.as_ref().map_or_else(Vec::new, |rare| rare.settings.subscriptions(upstream))
    }

    /// Whether the client has subscribed to this resource of the server at `server_index`.
    pub fn is_subscribed(&self, server_index: usize, uri: &str) -> bool {
        let upstream = self.endpoint.servers[server_index].upstream;
        let state = lock(&self.core.state);
        state.rare.as_ref().is_some_and(|rare| rare.settings.is_subscribed(upstream, uri))
    }

    /// Makes a new event stream of the client the current one, which ends the previous one. Returns its generation.
    pub fn take_over_stream(&self) -> u32 {
        let generation = self.core.stream_generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        self.notify_stream();
        generation
    }

    /// Whether the client has an open event stream.
    pub fn has_stream(&self) -> bool {
        self.core.streams.load(Ordering::Acquire) > 0
    }

    /// Adds a resumable stream, which can be found as long as it is retained.
    pub fn add_resumable_stream(&self, stream: &Arc<ResumableStream>) {
        let mut state = lock(&self.core.state);
        let StreamRefs(streams) = &mut **state.resumable_streams.get_or_insert_default();
        // Dropped streams still take memory. A long list is pruned only when it is full, so that pruning is cheap.
        if streams.len() < PRUNED_STREAMS_MAX || streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        if streams.capacity() == 0 {
            // Most sessions have only their GET stream for long.
            streams.reserve_exact(1);
        }
        streams.push(Arc::downgrade(stream));
    }

    /// The stream that an event id belongs to, if it is retained.
    pub fn find_resumable_stream(&self, id: &EventId) -> Option<Arc<ResumableStream>> {
        self.find_stream(|stream| stream.matches(id))
    }

    /// Whether the client reads a resumable stream that is not the response to a call.
    pub fn has_reader(&self) -> bool {
        self.find_stream(|stream| stream.request_id().is_none() && stream.has_reader()).is_some()
    }

    /// Marks the call with this raw id as cancelled by the client.
    pub fn cancel_call(&self, id: &[u8]) {
        lock(&self.core.state).in_flight.cancel(id);
    }

    /// Ends the calls in flight, because the client ends the session. Returns those that it has not cancelled before: their
    /// raw ids, and the ids of their upstreams.
    pub fn end_calls(&self) -> Vec<(Bytes, u32)> {
        self.core.calls_ended.store(true, Ordering::Release);
        let ended = lock(&self.core.state).in_flight.take_ended();
        ended.wakers.into_iter().for_each(Waker::wake);
        ended.calls
    }

    /// Completes with the answer to the call with this raw id, or with `None` when the client ends the session before. The
    /// caller then drops `answering`. Cancel safe if `answering` is.
    pub async fn until_ended<T>(
        &self,
        id: &Bytes,
        mut answering: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut known = None;
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if self.poll_calls_ended(id, &mut known, cx.waker()) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// Whether the client ended the session. If not, `waker` is woken when it does, if the call is in flight. `known` is the
    /// waker that the call has.
    fn poll_calls_ended(&self, id: &Bytes, known: &mut Option<Waker>, waker: &Waker) -> bool {
        if !known.as_ref().is_some_and(|known| known.will_wake(waker))
            && lock(&self.core.state).in_flight.set_waker(id, waker)
        {
            *known = Some(waker.clone());
        }
        // After the waker is there, so that no end is missed.
        self.has_ended_calls()
    }

    /// Whether the client ended the session, and its calls in flight with it.
    pub fn has_ended_calls(&self) -> bool {
        self.core.calls_ended.load(Ordering::Acquire)
    }

    /// Marks the resumable stream of a cancelled call, whose response the client will not fetch.
    pub fn cancel_stream(&self, request_id: &[u8]) {
        let answers_call = |stream: &ResumableStream| {
            stream.request_id().is_some_and(|id| is_same_id(id, request_id)) && !stream.is_closed()
        };
        if let Some(stream) = self.find_stream(answers_call) {
            stream.cancel();
        }
    }

    fn find_stream(&self, is_wanted: impl Fn(&ResumableStream) -> bool) -> Option<Arc<ResumableStream>> {
        let state = lock(&self.core.state);
        let streams = state.resumable_streams.as_ref()?;
        let streams: Vec<_> = streams.0.iter().filter_map(Weak::upgrade).collect();
        // Each stream has its own lock, which is held for longer than this one.
        drop(state);
        streams.into_iter().find(|stream| is_wanted(stream))
    }

    /// Counts an open event stream until the guard is dropped.
    pub fn track_stream(&self) -> StreamGuard {
        self.core.streams.fetch_add(1, Ordering::AcqRel);
        StreamGuard(Arc::clone(&self.core))
    }

    /// Whether the event stream of this generation is still the current one.
    pub fn is_current_stream(&self, generation: u32) -> bool {
        self.core.stream_generation.load(Ordering::Acquire) == generation && !self.is_ended()
    }

    /// Whether the session changed since the change numbered `seen`, which is updated. If not, `waker` is woken by the
    /// next change.
    pub fn poll_changed(&self, seen: &mut u64, waker: &Waker) -> bool {
        let mut changed = lock(&self.core.changed);
        if std::mem::replace(seen, changed.count) != changed.count {
            return true;
        }
        if !changed.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            changed.waker = Some(waker.clone());
        }
        false
    }

    /// Notifies the event stream that the session changed.
    pub fn notify_stream(&self) {
        let mut changed = lock(&self.core.changed);
        changed.count += 1;
        let waker = changed.waker.take();
        drop(changed);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Records that the session was used.
    pub fn touch(&self, now_s: u64) {
        // An unconditional store would dirty the cache line on every request; most come within the same second.
        let now_s = seconds(now_s);
        if self.core.last_used_s.load(Ordering::Relaxed) != now_s {
            self.core.last_used_s.store(now_s, Ordering::Relaxed);
        }
    }

    pub fn last_used_s(&self) -> u64 {
        self.core.last_used_s.load(Ordering::Relaxed).into()
    }

    /// Ends the session: its event stream closes and its resumable streams are discarded.
    pub fn end(&self) {
        self.core.ended.store(true, Ordering::Release);
        self.notify_stream();
        let streams = lock(&self.core.state).resumable_streams.take();
        let streams = streams.iter().flat_map(|streams| &streams.0);
        streams.filter_map(Weak::upgrade).for_each(|stream| stream.discard());
    }

    pub fn is_ended(&self) -> bool {
        self.core.ended.load(Ordering::Acquire)
    }

    /// Whether no call is in flight.
    pub fn is_idle(&self) -> bool {
        lock(&self.core.state).in_flight.is_empty()
    }
}

impl SessionState {
    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }
}

/// The slot of an upstream that is no longer part of the session, whose upstream session is to be terminated.
pub struct DetachedUpstreamSession {
    /// The id of the upstream.
    pub upstream: u32,
    /// Also held by the calls that are in flight there.
    pub slot: Arc<UpstreamSessionSlot>,
}

impl DetachedUpstreamSession {
    /// Whether no call is in flight in it.
    pub fn is_idle(&self) -> bool {
        Arc::strong_count(&self.slot) == 1
    }
}

/// Counts an open event stream of a client until it is dropped.
pub struct StreamGuard(Arc<SessionCore>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Records a call as in flight until it is dropped.
pub struct CallGuard {
    session: Arc<Session>,
    id: Bytes,
    /// The waker that the record has.
    waker: Option<Waker>,
}

impl CallGuard {
    /// Whether the client cancelled the call. Such a call gets no response (MCP 2025-11-25, cancellation).
    pub fn is_cancelled(&self) -> bool {
        lock(&self.session.core.state).in_flight.is_cancelled(&self.id)
    }

    /// Whether the client ended the session of the call.
    pub fn is_session_ended(&self) -> bool {
        self.session.has_ended_calls()
    }

    /// As [`Self::is_session_ended`]. If not, `waker` is woken when the client ends the session.
    pub fn poll_session_ended(&mut self, waker: &Waker) -> bool {
        self.session.poll_calls_ended(&self.id, &mut self.waker, waker)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        lock(&self.session.core.state).in_flight.remove(&self.id);
    }
}

fn seconds(now_s: u64) -> u32 {
    u32::try_from(now_s).unwrap_or(u32::MAX)
}

/// A panic inside these short critical sections leaves the value intact, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
