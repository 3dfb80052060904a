//! All sessions of this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::Config;
use super::id::{SessionClaims, SessionKey};
use super::state::{DetachedUpstreamSession, Session};
use super::upstream_session::{ClientHandshake, InitializeParams};
use crate::auth::{Identity, Sealer};
use crate::route::{Endpoint, RouteTable};
use metamcp_core::base::RecentInterner;

/// The soft states by their key. A worker keeps what it uses at hand, so this is asked when a session is
/// new to a worker, not on every request.
pub struct Sessions {
    config: Config,
    sealer: Arc<Sealer>,
    shards: Box<[Mutex<Shard>]>,
    count: AtomicUsize,
    /// Guards how clients introduced themselves; a walk over a few.
    said: Mutex<RecentInterner<InitializeParams>>,
    /// Guards what is to be told its end; pushed to and taken as a whole.
    detached_upstream_sessions: Mutex<Vec<DetachedUpstreamSession>>,
}

#[derive(Default)]
struct Shard {
    live: HashMap<SessionKey, Arc<Session>, RandomState>,
    /// Ended by the client before their time, with the second until which the id would else be good.
    ended: HashMap<SessionKey, u64, RandomState>,
    /// Which were ended of those that are good until this second, or for less long, is not known any more.
    forgotten_s: u64,
}

/// Enough that two cores seldom meet in one; each costs an empty map.
const SHARDS: usize = 64;

/// Ended ids remembered per shard: 64 maps of 4,096 places, which are full then, of 25 bytes each are 6 MiB.
/// Beyond it the older half is forgotten, and ids as old as that are good only while there is state behind
/// them: a client that was silent for long opens another session.
const ENDED_MAX: usize = 3584;

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 16;

/// There is no room for another session.
#[derive(Debug)]
pub struct Full;

/// Why a session is not to be had.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The id is malformed, foreign, ended or expired; which of these is nobody's business.
    Unknown,
    /// The id is good, and there is no room for its state.
    Full,
}

impl Shard {
    /// Remembers that an id was ended that would be good until then.
    fn end(&mut self, key: SessionKey, until_s: u64) {
        if self.ended.len() == ENDED_MAX {
            self.forget_older_half();
        }
        self.ended.insert(key, until_s);
    }

    fn forget_older_half(&mut self) {
        let mut ends: Vec<u64> = self.ended.values().copied().collect();
        let half = ends.len() / 2;
        let (_, middle, _) = ends.select_nth_unstable(half);
        self.forgotten_s = *middle;
        self.ended.retain(|_, until_s| *until_s > *middle);
    }
}

