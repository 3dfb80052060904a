//! Helpers for the async runtime and the allocator: gathered writes, a shared read buffer, yielding, returning memory.
//!
//! Does not know: any other module, or the wire.

mod gather;
mod purge;
mod scratch;
mod turn;

pub use gather::poll_write_gathered;
pub use purge::MemoryPurger;
pub use scratch::with_scratch;
pub use turn::{await_socket_polls, yield_once};
