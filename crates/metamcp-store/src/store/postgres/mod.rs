//! The engine for more than one replica: a small pool of connections to PostgreSQL 14 or newer.
//!
//! Invariants:
//! - Every wait has a time limit on this side too, since a server that hangs does not enforce its own timeouts.
//! - A connection that was abandoned in the middle of an operation is closed and never reused.
//! - Connections are driven by the runtime that opened the store, whoever uses them.
//!
//! Does not know: what is stored.

mod connector;
mod engine;
mod error;
mod listen;
pub mod migrate;
mod tls;
mod transaction;
mod url;
mod value;

pub use engine::Postgres;
pub use migrate::ForeignTables;
