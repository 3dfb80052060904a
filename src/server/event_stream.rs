//! The GET stream of a Legacy session: it gathers what the servers behind the endpoint send outside of calls.
//!
//! One task owns a stream. It is told by its outlet that the client has gone and does not come back, and everything it
//! started ends with it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::body::ResponseBody;
use super::fields::{Field, Fields};
use super::kept::{self, Kept};
use super::outlet::{ANNOUNCED, COMMENT, Outlet, announcement};
use super::reply::{self, Reply};
use super::tag::{self, Passed};
use super::tasks::{TaskIds, TaskPass};
use super::worker::Worker;
use crate::auth::Identity;
use crate::backend::BackendId;
use crate::base::{Fault, Kind, Phase};
use crate::catalog::{ListKind, Merged, View};
use crate::frame::Event;
use crate::limits::Permit;
use crate::protocol::{Method, header};
use crate::route::{Endpoint, Place, Shape};
use crate::session::{Feed, FeedEnd, OpenStream, Ready, Session, Source};
use crate::telemetry::metrics::{StreamKind, Streaming};

/// Events made and not yet read by the client. A server that sends more waits.
pub const EVENTS_MAX: usize = 64;

/// Opens the GET stream of a session. It is answered at once, whatever the servers do, and takes over from
/// the one before.
pub fn open(
    worker: &Rc<Worker>,
    fields: &Fields,
    session: Arc<Session>,
    identity: Identity,
    permit: Permit,
) -> Result<Reply, Fault> {
    if !super::receive::accepts(fields, header::EVENT_STREAM) {
        return Err(Fault::client(Kind::NotAcceptable, "send `Accept: text/event-stream`"));
    }
    let streams = worker.shared.streams.as_ref();
    if let Some((streams, resumes)) = streams.zip(kept::resumes(fields, &session)) {
        let last_event_id = fields.get(Field::LastEventId);
        let permit = match last_event_id {
            None => permit,
            Some(id) => match kept::take_up(streams, &session, id, resumes, permit)? {
                Ok(reply) => return Ok(reply),
                Err(permit) => permit,
            },
        };
        let (writer, reader) = streams.begin(&session.seal, None);
        session.keep_stream(writer.stream());
        writer.comment();
        // What changed in a stream that is gone is not known: the client is to look.
        let first =
            if last_event_id.is_some() { ANNOUNCED.map(|(_, method)| method).to_vec() } else { Vec::new() };
        let body = ResponseBody::kept(Kept::new(reader, resumes, streams, Some(permit)));
        SessionStream::start(worker, session, Outlet::kept(writer), identity, None, first);
        return Ok(reply::events(body));
    }
    let last_event_id = fields.value(Field::LastEventId);
    if last_event_id.is_some() && session.endpoint.shape != Shape::Single {
        return Err(Fault::client(
            Kind::MethodNotAllowed,
            "streams of an endpoint with several servers cannot be resumed; open one without Last-Event-ID",
        ));
    }
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    // The channel is empty, so there is room.
    let _ = sender.try_send(Bytes::from_static(COMMENT));
    SessionStream::start(worker, session, Outlet::Passing(sender), identity, last_event_id, Vec::new());
    Ok(reply::events(ResponseBody::events(receiver, Some(permit))))
}

/// The events of a session's stream, for a client that has another way to get them than GET. Takes over likewise, and ends
/// when the receiver is dropped.
pub fn follow(worker: &Rc<Worker>, session: Arc<Session>, identity: Identity) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    SessionStream::start(worker, session, Outlet::Passing(sender), identity, None, Vec::new());
    receiver
}

struct SessionStream {
    worker: Rc<Worker>,
    session: Arc<Session>,
    outlet: Outlet,
    generation: u64,
    last_event_id: Option<http::HeaderValue>,
    identity: Identity,
    _open: OpenStream,
    _streaming: Option<Streaming>,
}

impl SessionStream {
    /// Takes over from the session's stream before. `first`: the lists that are said to have changed.
    fn start(
        worker: &Rc<Worker>,
        session: Arc<Session>,
        outlet: Outlet,
        identity: Identity,
        last_event_id: Option<http::HeaderValue>,
        first: Vec<Method>,
    ) {
        let (generation, open) = (session.take_stream(), session.count_stream());
        let (worker, streaming) = (Rc::clone(worker), worker.streaming(StreamKind::Session));
        let stream = Self {
            worker,
            session,
            outlet,
            generation,
            last_event_id,
            identity,
            _open: open,
            _streaming: streaming,
        };
        spawn_local(async move {
            stream.announce(first).await;
            stream.run().await;
        });
    }

