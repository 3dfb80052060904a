//! Tasks of scripted servers: the experimental ones of 2025-11-25, and the extension of 2026-07-28.
//!
//! A call is executed when its task is created. Its result can be fetched once the task was looked at a few times.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::value::RawValue;

use super::Era;
use super::message::{Call, Message, Params};
use crate::tag::Tag;

/// Tasks that were created and not fetched or cancelled yet, by their ids.
#[derive(Default)]
pub struct Tasks(Mutex<HashMap<String, Task>>);

struct Task {
    tag: Tag,
    /// The result of the call, as a JSON object.
    result: String,
    /// After so many looks it is completed.
    looks_left: u32,
}

/// Tasks that are kept; what nobody fetches is forgotten with all others.
const TASKS_MAX: usize = 4096;

const RELATED: &str = "io.modelcontextprotocol/related-task";

impl Tasks {
    /// Creates the task of a call that was executed, and gives the answer to the call.
    pub fn create(&self, call: &Call<'_>, era: Era) -> String {
        let id = format!("t-{}", call.tag);
        let task = Task { tag: call.tag, result: call.content(), looks_left: call.work.number % 3 };
        let mut tasks = self.0.lock().unwrap();
        if tasks.len() >= TASKS_MAX {
            tasks.clear();
        }
        tasks.insert(id.clone(), task);
        let result = match era {
            Era::Legacy => format!(r#"{{"task":{{{}}}}}"#, members(&id, "working", era)),
            Era::Modern => format!(r#"{{"resultType":"task",{}}}"#, members(&id, "working", era)),
        };
        format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, call.id)
    }

    /// Answers a request of a task; `None` if the message is none. `Err` says that a client asked for the task of another.
    pub fn answer(
        &self,
        message: &Message<'_>,
        era: Era,
        client: Option<u32>,
    ) -> Option<Result<String, Tag>> {
        let (id, method) = (message.id?, message.method.as_deref()?);
        let is_known =
            matches!((method, era), ("tasks/get" | "tasks/cancel", _) | ("tasks/result", Era::Legacy));
        if !is_known {
            return None;
        }
        let named = message.params.as_ref().and_then(|params| params.task_id.as_deref()).unwrap_or_default();
        let mut tasks = self.0.lock().unwrap();
        let Some(task) = tasks.get_mut(named) else {
            return Some(Ok(outcome(id, r#""error":{"code":-32602,"message":"Unknown task"}"#)));
        };
        if client.is_some_and(|client| client != task.tag.client) {
            return Some(Err(task.tag));
        }
        let complete = if era == Era::Modern { r#""resultType":"complete","# } else { "" };
        let result = match method {
            "tasks/get" if task.looks_left > 0 => {
                task.looks_left -= 1;
                format!("{{{complete}{}}}", members(named, "working", era))
            }
            "tasks/get" if era == Era::Legacy => format!("{{{}}}", members(named, "completed", era)),
            "tasks/get" => {
                let result = std::mem::take(&mut task.result);
                format!(r#"{{{complete}{},"result":{result}}}"#, members(named, "completed", era))
            }
            "tasks/result" => {
                let inner = task.result.strip_prefix('{').unwrap_or_default();
                format!(r#"{{"_meta":{{"{RELATED}":{{"taskId":"{named}"}}}},{inner}"#)
            }
            _ if era == Era::Modern => r#"{"resultType":"complete"}"#.to_owned(),
            _ => format!("{{{}}}", members(named, "cancelled", era)),
        };
        let is_over = method != "tasks/get" || result.contains(r#""result":"#);
        if is_over {
            tasks.remove(named);
        }
        Some(Ok(outcome(id, &format!(r#""result":{result}"#))))
    }
}

/// Whether the client wants a task for its call, or can take one.
pub fn wants_task(params: &Params<'_>, era: Era) -> bool {
    match era {
        Era::Legacy => params.task.is_some(),
        Era::Modern => params
            .meta
            .as_ref()
            .and_then(|meta| meta.capabilities)
            .is_some_and(|capabilities| capabilities.get().contains("io.modelcontextprotocol/tasks")),
    }
}

fn outcome(id: &RawValue, member: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},{member}}}"#)
}

fn members(id: &str, status: &str, era: Era) -> String {
    let ttl = if era == Era::Modern { "ttlMs" } else { "ttl" };
    format!(
        r#""taskId":"{id}","status":"{status}","createdAt":"2026-11-21T00:00:00Z","lastUpdatedAt":"2026-11-21T00:00:00Z","{ttl}":60000"#
    )
}
