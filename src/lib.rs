//! metamcp: one authenticated endpoint in front of many MCP servers.
//!
//! The modules are listed in reading order, which is also the order of dependence: a module sees only
//! what stands below it. `tests/tidy` holds the fences; `docs/ARCHITECTURE.md` is the map.

pub mod app;
pub mod server;
pub mod admin;
pub mod bridge;
pub mod catalog;
pub mod session;
pub mod topology;
pub mod upstream;
pub mod child;
pub mod route;
pub mod limits;
pub mod journal;
pub mod telemetry;
pub mod runtime;
