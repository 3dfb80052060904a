//! Helpers for the async runtime and the allocator: yielding, and returning memory.
//!
//! Does not know: any other module, or the wire.

mod purge;
mod turn;

pub use purge::{BlockingError, LargeMessage, MemoryPurger, run_blocking};
pub use turn::{await_socket_polls, yield_once};
