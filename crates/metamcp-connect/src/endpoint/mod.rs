//! The endpoint as the bridge sees it: its messages, its session, its own requests, and the pace of retries.
//!
//! Knows nothing of the client's pipes or of connections; `super::exchange` sends and receives.

mod backoff;
mod event_stream;
mod message;
mod missed_changes;
mod param_headers;
mod requests;
mod session;

pub use backoff::backoff_delay;
pub use event_stream::EventStreamState;
pub use message::{
    EndpointMessage, error_response, error_with_id, has_error_code, parse, result, split_batch, to_line,
};
pub use missed_changes::missed_changes;
pub use param_headers::ParamHeaders;
pub use requests::EndpointRequests;
pub use session::{HandshakeGuard, HandshakeStep, LegacySession, OpenSession};
