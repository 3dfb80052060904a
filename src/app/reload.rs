//! SIGHUP: the configuration is read again.

use crate::admin::definition::Allowed;
use crate::config::{Config, Mistakes};

/// Reads the configuration again, as at the start.
pub type Reload = Box<dyn Fn() -> Result<Config, Mistakes>>;

/// Mistakes shown of one reading; a file that is wrong in more places is not a configuration.
const MISTAKES_SHOWN_MAX: usize = 100;

/// The configuration as it is now, and all that is to be said of it; `None` where it has a mistake. `running`: what the
/// gateway was started with, which decides on all but servers and endpoints until it is started again.
pub fn read_again(reload: &Reload, running: &Config) -> Option<Config> {
    match reload() {
        Ok(config) => {
            for notice in &config.skipped {
                tracing::warn!("{notice}");
            }
            let settings = needing_restart(running, &config);
            if !settings.is_empty() {
                tracing::warn!(?settings, "these settings have changed; they take effect after a restart");
            }
            Some(config)
        }
        Err(mistakes) => {
            for mistake in mistakes.iter().take(MISTAKES_SHOWN_MAX) {
                tracing::error!("{mistake}");
            }
            let count = mistakes.len();
            tracing::error!(mistakes = count, "configuration not reloaded: what was served goes on as it is");
            None
        }
    }
}

fn of_admin(config: &Config) -> &Allowed {
    &config.serving.allowed
}

/// The settings that differ and cannot be changed while the gateway runs, by the names they have in
/// `metamcp.toml` or in the environment.
fn needing_restart(running: &Config, read: &Config) -> Vec<&'static str> {
    let (was, is) = (&running.server, &read.server);
    let differs = [
        ("server.host, server.port", was.listen != is.listen),
        ("server.workers", was.workers != is.workers),
        ("server.tls", was.tls != is.tls),
        ("server.header_timeout", was.header_timeout != is.header_timeout),
        ("server.body_timeout", was.body_timeout != is.body_timeout),
        ("server.idle_timeout", was.idle_timeout != is.idle_timeout),
        ("server.body_bytes_max", was.body_bytes_max != is.body_bytes_max),
        ("server.header_bytes_max", was.header_bytes_max != is.header_bytes_max),
        ("server.header_count_max", was.header_count_max != is.header_count_max),
        ("server.connections_max", was.connections_max != is.connections_max),
        ("server.origins", was.origins != is.origins),
        ("server.hosts", was.hosts != is.hosts),
        ("server.drain_delay", was.drain_delay != is.drain_delay),
        ("server.drain_deadline", was.drain_deadline != is.drain_deadline),
        ("server.keep_alive", was.keep_alive != is.keep_alive),
        ("server.fast_lane", was.fast_lane != is.fast_lane),
        ("admin.stdio_commands", of_admin(running).commands != of_admin(read).commands),
        ("admin.stdio_env", of_admin(running).env != of_admin(read).env),
        ("admin.stdio_dirs", of_admin(running).dirs != of_admin(read).dirs),
        ("catalog", running.catalog != read.catalog),
        ("session", running.session != read.session),
        ("bridge", running.bridge != read.bridge),
        ("limits", running.limits != read.limits),
        ("retention", running.retention != read.retention),
        ("auth.mode", running.auth_mode != read.auth_mode),
        ("auth", running.auth_timing != read.auth_timing),
        ("telemetry.metrics", running.scrapes != read.scrapes),
        ("telemetry.traces", running.traces != read.traces),
        ("log", running.log != read.log),
        ("data directory", running.data_dir != read.data_dir),
        ("ENCRYPTION_KEY", running.encryption_key != read.encryption_key),
        ("JWT_SECRET", running.jwt_secret != read.jwt_secret),
        ("DATABASE_URL", running.database_url != read.database_url),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}
