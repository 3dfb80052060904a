//! What is served, kept in step with its two sources: the configuration files and the store.
//!
//! `merge` combines the sources, `reconcile` decides when to do so, `publish` makes the result current.
//!
//! Invariants: a source that cannot be read changes nothing that is served; only `publish` replaces the topology.

mod config_files;
mod live_config;
mod merge;
mod publish;
mod reconcile;
mod reload;
mod stored_config;

pub use live_config::LiveConfig;
pub use merge::MergedConfig;
pub use publish::Publisher;
pub use reconcile::{ReloadTriggers, ServingState, follow_changes};
pub use reload::ConfigLoader;
pub use stored_config::StoredConfigSource;
