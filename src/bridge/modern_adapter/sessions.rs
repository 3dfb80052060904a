//! The sessions at Legacy servers, each with the task that runs it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::frame::Envelope;
use tokio::task::spawn_local;

use super::session::{AdapterSession, AdapterSessionKey, ClientSlot};
use super::session_table::SessionTable;
use super::session_task::run_session;
use crate::upstream::UpstreamPool;
use arc_swap::ArcSwap;
use metamcp_config::sections::BridgeConfig;

/// The session table, and the start of a task on the current thread for each new session.
pub struct AdapterSessions {
    table: Arc<SessionTable>,
}

impl AdapterSessions {
    /// Creates an empty set.
    pub fn new(config: Arc<ArcSwap<BridgeConfig>>) -> Self {
        Self { table: Arc::new(SessionTable::new(config)) }
    }

    /// Returns the session with that key; see [`SessionTable::find`].
    pub fn find(&self, key: AdapterSessionKey, pool: &Rc<UpstreamPool>) -> Option<Arc<AdapterSession>> {
        let (session, is_new) = self.table.find(key)?;
        self.spawn_if(is_new, &session, pool);
        Some(session)
    }

    /// Begins a call; see [`SessionTable::begin_call`].
    pub fn begin_call(
        &self,
        key: AdapterSessionKey,
        allows_input: bool,
        pool: &Rc<UpstreamPool>,
    ) -> Option<ClientSlot> {
        let (slot, is_new) = self.table.begin_call(key, allows_input)?;
        self.spawn_if(is_new, &slot.session, pool);
        Some(slot)
    }

    /// Begins a call in a session of its own; see [`SessionTable::begin_exclusive_call`].
    pub fn begin_exclusive_call(
        &self,
        key: AdapterSessionKey,
        allows_input: bool,
        pool: &Rc<UpstreamPool>,
    ) -> Option<ClientSlot> {
        let (slot, is_new) = self.table.begin_exclusive_call(key, allows_input)?;
        self.spawn_if(is_new, &slot.session, pool);
        Some(slot)
    }

    /// Queues an unsolicited request; see [`SessionTable::queue_unsolicited`].
    pub fn queue_unsolicited(&self, session: &AdapterSession, message: &Bytes, envelope: &Envelope) -> bool {
        self.table.queue_unsolicited(session, message, envelope)
    }

    fn spawn_if(&self, is_new: bool, session: &Arc<AdapterSession>, pool: &Rc<UpstreamPool>) {
        if is_new {
            spawn_local(run_session(Arc::clone(&self.table), Arc::clone(session), Rc::clone(pool)));
        }
    }
}
