//! All sessions at Legacy servers that are held for Modern clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metamcp_core::frame::Envelope;
use tokio::sync::Semaphore;

use super::session::{AdapterSession, AdapterSessionKey, ClientSlot};
use super::unsolicited::WAITING_TOTAL_MAX;
use arc_swap::ArcSwap;
use metamcp_config::sections::BridgeConfig;

/// The sessions by their keys. It runs no tasks: the caller that adds a session runs it.
pub struct SessionTable {
    /// An unsolicited request waits for a call that allows input for as long as a call is held.
    config: Arc<ArcSwap<BridgeConfig>>,
    /// Permits for unsolicited requests, over all sessions.
    unsolicited: Arc<Semaphore>,
    /// Guards the table; a few lines at a time, and a walk over all of it only when there is no room or
    /// another exclusive session is opened.
    live: Mutex<LiveSessions>,
}

type LiveSessions = HashMap<AdapterSessionKey, Arc<AdapterSession>>;

/// Exclusive sessions of one key at one server. Each may be a process of its own, and a server has at most 64
/// of those by default. A key may hold 64 calls, and these are already more than a person answers at once.
const EXCLUSIVE_MAX: u8 = 15;

/// An exclusive session that is idle for so long is ended, if not sooner: a burst of calls finds it again,
/// and no process stays for a call that may never come.
const EXCLUSIVE_IDLE_TIMEOUT: Duration = Duration::from_mins(1);

impl SessionTable {
    /// Creates an empty table.
    pub fn new(config: Arc<ArcSwap<BridgeConfig>>) -> Self {
        Self { config, unsolicited: Arc::new(Semaphore::new(WAITING_TOTAL_MAX)), live: Mutex::default() }
    }

    /// Returns how long a session may be idle.
    pub fn idle_timeout_of(&self, key: &AdapterSessionKey) -> Duration {
        let idle_timeout = self.config.load().session_idle_timeout;
        if key.is_exclusive() { idle_timeout.min(EXCLUSIVE_IDLE_TIMEOUT) } else { idle_timeout }
    }

    /// Returns the session with that key, and whether it is new. A full table ends the session that was idle
    /// for longest; `None` if all are in use.
    pub fn find(&self, key: AdapterSessionKey) -> Option<(Arc<AdapterSession>, bool)> {
        self.find_in(&mut self.lock(), key)
    }

    /// Begins a call in the session with that key. Finds or creates the session as [`Self::find`] does.
    pub fn begin_call(&self, key: AdapterSessionKey, allows_input: bool) -> Option<(ClientSlot, bool)> {
        // Locked until the call has its slot: otherwise the session could be ended for another before.
        self.begin_call_in(&mut self.lock(), key, allows_input)
    }

    /// Begins a call in the first session without another call. If all sessions that there may be are in use,
    /// the call shares the last.
    pub fn begin_exclusive_call(
        &self,
        key: AdapterSessionKey,
        allows_input: bool,
    ) -> Option<(ClientSlot, bool)> {
        let live = &mut *self.lock();
        let keys = || (0..=EXCLUSIVE_MAX).map(|index| AdapterSessionKey { index, ..key });
        if let Some(slot) = keys().find_map(|key| live.get(&key)?.begin_exclusive_call(allows_input)) {
            return Some((slot, false));
        }
        let is_exclusive = |other: &&AdapterSessionKey| {
            (other.owner, other.upstream) == (key.owner, key.upstream) && other.is_exclusive()
        };
        let vacant = keys().find(|key| !live.contains_key(key)).filter(|key| {
            !key.is_exclusive() || live.keys().filter(is_exclusive).count() < usize::from(EXCLUSIVE_MAX)
        });
        if let Some(begun) = vacant.and_then(|key| self.begin_call_in(live, key, allows_input)) {
            return Some(begun);
        }
        let last = keys().rev().find_map(|key| live.get(&key)?.begin_call(allows_input));
        last.map(|slot| (slot, false)).or_else(|| self.begin_call_in(live, key, allows_input))
    }

    /// Queues an unsolicited request for the next call that allows input. Returns false if the request must
    /// be refused.
    pub fn queue_unsolicited(&self, session: &AdapterSession, message: &Bytes, envelope: &Envelope) -> bool {
        let permit = Arc::clone(&self.unsolicited).try_acquire_owned();
        let hold_timeout = self.config.load().hold_timeout;
        permit.is_ok_and(|permit| session.queue_unsolicited(message, envelope, hold_timeout, permit))
    }

    /// Removes a session that is over. Another with its key may be in the table already.
    pub fn remove(&self, session: &Arc<AdapterSession>) {
        let mut live = self.lock();
        if live.get(&session.key).is_some_and(|other| Arc::ptr_eq(other, session)) {
            live.remove(&session.key);
        }
    }

