//! The GET stream of a Legacy session: it gathers what the servers behind the endpoint send outside of calls.
//!
//! It is no task: whoever passes its events on polls it, and everything it started ends with it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::task::{AbortHandle, JoinSet, spawn_local};

use super::bell::{Rope, Rung};
use super::body::ResponseBody;
use super::fields::{Field, Fields};
use super::kept::{self, Kept};
use super::queue::{Receiver, Sender, queue};
use super::reply::{self, Reply};
use super::tag::{self, Passed};
use super::tasks::{TaskIds, TaskPass};
use super::words::{ANNOUNCED, COMMENT, announcement};
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
        let mut stream = SessionStream::new(worker, session, identity, None);
        stream.is_kept = true;
        if last_event_id.is_some() {
            stream.announce_all();
        }
        let body = ResponseBody::kept(Kept::new(reader, resumes, streams, Some(permit)));
        spawn_local(kept::keep(stream, writer));
        return Ok(reply::events(body));
    }
    let last_event_id = fields.value(Field::LastEventId);
    if last_event_id.is_some() && session.endpoint.shape != Shape::Single {
        return Err(Fault::client(
            Kind::MethodNotAllowed,
            "streams of an endpoint with several servers cannot be resumed; open one without Last-Event-ID",
        ));
    }
    let mut stream = SessionStream::new(worker, session, identity, last_event_id);
    stream.ready.push_back(Bytes::from_static(COMMENT));
    stream.permit = Some(permit);
    Ok(reply::events(ResponseBody::session(stream)))
}

/// The events of a session's stream, for a client that has another way to get them than GET. Takes over likewise, and ends
/// when it is dropped.
pub fn follow(worker: &Rc<Worker>, session: Arc<Session>, identity: Identity) -> Box<SessionStream> {
    SessionStream::new(worker, session, identity, None)
}

/// The events of a session outside of calls.
pub struct SessionStream {
    worker: Rc<Worker>,
    session: Arc<Session>,
    generation: u64,
    /// Where the one server's stream is to be taken up, until that was asked for.
    last_event_id: Option<http::HeaderValue>,
    /// Whether it is taken up where the client says.
    resumes: bool,
    /// Whether its client may come back.
    is_kept: bool,
    identity: Identity,
    lists: Digests,
    rope: Rope,
    /// The last change of the session that was looked at.
    heard: u64,
    /// Nobody has looked yet.
    is_new: bool,
    /// Made here, and not taken yet.
    ready: VecDeque<Bytes>,
    /// The sessions at servers whose streams were asked for.
    read: Vec<Read>,
    /// While any of these is read.
    pumps: Option<Box<Pumps>>,
    permit: Option<Permit>,
    _open: OpenStream,
    _streaming: Option<Streaming>,
}

impl SessionStream {
    /// Takes over from the session's stream before.
    fn new(
        worker: &Rc<Worker>,
        session: Arc<Session>,
        identity: Identity,
        last_event_id: Option<http::HeaderValue>,
    ) -> Box<Self> {
        let (generation, open) = (session.take_stream(), session.count_stream());
        let lists = Digests::of(worker, &session.endpoint, View::Legacy(session.seal.capabilities));
        Box::new(Self {
            worker: Rc::clone(worker),
            session,
            generation,
            resumes: last_event_id.is_some(),
            last_event_id,
            is_kept: false,
            identity,
            lists,
            rope: worker.bell.rope(),
            heard: 0,
            is_new: true,
            ready: VecDeque::new(),
            read: Vec::new(),
            pumps: None,
            permit: None,
            _open: open,
            _streaming: worker.streaming(StreamKind::Session),
        })
    }

    /// What changed in a stream that is gone is not known: the client is to look.
    fn announce_all(&mut self) {
        self.ready.extend(ANNOUNCED.map(|(_, method)| announcement(method)));
    }

