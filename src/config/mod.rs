//! Configuration: from flags, environment, `.env`, `metamcp.toml` and `mcp.json` to one [`Config`], ready
//! to run.
//!
//! Two stages: `raw` holds what was written, `resolve` makes a `Config` of it. Invariants: every mistake
//! is found in one run and none hides another; a message names the place and what to write instead, and
//! never quotes an address, a header or a variable; the environment of the process is never changed; where
//! there is a `Config`, every value in it is inside its bounds (`defaults`).
//!
//! Does not know: what the parts do with their configuration, the store, or the secrets that a first start
//! generates. Only `app` and `main` know this module.

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

use crate::admin::Scrapes;
use crate::admin::definition::Serving;
use crate::admin::definition::bounds::DEFAULTS;
use crate::base::ServerName;
use crate::{auth, bridge, catalog, limits, route, server, session, store, telemetry, upstream};

pub use cli::{Cli, Command, ConnectArgs, Flags, Secret, StdioArgs, help, parse};
pub use connect::{Connect, load_connect};
pub use describe::Summary;
pub use mistakes::{Mistake, Mistakes, Notice, Place};
pub use raw::{Env, ProcessEnv};

/// Everything the program is told, ready to run.
#[derive(Clone)]
pub struct Config {
    /// Where the database and the generated secrets are. May not exist yet.
    pub data_dir: PathBuf,
    /// The data plane.
    pub server: server::Config,
    /// The MCP servers, those of `metamcp.toml` first, in the order written.
    pub servers: Vec<upstream::Config>,
    /// The endpoints that were written. Where nobody defines `default`, it has every server.
    pub endpoints: Vec<route::EndpointConfig>,
    /// Served while there is no other server.
    pub stand_in: Option<upstream::Config>,
    /// What is done for servers that are defined in the store.
    pub serving: Serving,
    /// Bounds of the catalog.
    pub catalog: catalog::Config,
    /// Bounds of sessions.
    pub session: session::Config,
    /// Bounds of what stands between the eras.
    pub bridge: bridge::Config,
    /// Limits per key.
    pub limits: limits::Config,
    /// How long what was used and what was changed is told.
    pub retention: store::Retention,
    /// Whether a credential is asked for. `Open` only where `server.listen` is loopback.
    pub auth_mode: auth::Mode,
    /// The parts of `auth::Config` that are no secrets.
    pub auth_timing: AuthTiming,
    /// `ENCRYPTION_KEY` as given: `auth` knows its form, and generates one where there is none.
    pub encryption_key: Option<Zeroizing<String>>,
    /// `JWT_SECRET` as given, at least 32 bytes; `auth` generates one where there is none.
    pub jwt_secret: Option<Zeroizing<Vec<u8>>>,
    /// How and what is logged.
    pub log: LogConfig,
    /// Whether there are metrics, and who may look at them.
    pub scrapes: Scrapes,
    /// What is traced, and who is told; `None`: nothing is.
    pub traces: Option<telemetry::traces::Config>,
    /// `DATABASE_URL`, beginning with `postgres://` or `postgresql://`; SQLite where there is none.
    pub database_url: Option<Zeroizing<String>>,
    /// The files that were read.
    pub sources: Vec<PathBuf>,
    /// What was left out or renamed, to be said at the start.
    pub skipped: Vec<Notice>,
}

/// How long credentials are believed, and how much hashing may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthTiming {
    /// Lifetime of a token.
    pub token_lifetime: Duration,
    /// argon2 runs at once.
    pub hash_permits: usize,
    /// Verifications that may wait for a permit.
    pub hash_queue_max: usize,
    /// How long a key once verified by argon2 is believed without it.
    pub verified_for: Duration,
}

/// How and what is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// A filter in the form of `RUST_LOG`, known to parse.
    pub filter: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the store and the keys need to be reached: for tools beside the gateway, which must work even where
/// `metamcp.toml` has a mistake.
#[derive(Clone)]
pub struct Base {
    /// See [`Config::data_dir`]; `None` where nothing says, which a database elsewhere can do without.
    pub data_dir: Option<PathBuf>,
    /// See [`Config::database_url`].
    pub database_url: Option<Zeroizing<String>>,
    /// See [`Config::encryption_key`].
    pub encryption_key: Option<Zeroizing<String>>,
    /// As written: see [`Config::jwt_secret`].
    pub jwt_secret: Option<Zeroizing<String>>,
}

/// The exit code for a command line or a configuration that is wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Reads everything and gives a configuration or all mistakes. `cwd` (absolute) is where relative paths
/// begin and where `.env`, `metamcp.toml` and `mcp.json` are looked for first.
pub fn load(cli: &Cli, env: &dyn Env, cwd: &Path) -> Result<Config, Mistakes> {
    let report = mistakes::Report::default();
    let raw = raw::Raw::read(&cli.flags, env, cwd, &report);
    resolve::resolve(&raw, report)
}

/// Reads the environment and `.env` only. `data_dir`: what a flag says, before all else.
pub fn load_base(data_dir: Option<&Path>, env: &dyn Env, cwd: &Path) -> Result<Base, Mistakes> {
    let report = mistakes::Report::default();
    let variables = raw::Variables::read(env, cwd, &report);
    let data_dir = raw::find_data_dir(data_dir, &variables, cwd, &report);
    let base = resolve::base(data_dir, &variables, &report);
    report.finish().map(|_| base)
}

impl fmt::Debug for Config {
    /// The summary: no secret is in it.
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
    /// Names what is served, with every default, while there is no other server.
    pub fn set_stand_in(&mut self, name: &ServerName, address: upstream::Address) {
        self.stand_in = Some(DEFAULTS.server(name.clone(), address, Vec::new()));
    }
}
