//! All client sessions of this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::claims::{SessionClaims, SessionKey};
use super::client_handshake::{ClientHandshake, InitializeParams};
use super::state::{DetachedUpstreamSession, Session};
use crate::route::{Endpoint, RouteTable};
use arc_swap::{ArcSwap, Guard};
use metamcp_config::sections::SessionConfig;
use metamcp_core::base::{KeyId, RecentInterner};
use metamcp_store::auth::{Identity, Sealer};

/// The in-memory state of all sessions. Workers cache the sessions they use, so the table is consulted when a session is
/// new to a worker, not on every request.
pub struct SessionTable {
    config: ArcSwap<SessionConfig>,
    sealer: Arc<Sealer>,
    shards: Box<[Mutex<Shard>]>,
    count: AtomicUsize,
    /// Recent `initialize` parameters, so that equal ones are stored once. Iterated over, but short.
    initialize_params: Mutex<RecentInterner<InitializeParams>>,
    /// Upstream sessions to terminate.
    detached: Mutex<Vec<DetachedUpstreamSession>>,
}

#[derive(Default)]
struct Shard {
    live: HashMap<SessionKey, Arc<Session>, RandomState>,
    /// Sessions that the client ended early, and the second at which their ids would have expired.
    ended: HashMap<SessionKey, u64, RandomState>,
    /// Of ids that expire by this second, it is no longer known which were ended.
    unknown_until_s: u64,
}

/// Enough that two cores rarely contend for one. Each costs an empty map.
const SHARDS: usize = 64;

/// Ended ids remembered per shard. 64 maps of 4,096 slots of 25 bytes, which are then full, take 6 MiB. Beyond that the
/// older half is dropped, and an id as old as those is valid only while its state is in memory: a client that was silent
/// for long then has to open another session.
const ENDED_MAX: usize = 3584;

/// Maps with less capacity are not shrunk.
const SHRINK_CAPACITY_MIN: usize = 16;

/// The limit on sessions is reached.
#[derive(Debug)]
pub struct TooManySessions;

/// Why a session was not found.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The id is malformed, foreign, ended or expired. The client is not told which.
    Unknown,
    /// The id is valid, but the limit on sessions is reached.
    Full,
}

impl Shard {
    /// Records that an id was ended before `until_s`, when it would have expired.
    fn end(&mut self, key: SessionKey, until_s: u64) {
        if self.ended.len() == ENDED_MAX {
            self.drop_older_half();
        }
        self.ended.insert(key, until_s);
    }

    fn drop_older_half(&mut self) {
        let mut ends: Vec<u64> = self.ended.values().copied().collect();
        let half = ends.len() / 2;
        let (_, median, _) = ends.select_nth_unstable(half);
        self.unknown_until_s = *median;
        self.ended.retain(|_, until_s| *until_s > *median);
    }
}

impl SessionTable {
    pub fn new(config: SessionConfig, sealer: Arc<Sealer>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let (initialize_params, detached) = (Mutex::default(), Mutex::default());
        let config = ArcSwap::from_pointee(config);
        Self { config, sealer, shards, count: AtomicUsize::new(0), initialize_params, detached }
    }

    pub fn config(&self) -> Guard<Arc<SessionConfig>> {
        self.config.load()
    }

    /// Replaces lifetime, idle timeout and number of sessions, also for sessions that exist.
    pub fn set_config(&self, config: SessionConfig) {
        self.config.store(Arc::new(config));
    }

    /// The number of sessions in memory.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Finds the parsed form of raw `initialize` parameters, if equal ones were seen recently. Bytes are compared, so
    /// most parameters need no parsing.
    pub fn find_initialize_params(&self, raw: &[u8]) -> Option<Arc<InitializeParams>> {
        lock(&self.initialize_params).find(|params| *params.raw == *raw)
    }

    /// Creates a session. Returns the id for the client too.
    pub fn create(
        &self,
        identity: &Identity,
        endpoint: &Arc<Endpoint>,
        handshake: ClientHandshake,
        now_s: u64,
    ) -> Result<(String, Arc<Session>), TooManySessions> {
        if self.count() >= self.config().sessions_max {
            return Err(TooManySessions);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| TooManySessions)?;
        let claims = SessionClaims {
            key_id: identity.key_id(),
            revision: handshake.params.revision,
            capabilities: handshake.params.capabilities,
            created_s: now_s,
            key: SessionKey(random),
            scope: endpoint.scope.clone(),
        };
        let id = claims.to_id(&self.sealer);
        let session = self.new_session(claims, endpoint, handshake, now_s);
        self.insert(Arc::clone(&session));
        Ok((id, session))
    }

