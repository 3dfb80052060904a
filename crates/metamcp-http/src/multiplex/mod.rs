//! What the transports with one shared channel per server or session (stdio, HTTP+SSE) need to look like
//! Streamable HTTP to the rest of the gateway: a POST, GET or DELETE in, a response out. Calls of many
//! clients are multiplexed over the channel under ids and progress tokens of our own.
//!
//! Invariants: a response is never dropped because a client is slow; ids that a server sees are never used
//! twice on one channel, and the client's ids come back as they were written.
//!
//! Does not know: how the server is reached.

mod backoff;
mod cancel_guard;
mod client_stream;
mod event_channel;
mod in_flight;
mod local_response;
mod message;
mod response_sink;
mod splice;

pub use cancel_guard::CancelGuard;
pub use event_channel::{EventSink, EventSource, event_channel, event_channel_with_capacity};
pub use local_response::{CallOutcome, HttpOperation, LocalBody, LocalResponse};

pub use backoff::Backoff;
pub use client_stream::ClientStream;
pub use in_flight::{CallEntry, PendingCalls, REQUEST_ID_BYTES_MAX, ServerRequests, TOO_MANY_REQUESTS};
pub use message::{encode_cancellation, encode_error, encode_pong, known_method, new_session_id, raw_id};
pub use response_sink::ResponseSink;
pub use splice::{replace_line_breaks, splice, splice_event, splice_into};
