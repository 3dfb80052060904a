//! Streamable HTTP: connections to a server, requests on them, and responses.
//!
//! Invariants: a connection is used by one request at a time, and not again after surplus bytes, an early
//! response or an incomplete body; a request is written at most once, unless nothing of the first attempt was
//! written.
//!
//! Does not know: what a message means, circuit breaking, or limits on in-flight calls.

mod body_source;
mod body_timer;
mod chunked;
mod connect;
mod connection;
mod encode;
mod fast_lane;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod head_check;
mod hyper_connection;
mod idle;
mod pending_write;
mod pool;
mod request_body;
mod response;
mod response_head;
mod response_timer;
mod stream;
mod tls_alert;
mod url_target;

pub use connect::{ConnectTarget, connect};
pub use response::{IdleBody, UpstreamBody, UpstreamResponse};
pub use response_head::ResponseHead;
pub use stream::Stream;
pub use url_target::{InvalidTarget, TlsRoots, UrlTarget, resolve_url};

pub use body_source::BodySource;
pub use body_timer::BodyTimeouts;
pub use encode::RequestHeads;
pub use pool::{HttpPool, HttpServer};
pub use url_target::parse_path;
