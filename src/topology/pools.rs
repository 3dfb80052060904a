//! One thread's connections to all servers of the version that it follows.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::Topology;
use crate::upstream::{Pool, UpstreamId};

/// The connections of one thread, by server. Lives on it; nothing is locked.
pub struct Pools {
    topology: RefCell<Arc<Topology>>,
    pools: RefCell<HashMap<UpstreamId, Held, RandomState>>,
}

struct Held {
    pool: Rc<Pool>,
    /// Since when its server is gone.
    retired: Option<Instant>,
}

/// A request that came under the version before may still be on its way to its server: its body has this long.
const RETIRED_FOR: Duration = Duration::from_mins(1);

impl Pools {
    /// Without a connection yet.
    pub fn new(topology: &Arc<Topology>) -> Self {
        let pools = Self { topology: RefCell::new(Arc::clone(topology)), pools: RefCell::default() };
        pools.fit(topology);
        pools
    }

    /// The version that is followed.
    pub fn topology(&self) -> Ref<'_, Arc<Topology>> {
        self.topology.borrow()
    }

    /// The connections to a server: one of the version that is followed, or one that has just gone.
    pub fn find(&self, id: UpstreamId) -> Option<Rc<Pool>> {
        self.pools.borrow().get(&id).map(|held| Rc::clone(&held.pool))
    }

    /// Follows that version from now on; false when it was followed already, or is an older one.
    pub fn adopt(&self, topology: &Arc<Topology>) -> bool {
        if topology.epoch <= self.topology.borrow().epoch {
            return false;
        }
        *self.topology.borrow_mut() = Arc::clone(topology);
        self.fit(topology);
        true
    }

    fn fit(&self, topology: &Topology) {
        let now = Instant::now();
        let mut pools = self.pools.borrow_mut();
        for (id, held) in pools.iter_mut() {
            if held.retired.is_none() && topology.upstream(*id).is_none() {
                held.retired = Some(now);
            }
        }
        for upstream in topology.upstreams() {
            pools
                .entry(upstream.id)
                .or_insert_with(|| Held { pool: Pool::new(Arc::clone(upstream)), retired: None });
        }
    }

    /// Closes connections that have been idle for too long, and lets go of servers that are gone and that nobody
    /// uses any more. Called every second or so by its thread.
    pub fn sweep(&self) {
        self.pools.borrow_mut().retain(|_, held| {
            held.pool.sweep();
            let is_over = held.retired.is_some_and(|since| since.elapsed() >= RETIRED_FOR);
            !is_over || Rc::strong_count(&held.pool) > 1
        });
    }
}
