//! What every module may know: names, faults, bounds.
//!
//! Does not know: any other module of this crate, sockets, or the wire.

mod fault;
mod names;
mod phase;

pub use fault::{Fault, Kind, Origin, Scope};
pub use names::{EndpointName, InvalidName, ServerName};
pub use phase::Phase;
