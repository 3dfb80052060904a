//! State shared by all workers.

use std::sync::Arc;

use tokio::sync::watch;

use super::settings::HttpSettings;
use crate::catalog::Catalog;
use crate::journal::usage::UsageTables;
use crate::limits::Limits;
use crate::server::http1::control_plane::ControlService;
use crate::server::tls::{ClientGeneration, ServerTls};
use crate::session::{ResumableStreams, SessionTable};
use crate::telemetry::events::EventLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::CallRecords;
use crate::topology::Topology;
use metamcp_core::base::ShutdownPhase;
use metamcp_store::auth::Authenticator;

/// State shared by all workers: snapshots, and values that are locked for a few lines outside of the common
/// path.
pub struct SharedState {
    /// The settings of `[server]`. Each worker follows them.
    pub settings: watch::Receiver<Arc<HttpSettings>>,
    /// `None` serves without TLS.
    pub tls: Option<ServerTls>,
    pub auth: Arc<Authenticator>,
    /// The current topology. Each worker follows it with pools of its own.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// The epoch that each worker serves, by worker number.
    pub followed: watch::Sender<Vec<u64>>,
    pub catalog: Arc<Catalog>,
    pub sessions: Arc<SessionTable>,
    /// `None` if resumable streams are disabled.
    pub streams: Option<Arc<ResumableStreams>>,
    pub limits: Arc<Limits>,
    /// Usage tables, if usage is recorded.
    pub usage: Option<UsageTables>,
    /// Metrics, if they are collected.
    pub metrics: Option<Arc<Metrics>>,
    /// The queue of call records, if calls are recorded.
    pub records: Option<Arc<CallRecords>>,
    pub events: Arc<EventLog>,
    /// Serves every path that is not an MCP endpoint.
    pub control_plane: Arc<dyn ControlService>,
    pub phase: watch::Receiver<ShutdownPhase>,
    /// Changes whenever a key changes.
    pub keys: watch::Receiver<u64>,
}

impl SharedState {
    /// Of the current settings for client certificates.
    pub fn client_generation(&self) -> ClientGeneration {
        self.tls.as_ref().map(|tls| tls.current().client_generation()).unwrap_or_default()
    }
}
