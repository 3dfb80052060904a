//! Configuration: combines flags, the environment, `.env`, `metamcp.toml` and `mcp.json` into one [`Config`].
//!
//! Two stages: `raw` reads what was written, and `resolve` turns it into a `Config`. Invariants: one run
//! reports every error; an error names its location and what to write instead, and never quotes an address, a
//! header or a variable; the environment of the process is never changed; every value of a `Config` is within
//! its range (`defaults`, `server::settings`).
//!
//! `sections` and `server` are plain data for every crate, and `certificates` reads the files of TLS for all; the rest is for
//! the programs. Does not know how the other
//! modules use their configuration, the store, or the secrets that the first start generates.

mod cli;
mod load;
mod raw;
mod log_filter;
mod records;
mod resolve;
mod types;

pub mod certificates;
mod connect;
mod database;
mod defaults;
mod describe;
mod endpoints;
mod env_file;
mod expand;
pub mod mcp_json;
mod json_log;
mod mcp_json_entries;
mod memory_limit;
mod mistakes;
mod own_address;
mod process;
mod rfc3339;
mod section;
pub mod sections;
pub mod server;
mod servers;
pub mod strict_json;
mod suggest;
mod tls;
mod endpoint_members;
mod traces;
mod upstream_tls;
mod webhooks;

pub use cli::{BUILD_VERSION, Cli, Command, ConnectArgs, ConnectCli, Flags, Secret, StdioArgs, help, parse};
pub use connect::{ConnectConfig, load_connect};
pub use database::{DatabaseConfig, is_postgres_url};
pub use describe::Summary;
pub use load::{load, load_base};
pub use mistakes::{ConfigError, ConfigErrors, ConfigNotice, SourceLocation};
pub use raw::{Env, ProcessEnv};
pub use rfc3339::format_time;
pub use types::{AuthTiming, Base, Config, EXIT_USAGE, LogConfig, LogFormat, SecretPlaces};

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[cfg(test)]
mod tests;
