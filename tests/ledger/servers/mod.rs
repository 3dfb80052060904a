//! Scripted servers: each executes calls, records that in the ledger, answers with what it executed, and does wrong what
//! the call asks for.

mod http;
mod message;
mod programs;
mod record;
mod server;
mod sse;
mod tasks;

pub use programs::{PROGRAMS, Programs};
pub use server::{Script, Server};

/// Which revisions are spoken: up to 2025-11-25, or 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}

/// How a server over HTTP is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP.
    Http,
    /// Streamable HTTP over a Unix socket.
    HttpUnix,
    /// The HTTP+SSE transport of 2024-11-05.
    Sse,
}
