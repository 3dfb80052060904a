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
use crate::frame::{encode_header, json_string};
use crate::protocol::Method;
use crate::protocol::param::{Mark, marks};
use crate::session::{MESSAGE_BYTES_MAX, read_terminal};
use crate::upstream::{Lane, Outgoing, Pool, UpstreamId};

/// What is known of the tools of servers: found out at the first call of each, and again when they changed.
#[derive(Default)]
pub struct Known {
    /// Guards what is known; a few lines at a time.
    servers: Mutex<HashMap<UpstreamId, Arc<Tools>>>,
}

/// Of the tools of one server those that want something repeated.
type Tools = HashMap<String, Vec<Mark>>;

/// Servers that are known at once. Ids of servers that are gone stay in it until then; it is filled again by
/// calls.
const SERVERS_MAX: usize = 1024;

/// Pages of a list of tools that are looked through.
const PAGES_MAX: usize = 100;

/// Bytes of what is remembered of one server: names of tools, headers and places. Of a tool beyond it nothing
/// is added, and its server says what it misses.
const TOOLS_BYTES_MAX: usize = 256 << 10;

/// To look through all of them. In vain, the call goes without: its server says what it misses.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

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
        let id = pool.upstream().id;
        let known = lock(&self.servers).get(&id).cloned();
        let is_fresh = known.is_none();
        let tools = match known {
            Some(tools) => tools,
            None => match timeout(FETCH_TIMEOUT, fetch(session, pool)).await {
                Ok(Some(tools)) => self.learn(id, tools),
                Ok(None) | Err(_) => return is_fresh,
            },
        };
        let Some(marks) = tools.get(tool) else { return is_fresh };
        let arguments = read.envelope.params.arguments.map(|span| span.of(&read.message));
        let arguments: Value = arguments.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        for mark in marks {
            if let Some(text) = mark.text(&arguments) {
                request.put(&mark.header, encode_header(&text).as_bytes());
            }
        }
        is_fresh
    }

    /// They changed.
    pub fn forget(&self, server: UpstreamId) {
        lock(&self.servers).remove(&server);
    }

    fn learn(&self, id: UpstreamId, tools: Tools) -> Arc<Tools> {
        let tools = Arc::new(tools);
        let mut servers = lock(&self.servers);
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert(id, Arc::clone(&tools));
        tools
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
    let (mut tools, mut bytes) = (Tools::new(), 0);
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
            // What comes of a tool with a bad mark is for its server to say.
            let marks = marks(&tool.input_schema).unwrap_or_default();
            if marks.is_empty() {
                continue;
            }
            bytes += tool.name.len() + marks.iter().map(Mark::bytes).sum::<usize>();
            if bytes > TOOLS_BYTES_MAX {
                return Some(tools);
            }
            tools.insert(tool.name, marks);
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

/// Every change under a lock is one operation on a map, so a poisoned one guards a whole map.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