    /// Says that these lists changed.
    async fn announce(&self, methods: Vec<Method>) {
        for method in methods {
            let _ = self.outlet.send(announcement(method)).await;
        }
    }

    /// Until the client has gone, the session ended, or another stream took over.
    async fn run(mut self) {
        let shared = Arc::clone(&self.worker.shared);
        let view = View::Legacy(self.session.seal.capabilities);
        let mut changes = shared.catalog.changes();
        let mut lists = Digests::of(&self.worker, &self.session.endpoint, view);
        let mut phase = shared.phase.clone();
        let period = shared.config.keep_alive;
        let mut keep_alive = interval_at(Instant::now() + period, period);
        let mut keys = shared.keys.clone();
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let resumes = self.last_event_id.is_some();
        let mut pumps = Pumps::default();
        loop {
            let waiting = Arc::clone(&self.session);
            let changed = waiting.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let endpoint = self.worker.endpoint_now(&waiting.endpoint.scope);
            let Some(session) = endpoint.and_then(|endpoint| self.renew(&endpoint, &mut pumps)) else {
                return;
            };
            if !session.holds_stream(self.generation) || *phase.borrow() >= Phase::Drain {
                return;
            }
            if session.endpoint.id != waiting.endpoint.id && session.endpoint.shape != Shape::Single {
                self.announce(lists.moved(&self.worker, &session.endpoint, view)).await;
            }
            self.start_pumps(&mut pumps);
            tokio::select! {
                () = self.outlet.closed() => return,
                () = &mut changed => {}
                _ = phase.changed() => {}
                Ok(()) = keys.changed() => {
                    // A key that was taken back takes its streams with it.
                    if !shared.auth.still_valid(&self.identity) {
                        return;
                    }
                }
                _ = keep_alive.tick() => {
                    self.outlet.comment();
                    session.touch(self.worker.now_s());
                    // A key may also expire, of which nobody tells.
                    if !shared.auth.still_valid(&self.identity) {
                        return;
                    }
                }
                _ = changes.changed(), if session.endpoint.shape != Shape::Single => {
                    self.announce(lists.moved(&self.worker, &session.endpoint, view)).await;
                }
                Some(ended) = pumps.tasks.join_next() => {
                    // One that was stopped has nothing to say.
                    let Ok((ready, backend, end)) = ended else { continue };
                    if end == FeedEnd::SessionLost
                        && let Some(upstream) = session.upstream_at(backend)
                    {
                        upstream.forget(&ready);
                    }
                    // The one server's stream ended, or cannot be taken up where the client says: so does
                    // this one, and the client comes again.
                    let ends = end == FeedEnd::Ended || resumes;
                    if ends && session.endpoint.shape == Shape::Single {
                        return;
                    }
                }
            }
        }
    }

    /// The session over its endpoint as it is now. Streams of servers that are gone end.
    fn renew(&mut self, endpoint: &Arc<Endpoint>, pumps: &mut Pumps) -> Option<Arc<Session>> {
        if self.session.endpoint.id != endpoint.id {
            self.session = self.worker.shared.sessions.renewed(&self.session, endpoint)?;
            let session = Arc::clone(&self.session);
            pumps.stop_all_but(|backend| session.upstream_at(backend).is_some());
        }
        Some(Arc::clone(&self.session))
    }

