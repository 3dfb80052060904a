//! The position of a message in a trace.

use bytes::Bytes;

use crate::telemetry::traces::TraceContext;
use metamcp_core::frame::{Span as Place, json_string};

/// The trace context of a traced message.
pub struct Trace {
    /// The span of the client's request.
    pub server: TraceContext,
    /// The span of the gateway's request to a server.
    pub client: TraceContext,
    /// The one of these two that servers receive as the parent.
    pub onward: TraceContext,
    pub tracestate: Option<Box<str>>,
    /// The span of `traceparent` in `params._meta`, quotes included.
    pub in_message: Option<Place>,
}

impl Trace {
    /// The edit that replaces the client's `traceparent`.
    pub fn edit(&self) -> Option<(Place, Bytes)> {
        self.in_message.map(|place| (place, json_string(&self.onward.traceparent())))
    }
}
