//! The data plane: from the listening socket to the client's last byte.
//!
//! Invariants: on a request's path, workers share nothing but snapshots and padded counters; what a request
//! holds is released after the last byte of its answer was taken from the upstream; nothing reaches an
//! upstream before the credential, the message and its headers were checked.
//!
//! Does not know: the store, the control plane, or where configuration comes from. `handler::forward` shows
//! the path of a request.

mod eras;
mod http1;
mod mcp;
mod net;
mod path;
mod reply;
mod streams;
mod tls;
mod worker;

pub use http1::control_plane::{ControlBody, ControlRequest, ControlResponse, ControlService};
#[cfg(any(test, feature = "fuzzing"))]
pub use http1::fuzz;
pub use net::listener::{ListenError, ListenTarget, Workers, start};
pub use net::listening_sockets::ListeningSockets;
pub use reply::body::ResponseBody;
pub use tls::{ReloadOutcome, ServerTls};
pub use worker::{HttpSettings, SharedState, Worker};
