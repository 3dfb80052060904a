//! Tool pins: the approved tools of each server, and those that wait for approval. One row for each server, sealed as a
//! whole, so that write access to the database is not enough to approve a tool.
//!
//! Rows name their server and do not refer to it: most servers are defined in files.

mod operations;
mod row;

pub use row::{NewToolPins, ToolPinsRow};
pub(super) use row::{delete, find};
