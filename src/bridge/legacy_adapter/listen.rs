//! The GET stream of a session: one `subscriptions/listen` request to the server, sent again when the
//! subscription filter of the client changes or the stream breaks (MCP 2026-07-28, subscriptions). Sessions
//! that want the same list changes and no resources share one.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metamcp_core::frame::{EventReader, MessageKind, Scanner, write_event};
use metamcp_core::protocol::McpMethod;
use serde_json::{Value, json};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::dedicated_subscription::DedicatedSubscription;
use super::reply::gateway_reply;
use super::request::gateway_request;
use super::session::{ListenerGuard, Session};
use super::shared_subscription::{SharedSubscription, SharedSubscriptions};
use super::tool_headers::ToolHeaderCache;
use crate::upstream::UpstreamPool;
use metamcp_http::multiplex::{LocalResponse, event_channel_with_capacity};
use metamcp_http::{RequestKind, UpstreamBody, UpstreamRequest, UpstreamResponse};

/// Opens streams for clients, and listens to servers for them.
pub struct Subscriptions {
    shared: Arc<SharedSubscriptions>,
    /// Evicted when a server announces that its tools changed.
    tool_headers: Arc<ToolHeaderCache>,
}

/// Listens to one server, for one session or for a shared subscription.
struct SubscriptionTask {
    session: Arc<Session>,
    target: SubscriptionTarget,
    pool: Rc<UpstreamPool>,
    tool_headers: Arc<ToolHeaderCache>,
    _listener: ListenerGuard,
}

/// Where the events of a subscription go.
enum SubscriptionTarget {
    Dedicated(DedicatedSubscription),
    Shared(SharedSubscription),
}

/// An open stream of notifications from the server.
struct SubscriptionStream {
    body: UpstreamBody,
    reader: EventReader,
    /// The filter version that it was opened for.
    filter_version: u64,
    /// Whether it delivered any notification.
    has_delivered: bool,
}

/// Why the server opened no stream.
enum ListenError {
    /// The server does not support subscriptions, as far as it says.
    Unsupported,
    /// It may open one later.
    Temporary,
}

/// Doubles the wait between two attempts.
struct Backoff(Duration);

/// Events that wait for a slow client. Beyond that the server waits.
const EVENTS_MAX: usize = 64;

/// The first wait before a broken stream is opened again; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Between two attempts at a server that does not support subscriptions: once a minute costs it nothing.
const UNSUPPORTED_RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// How long a server may take to acknowledge a subscription. Waiting costs it nothing.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

impl Subscriptions {
    /// Creates an empty set of subscriptions.
    pub fn new(tool_headers: Arc<ToolHeaderCache>) -> Self {
        Self { shared: Arc::default(), tool_headers }
    }

    /// Opens the client's event stream. It takes over from the one before, and lasts until the client goes or
    /// the session ends.
    pub fn open_stream(&self, session: &Arc<Session>, pool: &Rc<UpstreamPool>) -> Box<UpstreamResponse> {
        let (sink, events) = event_channel_with_capacity(EVENTS_MAX);
        let response = gateway_reply(LocalResponse::from_events(events));
        let stream = session.take_stream();
        session.park_stream(stream, sink);
        self.wake(session, pool);
        response
    }

    /// Listens for a client that has a stream and something to subscribe to. Only a session that subscribed
    /// to resources takes a task and a connection of its own.
    pub fn wake(&self, session: &Arc<Session>, pool: &Rc<UpstreamPool>) {
        // A session with a subscription of its own joins too: it needs the shared one until its own is
        // acknowledged.
        if session.has_changing_lists()
            && let Some(shared) = self.shared.join(session)
        {
            let copy = session.detached_copy();
            let stream = copy.take_stream();
            self.spawn_task(copy, stream, pool, SubscriptionTarget::Shared(shared));
        }
        if session.has_subscribed_uris()
            && let Some(dedicated) = session.take_dedicated_stream(EVENTS_MAX)
        {
            let stream = dedicated.stream;
            let dedicated = DedicatedSubscription::new(Arc::clone(session), dedicated);
            self.spawn_task(Arc::clone(session), stream, pool, SubscriptionTarget::Dedicated(dedicated));
        }
    }

