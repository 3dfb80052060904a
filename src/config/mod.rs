//! Configuration: combines flags, the environment, `.env`, `metamcp.toml` and `mcp.json` into one [`Config`].
//!
//! Two stages: `raw` reads what was written, and `resolve` turns it into a `Config`. Invariants: one run
//! reports every error; an error names its location and what to write instead, and never quotes an address, a
//! header or a variable; the environment of the process is never changed; every value of a `Config` is within
//! its range (`defaults`).
//!
//! Does not know how the other modules use their configuration, the store, or the secrets that the first
//! start generates. Only `app` and `main` use this module.

mod cli;
mod raw;
mod resolve;

mod connect;
mod defaults;
mod describe;
mod endpoints;
mod expand;
mod mcp_json;
mod mistakes;
mod process;
mod section;
mod servers;
mod shows;
mod traces;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::admin::MetricsAccess;
use crate::admin::definition::ServingPolicy;
use crate::admin::definition::settings::DEFAULTS;
use crate::{auth, bridge, catalog, limits, route, server, session, store, telemetry, upstream};
use metamcp_core::base::ServerName;

pub use cli::{Cli, Command, ConnectArgs, Flags, Secret, StdioArgs, help, parse};
pub use connect::{Connect, load_connect};
pub use describe::Summary;
pub use mistakes::{Mistake, Mistakes, Notice, Place};
pub use raw::{Env, ProcessEnv};

/// The complete configuration of the gateway.
#[derive(Clone)]
pub struct Config {
    /// The directory of the database and the generated secrets. May not exist yet.
    pub data_dir: PathBuf,
    pub server: server::Config,
    /// The configured servers: those of `metamcp.toml` first, each file in its own order.
    pub servers: Vec<upstream::Config>,
    /// The configured endpoints. Without an endpoint named `default`, a default endpoint with every server is
    /// added.
    pub endpoints: Vec<route::EndpointConfig>,
    /// Served as long as no other server is configured or stored.
    pub stand_in: Option<upstream::Config>,
    /// How servers of the store are served.
    pub serving: ServingPolicy,
    pub catalog: catalog::Config,
    pub session: session::Config,
    /// Limits of the era adapters.
    pub bridge: bridge::Config,
    /// Limits per key.
    pub limits: limits::Config,
    /// How long usage and audit records are kept.
    pub retention: store::Retention,
    /// Whether a credential is required. `Open` only if `server.listen` is a loopback address.
    pub auth_mode: auth::AuthMode,
    /// The parts of `auth::Config` that are not secret.
    pub auth_timing: AuthTiming,
    /// `ENCRYPTION_KEY` as given. `auth` parses it, and generates one if it is missing.
    pub encryption_key: Option<Zeroizing<String>>,
    /// `JWT_SECRET` as given, at least 32 bytes. `auth` generates one if it is missing.
    pub jwt_secret: Option<Zeroizing<Vec<u8>>>,
    pub log: LogConfig,
    /// Whether metrics are collected, and who may read them.
    pub scrapes: MetricsAccess,
    /// The trace exporter. `None` if nothing is traced.
    pub traces: Option<telemetry::traces::TraceConfig>,
    /// `DATABASE_URL`, beginning with `postgres://` or `postgresql://`. Without it the store is SQLite.
    pub database_url: Option<Zeroizing<String>>,
    /// The files that were read.
    pub sources: Vec<PathBuf>,
    /// Entries that were skipped or renamed, to be logged at startup.
    pub skipped: Vec<Notice>,
}

/// How long credentials are cached, and how many hashes may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthTiming {
    /// The lifetime of a token.
    pub token_lifetime: Duration,
    /// The number of concurrent argon2 runs.
    pub hash_permits: usize,
    /// Verifications that may wait for a permit.
    pub hash_queue_max: usize,
    /// How long a key verified by argon2 is accepted without hashing it again.
    pub verified_for: Duration,
}

/// The log format and filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A filter in the syntax of `RUST_LOG`, known to parse.
    pub filter: String,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is needed to open the store and its secrets. For tools such as keyadm, which must work even if
/// `metamcp.toml` has errors.
#[derive(Clone)]
pub struct Base {
    /// See [`Config::data_dir`]. `None` if nothing sets it, which a remote database does not need.
    pub data_dir: Option<PathBuf>,
    /// See [`Config::database_url`].
    pub database_url: Option<Zeroizing<String>>,
    /// See [`Config::encryption_key`].
    pub encryption_key: Option<Zeroizing<String>>,
    /// See [`Config::jwt_secret`]; not validated.
    pub jwt_secret: Option<Zeroizing<String>>,
}

/// The exit code for an invalid command line or configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Reads the whole configuration. On failure returns every error, not only the first. `cwd` must be absolute;
/// relative paths start there, and `.env`, `metamcp.toml` and `mcp.json` are looked for there first.
pub fn load(cli: &Cli, env: &dyn Env, cwd: &Path) -> Result<Config, Mistakes> {
    let report = mistakes::Report::default();
    let raw = raw::Raw::read(&cli.flags, env, cwd, &report);
    resolve::resolve(&raw, report)
}

/// Reads the environment and `.env` only. `data_dir` is the value of a flag, which takes precedence.
pub fn load_base(data_dir: Option<&Path>, env: &dyn Env, cwd: &Path) -> Result<Base, Mistakes> {
    let report = mistakes::Report::default();
    let variables = raw::Variables::read(env, cwd, &report);
    let data_dir = raw::find_data_dir(data_dir, &variables, cwd, &report);
    let base = resolve::base(data_dir, &variables, &report);
    report.finish().map(|_| base)
}

impl fmt::Debug for Config {
    /// Prints the summary, which contains no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Summary(self), f)
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

impl Config {
    /// Sets the server that is served, with default settings, as long as there is no other.
    pub fn set_stand_in(&mut self, name: &ServerName, address: upstream::ServerAddress) {
        self.stand_in = Some(DEFAULTS.upstream_config(name.clone(), address, Vec::new()));
    }
}
