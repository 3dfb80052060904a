//! The catalog task: has the lists of servers fetched, merges them, and publishes snapshots. Runs on the main
//! thread, in its `LocalSet`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval};

use super::approvals::ToolApprovals;
use super::handle::{Catalog, CatalogInbox, ListRequest, Requester, SnapshotKey, TopologyUpdate};
use super::list::ServerLists;
use super::merge::merge;
use super::merged::{MergedLists, ServerListing};
use super::missing::{ListFailure, MissingReason, MissingServer};
use super::refresher::{AbortOnDrop, IDLE_TIMEOUT, ListObserver, ListRefresher};
use super::server_approvals::ToolVisibility;
use super::state_log::StateLog;
use super::told_states::ToldStates;
use super::told_tools::ToldTools;
use super::view::View;
use crate::route::{Endpoint, EndpointId};
use crate::telemetry::events::EventLog;
use crate::topology::{Topology, UpstreamPools};
use crate::upstream::{UpstreamId, UpstreamPool};

pub struct CatalogTask {
    state: Rc<CatalogState>,
    list_requests: mpsc::Receiver<ListRequest>,
    topologies: mpsc::Receiver<TopologyUpdate>,
    approval_changes: mpsc::Receiver<oneshot::Sender<()>>,
}

/// The state of the task. Used by one thread, so nothing is locked.
struct CatalogState {
    catalog: Arc<Catalog>,
    pools: UpstreamPools,
    refreshers: RefCell<Refreshers>,
    /// The snapshots that are kept up to date.
    active: RefCell<HashMap<SnapshotKey, ActiveSnapshot>>,
    state_log: RefCell<StateLog>,
    told_states: RefCell<ToldStates>,
    told_tools: RefCell<ToldTools>,
    events: Arc<EventLog>,
}

/// Each refresher with its task.
type Refreshers = HashMap<(UpstreamId, View), (Rc<ListRefresher>, AbortOnDrop)>;

/// A snapshot that is kept up to date.
struct ActiveSnapshot {
    endpoint: Arc<Endpoint>,
    last_used: Instant,
    /// `Client` if a client has ever requested it.
    requester: Requester,
}

/// Snapshots at once. Clients choose their capabilities, of which there are 128 combinations; a client that
/// tries all of them must not open as many sessions at every server.
const SNAPSHOTS_MAX: usize = 64;

impl CatalogTask {
    /// Creates the task, on the thread that it will run on: its pools cannot move between threads.
    pub fn new(inbox: CatalogInbox, events: Arc<EventLog>) -> Self {
        let CatalogInbox { catalog, topology, list_requests, topologies, approval_changes } = inbox;
        let state = Rc::new(CatalogState {
            catalog,
            pools: UpstreamPools::new(&topology),
            refreshers: RefCell::default(),
            active: RefCell::default(),
            state_log: RefCell::new(StateLog::new()),
            told_states: RefCell::default(),
            told_tools: RefCell::default(),
            events,
        });
        Self { state, list_requests, topologies, approval_changes }
    }

    /// Maintains the catalog until the future is dropped. Runs in a `LocalSet`.
    pub async fn run(mut self) {
        let mut sweep = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                request = self.list_requests.recv() => match request {
                    Some(request) => self.state.handle_request(&request),
                    None => return,
                },
                Some(TopologyUpdate { topology, prepared }) = self.topologies.recv() => {
                    self.state.prepare(&topology);
                    // The sender may have stopped waiting.
                    let _ = prepared.send(());
                }
                Some(applied) = self.approval_changes.recv() => {
                    self.state.publish_all();
                    // The sender may have stopped waiting.
                    let _ = applied.send(());
                }
                _ = sweep.tick() => self.state.sweep(),
            }
        }
    }
}

impl ListObserver for CatalogState {
    fn generation(&self, upstream: UpstreamId) -> u64 {
        self.catalog.generation(upstream)
    }

    fn record_fetch(&self, upstream: UpstreamId, view: View, outcome: Result<(), &MissingReason>) {
        self.catalog.record_fetch(upstream, view, outcome);
    }

    fn record_change(&self, pool: &UpstreamPool, view: View, lists: &ServerLists) {
        let tools = ToolApprovals::listed_tools(lists);
        let server = (pool.upstream().id, pool.upstream().name());
        if let Some(event) = self.told_tools.borrow_mut().update(server, view, &tools) {
            self.events.add(event);
        }
        self.catalog.approvals().record_listing(pool.upstream(), view, tools);
    }

    fn publish_server(&self, pool: &UpstreamPool, view: View) {
        let upstream = pool.upstream().id;
        let affected: Vec<_> = self
            .active
            .borrow()
            .iter()
            .filter(|((_, of_view), snapshot)| *of_view == view && snapshot.has_server(upstream))
            .map(|(_, snapshot)| (Arc::clone(&snapshot.endpoint), view))
            .collect();
        self.publish(&affected);
    }

