//! The connection pools of one thread.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::version::Topology;
use crate::upstream::{UpstreamId, UpstreamPool};

/// One thread's connection pools, one for each upstream of the topology that the thread follows. Not shared between
/// threads, so nothing is locked.
pub struct UpstreamPools {
    topology: RefCell<Arc<Topology>>,
    pools: RefCell<HashMap<UpstreamId, PoolEntry, RandomState>>,
}

struct PoolEntry {
    pool: Rc<UpstreamPool>,
    /// When the upstream left the topology.
    retired: Option<Instant>,
}

/// How long a pool outlives its upstream's removal. A request routed by an earlier topology may still need it; it
/// has this long to send its body.
const RETIRED_FOR: Duration = Duration::from_mins(1);

impl UpstreamPools {
    pub fn new(topology: &Arc<Topology>) -> Self {
        let pools = Self { topology: RefCell::new(Arc::clone(topology)), pools: RefCell::default() };
        pools.sync(topology);
        pools
    }

    /// The version that this thread follows.
    pub fn topology(&self) -> Ref<'_, Arc<Topology>> {
        self.topology.borrow()
    }

    /// The pool of an upstream, including one that was removed recently.
    pub fn find(&self, id: UpstreamId) -> Option<Rc<UpstreamPool>> {
        self.pools.borrow().get(&id).map(|entry| Rc::clone(&entry.pool))
    }

    /// Follows a newer version. Returns false if `topology` is not newer than the current one.
    pub fn adopt(&self, topology: &Arc<Topology>) -> bool {
        if topology.epoch <= self.topology.borrow().epoch {
            return false;
        }
        *self.topology.borrow_mut() = Arc::clone(topology);
        self.sync(topology);
        true
    }

    fn sync(&self, topology: &Topology) {
        let now = Instant::now();
        let mut pools = self.pools.borrow_mut();
        for (id, entry) in pools.iter_mut() {
            if entry.retired.is_none() && topology.upstream(*id).is_none() {
                entry.retired = Some(now);
            }
        }
        for upstream in topology.upstreams() {
            pools.entry(upstream.id).or_insert_with(|| PoolEntry {
                pool: UpstreamPool::new(Arc::clone(upstream)),
                retired: None,
            });
        }
    }

    /// Closes connections that were idle for too long, and drops unused pools of removed upstreams. The thread calls
    /// this about once per second.
    pub fn sweep(&self) {
        self.pools.borrow_mut().retain(|_, entry| {
            entry.pool.sweep();
            let is_expired = entry.retired.is_some_and(|since| since.elapsed() >= RETIRED_FOR);
            !is_expired || Rc::strong_count(&entry.pool) > 1
        });
    }
}
