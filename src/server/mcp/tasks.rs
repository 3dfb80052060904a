//! Tasks on an endpoint with several servers: ids that carry their server, and one list of all (MCP
//! 2025-11-25, tasks; the extension `io.modelcontextprotocol/tasks` of 2026-07-28).
//!
//! Two servers may give the same id to two tasks. A client is told `{server}~{the id, base64url}~{mark,
//! base64url}`, so that what it asks finds its way without a table, on any replica. The mark is a keyed hash
//! of the server, the id and whose it is: the key's, in the session where there is one. Another's id is as
//! unknown as one that nobody made. The same task has the same id each time it is told, or a client could not
//! follow it.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::call::Call;
use super::target::Target;
use crate::auth::{Identity, Sealer};
use crate::catalog::{Catalog, View};
use crate::route::{Endpoint, OriginalName};
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind, ServerName};
use metamcp_core::frame::{Span, encode_header_value, json_string, splice};
use metamcp_core::protocol::{McpMethod, TASKS_EXTENSION};

/// Parts the server, its id and the mark; it can occur in none of them.
const PART: char = '~';

/// The longest id that is told on: real ones are UUIDs.
const ID_BYTES_MAX: usize = 1024;

/// Longer than any of ours can be; longer texts are not decoded.
const TEXT_BYTES_MAX: usize = 2 * ID_BYTES_MAX;

/// Whose tasks are told, and to whom.
#[derive(Clone)]
pub struct TaskIds {
    sealer: Arc<Sealer>,
    /// The key, the session, and the endpoint: part of every mark.
    holder: Bytes,
}

/// What is done about tasks in the answer to one request.
#[derive(Clone)]
pub struct TaskPass {
    ids: TaskIds,
    /// Whether the answer itself may name tasks, and not only what comes before it.
    in_answer: bool,
}

impl TaskIds {
    /// Of one client on one endpoint.
    pub fn new(
        sealer: &Arc<Sealer>,
        identity: &Identity,
        session: Option<&Session>,
        endpoint: &Endpoint,
    ) -> Self {
        let mut holder = identity.key_id().as_bytes().to_vec();
        match session {
            Some(session) => {
                holder.push(1);
                holder.extend_from_slice(&session.claims.key.0);
            }
            None => holder.push(0),
        }
        holder.extend_from_slice(endpoint.scope.as_bytes());
        Self { sealer: Arc::clone(sealer), holder: holder.into() }
    }

    /// What is told of a server's task.
    fn told(&self, server: &ServerName, raw: &str) -> String {
        let mark = self.sealer.mac(&self.marked(server, raw));
        let [raw, mark] = [raw.as_bytes(), &mark[..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{server}{PART}{raw}{PART}{mark}")
    }

    /// Everything in it is of fixed length or ends with a NUL, which no name has: no two are written alike.
    fn marked(&self, server: &ServerName, raw: &str) -> Vec<u8> {
        [&self.holder, &b"\0"[..], server.as_str().as_bytes(), b"\0", raw.as_bytes()].concat()
    }

    /// The place of the server, and its own id of the task.
    pub fn find(&self, endpoint: &Endpoint, text: &str) -> Option<(usize, String)> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (rest, mark) = text.rsplit_once(PART)?;
        let (server, raw) = rest.rsplit_once(PART)?;
        let [raw, mark] = [URL_SAFE_NO_PAD.decode(raw).ok()?, URL_SAFE_NO_PAD.decode(mark).ok()?];
        let raw = String::from_utf8(raw).ok()?;
        let place = endpoint.servers.iter().position(|place| place.name.as_str() == server)?;
        let marked = self.marked(&endpoint.servers[place].name, &raw);
        self.sealer.verify_mac(&marked, &mark).then_some((place, raw))
    }

    /// Where a request about a task goes, with the server's own id in it.
    pub fn target(&self, call: &Call) -> Result<Target, Fault> {
        let Some(text) = call.envelope.params.task_id else {
            return Err(Fault::client(FaultKind::MalformedParams, "params.taskId is missing"));
        };
        let found = self.find(&call.endpoint, &text.decode(&call.body));
        let Some((place, raw)) = found else {
            return Err(Fault::client(
                FaultKind::InvalidParams,
                "unknown task: no server told this client of it",
            ));
        };
        let own = OriginalName {
            json: json_string(&raw),
            header: Bytes::from(encode_header_value(&raw).into_owned()),
            text: raw,
            is_listed: true,
        };
        Ok((place, Some((text.span, Arc::new(own)))))
    }

    /// In a client's response: the server's own id of the task that it belongs to, when it does.
    pub fn related(&self, call: &Call) -> Option<(Span, Bytes)> {
        let related = read(&call.body)?.result?.meta?.related?.task_id?;
        let text: Cow<'_, str> = serde_json::from_str(related.get()).ok()?;
        let (_, raw) = self.find(&call.endpoint, &text)?;
        Some((Span::locate(&call.body, related.get().as_bytes())?, json_string(&raw)))
    }

    /// One item of a list of tasks, as this client is told of it.
    pub fn item(&self, server: &ServerName, item: &Bytes) -> Option<Bytes> {
        let Task { task_id } = serde_json::from_slice(item).ok()?;
        let edit = self.edit(server, item, task_id?)?;
        Some(splice(item, &[edit]).ok()?.parts().concat().into())
    }

    fn edit(&self, server: &ServerName, message: &[u8], id: &RawValue) -> Option<(Span, Bytes)> {
        let raw: Cow<'_, str> = serde_json::from_str(id.get()).ok()?;
        let span = Span::locate(message, id.get().as_bytes()).filter(|_| raw.len() <= ID_BYTES_MAX)?;
        Some((span, json_string(&self.told(server, &raw))))
    }
}

impl TaskPass {
    /// What comes before the answer may be about tasks, and with that the answer itself.
    pub fn new(ids: TaskIds, in_answer: bool) -> Self {
        Self { ids, in_answer }
    }

