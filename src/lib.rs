//! metamcp: one authenticated endpoint in front of many MCP servers.
//!
//! The modules are listed in reading order, which is also the order of dependence: a module sees only
//! what stands below it. `tests/tidy.rs` holds the fences; `docs/ARCHITECTURE.md` is the map.

pub mod auth;
pub mod backend;
pub mod base;
pub mod catalog;
pub mod config;
pub mod frame;
pub mod limits;
pub mod route;
pub mod server;
pub mod session;
pub mod store;