    fn spawn_task(
        &self,
        session: Arc<Session>,
        stream: u64,
        pool: &Rc<UpstreamPool>,
        target: SubscriptionTarget,
    ) {
        let (pool, tool_headers) = (Rc::clone(pool), Arc::clone(&self.tool_headers));
        let listener = session.register_listener();
        let task = SubscriptionTask { session, target, pool, tool_headers, _listener: listener };
        spawn_local(async move {
            tokio::select! {
                () = task.listen() => {}
                () = task.session.until(|watched| watched.is_ended || watched.stream != stream) => {}
                () = task.target.closed() => {}
                () = task.target.forward_shared() => {}
            }
        });
    }
}

impl SubscriptionTarget {
    /// Whether the client subscribed to it. A shared subscription takes only list changes: nobody can say
    /// which of its sessions anything else is for.
    fn accepts(&self, method: Option<McpMethod>) -> bool {
        match self {
            Self::Dedicated(_) => method != Some(McpMethod::Acknowledged),
            Self::Shared(_) => matches!(
                method,
                Some(
                    McpMethod::ToolsListChanged
                        | McpMethod::PromptsListChanged
                        | McpMethod::ResourcesListChanged
                )
            ),
        }
    }

    /// Delivers an event. Returns false when no listener is left. Cancel safe, except that an event that
    /// waits for room is lost.
    async fn deliver(&self, event: Bytes) -> bool {
        match self {
            Self::Dedicated(dedicated) => dedicated.notify(event).await,
            Self::Shared(shared) => {
                shared.broadcast(&event);
                true
            }
        }
    }

    /// Completes when no listener is left. Cancel safe.
    async fn closed(&self) {
        match self {
            Self::Dedicated(dedicated) => dedicated.closed().await,
            Self::Shared(shared) => shared.emptied().await,
        }
    }

    /// Polled while the server serves the subscription; see [`DedicatedSubscription`]. Never completes.
    /// Cancel safe.
    async fn leave_shared_after_overlap(&self) {
        match self {
            Self::Dedicated(dedicated) => dedicated.leave_shared_after_overlap().await,
            Self::Shared(_) => pending().await,
        }
    }

    /// Called when the server stopped serving the subscription.
    fn reset_overlap(&self) {
        if let Self::Dedicated(dedicated) = self {
            dedicated.reset_overlap();
        }
    }

    /// Forwards what arrives through a shared subscription; never completes.
    async fn forward_shared(&self) {
        match self {
            Self::Dedicated(dedicated) => dedicated.forward_shared().await,
            Self::Shared(_) => pending().await,
        }
    }
}

impl SubscriptionTask {
    /// Listens until it is dropped.
    async fn listen(&self) {
        let mut backoff = Backoff(BACKOFF_MIN);
        let mut open: Option<Box<SubscriptionStream>> = None;
        loop {
            let (filter_version, request) = self.build_request();
            let Some(request) = request else {
                open = None;
                self.session.settle_filter(filter_version);
                self.filter_changed(filter_version).await;
                continue;
            };
            // The previous stream goes on delivering until the next is open. Boxed: the future is a hundred
            // times the size of a silent stream.
            let opening = tokio::select! {
                opening = Box::pin(timeout(OPEN_TIMEOUT, self.open(request, filter_version))) => {
                    opening.unwrap_or(Err(ListenError::Temporary))
                }
                () = self.relay_while_opening(&mut open) => continue,
            };
            match opening {
                Ok(stream) => {
                    self.session.settle_filter(filter_version);
                    let stream = open.insert(stream);
                    tokio::select! {
                        () = self.relay(stream) => {
                            if stream.has_delivered {
                                backoff = Backoff(BACKOFF_MIN);
                            }
                            open = None;
                            self.target.reset_overlap();
                            backoff.wait().await;
                        }
                        () = self.filter_changed(filter_version) => {}
                        () = self.target.leave_shared_after_overlap() => {}
                    }
                }
                Err(ListenError::Unsupported) => {
                    open = None;
                    self.session.settle_filter(filter_version);
                    // A proxy in front of the server may have refused, so the next attempt may succeed.
                    let retry = self.filter_changed(filter_version);
                    let _ = timeout(UNSUPPORTED_RETRY_INTERVAL, retry).await;
                }
                Err(ListenError::Temporary) => {
                    open = None;
                    backoff.wait().await;
                }
            }
        }
    }

