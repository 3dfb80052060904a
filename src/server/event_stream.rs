//! Long event streams of the gateway's own: the GET stream of a Legacy session, and the subscription of a
//! Modern client. Each gathers what the servers behind the endpoint send outside of calls.
//!
//! One task owns a stream. It is told by the closed channel that the client has gone, and everything it
//! started ends with it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::body::ResponseBody;
use super::call::Call;
use super::fields::{Field, Fields};
use super::kept::{self, Kept};
use super::outlet::{ANNOUNCED, COMMENT, Outlet, announcement};
use super::reply::{self, Reply};
use super::tag::{self, Passed};
use super::worker::Worker;
use crate::auth::Identity;
use crate::backend::BackendId;
use crate::base::{Fault, Kind, Phase};
use crate::catalog::{ListKind, Merged, View};
use crate::frame::{Event, Kind as FrameKind, Scanner, splice};
use crate::limits::Permit;
use crate::protocol::{Method, header};
use crate::route::{Endpoint, Place, Shape};
use crate::session::{Feed, FeedEnd, OpenStream, Ready, Session, Source};

/// Events made and not yet read by the client. A server that sends more waits.
const EVENTS_MAX: usize = 64;

/// URIs in one subscription; each is looked up and passed on.
const SUBSCRIBED_URIS_MAX: usize = 1024;

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
        let outlet = Outlet::kept(writer);
        if last_event_id.is_some() {
            outlet.announce_all();
        }
        let body = ResponseBody::kept(Kept::new(reader, resumes, streams, Some(permit)));
        SessionStream::start(worker, session, outlet, identity, None);
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
    SessionStream::start(worker, session, Outlet::Passing(sender), identity, last_event_id);
    Ok(reply::events(ResponseBody::events(receiver, Some(permit))))
}

struct SessionStream {
    worker: Rc<Worker>,
    session: Arc<Session>,
    outlet: Outlet,
    generation: u64,
    last_event_id: Option<http::HeaderValue>,
    identity: Identity,
    _open: OpenStream,
}

