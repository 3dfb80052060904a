//! One worker thread: its caches, clock, pools and parked connections, and what all workers share.
//!
//! Invariants: nothing in a worker is locked or used by another thread; workers share snapshots and padded counters only.
//!
//! Does not know: requests, or MCP.

pub mod parking;
pub mod worker;

pub use worker::{Shared, Worker};
