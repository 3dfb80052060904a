//! What every module may know: names, faults, phases, and how small slices are written.
//!
//! Does not know: any other module of this crate, or the wire.

mod fault;
mod gather;
mod glob;
mod names;
mod phase;
mod turn;

pub use fault::{Fault, Kind, Origin, Scope};
pub use gather::poll_write_gathered;
pub use glob::{GLOB_CHARS_MAX, Glob, InvalidGlob};
pub use names::{EndpointName, InvalidName, ServerName};
pub use phase::Phase;
pub use turn::let_others_go_first;