    /// Whether the answer itself may name tasks.
    pub fn is_in_answer(&self) -> bool {
        self.in_answer
    }

    /// What is to be replaced in a message of a server.
    pub fn edits(&self, server: &ServerName, message: &[u8]) -> Vec<(Span, Bytes)> {
        // Nearly no message has one, which is seen without reading it.
        if memmem::find(message, b"taskId").is_none() {
            return Vec::new();
        }
        let Some(Message { id, method, params, result }) = read(message) else { return Vec::new() };
        let mut found = Vec::new();
        if let Some(params) = params {
            // In a request of a server it is the client's own task.
            let is_told =
                id.is_none() && method.is_some_and(|method| method.starts_with("notifications/tasks"));
            found.extend(params.task_id.filter(|_| is_told));
            found.extend(params.meta.and_then(|meta| meta.related?.task_id));
        }
        if let Some(result) = result.filter(|_| self.in_answer) {
            found.extend(result.task_id);
            found.extend(result.task.and_then(|task| task.task_id));
            found.extend(result.meta.and_then(|meta| meta.related?.task_id));
        }
        found.into_iter().filter_map(|id| self.ids.edit(server, message, id)).collect()
    }

    /// A whole message of a server, as this client is told it.
    pub fn message(&self, server: &ServerName, message: Bytes) -> Bytes {
        let mut edits = self.edits(server, &message);
        edits.sort_by_key(|(span, _)| span.start);
        match splice(&message, &edits) {
            Ok(slices) if !edits.is_empty() => slices.parts().concat().into(),
            _ => message,
        }
    }
}

/// Whether a server of the endpoint has tasks, as far as is known.
pub fn are_known(catalog: &Catalog, call: &Call, view: View) -> bool {
    let merged = catalog.snapshot(&call.endpoint, view);
    merged.is_none_or(|merged| match view {
        View::Modern => merged.features.tasks.extension,
        View::Legacy(_) => merged.features.tasks.calls,
    })
}

/// What the answers of a server without sessions need: when the client said that it knows tasks, and the
/// server does too.
pub fn modern(catalog: &Catalog, sealer: &Arc<Sealer>, call: &Call, place: usize) -> Option<TaskPass> {
    let is_about = call.is_task_request();
    if !is_about {
        let declares = call.method == Some(McpMethod::ToolsCall) && declares(call);
        let merged = declares.then(|| catalog.snapshot(&call.endpoint, View::Modern))??;
        merged.tasks.get(place).filter(|tasks| tasks.extension)?;
    }
    Some(TaskPass::new(TaskIds::new(sealer, &call.identity, None, &call.endpoint), true))
}

/// Likewise within a session, as soon as its server has tasks: what it says of them may come with any call.
pub fn legacy(sealer: &Arc<Sealer>, call: &Call, session: &Session, place: usize) -> Option<TaskPass> {
    session.upstream_slot(place).current().filter(|ready| ready.features.tasks.calls)?;
    let in_answer =
        call.is_task_request() || (call.method == Some(McpMethod::ToolsCall) && may_ask_for_a_task(call));
    Some(TaskPass::new(TaskIds::new(sealer, &call.identity, Some(session), &call.endpoint), in_answer))
}

/// Whether there may be a `params.task`: outside of the arguments the word stands somewhere.
fn may_ask_for_a_task(call: &Call) -> bool {
    let body = &call.body[..];
    let (before, behind) = match call.envelope.params.arguments {
        Some(arguments) => (&body[..arguments.start as usize], &body[arguments.end as usize..]),
        None => (body, &b""[..]),
    };
    [before, behind].iter().any(|part| memmem::find(part, b"\"task\"").is_some())
}

/// Whether the client says with this request that it knows tasks.
pub fn declares(call: &Call) -> bool {
    #[derive(Deserialize)]
    struct Declared<'a> {
        #[serde(borrow, default)]
        extensions: Option<&'a RawValue>,
    }
    let Some(span) = call.envelope.params.meta.client_capabilities else { return false };
    let declared = span.slice(&call.body);
    // Seen without reading where it is not, which is nearly everywhere; the name may be written with escapes.
    if memmem::find(declared, b"extensions").is_none() {
        return false;
    }
    let read: Option<Declared<'_>> = serde_json::from_slice(declared).ok();
    let extensions = read.and_then(|read| read.extensions);
    let extensions = extensions.and_then(|raw| serde_json::from_str::<serde_json::Value>(raw.get()).ok());
    extensions.is_some_and(|extensions| extensions[TASKS_EXTENSION].is_object())
}

fn read(message: &[u8]) -> Option<Message<'_>> {
    serde_json::from_slice(message).ok()
}

#[derive(Deserialize)]
struct Message<'a> {
    id: Option<IgnoredAny>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
    #[serde(borrow)]
    result: Option<Outcome<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "taskId")]
    task_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(borrow, rename = "taskId")]
    task_id: Option<&'a RawValue>,
    #[serde(borrow)]
    task: Option<Task<'a>>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Task<'a> {
    #[serde(borrow, rename = "taskId")]
    task_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/related-task")]
    related: Option<Task<'a>>,
}