    fn publish_all(&self) {
        let all: Vec<_> = self
            .active
            .borrow()
            .iter()
            .map(|((_, view), snapshot)| (Arc::clone(&snapshot.endpoint), *view))
            .collect();
        self.publish(&all);
    }
}

impl CatalogState {
    /// Prepares a topology that is about to be published. Snapshots that were active for an endpoint become
    /// active for its successor. The old ones stay until the next sweep, for requests that came before.
    fn prepare(self: &Rc<Self>, topology: &Arc<Topology>) {
        self.drop_removed_endpoints();
        if !self.pools.adopt(topology) {
            return;
        }
        self.told_tools.borrow_mut().retain(|upstream| topology.upstream(upstream).is_some());
        self.catalog.adopt_servers(topology);
        let successor =
            |snapshot: &ActiveSnapshot| topology.table.find_by_scope(&snapshot.endpoint.scope).cloned();
        let moved: Vec<_> = self
            .active
            .borrow()
            .iter()
            .filter_map(|((id, view), snapshot)| {
                let endpoint = successor(snapshot).filter(|endpoint| endpoint.id != *id)?;
                let ActiveSnapshot { last_used, requester, .. } = *snapshot;
                Some((*view, ActiveSnapshot { endpoint, last_used, requester }))
            })
            .collect();
        let mut published = Vec::with_capacity(moved.len());
        for (view, snapshot) in moved {
            let (endpoint, requester) = (Arc::clone(&snapshot.endpoint), snapshot.requester);
            self.active.borrow_mut().insert((endpoint.id, view), snapshot);
            self.refresh_servers(&endpoint, view, requester);
            published.push((endpoint, view));
        }
        self.publish(&published);
    }

    /// Drops the snapshots of endpoints that the current topology does not have.
    fn drop_removed_endpoints(&self) {
        let topology = Arc::clone(&self.pools.topology());
        self.active.borrow_mut().retain(|_, snapshot| topology.table.contains(&snapshot.endpoint));
        self.drop_inactive();
    }

    /// Handles a request for a snapshot that is missing or stale.
    fn handle_request(self: &Rc<Self>, request: &ListRequest) {
        let ListRequest { endpoint, view, requester } = request;
        self.make_room(endpoint.id, *view);
        let before = self.active.borrow().get(&(endpoint.id, *view)).map(|before| before.requester);
        let requester = before.filter(|before| *before == Requester::Client).unwrap_or(*requester);
        let snapshot =
            ActiveSnapshot { endpoint: Arc::clone(endpoint), last_used: Instant::now(), requester };
        self.active.borrow_mut().insert((endpoint.id, *view), snapshot);
        self.refresh_servers(endpoint, *view, requester);
        if before.is_none() {
            self.publish(&[(Arc::clone(endpoint), *view)]);
        }
    }

    /// Has all servers of the endpoint listed, and those with stale lists listed again.
    fn refresh_servers(self: &Rc<Self>, endpoint: &Endpoint, view: View, requester: Requester) {
        let topology = Arc::clone(&self.pools.topology());
        for server in &endpoint.servers {
            let id = UpstreamId(server.upstream);
            let mut refreshers = self.refreshers.borrow_mut();
            if let Some((refresher, _)) = refreshers.get(&(id, view)) {
                if requester == Requester::Client {
                    refresher.note_use();
                }
                if self.generation(id) > refresher.lists().1 {
                    refresher.refresh();
                }
                continue;
            }
            // A removed server is not listed any more.
            let pool = topology.upstream(id).and_then(|_| self.pools.find(id));
            let Some(pool) = pool else { continue };
            let refresher = ListRefresher::new(pool, view);
            if requester == Requester::Client {
                refresher.note_use();
            }
            let observer: Rc<dyn ListObserver> = Rc::clone(self) as _;
            let task = spawn_local(Rc::clone(&refresher).run(Arc::clone(&self.catalog.config), observer));
            refreshers.insert((id, view), (refresher, AbortOnDrop(task.abort_handle())));
        }
    }

    /// Publishes the lists of these endpoints all at once, so that no reader sees one of them changed and
    /// another not yet.
    fn publish(&self, endpoints: &[(Arc<Endpoint>, View)]) {
        let current = self.catalog.snapshots.load();
        let mut changed = Vec::new();
        for (endpoint, view) in endpoints {
            let (key, merged) = ((endpoint.id, *view), self.merge_endpoint(endpoint, *view));
            if current.get(&key).is_some_and(|current| current.is_equivalent(&merged)) {
                continue;
            }
            for MissingServer { server, reason, .. } in &merged.missing {
                let reason = reason.text();
                tracing::debug!(endpoint = &*endpoint.scope, %server, reason, "server missing from the lists");
            }
            changed.push((key, Arc::new(merged)));
        }
        if !changed.is_empty() {
            self.catalog.edit_snapshots(|snapshots| snapshots.extend(changed));
        }
    }

