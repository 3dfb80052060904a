//! All sessions at Legacy servers that are kept for Modern clients.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use super::Config;
use super::keeper::keep;
use super::outside::WAITING_IN_ALL_MAX;
use super::session::{FaceSession, Key, Seat};
use crate::frame::Envelope;
use crate::upstream::Pool;

/// The sessions by whose they are.
pub struct Sessions {
    max: usize,
    per_key_max: usize,
    idle_timeout: Duration,
    /// How long a server waits for a call that its question can be asked by.
    hold_timeout: Duration,
    /// Places for such questions, in all sessions.
    outside: Arc<Semaphore>,
    /// Guards the table; a few lines at a time, and all of it only when there is no room or a session more is
    /// opened.
    live: Mutex<Live>,
}

type Live = HashMap<Key, Arc<FaceSession>>;

/// Sessions of one key at one server beside the first of each kind, for calls that are to be alone while that
/// is in use. Each may be a process of its own, of which a server has 64 unless it says otherwise; and of the
/// 64 questions that may wait for one key, these are more than a person answers at once.
const FURTHER_MAX: u8 = 15;

/// One of those of no use for so long is over, if not sooner: bursts of calls find them again, and no process
/// is kept for a call that may never come.
const FURTHER_IDLE_TIMEOUT: Duration = Duration::from_mins(1);

impl Sessions {
    /// None yet.
    pub fn new(config: &Config) -> Self {
        Self {
            max: config.sessions_max,
            per_key_max: config.sessions_per_key_max,
            idle_timeout: config.session_idle_timeout,
            hold_timeout: config.hold_timeout,
            outside: Arc::new(Semaphore::new(WAITING_IN_ALL_MAX)),
            live: Mutex::default(),
        }
    }

    /// Of no use for so long, it ends.
    pub fn idle_timeout_of(&self, key: &Key) -> Duration {
        if key.is_further() { self.idle_timeout.min(FURTHER_IDLE_TIMEOUT) } else { self.idle_timeout }
    }

    /// The session of that key, new where there is none: then a task on this thread keeps it. If there are as
    /// many as may be, the one that was idle for longest has to go; `None` when all are in use.
    pub fn find(self: &Arc<Self>, key: Key, pool: &Rc<Pool>) -> Option<Arc<FaceSession>> {
        let (session, is_new) = self.find_in(&mut self.lock(), key)?;
        self.keep_if(is_new, &session, pool);
        Some(session)
    }

    /// A place for a call in the session of that key, likewise.
    pub fn seat(self: &Arc<Self>, key: Key, may_be_asked: bool, pool: &Rc<Pool>) -> Option<Seat> {
        // Locked until it has the place: else the session might be ended for another before.
        let (seat, is_new) = self.seat_in(&mut self.lock(), key, may_be_asked)?;
        self.keep_if(is_new, &seat.session, pool);
        Some(seat)
    }

    /// The same in a session that nothing else is under way in: the first such one. Where all that there may
    /// be are in use, it shares the last.
    pub fn seat_apart(self: &Arc<Self>, key: Key, may_be_asked: bool, pool: &Rc<Pool>) -> Option<Seat> {
        let (seat, is_new) = self.seat_apart_in(&mut self.lock(), key, may_be_asked)?;
        self.keep_if(is_new, &seat.session, pool);
        Some(seat)
    }

    /// Keeps what a server asks outside of any call for the next call that can be asked; false when it is to
    /// be refused.
    pub fn keep_outside(&self, session: &FaceSession, message: &Bytes, envelope: &Envelope) -> bool {
        let place = Arc::clone(&self.outside).try_acquire_owned();
        place.is_ok_and(|place| session.keep_outside(message, envelope, self.hold_timeout, place))
    }

    /// It is over. Another of its key may have come since.
    pub fn remove(&self, session: &Arc<FaceSession>) {
        let mut live = self.lock();
        if live.get(&session.key).is_some_and(|known| Arc::ptr_eq(known, session)) {
            live.remove(&session.key);
        }
    }

    fn keep_if(self: &Arc<Self>, is_new: bool, session: &Arc<FaceSession>, pool: &Rc<Pool>) {
        if is_new {
            spawn_local(keep(Arc::clone(self), Arc::clone(session), Rc::clone(pool)));
        }
    }

    fn find_in(&self, live: &mut Live, key: Key) -> Option<(Arc<FaceSession>, bool)> {
        if let Some(session) = live.get(&key).filter(|session| session.touch()) {
            return Some((Arc::clone(session), false));
        }
        make_room(live, self.per_key_max, |other| other.owner == key.owner)?;
        make_room(live, self.max, |_| true)?;
        let session = FaceSession::new(key);
        live.insert(key, Arc::clone(&session));
        Some((session, true))
    }

    fn seat_in(&self, live: &mut Live, key: Key, may_be_asked: bool) -> Option<(Seat, bool)> {
        let (session, is_new) = self.find_in(live, key)?;
        Some((session.begin(may_be_asked)?, is_new))
    }

