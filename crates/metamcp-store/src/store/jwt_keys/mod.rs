//! Token signing keys.

mod operations;
mod row;

pub(super) use row::find;
pub use row::{JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, NewJwtKey};
