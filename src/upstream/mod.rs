//! Upstreams: the MCP servers behind the gateway and the connections to them.
//!
//! A [`UpstreamPool`] sends a request over the server's transport: `http`, `sse` or `stdio`. The latter two
//! use `multiplex` to look like Streamable HTTP.
//!
//! Invariants: in-flight calls to one server are bounded and take nothing from another; a request is sent at
//! most once, unless nothing of the first attempt was written.
//!
//! Does not know: clients and their sessions, what a key may do, or, except for `stdio` and `sse`, what a
//! message means.

mod breaker;
mod era;
mod error;
mod http;
mod id;
mod limit;
pub mod multiplex;
mod pool;
mod request;
mod sse;
pub mod stdio;
mod trace_fields;
mod transport;

pub use breaker::{UpstreamFailure, UpstreamStatus};
pub use error::{FailureStage, UpstreamError};
pub use http::{
    ConnectTarget, IdleBody, InvalidTarget, ResponseHead, Stream, TlsRoots, UpstreamBody, UpstreamResponse,
    UrlTarget, connect, resolve_url,
};
pub use id::UpstreamId;
pub use pool::{EraAdapter, ResponseFuture, Upstream, UpstreamPool};
pub use request::{RequestKind, UpstreamRequest};
pub use trace_fields::TraceFields;