    /// Merges the lists of an endpoint from what is known of its servers.
    fn merge_endpoint(&self, endpoint: &Endpoint, view: View) -> MergedLists {
        let refreshers = self.refreshers.borrow();
        let mut listings = Vec::with_capacity(endpoint.servers.len());
        let mut generations = Vec::with_capacity(endpoint.servers.len());
        let mut announced = [0; 3];
        for server in &endpoint.servers {
            let refresher = refreshers.get(&(UpstreamId(server.upstream), view));
            let removed = || ListFailure { text: "it was removed".to_owned(), stage: None, since: None };
            let gone = || (Err(MissingReason::Failed(removed())), 0);
            let (lists, generation) = refresher.map_or_else(gone, |(refresher, _)| refresher.lists());
            listings.push(lists.and_then(|lists| match self.catalog.approvals().visibility(&server.name) {
                ToolVisibility::Show(quarantined) => Ok(ServerListing { lists, quarantined }),
                ToolVisibility::Wait => Err(MissingReason::Loading),
            }));
            let of_server = refresher.map_or([0; 3], |(refresher, _)| refresher.announced());
            announced.iter_mut().zip(of_server).for_each(|(sum, count)| *sum += count);
            generations.push(generation);
        }
        let mut merged = merge(endpoint, view, &listings, generations, self.catalog.config().page_items);
        merged.announced = announced;
        merged
    }

    /// Drops the snapshot that was unused for longest if there is no room for this one.
    fn make_room(&self, endpoint: EndpointId, view: View) {
        let mut active = self.active.borrow_mut();
        if active.len() < SNAPSHOTS_MAX || active.contains_key(&(endpoint, view)) {
            return;
        }
        let legacy = active.iter().filter(|((_, view), _)| *view != View::Modern);
        let oldest = legacy.min_by_key(|(_, snapshot)| snapshot.last_used).map(|(key, _)| *key);
        if let Some(key) = oldest {
            active.remove(&key);
        }
        drop(active);
        self.drop_inactive();
    }

    /// Drops idle snapshots and idle connections, and logs the states of servers.
    fn sweep(&self) {
        let now = Instant::now();
        let snapshots = self.catalog.snapshots.load();
        self.active.borrow_mut().retain(|key, snapshot| {
            let is_used = snapshots.get(key).is_some_and(|merged| merged.used.swap(false, Ordering::Relaxed));
            if is_used {
                self.note_use(&snapshot.endpoint, key.1);
            }
            if is_used || key.1 == View::Modern {
                snapshot.last_used = now;
            }
            now.duration_since(snapshot.last_used) < IDLE_TIMEOUT
        });
        drop(snapshots);
        self.drop_removed_endpoints();
        self.pools.sweep();
        self.log_states();
    }

    /// Logs and tells of the servers that fail or work again.
    fn log_states(&self) {
        let topology = Arc::clone(&self.pools.topology());
        let states = topology
            .upstreams()
            .map(|upstream| (upstream.id, upstream.name(), self.catalog.server_state(upstream)))
            .collect::<Vec<_>>();
        for event in self.told_states.borrow_mut().update(&states) {
            self.events.add(event);
        }
        let lines = self.state_log.borrow_mut().update(states.into_iter());
        for line in lines {
            line.log(&topology);
        }
    }

    /// Tells the refreshers of an endpoint's servers that clients use their lists.
    fn note_use(&self, endpoint: &Endpoint, view: View) {
        let refreshers = self.refreshers.borrow();
        let servers = endpoint.servers.iter();
        let of_endpoint = servers.filter_map(|server| refreshers.get(&(UpstreamId(server.upstream), view)));
        let listed = of_endpoint.filter(|(refresher, _)| refresher.lists().0.is_ok());
        listed.for_each(|(refresher, _)| refresher.note_use());
    }

    /// Drops refreshers, approvals and snapshots that no active snapshot needs.
    fn drop_inactive(&self) {
        let active = self.active.borrow();
        self.refreshers.borrow_mut().retain(|(upstream, view), _| {
            active.iter().any(|((_, of_view), snapshot)| of_view == view && snapshot.has_server(*upstream))
        });
        let refreshers = self.refreshers.borrow();
        self.catalog.approvals().retain_views(|upstream, view| refreshers.contains_key(&(upstream, view)));
        self.catalog.retain_outcomes(|upstream, view| refreshers.contains_key(&(upstream, view)));
        drop(refreshers);
        let has_inactive = self.catalog.snapshots.load().keys().any(|key| !active.contains_key(key));
        if has_inactive {
            self.catalog.edit_snapshots(|snapshots| snapshots.retain(|key, _| active.contains_key(key)));
        }
    }
}

impl ActiveSnapshot {
    fn has_server(&self, upstream: UpstreamId) -> bool {
        self.endpoint.servers.iter().any(|server| server.upstream == upstream.0)
    }
}
