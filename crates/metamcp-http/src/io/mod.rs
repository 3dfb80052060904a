//! Reading and writing sockets: gathered writes, and a read buffer that a thread shares.

mod gather;
mod scratch;

pub use gather::poll_write_gathered;
pub use scratch::with_scratch;
