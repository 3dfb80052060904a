//! Which lists of an endpoint changed.

use bytes::Bytes;

use crate::catalog::{ListKind, Merged, View};
use crate::route::Endpoint;
use crate::server::http1::words::{ANNOUNCED, announcement};
use crate::server::worker::Worker;
use metamcp_core::protocol::McpMethod;

/// Which lists an endpoint had, to tell which of them changed.
pub struct Digests([u64; 3]);

impl Digests {
    /// As they are now.
    pub fn of(worker: &Worker, endpoint: &Endpoint, view: View) -> Self {
        let merged = worker.shared.catalog.snapshot(endpoint, view);
        Self(merged.as_deref().map_or([0; 3], |merged| digests(merged, view)))
    }

    /// The kinds that changed since the last look.
    pub fn moved(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<McpMethod> {
        let Some(merged) = worker.shared.catalog.snapshot(endpoint, view) else { return Vec::new() };
        let now = digests(&merged, view);
        let before = std::mem::replace(&mut self.0, now);
        let moved = before.iter().zip(now).map(|(before, now)| *before != now);
        moved.zip(ANNOUNCED).filter_map(|(moved, (_, method))| moved.then_some(method)).collect()
    }

    /// The notifications of the lists that changed since the last look.
    pub fn changed(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Bytes> {
        self.moved(worker, endpoint, view).into_iter().map(announcement).collect()
    }
}

/// What a server says of a change is told to clients of sessions as it says it; to the others by this.
fn digests(merged: &Merged, view: View) -> [u64; 3] {
    let mut announced = if view == View::Modern { merged.announced } else { [0; 3] }.into_iter();
    ANNOUNCED.map(|(kind, _)| {
        let digest = match kind {
            ListKind::Resources => {
                merged.listing(kind).digest ^ merged.listing(ListKind::Templates).digest.rotate_left(1)
            }
            kind => merged.listing(kind).digest,
        };
        // Small counts, beside a hash: one that moves moves the sum.
        digest.wrapping_add(announced.next().unwrap_or_default())
    })
}