    /// Finds the session of an id. Its state is rebuilt if this process has none, and moved to `endpoint` if that is
    /// newer. The returned session may have a newer version of the endpoint than `endpoint`: use the session's.
    pub fn find(
        &self,
        id: &[u8],
        identity: &Identity,
        endpoint: &Arc<Endpoint>,
        now_s: u64,
    ) -> Result<Arc<Session>, SessionError> {
        let mut claims = SessionClaims::from_id(id, &self.sealer).ok_or(SessionError::Unknown)?;
        let expires_s = claims.created_s.saturating_add(self.config().lifetime.as_secs());
        if claims.key_id != identity.key_id() || claims.scope != endpoint.scope || now_s >= expires_s {
            return Err(SessionError::Unknown);
        }
        let mut shard = self.shard(claims.key);
        if shard.ended.contains_key(&claims.key) {
            return Err(SessionError::Unknown);
        }
        if let Some(session) = shard.live.get_mut(&claims.key) {
            self.update_endpoint(session, endpoint);
            return Ok(Arc::clone(session));
        }
        if expires_s <= shard.unknown_until_s {
            return Err(SessionError::Unknown);
        }
        drop(shard);
        if self.count() >= self.config().sessions_max {
            return Err(SessionError::Full);
        }
        // Equal, but shared instead of one more copy.
        claims.scope = Arc::clone(&endpoint.scope);
        let gateway = ClientHandshake::gateway(claims.revision, claims.capabilities);
        let handshake = ClientHandshake { owner: Some(claims.key_id), ..gateway };
        Ok(self.insert(self.new_session(claims, endpoint, handshake, now_s)))
    }

    /// The current version of a session, after moving it to `endpoint` if that is newer. `None` if the session ended.
    pub fn refresh(&self, session: &Session, endpoint: &Arc<Endpoint>) -> Option<Arc<Session>> {
        let mut shard = self.shard(session.claims.key);
        let live = shard.live.get_mut(&session.claims.key)?;
        self.update_endpoint(live, endpoint);
        Some(Arc::clone(live))
    }

    /// Moves all sessions to the endpoints of a new route table. Sessions of removed endpoints are dropped from memory.
    /// Their ids become usable again if the endpoint returns, unless ended ids of their age have been dropped by then.
    pub fn apply_routes(&self, table: &RouteTable) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.live.len();
            shard.live.retain(|_, session| {
                if let Some(endpoint) = table.find_by_scope(&session.endpoint.scope) {
                    self.update_endpoint(session, endpoint);
                    return true;
                }
                session.end();
                lock(&self.detached).extend(session.detached_upstream_sessions());
                false
            });
            self.count.fetch_sub(before - shard.live.len(), Ordering::Relaxed);
        }
    }

    /// Takes the upstream sessions that endpoint changes detached since the last call.
    pub fn take_detached(&self) -> Vec<DetachedUpstreamSession> {
        std::mem::take(&mut *lock(&self.detached))
    }

    fn update_endpoint(&self, session: &mut Arc<Session>, endpoint: &Arc<Endpoint>) {
        if session.endpoint.id < endpoint.id {
            let (newer, detached) = session.with_endpoint(Arc::clone(endpoint));
            *session = Arc::new(newer);
            lock(&self.detached).extend(detached);
            session.notify_stream();
        }
    }

    /// Ends a session: its id is unknown from now on.
    pub fn end(&self, session: &Session) {
        let until_s = session.claims.created_s.saturating_add(self.config().lifetime.as_secs());
        let mut shard = self.shard(session.claims.key);
        shard.end(session.claims.key, until_s);
        if shard.live.remove(&session.claims.key).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        drop(shard);
        session.end();
    }

    /// Drops the state of expired and long unused sessions, and returns them, so that their upstream sessions can be
    /// terminated. The id of an unused session stays valid, unless ended ids of its age are dropped.
    pub fn sweep(&self, now_s: u64) -> Vec<Arc<Session>> {
        let (lifetime_s, idle_s) = (self.config().lifetime.as_secs(), self.config().idle_timeout.as_secs());
        for shard in &self.shards {
            lock(shard).ended.retain(|_, until_s| *until_s > now_s);
        }
        self.drop_if(|session| {
            let is_expired = session.claims.created_s.saturating_add(lifetime_s) <= now_s;
            let is_unused = session.last_used_s().saturating_add(idle_s) <= now_s;
            // One reference is the table's. Open event streams and workers hold others.
            let is_referenced = Arc::strong_count(session) > 1;
            is_expired || (is_unused && !is_referenced && session.is_idle())
        })
    }

    /// Drops the state of sessions whose key may not be used any more, and returns them, so that their upstream sessions can
    /// be terminated. Their ids stay valid for the case that the key is activated again.
    pub fn drop_of_ended_keys(&self, is_active: impl Fn(KeyId) -> bool) -> Vec<Arc<Session>> {
        self.drop_if(|session| !is_active(session.claims.key_id))
    }

    fn drop_if(&self, is_over: impl Fn(&Arc<Session>) -> bool) -> Vec<Arc<Session>> {
        let mut dropped = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.live.len();
            shard.live.retain(|_, session| {
                let is_dropped = is_over(session);
                if is_dropped {
                    session.end();
                    dropped.push(Arc::clone(session));
                }
                !is_dropped
            });
            self.count.fetch_sub(before - shard.live.len(), Ordering::Relaxed);
            shrink(&mut shard.live);
            shrink(&mut shard.ended);
        }
        dropped
    }

    /// All sessions in memory, in no particular order. Iterates over all of them: not for the request path.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::with_capacity(self.count());
        for shard in &self.shards {
            all.extend(lock(shard).live.values().map(Arc::clone));
        }
        all
    }

    fn new_session(
        &self,
        claims: SessionClaims,
        endpoint: &Arc<Endpoint>,
        handshake: ClientHandshake,
        now_s: u64,
    ) -> Arc<Session> {
        let params = lock(&self.initialize_params).intern(handshake.params);
        let handshake = ClientHandshake { params, ..handshake };
        Arc::new(Session::new(claims, Arc::clone(endpoint), handshake, now_s))
    }

    /// Returns the session that is in the table afterwards: another worker may have rebuilt it at the same time.
    fn insert(&self, session: Arc<Session>) -> Arc<Session> {
        let mut shard = self.shard(session.claims.key);
        let entry = shard.live.entry(session.claims.key);
        if let std::collections::hash_map::Entry::Vacant(_) = entry {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Arc::clone(entry.or_insert(session))
    }

    fn shard(&self, key: SessionKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(key.0[0]) % SHARDS])
    }
}

