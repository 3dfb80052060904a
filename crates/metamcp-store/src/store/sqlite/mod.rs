//! The embedded engine: one connection on its own thread, reached through a bounded channel.
//!
//! Invariant: a transaction begins and ends within one job, so that no caller can leave one open.
//!
//! Does not know: what is stored.

mod engine;
mod error;
pub mod migrate;
mod transaction;

pub use engine::{Sqlite, has_rows};
pub(super) use transaction::resolve_now;
