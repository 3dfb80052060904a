//! The resources that a session subscribed to, and which version of them the server has settled.

use std::sync::MutexGuard;

use super::state::{Session, SessionState, lock};

/// Resources that one session may subscribe to. They all go into one request; more is a runaway loop.
pub(super) const URIS_MAX: usize = 1024;

/// The longest URI, as servers accept them.
pub(super) const URI_BYTES_MAX: usize = 8 << 10;

/// Bytes of all URIs of a session. They live as long as the session; a usual URI has a hundred bytes.
pub(super) const URIS_BYTES_MAX: usize = 256 << 10;

impl Session {
    /// Subscribes to a resource. Returns the filter version that contains it, or `None` if there are too many
    /// subscriptions or the URI is too long.
    pub fn subscribe(&self, uri: &str) -> Option<u64> {
        if uri.len() > URI_BYTES_MAX {
            return None;
        }
        let mut state = lock(&self.state);
        let uris = &mut state.optional_mut().subscribed_uris;
        let has_room = || {
            let bytes: usize = uris.iter().map(String::len).sum();
            uris.len() < URIS_MAX && bytes + uri.len() <= URIS_BYTES_MAX
        };
        if !(uris.contains(uri) || has_room()) {
            return None;
        }
        let is_new = uris.insert(uri.to_owned());
        Some(self.publish_filter(state, is_new))
    }

    /// Ends a subscription. Returns the filter version without it.
    pub fn unsubscribe(&self, uri: &str) -> u64 {
        let mut state = lock(&self.state);
        let was_subscribed =
            state.optional.as_mut().is_some_and(|optional| optional.subscribed_uris.remove(uri));
        state.drop_empty_optional();
        self.publish_filter(state, was_subscribed)
    }

    /// Returns the subscribed resources and the filter version that contains them.
    pub fn subscribed_uris(&self) -> (u64, Vec<String>) {
        let state = lock(&self.state);
        let uris = state.optional.iter().flat_map(|optional| optional.subscribed_uris.iter().cloned());
        (state.watched.filter_version, uris.collect())
    }

    /// Whether the client has subscribed to any resource.
    pub fn has_subscribed_uris(&self) -> bool {
        lock(&self.state).optional.as_ref().is_some_and(|optional| !optional.subscribed_uris.is_empty())
    }

    /// Records that the server acknowledged or refused a filter version.
    pub fn settle_filter(&self, version: u64) {
        let mut state = lock(&self.state);
        state.watched.settled_version = version.max(state.watched.settled_version);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until the server has settled that filter version or a newer one. Returns at once if no task
    /// listens for the session. Cancel safe.
    pub async fn wait_until_settled(&self, version: u64) {
        if self.is_listening() {
            self.until(|watched| watched.settled_version >= version).await;
        }
    }

    /// Returns the newest filter version, incremented if the filter changed.
    fn publish_filter(&self, mut state: MutexGuard<'_, SessionState>, has_changed: bool) -> u64 {
        state.watched.filter_version += u64::from(has_changed);
        let version = state.watched.filter_version;
        drop(state);
        if has_changed {
            self.changed.notify_waiters();
        }
        version
    }
}
