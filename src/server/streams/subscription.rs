//! `subscriptions/listen` on an endpoint with several servers: merges their change notifications into one
//! stream (MCP 2026-07-28, subscriptions).
//!
//! List changes come from the catalog, which subscribes to every server. Resources and tasks need a
//! subscription at each server that has them.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::list_digests::ListDigests;
use crate::catalog::{Catalog, View};
use crate::limits::Permit;
use crate::route::Endpoint;
use crate::server::http1::announcements::{ANNOUNCED, COMMENT};
use crate::server::http1::fields::Fields;
use crate::server::http1::queue::{EventReceiver, EventSender, queue};
use crate::server::http1::stream_wakeups::{WakeReason, WakeupRegistration};
use crate::server::mcp::call::Call;
use crate::server::mcp::tasks::{self, TaskIdTranslation, TaskIds};
use crate::server::reply::body::{BodyError, BodySource, ResponseBody};
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{ListenRequest, StreamSource, UpstreamStream};
use crate::telemetry::metrics::{OpenStreamGuard, StreamKind};
use metamcp_core::base::{Fault, FaultKind, ServerName, ShutdownPhase};
use metamcp_core::frame::{MessageKind as FrameKind, Scanner, splice, write_event};
use metamcp_core::protocol::{McpMethod, SubscriptionFilter, TASKS_EXTENSION};
use metamcp_store::auth::Identity;

/// URIs and tasks in one subscription. Each is looked up and forwarded.
const SUBSCRIBED_MAX: usize = 1024;

/// Handles `subscriptions/listen` of a Modern client. It is acknowledged at once, under the client's own id.
pub fn subscribe(worker: &Rc<Worker>, call: Box<Call>) -> Result<Reply, Fault> {
    let mut filter = read_filter(&call)?;
    let ids = TaskIds::new(worker.shared.auth.sealer(), &call.identity, None, &call.endpoint);
    // Tasks that do not exist or belong to others are dropped.
    filter.task_ids.retain(|text| ids.find(&call.endpoint, text).is_some());
    let id: Box<[u8]> = call.id()[..].into();
    let acknowledged =
        message(&id, McpMethod::Acknowledged, &format!(",\"notifications\":{}", json!(filter)));
    let lists = ListFilter(ANNOUNCED.map(|(_, method)| filter.includes(method)));
    let Call { fields, endpoint, identity, permit, body, envelope, .. } = *call;
    let fetching = Box::pin(fetch(Arc::clone(&worker.shared.catalog), Arc::clone(&endpoint)));
    let is_of_servers = !filter.resource_subscriptions.is_empty() || !filter.task_ids.is_empty();
    let more = is_of_servers.then(|| {
        let meta = envelope.params.meta.object;
        let meta = meta.map_or_else(Bytes::new, |span| body.slice(span.start as usize..span.end as usize));
        let (tasks, running, events) = (JoinSet::new(), HashMap::new(), queue().1);
        Box::new(ServerSubscriptions { filter, ids, fields, meta, tasks, running, events })
    });
    let subscription = Subscription {
        worker: Rc::clone(worker),
        endpoint,
        lists,
        id,
        identity,
        wakeup: worker.stream_wakeups.register(),
        known: Err(fetching),
        ready: VecDeque::from([acknowledged]),
        ended: false,
        more,
        _permit: permit,
        _streaming: worker.metering.streaming(StreamKind::Subscription),
    };
    Ok(reply::events(ResponseBody::source(Box::new(subscription))))
}

async fn fetch(catalog: Arc<Catalog>, endpoint: Arc<Endpoint>) {
    catalog.lists(&endpoint, View::Modern).await;
}

/// The lists that a client subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ListFilter([bool; 3]);

impl ListFilter {
    fn wants(self, method: McpMethod) -> bool {
        let wanted = ANNOUNCED.iter().zip(self.0);
        wanted.into_iter().any(|((_, announced), wanted)| wanted && *announced == method)
    }
}

