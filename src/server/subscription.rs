//! `subscriptions/listen` on an endpoint with several servers: what they say of changes, as one stream (MCP
//! 2026-07-28, subscriptions).
//!
//! Changes of lists are those of the catalog, which listens to every server. Resources and tasks are listened
//! to at the server that has them, by one subscription each.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::body::ResponseBody;
use super::call::Call;
use super::event_stream::{Digests, EVENTS_MAX};
use super::fields::Fields;
use super::outlet::COMMENT;
use super::reply::{self, Reply};
use super::tasks::{self, TaskIds, TaskPass};
use super::worker::Worker;
use crate::auth::Identity;
use crate::base::{Fault, Kind, Phase, ServerName};
use crate::catalog::View;
use crate::frame::{Kind as FrameKind, Scanner, splice, write_event};
use crate::protocol::{Method, TASKS_EXTENSION, Wish};
use crate::route::Endpoint;
use crate::session::{Feed, Source};
use crate::telemetry::metrics::{StreamKind, Streaming};

/// URIs and tasks in one subscription; each is looked up and passed on.
const SUBSCRIBED_MAX: usize = 1024;

/// `subscriptions/listen` of a Modern client: acknowledged at once, under the client's own id.
pub fn subscribe(worker: &Rc<Worker>, call: Box<Call>) -> Result<Reply, Fault> {
    let mut wish = read_wish(&call)?;
    let ids = TaskIds::new(worker, &call.identity, None, &call.endpoint);
    // Of what is nobody's, or another's, nothing can be told.
    wish.task_ids.retain(|text| ids.find(&call.endpoint, text).is_some());
    let id = call.id();
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let stream = Subscription {
        worker: Rc::clone(worker),
        endpoint: Arc::clone(&call.endpoint),
        wish,
        ids,
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
        _streaming: worker.streaming(StreamKind::Subscription),
    };
    let _ = stream.sender.try_send(stream.acknowledgement());
    spawn_local(stream.run());
    Ok(reply::events(ResponseBody::events(receiver, call.permit)))
}

/// What a client wants to be told of.
fn read_wish(call: &Call) -> Result<Wish, Fault> {
    let malformed = |text: &'static str| Fault::client(Kind::MalformedParams, text);
    let params = call.envelope.params.object.map_or_else(Bytes::new, |span| call.raw(span));
    let wish =
        Wish::read(&params).ok_or_else(|| malformed("subscriptions/listen needs params.notifications"))?;
    if wish.resource_subscriptions.len() + wish.task_ids.len() > SUBSCRIBED_MAX {
        return Err(malformed(
            "too many resourceSubscriptions and taskIds; listen to them by several requests",
        ));
    }
    if !wish.task_ids.is_empty() && !tasks::declares(call) {
        let data = json!({"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}});
        let text = "to be told of tasks takes a client that declares io.modelcontextprotocol/tasks";
        return Err(Fault::client(Kind::MissingCapability, text).with_data(data.to_string()));
    }
    Ok(wish)
}

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

struct Subscription {
    worker: Rc<Worker>,
    endpoint: Arc<Endpoint>,
    wish: Wish,
    /// Those of tasks, as this client knows them.
    ids: TaskIds,
    /// The client's raw id of the request, which names the subscription.
    id: Bytes,
    identity: Identity,
    fields: Fields,
    /// The client's raw `_meta`, for the subscriptions at the servers.
    meta: Bytes,
    sender: mpsc::Sender<Bytes>,
    _streaming: Option<Streaming>,
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

    /// One subscription at each server that has one of the resources; lists are watched by the catalog. Those
    /// that are as they were before go on, the others end.
    fn start_pumps(&self, pumps: &mut JoinSet<()>, heard: &mut HashMap<u32, (Wish, AbortHandle)>) {
        let mut before = std::mem::take(heard);
        let merged = self.worker.shared.catalog.snapshot(&self.endpoint, View::Modern);
        for (place, server) in self.endpoint.servers.iter().enumerate() {
            let is_here = |uri: &&String| {
                let known = merged.as_deref().and_then(|merged| merged.resource(uri));
                known.is_none_or(|known| known as usize == place)
            };
            let resource_subscriptions =
                self.wish.resource_subscriptions.iter().filter(is_here).cloned().collect();
            let tasks = self.wish.task_ids.iter().filter_map(|text| self.ids.find(&self.endpoint, text));
            // By the server's own ids.
            let task_ids = tasks.filter_map(|(at, raw)| (at == place).then_some(raw)).collect();
            let wanted = Wish { resource_subscriptions, task_ids, ..Wish::default() };
            if wanted == Wish::default() {
                continue;
            }
            match before.remove(&server.backend) {
                Some((known, task)) if known == wanted => {
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
                "params": {"_meta": meta, "notifications": wanted},
            });
            let headers = self.fields.forwarded().collect();
            let owner = Some(self.identity.key_id());
            let source = Source::Modern { message: message.to_string().into(), headers, owner };
            let pump = SubscriptionPump {
                feed: Feed::new(pool, source, true),
                server: server.name.clone(),
                tasks: TaskPass::new(self.ids.clone(), false),
                id: self.id.clone(),
                sender: self.sender.clone(),
            };
            heard.insert(server.backend, (wanted, pumps.spawn_local(pump.run())));
        }
        for (_, task) in before.into_values() {
            task.abort();
        }
    }

    fn acknowledgement(&self) -> Bytes {
        self.message(Method::Acknowledged, &format!(",\"notifications\":{}", json!(self.wish)))
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
        write_event(message.as_bytes())
    }

    /// The result that ends a subscription from this side.
    fn ending(&self) -> Bytes {
        let id = String::from_utf8_lossy(&self.id);
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}}}"#
        );
        write_event(message.as_bytes())
    }
}

/// Passes what one server says about resources and tasks on, under the client's own subscription id.
struct SubscriptionPump {
    feed: Feed,
    server: ServerName,
    tasks: TaskPass,
    id: Bytes,
    sender: mpsc::Sender<Bytes>,
}

impl SubscriptionPump {
    async fn run(mut self) {
        let mut scanner = Scanner::new();
        while let Ok(event) = self.feed.next().await {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            let method = envelope.method.map(|method| method.decode(&data));
            let is_acknowledgement = method.as_deref() == Some(Method::Acknowledged.as_str());
            let Some(theirs) = envelope.params.meta.subscription_id else { continue };
            if envelope.kind != FrameKind::Notification || is_acknowledgement {
                continue;
            }
            let mut edits = self.tasks.edits(&self.server, &data);
            edits.push((theirs.span, self.id.clone()));
            edits.sort_by_key(|(span, _)| span.start);
            let Ok(slices) = splice(&data, &edits) else { continue };
            let message: Vec<u8> = slices.flat_map(|slice| slice.to_vec()).collect();
            if self.sender.send(write_event(&message)).await.is_err() {
                return;
            }
        }
    }
}