    async fn filter_changed(&self, filter_version: u64) {
        self.session.until(|watched| watched.filter_version != filter_version).await;
    }

    /// Builds the request for what the client wants and the server supports; `None` if that is nothing.
    fn build_request(&self) -> (u64, Option<UpstreamRequest>) {
        let (filter_version, uris) = self.session.subscribed_uris();
        let features = &self.session.features;
        let mut notifications = serde_json::Map::new();
        for (name, is_offered) in [
            ("toolsListChanged", features.tools_changed),
            ("promptsListChanged", features.prompts_changed),
            ("resourcesListChanged", features.resources_changed),
        ] {
            if is_offered {
                notifications.insert(name.to_owned(), Value::Bool(true));
            }
        }
        if !uris.is_empty() {
            notifications.insert("resourceSubscriptions".to_owned(), json!(uris));
        }
        if notifications.is_empty() {
            return (filter_version, None);
        }
        let params = format!("\"notifications\":{},", Value::Object(notifications));
        let id = format!("metamcp-listen-{}", self.session.next_number());
        (filter_version, gateway_request(&self.session, &id, McpMethod::Listen, &params))
    }

    /// Opens a stream and waits until the server acknowledges the subscription.
    async fn open(
        &self,
        request: UpstreamRequest,
        filter_version: u64,
    ) -> Result<Box<SubscriptionStream>, ListenError> {
        let response = self.pool.send_direct(&request, RequestKind::Stream).await;
        let UpstreamResponse { head, body } = *response.map_err(|_| ListenError::Temporary)?;
        if !head.status.is_success() || !head.is_event_stream() {
            let is_temporary =
                head.status.is_server_error() || matches!(head.status.as_u16(), 401 | 403 | 409 | 429);
            return Err(if is_temporary { ListenError::Temporary } else { ListenError::Unsupported });
        }
        let reader = EventReader::new();
        let mut stream = Box::new(SubscriptionStream { body, reader, filter_version, has_delivered: false });
        match stream.next().await {
            Some((_, Some(McpMethod::Acknowledged))) => Ok(stream),
            _ => Err(ListenError::Temporary),
        }
    }

    /// Passes notifications on; completes at the end of the stream, regular or not. Cancel safe, except that
    /// an event that waits for room is lost.
    async fn relay(&self, stream: &mut SubscriptionStream) {
        let upstream = self.pool.upstream();
        while let Some((message, method)) = stream.next().await {
            stream.has_delivered = true;
            if method == Some(McpMethod::ToolsListChanged) {
                self.tool_headers.evict(upstream.id);
            }
            if self.target.accepts(method) && !self.target.deliver(write_event(&message)).await {
                return;
            }
        }
        tracing::debug!(server = %upstream.name(), filter_version = stream.filter_version, "subscription stream ended");
    }

    /// Relays the previous stream while the next one is opened. Completes when it breaks; pending if there is
    /// none.
    async fn relay_while_opening(&self, open: &mut Option<Box<SubscriptionStream>>) {
        match open {
            Some(stream) => self.relay(stream).await,
            None => pending().await,
        }
        *open = None;
        self.target.reset_overlap();
    }
}

impl SubscriptionStream {
    /// Returns the next notification, or `None` at the end. Cancel safe.
    async fn next(&mut self) -> Option<(Bytes, Option<McpMethod>)> {
        loop {
            let Some(event) = self.reader.next().ok()? else {
                self.reader.push(self.body.chunk().await?.ok()?);
                continue;
            };
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = Scanner::new().scan(&data) else { continue };
            match envelope.kind {
                MessageKind::Notification => {
                    let method =
                        envelope.method.and_then(|method| McpMethod::parse(&method.decode_bytes(&data)));
                    return Some((data, method));
                }
                MessageKind::Request => {}
                // The response ends the subscription (MCP 2026-07-28, subscriptions).
                MessageKind::Response | MessageKind::Error => return None,
            }
        }
    }
}

impl Backoff {
    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }
}

#[cfg(test)]
mod tests;
