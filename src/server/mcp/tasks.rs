//! Tasks on an aggregate endpoint: ids that carry their server, and one list of all tasks (MCP 2025-11-25,
//! tasks; the extension `io.modelcontextprotocol/tasks` of 2026-07-28).
//!
//! Two servers may give the same id to two tasks. A client sees `{server}~{the id, base64url}~{mac,
//! base64url}`, so that any replica can route its requests without a table. The MAC covers the server, the id
//! and the owner: the key, and the session if there is one. An id of another owner is rejected like one that
//! does not exist. The same task has the same id in every message, because clients follow it by that.

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
use crate::catalog::{Catalog, View};
use crate::route::{Endpoint, OriginalName};
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind, ServerName};
use metamcp_core::frame::{Span, encode_header_value, json_string, splice};
use metamcp_core::protocol::{McpMethod, TASKS_EXTENSION};
use metamcp_store::auth::{Identity, Sealer};

/// Separates server, id and MAC. It can occur in none of them.
const PART: char = '~';

/// The longest id that is translated; real ids are UUIDs.
const ID_BYTES_MAX: usize = 1024;

/// Longer than any translated id can be; longer texts are not decoded.
const TEXT_BYTES_MAX: usize = 2 * ID_BYTES_MAX;

/// Translates task ids between servers and one client.
#[derive(Clone)]
pub struct TaskIds {
    sealer: Arc<Sealer>,
    /// The key, the session and the endpoint: input of every MAC.
    owner: Bytes,
}

/// The translation of task ids in the response to one request.
#[derive(Clone)]
pub struct TaskIdTranslation {
    ids: TaskIds,
    /// Whether the answer itself may name tasks, and not only the messages before it.
    in_answer: bool,
}

impl TaskIds {
    /// For one client on one endpoint.
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
        Self { sealer: Arc::clone(sealer), owner: holder.into() }
    }

    /// The id that the client sees for a server's task.
    fn client_id(&self, server: &ServerName, raw: &str) -> String {
        let mark = self.sealer.mac(&self.mac_input(server, raw));
        let [raw, mark] = [raw.as_bytes(), &mark[..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{server}{PART}{raw}{PART}{mark}")
    }

    /// The MAC's input. Each part is of fixed length or ends with a NUL, which no name contains, so the
    /// encoding is unambiguous.
    fn mac_input(&self, server: &ServerName, raw: &str) -> Vec<u8> {
        [&self.owner, &b"\0"[..], server.as_str().as_bytes(), b"\0", raw.as_bytes()].concat()
    }

    /// The server's index, and its own id of the task.
    pub fn find(&self, endpoint: &Endpoint, text: &str) -> Option<(usize, String)> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (rest, mark) = text.rsplit_once(PART)?;
        let (server, raw) = rest.rsplit_once(PART)?;
        let [raw, mark] = [URL_SAFE_NO_PAD.decode(raw).ok()?, URL_SAFE_NO_PAD.decode(mark).ok()?];
        let raw = String::from_utf8(raw).ok()?;
        let place = endpoint.servers.iter().position(|place| place.name.as_str() == server)?;
        let marked = self.mac_input(&endpoint.servers[place].name, &raw);
        self.sealer.verify_mac(&marked, &mark).then_some((place, raw))
    }

    /// The target of a request about a task, with the server's own task id.
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

    /// The edit for a client's response that belongs to a task: the server's own task id.
    pub fn related(&self, call: &Call) -> Option<(Span, Bytes)> {
        let related = read(&call.body)?.result?.meta?.related?.task_id?;
        let text: Cow<'_, str> = serde_json::from_str(related.get()).ok()?;
        let (_, raw) = self.find(&call.endpoint, &text)?;
        Some((Span::locate(&call.body, related.get().as_bytes())?, json_string(&raw)))
    }

    /// One item of a task list, with the id that the client sees.
    pub fn item(&self, server: &ServerName, item: &Bytes) -> Option<Bytes> {
        let Task { task_id } = serde_json::from_slice(item).ok()?;
        let edit = self.edit(server, item, task_id?)?;
        Some(splice(item, &[edit]).ok()?.parts().concat().into())
    }

    fn edit(&self, server: &ServerName, message: &[u8], id: &RawValue) -> Option<(Span, Bytes)> {
        let raw: Cow<'_, str> = serde_json::from_str(id.get()).ok()?;
        let span = Span::locate(message, id.get().as_bytes()).filter(|_| raw.len() <= ID_BYTES_MAX)?;
        Some((span, json_string(&self.client_id(server, &raw))))
    }
}

