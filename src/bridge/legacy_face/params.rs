//! Arguments that a tool wants repeated in headers, `Mcp-Param-*` (MCP 2026-07-28, Streamable HTTP).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::request::{Request, own};
use super::session::Session;
use crate::backend::{BackendId, Lane, Outgoing, Pool};
use crate::frame::{encode_header, json_string};
use crate::protocol::{Method, header};
use crate::session::{MESSAGE_BYTES_MAX, read_terminal};

/// What is known of the tools of servers: found out at the first call of each, and again when they changed.
#[derive(Default)]
pub struct Known {
    /// Guards what is known; a few lines at a time.
    servers: Mutex<HashMap<BackendId, Arc<Tools>>>,
}

/// Of the tools of one server those that want something repeated.
type Tools = HashMap<String, Vec<Mirror>>;

/// An argument and its header.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    /// The name of the header, in lower case.
    header: String,
    /// Where in the arguments.
    path: Vec<String>,
}

/// Servers that are known at once. Ids of servers that are gone stay in it until then; it is filled again by calls.
const SERVERS_MAX: usize = 1024;

/// Pages of a list of tools that are looked through.
const PAGES_MAX: usize = 100;

/// To look through all of them. In vain, the call goes without: its server says what it misses.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of one tool: each is up to a line of the head of every call.
const MIRRORS_MAX: usize = 32;

/// Objects within objects in which arguments are looked for.
const DEPTH_MAX: usize = 16;

/// The largest integer that every JSON reader reads alike (MCP 2026-07-28, Streamable HTTP).
const INTEGER_MAX: u64 = (1 << 53) - 1;

impl Known {
    /// Adds the headers that the tool wants; true when what is known of it was found out just now.
    pub async fn mirror(
        &self,
        session: &Session,
        pool: &Rc<Pool>,
        tool: &str,
        read: &Request,
        request: &mut Outgoing,
    ) -> bool {
        let id = pool.backend().id;
        let known = lock(&self.servers).get(&id).cloned();
        let is_fresh = known.is_none();
        let tools = match known {
            Some(tools) => tools,
            None => match timeout(FETCH_TIMEOUT, fetch(session, pool)).await {
                Ok(Some(tools)) => self.learn(id, tools),
                Ok(None) | Err(_) => return is_fresh,
            },
        };
        let Some(mirrors) = tools.get(tool) else { return is_fresh };
        let arguments = read.envelope.params.arguments.map(|span| span.of(&read.message));
        let arguments: Value = arguments.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        for mirror in mirrors {
            if let Some(value) = mirror.value(&arguments) {
                request.put(&mirror.header, value.as_bytes());
            }
        }
        is_fresh
    }

    /// They changed.
    pub fn forget(&self, server: BackendId) {
        lock(&self.servers).remove(&server);
    }

    fn learn(&self, id: BackendId, tools: Tools) -> Arc<Tools> {
        let tools = Arc::new(tools);
        let mut servers = lock(&self.servers);
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert(id, Arc::clone(&tools));
        tools
    }
}

impl Mirror {
    /// The value of the header; `None`: there is no such argument, or none that a header can say.
    fn value(&self, arguments: &Value) -> Option<String> {
        let value = self.path.iter().try_fold(arguments, |value, name| value.get(name))?;
        match value {
            Value::String(text) => Some(encode_header(text).into_owned()),
            Value::Bool(is_so) => Some(is_so.to_string()),
            Value::Number(number) => {
                let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs))?;
                (size <= INTEGER_MAX).then(|| number.to_string())
            }
            _ => None,
        }
    }
}

