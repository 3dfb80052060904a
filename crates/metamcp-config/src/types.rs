//! The configuration that the rest of the program gets: complete, validated, with defaults filled in.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use metamcp_core::base::ServerName;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, fmt};
use zeroize::Zeroizing;

use super::database::DatabaseConfig;
use super::json_log::JsonLines;
use super::log_filter;
use super::mistakes::{ConfigNotice, SourceLocation};
use crate::sections::MetricsAccess;
use crate::sections::{AuthMode, RetentionPolicy};
use crate::sections::{
    BridgeConfig, CatalogConfig, EndpointConfig, HttpConfig, LimitsConfig, RecordsConfig, SessionConfig,
    TraceConfig, WebhookConfig,
};
use crate::server::ServerConfig;
use crate::server::ServingPolicy;
use crate::server::settings::DEFAULTS;

/// The exit code for an invalid command line or configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// The complete configuration of the gateway.
#[derive(Clone)]
pub struct Config {
    /// The directory of the database and the generated secrets. May not exist yet.
    pub data_dir: PathBuf,
    pub server: HttpConfig,
    /// The configured servers: those of `metamcp.toml` first, each file in its own order.
    pub servers: Vec<ServerConfig>,
    /// The configured endpoints. Without an endpoint named `default`, a default endpoint with every server is
    /// added.
    pub endpoints: Vec<EndpointConfig>,
    /// Served as long as no other server is configured or stored.
    pub fallback_server: Option<ServerConfig>,
    /// How servers of the store are served.
    pub serving_policy: ServingPolicy,
    pub catalog: CatalogConfig,
    pub session: SessionConfig,
    /// Limits of the era adapters.
    pub bridge: BridgeConfig,
    pub limits: LimitsConfig,
    /// How long usage and audit records are kept.
    pub retention: RetentionPolicy,
    /// Whether a credential is required. `Open` only if `server.listen` is a loopback address.
    pub auth_mode: AuthMode,
    /// The parts of `auth::Config` that are not secret.
    pub auth_timing: AuthTiming,
    /// `ENCRYPTION_KEY` as given. `auth` parses it, and generates one if it is missing.
    pub encryption_key: Option<Zeroizing<String>>,
    /// `JWT_SECRET` as given, at least 32 bytes. `auth` generates one if it is missing.
    pub jwt_secret: Option<Zeroizing<Vec<u8>>>,
    pub secret_places: SecretPlaces,
    pub log: LogConfig,
    /// Whether metrics are collected, and who may read them.
    pub metrics_access: MetricsAccess,
    /// The trace exporter. `None` if nothing is traced.
    pub traces: Option<TraceConfig>,
    /// Where the records of calls go. `None` if calls are not recorded.
    pub records: Option<RecordsConfig>,
    /// Where events are posted to.
    pub webhooks: Vec<WebhookConfig>,
    /// The PostgreSQL database. Without it the store is SQLite.
    pub database: Option<DatabaseConfig>,
    /// The files that were read.
    pub sources: Vec<PathBuf>,
    /// The files that are read if they exist, in the order in which they are looked for.
    pub candidates: Vec<PathBuf>,
    /// Those of `candidates` that were looked for and do not exist.
    pub missing: Vec<PathBuf>,
    /// When the files began to be read.
    pub loaded_at: SystemTime,
    /// Entries that were skipped or renamed, to be logged at startup.
    pub notices: Vec<ConfigNotice>,
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
    /// Lines of text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Replaces the filter of the installed subscriber, which is one for the whole process.
static REPLACE_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Keeps the handle of the first subscriber, which is the one that is installed.
fn note_filter_handle<S: 'static>(handle: Handle<EnvFilter, S>) {
    // It fails only if the subscriber is gone.
    let _ = REPLACE_FILTER.set(Box::new(move |filter| drop(handle.reload(filter))));
}

impl LogConfig {
    /// Installs the process-wide log subscriber, which writes to standard error. Only the first call has an effect.
    pub fn install(&self) -> Result<(), ParseError> {
        let filter = log_filter::parse(&self.filter)?;
        let subscriber = fmt::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
        // On a terminal, `NO_COLOR` decides (https://no-color.org), which the subscriber reads.
        let subscriber = if io::stderr().is_terminal() { subscriber } else { subscriber.with_ansi(false) };
        // An error means that a subscriber is installed already, as when several tests share a process.
        let _ = match self.format {
            LogFormat::Text => {
                let subscriber = subscriber.with_filter_reloading();
                note_filter_handle(subscriber.reload_handle());
                subscriber.try_init()
            }
            LogFormat::Json => {
                let subscriber = subscriber.event_format(JsonLines).with_filter_reloading();
                note_filter_handle(subscriber.reload_handle());
                subscriber.try_init()
            }
        };
        Ok(())
    }

    /// Replaces the filter of the installed subscriber. Does nothing before [`Self::install`].
    pub fn apply_filter(&self) -> Result<(), ParseError> {
        let filter = log_filter::parse(&self.filter)?;
        if let Some(replace) = REPLACE_FILTER.get() {
            replace(filter);
        }
        Ok(())
    }
}

/// What is needed to open the store and its secrets. For tools such as keyadm, which must work even if
/// `metamcp.toml` has errors.
#[derive(Clone)]
pub struct Base {
    /// See [`Config::data_dir`]. `None` if nothing sets it, which a remote database does not need.
    pub data_dir: Option<PathBuf>,
    pub database: Option<DatabaseConfig>,
    /// Whether metamcp may create its tables beside those of other programs.
    pub is_shared_database: bool,
    pub encryption_key: Option<Zeroizing<String>>,
    /// See [`Config::jwt_secret`]; not validated.
    pub jwt_secret: Option<Zeroizing<String>>,
    pub secret_places: SecretPlaces,
}

/// Where the secrets are written. `None` for those of the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretPlaces {
    pub encryption_key: Option<SourceLocation>,
    pub jwt_secret: Option<SourceLocation>,
}

impl SecretPlaces {
    /// Those that are not in the data directory.
    pub fn elsewhere(&self) -> impl Iterator<Item = &SourceLocation> {
        self.encryption_key.iter().chain(&self.jwt_secret)
    }
}

impl Config {
    /// Sets the server that is served, with default settings, as long as there is no other.
    pub fn set_fallback_server(&mut self, name: &ServerName, address: crate::server::ServerAddress) {
        self.fallback_server = Some(ServerConfig::new(name.clone(), address, Vec::new(), DEFAULTS));
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}