    fn seat_apart_in(&self, live: &mut Live, key: Key, may_be_asked: bool) -> Option<(Seat, bool)> {
        let places = || (0..=FURTHER_MAX).map(|place| Key { place, ..key });
        if let Some(seat) = places().find_map(|key| live.get(&key)?.begin_alone(may_be_asked)) {
            return Some((seat, false));
        }
        let is_further =
            |other: &&Key| (other.owner, other.upstream) == (key.owner, key.upstream) && other.is_further();
        let vacant = places().find(|key| !live.contains_key(key)).filter(|key| {
            !key.is_further() || live.keys().filter(is_further).count() < usize::from(FURTHER_MAX)
        });
        if let Some(taken) = vacant.and_then(|key| self.seat_in(live, key, may_be_asked)) {
            return Some(taken);
        }
        let last = places().rev().find_map(|key| live.get(&key)?.begin(may_be_asked));
        last.map(|seat| (seat, false)).or_else(|| self.seat_in(live, key, may_be_asked))
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the one that was idle for longest of those that count, if there are as many as may be.
fn make_room(live: &mut Live, max: usize, counts: impl Fn(&Key) -> bool) -> Option<()> {
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
    use crate::protocol::ClientCapabilities;
    use crate::upstream::UpstreamId;

    fn key(letter: &str, upstream: u32) -> Key {
        Key {
            owner: KeyId::parse(&letter.repeat(12)),
            upstream: UpstreamId(upstream),
            capabilities: ClientCapabilities::default(),
            place: 0,
        }
    }

    #[tokio::test]
    async fn the_one_idle_for_longest_goes() {
        pause();
        let mut live = HashMap::new();
        for upstream in 0..3 {
            live.insert(key("A", upstream), FaceSession::new(key("A", upstream)));
            advance(Duration::from_secs(1)).await;
        }
        let mut check = |max: usize, letter: &str, expected: Option<()>, left: &[u32]| {
            let owner = key(letter, 0).owner;
            assert_eq!(make_room(&mut live, max, |key| key.owner == owner), expected);
            let mut found: Vec<_> = live.keys().map(|key| key.upstream.0).collect();
            found.sort_unstable();
            assert_eq!(found, left);
            live.get(&key("A", 1)).cloned()
        };
        drop(check(4, "A", Some(()), &[0, 1, 2]));
        drop(check(3, "B", Some(()), &[0, 1, 2]));
        let older = check(3, "A", Some(()), &[1, 2]);
        let call = older.as_ref().and_then(|session| session.begin(true));
        drop(check(2, "A", Some(()), &[1]));
        drop(check(1, "A", None, &[1]));
        drop(call);
        drop(check(1, "A", Some(()), &[]));
        assert!(older.is_some_and(|older| older.begin(true).is_none()), "it is over");
    }

    fn sessions(per_key_max: usize) -> Sessions {
        Sessions::new(&Config {
            hold_timeout: Duration::from_secs(1),
            holds_max: 1,
            holds_per_key_max: 1,
            sessions_max: 100,
            sessions_per_key_max: per_key_max,
            session_idle_timeout: Duration::from_mins(5),
            discover: true,
        })
    }

    #[tokio::test]
    async fn calls_that_are_to_be_alone_are() {
        pause();
        let sessions = sessions(20);
        let take = |letter: &str| {
            let taken = sessions.seat_apart_in(&mut sessions.lock(), key(letter, 0), true);
            taken.map(|(seat, _)| seat).expect("there is always one")
        };
        let check = |seat: &Seat, place: u8, is_alone: bool| {
            assert_eq!(seat.session.key.place, place);
            assert_eq!(seat.session.is_alone(seat.number), is_alone);
        };
        // One after the other they have the same.
        for _ in 0..3 {
            check(&take("A"), 0, true);
        }
        let mut seats: Vec<_> = (0..=FURTHER_MAX).map(|_| take("A")).collect();
        for (place, seat) in (0..).zip(&seats) {
            check(seat, place, true);
        }
        check(&take("B"), 0, true);
        // Beyond the bound the last is shared, and the others stay as they were.
        let beyond = take("A");
        check(&beyond, FURTHER_MAX, false);
        check(&seats[0], 0, true);
        drop(seats.remove(3));
        check(&take("A"), 3, true);
        // One that was given up may still be meant.
        seats[1].session.note_given_up();
        drop(seats.remove(1));
        check(&take("A"), 3, true);
        advance(Duration::from_secs(11)).await;
        check(&take("A"), 1, true);
        // The bound is of the key at the server, whatever its clients can do.
        let other = Key { capabilities: ClientCapabilities::ROOTS, ..key("A", 0) };
        let others: Vec<_> =
            (0..2).filter_map(|_| sessions.seat_apart_in(&mut sessions.lock(), other, true)).collect();
        let others: Vec<_> = others.iter().map(|(seat, is_new)| (seat.session.key.place, *is_new)).collect();
        assert_eq!(others, [(0, true), (0, false)]);
    }

    #[tokio::test]
    async fn without_room_for_more_sessions_they_are_shared() {
        let sessions = sessions(2);
        let places: Vec<_> =
            (0..4).filter_map(|_| sessions.seat_apart_in(&mut sessions.lock(), key("A", 0), true)).collect();
        let places: Vec<_> = places.iter().map(|(seat, is_new)| (seat.session.key.place, *is_new)).collect();
        assert_eq!(places, [(0, true), (1, true), (1, false), (1, false)]);
        for (place, expected) in [(0, 300), (1, 60)] {
            let key = Key { place, ..key("A", 0) };
            assert_eq!(sessions.idle_timeout_of(&key), Duration::from_secs(expected));
        }
    }
}
