//! API keys: their grants, and what verifies them.
//!
//! Invariants: the raw key never reaches the store. The epoch of a row advances with every change that revokes its tokens
//! and streams, and not when the row is only re-sealed or gets a successor. All columns that decide what a key may do
//! are sealed. A row that does not open can be disabled and deleted, and nothing else.
//!
//! Does not know: the contents of a sealed hash.

mod change;
mod operations;
mod row;

pub(super) use change::open_hash;
pub use change::{OldKeyPolicy, Rotation};
pub(super) use row::find;
pub use row::{Grants, KeyRequest, KeyRow, KeyStatus, Keys, NewKey, Rate, Role};
