//! What every part of metamcp speaks: names and faults, the words of the protocol, and frames as spans of bytes.
//!
//! No I/O, no async runtime, no HTTP connection: the gateway, the store and the desktop bridge build on it.

pub mod base;
pub mod frame;
pub mod protocol;
