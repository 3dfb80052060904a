//! Where in a trace a message stands.

use bytes::Bytes;

use crate::telemetry::traces::TraceContext;
use metamcp_core::frame::{Span as Place, json_string};

/// A message that is traced.
pub struct Trace {
    /// The span of what the client asked.
    pub server: TraceContext,
    /// The span of what is asked of a server for it.
    pub client: TraceContext,
    /// The one of these that servers are told.
    pub onward: TraceContext,
    pub tracestate: Option<Box<str>>,
    /// Where `params._meta` says `traceparent`, quotes included.
    pub in_message: Option<Place>,
}

impl Trace {
    /// What is to stand in a message to a server in place of what its client wrote there.
    pub fn edit(&self) -> Option<(Place, Bytes)> {
        self.in_message.map(|place| (place, json_string(&self.onward.traceparent())))
    }
}
