//! A session of the gateway's own at a Legacy server, on behalf of the Modern clients of one key that declare
//! the same capabilities: for all their calls, or for one call at a time.
//!
//! - `key`: which session a client uses.
//! - `state`: the session, its calls, and when it ends.
//! - `listeners`: clients with a subscription.
//! - `routing`: which call or listener a message of the server is for.
//! - `subscribe`: subscriptions to resources at the server.

mod key;
mod listeners;
mod routing;
mod state;
mod subscribe;

pub use key::AdapterSessionKey;
pub use routing::is_subscribable;
pub use state::{AdapterSession, ClientSlot};
pub use subscribe::update_subscription;

#[cfg(test)]
mod tests;
