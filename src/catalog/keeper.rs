//! What workers see of the catalog, and what keeps it, away from them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, timeout_at};

use super::Config;
use super::member::{AbortOnDrop, Member};
use super::merge::{ListKind, Listed, Merged, ServerLists, merge};
use super::missing::{Failed, Missing, Reason};
use super::vetting::{Verdict, Vetting};
use super::view::View;
use crate::route::{Endpoint, EndpointId};
use crate::topology::{Topology, UpstreamPools};
use crate::upstream::{UpstreamId, UpstreamPool};
use metamcp_core::protocol::ClientCapabilities;

type Key = (EndpointId, View);

type Snapshots = HashMap<Key, Arc<Merged>, RandomState>;

/// Each member with the task that keeps it.
type Members = HashMap<(UpstreamId, View), (Rc<Member>, AbortOnDrop)>;

/// The catalog as workers see it: snapshots, and a way to ask for what is not there.
pub struct Catalog {
    config: Config,
    snapshots: ArcSwap<Snapshots>,
    /// Moves with each new snapshot.
    changes: watch::Sender<u64>,
    /// By upstream: moves when its lists are said to have changed. A snapshot made before is stale.
    generations: ArcSwap<Generations>,
    /// By upstream: when its lists were last fetched.
    listed: Mutex<HashMap<UpstreamId, Instant>>,
    wants: mpsc::Sender<Want>,
    topologies: mpsc::Sender<Coming>,
    vetting: Vetting,
    vetted: mpsc::Sender<oneshot::Sender<()>>,
}

type Generations = HashMap<UpstreamId, Arc<AtomicU64>, RandomState>;

/// Lists that somebody asks for.
struct Want {
    endpoint: Arc<Endpoint>,
    view: View,
    by: Asker,
}

/// Who asks for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// One who waits for them, or will.
    Client,
    /// The gateway itself, so that they are there when a client comes.
    Nobody,
}

/// A version of what is served that is about to be published, and who waits until its lists are prepared.
struct Coming {
    topology: Arc<Topology>,
    prepared: oneshot::Sender<()>,
}

/// The other end: runs on the main thread, in its `LocalSet`.
pub struct Keeper {
    shared: Rc<Shared>,
    wants: mpsc::Receiver<Want>,
    topologies: mpsc::Receiver<Coming>,
    vetted: mpsc::Receiver<oneshot::Sender<()>>,
}

/// What the keeper and its members share; one thread, so nothing is locked.
pub struct Shared {
    catalog: Arc<Catalog>,
    pub(super) config: Config,
    pools: UpstreamPools,
    members: RefCell<Members>,
    wanted: RefCell<HashMap<Key, Wanted>>,
}

struct Wanted {
    endpoint: Arc<Endpoint>,
    last: Instant,
    /// Whether a client has asked for it.
    by: Asker,
}

/// Questions waiting for the keeper. Each asker waits for a snapshot, not for its own question, and asks
/// again: a full queue loses nothing.
const WANTS_MAX: usize = 256;

/// Those who wait until what they approved is in the lists; one more waits to be one of them.
const VETTED_MAX: usize = 16;

/// A snapshot that nobody asked for in this time is let go, its upstream sessions with it.
pub(super) const UNWANTED_AFTER: Duration = Duration::from_mins(30);

/// A call that only a list can tell where to go waits so long for a server that is slow to list: clients give a
/// call up after a minute by default, and are better told.
const SLOW_LIST_TIMEOUT: Duration = Duration::from_secs(45);

/// Snapshots at once. Clients decide on their capabilities, 128 combinations of them; a client that tries
/// all of them must not open as many sessions at every upstream.
const SNAPSHOTS_MAX: usize = 64;

impl Catalog {
    /// The two ends.
    pub fn new(config: Config, topology: &Arc<Topology>) -> (Arc<Self>, KeeperSeed) {
        let (wants, asked) = mpsc::channel(WANTS_MAX);
        // One version is prepared before the next is made.
        let (topologies, coming) = mpsc::channel(1);
        let (vetted, judged) = mpsc::channel(VETTED_MAX);
        let catalog = Arc::new(Self {
            config,
            snapshots: ArcSwap::default(),
            changes: watch::Sender::new(0),
            generations: ArcSwap::from_pointee(generations(&Generations::default(), topology)),
            listed: Mutex::default(),
            wants,
            topologies,
            vetting: Vetting::default(),
            vetted,
        });
        let topology = Arc::clone(topology);
        (
            Arc::clone(&catalog),
            KeeperSeed { catalog, topology, wants: asked, topologies: coming, vetted: judged },
        )
    }

