//! What a Modern client learns of a server without a call: what it is, and what changes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::request::Asked;
use super::session::{FaceSession, Seat, subscribe};
use crate::base::Fault;
use crate::frame::{json_string, write_event};
use crate::protocol::{Method, Revision, Wish, code};
use crate::session::Ready;
use crate::upstream::Pool;
use crate::upstream::shim::{Outlet, Reply, stream_of};

/// The capabilities of a Legacy server that mean the same in the Modern era; the others do not exist there.
const CARRIED: [&str; 7] =
    ["tools", "prompts", "resources", "logging", "completions", "experimental", "extensions"];

/// Events that wait for a slow client.
const EVENTS_MAX: usize = 16;

/// The lists whose changes a server may announce.
const LISTS: [Method; 3] =
    [Method::ToolsListChanged, Method::PromptsListChanged, Method::ResourcesListChanged];

/// URIs in one subscription; each is told to the server.
const URIS_MAX: usize = 1024;

/// For the server to hear of all URIs of a subscription; the client is told then that it has it.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// The answer to a request that could not be made: the session was not opened.
pub fn unopened(asked: &Asked, fault: &Fault) -> Reply {
    let data = json!({"origin": "server", "kind": fault.kind.label()});
    Reply::error_with(StatusCode::OK, &asked.id(), code::INTERNAL, fault.for_client(), Some(&data))
}

/// `server/discover`, from what the server answered to `initialize`.
pub async fn discover(session: &Arc<FaceSession>, pool: &Rc<Pool>, asked: &Asked) -> Reply {
    // No call: what the server asks as soon as its session is open is for nobody here, and is refused.
    if !session.touch() {
        return asked.refusal(StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL, "try again");
    }
    if let Err(fault) = session.open(pool).await {
        return unopened(asked, &fault);
    }
    let answer = session.answer().unwrap_or_default();
    let id = String::from_utf8_lossy(&asked.id()).into_owned();
    Reply::message(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, discovered(&answer)).into())
}

