//! The catalog as workers see it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use foldhash::fast::RandomState;
use metamcp_core::protocol::ClientCapabilities;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::approvals::ToolApprovals;
use super::list::ListKind;
use super::merge::merge;
use super::merged::MergedLists;
use super::missing::MissingReason;
use super::server_state::{ListOutcomes, ServerState};
use super::view::View;
use crate::route::{Endpoint, EndpointId};
use crate::topology::Topology;
use crate::upstream::{Upstream, UpstreamId};
use metamcp_config::sections::CatalogConfig;

/// Identifies a snapshot: the lists of one endpoint in one view.
pub(super) type SnapshotKey = (EndpointId, View);

pub(super) type Snapshots = HashMap<SnapshotKey, Arc<MergedLists>, RandomState>;

pub(super) type Generations = HashMap<UpstreamId, Arc<AtomicU64>, RandomState>;

/// The catalog as workers see it: snapshots, and a queue of requests for those that are missing or stale.
pub struct Catalog {
    pub(super) config: Arc<ArcSwap<CatalogConfig>>,
    pub(super) snapshots: ArcSwap<Snapshots>,
    /// Incremented with each new snapshot.
    changes: watch::Sender<u64>,
    /// By upstream: incremented when its lists become stale. A snapshot that was made before is stale.
    generations: ArcSwap<Generations>,
    /// By upstream: the outcomes of fetching its lists.
    list_outcomes: Mutex<HashMap<UpstreamId, ListOutcomes>>,
    list_requests: mpsc::Sender<ListRequest>,
    topologies: mpsc::Sender<TopologyUpdate>,
    approvals: ToolApprovals,
    approval_changes: mpsc::Sender<oneshot::Sender<()>>,
}

/// The receiving ends of the catalog's queues, for the catalog task.
pub struct CatalogInbox {
    pub(super) catalog: Arc<Catalog>,
    pub(super) topology: Arc<Topology>,
    pub(super) list_requests: mpsc::Receiver<ListRequest>,
    pub(super) topologies: mpsc::Receiver<TopologyUpdate>,
    pub(super) approval_changes: mpsc::Receiver<oneshot::Sender<()>>,
}

/// A request for a snapshot.
pub(super) struct ListRequest {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) view: View,
    pub(super) requester: Requester,
}

/// Who requests a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requester {
    Client,
    /// The gateway itself, so that the lists are there when a client comes.
    Gateway,
}

/// A topology that is about to be published.
pub(super) struct TopologyUpdate {
    pub(super) topology: Arc<Topology>,
    /// Notified when the lists of the topology are prepared.
    pub(super) prepared: oneshot::Sender<()>,
}

/// Queued list requests. Each requester waits for a snapshot, not for its own request, and asks again: a full
/// queue loses nothing.
const LIST_REQUESTS_MAX: usize = 256;

/// Queued approval changes. One more waits for room.
const APPROVAL_CHANGES_MAX: usize = 16;

/// How long a call waits for a slow server if only its list can tell where the call goes. Clients abort a
/// call after a minute by default; an error before that is better.
const SLOW_LIST_TIMEOUT: Duration = Duration::from_secs(45);

impl Catalog {
    /// The bounds as they are now.
    pub fn config(&self) -> Guard<Arc<CatalogConfig>> {
        self.config.load()
    }

    /// Replaces the bounds, for lists that are fetched or merged from now on.
    pub fn set_config(&self, config: CatalogConfig) {
        self.config.store(Arc::new(config));
    }

