//! Detects whether a server speaks the Modern era: once, and again after the server contradicted it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::catalog::{FetchError, discover};
use crate::upstream::{UpstreamId, UpstreamPool};
use metamcp_core::protocol::Era;

/// Detects the eras of servers.
#[derive(Default)]
pub struct EraDetector {
    /// Guards the table; a few lines at a time.
    gates: Mutex<HashMap<UpstreamId, Arc<ProbeGate>>>,
}

/// Lets one caller at a time probe a server. Holds the time before which the server is not probed again after
/// an inconclusive probe.
type ProbeGate = tokio::sync::Mutex<Option<Instant>>;

/// How long a call waits for the response to `server/discover`, which costs a server nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// After an inconclusive probe (the server was unreachable, overloaded, or refused the credentials), requests
/// pass unchanged and fail as the probe did.
const PROBE_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// A removed server leaves an entry of some 100 bytes. Beyond this many entries the table is cleared.
const GATES_MAX: usize = 4096;

impl EraDetector {
    /// Whether Modern requests go to the server unchanged. Cancel safe: another caller probes then.
    pub async fn speaks_modern(&self, pool: &Rc<UpstreamPool>) -> bool {
        let upstream = pool.upstream();
        if let Some(known) = upstream.speaks(Era::Modern) {
            return known;
        }
        let gate = self.gate(upstream.id);
        let mut not_before = gate.lock().await;
        if let Some(known) = upstream.speaks(Era::Modern) {
            return known;
        }
        if not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return true;
        }
        let probed = timeout(PROBE_TIMEOUT, discover(pool)).await;
        if let Ok(Ok(_) | Err(FetchError::OtherEra)) = probed {
            let speaks_modern = upstream.speaks(Era::Modern) != Some(false);
            tracing::info!(server = %upstream.name(), speaks_modern, "detected protocol era");
            return speaks_modern;
        }
        *not_before = Some(Instant::now() + PROBE_INTERVAL_MIN);
        true
    }

    fn gate(&self, id: UpstreamId) -> Arc<ProbeGate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.len() >= GATES_MAX {
            gates.clear();
        }
        Arc::clone(gates.entry(id).or_default())
    }
}
