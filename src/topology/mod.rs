//! The servers and endpoints that are served, as one immutable version, and how the next version is made.
//!
//! Invariants: a topology never changes after it is made; a change publishes the next one. Ids come from
//! counters that never decrease, so for the life of the process an id means the same server, or the same
//! endpoint over the same servers. Everything unchanged keeps its id, and with it its connections, lists and
//! sessions.
//!
//! Does not know: where the lists of servers and endpoints come from, who follows a new version, or which
//! requests are in flight.

mod builder;
mod changes;
mod error;
mod pools;
#[cfg(test)]
mod tests;
mod version;

pub use builder::TopologyBuilder;
pub use changes::{NameChanges, TopologyChanges};
pub use error::TopologyError;
pub use pools::UpstreamPools;
pub use version::Topology;
