//! The approval of changed tools: which tools of which servers match their approval.
//!
//! ```text
//! lists of a server, in every view --> listed tools --+
//!                                                     +--> quarantined tools, and updates for the store
//! rows of the store --------------------> pins -------+
//! ```
//!
//! A tool is the same for all clients: if one kind of client is shown an unapproved definition, the tool is
//! quarantined for all. Locked for a few lines by the catalog task, the task that writes to the store, and
//! administration; never by a request.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metamcp_core::base::ServerName;
use tokio::sync::Notify;

use super::list::{ListKind, NAME_BYTES_MAX, ServerLists};
use super::quarantine::QuarantineReason;
use super::server_approvals::{ServerApprovals, SettleTrigger, StoreState, ToolVisibility};
use super::stored_pins::{PinsUpdate, StoredPins};
use super::view::View;
use crate::upstream::{Upstream, UpstreamId};
use metamcp_config::server::ToolPinPolicy;
use metamcp_store::tool_pins::{ListedTool, PinChange};

/// The approvals of all servers.
#[derive(Debug)]
pub struct ToolApprovals {
    state: Mutex<ApprovalState>,
    /// Notified when there may be an update for the store.
    update_pending: Notify,
}

/// The approvals of one server, for administration.
#[derive(Debug, Default)]
pub struct ApprovalStatus {
    /// The changes that wait for approval, as the store has them.
    pub waiting: Vec<PinChange>,
    /// Why all tools are quarantined, if the pins are not known.
    pub quarantine: Option<QuarantineReason>,
    /// Tools whose texts contain invisible characters, and these characters.
    pub invisible_chars: Vec<(String, BTreeSet<char>)>,
}

#[derive(Debug, Default)]
struct ApprovalState {
    /// `None` until the store was read.
    stored: Option<HashMap<String, StoredPins>>,
    /// Whether the first read of the store has failed.
    is_unreadable: bool,
    servers: HashMap<ServerName, ServerApprovals>,
}

impl ApprovalState {
    /// Returns the servers, and the store to settle them with.
    fn split(&mut self) -> (&mut HashMap<ServerName, ServerApprovals>, StoreState<'_>) {
        let store = match &self.stored {
            Some(stored) => StoreState::Read(stored),
            None if self.is_unreadable => StoreState::Unreadable,
            None => StoreState::Pending,
        };
        (&mut self.servers, store)
    }
}

impl Default for ToolApprovals {
    fn default() -> Self {
        Self { state: Mutex::default(), update_pending: Notify::new() }
    }
}

impl ToolApprovals {
    /// Returns the tools of a server. Tools whose names are too long for any endpoint are left out.
    pub fn listed_tools(lists: &ServerLists) -> Arc<[ListedTool]> {
        let tools = lists.items[ListKind::Tools.index()].iter();
        tools
            .filter(|item| item.key.len() <= NAME_BYTES_MAX)
            .filter_map(|item| ListedTool::parse(&item.key, &item.raw))
            .collect()
    }

    /// Records the tools that a server listed in one view.
    pub fn record_listing(&self, upstream: &Upstream, view: View, tools: Arc<[ListedTool]>) {
        let mut state = self.lock();
        let (servers, store) = state.split();
        let policy = upstream.config.settings.changed_tools;
        let server = servers.entry(upstream.name().clone()).or_insert_with(|| ServerApprovals::new(policy));
        server.policy = policy;
        server.views.insert((upstream.id, view), tools);
        server.log_invisible_chars(upstream.name());
        server.settle(upstream.name(), store, SettleTrigger::Listed);
        if server.pending_update.is_some() {
            self.update_pending.notify_one();
        }
    }

    /// Returns which tools of a server may be listed.
    pub fn visibility(&self, server: &ServerName) -> ToolVisibility {
        let state = self.lock();
        state.servers.get(server).map_or_else(ToolVisibility::all, |server| server.visibility.clone())
    }

    /// Drops views that are not fetched any more.
    pub fn retain_views(&self, is_fetched: impl Fn(UpstreamId, View) -> bool) {
        let mut state = self.lock();
        state.servers.retain(|_, server| {
            server.views.retain(|(upstream, view), _| is_fetched(*upstream, *view));
            !server.views.is_empty()
        });
    }

