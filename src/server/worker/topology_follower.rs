//! The topology that one worker serves, and the worker's connection pools.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use crate::route::{Endpoint, RoutedServer};
use crate::topology::{Topology, UpstreamPools};
use crate::upstream::{UpstreamId, UpstreamPool};
use metamcp_core::base::{Fault, FaultKind, ServerName};

/// Follows the published topology with pools of its own.
pub struct TopologyFollower {
    published: watch::Receiver<Arc<Topology>>,
    /// The epoch that each worker serves, by worker number.
    followed: watch::Sender<Vec<u64>>,
    /// The index of this worker in `followed`.
    number: usize,
    pools: Rc<UpstreamPools>,
}

impl TopologyFollower {
    pub fn new(
        published: watch::Receiver<Arc<Topology>>,
        followed: watch::Sender<Vec<u64>>,
        number: usize,
    ) -> Self {
        let topology = Arc::clone(&published.borrow());
        let follower = Self { published, followed, number, pools: Rc::new(UpstreamPools::new(&topology)) };
        follower.publish_epoch();
        follower
    }

    /// The endpoint of a request path.
    pub fn endpoint(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.pools.topology().table.find_by_path(path).cloned()
    }

    pub fn endpoint_of(&self, scope: &str) -> Option<Arc<Endpoint>> {
        self.pools.topology().table.find_by_scope(scope).cloned()
    }

    /// The endpoint of a framed stream's path.
    pub fn streamed_endpoint(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.pools.topology().table.find_by_stream_path(path).cloned()
    }

    /// The endpoint of a scope in the newest topology. Takes a lock, so it is not for the common path.
    pub fn endpoint_now(&self, scope: &str) -> Option<Arc<Endpoint>> {
        self.follow();
        self.pools.topology().table.find_by_scope(scope).cloned()
    }

    /// The pool of a server. Fails if the server was removed since the request was routed.
    pub fn pool(&self, place: &RoutedServer) -> Result<Rc<UpstreamPool>, Fault> {
        let id = UpstreamId(place.upstream);
        match self.pools.find(id) {
            Some(pool) => Ok(pool),
            None => self.newer_pool(id, &place.name),
        }
    }

    /// Follows the newest topology first: a session may already have it.
    #[cold]
    fn newer_pool(&self, id: UpstreamId, server: &ServerName) -> Result<Rc<UpstreamPool>, Fault> {
        self.follow();
        self.pools.find(id).ok_or_else(|| {
            let text = format!("server `{server}` was removed or changed; the call did not run: try again");
            Fault::gateway(FaultKind::Unreachable, text)
        })
    }

    pub fn pools(&self) -> Rc<UpstreamPools> {
        Rc::clone(&self.pools)
    }

    /// Serves the newest topology from now on. Requests in flight keep theirs.
    pub fn follow(&self) {
        let topology = Arc::clone(&self.published.borrow());
        if self.pools.adopt(&topology) {
            self.publish_epoch();
        }
    }

    fn publish_epoch(&self) {
        let epoch = self.pools.topology().epoch;
        self.followed.send_modify(|epochs| {
            if let Some(own) = epochs.get_mut(self.number) {
                *own = epoch;
            }
        });
    }
}