/// Reads the subscription filter of a request.
fn read_filter(call: &Call) -> Result<SubscriptionFilter, Fault> {
    let malformed = |text: &'static str| Fault::client(FaultKind::MalformedParams, text);
    let params = call.envelope.params.object.map_or_else(Bytes::new, |span| call.raw(span));
    let filter = SubscriptionFilter::from_params(&params)
        .ok_or_else(|| malformed("subscriptions/listen needs params.notifications"))?;
    if filter.resource_subscriptions.len() + filter.task_ids.len() > SUBSCRIBED_MAX {
        return Err(malformed(
            "too many resourceSubscriptions and taskIds; listen to them by several requests",
        ));
    }
    if !filter.task_ids.is_empty() && !tasks::declares(call) {
        let data = json!({"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}});
        let text = "to be told of tasks takes a client that declares io.modelcontextprotocol/tasks";
        return Err(Fault::client(FaultKind::MissingCapability, text).with_data(data.to_string()));
    }
    Ok(filter)
}

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// A subscription of a client.
pub struct Subscription {
    worker: Rc<Worker>,
    endpoint: Arc<Endpoint>,
    lists: ListFilter,
    /// The client's raw request id, which identifies the subscription. A copy, since a slice would keep the
    /// whole request.
    id: Box<[u8]>,
    identity: Identity,
    wakeup: WakeupRegistration,
    /// The lists that the client knows, or the future that fetches them for the first time.
    known: Result<ListDigests, Pin<Box<dyn Future<Output = ()>>>>,
    /// Events that are not sent yet.
    ready: VecDeque<Bytes>,
    ended: bool,
    /// Subscriptions at servers, if the filter needs any.
    more: Option<Box<ServerSubscriptions>>,
    _permit: Option<Permit>,
    _streaming: Option<OpenStreamGuard>,
}

/// Subscriptions to resources and tasks at the servers that have them.
struct ServerSubscriptions {
    filter: SubscriptionFilter,
    /// Maps the client's task ids to the servers' own.
    ids: TaskIds,
    fields: Fields,
    /// The client's raw `_meta`, repeated to the servers.
    meta: Bytes,
    tasks: JoinSet<()>,
    /// The filter and the task of each subscription, by upstream id.
    running: HashMap<u32, (SubscriptionFilter, AbortHandle)>,
    events: EventReceiver,
}

impl BodySource for Subscription {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.poll_next(cx).map(|next| next.map(Ok))
    }

    fn is_event_stream(&self) -> bool {
        true
    }

    fn owner(&self) -> Option<&Identity> {
        Some(&self.identity)
    }
}

impl Subscription {
    /// The next event or comment. `None` when the endpoint is removed, the key is revoked, or the gateway
    /// shuts down.
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
                // The state of the lists at the start of the subscription. Lists that arrive later count as
                // changed.
                ready!(fetching.as_mut().poll(cx));
                self.known = Ok(ListDigests::of(&self.worker.shared.catalog, &self.endpoint, View::Modern));
                self.start_pumps();
                self.apply_changes();
                continue;
            }
            if let Poll::Ready(reason) = self.wakeup.poll(cx) {
                match reason {
                    WakeReason::Changed => self.apply_changes(),
                    WakeReason::Due => self.ready.push_back(Bytes::from_static(COMMENT)),
                }
                // A revoked key ends its streams. An expired key is not announced.
                if !self.worker.shared.auth.is_still_valid(&self.identity) {
                    return Poll::Ready(None);
                }
                continue;
            }
            let Some(more) = &mut self.more else { return Poll::Pending };
            if let Poll::Ready(bytes) = more.events.poll(cx) {
                return Poll::Ready(Some(bytes));
            }
            // Reap tasks that have ended.
            while let Poll::Ready(Some(_ended)) = more.tasks.poll_join_next(cx) {}
            return Poll::Pending;
        }
    }

    /// Handles a possible change.
    fn apply_changes(&mut self) {
        let endpoint = self.worker.topology.endpoint_now(&self.endpoint.scope);
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

    /// Notifies the client of changes to the lists that it subscribed to.
    fn announce(&mut self) {
        let Ok(known) = &mut self.known else { return };
        let moved = known.moved(&self.worker.shared.catalog, &self.endpoint, View::Modern);
        for method in moved.into_iter().filter(|method| self.lists.wants(*method)) {
            self.ready.push_back(message(&self.id, method, ""));
        }
    }

    /// Opens a subscription at each server that has one of the resources or tasks. Unchanged subscriptions
    /// continue, others end.
    fn start_pumps(&mut self) {
        let Some(more) = &mut self.more else { return };
        let mut before = std::mem::take(&mut more.running);
        let merged = self.worker.shared.catalog.snapshot(&self.endpoint, View::Modern);
        for (place, server) in self.endpoint.servers.iter().enumerate() {
            let is_here = |uri: &&String| {
                let known = merged.as_deref().and_then(|merged| merged.resource_server(uri));
                known.is_none_or(|known| known as usize == place)
            };
            let resource_subscriptions =
                more.filter.resource_subscriptions.iter().filter(is_here).cloned().collect();
            let tasks = more.filter.task_ids.iter().filter_map(|text| more.ids.find(&self.endpoint, text));
            // Use the server's own ids.
            let task_ids = tasks.filter_map(|(at, raw)| (at == place).then_some(raw)).collect();
            let wanted =
                SubscriptionFilter { resource_subscriptions, task_ids, ..SubscriptionFilter::default() };
            if wanted == SubscriptionFilter::default() {
                continue;
            }
            match before.remove(&server.upstream) {
                Some((known, task)) if known == wanted => {
                    more.running.insert(server.upstream, (known, task));
                    continue;
                }
                Some((_, task)) => task.abort(),
                None => {}
            }
            // The server was removed just now; the subscription will be updated soon.
            let Ok(pool) = self.worker.topology.pool(server) else { continue };
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
                feed: UpstreamStream::open(pool, StreamSource::Modern(Box::new(listen)), true, None),
                server: server.name.clone(),
                tasks: TaskIdTranslation::new(more.ids.clone(), false),
                id: Bytes::copy_from_slice(&self.id),
                sender: more.events.sender(),
            };
            more.running.insert(server.upstream, (wanted, more.tasks.spawn_local(pump.run())));
        }
        for (_, task) in before.into_values() {
            task.abort();
        }
    }

    /// The result with which the gateway ends the subscription.
    fn ending(&self) -> Bytes {
        let id = String::from_utf8_lossy(&self.id);
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}}}"#
        );
        write_event(message.as_bytes())
    }
}

/// Formats a notification of the subscription.
fn message(id: &[u8], method: McpMethod, more: &str) -> Bytes {
    let id = String::from_utf8_lossy(id);
    let message = format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}}{more}}}}}"#,
        method.as_str()
    );
    write_event(message.as_bytes())
}

/// Forwards the notifications of one server, under the client's own subscription id.
struct SubscriptionPump {
    feed: UpstreamStream,
    server: ServerName,
    tasks: TaskIdTranslation,
    id: Bytes,
    sender: EventSender,
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
