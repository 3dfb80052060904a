//! The `Mcp-Param-*` headers: tool arguments that a server wants mirrored in headers (MCP 2026-07-28,
//! Streamable HTTP).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::request::{ClientMessage, gateway_request};
use super::session::Session;
use crate::session::{MESSAGE_BYTES_MAX, read_terminal_message};
use crate::upstream::{UpstreamId, UpstreamPool};
use metamcp_core::frame::{encode_header_value, json_string};
use metamcp_core::protocol::McpMethod;
use metamcp_core::protocol::header_param::{HeaderParam, parse_header_params};
use metamcp_http::{RequestKind, UpstreamRequest};

/// The header parameters of each server's tools. Fetched at the first call to a server, and again after its
/// tools changed.
#[derive(Default)]
pub struct ToolHeaderCache {
    /// Guards the cache; a few lines at a time.
    servers: Mutex<HashMap<UpstreamId, Arc<ToolParams>>>,
}

/// The header parameters of one server's tools, by tool name. Tools without any are absent.
type ToolParams = HashMap<String, Vec<HeaderParam>>;

/// Servers in the cache. Entries of removed servers stay until it is full; then it is cleared, and calls fill
/// it again.
const SERVERS_MAX: usize = 1024;

/// Pages of `tools/list` that are fetched.
const PAGES_MAX: usize = 100;

/// Bytes cached for one server: tool names, header names and paths. Calls to tools beyond it carry no such
/// headers, and the server answers which one is missing.
const TOOLS_BYTES_MAX: usize = 256 << 10;

/// For all pages. After a timeout the call goes without the headers, and the server answers which one is
/// missing.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

impl ToolHeaderCache {
    /// Adds the headers that the tool wants. Returns whether they were fetched for this call.
    pub async fn add_headers(
        &self,
        session: &Session,
        pool: &Rc<UpstreamPool>,
        tool: &str,
        message: &ClientMessage,
        request: &mut UpstreamRequest,
    ) -> bool {
        let id = pool.upstream().id;
        let cached = lock(&self.servers).get(&id).cloned();
        let is_fresh = cached.is_none();
        let tools = match cached {
            Some(tools) => tools,
            None => match timeout(FETCH_TIMEOUT, fetch(session, pool)).await {
                Ok(Some(tools)) => self.insert(id, tools),
                Ok(None) | Err(_) => return is_fresh,
            },
        };
        let Some(params) = tools.get(tool) else { return is_fresh };
        let arguments = message.envelope.params.arguments.map(|span| span.slice(&message.bytes));
        let arguments: Value = arguments.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        for param in params {
            if let Some(text) = param.header_text(&arguments) {
                request.put_header(&param.header, encode_header_value(&text).as_bytes());
            }
        }
        is_fresh
    }

    /// Evicts a server whose tools changed.
    pub fn evict(&self, id: UpstreamId) {
        lock(&self.servers).remove(&id);
    }

    fn insert(&self, id: UpstreamId, tools: ToolParams) -> Arc<ToolParams> {
        let tools = Arc::new(tools);
        let mut servers = lock(&self.servers);
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert(id, Arc::clone(&tools));
        tools
    }
}

/// The response to `tools/list`.
#[derive(Deserialize)]
struct ToolsResponse {
    result: Option<ToolsPage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolsPage {
    #[serde(default)]
    tools: Vec<ToolEntry>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolEntry {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

/// Fetches the header parameters of all tools; `None` if the server does not answer.
async fn fetch(session: &Session, pool: &Rc<UpstreamPool>) -> Option<ToolParams> {
    let (mut tools, mut bytes) = (ToolParams::new(), 0);
    let mut params = String::new();
    for _ in 0..PAGES_MAX {
        let request = gateway_request(session, "metamcp-tools", McpMethod::ToolsList, &params)?;
        let mut response = pool.send_direct(&request, RequestKind::Call).await.ok()?;
        let message = if response.head.is_event_stream() {
            read_terminal_message(&mut response.body).await.ok()?
        } else {
            response.body.collect(MESSAGE_BYTES_MAX).await.ok()?
        };
        let page = parse_page(&message)?;
        for tool in page.tools {
            // A tool with invalid header parameters is treated as one without: its server rejects the call if
            // it minds.
            let params = parse_header_params(&tool.input_schema).unwrap_or_default();
            if params.is_empty() {
                continue;
            }
            bytes += tool.name.len() + params.iter().map(HeaderParam::memory_bytes).sum::<usize>();
            if bytes > TOOLS_BYTES_MAX {
                return Some(tools);
            }
            tools.insert(tool.name, params);
        }
        let Some(cursor) = page.next_cursor else { break };
        params = format!("\"cursor\":{},", String::from_utf8_lossy(&json_string(&cursor)));
    }
    Some(tools)
}

/// Parses one page. A server that answers with an error has no tools.
fn parse_page(message: &Bytes) -> Option<ToolsPage> {
    let response: ToolsResponse = serde_json::from_slice(message).ok()?;
    Some(response.result.unwrap_or(ToolsPage { tools: Vec::new(), next_cursor: None }))
}

/// Locks a mutex. A poisoned one is sound: every change under it is one operation on a map.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