    /// The next event, or comment; `None` when the session ended, or another stream took over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    self.ready = VecDeque::new();
                }
                return Poll::Ready(Some(bytes));
            }
            let mut goes_on = true;
            if std::mem::take(&mut self.is_new) || self.session.poll_changed(&mut self.heard, cx.waker()) {
                goes_on = self.look();
            } else if let Poll::Ready(rung) = self.rope.poll(cx) {
                goes_on = match rung {
                    Rung::Changed => self.look(),
                    Rung::Due => self.keep_alive(),
                };
            } else if let Some(pumps) = &mut self.pumps {
                match pumps.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Pumped::Event(bytes)) => return Poll::Ready(Some(bytes)),
                    Poll::Ready(Pumped::End(ready, backend, end)) => {
                        goes_on = self.note_end(&ready, backend, &end);
                    }
                    Poll::Ready(Pumped::Nothing) => self.pumps = None,
                }
            } else {
                return Poll::Pending;
            }
            if !goes_on {
                return Poll::Ready(None);
            }
        }
    }

    /// Something may have changed; false when that is the end.
    fn look(&mut self) -> bool {
        let worker = Rc::clone(&self.worker);
        // A key that was taken back takes its streams with it.
        if !worker.shared.auth.still_valid(&self.identity) {
            return false;
        }
        let before = self.session.endpoint.id;
        let endpoint = worker.endpoint_now(&self.session.endpoint.scope);
        if !endpoint.is_some_and(|endpoint| self.renew(&endpoint)) {
            return false;
        }
        if !self.session.holds_stream(self.generation) || *worker.shared.phase.borrow() >= Phase::Drain {
            return false;
        }
        let session = Arc::clone(&self.session);
        if session.endpoint.shape != Shape::Single {
            let view = View::Legacy(session.seal.capabilities);
            self.ready.extend(self.lists.changed(&worker, &session.endpoint, view));
        } else if session.endpoint.id != before {
            self.lists = Digests::of(&worker, &session.endpoint, View::Legacy(session.seal.capabilities));
        }
        self.start_pumps();
        true
    }

    /// It was silent for a while; false when that is the end.
    fn keep_alive(&mut self) -> bool {
        self.ready.push_back(Bytes::from_static(COMMENT));
        self.session.touch(self.worker.now_s());
        // A key may also expire, of which nobody tells.
        self.worker.shared.auth.still_valid(&self.identity)
    }

    /// The stream of a server ended; false when this one does as well.
    fn note_end(&mut self, ready: &Arc<Ready>, backend: u32, end: &FeedEnd) -> bool {
        if *end == FeedEnd::SessionLost
            && let Some(upstream) = self.session.upstream_at(backend)
        {
            upstream.forget(ready);
        }
        // The one server's stream ended, or cannot be taken up where the client says: so does
        // this one, and the client comes again.
        let ends = *end == FeedEnd::Ended || self.resumes;
        !(ends && self.session.endpoint.shape == Shape::Single)
    }

    /// Goes on over its endpoint as it is now; false when the session is over. Streams of servers that are gone end.
    fn renew(&mut self, endpoint: &Arc<Endpoint>) -> bool {
        if self.session.endpoint.id != endpoint.id {
            let Some(session) = self.worker.shared.sessions.renewed(&self.session, endpoint) else {
                return false;
            };
            self.read.retain(|read| session.upstream_at(read.backend).is_some());
            self.session = session;
        }
        true
    }

    /// Reads the stream of each backend session that is open and not read yet.
    fn start_pumps(&mut self) {
        let session = Arc::clone(&self.session);
        for (place, upstream) in session.upstreams() {
            let Some(ready) = upstream.ready() else { continue };
            let server = &session.endpoint.servers[place];
            let is_of_it = |read: &Read| read.backend == server.backend;
            if self.read.iter().any(|read| is_of_it(read) && Arc::ptr_eq(&read.ready, &ready)) {
                continue;
            }
            // Gone in this moment: the stream is about to follow.
            let Ok(pool) = self.worker.pool(server) else { continue };
            let shape = session.endpoint.shape;
            // A client that knows the server's own ids comes back by them.
            let resumes = shape != Shape::Single || self.is_kept;
            let tasks = (shape != Shape::Single && ready.features.tasks.calls).then(|| {
                let ids = TaskIds::new(&self.worker, &self.identity, Some(&session), &session.endpoint);
                TaskPass::new(ids, false)
            });
            let feed =
                Feed::new(pool, Source::Legacy(Arc::clone(&ready)), resumes).after(self.last_event_id.take());
            let pumps = self.pumps.get_or_insert_default();
            let (worker, server) = (Rc::clone(&self.worker), server.clone());
            let pump = Pump { worker, server, shape, tasks, sender: pumps.events.sender() };
            let (reads, backend) = (Arc::clone(&ready), pump.server.backend);
            let task = pumps.tasks.spawn_local(async move { (reads, backend, pump.run(feed).await) });
            self.read.retain(|read| !is_of_it(read));
            self.read.push(Read { backend, ready, task });
        }
    }
}

/// A session at a server whose stream was asked for: what ended of itself is not asked for again.
struct Read {
    backend: u32,
    ready: Arc<Ready>,
    task: AbortHandle,
}

impl Drop for Read {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The streams of servers that one stream of a client gathers.
struct Pumps {
    tasks: JoinSet<(Arc<Ready>, u32, FeedEnd)>,
    events: Receiver,
}

/// What comes of them.
enum Pumped {
    Event(Bytes),
    /// One of them ended.
    End(Arc<Ready>, u32, FeedEnd),
    /// None is left.
    Nothing,
}

impl Default for Pumps {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), events: queue().1 }
    }
}

impl Pumps {
    /// What was put in before its server's stream ended comes first.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Pumped> {
        if let Poll::Ready(bytes) = self.events.poll(cx) {
            return Poll::Ready(Pumped::Event(bytes));
        }
        loop {
            match std::task::ready!(self.tasks.poll_join_next(cx)) {
                None => return Poll::Ready(Pumped::Nothing),
                Some(Ok((ready, backend, end))) => return Poll::Ready(Pumped::End(ready, backend, end)),
                // One that was stopped has nothing to say.
                Some(Err(_stopped)) => {}
            }
        }
    }
}

/// Passes the events of one server on.
struct Pump {
    worker: Rc<Worker>,
    server: Place,
    shape: Shape,
    /// What is done about tasks, where the server has them.
    tasks: Option<TaskPass>,
    sender: Sender,
}

impl Pump {
    async fn run(self, mut feed: Feed) -> FeedEnd {
        loop {
            let event = match feed.next().await {
                Ok(event) => event,
                Err(end) => return end,
            };
            let Some(bytes) = self.pass(event) else { continue };
            if self.sender.send(bytes).await.is_err() {
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

    fn changed(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Bytes> {
        self.moved(worker, endpoint, view).into_iter().map(announcement).collect()
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
