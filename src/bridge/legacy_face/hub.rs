//! One `subscriptions/listen` for all sessions that would ask the server for the same: of one key, from clients that said
//! the same of themselves, which want to be told of lists that changed and of nothing else. So clients by the thousands
//! take few connections to a server.
//!
//! Does not know: how a server is listened to (`listen`).

use std::cell::Cell;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::session::{Alike, Session};

/// What is listened to for several sessions.
#[derive(Default)]
pub struct Hubs {
    /// Guards who listens for whom; a few lines at a time, and a walk over the sessions of one of them.
    known: Mutex<HashMap<Alike, Vec<Arc<Session>>>>,
    /// Told when one may have left.
    moved: Notify,
}

/// Whoever listens for sessions that are alike, until it is dropped.
pub struct Hub {
    hubs: Arc<Hubs>,
    alike: Alike,
    /// Whether it was found to have nobody any more. Another may be in its place.
    is_over: Cell<bool>,
}

/// Between two looks for sessions whose clients have gone.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 16;

impl Hubs {
    /// Tells the session, from now on, what others like it are told; gives the hub of those when nobody listens yet: the
    /// caller is to.
    pub fn join(self: &Arc<Self>, session: &Arc<Session>) -> Option<Hub> {
        let alike = session.alike();
        let mut known = self.lock();
        if let Some(members) = known.get_mut(&alike) {
            members.push(Arc::clone(session));
            return None;
        }
        known.insert(alike.clone(), vec![Arc::clone(session)]);
        Some(Hub { hubs: Arc::clone(self), alike, is_over: Cell::new(false) })
    }

    /// One may have left: its session ended, or it listens for itself now.
    pub fn look(&self) {
        self.moved.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Alike, Vec<Arc<Session>>>> {
        // Every change is one operation on a collection, so a poisoned lock guards whole ones.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// Passes an event on to all of them. One that does not read has enough to read: of lists that changed it is told.
    pub fn tell(&self, event: &Bytes) {
        self.retain(|session| session.tell_still(event));
    }

    /// Completes when there is none left. Cancel safe.
    pub async fn left(&self) {
        loop {
            let mut moved = pin!(self.hubs.moved.notified());
            // Told from here on.
            moved.as_mut().enable();
            if !self.retain(|_| ()) {
                return;
            }
            // Of clients that have gone nobody tells.
            let _ = timeout(TIDY_EVERY, moved).await;
        }
    }

    /// Keeps those that have a stream, after this was done with them; whether there are any. When there are not, whoever
    /// comes next listens anew.
    fn retain(&self, each: impl Fn(&Session)) -> bool {
        if self.is_over.get() {
            return false;
        }
        let mut known = self.hubs.lock();
        let Some(members) = known.get_mut(&self.alike) else { return false };
        members.retain(|session| {
            each(session);
            !session.leave_hub()
        });
        if members.capacity() > ROOM_MIN && members.len() < members.capacity() / 4 {
            members.shrink_to_fit();
        }
        if members.is_empty() {
            known.remove(&self.alike);
            self.is_over.set(true);
        }
        !self.is_over.get()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if self.is_over.get() {
            return;
        }
        let members = self.hubs.lock().remove(&self.alike).unwrap_or_default();
        // Their streams end, upon which they come again.
        for session in members {
            drop(session.take_still());
            session.leave_hub();
        }
    }
}
