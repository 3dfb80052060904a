//! Detects which lists of an endpoint changed.

use bytes::Bytes;

use crate::catalog::{Catalog, ListKind, MergedLists, View};
use crate::route::Endpoint;
use crate::server::http1::announcements::{ANNOUNCED, announcement};
use metamcp_core::protocol::McpMethod;

/// Digests of an endpoint's lists, to detect changes.
pub struct ListDigests([u64; 3]);

impl ListDigests {
    /// The digests of the current lists.
    pub fn of(catalog: &Catalog, endpoint: &Endpoint, view: View) -> Self {
        let merged = catalog.snapshot(endpoint, view);
        Self(merged.as_deref().map_or([0; 3], |merged| digests(merged, view)))
    }

    /// The notifications for the lists that changed since the last call.
    pub fn moved(&mut self, catalog: &Catalog, endpoint: &Endpoint, view: View) -> Vec<McpMethod> {
        let Some(merged) = catalog.snapshot(endpoint, view) else { return Vec::new() };
        let now = digests(&merged, view);
        let before = std::mem::replace(&mut self.0, now);
        let moved = before.iter().zip(now).map(|(before, now)| *before != now);
        moved.zip(ANNOUNCED).filter_map(|(moved, (_, method))| moved.then_some(method)).collect()
    }

    /// The notification events for the lists that changed since the last call.
    pub fn changed(&mut self, catalog: &Catalog, endpoint: &Endpoint, view: View) -> Vec<Bytes> {
        self.moved(catalog, endpoint, view).into_iter().map(announcement).collect()
    }
}

/// Includes the servers' own change announcements for Modern clients. Legacy clients get those as events.
fn digests(merged: &MergedLists, view: View) -> [u64; 3] {
    let mut announced = if view == View::Modern { merged.announced } else { [0; 3] }.into_iter();
    ANNOUNCED.map(|(kind, _)| {
        let digest = match kind {
            ListKind::Resources => {
                merged.listing(kind).digest ^ merged.listing(ListKind::Templates).digest.rotate_left(1)
            }
            kind => merged.listing(kind).digest,
        };
        // The counts are small compared with a hash, so a changed count changes the sum.
        digest.wrapping_add(announced.next().unwrap_or_default())
    })
}
