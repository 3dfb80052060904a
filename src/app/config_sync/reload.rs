//! Loads the configuration again while the gateway runs.

use std::path::PathBuf;

use metamcp_config::{Config, ConfigErrors};
use metamcp_core::base::LogList;

/// Loads the configuration in the same way as at startup.
pub type ConfigLoader = Box<dyn Fn() -> Result<Config, ConfigErrors>>;

/// Mistakes that are logged for one load; a file with more of them is not a configuration.
const MISTAKES_LOGGED_MAX: usize = 100;

/// What a reload logs when it has changed nothing.
pub const NOT_RELOADED: &str = "configuration not reloaded; the last one stays in force";

/// Loads the configuration and logs its notices; `None` if it has a mistake, or if a file has vanished that the last one was
/// read from (`last_sources`). `running` is the configuration that the gateway was started with: [`restart_settings`] stay in
/// force until a restart.
pub fn reload(load_config: &ConfigLoader, running: &Config, last_sources: &[PathBuf]) -> Option<Config> {
    match load_config() {
        Ok(config) if has_vanished(&config, last_sources) => None,
        Ok(config) => {
            for notice in &config.notices {
                tracing::warn!("{notice}");
            }
            let settings = restart_settings(running, &config);
            if !settings.is_empty() {
                tracing::warn!(settings = ?LogList(&settings), "changed settings take effect after a restart");
            }
            Some(config)
        }
        Err(mistakes) => {
            for mistake in mistakes.iter().take(MISTAKES_LOGGED_MAX) {
                tracing::error!("{mistake}");
            }
            let count = mistakes.len();
            tracing::error!(mistakes = count, "{NOT_RELOADED}");
            None
        }
    }
}

/// Whether a file of the last configuration does not exist any more, which is logged. It may be on its way back, as during
/// an `mv` or while a volume is not mounted; without it, its servers and limits would be gone, and so would the watch.
fn has_vanished(loaded: &Config, last_sources: &[PathBuf]) -> bool {
    let vanished: Vec<_> = last_sources.iter().filter(|path| loaded.missing.contains(path)).collect();
    for path in &vanished {
        let file = path.display();
        tracing::error!(%file, "a configuration file has vanished: put it back, or restart to run without it");
    }
    if !vanished.is_empty() {
        tracing::error!(mistakes = vanished.len(), "{NOT_RELOADED}");
    }
    !vanished.is_empty()
}

/// The space for resumable streams is reserved at startup. Whether there is any is a setting of its own.
fn differs_in_resume_bytes(running: &Config, loaded: &Config) -> bool {
    match (&running.session.streams, &loaded.session.streams) {
        (Some(was), Some(is)) => was.bytes_max != is.bytes_max,
        _ => false,
    }
}

/// The address of the database server, wherever it is written.
fn database_url(config: &Config) -> Option<&str> {
    config.database.as_ref().map(|database| database.url.as_str())
}

fn accepts_foreign_tables(config: &Config) -> bool {
    config.database.as_ref().is_some_and(|database| database.is_shared)
}

