//! All sessions that the adapter holds for servers without sessions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use http::HeaderValue;
use metamcp_core::base::RecentInterner;

use super::session::{ClientIntroduction, Session};

/// The sessions by their ids. The ids are plain numbers, because no client sees them. Looked up once for each
/// message of a session.
pub struct SessionTable {
    /// Starts at a random number: after a server changed its era, requests arrive with ids that the server or
    /// another gateway issued.
    next: AtomicU64,
    shards: Box<[Mutex<Shard>]>,
    /// Guards the introductions that sessions share; a scan of a few.
    introductions: Mutex<RecentInterner<ClientIntroduction>>,
}

type Shard = HashMap<u64, Arc<Session>, RandomState>;

/// Enough that two cores seldom lock the same shard.
const SHARDS: usize = 64;

/// Sessions in one shard: 65,536 in all. One more evicts the session unused for longest; its client's next
/// message finds the session lost, and the client opens another.
const SHARD_MAX: usize = 1024;

/// Bounds of a new table's first id: 15 digits, which take 16 bytes in each session.
const FIRST_MIN: u64 = 100_000_000_000_000;
const FIRST_MAX: u64 = 900_000_000_000_000;

/// A smaller capacity is not worth shrinking.
const SHRINK_CAPACITY_MIN: usize = 16;

impl SessionTable {
    /// Creates an empty table.
    pub fn new() -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system has random bytes");
        let first = FIRST_MIN + u64::from_le_bytes(random) % (FIRST_MAX - FIRST_MIN);
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { next: AtomicU64::new(first), shards, introductions: Mutex::default() }
    }

    /// Inserts a session and returns its new id.
    pub fn insert(&self, session: Arc<Session>) -> HeaderValue {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(id);
        let evicted = if shard.len() < SHARD_MAX { None } else { remove_longest_unused(&mut shard) };
        shard.insert(id, session);
        drop(shard);
        if let Some(evicted) = evicted {
            evicted.end();
        }
        // From a string: a value made from the number itself would keep spare capacity in each session.
        HeaderValue::from_str(&id.to_string()).expect("digits")
    }

    /// Returns the session with that id.
    pub fn find(&self, id: &HeaderValue) -> Option<Arc<Session>> {
        let id = parse(id)?;
        self.shard(id).get(&id).cloned()
    }

    /// Removes and returns the session with that id.
    pub fn remove(&self, id: &HeaderValue) -> Option<Arc<Session>> {
        let id = parse(id)?;
        let mut shard = self.shard(id);
        let removed = shard.remove(&id);
        if shard.capacity() > SHRINK_CAPACITY_MIN && shard.len() < shard.capacity() / 4 {
            shard.shrink_to_fit();
        }
        removed
    }

    /// Returns an equal introduction that other sessions have already, if there is one.
    pub fn share_introduction(&self, introduction: ClientIntroduction) -> Arc<ClientIntroduction> {
        self.introductions.lock().unwrap_or_else(PoisonError::into_inner).intern(Arc::new(introduction))
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[usize::from(id.to_le_bytes()[0]) % SHARDS];
        // A poisoned lock is sound: every change under it is one operation on a map.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_longest_unused(shard: &mut Shard) -> Option<Arc<Session>> {
    let longest = shard.iter().min_by_key(|(_, session)| session.eviction_rank()).map(|(id, _)| *id)?;
    shard.remove(&longest)
}

/// Parses an id; only in the canonical form.
fn parse(text: &HeaderValue) -> Option<u64> {
    let text = text.to_str().ok()?;
    let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_canonical)
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::session;
    use super::*;

    #[test]
    fn sessions_are_found_by_their_own_ids_only() {
        let table = SessionTable::new();
        let (one, other) = (session("{}"), session("{}"));
        let id = table.insert(Arc::clone(&one));
        let other_id = table.insert(other);
        assert_ne!(id, other_id);
        assert!(table.find(&id).is_some_and(|found| Arc::ptr_eq(&found, &one)));
        assert_eq!(id.len(), 15, "{id:?}");
        let again = SessionTable::new().insert(Arc::clone(&one));
        assert!(table.find(&again).is_none(), "{again:?} is of another table, {id:?} of this one");
        let padded = format!("0{}", id.to_str().unwrap());
        for foreign in ["", "0", "1", "x", "+1", "1 ", "-1", &padded, &"9".repeat(20), &u64::MAX.to_string()]
        {
            assert!(table.find(&HeaderValue::from_str(foreign).unwrap()).is_none(), "{foreign}");
        }
        assert!(table.remove(&id).is_some());
        assert!(table.find(&id).is_none() && table.remove(&id).is_none());
        assert!(table.find(&other_id).is_some());
    }

    #[test]
    fn the_longest_unused_is_evicted() {
        let mut shard = Shard::default();
        let sessions: Vec<_> = (0..3).map(|_| session("{}")).collect();
        for (id, session) in (0..).zip(&sessions) {
            shard.insert(id, Arc::clone(session));
        }
        sessions[0].touch();
        let _listens = sessions[1].register_listener();
        let taken = remove_longest_unused(&mut shard).unwrap();
        assert!(Arc::ptr_eq(&taken, &sessions[2]));
        let taken = remove_longest_unused(&mut shard).unwrap();
        assert!(Arc::ptr_eq(&taken, &sessions[0]), "a session with a listener is evicted last");
    }
}
