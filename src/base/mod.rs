//! What every module may know: names, faults, phases, units, and how sockets are read and written.
//!
//! Does not know: any other module of this crate, or the wire.

mod clock;
mod decimal;
mod fault;
mod gather;
mod glob;
mod names;
mod phase;
mod purge;
mod recent;
mod scratch;
mod take_body;
mod turn;
pub mod units;

pub use clock::unix_s;
pub use decimal::put_decimal;
pub use fault::{Fault, Kind, Origin, Scope};
pub use gather::poll_write_gathered;
pub use glob::{GLOB_CHARS_MAX, Glob, InvalidGlob};
pub use names::{EndpointName, InvalidName, ServerName};
pub use phase::Phase;
pub use purge::Purge;
pub use recent::Recent;
pub use scratch::with_scratch;
pub use take_body::TakeBody;
pub use turn::{let_others_go_first, runtime_looked};
