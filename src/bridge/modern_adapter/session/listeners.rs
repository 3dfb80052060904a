//! Clients with a subscription.

use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::frame::Envelope;
use metamcp_core::protocol::{McpMethod, RESOURCE_UPDATED};
use tokio::time::Instant;

use super::super::event_queue::event_queue;
use super::state::{AdapterSession, ClientSlot, Listener, SessionState};

impl AdapterSession {
    /// Adds a listener. Also returns the resources that had no listener before; `None` if the session is
    /// over.
    pub fn add_listener(
        self: &Arc<Self>,
        lists: Vec<McpMethod>,
        resources: Vec<String>,
    ) -> Option<(ClientSlot, Vec<String>)> {
        let (sender, events) = event_queue();
        let mut state = self.lock();
        if state.is_over {
            return None;
        }
        let mut new = Vec::new();
        for uri in &resources {
            let count = state.resources.entry(uri.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                new.push(uri.clone());
            }
        }
        let number = state.calls.take_number();
        state.listeners.insert(number, Listener { sender, lists, resources });
        drop(state);
        Some((ClientSlot { session: Arc::clone(self), number, events }, new))
    }

    /// Removes a listener. Returns the resources that have no listener left.
    pub fn remove_listener(&self, number: u64) -> Vec<String> {
        let mut state = self.lock();
        let Some(listener) = state.listeners.remove(&number) else { return Vec::new() };
        state.used = Instant::now();
        let mut unused = Vec::new();
        for uri in listener.resources {
            if let Some(count) = state.resources.get_mut(&uri) {
                *count -= 1;
                if *count == 0 {
                    state.resources.remove(&uri);
                    unused.push(uri);
                }
            }
        }
        self.end_if_unused(&mut state);
        unused
    }

    /// Whether any client listens to that resource.
    pub fn has_resource_listener(&self, uri: &str) -> bool {
        self.lock().resources.contains_key(uri)
    }

    /// Whether any client listens.
    pub fn has_listeners(&self) -> bool {
        !self.lock().listeners.is_empty()
    }

    /// Passes a notification to the listeners that subscribed to it. Returns whether any listener received it.
    pub fn notify_listeners(&self, message: &Bytes, envelope: &Envelope) -> bool {
        self.lock().notify_listeners(message, envelope)
    }
}

impl SessionState {
    pub(super) fn notify_listeners(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
        let list = McpMethod::parse(method.as_bytes());
        let uri = envelope.params.uri.map(|uri| uri.decode(message));
        let mut is_received = false;
        for listener in self.listeners.values() {
            let wants_list = list.is_some_and(|list| listener.lists.contains(&list));
            let wants_resource = method == RESOURCE_UPDATED
                && uri.as_deref().is_some_and(|uri| listener.resources.iter().any(|other| other == uri));
            if wants_list || wants_resource {
                is_received |= listener.sender.try_send(message);
            }
        }
        is_received
    }
}
