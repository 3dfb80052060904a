//! The parts that the control plane and the workers both use.

use std::sync::Arc;

use metamcp_core::base::{MEMORY, ShutdownPhase};
use tokio::sync::watch;

use super::background::{telemetry, trace_export};
use super::config_sync::{LiveConfig, ServingState};
use super::control_plane::AdminControlPlane;
use super::error::AppError;
use crate::admin::{AdminJobs, ControlPlane, ControlPlaneParts};
use crate::catalog::{Catalog, CatalogInbox};
use crate::journal::usage::UsageTables;
use crate::limits::Limits;
use crate::server::{ListenTarget, ServerTls, SharedState};
use crate::session::{ResumableStreams, SessionTable};
use crate::telemetry::events::EventLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::CallRecords;
use crate::topology::Topology;
use metamcp_config::Config;
use metamcp_http::TlsRoots;
use metamcp_store::auth::{Authenticator, Sealer};

/// The file in the data directory that holds the events of resumable streams.
const STREAMS: &str = "streams";

/// What the control plane and the workers are made of.
pub struct CommonParts {
    auth: Arc<Authenticator>,
    catalog: Arc<Catalog>,
    sessions: Arc<SessionTable>,
    limits: Arc<Limits>,
    metrics: Option<Arc<Metrics>>,
    records: Option<Arc<CallRecords>>,
    events: Arc<EventLog>,
    topology: watch::Receiver<Arc<Topology>>,
    phase: watch::Receiver<ShutdownPhase>,
    keys: watch::Receiver<u64>,
}

/// What tells the control plane and the workers of changes.
pub struct ChangeSenders {
    pub topology: watch::Sender<Arc<Topology>>,
    pub phase: watch::Sender<ShutdownPhase>,
    pub keys: watch::Sender<u64>,
}

impl CommonParts {
    /// Also returns what has to run or to be kept for them. Sets the process's limit of memory.
    pub fn new(
        config: &Config,
        auth: &Arc<Authenticator>,
        topology: &Arc<Topology>,
        events: &Arc<EventLog>,
    ) -> (Self, ChangeSenders, CatalogInbox) {
        let (catalog, inbox) = Catalog::new(config.catalog.clone(), topology);
        let senders = ChangeSenders {
            topology: watch::Sender::new(Arc::clone(topology)),
            phase: watch::Sender::new(ShutdownPhase::Serve),
            keys: watch::Sender::new(0),
        };
        MEMORY.set_bytes_max(config.limits.memory_max);
        let (metrics, records) = telemetry::new_registries(config);
        let parts = Self {
            auth: Arc::clone(auth),
            catalog,
            sessions: Arc::new(SessionTable::new(config.session.clone(), Arc::clone(auth.sealer()))),
            limits: Arc::new(Limits::new(&config.limits)),
            metrics,
            records,
            events: Arc::clone(events),
            topology: senders.topology.subscribe(),
            phase: senders.phase.subscribe(),
            keys: senders.keys.subscribe(),
        };
        (parts, senders, inbox)
    }

    pub fn control_plane(
        &self,
        (config, live): (&Config, &LiveConfig),
        state: &ServingState,
        admin_jobs: AdminJobs,
        roots: &TlsRoots,
    ) -> ControlPlane {
        ControlPlane::new(ControlPlaneParts {
            auth: Arc::clone(&self.auth),
            store: self.auth.store().clone(),
            catalog: Arc::clone(&self.catalog),
            limits: Arc::clone(&self.limits),
            topology: self.topology.clone(),
            store_status: state.store_status(),
            sessions: Arc::clone(&self.sessions),
            admin_jobs,
            roots: roots.clone(),
            serving: Arc::clone(&live.serving),
            metrics: trace_export::scraped_metrics(config, self.metrics.as_ref()),
            phase: self.phase.clone(),
            keys: self.keys.clone(),
            events: Arc::clone(&self.events),
        })
    }

    /// What the workers share. `usage` is `None` if usage is not counted.
    pub fn into_shared_state(
        self,
        (config, door, live): (&Config, &ListenTarget, &LiveConfig),
        usage: Option<UsageTables>,
        control_plane: ControlPlane,
    ) -> Result<Arc<SharedState>, AppError> {
        Ok(Arc::new(SharedState {
            settings: live.http.subscribe(),
            tls: config.server.tls.as_ref().map(ServerTls::load).transpose()?,
            streams: open_streams(config, door, self.auth.sealer()),
            auth: self.auth,
            topology: self.topology,
            followed: watch::Sender::new(vec![0; config.server.workers.max(1)]),
            catalog: self.catalog,
            sessions: self.sessions,
            limits: self.limits,
            usage,
            metrics: self.metrics,
            records: self.records,
            events: self.events,
            control_plane: Arc::new(AdminControlPlane(control_plane)),
            phase: self.phase,
            keys: self.keys,
        }))
    }
}

/// Opens the storage of resumable streams. Without it the gateway serves, and streams that break cannot be
/// resumed. The one client on a private socket needs none: its connection does not break.
fn open_streams(config: &Config, door: &ListenTarget, sealer: &Arc<Sealer>) -> Option<Arc<ResumableStreams>> {
    let bounds = config.session.streams.clone().filter(|_| *door == ListenTarget::Public)?;
    match ResumableStreams::open(&config.data_dir.join(STREAMS), bounds, Arc::clone(sealer), &MEMORY) {
        Ok(streams) => {
            let reclaimer = Arc::downgrade(&streams);
            MEMORY.set_reclaimer(reclaimer);
            Some(streams)
        }
        Err(error) => {
            tracing::error!(%error, "resumable streams disabled: free disk space and restart");
            None
        }
    }
}
