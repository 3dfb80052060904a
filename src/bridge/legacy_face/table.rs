//! All sessions with servers that have none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use http::HeaderValue;

use super::session::Session;

/// The sessions by their ids, which are numbers, for no client sees them. Asked once for each message of a bridged session.
pub struct Table {
    /// From a random one on: a server that changes its era is met with ids that others gave, it or another gateway.
    next: AtomicU64,
    shards: Box<[Mutex<Shard>]>,
}

type Shard = HashMap<u64, Arc<Session>, RandomState>;

/// Enough that two cores seldom meet in one.
const SHARDS: usize = 64;

/// Sessions in one of them: 65,536 in all. For one more the one unused for longest ends, upon which its
/// client's next message finds it lost, and opens it again.
const SHARD_MAX: usize = 1024;

/// Of a new table's first id: 15 digits, which take 16 bytes in each session.
const FIRST_MIN: u64 = 100_000_000_000_000;
const FIRST_MAX: u64 = 900_000_000_000_000;

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 16;

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system has random bytes");
        let first = FIRST_MIN + u64::from_le_bytes(random) % (FIRST_MAX - FIRST_MIN);
        Self { next: AtomicU64::new(first), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Puts a session in, under a new id.
    pub fn insert(&self, session: Arc<Session>) -> HeaderValue {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(id);
        let evicted = if shard.len() < SHARD_MAX { None } else { take_longest_unused(&mut shard) };
        shard.insert(id, session);
        drop(shard);
        if let Some(evicted) = evicted {
            evicted.end();
        }
        // Not made of the number, which would leave room behind it in each session.
        HeaderValue::from_str(&id.to_string()).expect("digits")
    }

    /// The session of that id.
    pub fn find(&self, id: &HeaderValue) -> Option<Arc<Session>> {
        let id = parse(id)?;
        self.shard(id).get(&id).cloned()
    }

    /// The same, which is in it no more.
    pub fn remove(&self, id: &HeaderValue) -> Option<Arc<Session>> {
        let id = parse(id)?;
        let mut shard = self.shard(id);
        let removed = shard.remove(&id);
        if shard.capacity() > ROOM_MIN && shard.len() < shard.capacity() / 4 {
            shard.shrink_to_fit();
        }
        removed
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[usize::from(id.to_le_bytes()[0]) % SHARDS];
        // Every change under a lock is one operation on a map, so a poisoned one guards a whole map.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_longest_unused(shard: &mut Shard) -> Option<Arc<Session>> {
    let longest = shard.iter().min_by_key(|(_, session)| session.rank()).map(|(id, _)| *id)?;
    shard.remove(&longest)
}

/// Only in the one form that ids are written in.
fn parse(text: &HeaderValue) -> Option<u64> {
    let text = text.to_str().ok()?;
    let is_usual = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_usual)
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::session;
    use super::*;

    #[test]
    fn sessions_are_found_by_their_own_ids_only() {
        let table = Table::new();
        let (one, other) = (session("{}"), session("{}"));
        let id = table.insert(Arc::clone(&one));
        let other_id = table.insert(other);
        assert_ne!(id, other_id);
        assert!(table.find(&id).is_some_and(|found| Arc::ptr_eq(&found, &one)));
        assert_eq!(id.len(), 15, "{id:?}");
        let again = Table::new().insert(Arc::clone(&one));
        assert!(table.find(&again).is_none(), "{again:?} of another table, beside {id:?}");
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
    fn the_longest_unused_makes_room() {
        let mut shard = Shard::default();
        let sessions: Vec<_> = (0..3).map(|_| session("{}")).collect();
        for (id, session) in (0..).zip(&sessions) {
            shard.insert(id, Arc::clone(session));
        }
        sessions[0].touch();
        let _listens = sessions[1].ear();
        let taken = take_longest_unused(&mut shard).unwrap();
        assert!(Arc::ptr_eq(&taken, &sessions[2]));
        let taken = take_longest_unused(&mut shard).unwrap();
        assert!(Arc::ptr_eq(&taken, &sessions[0]), "the one that listens goes last");
    }
}
