//! The servers behind the gateway, as defined by administration.

mod operations;
mod row;

pub(super) use row::find;
pub use row::{Secrets, ServerKind, ServerRow, ServerSpec, Servers};
