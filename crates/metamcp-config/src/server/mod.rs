//! The configuration of one MCP server: where it is, how it is spoken to, and the limits of its process.
//!
//! Plain data and its validation, for servers in files and servers in the store alike. The gateway's `upstream` and
//! `child` modules act on it.

pub mod address;
mod allowlist;
mod config;
pub mod headers;
mod private;
mod process_limits;
mod program;
mod serving_policy;
pub mod settings;
mod tls;
pub mod tool_metadata;

pub use address::MODERN_OVER_SSE;
pub use allowlist::{AllowedCommand, AllowlistViolation, EnvPattern, EnvPatternError, StdioAllowlist};
pub use config::{ServerAddress, ServerConfig};
pub use headers::SEALED_PLACEHOLDER;
pub use private::{is_private, is_private_address};
pub use process_limits::{Confinement, ProcessLimits};
pub use program::{INHERITED, ProcessSettings, Program, Sharing};
pub use serving_policy::{ServingPolicy, UnservedReason};
pub use settings::{EraChoice, ServerSettings, ToolPinPolicy};
pub use tls::{TlsClientIdentity, UpstreamTls};