    /// Takes over the pins of all servers from the store.
    pub fn load_all(&self, mut stored: HashMap<String, StoredPins>) {
        let mut state = self.lock();
        let previous = state.stored.take().unwrap_or_default();
        for (server, previous) in previous {
            let is_served = state.servers.keys().any(|name| name.as_str() == server);
            if let Some(lost) = previous.into_lost().filter(|_| is_served) {
                stored.entry(server).or_insert(lost);
            }
        }
        state.stored = Some(stored);
        let (servers, store) = state.split();
        for (name, server) in servers {
            server.settle(name, store, SettleTrigger::StoreRead);
        }
        self.update_pending.notify_one();
    }

    /// Takes over the pins of one server from the store; `None` if it has none.
    pub fn load(&self, name: &str, pins: Option<StoredPins>) {
        let mut state = self.lock();
        let Some(stored) = &mut state.stored else { return };
        if let Some(pins) = pins.or_else(|| stored.get(name)?.clone().into_lost()) {
            stored.insert(name.to_owned(), pins);
        }
        let (servers, store) = state.split();
        if let Some((name, server)) = servers.iter_mut().find(|(other, _)| other.as_str() == name) {
            server.settle(name, store, SettleTrigger::StoreRead);
            if server.pending_update.is_some() {
                self.update_pending.notify_one();
            }
        }
    }

    /// Records that the store cannot be read. Returns whether that changes anything.
    pub fn note_store_unreadable(&self) -> bool {
        let mut state = self.lock();
        let is_news = state.stored.is_none() && !state.is_unreadable;
        if is_news {
            state.is_unreadable = true;
            let (servers, store) = state.split();
            for (name, server) in servers {
                server.settle(name, store, SettleTrigger::StoreRead);
            }
        }
        is_news
    }

    /// Records that the store did not accept an update.
    pub fn note_write_failed(&self, name: &ServerName) {
        let mut state = self.lock();
        let (servers, store) = state.split();
        if let Some(server) = servers.get_mut(name) {
            server.has_write_failed = true;
            server.settle(name, store, SettleTrigger::StoreRead);
        }
    }

    /// Returns the pins of one server as they were last read from the store.
    pub fn stored_pins(&self, server: &str) -> Option<StoredPins> {
        self.lock().stored.as_ref()?.get(server).cloned()
    }

    /// Returns the updates for the store.
    pub fn pending_updates(&self) -> Vec<PinsUpdate> {
        self.lock().servers.values().filter_map(|server| server.pending_update.clone()).collect()
    }

    /// Completes when there may be an update for the store. Cancel safe.
    pub async fn update_pending(&self) {
        self.update_pending.notified().await;
    }

    /// Returns the approvals of one server.
    pub fn status(&self, name: &str) -> ApprovalStatus {
        let state = self.lock();
        let mut status = ApprovalStatus::default();
        match state.stored.as_ref().and_then(|stored| stored.get(name)) {
            Some(StoredPins::Pins(pins, _) | StoredPins::Lost(pins)) => status.waiting = pins.waiting(),
            Some(StoredPins::Altered(_) | StoredPins::Foreign) => {
                status.quarantine = Some(QuarantineReason::PinsSealed);
            }
            None => {}
        }
        let Some((_, server)) = state.servers.iter().find(|(other, _)| other.as_str() == name) else {
            return status;
        };
        if server.policy != ToolPinPolicy::Quarantine {
            status.quarantine = None;
        } else if let ToolVisibility::Show(quarantined) = &server.visibility {
            let is_of_tool =
                |why: &QuarantineReason| matches!(why, QuarantineReason::Changed | QuarantineReason::New);
            let of_server = quarantined.values().copied().find(|why| !is_of_tool(why));
            status.quarantine = status.quarantine.or(of_server);
        }
        let invisible_chars = server.invisible_chars.iter();
        status.invisible_chars = invisible_chars.map(|(tool, chars)| (tool.clone(), chars.clone())).collect();
        status
    }

    fn lock(&self) -> MutexGuard<'_, ApprovalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