fn discovered(answer: &[u8]) -> Value {
    #[derive(Deserialize, Default)]
    struct Answer {
        result: Initialized,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Initialized {
        capabilities: Map<String, Value>,
        server_info: Value,
        instructions: Option<String>,
    }
    let Answer { result } = serde_json::from_slice(answer).unwrap_or_default();
    let carried = result.capabilities.into_iter().filter(|(name, _)| CARRIED.contains(&name.as_str()));
    let mut discovered = json!({
        "resultType": "complete",
        "supportedVersions": [Revision::MODERN_LATEST.as_str()],
        "capabilities": carried.collect::<Map<_, _>>(),
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": result.server_info},
    });
    if let Some(instructions) = result.instructions {
        discovered["instructions"] = instructions.into();
    }
    discovered
}

/// `subscriptions/listen` (MCP 2026-07-28, subscriptions).
pub async fn listen(session: Arc<FaceSession>, pool: &Rc<Pool>, asked: &Asked) -> Reply {
    let params = asked.envelope.params.object.map_or(&b""[..], |span| span.of(&asked.message));
    let Some(wish) = Wish::read(params).filter(|wish| wish.resource_subscriptions.len() <= URIS_MAX) else {
        let text = "subscriptions/listen needs params.notifications, with up to 1024 resourceSubscriptions";
        return asked.refusal(StatusCode::BAD_REQUEST, code::INVALID_PARAMS, text);
    };
    let ready = match session.open(pool).await {
        Ok(ready) => ready,
        Err(fault) => return unopened(asked, &fault),
    };
    let honoured = honoured(wish, &ready);
    let lists = LISTS.into_iter().filter(|list| honoured.wants(*list)).collect();
    let Some((seat, new)) = session.listen(lists, honoured.resource_subscriptions.clone()) else {
        return asked.refusal(StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL, "try again");
    };
    let (outlet, events) = stream_of(EVENTS_MAX);
    let listening = Listening { session, pool: Rc::clone(pool), seat, outlet, id: asked.id() };
    spawn_local(listening.run(new, json!(honoured)));
    Reply::events(events)
}

/// The part of a wish that a server can meet.
fn honoured(wish: Wish, ready: &Ready) -> Wish {
    let features = &ready.features;
    Wish {
        tools_list_changed: wish.tools_list_changed.filter(|_| features.tools),
        prompts_list_changed: wish.prompts_list_changed.filter(|_| features.prompts),
        resources_list_changed: wish.resources_list_changed.filter(|_| features.resources),
        resource_subscriptions: if features.subscribe { wish.resource_subscriptions } else { Vec::new() },
        task_ids: Vec::new(),
    }
}

struct Listening {
    session: Arc<FaceSession>,
    pool: Rc<Pool>,
    seat: Seat,
    outlet: Outlet,
    /// The client's raw id of the request, which names the subscription.
    id: Bytes,
}

impl Listening {
    /// Until the client has gone.
    async fn run(mut self, new: Vec<String>, honoured: Value) {
        let id = String::from_utf8_lossy(&self.id).into_owned();
        let acknowledged = format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}},"notifications":{honoured}}}}}"#,
            Method::Acknowledged.as_str(),
        );
        if let Some(ready) = self.session.ready() {
            let subscribing = async {
                for uri in &new {
                    subscribe(&self.pool, &ready, Method::Subscribe, uri).await;
                }
            };
            tokio::select! {
                _ = timeout(SUBSCRIBE_TIMEOUT, subscribing) => {}
                () = self.outlet.closed() => {}
            }
        }
        let mut is_open = self.outlet.send(write_event(acknowledged.as_bytes())).await;
        while is_open {
            tokio::select! {
                () = self.outlet.closed() => is_open = false,
                message = self.seat.aside.recv() => {
                    let told = message.and_then(|message| told(&message, &id));
                    if let Some(told) = told {
                        is_open = self.outlet.send(write_event(told.as_bytes())).await;
                    }
                }
            }
        }
        let left = self.session.unlisten(self.seat.number);
        if let Some(ready) = self.session.ready() {
            let leaving = async {
                for uri in &left {
                    subscribe(&self.pool, &ready, Method::Unsubscribe, uri).await;
                    // Somebody may have begun to in the meantime.
                    if self.session.has_listener_of(uri) {
                        subscribe(&self.pool, &ready, Method::Subscribe, uri).await;
                    }
                }
            };
            // What is not told then, the server goes on telling nobody.
            let _ = timeout(SUBSCRIBE_TIMEOUT, leaving).await;
        }
    }
}

/// What a server announced, for one subscription. `id` is raw.
fn told(message: &[u8], id: &str) -> Option<String> {
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
    fn a_session_tells_what_its_server_is() {
        let check = |answer: &str, expected: Value| {
            let found = discovered(answer.as_bytes());
            assert_eq!(found["capabilities"], expected["capabilities"], "{found}");
            assert_eq!(found["instructions"], expected["instructions"], "{found}");
            assert_eq!(
                found["_meta"]["io.modelcontextprotocol/serverInfo"], expected["serverInfo"],
                "{found}"
            );
            assert_eq!((&found["resultType"], &found["cacheScope"]), (&json!("complete"), &json!("private")));
        };
        let result = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {"listChanged": true}, "tasks": {"list": {}}, "logging": {}},
            "serverInfo": {"name": "x", "version": "1"},
            "instructions": "do",
        });
        let mut expected = result.clone();
        expected["capabilities"] = json!({"tools": {"listChanged": true}, "logging": {}});
        check(&json!({"jsonrpc": "2.0", "id": 0, "result": result}).to_string(), expected);
        check("nonsense", json!({"capabilities": {}}));
    }

    #[test]
    fn what_is_announced_names_its_subscription() {
        let check = |message: &str, expected: &str| {
            assert_eq!(told(message.as_bytes(), "\"l\"").as_deref(), Some(expected));
        };
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"u","_meta":{"a":1}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"a":1,"io.modelcontextprotocol/subscriptionId":"l"},"uri":"u"}}"#,
        );
        assert_eq!(told(b"[]", "1"), None);
    }
}
