//! What the gateway tells of itself: log lines (`log`), numbers (`metrics`), and the ways of single messages (`traces`).
//!
//! Invariants: never a secret, never an argument of a call; what a request counts by is a number that was made when the
//! configuration was read, so that nothing a client says becomes a label.
//!
//! Does not know: what is logged, counted or traced, or by whom.

mod log;
pub mod metrics;
pub mod traces;

pub use log::{Format, start};
