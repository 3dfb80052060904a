//! A client's session with a server that has no sessions of its own.
//!
//! - `state`: the session, what changes in it, and how tasks wait for a change.
//! - `calls`: calls in flight, and input that the client was asked for.
//! - `streams`: the client's GET stream: parked, in a shared subscription, or dedicated to this session.
//! - `filter`: the resources that the client subscribed to.
//!
//! Invariant: everything that waits in a session ends when the session ends.

mod calls;
mod features;
mod filter;
mod introduction;
mod state;
mod streams;

pub use calls::{InFlightCall, PendingInput};
pub use features::SessionFeatures;
pub use introduction::ClientIntroduction;
pub use state::{ListenerGuard, Session, SubscriptionKey};
pub use streams::DedicatedStream;

#[cfg(test)]
pub mod tests;
