//! One `subscriptions/listen` for all sessions that would ask the server for the same: of one key, from clients that said
//! the same of themselves, which want to be told of lists that changed and of nothing else. So clients by the thousands
//! take few connections to a server.
//!
//! Does not know: how a server is listened to (`listen`).

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::session::{Alike, Session};

/// What is listened to for several sessions.
#[derive(Default)]
pub struct Hubs {
    /// Guards who listens for whom, with what of that the sessions note themselves: locked before a session, never after.
    /// A few lines at a time, and a walk over the sessions of one of them.
    known: Mutex<HashMap<Alike, Members>>,
}

/// Whoever listens for sessions that are alike, until it is dropped.
pub struct Hub {
    hubs: Arc<Hubs>,
    alike: Alike,
    leavers: Arc<Leavers>,
    /// Whether it was found to have nobody any more. Another may be in its place.
    is_over: Cell<bool>,
}

#[derive(Default)]
struct Members {
    sessions: Vec<Arc<Session>>,
    leavers: Arc<Leavers>,
}

/// What a session that leaves tells its hub.
#[derive(Default)]
pub struct Leavers {
    /// How many have since the last walk over the sessions; those that are there again among them.
    count: AtomicUsize,
    told: Notify,
}

/// Between two walks for sessions whose clients have gone.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 16;

impl Hubs {
    /// Tells the session, from now on, what others like it are told, when it has a stream for that; gives the hub of those
    /// when nobody listens yet: the caller is to.
    pub fn join(self: &Arc<Self>, session: &Arc<Session>) -> Option<Hub> {
        let alike = session.alike();
        let mut known = self.lock();
        if let Some(members) = known.get_mut(&alike) {
            if session.enter_hub(&members.leavers) {
                members.sessions.push(Arc::clone(session));
            }
            return None;
        }
        let leavers = Arc::default();
        if !session.enter_hub(&leavers) {
            return None;
        }
        let sessions = vec![Arc::clone(session)];
        known.insert(alike.clone(), Members { sessions, leavers: Arc::clone(&leavers) });
        Some(Hub { hubs: Arc::clone(self), alike, leavers, is_over: Cell::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Alike, Members>> {
        // Every change is one operation on a collection, so a poisoned lock guards whole ones.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leavers {
    /// One leaves.
    pub fn note(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.told.notify_one();
    }
}

impl Hub {
    /// Passes an event on to all of them. One that does not read has enough to read: of lists that changed it is told.
    pub fn tell(&self, event: &Bytes) {
        self.retain(|session| session.tell_still(event));
    }

    /// Completes when there is none left. Cancel safe.
    pub async fn left(&self) {
        while self.retain(|_| ()) {
            // Of clients that have gone nobody tells.
            let _ = timeout(TIDY_EVERY, self.half_left()).await;
        }
    }

    /// Completes when half of them have left, as far as they said: a walk over all looks at no more than two for each that
    /// left, however many leave at once.
    async fn half_left(&self) {
        loop {
            self.leavers.told.notified().await;
            if self.is_over.get() {
                return;
            }
            let count = self.leavers.count.load(Ordering::Relaxed);
            let known = self.hubs.lock();
            if known.get(&self.alike).is_none_or(|members| count.saturating_mul(2) >= members.sessions.len())
            {
                return;
            }
        }
    }

    /// Keeps those that have a stream, after this was done with them; whether there are any. When there are not, whoever
    /// comes next listens anew.
    fn retain(&self, each: impl Fn(&Session)) -> bool {
        if self.is_over.get() {
            return false;
        }
        let mut known = self.hubs.lock();
        let Some(Members { sessions, .. }) = known.get_mut(&self.alike) else { return false };
        // Whoever was counted so far is seen below.
        self.leavers.count.store(0, Ordering::Relaxed);
        sessions.retain(|session| {
            each(session);
            session.stays_in_hub()
        });
        if sessions.capacity() > ROOM_MIN && sessions.len() < sessions.capacity() / 4 {
            sessions.shrink_to_fit();
        }
        if sessions.is_empty() {
            known.remove(&self.alike);
            self.is_over.set(true);
            self.leavers.told.notify_one();
        }
        !self.is_over.get()
    }
}

impl Drop for Hub {
    /// The streams of its sessions end, upon which their clients come again.
    fn drop(&mut self) {
        if self.is_over.get() {
            return;
        }
        // All of it under the lock that sessions join under, so that a session that comes again meanwhile joins before it,
        // which changes nothing, or after it, when it is in no hub and joins the next. And each session at once: between
        // its stream and its place here, it could open another stream, be taken for one that has its place still, and
        // then be told by nobody.
        let mut known = self.hubs.lock();
        let members = known.remove(&self.alike).unwrap_or_default();
        let streams: Vec<_> = members.sessions.iter().filter_map(|session| session.quit_hub()).collect();
        drop(known);
        drop(streams);
    }
}

#[cfg(test)]
mod tests;
