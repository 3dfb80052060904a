//! The configuration of one MCP server: where it is, how it is spoken to, and the limits of its process.
//!
//! Plain data. The gateway's `upstream` and `child` modules act on it.

mod config;
mod private;
mod process_limits;
mod program;

pub use config::{EraChoice, ServerAddress, ServerConfig, ToolPinPolicy};
pub use private::{is_private, is_private_address};
pub use process_limits::{Confinement, ProcessLimits};
pub use program::{INHERITED, ProcessSettings, Program, Sharing};