/// One page of `tools/list`.
#[derive(Deserialize)]
struct Answer {
    result: Option<Page>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    tools: Vec<Listed>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

/// Looks through all tools; `None` when the server does not say.
async fn fetch(session: &Session, pool: &Rc<Pool>) -> Option<Tools> {
    let mut tools = Tools::new();
    let mut params = String::new();
    for _ in 0..PAGES_MAX {
        let request = own(session, "metamcp-tools", Method::ToolsList, &params)?;
        let mut answered = pool.send_straight(&request, Lane::Call).await.ok()?;
        let message = if answered.head.is_event_stream() {
            read_terminal(&mut answered.body).await.ok()?
        } else {
            answered.body.collect(MESSAGE_BYTES_MAX).await.ok()?
        };
        let page = page(&message)?;
        for tool in page.tools {
            let mirrors = mirrors(&tool.input_schema);
            if !mirrors.is_empty() {
                tools.insert(tool.name, mirrors);
            }
        }
        let Some(cursor) = page.next_cursor else { break };
        params = format!("\"cursor\":{},", String::from_utf8_lossy(&json_string(&cursor)));
    }
    Some(tools)
}

/// A server that answers with an error has no tools to say anything of.
fn page(message: &Bytes) -> Option<Page> {
    let answer: Answer = serde_json::from_slice(message).ok()?;
    Some(answer.result.unwrap_or(Page { tools: Vec::new(), next_cursor: None }))
}

/// The arguments that are marked, wherever `properties` alone lead to. A mark that is not as it must be is none: what
/// comes of the tool is for its server to say.
fn mirrors(schema: &Value) -> Vec<Mirror> {
    let mut found: Vec<Mirror> = Vec::new();
    let mut open = vec![(schema, Vec::new())];
    while let Some((schema, path)) = open.pop() {
        let Some(properties) = schema["properties"].as_object() else { continue };
        for (name, property) in properties {
            let mut path: Vec<String> = path.clone();
            path.push(name.clone());
            if let Some(header) = marked(property)
                && found.len() < MIRRORS_MAX
                && found.iter().all(|mirror| mirror.header != header)
            {
                found.push(Mirror { header, path: path.clone() });
            }
            if path.len() < DEPTH_MAX {
                open.push((property, path));
            }
        }
    }
    found
}

/// The header of a property that is marked as it must be: a token (RFC 9110, section 5.6.2), on what a header can say.
fn marked(property: &Value) -> Option<String> {
    let mark = property["x-mcp-header"].as_str()?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_plain = matches!(property["type"].as_str(), Some("string" | "integer" | "boolean"));
    let is_mark = !mark.is_empty() && mark.bytes().all(is_token);
    (is_plain && is_mark).then(|| format!("{}{}", header::PARAM_PREFIX, mark.to_ascii_lowercase()))
}

/// Every change under a lock is one operation on a map, so a poisoned one guards a whole map.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marked_arguments_are_repeated() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "again": {"type": "string", "x-mcp-header": "REGION"},
            "shard": {"type": "integer", "x-mcp-header": "Shard"},
            "ratio": {"type": "number", "x-mcp-header": "Ratio"},
            "bad": {"type": "string", "x-mcp-header": "a b"},
            "in": {"type": "object", "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry"}}},
            "items": {"type": "array", "items": {"properties": {"x": {"type": "string", "x-mcp-header": "X"}}}},
        }});
        let check = |arguments: &Value, expected: &[&str]| {
            let mut found: Vec<_> = mirrors(&schema)
                .iter()
                .filter_map(|mirror| Some(format!("{}: {}", mirror.header, mirror.value(arguments)?)))
                .collect();
            found.sort();
            assert_eq!(found, expected, "{arguments}");
        };
        check(&json!({}), &[]);
        check(&json!(null), &[]);
        check(
            &json!({"again": "eu", "shard": -7, "in": {"dry": false}, "ratio": 1, "bad": "x", "items": []}),
            &["mcp-param-dry: false", "mcp-param-region: eu", "mcp-param-shard: -7"],
        );
        check(&json!({"again": "ü", "shard": 1.5}), &["mcp-param-region: =?base64?w7w=?="]);
        check(&json!({"again": null, "shard": 9_007_199_254_740_992_u64}), &[]);
        assert!(mirrors(&json!({"properties": 7})).is_empty() && mirrors(&Value::Null).is_empty());
    }
}
