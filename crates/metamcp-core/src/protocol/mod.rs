//! The vocabulary of MCP: revisions, eras, methods, error codes, headers and capabilities; and calls in flight, by
//! their ids.
//!
//! Does not know: sockets, upstreams, sessions, or the encoding of messages.
//!
//! Source: the Model Context Protocol, revisions 2024-11-05 to 2026-07-28.

mod answer;
mod calls_by_id;
mod calls_by_number;
mod capabilities;
mod log_level;
pub mod code;
pub mod header;
mod message_id;
mod method;
mod method_number;
pub mod header_param;
mod revision;
mod subscription_filter;

#[cfg(any(test, feature = "fuzzing"))]
pub use answer::texts_agree;
pub use answer::{AnswerMatch, AnswerReader, add_answer_id, answer_id_edit};
pub use calls_by_id::{CallsById, InsertError};
pub use calls_by_number::{CallsByNumber, parse_call_number};
pub use capabilities::ClientCapabilities;
pub use log_level::LogLevel;
pub use message_id::is_same_id;
pub use method::McpMethod;
pub use method_number::{UNNUMBERED, method_name, method_number};
pub use revision::{Era, Revision};
pub use subscription_filter::SubscriptionFilter;

/// Sent by servers when a subscribed resource changed.
pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";

/// The extension for calls that complete later (SEP-2663).
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";
