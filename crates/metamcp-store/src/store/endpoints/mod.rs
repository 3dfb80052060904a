//! Endpoints: named sets of servers, with filters and overrides of their tools.
//!
//! Invariant: an endpoint and everything that belongs to it have one version and one seal, and change in one
//! transaction.
//!
//! Does not know: what a glob matches, or which tools exist.

mod change;
mod operations;
mod row;

pub(super) use change::{reseal_all, with_server};
pub(super) use row::find;
pub use row::{EndpointRow, EndpointServer, EndpointSpec, Endpoints, PrefixMode, ToolOverride};
