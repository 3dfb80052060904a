//! The sessions that one worker used recently, by session id. A hit needs neither unsealing nor a lock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::clock::Clock;
use crate::route::Endpoint;
use crate::server::http1::fields::{Field, Fields};
use crate::session::{Session, SessionError, SessionTable};
use crate::topology::UpstreamPools;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_store::auth::Identity;

/// The sessions that one worker used recently.
pub struct SessionCache {
    sessions: Arc<SessionTable>,
    clock: Rc<Clock>,
    /// Knows the current endpoints.
    pools: Rc<UpstreamPools>,
    cached: RefCell<HashMap<Bytes, Arc<Session>, RandomState>>,
    /// The epoch of the topology that the cached sessions were last checked against.
    epoch: Cell<u64>,
}

/// Cached sessions. When it is exceeded, all are evicted.
const SESSIONS_MAX: usize = 16_384;

/// Seconds without use after which a session is evicted. Its id makes up a fifth of the session's memory, and
/// is unsealed again on the next use.
const UNUSED_S_MAX: u64 = 10;

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

impl SessionCache {
    pub fn new(sessions: Arc<SessionTable>, clock: Rc<Clock>, pools: Rc<UpstreamPools>) -> Self {
        let epoch = Cell::new(pools.topology().epoch);
        Self { sessions, clock, pools, cached: RefCell::default(), epoch }
    }

    /// Finds the session of a Legacy request. It may have a newer version of the endpoint.
    pub fn find(
        &self,
        fields: &Fields,
        identity: &Identity,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Arc<Session>, Fault> {
        let Some(text) = fields.get(Field::McpSessionId) else {
            return Err(Fault::client(
                FaultKind::SessionMissing,
                "send the Mcp-Session-Id that `initialize` answered with, or open a session by `initialize`",
            ));
        };
        let now_s = self.clock.now_s();
        let at_hand = self.cached.borrow().get(text).cloned();
        if let Some(session) = at_hand.filter(|session| self.may_use(session, identity, endpoint)) {
            session.touch(now_s);
            return Ok(session);
        }
        let found = self.sessions.find(text, identity, endpoint, now_s);
        let session = found.map_err(|why| match why {
            SessionError::Unknown => Fault::client(
                FaultKind::SessionUnknown,
                "this session is unknown or has ended; open another by `initialize`",
            ),
            SessionError::Full => {
                Fault::gateway(FaultKind::Overloaded, "there are too many sessions; try again later")
            }
        })?;
        session.touch(now_s);
        self.cache_session(Bytes::copy_from_slice(text), &session);
        Ok(session)
    }

    /// Caches a session by its id. A session whose endpoint was replaced in the meantime is not cached: it
    /// would never be found, and would keep the old endpoint alive.
    pub fn cache_session(&self, text: Bytes, session: &Arc<Session>) {
        if !self.pools.topology().table.contains(&session.endpoint) {
            return;
        }
        let mut sessions = self.cached.borrow_mut();
        if sessions.len() >= SESSIONS_MAX {
            sessions.clear();
        }
        sessions.insert(text, Arc::clone(session));
    }

    /// Evicts the session of a request, after it ended.
    pub fn evict_session(&self, fields: &Fields) {
        let text = fields.get(Field::McpSessionId).unwrap_or_default();
        self.cached.borrow_mut().remove(text);
    }

    fn may_use(&self, session: &Session, identity: &Identity, endpoint: &Endpoint) -> bool {
        let lifetime_s = self.sessions.config().lifetime.as_secs();
        !session.is_ended()
            && session.claims.key_id == identity.key_id()
            && session.endpoint.id == endpoint.id
            && self.clock.now_s() < session.claims.created_s.saturating_add(lifetime_s)
    }

    /// After a topology change, evicts the sessions whose endpoint was replaced.
    pub fn evict_replaced(&self) {
        let topology = self.pools.topology();
        if self.epoch.replace(topology.epoch) != topology.epoch {
            self.cached.borrow_mut().retain(|_, session| topology.table.contains(&session.endpoint));
        }
    }

    /// Evicts ended and unused sessions, so that the session table can drop them.
    pub fn sweep(&self) {
        let is_used = |session: &Session| session.last_used_s() + UNUSED_S_MAX > self.clock.now_s();
        let mut cached = self.cached.borrow_mut();
        cached.retain(|_, session| !session.is_ended() && is_used(session));
        if cached.capacity() > ROOM_MIN && cached.len() < cached.capacity() / 4 {
            cached.shrink_to_fit();
        }
    }
}
