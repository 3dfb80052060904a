//! All sessions at Legacy servers that are kept for Modern clients.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_local;

use super::Config;
use super::keeper::keep;
use super::session::{FaceSession, Key};
use crate::backend::Pool;

/// The sessions by whose they are.
pub struct Sessions {
    max: usize,
    per_key_max: usize,
    /// One of no use for so long ends.
    pub idle_timeout: Duration,
    /// Guards the table; a few lines at a time, and all of it only when there is no room.
    live: Mutex<HashMap<Key, Arc<FaceSession>>>,
}

impl Sessions {
    /// None yet.
    pub fn new(config: &Config) -> Self {
        Self {
            max: config.sessions_max,
            per_key_max: config.sessions_per_key_max,
            idle_timeout: config.session_idle_timeout,
            live: Mutex::default(),
        }
    }

    /// The session of that key, new where there is none: then a task on this thread keeps it. If there are as
    /// many as may be, the one that was idle for longest has to go; `None` when all are in use.
    pub fn find(self: &Arc<Self>, key: Key, pool: &Rc<Pool>) -> Option<Arc<FaceSession>> {
        let session = {
            let mut live = self.lock();
            if let Some(session) = live.get(&key).filter(|session| session.touch()) {
                return Some(Arc::clone(session));
            }
            make_room(&mut live, self.per_key_max, |other| other.owner == key.owner)?;
            make_room(&mut live, self.max, |_| true)?;
            let session = FaceSession::new(key);
            live.insert(key, Arc::clone(&session));
            session
        };
        spawn_local(keep(Arc::clone(self), Arc::clone(&session), Rc::clone(pool)));
        Some(session)
    }

    /// It is over. Another of its key may have come since.
    pub fn remove(&self, session: &Arc<FaceSession>) {
        let mut live = self.lock();
        if live.get(&session.key).is_some_and(|known| Arc::ptr_eq(known, session)) {
            live.remove(&session.key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<FaceSession>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the one that was idle for longest of those that count, if there are as many as may be.
fn make_room(
    live: &mut HashMap<Key, Arc<FaceSession>>,
    max: usize,
    counts: impl Fn(&Key) -> bool,
) -> Option<()> {
    if live.keys().filter(|key| counts(key)).count() < max {
        return Some(());
    }
    let counted = live.iter().filter(|(key, _)| counts(key));
    let idle = counted.filter_map(|(key, session)| Some((session.idle_since()?, *key)));
    let (_, key) = idle.min_by_key(|(since, _)| *since)?;
    let session = live.get(&key).filter(|session| session.end_if_idle(Duration::ZERO))?;
    session.over.notify_one();
    live.remove(&key);
    Some(())
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;
    use crate::auth::KeyId;
    use crate::backend::BackendId;
    use crate::protocol::ClientCapabilities;

    fn key(letter: &str, backend: u32) -> Key {
        Key {
            owner: KeyId::parse(&letter.repeat(12)),
            backend: BackendId(backend),
            capabilities: ClientCapabilities::default(),
        }
    }

    #[tokio::test]
    async fn the_one_idle_for_longest_goes() {
        pause();
        let mut live = HashMap::new();
        for backend in 0..3 {
            live.insert(key("A", backend), FaceSession::new(key("A", backend)));
            advance(Duration::from_secs(1)).await;
        }
        let mut check = |max: usize, letter: &str, expected: Option<()>, left: &[u32]| {
            let owner = key(letter, 0).owner;
            assert_eq!(make_room(&mut live, max, |key| key.owner == owner), expected);
            let mut found: Vec<_> = live.keys().map(|key| key.backend.0).collect();
            found.sort_unstable();
            assert_eq!(found, left);
            live.get(&key("A", 1)).cloned()
        };
        drop(check(4, "A", Some(()), &[0, 1, 2]));
        drop(check(3, "B", Some(()), &[0, 1, 2]));
        let older = check(3, "A", Some(()), &[1, 2]);
        let call = older.as_ref().and_then(FaceSession::begin);
        drop(check(2, "A", Some(()), &[1]));
        drop(check(1, "A", None, &[1]));
        drop(call);
        drop(check(1, "A", Some(()), &[]));
        assert!(older.is_some_and(|older| older.begin().is_none()), "it is over");
    }
}