    /// Creates a catalog, and the inbox for its task.
    pub fn new(config: CatalogConfig, topology: &Arc<Topology>) -> (Arc<Self>, CatalogInbox) {
        let (list_requests, list_request_queue) = mpsc::channel(LIST_REQUESTS_MAX);
        // One topology is prepared before the next is made.
        let (topologies, topology_queue) = mpsc::channel(1);
        let (approval_changes, approval_change_queue) = mpsc::channel(APPROVAL_CHANGES_MAX);
        let catalog = Arc::new(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            snapshots: ArcSwap::default(),
            changes: watch::Sender::new(0),
            generations: ArcSwap::from_pointee(next_generations(&Generations::default(), topology)),
            list_outcomes: Mutex::default(),
            list_requests,
            topologies,
            approvals: ToolApprovals::default(),
            approval_changes,
        });
        let inbox = CatalogInbox {
            catalog: Arc::clone(&catalog),
            topology: Arc::clone(topology),
            list_requests: list_request_queue,
            topologies: topology_queue,
            approval_changes: approval_change_queue,
        };
        (catalog, inbox)
    }

    /// Prepares the lists of a topology that is about to be published: when this completes, they contain what
    /// is known of the servers that stay, so that no request waits for it. Not cancel safe: the topology must
    /// be published afterwards.
    pub async fn prepare(&self, topology: &Arc<Topology>) {
        let (prepared, done) = oneshot::channel();
        // Without a catalog task there are no lists to prepare: the process shuts down.
        if self.topologies.send(TopologyUpdate { topology: Arc::clone(topology), prepared }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Returns when a server's lists were last fetched, for any kind of client.
    pub fn fetched_at(&self, upstream: UpstreamId) -> Option<Instant> {
        self.lock_list_outcomes().get(&upstream)?.fetched_at
    }

    /// Returns the state of a server.
    pub fn server_state(&self, upstream: &Upstream) -> ServerState {
        ServerState::new(upstream.status(), self.lock_list_outcomes().get(&upstream.id))
    }

    /// Returns the approvals of tools. What changes in them is in the lists after
    /// [`apply_approvals`](Self::apply_approvals).
    pub fn approvals(&self) -> &ToolApprovals {
        &self.approvals
    }

    /// Merges the lists again after the approvals changed. Cancel safe.
    pub async fn apply_approvals(&self) {
        let (applied, done) = oneshot::channel();
        if self.approval_changes.send(applied).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Wakes those who [`subscribe`](Self::subscribe) to changes.
    pub fn notify_changes(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Subscribes to changes: the number is incremented with each new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns the current snapshot, which may be stale. Does not lock or wait.
    pub fn snapshot(&self, endpoint: &Endpoint, view: View) -> Option<Arc<MergedLists>> {
        let merged = self.snapshots.load().get(&(endpoint.id, view)).cloned()?;
        // Loaded first: a store by every request would move the cache line between the workers.
        if !merged.used.load(Ordering::Relaxed) {
            merged.used.store(true, Ordering::Relaxed);
        }
        Some(merged)
    }

    /// Returns the current snapshots of an endpoint in all views. Does not count as a use of them.
    pub fn snapshots_of(&self, endpoint: &Endpoint) -> Vec<Arc<MergedLists>> {
        let snapshots = self.snapshots.load();
        let of_endpoint = snapshots.iter().filter(|((id, _), _)| *id == endpoint.id);
        of_endpoint.map(|(_, merged)| Arc::clone(merged)).collect()
    }

    /// Returns the lists, after waiting up to the deadline for those that are being fetched. Cancel safe.
    pub async fn lists(&self, endpoint: &Arc<Endpoint>, view: View) -> Arc<MergedLists> {
        self.lists_until(endpoint, view, |_| false).await
    }

    /// Like [`lists`](Self::lists), but returns as soon as `is_enough`: a name that belongs to one server
    /// does not wait for another. Cancel safe.
    pub async fn lists_until(
        &self,
        endpoint: &Arc<Endpoint>,
        view: View,
        is_enough: impl Fn(&MergedLists) -> bool,
    ) -> Arc<MergedLists> {
        let is_done = |merged: &MergedLists| self.is_settled(endpoint, merged) || is_enough(merged);
        self.wait_for_lists(endpoint, view, self.config().list_deadline, is_done).await
    }

    /// Like [`lists_until`](Self::lists_until), but also waits for slow servers, up to the time that a
    /// program may take to start. For calls that only a list can route. Cancel safe.
    pub async fn lists_until_including_slow(
        &self,
        endpoint: &Arc<Endpoint>,
        view: View,
        is_enough: impl Fn(&MergedLists) -> bool,
    ) -> Arc<MergedLists> {
        let is_done = |merged: &MergedLists| {
            let has_slow = merged.missing.iter().any(|missing| missing.reason == MissingReason::Slow);
            (!has_slow && self.is_settled(endpoint, merged)) || is_enough(merged)
        };
        self.wait_for_lists(endpoint, view, self.config().list_deadline.max(SLOW_LIST_TIMEOUT), is_done).await
    }

    async fn wait_for_lists(
        &self,
        endpoint: &Arc<Endpoint>,
        view: View,
        wait_max: Duration,
        is_done: impl Fn(&MergedLists) -> bool,
    ) -> Arc<MergedLists> {
        if let Some(merged) = self.snapshot(endpoint, view).filter(|merged| is_done(merged)) {
            return merged;
        }
        let deadline = Instant::now() + wait_max;
        let mut changes = self.changes.subscribe();
        loop {
            // A full queue leads to a change as well, after which this asks again.
            let _ = self.list_requests.try_send(ListRequest::of_client(endpoint, view));
            let elapsed = timeout_at(deadline, changes.changed()).await.is_err();
            let merged = self.snapshot(endpoint, view);
            match merged {
                Some(merged) if elapsed || is_done(&merged) => return merged,
                None if elapsed => return Arc::new(loading_lists(endpoint)),
                _ => {}
            }
        }
    }

    /// Requests the lists of Modern servers before a client asks, which also detects the era of each server.
    /// Does not wait.
    pub fn prefetch(&self, endpoint: &Arc<Endpoint>) {
        let endpoint = Arc::clone(endpoint);
        let request = ListRequest { endpoint, view: View::Modern, requester: Requester::Gateway };
        // With a full queue, clients ask for the lists themselves.
        let _ = self.list_requests.try_send(request);
    }

    /// Marks a server's lists stale, because the server announced a change.
    pub fn mark_stale(&self, upstream: UpstreamId) {
        if let Some(generation) = self.generations.load().get(&upstream) {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether an item with that name or URI is known to be listed. Requests missing lists, but does not wait for
    /// them.
    pub fn has_item(&self, endpoint: &Arc<Endpoint>, view: View, kind: ListKind, name: &str) -> bool {
        let Some(merged) = self.snapshot(endpoint, view) else {
            // With a full queue, the next call requests them.
            let _ = self.list_requests.try_send(ListRequest::of_client(endpoint, view));
            return false;
        };
        merged.listing(kind).names.find(name).is_some()
    }

    /// Returns the generation of a server's lists: how often they were marked stale.
    pub(super) fn generation(&self, upstream: UpstreamId) -> u64 {
        let generations = self.generations.load();
        generations.get(&upstream).map_or(0, |generation| generation.load(Ordering::Acquire))
    }

    /// Takes over the servers of a topology; servers that stay keep their generations.
    pub(super) fn adopt_servers(&self, topology: &Topology) {
        let generations = next_generations(&self.generations.load(), topology);
        self.generations.store(Arc::new(generations));
        self.lock_list_outcomes().retain(|upstream, _| topology.upstream(*upstream).is_some());
    }

    /// Records the outcome of fetching a server's lists.
    pub(super) fn record_fetch(&self, upstream: UpstreamId, view: View, outcome: Result<(), &MissingReason>) {
        self.lock_list_outcomes().entry(upstream).or_default().record(view, outcome);
    }

    /// Forgets the outcomes of the views of which no lists are kept.
    pub(super) fn retain_outcomes(&self, is_kept: impl Fn(UpstreamId, View) -> bool) {
        for (upstream, outcomes) in self.lock_list_outcomes().iter_mut() {
            outcomes.retain_views(|view| is_kept(*upstream, view));
        }
    }

    /// Publishes changed snapshots. Only the catalog task calls this.
    pub(super) fn edit_snapshots(&self, change: impl FnOnce(&mut Snapshots)) {
        let mut snapshots = Snapshots::clone(&self.snapshots.load());
        change(&mut snapshots);
        self.snapshots.store(Arc::new(snapshots));
        self.notify_changes();
    }

    /// Whether no newer lists are pending.
    fn is_settled(&self, endpoint: &Endpoint, merged: &MergedLists) -> bool {
        let generations = self.generations.load();
        // A removed server has no generation: nothing newer comes from it.
        let current = |upstream| {
            generations.get(&UpstreamId(upstream)).map_or(0, |generation| generation.load(Ordering::Acquire))
        };
        let mut pairs = endpoint.servers.iter().zip(&merged.generations);
        !merged.is_loading && pairs.all(|(server, generation)| current(server.upstream) <= *generation)
    }

    /// A poisoned lock is sound: every change under it is one operation on the map.
    fn lock_list_outcomes(&self) -> MutexGuard<'_, HashMap<UpstreamId, ListOutcomes>> {
        self.list_outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ListRequest {
    fn of_client(endpoint: &Arc<Endpoint>, view: View) -> Self {
        Self { endpoint: Arc::clone(endpoint), view, requester: Requester::Client }
    }
}

/// Returns a generation for each server of the topology; servers that stay keep theirs.
fn next_generations(before: &Generations, topology: &Topology) -> Generations {
    let ids = topology.upstreams().map(|upstream| upstream.id);
    ids.map(|id| (id, before.get(&id).map_or_else(Arc::default, Arc::clone))).collect()
}

/// Returns lists in which every server is loading.
fn loading_lists(endpoint: &Endpoint) -> MergedLists {
    let servers: Vec<_> = endpoint.servers.iter().map(|_| Err(MissingReason::Loading)).collect();
    let view = View::Legacy(ClientCapabilities::default());
    merge(endpoint, view, &servers, vec![0; servers.len()], 1)
}
