//! The state of the control plane, shared by its handlers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::admin_jobs::AdminJobs;
use super::metrics_state::ControlPlaneMetrics;
use super::openapi;
use super::store_status::StoreStatus;
use crate::catalog::Catalog;
use crate::limits::Limits;
use crate::session::SessionTable;
use crate::telemetry::events::EventLog;
use crate::telemetry::metrics::Metrics;
use crate::topology::Topology;
use arc_swap::ArcSwap;
use metamcp_config::sections::MetricsAccess;
use metamcp_config::server::ServingPolicy;
use metamcp_core::base::ShutdownPhase;
use metamcp_http::TlsRoots;
use metamcp_store::auth::Authenticator;
use metamcp_store::definition::DefinitionRules;
use metamcp_store::store::Store;

/// What the control plane uses of the other modules.
pub struct ControlPlaneParts {
    pub auth: Arc<Authenticator>,
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub limits: Arc<Limits>,
    pub topology: watch::Receiver<Arc<Topology>>,
    /// Which rows of the store are served.
    pub store_status: watch::Receiver<Arc<StoreStatus>>,
    pub sessions: Arc<SessionTable>,
    /// Runs jobs that talk to servers on the main thread.
    pub admin_jobs: AdminJobs,
    pub roots: TlsRoots,
    /// How servers of the store are served, which also limits what may be defined.
    pub serving: Arc<ArcSwap<ServingPolicy>>,
    /// The counters of the workers, and who may read them. `None` if metrics are off.
    pub metrics: Option<(Arc<Metrics>, MetricsAccess)>,
    /// The phase of the shutdown.
    pub phase: watch::Receiver<ShutdownPhase>,
    /// Changes whenever keys change.
    pub keys: watch::Receiver<u64>,
    pub events: Arc<EventLog>,
}

pub struct ControlPlane {
    pub(super) parts: ControlPlaneParts,
    /// A version that increases with every change of a server or an endpoint.
    pub(super) changes: watch::Sender<u64>,
    pub(super) document: Bytes,
    pub(super) metrics_state: ControlPlaneMetrics,
}

impl ControlPlane {
    pub fn new(parts: ControlPlaneParts) -> Self {
        let document = Bytes::from(openapi::document().to_string());
        Self {
            parts,
            changes: watch::Sender::new(0),
            document,
            metrics_state: ControlPlaneMetrics::default(),
        }
    }

    /// What servers may be defined as, by the current settings.
    pub(super) fn rules(&self) -> DefinitionRules {
        DefinitionRules::remote(&self.parts.serving.load())
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.parts.topology.borrow())
    }

    /// Returns a version that increases whenever servers or endpoints change here. The topology must then be
    /// rebuilt from the store.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn note_change(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    pub(super) fn store_status(&self) -> Arc<StoreStatus> {
        Arc::clone(&self.parts.store_status.borrow())
    }

    /// Waits until all changes made here are served, so that a new server can be called with the next
    /// request. Gives up after a short time; the response says whether the server is served.
    pub(super) async fn wait_until_served(&self) {
        let changes = *self.changes.borrow();
        let mut store_status = self.parts.store_status.clone();
        let is_served = store_status.wait_for(|store_status| store_status.changes >= changes);
        // An error means that the gateway is stopping.
        drop(timeout(SERVED_TIMEOUT, is_served).await);
    }
}

/// A change is usually served within milliseconds.
const SERVED_TIMEOUT: Duration = Duration::from_secs(1);
