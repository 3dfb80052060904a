//! Translation between the two eras of MCP: lets clients of one era use servers of the other.
//!
//! An adapter makes a server of one era look like a Streamable HTTP server of the other, as `upstream::stdio`
//! makes a child process look like one. It sits behind `UpstreamPool::send` and sends its own requests
//! through the same pool, so it works with every kind of server.
//!
//! Invariants: a server learns of no capability that the client did not declare; what a server sends to one
//! client never reaches another; everything that waits is bounded in number and in time; requests to a server
//! of the client's own era never come here.
//!
//! Does not know: HTTP towards clients, endpoints, or how tools are named there.

mod legacy_adapter;
mod modern_adapter;

pub use legacy_adapter::LegacyAdapter;
pub use modern_adapter::ModernAdapter;
#[cfg(any(test, feature = "fuzzing"))]
pub use modern_adapter::fuzz;
