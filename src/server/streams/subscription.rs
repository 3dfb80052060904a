//! `subscriptions/listen` on an endpoint with several servers: what they say of changes, as one stream (MCP
//! 2026-07-28, subscriptions).
//!
//! Changes of lists are those of the catalog, which listens to every server. Resources and tasks are listened
//! to at the server that has them, by one subscription each.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::list_digests::Digests;
use crate::auth::Identity;
use crate::catalog::View;
use crate::limits::Permit;
use crate::route::Endpoint;
use crate::server::http1::fields::Fields;
use crate::server::http1::queue::{Receiver, Sender, queue};
use crate::server::http1::stream_wakeups::{WakeReason, WakeupRegistration};
use crate::server::http1::words::{ANNOUNCED, COMMENT};
use crate::server::mcp::call::Call;
use crate::server::mcp::tasks::{self, TaskIds, TaskPass};
use crate::server::reply::body::{BodyError, BodySource, ResponseBody};
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{ListenRequest, StreamSource, UpstreamStream};
use crate::telemetry::metrics::{OpenStreamGuard, StreamKind};
use metamcp_core::base::{Fault, FaultKind, ServerName, ShutdownPhase};
use metamcp_core::frame::{MessageKind as FrameKind, Scanner, splice, write_event};
use metamcp_core::protocol::{McpMethod, TASKS_EXTENSION, SubscriptionFilter};

/// URIs and tasks in one subscription; each is looked up and passed on.
const SUBSCRIBED_MAX: usize = 1024;

/// `subscriptions/listen` of a Modern client: acknowledged at once, under the client's own id.
pub fn subscribe(worker: &Rc<Worker>, call: Box<Call>) -> Result<Reply, Fault> {
    let mut wish = read_wish(&call)?;
    let ids = TaskIds::new(worker, &call.identity, None, &call.endpoint);
    // Of what is nobody's, or another's, nothing can be told.
    wish.task_ids.retain(|text| ids.find(&call.endpoint, text).is_some());
    let id: Box<[u8]> = call.id()[..].into();
    let acknowledged = message(&id, McpMethod::Acknowledged, &format!(",\"notifications\":{}", json!(wish)));
    let lists = Wanted(ANNOUNCED.map(|(_, method)| wish.includes(method)));
    let Call { fields, endpoint, identity, permit, body, envelope, .. } = *call;
    let fetching = Box::pin(fetch(Rc::clone(worker), Arc::clone(&endpoint)));
    let is_of_servers = !wish.resource_subscriptions.is_empty() || !wish.task_ids.is_empty();
    let more = is_of_servers.then(|| {
        let meta = envelope.params.meta.object;
        let meta = meta.map_or_else(Bytes::new, |span| body.slice(span.start as usize..span.end as usize));
        let (tasks, heard, events) = (JoinSet::new(), HashMap::new(), queue().1);
        Box::new(More { wish, ids, fields, meta, tasks, heard, events })
    });
    let subscription = Subscription {
        worker: Rc::clone(worker),
        endpoint,
        lists,
        id,
        identity,
        rope: worker.bell.rope(),
        known: Err(fetching),
        ready: VecDeque::from([acknowledged]),
        ended: false,
        more,
        _permit: permit,
        _streaming: worker.streaming(StreamKind::Subscription),
    };
    Ok(reply::events(ResponseBody::source(Box::new(subscription))))
}

async fn fetch(worker: Rc<Worker>, endpoint: Arc<Endpoint>) {
    worker.shared.catalog.merged(&endpoint, View::Modern).await;
}

/// The lists that a client wants to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted([bool; 3]);

impl Wanted {
    fn wants(self, method: McpMethod) -> bool {
        let wanted = ANNOUNCED.iter().zip(self.0);
        wanted.into_iter().any(|((_, announced), wanted)| wanted && *announced == method)
    }
}

