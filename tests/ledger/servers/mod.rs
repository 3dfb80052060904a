//! Scripted servers: each executes calls, records that in the ledger, answers with what it executed, and does wrong what
//! the call asks for.

mod http;
mod message;
mod programs;
mod record;

pub use http::Server;
pub use programs::{PROGRAMS, Programs};

/// Which revisions are spoken: up to 2025-11-25, or 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}