    /// Makes ready for a version that is about to be published: what is known of servers that stay is in the
    /// lists of its endpoints when this completes, so that no request waits for it. Not cancel safe: the
    /// version must then be published.
    pub async fn prepare(&self, topology: &Arc<Topology>) {
        let (prepared, done) = oneshot::channel();
        // Without a keeper there are no lists to prepare: the process ends.
        if self.topologies.send(Coming { topology: Arc::clone(topology), prepared }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// When a server's lists were last fetched, for whichever kind of client.
    pub fn listed_at(&self, upstream: UpstreamId) -> Option<Instant> {
        self.listed().get(&upstream).copied()
    }

    /// Every change under the lock is one operation on the map.
    fn listed(&self) -> MutexGuard<'_, HashMap<UpstreamId, Instant>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which tools are as they were approved. What is told to it here is in the lists after
    /// [`follow_vetting`](Self::follow_vetting).
    pub fn vetting(&self) -> &Vetting {
        &self.vetting
    }

    /// Makes the lists anew of what is known, after something was approved or is found not to be. Cancel safe.
    pub async fn follow_vetting(&self) {
        let (followed, done) = oneshot::channel();
        if self.vetted.send(followed).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Says that there may be something new for those who watch [`changes`](Self::changes).
    pub fn announce(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// What is known now. No lock, no wait; possibly stale.
    pub fn snapshot(&self, endpoint: &Endpoint, view: View) -> Option<Arc<Merged>> {
        let merged = self.snapshots.load().get(&(endpoint.id, view)).cloned()?;
        // Read first: a store by every request would move the cache line between the workers.
        if !merged.used.load(Ordering::Relaxed) {
            merged.used.store(true, Ordering::Relaxed);
        }
        Some(merged)
    }

    /// What is known, after waiting up to the deadline for what is being fetched. Cancel safe.
    pub async fn merged(&self, endpoint: &Arc<Endpoint>, view: View) -> Arc<Merged> {
        self.merged_until(endpoint, view, |_| false).await
    }

    /// As [`merged`](Self::merged), and no longer than until what is known is enough: a name that leads to
    /// one server need not wait for another. Cancel safe.
    pub async fn merged_until(
        &self,
        endpoint: &Arc<Endpoint>,
        view: View,
        is_enough: impl Fn(&Merged) -> bool,
    ) -> Arc<Merged> {
        let is_done = |merged: &Merged| self.is_settled(endpoint, merged) || is_enough(merged);
        self.awaited(endpoint, view, self.config.list_deadline, is_done).await
    }

    /// As [`merged_until`](Self::merged_until), and as long as a server is slow to list, though no longer than a
    /// program may take to start: for what only a list can tell where to go. Cancel safe.
    pub async fn merged_patiently(
        &self,
        endpoint: &Arc<Endpoint>,
        view: View,
        is_enough: impl Fn(&Merged) -> bool,
    ) -> Arc<Merged> {
        let is_done = |merged: &Merged| {
            let is_coming = merged.missing.iter().any(|missing| missing.reason == Reason::Slow);
            (!is_coming && self.is_settled(endpoint, merged)) || is_enough(merged)
        };
        self.awaited(endpoint, view, self.config.list_deadline.max(SLOW_LIST_TIMEOUT), is_done).await
    }

    async fn awaited(
        &self,
        endpoint: &Arc<Endpoint>,
        view: View,
        patience: Duration,
        is_done: impl Fn(&Merged) -> bool,
    ) -> Arc<Merged> {
        if let Some(merged) = self.snapshot(endpoint, view).filter(|merged| is_done(merged)) {
            return merged;
        }
        let deadline = Instant::now() + patience;
        let mut changes = self.changes.subscribe();
        loop {
            // A full queue holds what will bring a change, after which this asks again.
            let _ = self.wants.try_send(Want::of_client(endpoint, view));
            let elapsed = timeout_at(deadline, changes.changed()).await.is_err();
            let merged = self.snapshot(endpoint, view);
            match merged {
                Some(merged) if elapsed || is_done(&merged) => return merged,
                None if elapsed => return Arc::new(nothing_yet(endpoint)),
                _ => {}
            }
        }
    }

    /// Has the lists of Modern servers fetched before a client asks, and the era of each server found out.
    /// Nobody waits.
    pub fn list_early(&self, endpoint: &Arc<Endpoint>) {
        let want = Want { endpoint: Arc::clone(endpoint), view: View::Modern, by: Asker::Nobody };
        // A full queue: clients ask by themselves.
        let _ = self.wants.try_send(want);
    }

    /// A server said that its lists changed: what is known of it is stale from now on.
    pub fn mark_stale(&self, upstream: UpstreamId) {
        if let Some(generation) = self.generations.load().get(&upstream) {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether a tool of that name is known to be listed there. What is not known is asked for, and nobody
    /// waits.
    pub fn lists_tool(&self, endpoint: &Arc<Endpoint>, view: View, name: &str) -> bool {
        let Some(merged) = self.snapshot(endpoint, view) else {
            // A full queue: whoever calls next asks again.
            let _ = self.wants.try_send(Want::of_client(endpoint, view));
            return false;
        };
        merged.listing(ListKind::Tools).names.find(name).is_some()
    }

    /// Moves with each new snapshot.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether nothing better is on its way.
    fn is_settled(&self, endpoint: &Endpoint, merged: &Merged) -> bool {
        let generations = self.generations.load();
        // Of a server that is gone nothing more comes.
        let now = |upstream| {
            generations.get(&UpstreamId(upstream)).map_or(0, |generation| generation.load(Ordering::Acquire))
        };
        let mut pairs = endpoint.servers.iter().zip(&merged.generations);
        !merged.is_loading && pairs.all(|(place, generation)| now(place.upstream) <= *generation)
    }
}

impl Want {
    fn of_client(endpoint: &Arc<Endpoint>, view: View) -> Self {
        Self { endpoint: Arc::clone(endpoint), view, by: Asker::Client }
    }
}

/// One for each server; those that stay go on counting.
fn generations(before: &Generations, topology: &Topology) -> Generations {
    let ids = topology.upstreams().map(|upstream| upstream.id);
    ids.map(|id| (id, before.get(&id).map_or_else(Arc::default, Arc::clone))).collect()
}

fn nothing_yet(endpoint: &Endpoint) -> Merged {
    let servers: Vec<_> = endpoint.servers.iter().map(|_| Err(Reason::Loading)).collect();
    let view = View::Legacy(ClientCapabilities::default());
    merge(endpoint, view, &servers, vec![0; servers.len()], 1)
}

/// What a keeper is made of, on the thread that it will run on: its pools cannot move between threads.
pub struct KeeperSeed {
    catalog: Arc<Catalog>,
    topology: Arc<Topology>,
    wants: mpsc::Receiver<Want>,
    topologies: mpsc::Receiver<Coming>,
    vetted: mpsc::Receiver<oneshot::Sender<()>>,
}

impl KeeperSeed {
    /// The keeper, on this thread.
    pub fn plant(self) -> Keeper {
        let shared = Rc::new(Shared {
            config: self.catalog.config.clone(),
            catalog: self.catalog,
            pools: UpstreamPools::new(&self.topology),
            members: RefCell::default(),
            wanted: RefCell::default(),
        });
        Keeper { shared, wants: self.wants, topologies: self.topologies, vetted: self.vetted }
    }
}

impl Keeper {
    /// Keeps the catalog until it is dropped. Runs in a `LocalSet`.
    pub async fn run(mut self) {
        let mut sweep = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                want = self.wants.recv() => match want {
                    Some(want) => self.shared.want(&want),
                    None => return,
                },
                Some(Coming { topology, prepared }) = self.topologies.recv() => {
                    self.shared.prepare(&topology);
                    // Nobody may be waiting any more.
                    let _ = prepared.send(());
                }
                Some(followed) = self.vetted.recv() => {
                    self.shared.publish_all();
                    // Nobody may be waiting any more.
                    let _ = followed.send(());
                }
                _ = sweep.tick() => self.shared.sweep(),
            }
        }
    }
}

impl Shared {
    /// How often a server's lists were said to have changed.
    pub fn generation(&self, upstream: UpstreamId) -> u64 {
        let generations = self.catalog.generations.load();
        generations.get(&upstream).map_or(0, |generation| generation.load(Ordering::Acquire))
    }

    /// A server's lists were fetched.
    pub fn note_listed(&self, upstream: UpstreamId) {
        self.catalog.listed().insert(upstream, Instant::now());
    }

    /// Takes up a version that is about to be published. Whatever was wanted of an endpoint is wanted of what
    /// it becomes. What it was stays until the next sweep, for requests that came before.
    fn prepare(self: &Rc<Self>, topology: &Arc<Topology>) {
        self.drop_outdated();
        if !self.pools.adopt(topology) {
            return;
        }
        let counted = generations(&self.catalog.generations.load(), topology);
        self.catalog.generations.store(Arc::new(counted));
        self.catalog.listed().retain(|upstream, _| topology.upstream(*upstream).is_some());
        let becomes = |wanted: &Wanted| topology.table.find_by_scope(&wanted.endpoint.scope).cloned();
        let moved: Vec<_> = self
            .wanted
            .borrow()
            .iter()
            .filter_map(|((id, view), wanted)| Some((*view, becomes(wanted)?, wanted.last, wanted.by, *id)))
            .filter(|(_, endpoint, _, _, id)| endpoint.id != *id)
            .collect();
        let mut becoming = Vec::with_capacity(moved.len());
        for (view, endpoint, last, by, _) in moved {
            self.wanted
                .borrow_mut()
                .insert((endpoint.id, view), Wanted { endpoint: Arc::clone(&endpoint), last, by });
            self.look_after(&endpoint, view, by);
            becoming.push((endpoint, view));
        }
        self.publish(&becoming);
    }

    /// Lets go what is of an earlier version.
    fn drop_outdated(&self) {
        let topology = Arc::clone(&self.pools.topology());
        self.wanted.borrow_mut().retain(|_, wanted| topology.table.contains(&wanted.endpoint));
        self.drop_unwanted();
    }

    /// A member has something new.
    pub fn updated(&self, pool: &UpstreamPool, view: View) {
        let upstream = pool.upstream().id.0;
        let touched: Vec<_> = self
            .wanted
            .borrow()
            .iter()
            .filter(|((_, of), wanted)| {
                *of == view && wanted.endpoint.servers.iter().any(|place| place.upstream == upstream)
            })
            .map(|(_, wanted)| (Arc::clone(&wanted.endpoint), view))
            .collect();
        self.publish(&touched);
    }

    /// A server was listed otherwise than before, or for the first time.
    pub fn listed(&self, pool: &UpstreamPool, view: View, lists: &ServerLists) {
        self.catalog.vetting.note(pool.upstream(), view, Vetting::seen(lists));
    }

    /// What is held back may be other than it was, everywhere.
    pub fn publish_all(&self) {
        let wanted: Vec<_> = self
            .wanted
            .borrow()
            .iter()
            .map(|((_, view), wanted)| (Arc::clone(&wanted.endpoint), *view))
            .collect();
        self.publish(&wanted);
    }

    /// Someone asks for a snapshot that is not there or not fresh.
    fn want(self: &Rc<Self>, want: &Want) {
        let Want { endpoint, view, by } = want;
        self.make_room(endpoint.id, *view);
        let before = self.wanted.borrow().get(&(endpoint.id, *view)).map(|before| before.by);
        let by = before.filter(|before| *before == Asker::Client).unwrap_or(*by);
        let wanted = Wanted { endpoint: Arc::clone(endpoint), last: Instant::now(), by };
        self.wanted.borrow_mut().insert((endpoint.id, *view), wanted);
        self.look_after(endpoint, *view, by);
        if before.is_none() {
            self.publish(&[(Arc::clone(endpoint), *view)]);
        }
    }

    /// Has all servers of the endpoint listed, and again those that said that their lists changed.
    fn look_after(self: &Rc<Self>, endpoint: &Endpoint, view: View, by: Asker) {
        let topology = Arc::clone(&self.pools.topology());
        for place in &endpoint.servers {
            let id = UpstreamId(place.upstream);
            let mut members = self.members.borrow_mut();
            if let Some((member, _)) = members.get(&(id, view)) {
                if by == Asker::Client {
                    member.ask();
                }
                if self.generation(id) > member.lists().1 {
                    member.refresh();
                }
                continue;
            }
            // One that is gone is not asked any more.
            let there = topology.upstream(id).and_then(|_| self.pools.find(id));
            let Some(pool) = there else { continue };
            let member = Member::new(pool, view);
            if by == Asker::Client {
                member.ask();
            }
            let task = spawn_local(Rc::clone(&member).run(Rc::clone(self)));
            members.insert((id, view), (member, AbortOnDrop(task.abort_handle())));
        }
    }

    /// All at once: whoever sees one of them as it is now sees no other as it was.
    fn publish(&self, those: &[(Arc<Endpoint>, View)]) {
        let known = self.catalog.snapshots.load();
        let mut news = Vec::new();
        for (endpoint, view) in those {
            let (key, merged) = ((endpoint.id, *view), self.made(endpoint, *view));
            if known.get(&key).is_some_and(|known| known.says_the_same(&merged)) {
                continue;
            }
            for Missing { server, reason, .. } in &merged.missing {
                tracing::debug!(endpoint = &*endpoint.scope, %server, ?reason, "server missing from the lists");
            }
            news.push((key, Arc::new(merged)));
        }
        if !news.is_empty() {
            self.edit(|snapshots| snapshots.extend(news));
        }
    }

    /// The lists of an endpoint, from what is known of its servers.
    fn made(&self, endpoint: &Endpoint, view: View) -> Merged {
        let members = self.members.borrow();
        let mut lists = Vec::with_capacity(endpoint.servers.len());
        let mut generations = Vec::with_capacity(endpoint.servers.len());
        let mut announced = [0; 3];
        for place in &endpoint.servers {
            let member = members.get(&(UpstreamId(place.upstream), view));
            let removed = || Failed { text: "it was removed".to_owned(), stage: None, since: None };
            let gone = || (Err(Reason::Failed(removed())), 0);
            let (list, generation) = member.map_or_else(gone, |(member, _)| member.lists());
            lists.push(list.and_then(|lists| match self.catalog.vetting.verdict(&place.name) {
                Verdict::Show(held) => Ok(Listed { lists, held }),
                Verdict::Wait => Err(Reason::Loading),
            }));
            let of_server = member.map_or([0; 3], |(member, _)| member.announced());
            announced.iter_mut().zip(of_server).for_each(|(sum, count)| *sum += count);
            generations.push(generation);
        }
        let mut merged = merge(endpoint, view, &lists, generations, self.config.page_items);
        merged.announced = announced;
        merged
    }

    /// Of the snapshots, lets go the one unwanted for longest when there is no room.
    fn make_room(&self, endpoint: EndpointId, view: View) {
        let mut wanted = self.wanted.borrow_mut();
        if wanted.len() < SNAPSHOTS_MAX || wanted.contains_key(&(endpoint, view)) {
            return;
        }
        let legacy = wanted.iter().filter(|((_, view), _)| *view != View::Modern);
        let oldest = legacy.min_by_key(|(_, wanted)| wanted.last).map(|(key, _)| *key);
        if let Some(key) = oldest {
            wanted.remove(&key);
        }
        drop(wanted);
        self.drop_unwanted();
    }

    /// Lets go what nobody asked for in a long while, and idle connections.
    fn sweep(&self) {
        let now = Instant::now();
        let snapshots = self.catalog.snapshots.load();
        self.wanted.borrow_mut().retain(|key, wanted| {
            let is_used = snapshots.get(key).is_some_and(|merged| merged.used.swap(false, Ordering::Relaxed));
            if is_used {
                self.prolong(&wanted.endpoint, key.1);
            }
            if is_used || key.1 == View::Modern {
                wanted.last = now;
            }
            now.duration_since(wanted.last) < UNWANTED_AFTER
        });
        drop(snapshots);
        self.drop_outdated();
        self.pools.sweep();
    }

    /// What is known of its servers is used: clients go on asking for it.
    fn prolong(&self, endpoint: &Endpoint, view: View) {
        let members = self.members.borrow();
        let of_endpoint = endpoint.servers.iter();
        let known = of_endpoint.filter_map(|place| members.get(&(UpstreamId(place.upstream), view)));
        known.filter(|(member, _)| member.lists().0.is_ok()).for_each(|(member, _)| member.ask());
    }

    fn drop_unwanted(&self) {
        let wanted = self.wanted.borrow();
        self.members.borrow_mut().retain(|(upstream, view), _| {
            wanted.iter().any(|((_, of), wanted)| {
                of == view && wanted.endpoint.servers.iter().any(|place| place.upstream == upstream.0)
            })
        });
        let members = self.members.borrow();
        self.catalog.vetting.keep_views(|upstream, view| members.contains_key(&(upstream, view)));
        drop(members);
        let gone = self.catalog.snapshots.load().keys().any(|key| !wanted.contains_key(key));
        if gone {
            self.edit(|snapshots| snapshots.retain(|key, _| wanted.contains_key(key)));
        }
    }

    fn edit(&self, change: impl FnOnce(&mut Snapshots)) {
        let mut snapshots = Snapshots::clone(&self.catalog.snapshots.load());
        change(&mut snapshots);
        self.catalog.snapshots.store(Arc::new(snapshots));
        self.catalog.changes.send_modify(|version| *version += 1);
    }
}