impl Sessions {
    /// An empty table.
    pub fn new(config: Config, sealer: Arc<Sealer>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let (count, said, detached_upstream_sessions) =
            (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self { config, sealer, shards, count, said, detached_upstream_sessions }
    }

    /// Its bounds.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// What a client says of itself by these `params` of `initialize`, if others said the same lately. Bytes are compared, so
    /// that most are not read at all.
    pub fn said(&self, params: &[u8]) -> Option<Arc<InitializeParams>> {
        lock(&self.said).find(|said| *said.params == *params)
    }

    /// A new session and the id to give to the client.
    pub fn create(
        &self,
        identity: &Identity,
        endpoint: &Arc<Endpoint>,
        introduction: ClientHandshake,
        now_s: u64,
    ) -> Result<(String, Arc<Session>), Full> {
        if self.count() >= self.config.sessions_max {
            return Err(Full);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Full)?;
        let seal = SessionClaims {
            key_id: identity.key_id(),
            revision: introduction.said.revision,
            capabilities: introduction.said.capabilities,
            created_s: now_s,
            key: SessionKey(random),
            scope: endpoint.scope.clone(),
        };
        let text = seal.to_text(&self.sealer);
        let session = self.made(seal, endpoint, introduction, now_s);
        self.insert(Arc::clone(&session));
        Ok((text, session))
    }

    /// The session of that id, its state rebuilt when this process has none, and renewed when the endpoint is
    /// newer than it. Of two versions of the endpoint the session may be over the newer one: go by the
    /// session's.
    pub fn find(
        &self,
        text: &[u8],
        identity: &Identity,
        endpoint: &Arc<Endpoint>,
        now_s: u64,
    ) -> Result<Arc<Session>, SessionError> {
        let mut seal = SessionClaims::from_text(text, &self.sealer).ok_or(SessionError::Unknown)?;
        let expires_s = seal.created_s.saturating_add(self.config.lifetime.as_secs());
        if seal.key_id != identity.key_id() || seal.scope != endpoint.scope || now_s >= expires_s {
            return Err(SessionError::Unknown);
        }
        let mut shard = self.shard(seal.key);
        if shard.ended.contains_key(&seal.key) {
            return Err(SessionError::Unknown);
        }
        if let Some(session) = shard.live.get_mut(&seal.key) {
            self.renew(session, endpoint);
            return Ok(Arc::clone(session));
        }
        if expires_s <= shard.forgotten_s {
            return Err(SessionError::Unknown);
        }
        drop(shard);
        if self.count() >= self.config.sessions_max {
            return Err(SessionError::Full);
        }
        // The same text, kept once.
        seal.scope = Arc::clone(&endpoint.scope);
        let ours = ClientHandshake::ours(seal.revision, seal.capabilities);
        let introduction = ClientHandshake { owner: Some(seal.key_id), ..ours };
        Ok(self.insert(self.made(seal, endpoint, introduction, now_s)))
    }

    /// The session as it is now, over an endpoint of its scope; `None` when it is over.
    pub fn renewed(&self, session: &Session, endpoint: &Arc<Endpoint>) -> Option<Arc<Session>> {
        let mut shard = self.shard(session.seal.key);
        let live = shard.live.get_mut(&session.seal.key)?;
        self.renew(live, endpoint);
        Some(Arc::clone(live))
    }

    /// Every session over its endpoint as that table has it. Of an endpoint that is gone the state is
    /// dropped; the ids stay good, should it come back before ids of their age are forgotten.
    pub fn follow(&self, table: &RouteTable) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.live.len();
            shard.live.retain(|_, session| {
                if let Some(endpoint) = table.find_by_scope(&session.endpoint.scope) {
                    self.renew(session, endpoint);
                    return true;
                }
                session.end();
                lock(&self.detached_upstream_sessions).extend(session.detached_upstream_sessions());
                false
            });
            self.count.fetch_sub(before - shard.live.len(), Ordering::Relaxed);
        }
    }

    /// What sessions had open at servers that are behind them no more, since this was last asked.
    pub fn take_detached(&self) -> Vec<DetachedUpstreamSession> {
        std::mem::take(&mut *lock(&self.detached_upstream_sessions))
    }

    fn renew(&self, session: &mut Arc<Session>, endpoint: &Arc<Endpoint>) {
        if session.endpoint.id < endpoint.id {
            let (newer, left) = session.over(Arc::clone(endpoint));
            *session = Arc::new(newer);
            lock(&self.detached_upstream_sessions).extend(left);
            session.notify_stream();
        }
    }

    /// Ends a session: its id is unknown from now on.
    pub fn end(&self, session: &Session) {
        let until_s = session.seal.created_s.saturating_add(self.config.lifetime.as_secs());
        let mut shard = self.shard(session.seal.key);
        shard.end(session.seal.key, until_s);
        if shard.live.remove(&session.seal.key).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        drop(shard);
        session.end();
    }

    /// Drops the state of sessions that expired or were long unused, and gives them for a farewell to their
    /// upstreams. The latter's ids stay good, until ids of their age are forgotten.
    pub fn sweep(&self, now_s: u64) -> Vec<Arc<Session>> {
        let mut dropped = Vec::new();
        let (lifetime, idle) = (self.config.lifetime.as_secs(), self.config.idle_timeout.as_secs());
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.ended.retain(|_, until_s| *until_s > now_s);
            let before = shard.live.len();
            shard.live.retain(|_, session| {
                let expired = session.seal.created_s.saturating_add(lifetime) <= now_s;
                let unused = session.last_used_s().saturating_add(idle) <= now_s;
                // One reference is the table's own; an open event stream or a worker at work holds more.
                let forget = expired || (unused && Arc::strong_count(session) == 1 && session.is_idle());
                if forget {
                    session.end();
                    dropped.push(Arc::clone(session));
                }
                !forget
            });
            self.count.fetch_sub(before - shard.live.len(), Ordering::Relaxed);
            give_room_back(&mut shard.live);
            give_room_back(&mut shard.ended);
        }
        dropped
    }

    /// All that are held here, in no order. Looks at every one of them: not for the request path.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::with_capacity(self.count());
        for shard in &self.shards {
            all.extend(lock(shard).live.values().map(Arc::clone));
        }
        all
    }

    fn made(
        &self,
        seal: SessionClaims,
        endpoint: &Arc<Endpoint>,
        introduction: ClientHandshake,
        now_s: u64,
    ) -> Arc<Session> {
        let said = lock(&self.said).intern(introduction.said);
        let introduction = ClientHandshake { said, ..introduction };
        Arc::new(Session::new(seal, Arc::clone(endpoint), introduction, now_s))
    }

    fn insert(&self, session: Arc<Session>) -> Arc<Session> {
        let mut shard = self.shard(session.seal.key);
        let entry = shard.live.entry(session.seal.key);
        if let std::collections::hash_map::Entry::Vacant(_) = entry {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Arc::clone(entry.or_insert(session))
    }

    fn shard(&self, key: SessionKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(key.0[0]) % SHARDS])
    }
}

