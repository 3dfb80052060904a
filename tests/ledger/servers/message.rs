//! Messages of the gateway as servers read them, and those that servers send.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Era;
use crate::tag::{Canary, Tag};
use crate::work::Work;

/// What comes from the gateway.
#[derive(Deserialize)]
pub struct Message<'a> {
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub params: Option<Params<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Params<'a> {
    #[serde(borrow)]
    pub arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    pub meta: Option<Meta<'a>>,
    pub client_info: Option<ClientInfo>,
    pub request_state: Option<String>,
    /// Of a Legacy call that is to be a task.
    #[serde(borrow)]
    pub task: Option<&'a RawValue>,
    /// Of a request of a task.
    pub task_id: Option<String>,
    #[serde(borrow)]
    pub input_responses: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta<'a> {
    #[serde(borrow)]
    pub progress_token: Option<&'a RawValue>,
    /// Of a Modern client.
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub capabilities: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub struct ClientInfo {
    pub name: String,
}

/// One call: its id, what it is about, and what belongs to it.
pub struct Call<'a> {
    pub id: &'a RawValue,
    pub work: Work<'a>,
    pub tag: Tag,
    pub canary: Canary,
    pub progress_token: Option<&'a str>,
    /// The state and the input of a Modern retry.
    pub state: Option<&'a str>,
    pub input: Option<&'a str>,
    pub params: &'a Params<'a>,
}

impl<'a> Call<'a> {
    /// `None` if the params are none of the suite's.
    pub fn read(id: &'a RawValue, params: Option<&'a Params<'a>>) -> Option<Self> {
        let params = params?;
        let work: Work<'_> = serde_json::from_str(params.arguments?.get()).ok()?;
        let (tag, canary) = (work.tag()?, work.canary()?);
        work.kind()?;
        let token = params.meta.as_ref().and_then(|meta| meta.progress_token);
        Some(Self {
            id,
            work,
            tag,
            canary,
            progress_token: token.map(RawValue::get),
            state: params.request_state.as_deref(),
            input: params.input_responses.map(RawValue::get),
            params,
        })
    }

    /// How many notifications of progress come before the answer.
    pub fn steps(&self) -> u32 {
        1 + self.work.number % 3
    }

    /// The answer.
    pub fn result(&self) -> String {
        self.result_under(self.id.get())
    }

    pub fn result_under(&self, id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, self.content())
    }

    /// The member `result` of the answer.
    pub fn content(&self) -> String {
        let text = self.work.answer_text();
        format!(r#"{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}]}}"#)
    }

    /// An error of the server's own.
    pub fn error(&self, text: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32050,"message":"{text}"}}}}"#, self.id)
    }

    /// A notification of progress; without a token, a comment stands for it.
    pub fn progress(&self, step: u32) -> Option<String> {
        let (token, canary) = (self.progress_token?, self.canary);
        Some(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{step},"message":"{canary}"}}}}"#
        ))
    }

    /// The request for input, as its method and params.
    fn question(&self) -> String {
        format!(
            r#""method":"elicitation/create","params":{{"message":"{}","requestedSchema":{{"type":"object","properties":{{"word":{{"type":"string"}}}}}}}}"#,
            self.canary
        )
    }

    /// The request for input of a Legacy server.
    pub fn question_message(&self, id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":"{id}",{}}}"#, self.question())
    }

    /// The request for input of a Modern server.
    pub fn input_required(&self) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"resultType":"input_required","inputRequests":{{"q":{{{}}}}},"requestState":"state-{}"}}}}"#,
            self.id,
            self.question(),
            self.tag
        )
    }

    /// Whether a text has the word that only this call's client can know.
    pub fn is_answered_by(&self, text: &str) -> Result<bool, Canary> {
        match Canary::find_all(text.as_bytes()).find(|canary| *canary != self.canary) {
            Some(foreign) => Err(foreign),
            None => Ok(text.contains("\"accept\"") && text.contains(&self.canary.to_string())),
        }
    }
}

/// The member `result` or `error` of the answer to anything but a call and `initialize`, and the HTTP status.
pub fn describe(method: &str, era: Era) -> (&'static str, &'static str) {
    let result = match (method, era) {
        ("server/discover", Era::Modern) => {
            r#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"ledger","version":"1"}}"#
        }
        ("tools/list", _) => {
            r#""result":{"resultType":"complete","tools":[{"name":"record","inputSchema":{"type":"object"},"execution":{"taskSupport":"optional"}}]}"#
        }
        ("ping", _) => r#""result":{}"#,
        _ => return ("404 Not Found", r#""error":{"code":-32601,"message":"Method not found"}"#),
    };
    ("200 OK", result)
}

/// The same for `server/discover` of a server with tasks.
pub const DISCOVERED_WITH_TASKS: &str = r#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{}}},"serverInfo":{"name":"ledger","version":"1"}}"#;

/// The result of `initialize` of a server with tasks.
pub fn initialize_result_with_tasks() -> String {
    let tasks = r#""capabilities":{"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}},"#;
    initialize_result("2025-11-25").replace(r#""capabilities":{"#, tasks)
}

/// The result of `initialize`, in that revision.
pub fn initialize_result(revision: &str) -> String {
    format!(
        r#""result":{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}},"logging":{{}}}},"serverInfo":{{"name":"ledger","version":"1"}}}}"#
    )
}

/// A log message that belongs to one client.
pub fn log_message(canary: Canary) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"error","data":"{canary}"}}}}"#
    )
}
