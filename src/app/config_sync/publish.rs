//! Publishes new topologies to the catalog, the workers and the sessions, in an order in which no request
//! meets a part that is missing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::field::{DebugValue, debug};

use crate::runtime::MemoryPurger;
use crate::server::SharedState;
use crate::session::SessionTerminator;
use crate::telemetry::events::{Event, EventKind, EventLog};
use crate::topology::{NameChanges, Topology, TopologyBuilder, UpstreamPools};
use metamcp_config::sections::EndpointConfig;
use metamcp_core::base::{LogList, unix_seconds};

/// Replaces the served topology.
pub struct Publisher {
    builder: TopologyBuilder,
    topology: watch::Sender<Arc<Topology>>,
    shared: Arc<SharedState>,
    terminator: Rc<SessionTerminator>,
    /// The connections that `terminator` uses.
    pools: Rc<UpstreamPools>,
}

/// For all workers to switch to a new topology, which they do between two requests. A slower one switches
/// later.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two searches for sessions that have expired.
const SESSION_SWEEP: Duration = Duration::from_secs(30);

/// Between two sweeps for idle connections, whose ages are known to a second, and two checks whether freed memory should
/// be returned to the system: terminating sessions opens connections and allocates on this thread.
const POOL_SWEEP: Duration = Duration::from_secs(1);

impl Publisher {
    /// `builder` has built the first topology, and `topology` publishes it to `shared`. Runs in a `LocalSet`, on which it
    /// spawns the sweep of sessions.
    pub fn new(
        builder: TopologyBuilder,
        topology: watch::Sender<Arc<Topology>>,
        shared: Arc<SharedState>,
    ) -> Self {
        let pools = Rc::new(UpstreamPools::new(builder.current()));
        let terminator = SessionTerminator::new(shared.settings.borrow().config.workers + 1);
        spawn_local(sweep(Arc::clone(&shared), Rc::clone(&terminator), Rc::clone(&pools)));
        log_left_out(builder.current());
        Self { builder, topology, shared, terminator, pools }
    }

    /// Returns the topology that is served.
    pub fn current(&self) -> Arc<Topology> {
        Arc::clone(self.builder.current())
    }

    /// Returns what the workers share.
    pub fn shared(&self) -> &Arc<SharedState> {
        &self.shared
    }

    /// Serves these servers and endpoints from now on, and nothing else. Everything unchanged keeps its
    /// connections, calls in flight, streams, sessions and lists. Returns the topology once the workers serve
    /// it; what could not be served is in its `rejected` and in the log.
    ///
    /// Not cancel safe: a topology that was built must be published.
    pub async fn publish(
        &mut self,
        servers: Vec<metamcp_config::server::ServerConfig>,
        endpoints: Vec<EndpointConfig>,
    ) -> Arc<Topology> {
        let before = Arc::clone(self.builder.current());
        let topology = self.builder.build_next(servers, endpoints);
        let SharedState { catalog, sessions, followed, .. } = &*self.shared;
        // The lists first: a request in the new topology must not wait for lists that were cached before.
        catalog.prepare(&topology).await;
        self.pools.adopt(&topology);
        let mut followed = followed.subscribe();
        self.topology.send_replace(Arc::clone(&topology));
        sessions.apply_routes(&topology.table);
        catalog.notify_changes();
        let have_switched = |epochs: &Vec<u64>| epochs.iter().all(|epoch| *epoch >= topology.epoch);
        if timeout(FOLLOW_TIMEOUT, followed.wait_for(have_switched)).await.is_err() {
            tracing::warn!("some workers are busy and will switch to the new configuration later");
        }
        // Again: until now a worker may have opened a session in the old topology.
        sessions.apply_routes(&topology.table);
        let terminator = Rc::clone(&self.terminator);
        spawn_local(terminator.enqueue_when_idle(sessions.take_detached(), Rc::clone(&self.pools)));
        log_changes(&before, &topology);
        tell_changes(&before, &topology, &self.shared.events);
        log_left_out(&topology);
        topology
    }
}

fn log_changes(before: &Topology, topology: &Topology) {
    let changes = topology.changes_since(before);
    let epoch = topology.epoch;
    if changes.is_empty() {
        tracing::info!(epoch, "no server or endpoint has changed");
        return;
    }
    for (what, NameChanges { added, changed, removed }) in
        [("servers", &changes.servers), ("endpoints", &changes.endpoints)]
    {
        if !(added.is_empty() && changed.is_empty() && removed.is_empty()) {
            let (added, changed, removed) = (log_names(added), log_names(changed), log_names(removed));
            tracing::info!(epoch, what, added, changed, removed, "configuration applied");
        }
    }
}

fn tell_changes(before: &Topology, topology: &Topology, events: &EventLog) {
    let changes = topology.changes_since(before);
    if changes.is_empty() {
        return;
    }
    let names = |changes: &NameChanges| json!({"added": clip(&changes.added), "changed": clip(&changes.changed), "removed": clip(&changes.removed)});
    let event = Event::now(EventKind::ConfigurationChanged);
    events.add(event.with("servers", names(&changes.servers)).with("endpoints", names(&changes.endpoints)));
}

/// Names in one event; with more of them, people look at the lists.
const NAMES_TOLD_MAX: usize = 100;

fn clip<T: std::fmt::Display>(names: &[T]) -> Vec<String> {
    names.iter().take(NAMES_TOLD_MAX).map(ToString::to_string).collect()
}

/// Names as a log field; the field is absent without any.
fn log_names<T: std::fmt::Display>(names: &[T]) -> Option<DebugValue<LogList<'_, T>>> {
    (!names.is_empty()).then(|| debug(LogList(names)))
}

fn log_left_out(topology: &Topology) {
    for error in &topology.rejected {
        tracing::error!(epoch = topology.epoch, "{error}");
    }
}

/// Ends sessions that have expired, were unused for long, or whose key was revoked, at their servers too.
async fn sweep(shared: Arc<SharedState>, terminator: Rc<SessionTerminator>, pools: Rc<UpstreamPools>) {
    let (sessions, mut keys) = (&shared.sessions, shared.keys.clone());
    let (mut sweep, mut pool_sweep) = (interval(SESSION_SWEEP), interval(POOL_SWEEP));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pool_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let purge = MemoryPurger::default();
    loop {
        tokio::select! {
            _ = sweep.tick() => {}
            Ok(()) = keys.changed() => {}
            _ = pool_sweep.tick() => {
                pools.sweep();
                purge.observe([sessions.count(), terminator.pending(), 0]);
                continue;
            }
        }
        let mut ended = sessions.sweep(unix_seconds());
        ended.extend(sessions.drop_of_ended_keys(|key_id| shared.auth.is_active(key_id)));
        let detached = sessions.take_detached();
        if !detached.is_empty() {
            spawn_local(Rc::clone(&terminator).enqueue_when_idle(detached, Rc::clone(&pools)));
        }
        terminator.enqueue(ended.iter().flat_map(|session| session.detached_upstream_sessions()), &pools);
    }
}
