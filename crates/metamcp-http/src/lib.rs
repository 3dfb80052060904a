//! Requests to MCP servers over HTTP, and what makes other transports look like it.
//!
//! Invariants: a request is sent at most once, unless nothing of the first attempt was written; an error says whether
//! the server may have acted on the request.
//!
//! Does not know: clients and their sessions, what a key may do, or how a server process is run.

pub mod client;
pub mod multiplex;
mod request;
mod trace_fields;
mod limit;
mod error;
pub mod io;

pub use client::{
    ConnectTarget, HttpPool, HttpServer, IdleBody, InvalidTarget, RequestHeads, ResponseHead, Stream,
    TlsRoots, UpstreamBody, UpstreamResponse, UrlTarget, connect, parse_path, resolve_url,
};
pub use error::{FailureStage, UpstreamError};
pub use limit::{InFlightLimit, InFlightPermit};
pub use request::{RequestKind, UpstreamRequest};
pub use trace_fields::TraceFields;
