//! The client's GET stream, and whether a shared subscription writes to it.
//!
//! A stream is *parked* in its session while no task of the session's own writes to it. A shared subscription
//! writes to parked streams. A task that listens for this session alone takes the stream out; if the session
//! is in a shared subscription then, a relay is parked in its place, so that the events of both reach the
//! client.

use std::sync::Arc;

use bytes::Bytes;

use super::super::departures::DepartureCounter;
use super::features::SessionFeatures;
use super::state::{Session, lock};
use metamcp_http::multiplex::{EventSink, EventSource, event_channel_with_capacity};

/// The client's event stream, for a task that listens for this session alone.
pub struct DedicatedStream {
    /// The number of the stream.
    pub stream: u64,
    pub sink: EventSink,
    /// The events of the session's shared subscription until the session leaves it; `None` if it is in none.
    pub shared_events: Option<EventSource>,
}

impl Session {
    /// Lets a new event stream of the client take over from the one before. Returns its number.
    pub fn take_stream(&self) -> u64 {
        let mut state = lock(&self.state);
        state.watched.stream += 1;
        state.has_dedicated_stream = false;
        let (stream, before) = (state.watched.stream, state.parked.take());
        drop(state);
        drop(before);
        self.changed.notify_waiters();
        stream
    }

    /// Parks the client's event stream until a task takes it, another stream takes over, or the session ends.
    pub fn park_stream(&self, stream: u64, sink: EventSink) {
        let mut state = lock(&self.state);
        if !state.watched.is_ended && state.watched.stream == stream {
            state.parked = Some((stream, sink));
        }
    }

    /// Takes the parked stream for a task that listens for this session alone. Returns `None` if there is
    /// such a task already, or no stream. Up to `events_max` events of the shared subscription wait for that
    /// task.
    pub fn take_dedicated_stream(&self, events_max: usize) -> Option<DedicatedStream> {
        let mut state = lock(&self.state);
        if state.has_dedicated_stream {
            return None;
        }
        let (stream, sink) = state.parked.take()?;
        state.has_dedicated_stream = true;
        let mut shared_events = None;
        if state.departures.is_some() {
            let (relay, events) = event_channel_with_capacity(events_max);
            state.parked = Some((stream, relay));
            shared_events = Some(events);
        }
        Some(DedicatedStream { stream, sink, shared_events })
    }

    /// Sends an event on the parked stream if there is room for it.
    pub fn notify_parked(&self, event: &Bytes) {
        if let Some((_, sink)) = &lock(&self.state).parked {
            // A client that does not read has enough events waiting already.
            let _ = sink.try_send(event.clone());
        }
    }

    /// Whether the server announces changes of any list.
    pub fn has_changing_lists(&self) -> bool {
        let SessionFeatures { tools_changed, prompts_changed, resources_changed, .. } = self.features;
        tools_changed || prompts_changed || resources_changed
    }

    /// Joins the shared subscription that owns the counter. Returns false if the session is in one already,
    /// or has no parked stream. The caller holds the lock of the members of the subscription.
    pub fn join_shared(&self, departures: &Arc<DepartureCounter>) -> bool {
        let mut state = lock(&self.state);
        let joins = state.parked.is_some() && state.departures.is_none();
        if joins {
            state.departures = Some(Arc::clone(departures));
        }
        joins
    }

    /// Stops the events of the shared subscription on that stream. The subscription removes the session
    /// later.
    pub fn leave_shared(&self, stream: u64) {
        let mut state = lock(&self.state);
        let left = state.parked.take_if(|(other, _)| *other == stream);
        if left.is_some() {
            state.record_departure();
        }
        drop(state);
        drop(left);
    }

    /// Returns whether the shared subscription still has a stream of the session to write to; if not, the
    /// session is in no shared subscription any more. The caller holds the lock of the members of the
    /// subscription.
    pub fn refresh_shared_membership(&self) -> bool {
        let mut state = lock(&self.state);
        let left = state.parked.take_if(|(_, sink)| sink.is_closed());
        let stays = state.parked.is_some();
        if !stays {
            state.departures = None;
        }
        drop(state);
        drop(left);
        stays
    }

    /// Removes the session from its shared subscription and takes its parked stream, both in one step. The
    /// caller holds the lock of the members of the subscription.
    pub fn evict_from_shared(&self) -> Option<EventSink> {
        let mut state = lock(&self.state);
        state.departures = None;
        state.parked.take().map(|(_, sink)| sink)
    }
}
