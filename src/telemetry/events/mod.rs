//! What happens, as it happens: changes of servers, calls, keys and the configuration.
//!
//! Whoever sees something happen adds an [`Event`] to the [`EventLog`]. The log numbers events and keeps the newest in memory.
//! Readers ([`EventReader`]) each have a position in it, and take what passes their filter. So a reader that stalls costs
//! nothing to others; it is told how many events it has missed.
//!
//! Invariants: adding an event never waits for a reader; the memory of the log is bounded; an event has no argument and no
//! result of a call, and no secret.
//!
//! Does not know: HTTP, or who may read which events.

mod delivery;
mod event;
mod filter;
mod log;
mod logged_event;

pub use delivery::{Receiver, SignedEvent, deliver};
pub use event::{CallEvent, Event};
pub use filter::{EventFilter, FilterError};
pub use log::{EventId, EventLog, EventRead, EventReader};
pub use logged_event::LoggedEvent;
pub use metamcp_core::base::{EventKind, Severity};
