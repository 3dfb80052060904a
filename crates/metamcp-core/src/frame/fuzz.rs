//! The bodies of the fuzz targets for messages and streams. Each panics if an invariant does not hold.

mod event_stream;
mod framed_stream;
pub(in crate::frame) mod generator;
mod scan;
mod splice;

pub use event_stream::event_stream;
pub use framed_stream::framed_stream;
pub use generator::generate;
pub use scan::{parser_agrees, scan};
pub use splice::splice;

/// Scans a message that is made from the decisions in the bytes: nearly valid, with members in any order and form.
pub fn generated(bytes: &[u8]) -> bool {
    scan(&generate(bytes))
}

#[cfg(test)]
mod tests;
