//! The session itself: what never changes, and what changes under one lock.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::departures::DepartureCounter;
use super::features::SessionFeatures;
use super::introduction::ClientIntroduction;
use crate::upstream::UpstreamId;
use metamcp_core::base::KeyId;
use metamcp_http::multiplex::EventSink;

/// A session. Small, and shared by all workers.
pub struct Session {
    pub upstream: UpstreamId,
    pub introduction: Arc<ClientIntroduction>,
    /// The key that the client authenticated with.
    pub owner: Option<KeyId>,
    pub features: SessionFeatures,
    /// Guards what changes; a few lines at a time.
    pub(super) state: Mutex<SessionState>,
    /// Notified when `watched` changes.
    pub(super) changed: Notify,
    next: AtomicU64,
}

pub(super) struct SessionState {
    used: Instant,
    /// Allocated only in the few sessions that need it.
    pub(super) optional: Option<Box<OptionalState>>,
    /// Calls in flight: the raw id, a number that identifies it, and the sender that cancels the call.
    pub(super) calls: Vec<(Bytes, u64, oneshot::Sender<()>)>,
    pub(super) watched: WatchedState,
    /// Tasks that listen to the server for the session.
    listeners: u32,
    /// The parked stream of the client and its number; see `streams`.
    pub(super) parked: Option<(u64, EventSink)>,
    /// The counter of the shared subscription that the session is a member of. Set and cleared only under the
    /// lock of the members of that subscription.
    pub(super) departures: Option<Arc<DepartureCounter>>,
    /// Whether a task that listens for this session alone has the client's current stream.
    pub(super) has_dedicated_stream: bool,
}

/// State that most sessions never have.
#[derive(Default)]
pub(super) struct OptionalState {
    /// The raw JSON of the level.
    log_level: Option<Bytes>,
    /// Input requests to the client, by their ids.
    pub(super) pending_inputs: Vec<(String, oneshot::Sender<Bytes>)>,
    pub(super) subscribed_uris: BTreeSet<String>,
}

// With the counters of its `Arc`, the largest size that still fits one size class of the allocator. There may
// be thousands of sessions.
const _: () = assert!(size_of::<Session>() <= 208);

/// Everything about a session that a server sees. Sessions with equal keys receive the same list changes and
/// can share a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubscriptionKey {
    upstream: UpstreamId,
    owner: Option<KeyId>,
    declared: Bytes,
    client_info: Option<Bytes>,
    log_level: Option<Bytes>,
    features: SessionFeatures,
}

/// The part of a session that its tasks wait on; see [`Session::until`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchedState {
    /// Incremented with each change of the subscribed resources.
    pub filter_version: u64,
    /// Incremented with each event stream of the client, so that the one before ends.
    pub stream: u64,
    /// The newest filter version that the server acknowledged or refused.
    pub settled_version: u64,
    pub is_ended: bool,
}

/// Marks that a task listens to the server for a session.
pub struct ListenerGuard(Arc<Session>);

impl Session {
    /// Creates a session without calls and streams.
    pub fn new(
        upstream: UpstreamId,
        introduction: Arc<ClientIntroduction>,
        owner: Option<KeyId>,
        features: SessionFeatures,
    ) -> Arc<Self> {
        Arc::new(Self {
            upstream,
            introduction,
            owner,
            features,
            state: Mutex::new(SessionState::new()),
            changed: Notify::new(),
            next: AtomicU64::new(1),
        })
    }

    /// Returns a number that is unique within the session.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records that the session was used now.
    pub fn touch(&self) {
        lock(&self.state).used = Instant::now();
    }

    /// Returns the eviction order: sessions without a reader first, then those unused for longest.
    pub fn eviction_rank(&self) -> (bool, Instant) {
        let state = lock(&self.state);
        let has_reader =
            state.listeners > 0 || state.parked.as_ref().is_some_and(|(_, sink)| !sink.is_closed());
        (has_reader, state.used)
    }

    /// Returns the raw minimum level of the log messages that the client wants.
    pub fn log_level(&self) -> Option<Bytes> {
        lock(&self.state).optional.as_ref()?.log_level.clone()
    }

    /// Sets the raw minimum level of the log messages that the client wants.
    pub fn set_log_level(&self, level: Bytes) {
        lock(&self.state).optional_mut().log_level = Some(level);
    }

    /// Returns the key by which sessions share a subscription.
    pub fn subscription_key(&self) -> SubscriptionKey {
        let ClientIntroduction { declared, client_info, .. } = &*self.introduction;
        SubscriptionKey {
            upstream: self.upstream,
            owner: self.owner,
            declared: declared.clone(),
            client_info: client_info.clone(),
            log_level: self.log_level(),
            features: self.features,
        }
    }

    /// Returns a session with the same subscription key that is in no table.
    pub fn detached_copy(&self) -> Arc<Self> {
        let copy = Self::new(self.upstream, Arc::clone(&self.introduction), self.owner, self.features);
        self.log_level().into_iter().for_each(|level| copy.set_log_level(level));
        copy
    }

    /// Registers a task that listens to the server for the session, until the guard is dropped.
    pub fn register_listener(self: &Arc<Self>) -> ListenerGuard {
        lock(&self.state).listeners += 1;
        ListenerGuard(Arc::clone(self))
    }

    pub(super) fn is_listening(&self) -> bool {
        lock(&self.state).listeners > 0
    }

    /// Waits until the watched state satisfies the condition. Cancel safe.
    pub async fn until(&self, condition: impl Fn(&WatchedState) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the check, so that no change between the two is missed.
            changed.as_mut().enable();
            if condition(&lock(&self.state).watched) {
                return;
            }
            changed.await;
        }
    }

    /// Whether the session has ended.
    pub fn is_ended(&self) -> bool {
        lock(&self.state).watched.is_ended
    }

    /// Ends the session and everything in flight in it.
    pub fn end(&self) {
        let mut state = lock(&self.state);
        state.watched.is_ended = true;
        // Dropping the senders notifies the receivers.
        let inputs = state.optional.as_mut().map(|optional| std::mem::take(&mut optional.pending_inputs));
        let in_flight = (std::mem::take(&mut state.calls), inputs, state.parked.take());
        state.record_departure();
        drop(state);
        drop(in_flight);
        self.changed.notify_waiters();
    }
}

impl SessionState {
    fn new() -> Self {
        Self {
            used: Instant::now(),
            optional: None,
            calls: Vec::new(),
            watched: WatchedState::default(),
            listeners: 0,
            parked: None,
            departures: None,
            has_dedicated_stream: false,
        }
    }

    pub(super) fn optional_mut(&mut self) -> &mut OptionalState {
        self.optional.get_or_insert_default()
    }

    /// Frees the optional state when nothing is left in it.
    pub(super) fn drop_empty_optional(&mut self) {
        self.optional.take_if(|optional| {
            optional.log_level.is_none()
                && optional.pending_inputs.is_empty()
                && optional.subscribed_uris.is_empty()
        });
    }

    /// Tells the shared subscription, if there is one, that it has nothing to write to in this session any
    /// more. Called under the same hold of the lock that took the stream: whoever resets the counter and
    /// locks afterwards sees the stream gone.
    pub(super) fn record_departure(&self) {
        self.departures.iter().for_each(|departures| departures.record());
    }
}

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        lock(&self.0.state).listeners -= 1;
    }
}

/// Locks a mutex. A poisoned one is sound: every change under it is one operation on a collection.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
