//! One `subscriptions/listen` request for all sessions that would send the same: sessions of one key whose
//! clients declared the same and that subscribed to no resources. Thousands of clients need few connections
//! to a server this way.
//!
//! Does not know: how a server is listened to (`listen`).

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::departures::DepartureCounter;
use super::session::{Session, SubscriptionKey};

/// The shared subscriptions of all servers.
#[derive(Default)]
pub struct SharedSubscriptions {
    /// Guards the subscribers, and what sessions record of their membership: locked before a session, never
    /// after. Held for a few lines, and for a walk over the sessions of one subscription.
    by_key: Mutex<HashMap<SubscriptionKey, Subscribers>>,
}

/// Held by the task that listens for the subscribers of one key.
pub struct SharedSubscription {
    subscriptions: Arc<SharedSubscriptions>,
    key: SubscriptionKey,
    departures: Arc<DepartureCounter>,
    /// Whether the last subscriber has left. There may be another subscription with the same key then.
    is_over: Cell<bool>,
}

#[derive(Default)]
struct Subscribers {
    sessions: Vec<Arc<Session>>,
    departures: Arc<DepartureCounter>,
}

/// Between two walks in search of sessions whose clients have gone.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// A smaller capacity is not worth shrinking.
const SHRINK_CAPACITY_MIN: usize = 16;

impl SharedSubscriptions {
    /// Adds a session that has a parked stream to the subscription of its key. Returns the subscription if it
    /// is new: the caller then listens for it.
    pub fn join(self: &Arc<Self>, session: &Arc<Session>) -> Option<SharedSubscription> {
        let key = session.subscription_key();
        let mut by_key = self.lock();
        if let Some(subscribers) = by_key.get_mut(&key) {
            if session.join_shared(&subscribers.departures) {
                subscribers.sessions.push(Arc::clone(session));
            }
            return None;
        }
        let departures = Arc::default();
        if !session.join_shared(&departures) {
            return None;
        }
        let sessions = vec![Arc::clone(session)];
        by_key.insert(key.clone(), Subscribers { sessions, departures: Arc::clone(&departures) });
        Some(SharedSubscription {
            subscriptions: Arc::clone(self),
            key,
            departures,
            is_over: Cell::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SubscriptionKey, Subscribers>> {
        // A poisoned lock is sound: every change is one operation on a collection.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedSubscription {
    /// Passes an event on to all subscribers. A client that does not read misses it: it has list changes
    /// waiting already.
    pub fn broadcast(&self, event: &Bytes) {
        self.retain_sessions(|session| session.notify_parked(event));
    }

    /// Completes when the last subscriber has left. Cancel safe.
    pub async fn emptied(&self) {
        while self.retain_sessions(|_| ()) {
            // A client that goes away is not counted as a departure, so the walk also runs on a timer.
            let _ = timeout(SWEEP_INTERVAL, self.half_departed()).await;
        }
    }

    /// Completes when half of the subscribers have recorded their departure. A walk over all subscribers thus
    /// visits at most two for each departure, however many leave at once.
    async fn half_departed(&self) {
        loop {
            self.departures.recorded().await;
            if self.is_over.get() {
                return;
            }
            let count = self.departures.count();
            let by_key = self.subscriptions.lock();
            let subscribers = by_key.get(&self.key);
            if subscribers.is_none_or(|subscribers| count.saturating_mul(2) >= subscribers.sessions.len()) {
                return;
            }
        }
    }

    /// Calls `visit` with each subscriber and removes those without a stream. Returns false when none is
    /// left: the next session with this key starts another subscription.
    fn retain_sessions(&self, visit: impl Fn(&Session)) -> bool {
        if self.is_over.get() {
            return false;
        }
        let mut by_key = self.subscriptions.lock();
        let Some(Subscribers { sessions, .. }) = by_key.get_mut(&self.key) else { return false };
        // The walk below sees every departure that was counted so far.
        self.departures.reset();
        sessions.retain(|session| {
            visit(session);
            session.refresh_shared_membership()
        });
        if sessions.capacity() > SHRINK_CAPACITY_MIN && sessions.len() < sessions.capacity() / 4 {
            sessions.shrink_to_fit();
        }
        if sessions.is_empty() {
            by_key.remove(&self.key);
            self.is_over.set(true);
            self.departures.wake();
        }
        !self.is_over.get()
    }
}

impl Drop for SharedSubscription {
    /// Ends the streams of all subscribers; their clients open new ones.
    fn drop(&mut self) {
        if self.is_over.get() {
            return;
        }
        // Everything happens under the lock that sessions join under. A session that opens another stream
        // meanwhile joins before this, which changes nothing, or after this, when it is in no subscription
        // and joins the next one. Each session loses its stream and its membership in one step: between the
        // two it could open another stream, look like a member still, and then receive nothing.
        let mut by_key = self.subscriptions.lock();
        let subscribers = by_key.remove(&self.key).unwrap_or_default();
        let streams: Vec<_> =
            subscribers.sessions.iter().filter_map(|session| session.evict_from_shared()).collect();
        drop(by_key);
        drop(streams);
    }
}

#[cfg(test)]
mod tests;