impl TaskIdTranslation {
    /// Translates ids in the messages before the answer, and with `in_answer` in the answer itself.
    pub fn new(ids: TaskIds, in_answer: bool) -> Self {
        Self { ids, in_answer }
    }

    /// Whether the answer itself may name tasks.
    pub fn is_in_answer(&self) -> bool {
        self.in_answer
    }

    /// The spans to replace in a server's message.
    pub fn edits(&self, server: &ServerName, message: &[u8]) -> Vec<(Span, Bytes)> {
        // Almost no message names a task; a substring search shows that without parsing.
        if memmem::find(message, b"taskId").is_none() {
            return Vec::new();
        }
        let Some(Message { id, method, params, result }) = read(message) else { return Vec::new() };
        let mut found = Vec::new();
        if let Some(params) = params {
            // In a request of a server, `taskId` is the client's own task.
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

    /// A complete server message, with the ids that the client sees.
    pub fn message(&self, server: &ServerName, message: Bytes) -> Bytes {
        let mut edits = self.edits(server, &message);
        edits.sort_by_key(|(span, _)| span.start);
        match splice(&message, &edits) {
            Ok(slices) if !edits.is_empty() => slices.parts().concat().into(),
            _ => message,
        }
    }
}

/// Whether a server of the endpoint supports tasks, as far as the catalog knows.
pub fn are_known(catalog: &Catalog, call: &Call, view: View) -> bool {
    let merged = catalog.snapshot(&call.endpoint, view);
    merged.is_none_or(|merged| match view {
        View::Modern => merged.features.tasks.extension,
        View::Legacy(_) => merged.features.tasks.calls,
    })
}

/// The translation for responses of a Modern server, if both the client and the server declare tasks.
pub fn modern(
    catalog: &Catalog,
    sealer: &Arc<Sealer>,
    call: &Call,
    place: usize,
) -> Option<TaskIdTranslation> {
    let is_about = call.is_task_request();
    if !is_about {
        let declares = call.method == Some(McpMethod::ToolsCall) && declares(call);
        let merged = declares.then(|| catalog.snapshot(&call.endpoint, View::Modern))??;
        merged.tasks.get(place).filter(|tasks| tasks.extension)?;
    }
    Some(TaskIdTranslation::new(TaskIds::new(sealer, &call.identity, None, &call.endpoint), true))
}

/// The translation within a session, if its server supports tasks: any call's response may carry messages
/// about them.
pub fn legacy(
    sealer: &Arc<Sealer>,
    call: &Call,
    session: &Session,
    place: usize,
) -> Option<TaskIdTranslation> {
    session.upstream_slot(place).current().filter(|ready| ready.features.tasks.calls)?;
    let in_answer =
        call.is_task_request() || (call.method == Some(McpMethod::ToolsCall) && may_ask_for_a_task(call));
    Some(TaskIdTranslation::new(
        TaskIds::new(sealer, &call.identity, Some(session), &call.endpoint),
        in_answer,
    ))
}

/// Whether the request asks for a task (`params.task`).
pub fn asks_for_task(call: &Call) -> bool {
    #[derive(Deserialize)]
    struct TaskParams<'a> {
        #[serde(borrow)]
        task: Option<&'a RawValue>,
    }
    let params = call.envelope.params.object.filter(|_| may_ask_for_a_task(call));
    let params =
        params.and_then(|span| serde_json::from_slice::<TaskParams<'_>>(span.slice(&call.body)).ok());
    params.is_some_and(|params| params.task.is_some())
}

/// Whether the request may contain `params.task`: the word occurs outside the arguments.
fn may_ask_for_a_task(call: &Call) -> bool {
    let body = &call.body[..];
    let (before, behind) = match call.envelope.params.arguments {
        Some(arguments) => (&body[..arguments.start as usize], &body[arguments.end as usize..]),
        None => (body, &b""[..]),
    };
    [before, behind].iter().any(|part| memmem::find(part, b"\"task\"").is_some())
}

/// Whether the client declares the tasks extension in this request.
pub fn declares(call: &Call) -> bool {
    #[derive(Deserialize)]
    struct DeclaredCapabilities<'a> {
        #[serde(borrow, default)]
        extensions: Option<&'a RawValue>,
    }
    let Some(span) = call.envelope.params.meta.client_capabilities else { return false };
    let declared = span.slice(&call.body);
    // Most requests do not contain the word; a substring search shows that without parsing. The name itself
    // may be written with escapes.
    if memmem::find(declared, b"extensions").is_none() {
        return false;
    }
    let read: Option<DeclaredCapabilities<'_>> = serde_json::from_slice(declared).ok();
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
