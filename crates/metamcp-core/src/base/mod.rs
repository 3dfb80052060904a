//! What every module may know: names, faults, phases, units, and how sockets are read and written.
//!
//! Does not know: any other module of this crate, or the wire.

mod clock;
mod decimal;
mod fault;
mod glob;
mod names;
mod phase;
mod recent;
mod take_body;
pub mod units;

pub use clock::unix_seconds;
pub use decimal::write_decimal;
pub use fault::{Fault, FaultKind, FaultOrigin, FaultScope};
pub use glob::{GLOB_CHARS_MAX, Glob, InvalidGlob};
pub use names::{EndpointName, InvalidName, ServerName};
pub use phase::ShutdownPhase;
pub use recent::RecentInterner;
pub use take_body::BodyReader;