impl SessionStream {
    /// Takes over from the session's stream before.
    fn start(
        worker: &Rc<Worker>,
        session: Arc<Session>,
        outlet: Outlet,
        identity: Identity,
        last_event_id: Option<http::HeaderValue>,
    ) {
        let (generation, open) = (session.take_stream(), session.count_stream());
        let worker = Rc::clone(worker);
        let stream = Self { worker, session, outlet, generation, last_event_id, identity, _open: open };
        spawn_local(stream.run());
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
                for event in lists.changed(&self.worker, &session.endpoint, view) {
                    let _ = self.outlet.send(event).await;
                }
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
                    for event in lists.changed(&self.worker, &session.endpoint, view) {
                        let _ = self.outlet.send(event).await;
                    }
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
            let feed =
                Feed::new(pool, Source::Legacy(Arc::clone(&ready)), resumes).after(self.last_event_id.take());
            let pump = Pump {
                worker: Rc::clone(&self.worker),
                server: server.clone(),
                shape,
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
        match tag::pass(event, &self.server.name, &mut None, &mut self.worker.scanner.borrow_mut()) {
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
struct Digests([u64; 3]);

impl Digests {
    fn of(worker: &Worker, endpoint: &Endpoint, view: View) -> Self {
        let merged = worker.shared.catalog.snapshot(endpoint, view);
        Self(merged.as_deref().map_or([0; 3], digests))
    }

    /// The kinds that changed since the last look.
    fn moved(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Method> {
        let Some(merged) = worker.shared.catalog.snapshot(endpoint, view) else { return Vec::new() };
        let now = digests(&merged);
        let before = std::mem::replace(&mut self.0, now);
        let moved = before.iter().zip(now).map(|(before, now)| *before != now);
        moved.zip(ANNOUNCED).filter_map(|(moved, (_, method))| moved.then_some(method)).collect()
    }

    fn changed(&mut self, worker: &Worker, endpoint: &Endpoint, view: View) -> Vec<Bytes> {
        self.moved(worker, endpoint, view).into_iter().map(announcement).collect()
    }
}

fn digests(merged: &Merged) -> [u64; 3] {
    ANNOUNCED.map(|(kind, _)| match kind {
        ListKind::Resources => {
            merged.listing(kind).digest ^ merged.listing(ListKind::Templates).digest.rotate_left(1)
        }
        kind => merged.listing(kind).digest,
    })
}

/// `subscriptions/listen` of a Modern client: acknowledged at once, under the client's own id.
pub fn subscribe(worker: &Rc<Worker>, call: Box<Call>) -> Result<Reply, Fault> {
    let wish = Wish::read(&call)?;
    let id = call.id();
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let stream = Subscription {
        worker: Rc::clone(worker),
        endpoint: Arc::clone(&call.endpoint),
        wish,
        id,
        identity: call.identity,
        fields: call.fields,
        meta: call
            .envelope
            .params
            .meta
            .object
            .map_or_else(Bytes::new, |span| call.body.slice(span.start as usize..span.end as usize)),
        sender,
    };
    let _ = stream.sender.try_send(stream.acknowledgement());
    spawn_local(stream.run());
    Ok(reply::events(ResponseBody::events(receiver, call.permit)))
}

/// What a client wants to be told of (MCP 2026-07-28, subscriptions).
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Wish {
    tools_list_changed: Option<bool>,
    prompts_list_changed: Option<bool>,
    resources_list_changed: Option<bool>,
    resource_subscriptions: Vec<String>,
}

impl Wish {
    fn read(call: &Call) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Params {
            notifications: Wish,
        }
        let malformed = |text: &'static str| Fault::client(Kind::MalformedParams, text);
        let params = call.envelope.params.object.map_or_else(Bytes::new, |span| call.raw(span));
        let read: Params = serde_json::from_slice(&params)
            .map_err(|_| malformed("subscriptions/listen needs params.notifications"))?;
        if read.notifications.resource_subscriptions.len() > SUBSCRIBED_URIS_MAX {
            return Err(malformed("too many resourceSubscriptions; listen to them by several requests"));
        }
        Ok(read.notifications)
    }

    fn wants(&self, method: Method) -> bool {
        match method {
            Method::ToolsListChanged => self.tools_list_changed == Some(true),
            Method::PromptsListChanged => self.prompts_list_changed == Some(true),
            Method::ResourcesListChanged => self.resources_list_changed == Some(true),
            _ => false,
        }
    }

    fn to_json(&self) -> Value {
        let mut wish = serde_json::Map::new();
        for (name, flag) in [
            ("toolsListChanged", self.tools_list_changed),
            ("promptsListChanged", self.prompts_list_changed),
            ("resourcesListChanged", self.resources_list_changed),
        ] {
            if flag == Some(true) {
                wish.insert(name.into(), true.into());
            }
        }
        if !self.resource_subscriptions.is_empty() {
            wish.insert("resourceSubscriptions".into(), self.resource_subscriptions.clone().into());
        }
        Value::Object(wish)
    }
}

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

struct Subscription {
    worker: Rc<Worker>,
    endpoint: Arc<Endpoint>,
    wish: Wish,
    /// The client's raw id of the request, which names the subscription.
    id: Bytes,
    identity: Identity,
    fields: Fields,
    /// The client's raw `_meta`, for the subscriptions at the servers.
    meta: Bytes,
    sender: mpsc::Sender<Bytes>,
}

impl Subscription {
    /// Until the client has gone, the endpoint is gone, or the gateway stops.
    async fn run(mut self) {
        let shared = Arc::clone(&self.worker.shared);
        // The lists as they are when the subscription begins; those that come in later are changes.
        shared.catalog.merged(&self.endpoint, View::Modern).await;
        let mut changes = shared.catalog.changes();
        let mut lists = Digests::of(&self.worker, &self.endpoint, View::Modern);
        let mut phase = shared.phase.clone();
        let period = shared.config.keep_alive;
        let mut keep_alive = interval_at(Instant::now() + period, period);
        let mut keys = shared.keys.clone();
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut tasks, mut heard) = (JoinSet::new(), HashMap::new());
        self.start_pumps(&mut tasks, &mut heard);
        loop {
            let endpoint = self.worker.endpoint_now(&self.endpoint.scope);
            if *phase.borrow() >= Phase::Drain || endpoint.is_none() {
                let _ = self.sender.send(self.ending()).await;
                return;
            }
            if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.id != self.endpoint.id) {
                self.endpoint = endpoint;
                self.start_pumps(&mut tasks, &mut heard);
                self.announce(&mut lists).await;
            }
            tokio::select! {
                () = self.sender.closed() => return,
                _ = phase.changed() => {}
                Ok(()) = keys.changed() => {
                    // A key that was taken back takes its streams with it.
                    if !shared.auth.still_valid(&self.identity) {
                        return;
                    }
                }
                _ = keep_alive.tick() => {
                    let _ = self.sender.try_send(Bytes::from_static(COMMENT));
                    if !shared.auth.still_valid(&self.identity) {
                        return;
                    }
                }
                _ = changes.changed() => self.announce(&mut lists).await,
                Some(_ended) = tasks.join_next() => {}
            }
        }
    }

    /// Tells the client which of the lists that it asked about changed.
    async fn announce(&self, lists: &mut Digests) {
        for method in lists.moved(&self.worker, &self.endpoint, View::Modern) {
            if self.wish.wants(method) {
                let _ = self.sender.send(self.notification(method)).await;
            }
        }
    }

    /// One subscription at each server that has one of the resources; lists are watched by the catalog. Those that
    /// are as they were before go on, the others end.
    fn start_pumps(&self, tasks: &mut JoinSet<()>, heard: &mut HashMap<u32, (Vec<String>, AbortHandle)>) {
        let mut before = std::mem::take(heard);
        let merged = self.worker.shared.catalog.snapshot(&self.endpoint, View::Modern);
        for (place, server) in self.endpoint.servers.iter().enumerate() {
            let is_here = |uri: &&String| {
                let known = merged.as_deref().and_then(|merged| merged.resource(uri));
                known.is_none_or(|known| known as usize == place)
            };
            let uris: Vec<_> = self.wish.resource_subscriptions.iter().filter(is_here).cloned().collect();
            if uris.is_empty() {
                continue;
            }
            match before.remove(&server.backend) {
                Some((known, task)) if known == uris => {
                    heard.insert(server.backend, (known, task));
                    continue;
                }
                Some((_, task)) => task.abort(),
                None => {}
            }
            // Gone in this moment: the subscription is about to follow.
            let Ok(pool) = self.worker.pool(server) else { continue };
            let meta: Value = serde_json::from_slice(&self.meta).unwrap_or_default();
            let message = json!({
                "jsonrpc": "2.0",
                "id": "metamcp-listen",
                "method": Method::Listen.as_str(),
                "params": {"_meta": meta, "notifications": {"resourceSubscriptions": &uris}},
            });
            let headers = self.fields.forwarded().collect();
            let owner = Some(self.identity.key_id());
            let source = Source::Modern { message: message.to_string().into(), headers, owner };
            let feed = Feed::new(pool, source, true);
            let task = tasks.spawn_local(pump_subscription(feed, self.id.clone(), self.sender.clone()));
            heard.insert(server.backend, (uris, task));
        }
        for (_, task) in before.into_values() {
            task.abort();
        }
    }

    fn acknowledgement(&self) -> Bytes {
        self.message(Method::Acknowledged, &format!(",\"notifications\":{}", self.wish.to_json()))
    }

    fn notification(&self, method: Method) -> Bytes {
        self.message(method, "")
    }

    fn message(&self, method: Method, more: &str) -> Bytes {
        let id = String::from_utf8_lossy(&self.id);
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}}{more}}}}}"#,
            method.as_str()
        );
        tag::write_event(message.as_bytes())
    }

    /// The result that ends a subscription from this side.
    fn ending(&self) -> Bytes {
        let id = String::from_utf8_lossy(&self.id);
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}}}"#
        );
        tag::write_event(message.as_bytes())
    }
}

/// Passes what one server says about resources on, under the client's own subscription id.
async fn pump_subscription(mut feed: Feed, id: Bytes, sender: mpsc::Sender<Bytes>) {
    let mut scanner = Scanner::new();
    while let Ok(event) = feed.next().await {
        let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
        let Ok(envelope) = scanner.scan(&data) else { continue };
        let method = envelope.method.map(|method| method.decode(&data));
        let is_acknowledgement = method.as_deref() == Some(Method::Acknowledged.as_str());
        let Some(theirs) = envelope.params.meta.subscription_id else { continue };
        if envelope.kind != FrameKind::Notification || is_acknowledgement {
            continue;
        }
        let Ok(slices) = splice(&data, &[(theirs.span, id.clone())]) else { continue };
        let message: Vec<u8> = slices.flat_map(|slice| slice.to_vec()).collect();
        if sender.send(tag::write_event(&message)).await.is_err() {
            return;
        }
    }
}
