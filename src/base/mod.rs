//! What every module may know: names, faults, bounds.
//!
//! Does not know: any other module of this crate, sockets, or the wire.

mod names;

pub use names::{EndpointName, InvalidName, ServerName};