/// Of a table that was much bigger.
fn give_room_back<T>(map: &mut HashMap<SessionKey, T, RandomState>) {
    if map.capacity() > ROOM_MIN && map.len() < map.capacity() / 4 {
        map.shrink_to_fit();
    }
}

/// Every change under a lock is one operation on a collection, so a poisoned one guards a whole collection.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;
    use crate::auth::EncryptionKey;
    use crate::route::{EndpointId, EndpointShape};
    use crate::telemetry::metrics::LabelId;
    use metamcp_core::protocol::{ClientCapabilities, Revision};

    const HOUR_S: u64 = 3600;

    /// Sessions, who asks, and what for.
    fn sessions() -> (Sessions, Identity, Arc<Endpoint>) {
        let key = EncryptionKey { version: 1, key: Zeroizing::new([7; 32]) };
        let config = Config {
            lifetime: Duration::from_secs(24 * HOUR_S),
            idle_timeout: Duration::from_secs(HOUR_S),
            sessions_max: 1000,
            streams: None,
        };
        let endpoint = Endpoint {
            id: EndpointId(0),
            scope: "s/a".into(),
            shape: EndpointShape::Single,
            servers: Vec::new(),
            label: LabelId::OTHER,
        };
        let sealer = Arc::new(Sealer::new(&[key]).unwrap());
        (Sessions::new(config, sealer), Identity::sample("AAAAAAAAAAAA"), Arc::new(endpoint))
    }

    #[test]
    fn what_was_ended_stays_so_however_many_were() {
        let (sessions, identity, endpoint) = sessions();
        let ours = || ClientHandshake::ours(Revision::LEGACY_LATEST, ClientCapabilities::default());
        let create = |now_s| sessions.create(&identity, &endpoint, ours(), now_s).ok().unwrap();
        let find = |id: &str, now_s| sessions.find(id.as_bytes(), &identity, &endpoint, now_s).is_ok();
        let kept: Vec<_> = (0..100).map(|_| create(0)).collect();
        let dropped: Vec<_> = (0..100).map(|_| create(0).0).collect();
        for (_, session) in &kept {
            session.touch(2 * HOUR_S);
        }
        sessions.sweep(HOUR_S);
        assert_eq!(sessions.count(), kept.len());
        let ended: Vec<_> = (0..100).map(|_| create(HOUR_S)).collect();
        for (_, session) in &ended {
            sessions.end(session);
        }
        assert!(dropped.iter().all(|id| find(id, HOUR_S)), "as long as all that were ended are known");
        sessions.sweep(2 * HOUR_S);
        let others = |at: usize| (0..ENDED_MAX as u64 * 3 / 2).map(move |number| (at, number));
        for (at, number) in (0..SHARDS).flat_map(others) {
            let key = SessionKey((u128::from(number) << 8 | at as u128).to_le_bytes());
            lock(&sessions.shards[at]).end(key, 25 * HOUR_S + number / 1000);
        }
        let now_s = 2 * HOUR_S;
        assert!(ended.iter().all(|(id, _)| !find(id, now_s)), "none of them is good");
        assert!(kept.iter().all(|(id, _)| find(id, now_s)), "those with a state are");
        assert!(dropped.iter().all(|id| !find(id, now_s)), "the others are as old as what is forgotten");
        let remembered: usize = sessions.shards.iter().map(|shard| lock(shard).ended.len()).sum();
        assert!(remembered <= SHARDS * ENDED_MAX);
        let id = create(now_s).0;
        sessions.sweep(now_s + HOUR_S);
        assert!(find(&id, now_s + HOUR_S), "a newer one is built anew");
    }
}
