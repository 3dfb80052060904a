//! Upstreams: the MCP servers behind the gateway and the connections to them.
//!
//! A [`UpstreamPool`] sends a request over the server's transport: `http`, `sse` or `stdio`. The latter two
//! use `metamcp_http::multiplex` to look like Streamable HTTP.
//!
//! Invariants: in-flight calls to one server are bounded and take nothing from another; a request is sent at
//! most once, unless nothing of the first attempt was written.
//!
//! Does not know: clients and their sessions, what a key may do, or, except for `stdio` and `sse`, what a
//! message means.

mod breaker;
mod era;
mod id;
mod message_limit;
mod pool;
mod sse;
pub mod stdio;
mod surroundings;
mod transport;

pub use breaker::{UpstreamFailure, UpstreamStatus};
pub use id::UpstreamId;
pub use message_limit::MESSAGES_IN_FLIGHT_MAX;
pub use pool::{EraAdapter, ResponseFuture, Upstream, UpstreamPool};
pub use surroundings::Surroundings;