/// Releases the memory of a map that was much larger.
fn shrink<T>(map: &mut HashMap<SessionKey, T, RandomState>) {
    if map.capacity() > SHRINK_CAPACITY_MIN && map.len() < map.capacity() / 4 {
        map.shrink_to_fit();
    }
}

/// Every change under a lock is one operation on a collection, so a poisoned lock guards an intact collection.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;
    use crate::route::{EndpointId, EndpointShape};
    use crate::telemetry::metrics::LabelId;
    use metamcp_core::protocol::{ClientCapabilities, Revision};
    use metamcp_store::auth::EncryptionKey;

    const HOUR_S: u64 = 3600;

    fn session_table() -> (SessionTable, Identity, Arc<Endpoint>) {
        let key = EncryptionKey { version: 1, key: Zeroizing::new([7; 32]) };
        let config = SessionConfig {
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
        (SessionTable::new(config, sealer), Identity::sample("AAAAAAAAAAAA"), Arc::new(endpoint))
    }

    #[test]
    fn ended_ids_stay_unknown_however_many_there_are() {
        let (sessions, identity, endpoint) = session_table();
        let handshake = || ClientHandshake::gateway(Revision::LEGACY_LATEST, ClientCapabilities::default());
        let create = |now_s| sessions.create(&identity, &endpoint, handshake(), now_s).ok().unwrap();
        let find = |id: &str, now_s| sessions.find(id.as_bytes(), &identity, &endpoint, now_s).is_ok();
        let used: Vec<_> = (0..100).map(|_| create(0)).collect();
        let unused: Vec<_> = (0..100).map(|_| create(0).0).collect();
        for (_, session) in &used {
            session.touch(2 * HOUR_S);
        }
        sessions.sweep(HOUR_S);
        assert_eq!(sessions.count(), used.len());
        let ended: Vec<_> = (0..100).map(|_| create(HOUR_S)).collect();
        for (_, session) in &ended {
            sessions.end(session);
        }
        assert!(unused.iter().all(|id| find(id, HOUR_S)), "valid while all ended ids are known");
        sessions.sweep(2 * HOUR_S);
        let others = |at: usize| (0..ENDED_MAX as u64 * 3 / 2).map(move |number| (at, number));
        for (at, number) in (0..SHARDS).flat_map(others) {
            let key = SessionKey((u128::from(number) << 8 | at as u128).to_le_bytes());
            lock(&sessions.shards[at]).end(key, 25 * HOUR_S + number / 1000);
        }
        let now_s = 2 * HOUR_S;
        assert!(ended.iter().all(|(id, _)| !find(id, now_s)), "ended ids are unknown");
        assert!(used.iter().all(|(id, _)| find(id, now_s)), "ids with state are valid");
        assert!(unused.iter().all(|id| !find(id, now_s)), "the others are as old as the dropped ids");
        let remembered: usize = sessions.shards.iter().map(|shard| lock(shard).ended.len()).sum();
        assert!(remembered <= SHARDS * ENDED_MAX);
        let id = create(now_s).0;
        sessions.sweep(now_s + HOUR_S);
        assert!(find(&id, now_s + HOUR_S), "the state of a newer id is rebuilt");
    }
}
