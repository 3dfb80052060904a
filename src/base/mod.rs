//! What every module may know: names, faults, phases, units, and how small slices are written.
//!
//! Does not know: any other module of this crate, or the wire.

mod fault;
mod gather;
mod names;
mod phase;
mod turn;
pub mod units;

pub use fault::{Fault, Kind, Origin, Scope};
pub use gather::poll_write_gathered;
pub use names::{EndpointName, InvalidName, ServerName};
pub use phase::Phase;
pub use turn::let_others_go_first;
