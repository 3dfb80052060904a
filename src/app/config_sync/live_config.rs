//! The settings that a reload replaces while the gateway runs. What is not here needs a restart (`reload`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::app::file_limit;
use crate::limits::Limits;
use crate::server::{HttpSettings, ListenTarget, SharedState};
use metamcp_config::Config;
use metamcp_config::sections::{BridgeConfig, HttpConfig, LimitsConfig, RetentionPolicy};
use metamcp_config::server::ServingPolicy;
use metamcp_core::base::MEMORY;

/// Replaces settings. Who uses them reads them anew each time, or follows them.
pub struct LiveConfig {
    door: ListenTarget,
    pub http: watch::Sender<Arc<HttpSettings>>,
    pub bridge: Arc<ArcSwap<BridgeConfig>>,
    /// How servers of the store are served.
    pub serving: Arc<ArcSwap<ServingPolicy>>,
    pub retention: watch::Sender<RetentionPolicy>,
}

impl LiveConfig {
    /// Holds the settings of the start.
    pub fn new(config: &Config, door: &ListenTarget) -> Self {
        let http = HttpSettings::new(file_limit::fit_to_limit(config, door, None));
        Self {
            door: door.clone(),
            http: watch::Sender::new(Arc::new(http)),
            bridge: Arc::new(ArcSwap::from_pointee(config.bridge.clone())),
            serving: Arc::new(ArcSwap::from_pointee(config.serving_policy.clone())),
            retention: watch::Sender::new(config.retention.clone()),
        }
    }

    /// Applies a configuration that was loaded again. `running` is that of the start, whose fixed settings stay.
    pub fn apply(&self, shared: &SharedState, loaded: &Config, running: &Config) {
        let HttpConfig { listen, workers, ref tls, .. } = running.server;
        if loaded.server != running.server || loaded.server != self.http.borrow().config {
            let known = self.http.borrow().config.connections_max;
            let config = file_limit::fit_to_limit(loaded, &self.door, Some(known));
            let config = HttpConfig { listen, workers, tls: tls.clone(), ..config };
            self.http.send_if_modified(|settings| {
                let has_changed = settings.config != config;
                if has_changed {
                    *settings = Arc::new(HttpSettings::new(config));
                }
                has_changed
            });
        }
        apply_limits(&shared.limits, &loaded.limits);
        shared.catalog.set_config(loaded.catalog.clone());
        shared.sessions.set_config(loaded.session.clone());
        if let (Some(streams), Some(config)) = (&shared.streams, &loaded.session.streams) {
            streams.set_config(config.clone());
        }
        self.bridge.store(Arc::new(loaded.bridge.clone()));
        self.serving.store(Arc::new(loaded.serving_policy.clone()));
        self.retention.send_replace(loaded.retention.clone());
        shared.auth.set_timing(loaded.auth_timing.token_lifetime, loaded.auth_timing.verified_for);
        if let Err(error) = loaded.log.apply_filter() {
            tracing::warn!(%error, "the log filter stays as it was");
        }
    }
}

/// Applies the limits of keys and of the process.
pub fn apply_limits(limits: &Limits, config: &LimitsConfig) {
    MEMORY.set_bytes_max(config.memory_max);
    limits.set(config);
}