    /// Reads the stream of each backend session that is open and not read yet.
    fn start_pumps(&mut self, pumps: &mut Pumps) {
        for (place, upstream) in self.session.upstreams() {
            let Some(ready) = upstream.ready() else { continue };
            let server = &self.session.endpoint.servers[place];
            if pumps.read.get(&server.backend).is_some_and(|(known, _)| Arc::ptr_eq(known, &ready)) {
                continue;
            }
            // Gone in this moment: the stream is about to follow.
            let Ok(pool) = self.worker.pool(server) else { continue };
            let shape = self.session.endpoint.shape;
            // A client that knows the server's own ids comes back by them.
            let resumes = shape != Shape::Single || self.outlet.is_kept();
            let tasks = (shape != Shape::Single && ready.features.tasks.calls).then(|| {
                let ids =
                    TaskIds::new(&self.worker, &self.identity, Some(&self.session), &self.session.endpoint);
                TaskPass::new(ids, false)
            });
            let feed =
                Feed::new(pool, Source::Legacy(Arc::clone(&ready)), resumes).after(self.last_event_id.take());
            let pump = Pump {
                worker: Rc::clone(&self.worker),
                server: server.clone(),
                shape,
                tasks,
                outlet: self.outlet.clone(),
            };
            let (reads, backend) = (Arc::clone(&ready), server.backend);
            let task = pumps.tasks.spawn_local(async move { (reads, backend, pump.run(feed).await) });
            pumps.read.insert(backend, (ready, task));
        }
    }
}

/// The streams of servers that one stream of a client gathers.
#[derive(Default)]
struct Pumps {
    /// By the server's id: the session there whose stream is read, and the task that reads it.
    read: HashMap<u32, (Arc<Ready>, AbortHandle)>,
    tasks: JoinSet<(Arc<Ready>, u32, FeedEnd)>,
}

impl Pumps {
    fn stop_all_but(&mut self, stays: impl Fn(u32) -> bool) {
        self.read.retain(|backend, (_, task)| {
            let stays = stays(*backend);
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

/// Passes the events of one server on.
struct Pump {
    worker: Rc<Worker>,
    server: Place,
    shape: Shape,
    /// What is done about tasks, where the server has them.
    tasks: Option<TaskPass>,
    outlet: Outlet,
}

impl Pump {
    async fn run(self, mut feed: Feed) -> FeedEnd {
        loop {
            let event = match feed.next().await {
                Ok(event) => event,
                Err(end) => return end,
            };
            let Some(bytes) = self.pass(event) else { continue };
            if self.outlet.send(bytes).await.is_err() {
                return FeedEnd::Ended;
            }
        }
    }

    fn pass(&self, event: Event) -> Option<Bytes> {
        if self.shape == Shape::Single {
            return Some(tag::whole(event.raw));
        }
        // Nothing was asked here, so nothing is answered.
        let server = (&self.server.name, self.tasks.as_ref());
        match tag::pass(event, server, &mut None, &mut self.worker.scanner.borrow_mut()) {
            Passed::Untouched(bytes) | Passed::Tagged(bytes) => Some(bytes),
            Passed::ListChanged(bytes) => {
                // The client will list now: what is known is stale before it is told.
                self.worker.shared.catalog.mark_stale(BackendId(self.server.backend));
                Some(bytes)
            }
            Passed::Dropped => None,
        }
    }
}

/// Which lists an endpoint had, to tell which of them changed.
pub struct Digests([u64; 3]);

impl Digests {
    pub fn of(worker: &Worker, endpoint: &Endpoint, view: View) -> Self {
        let merged = worker.shared.catalog.snapshot(endpoint, view);
        Self(merged.as_deref().map_or([0; 3], |merged| digests(merged, view)))
    }

    /// The kinds that changed since the last look.
    pub fn moved(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Method> {
        let Some(merged) = worker.shared.catalog.snapshot(endpoint, view) else { return Vec::new() };
        let now = digests(&merged, view);
        let before = std::mem::replace(&mut self.0, now);
        let moved = before.iter().zip(now).map(|(before, now)| *before != now);
        moved.zip(ANNOUNCED).filter_map(|(moved, (_, method))| moved.then_some(method)).collect()
    }
}

/// What a server says of a change is told to clients of sessions as it says it; to the others by this.
fn digests(merged: &Merged, view: View) -> [u64; 3] {
    let mut announced = if view == View::Modern { merged.announced } else { [0; 3] }.into_iter();
    ANNOUNCED.map(|(kind, _)| {
        let digest = match kind {
            ListKind::Resources => {
                merged.listing(kind).digest ^ merged.listing(ListKind::Templates).digest.rotate_left(1)
            }
            kind => merged.listing(kind).digest,
        };
        // Small counts, beside a hash: one that moves moves the sum.
        digest.wrapping_add(announced.next().unwrap_or_default())
    })
}