/// Returns the settings that differ and need a restart, by their names in `metamcp.toml` or in the environment.
fn restart_settings(running: &Config, loaded: &Config) -> Vec<&'static str> {
    let (was, is) = (&running.server, &loaded.server);
    let differs = [
        ("server.host", was.listen.ip() != is.listen.ip()),
        ("server.port", was.listen.port() != is.listen.port()),
        ("server.workers", was.workers != is.workers),
        ("server.tls", was.tls.is_some() != is.tls.is_some()),
        ("session.resume", running.session.streams.is_some() != loaded.session.streams.is_some()),
        ("session.resume_bytes_max", differs_in_resume_bytes(running, loaded)),
        ("auth.mode", running.auth_mode != loaded.auth_mode),
        ("auth.hash_permits", running.auth_timing.hash_permits != loaded.auth_timing.hash_permits),
        ("auth.hash_queue_max", running.auth_timing.hash_queue_max != loaded.auth_timing.hash_queue_max),
        ("telemetry.metrics", running.metrics_access != loaded.metrics_access),
        ("telemetry.traces", running.traces != loaded.traces),
        ("records", running.records != loaded.records),
        ("webhooks", running.webhooks != loaded.webhooks),
        ("log.format", running.log.format != loaded.log.format),
        ("data directory", running.data_dir != loaded.data_dir),
        ("ENCRYPTION_KEY", running.encryption_key != loaded.encryption_key),
        ("JWT_SECRET", running.jwt_secret != loaded.jwt_secret),
        ("DATABASE_URL", database_url(running) != database_url(loaded)),
        ("METAMCP_SHARED_DATABASE", accepts_foreign_tables(running) != accepts_foreign_tables(loaded)),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::path::Path;

    use metamcp_config::{Cli, Env};
    use metamcp_store::store::testing::Folder;

    use super::*;

    struct Variables(BTreeMap<&'static str, &'static str>);

    impl Env for Variables {
        fn var(&self, name: &str) -> Option<OsString> {
            self.0.get(name).map(OsString::from)
        }
    }

    /// Environment, `.env` and `metamcp.toml`.
    type Sources = (&'static [(&'static str, &'static str)], &'static str, &'static str);

    fn load((variables, env_file, toml): Sources, dir: &Path) -> Config {
        std::fs::write(dir.join(".env"), env_file).unwrap();
        std::fs::write(dir.join("metamcp.toml"), toml).unwrap();
        let home = [("METAMCP_DATA_DIR", "/data")];
        let variables = Variables(variables.iter().copied().chain(home).collect());
        metamcp_config::load(&Cli::default(), &variables, dir).unwrap()
    }

    #[test]
    fn settings_that_differ_are_named() {
        const URL: &str = "DATABASE_URL=postgres://a/b";
        let dir = Folder::create();
        let check = |running: Sources, loaded: Sources, expected: &[&str]| {
            let (was, is) = (load(running, dir.path()), load(loaded, dir.path()));
            assert_eq!(restart_settings(&was, &is), expected, "{running:?} {loaded:?}");
        };
        check((&[], "", ""), (&[], "", ""), &[]);
        check((&[], "", ""), (&[], "", "[servers.a]\nurl = 'http://a'"), &[]);
        check((&[], "", ""), (&[], "", "server.port = 1"), &["server.port"]);
        check((&[], "", ""), (&[], "", "server.host = '::1'"), &["server.host"]);
        check((&[], "", ""), (&[], "", "session.resume = false"), &["session.resume"]);
        // These change while the gateway runs.
        let live = "server.header_timeout = '3s'\nserver.hosts = ['a.example']\nserver.connections_max = 7\nserver.watch = true\n\
                    limits.key_in_flight_max = 1\ncatalog.page_items = 7\nsession.lifetime = '2h'\nsession.resume_for = '1m'\n\
                    bridge.discover = true\nretention.usage = '24h'\nauth.token_lifetime = '5m'\nlog.filter = 'debug'\n\
                    admin.stdio_env = ['A']";
        check((&[], "", ""), (&[], "", live), &[]);
        check((&[], "", ""), (&[], "", "auth.hash_permits = 7"), &["auth.hash_permits"]);
        check((&[], "", ""), (&[], "", "session.resume_bytes_max = '8MiB'"), &["session.resume_bytes_max"]);
        check((&[], "", ""), (&[], "", "log.format = 'json'"), &["log.format"]);
        check((&[], "", ""), (&[], URL, ""), &["DATABASE_URL"]);
        check((&[], URL, ""), (&[], "DATABASE_URL=postgres://a/c", ""), &["DATABASE_URL"]);
        // The same address, written elsewhere.
        check((&[], URL, ""), (&[("DATABASE_URL", "postgres://a/b")], "", ""), &[]);
        let shared = "DATABASE_URL=postgres://a/b\nMETAMCP_SHARED_DATABASE=true";
        check((&[], URL, ""), (&[], shared, ""), &["METAMCP_SHARED_DATABASE"]);
        check((&[], "", ""), (&[], "METAMCP_SHARED_DATABASE=true", ""), &[]);
    }
}
