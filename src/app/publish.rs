//! Publishes one version of what is served after the other, to all who follow it, in the order in which nothing is
//! missed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::base::{Purge, unix_s};
use crate::route::EndpointConfig;
use crate::server::Shared;
use crate::session::{Farewells, Sessions};
use crate::topology::{Moves, Pools, Topology, TopologyBuilder};
use crate::upstream;

/// Whoever changes what is served does it by this.
pub struct Publisher {
    builder: TopologyBuilder,
    topology: watch::Sender<Arc<Topology>>,
    shared: Arc<Shared>,
    farewells: Rc<Farewells>,
    /// For those.
    pools: Rc<Pools>,
}

/// For all workers to follow. They do between two requests; one that takes longer follows later.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks for sessions that are over.
const SESSION_SWEEP: Duration = Duration::from_secs(30);

/// Between two looks whether there are fewer of them, for this thread has what farewells took.
const LOOK: Duration = Duration::from_secs(1);

impl Publisher {
    /// `builder` has made the first version, and `topology` publishes it to `shared`. Runs in a `LocalSet`, on which it
    /// leaves the sweep of sessions.
    pub fn new(
        builder: TopologyBuilder,
        topology: watch::Sender<Arc<Topology>>,
        shared: Arc<Shared>,
    ) -> Self {
        let pools = Rc::new(Pools::new(builder.current()));
        let farewells = Farewells::new(shared.config.workers + 1);
        spawn_local(sweep(Arc::clone(&shared.sessions), Rc::clone(&farewells), Rc::clone(&pools)));
        note_left_out(builder.current());
        Self { builder, topology, shared, farewells, pools }
    }

    /// The version that is served.
    pub fn current(&self) -> Arc<Topology> {
        Arc::clone(self.builder.current())
    }

    /// Serves these servers and endpoints from now on, and nothing else. What is the same as before goes on without
    /// noticing: connections, calls under way, streams, sessions, lists. Gives the version, once the workers serve it:
    /// what could not be served is said in it and in the log.
    ///
    /// Not cancel safe: a version that was begun must be published.
    pub async fn publish(
        &mut self,
        servers: Vec<upstream::Config>,
        endpoints: Vec<EndpointConfig>,
    ) -> Arc<Topology> {
        let before = Arc::clone(self.builder.current());
        let topology = self.builder.next(servers, endpoints);
        let Shared { catalog, sessions, followed, .. } = &*self.shared;
        // The lists first: a request that sees the new version must not wait for what was known.
        catalog.prepare(&topology).await;
        self.pools.adopt(&topology);
        let mut followed = followed.subscribe();
        self.topology.send_replace(Arc::clone(&topology));
        sessions.follow(&topology.table);
        catalog.announce();
        let follows = |epochs: &Vec<u64>| epochs.iter().all(|epoch| *epoch >= topology.epoch);
        if timeout(FOLLOW_TIMEOUT, followed.wait_for(follows)).await.is_err() {
            tracing::warn!("not all workers serve what is new yet; they will after what they are doing");
        }
        // Until then a session may have been opened over what was.
        sessions.follow(&topology.table);
        let farewells = Rc::clone(&self.farewells);
        spawn_local(farewells.add_when_quiet(sessions.take_leftovers(), Rc::clone(&self.pools)));
        note_changes(&before, &topology);
        note_left_out(&topology);
        topology
    }
}

fn note_changes(before: &Topology, topology: &Topology) {
    let changes = topology.changes_since(before);
    let epoch = topology.epoch;
    if changes.is_empty() {
        tracing::info!(epoch, "nothing changed in what is served");
        return;
    }
    for (what, Moves { added, changed, removed }) in
        [("servers", &changes.servers), ("endpoints", &changes.endpoints)]
    {
        if !(added.is_empty() && changed.is_empty() && removed.is_empty()) {
            tracing::info!(epoch, what, ?added, ?changed, ?removed, "what is served has changed");
        }
    }
}

fn note_left_out(topology: &Topology) {
    for error in &topology.left_out {
        tracing::error!(epoch = topology.epoch, "{error}");
    }
}

/// Ends sessions that are over or were long unused, at their servers too.
async fn sweep(sessions: Arc<Sessions>, farewells: Rc<Farewells>, pools: Rc<Pools>) {
    let (mut sweep, mut look) = (interval(SESSION_SWEEP), interval(LOOK));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let purge = Purge::default();
    loop {
        tokio::select! {
            _ = sweep.tick() => {}
            _ = look.tick() => {
                purge.note([sessions.count(), farewells.due(), 0]);
                continue;
            }
        }
        let over = sessions.sweep(unix_s());
        pools.sweep();
        let left = sessions.take_leftovers();
        if !left.is_empty() {
            spawn_local(Rc::clone(&farewells).add_when_quiet(left, Rc::clone(&pools)));
        }
        farewells.add(over.iter().flat_map(|session| session.leftovers()), &pools);
    }
}
