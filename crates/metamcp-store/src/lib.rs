//! What metamcp keeps, and what guards it: the store, API keys and sealing, and the definitions of servers and
//! endpoints.
//!
//! The modules are listed in the order of dependence: a module sees only what stands below it. The gateway and
//! keyadm build on this crate. It knows nothing of connections to clients or MCP servers.

pub mod definition;
pub mod tool_pins;
pub mod auth;
pub mod store;
