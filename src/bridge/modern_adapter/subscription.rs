//! `subscriptions/listen` (MCP 2026-07-28, subscriptions).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use metamcp_core::frame::{json_string, write_event};
use metamcp_core::protocol::{McpMethod, SubscriptionFilter, code};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::request::ModernRequest;
use super::session::{AdapterSession, ClientSlot, update_subscription};
use crate::session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_http::multiplex::{EventSink, LocalResponse, event_channel_with_capacity};

/// Events that wait for a slow client.
const EVENTS_MAX: usize = 16;

/// The list changes that a server may announce.
const LISTS: [McpMethod; 3] =
    [McpMethod::ToolsListChanged, McpMethod::PromptsListChanged, McpMethod::ResourcesListChanged];

/// URIs in one subscription. Each costs a request to the server.
const URIS_MAX: usize = 1024;

/// How long the server may take to accept all URIs of a subscription. After that it is acknowledged to the
/// client anyway.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Answers `subscriptions/listen` with an event stream.
pub async fn listen(
    session: Arc<AdapterSession>,
    pool: &Rc<UpstreamPool>,
    request: &ModernRequest,
) -> LocalResponse {
    let params = request.envelope.params.object.map_or(&b""[..], |span| span.slice(&request.message));
    let filter = SubscriptionFilter::from_params(params)
        .filter(|filter| filter.resource_subscriptions.len() <= URIS_MAX);
    let Some(filter) = filter else {
        let text = "subscriptions/listen needs params.notifications, with up to 1024 resourceSubscriptions";
        return request.refusal(StatusCode::BAD_REQUEST, code::INVALID_PARAMS, text);
    };
    let upstream_session = match session.open(pool).await {
        Ok(upstream_session) => upstream_session,
        Err(fault) => return request.fault_reply(&fault),
    };
    let filter = supported_filter(filter, &upstream_session);
    let lists = LISTS.into_iter().filter(|list| filter.includes(*list)).collect();
    let Some((slot, new_uris)) = session.add_listener(lists, filter.resource_subscriptions.clone()) else {
        return request.refusal(StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL, "try again");
    };
    let (sink, events) = event_channel_with_capacity(EVENTS_MAX);
    let task = SubscriptionTask { session, pool: Rc::clone(pool), slot, sink, id: request.id() };
    spawn_local(task.run(new_uris, json!(filter)));
    LocalResponse::from_events(events)
}

/// Returns the part of a filter that the server supports.
fn supported_filter(filter: SubscriptionFilter, upstream_session: &UpstreamSession) -> SubscriptionFilter {
    let features = &upstream_session.features;
    SubscriptionFilter {
        tools_list_changed: filter.tools_list_changed.filter(|_| features.tools),
        prompts_list_changed: filter.prompts_list_changed.filter(|_| features.prompts),
        resources_list_changed: filter.resources_list_changed.filter(|_| features.resources),
        resource_subscriptions: if features.subscribe { filter.resource_subscriptions } else { Vec::new() },
        task_ids: Vec::new(),
    }
}

/// The task that serves one subscription.
struct SubscriptionTask {
    session: Arc<AdapterSession>,
    pool: Rc<UpstreamPool>,
    slot: ClientSlot,
    sink: EventSink,
    /// The client's raw id of the request, which is the id of the subscription.
    id: Bytes,
}

impl SubscriptionTask {
    /// Runs until the client has disconnected. `new_uris` are those without another listener.
    async fn run(mut self, new_uris: Vec<String>, filter: Value) {
        let id = String::from_utf8_lossy(&self.id).into_owned();
        let acknowledged = format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}},"notifications":{filter}}}}}"#,
            McpMethod::Acknowledged.as_str(),
        );
        self.subscribe_all(&new_uris).await;
        let mut is_open = self.sink.send(write_event(acknowledged.as_bytes())).await;
        while is_open {
            tokio::select! {
                () = self.sink.closed() => is_open = false,
                message = self.slot.events.recv() => {
                    let tagged = message.and_then(|message| tag_notification(&message, &id));
                    if let Some(tagged) = tagged {
                        is_open = self.sink.send(write_event(tagged.as_bytes())).await;
                    }
                }
            }
        }
        let unused_uris = self.session.remove_listener(self.slot.number);
        self.unsubscribe_all(&unused_uris).await;
    }

    async fn subscribe_all(&self, uris: &[String]) {
        let Some(upstream_session) = self.session.upstream_session() else { return };
        let subscribing = async {
            for uri in uris {
                update_subscription(&self.pool, &upstream_session, McpMethod::Subscribe, uri).await;
            }
        };
        tokio::select! {
            _ = timeout(SUBSCRIBE_TIMEOUT, subscribing) => {}
            () = self.sink.closed() => {}
        }
    }

    async fn unsubscribe_all(&self, uris: &[String]) {
        let Some(upstream_session) = self.session.upstream_session() else { return };
        let unsubscribing = async {
            for uri in uris {
                update_subscription(&self.pool, &upstream_session, McpMethod::Unsubscribe, uri).await;
                // Another client may have subscribed in the meantime.
                if self.session.has_resource_listener(uri) {
                    update_subscription(&self.pool, &upstream_session, McpMethod::Subscribe, uri).await;
                }
            }
        };
        // After a timeout the server goes on sending notifications that no client receives.
        let _ = timeout(SUBSCRIBE_TIMEOUT, unsubscribing).await;
    }
}

/// Adds the subscription id to a notification of the server. `id` is raw.
fn tag_notification(message: &[u8], id: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Notification {
        method: String,
        #[serde(default)]
        params: Map<String, Value>,
    }
    let Notification { method, mut params } = serde_json::from_slice(message).ok()?;
    let mut meta = match params.remove("_meta") {
        Some(Value::Object(meta)) => meta,
        _ => Map::new(),
    };
    meta.insert(SUBSCRIPTION_ID.into(), serde_json::from_str(id).ok()?);
    params.insert("_meta".into(), meta.into());
    let method = json_string(&method);
    let (method, params) = (String::from_utf8_lossy(&method), Value::Object(params));
    Some(format!(r#"{{"jsonrpc":"2.0","method":{method},"params":{params}}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_carry_the_subscription_id() {
        let check = |message: &str, expected: &str| {
            assert_eq!(tag_notification(message.as_bytes(), "\"l\"").as_deref(), Some(expected));
        };
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"u","_meta":{"a":1}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"a":1,"io.modelcontextprotocol/subscriptionId":"l"},"uri":"u"}}"#,
        );
        assert_eq!(tag_notification(b"[]", "1"), None);
    }
}
