//! One worker thread: its caches, clock, pools and parked connections, and what all workers share.
//!
//! Invariants: nothing in a worker is locked or used by another thread; workers share snapshots and padded counters only.
//!
//! Does not know: requests, or MCP.

pub mod clock;
pub mod credential_cache;
pub mod metering;
pub mod parking;
pub mod revocable_calls;
pub mod session_cache;
pub mod settings;
mod shared;
pub mod topology_follower;
pub mod worker;

pub use metering::Metering;
pub use session_cache::SessionCache;
pub use settings::HttpSettings;
pub use shared::SharedState;
pub use topology_follower::TopologyFollower;
pub use worker::Worker;
