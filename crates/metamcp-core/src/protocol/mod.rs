//! The words of MCP: revisions, eras, methods, codes, headers, capabilities.
//!
//! Vocabulary only. Does not know: sockets, upstreams, sessions, or how a message is framed.
//!
//! Source: the Model Context Protocol, revisions 2024-11-05 to 2026-07-28.

mod capabilities;
pub mod code;
pub mod header;
mod id;
mod method;
mod number;
pub mod param;
mod revision;
mod wish;

pub use capabilities::ClientCapabilities;
pub use id::is_same_id;
pub use method::McpMethod;
pub use number::{UNNUMBERED, method_name, method_number};
pub use revision::{Era, Revision};
pub use wish::SubscriptionFilter;

/// From servers, of a resource that clients subscribed to.
pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";

/// The extension by which a server of 2026-07-28 answers a call later (SEP-2663).
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";
