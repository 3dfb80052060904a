//! Helpers around the async runtime and the allocator: gathered writes, a shared read buffer, yielding, giving memory back.
//!
//! Does not know: any other module, or the wire.

mod gather;
mod purge;
mod scratch;
mod turn;

pub use gather::poll_write_gathered;
pub use purge::Purge;
pub use scratch::with_scratch;
pub use turn::{let_others_go_first, runtime_looked};
