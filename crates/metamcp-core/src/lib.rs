//! The types that every part of metamcp shares: names and faults, the vocabulary of MCP, and messages as byte spans.
//!
//! No I/O, no async runtime, no HTTP connection. The gateway, the store and the desktop bridge build on it.

pub mod base;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod http1;
pub mod protocol;