    fn find_in(
        &self,
        live: &mut LiveSessions,
        key: AdapterSessionKey,
    ) -> Option<(Arc<AdapterSession>, bool)> {
        if let Some(session) = live.get(&key).filter(|session| session.touch()) {
            return Some((Arc::clone(session), false));
        }
        make_room(live, self.config.load().sessions_per_key_max, |other| other.owner == key.owner)?;
        make_room(live, self.config.load().sessions_max, |_| true)?;
        let session = AdapterSession::new(key);
        live.insert(key, Arc::clone(&session));
        Some((session, true))
    }

    fn begin_call_in(
        &self,
        live: &mut LiveSessions,
        key: AdapterSessionKey,
        allows_input: bool,
    ) -> Option<(ClientSlot, bool)> {
        let (session, is_new) = self.find_in(live, key)?;
        Some((session.begin_call(allows_input)?, is_new))
    }

    fn lock(&self) -> MutexGuard<'_, LiveSessions> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the session that was idle for longest, of those that count, if there are as many as allowed. `None`
/// if there is none to end.
fn make_room(live: &mut LiveSessions, max: usize, counts: impl Fn(&AdapterSessionKey) -> bool) -> Option<()> {
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
    use crate::upstream::UpstreamId;
    use metamcp_core::base::KeyId;
    use metamcp_core::protocol::ClientCapabilities;

    fn key(letter: &str, upstream: u32) -> AdapterSessionKey {
        AdapterSessionKey {
            owner: KeyId::parse(&letter.repeat(12)),
            upstream: UpstreamId(upstream),
            capabilities: ClientCapabilities::default(),
            index: 0,
        }
    }

    #[tokio::test]
    async fn the_session_idle_for_longest_is_ended() {
        pause();
        let mut live = HashMap::new();
        for upstream in 0..3 {
            live.insert(key("A", upstream), AdapterSession::new(key("A", upstream)));
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
        let call = older.as_ref().and_then(|session| session.begin_call(true));
        drop(check(2, "A", Some(()), &[1]));
        drop(check(1, "A", None, &[1]));
        drop(call);
        drop(check(1, "A", Some(()), &[]));
        assert!(older.is_some_and(|older| older.begin_call(true).is_none()), "the session is over");
    }

    fn sessions(per_key_max: usize) -> SessionTable {
        SessionTable::new(Arc::new(ArcSwap::from_pointee(BridgeConfig {
            hold_timeout: Duration::from_secs(1),
            holds_max: 1,
            holds_per_key_max: 1,
            sessions_max: 100,
            sessions_per_key_max: per_key_max,
            session_idle_timeout: Duration::from_mins(5),
            discover: true,
        })))
    }

    #[tokio::test]
    async fn exclusive_calls_have_sessions_of_their_own() {
        pause();
        let sessions = sessions(20);
        let begin = |letter: &str| {
            let begun = sessions.begin_exclusive_call(key(letter, 0), true);
            begun.map(|(slot, _)| slot).expect("a session is shared at least")
        };
        let check = |slot: &ClientSlot, index: u8, is_only_call: bool| {
            assert_eq!(slot.session.key.index, index);
            assert_eq!(slot.session.is_only_call(slot.number), is_only_call);
        };
        // Calls in sequence use the same session.
        for _ in 0..3 {
            check(&begin("A"), 0, true);
        }
        let mut slots: Vec<_> = (0..=EXCLUSIVE_MAX).map(|_| begin("A")).collect();
        for (index, slot) in (0..).zip(&slots) {
            check(slot, index, true);
        }
        check(&begin("B"), 0, true);
        // Beyond the bound the last session is shared, and the others stay exclusive.
        let beyond = begin("A");
        check(&beyond, EXCLUSIVE_MAX, false);
        check(&slots[0], 0, true);
        drop(slots.remove(3));
        check(&begin("A"), 3, true);
        // After a cancellation the server may still mean the cancelled call.
        slots[1].session.note_cancelled_call();
        drop(slots.remove(1));
        check(&begin("A"), 3, true);
        advance(Duration::from_secs(11)).await;
        check(&begin("A"), 1, true);
        // The bound is per key and server, whatever the clients declare.
        let other = AdapterSessionKey { capabilities: ClientCapabilities::ROOTS, ..key("A", 0) };
        let others: Vec<_> = (0..2).filter_map(|_| sessions.begin_exclusive_call(other, true)).collect();
        let others: Vec<_> = others.iter().map(|(slot, is_new)| (slot.session.key.index, *is_new)).collect();
        assert_eq!(others, [(0, true), (0, false)]);
    }

    #[tokio::test]
    async fn sessions_are_shared_when_the_table_is_full() {
        let sessions = sessions(2);
        let indices: Vec<_> =
            (0..4).filter_map(|_| sessions.begin_exclusive_call(key("A", 0), true)).collect();
        let indices: Vec<_> =
            indices.iter().map(|(slot, is_new)| (slot.session.key.index, *is_new)).collect();
        assert_eq!(indices, [(0, true), (1, true), (1, false), (1, false)]);
        for (index, expected) in [(0, 300), (1, 60)] {
            let key = AdapterSessionKey { index, ..key("A", 0) };
            assert_eq!(sessions.idle_timeout_of(&key), Duration::from_secs(expected));
        }
    }
}
