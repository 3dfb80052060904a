//! What is known of one event stream of the endpoint while it is read, across reconnections.

use std::time::Duration;

use http::HeaderValue;

use super::backoff::backoff_delay;
use metamcp_core::frame::Event;

/// The delay before a reconnection when the endpoint names none (`retry:`): an endpoint that ends its streams
/// at once is not to be flooded.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);

/// The longest delay that an endpoint may ask for.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// The state of one event stream: where to resume it, and what has arrived on it.
#[derive(Default)]
pub struct EventStreamState<'a> {
    /// The id of the client's request that the stream answers; `None` for a session's own stream.
    pub request_id: Option<&'a [u8]>,
    /// The event to resume after, if the endpoint gave ids.
    pub last_event_id: Option<HeaderValue>,
    /// The delay before a reconnection, if the endpoint named one.
    retry: Option<Duration>,
    /// Whether an event has arrived since the stream was last opened.
    pub is_alive: bool,
    /// Whether the stream broke before it was last opened, so that messages may have been missed.
    pub is_broken: bool,
    /// Whether a subscription was acknowledged; the client must not see a second acknowledgement.
    pub is_acknowledged: bool,
}

impl<'a> EventStreamState<'a> {
    /// The state of a stream that answers the request with this id.
    pub fn for_request(id: &'a [u8]) -> Self {
        Self { request_id: Some(id), ..Self::default() }
    }

    /// Records the fields of an event.
    pub fn record(&mut self, event: &Event) {
        self.is_alive = true;
        if let Some(id) = &event.id {
            // An empty id resets the last one (HTML Standard, server-sent events).
            self.last_event_id =
                HeaderValue::from_maybe_shared(id.clone()).ok().filter(|value| !value.is_empty());
        }
        self.retry = event.retry.map(Duration::from_millis).or(self.retry);
    }

    /// The delay before the next reconnection, after `tries` failures.
    pub fn retry_delay(&self, tries: u32) -> Duration {
        self.retry.unwrap_or(RETRY_DEFAULT).min(RETRY_MAX).max(backoff_delay(tries))
    }
}