/// What a client wants to be told of.
fn read_wish(call: &Call) -> Result<SubscriptionFilter, Fault> {
    let malformed = |text: &'static str| Fault::client(FaultKind::MalformedParams, text);
    let params = call.envelope.params.object.map_or_else(Bytes::new, |span| call.raw(span));
    let wish =
        SubscriptionFilter::read(&params).ok_or_else(|| malformed("subscriptions/listen needs params.notifications"))?;
    if wish.resource_subscriptions.len() + wish.task_ids.len() > SUBSCRIBED_MAX {
        return Err(malformed(
            "too many resourceSubscriptions and taskIds; listen to them by several requests",
        ));
    }
    if !wish.task_ids.is_empty() && !tasks::declares(call) {
        let data = json!({"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}});
        let text = "to be told of tasks takes a client that declares io.modelcontextprotocol/tasks";
        return Err(Fault::client(FaultKind::MissingCapability, text).with_data(data.to_string()));
    }
    Ok(wish)
}

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// A subscription of a client.
pub struct Subscription {
    worker: Rc<Worker>,
    endpoint: Arc<Endpoint>,
    lists: Wanted,
    /// The client's raw id of the request, which names the subscription. A copy: a slice would keep the whole request.
    id: Box<[u8]>,
    identity: Identity,
    rope: WakeupRegistration,
    /// Which lists there were; not known while they are fetched for the first time.
    known: Result<Digests, Pin<Box<dyn Future<Output = ()>>>>,
    /// Made here, and not taken yet.
    ready: VecDeque<Bytes>,
    ended: bool,
    /// What is listened to at the servers, where there is anything.
    more: Option<Box<More>>,
    _permit: Option<Permit>,
    _streaming: Option<OpenStreamGuard>,
}

/// Resources and tasks, at the servers that have them.
struct More {
    wish: SubscriptionFilter,
    /// Those of tasks, as this client knows them.
    ids: TaskIds,
    fields: Fields,
    /// The client's raw `_meta`, for the subscriptions at the servers.
    meta: Bytes,
    tasks: JoinSet<()>,
    /// By the server's id.
    heard: HashMap<u32, (SubscriptionFilter, AbortHandle)>,
    events: Receiver,
}

impl BodySource for Subscription {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.poll_next(cx).map(|next| next.map(Ok))
    }

    fn is_event_stream(&self) -> bool {
        true
    }
}

impl Subscription {
    /// The next event, or comment; `None` when the endpoint is gone, the key was taken back, or the gateway stops.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    self.ready = VecDeque::new();
                }
                return Poll::Ready(Some(bytes));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Err(fetching) = &mut self.known {
                // The lists as they are when the subscription begins; those that come in later are changes.
                ready!(fetching.as_mut().poll(cx));
                self.known = Ok(Digests::of(&self.worker, &self.endpoint, View::Modern));
                self.start_pumps();
                self.look();
                continue;
            }
            if let Poll::Ready(rung) = self.rope.poll(cx) {
                match rung {
                    WakeReason::Changed => self.look(),
                    WakeReason::Due => self.ready.push_back(Bytes::from_static(COMMENT)),
                }
                // A key that was taken back takes its streams with it; of one that expires nobody tells.
                if !self.worker.shared.auth.is_still_valid(&self.identity) {
                    return Poll::Ready(None);
                }
                continue;
            }
            let Some(more) = &mut self.more else { return Poll::Pending };
            if let Poll::Ready(bytes) = more.events.poll(cx) {
                return Poll::Ready(Some(bytes));
            }
            // One that ended has nothing to say.
            while let Poll::Ready(Some(_ended)) = more.tasks.poll_join_next(cx) {}
            return Poll::Pending;
        }
    }

    /// Something may have changed.
    fn look(&mut self) {
        let endpoint = self.worker.endpoint_now(&self.endpoint.scope);
        let Some(endpoint) = endpoint.filter(|_| *self.worker.shared.phase.borrow() < ShutdownPhase::Drain)
        else {
            self.ended = true;
            self.ready.push_back(self.ending());
            return;
        };
        if endpoint.id != self.endpoint.id {
            self.endpoint = endpoint;
            self.start_pumps();
        }
        self.announce();
    }

    /// Tells the client which of the lists that it asked about changed.
    fn announce(&mut self) {
        let Ok(known) = &mut self.known else { return };
        let moved = known.moved(&self.worker, &self.endpoint, View::Modern);
        for method in moved.into_iter().filter(|method| self.lists.wants(*method)) {
            self.ready.push_back(message(&self.id, method, ""));
        }
    }

    /// One subscription at each server that has one of the resources; lists are watched by the catalog. Those
    /// that are as they were before go on, the others end.
    fn start_pumps(&mut self) {
        let Some(more) = &mut self.more else { return };
        let mut before = std::mem::take(&mut more.heard);
        let merged = self.worker.shared.catalog.snapshot(&self.endpoint, View::Modern);
        for (place, server) in self.endpoint.servers.iter().enumerate() {
            let is_here = |uri: &&String| {
                let known = merged.as_deref().and_then(|merged| merged.resource(uri));
                known.is_none_or(|known| known as usize == place)
            };
            let resource_subscriptions =
                more.wish.resource_subscriptions.iter().filter(is_here).cloned().collect();
            let tasks = more.wish.task_ids.iter().filter_map(|text| more.ids.find(&self.endpoint, text));
            // By the server's own ids.
            let task_ids = tasks.filter_map(|(at, raw)| (at == place).then_some(raw)).collect();
            let wanted = SubscriptionFilter { resource_subscriptions, task_ids, ..SubscriptionFilter::default() };
            if wanted == SubscriptionFilter::default() {
                continue;
            }
            match before.remove(&server.upstream) {
                Some((known, task)) if known == wanted => {
                    more.heard.insert(server.upstream, (known, task));
                    continue;
                }
                Some((_, task)) => task.abort(),
                None => {}
            }
            // Gone in this moment: the subscription is about to follow.
            let Ok(pool) = self.worker.pool(server) else { continue };
            let meta: Value = serde_json::from_slice(&more.meta).unwrap_or_default();
            let message = json!({
                "jsonrpc": "2.0",
                "id": "metamcp-listen",
                "method": McpMethod::Listen.as_str(),
                "params": {"_meta": meta, "notifications": wanted},
            });
            let headers = more.fields.forwarded().collect();
            let owner = Some(self.identity.key_id());
            let listen = ListenRequest { message: message.to_string().into(), headers, owner };
            let pump = SubscriptionPump {
                feed: UpstreamStream::begin(pool, StreamSource::Modern(Box::new(listen)), true, None),
                server: server.name.clone(),
                tasks: TaskPass::new(more.ids.clone(), false),
                id: Bytes::copy_from_slice(&self.id),
                sender: more.events.sender(),
            };
            more.heard.insert(server.upstream, (wanted, more.tasks.spawn_local(pump.run())));
        }
        for (_, task) in before.into_values() {
            task.abort();
        }
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

/// A message of the subscription of that id.
fn message(id: &[u8], method: McpMethod, more: &str) -> Bytes {
    let id = String::from_utf8_lossy(id);
    let message = format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}}{more}}}}}"#,
        method.as_str()
    );
    write_event(message.as_bytes())
}

/// Passes what one server says about resources and tasks on, under the client's own subscription id.
struct SubscriptionPump {
    feed: UpstreamStream,
    server: ServerName,
    tasks: TaskPass,
    id: Bytes,
    sender: Sender,
}

impl SubscriptionPump {
    async fn run(mut self) {
        let mut scanner = Scanner::new();
        while let Ok(event) = self.feed.next().await {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            let method = envelope.method.map(|method| method.decode(&data));
            let is_acknowledgement = method.as_deref() == Some(McpMethod::Acknowledged.as_str());
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
