//! Tells of processes, as events.

use super::connection::ServerContext;
use crate::telemetry::events::{Event, EventKind};

impl ServerContext {
    /// Tells of an event of this server, which `complete` adds members to.
    pub fn tell(&self, kind: EventKind, complete: impl FnOnce(Event) -> Event) {
        if let Some(events) = &self.events {
            events.add(complete(Event::of_server(kind, &self.name)));
        }
    }
}
