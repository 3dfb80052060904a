//! Judges what comes back for one request. No I/O: bytes in any pieces, a verdict out.
//!
//! Invariant: nothing counts as right that is not proven so: the id, the canary, the length, the progress, and
//! that there is exactly one answer.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::message;
use crate::scenario::{Checks, Era};
use crate::sse::{EVENT_BYTES_MAX, Events};

/// What is kept of a server's words, for the report.
const DETAIL_CHARS_MAX: usize = 300;

/// What can be wrong with an answer. The set is closed, but for the numbers that servers give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection.
    Connect,
    /// Another HTTP status than 200.
    Status(u16),
    /// A JSON-RPC error.
    Rpc(i64),
    /// A result that says it is an error, or not complete.
    Result,
    /// The answer to another request.
    WrongId,
    /// Something that belongs to another request.
    ForeignCanary,
    /// What was sent did not come back.
    LostCanary,
    /// Two answers to one request.
    Doubled,
    /// Shorter, or with less in it, than it must be.
    Short,
    /// Not MCP.
    Malformed,
    /// It ended before it was whole.
    Cut,
    /// Not in time.
    Timeout,
    /// It was due and could not be sent, because all connections were waiting for answers.
    Unsent,
    /// An idle connection or event stream that the other side ended.
    Dropped,
    /// More kinds than are told apart.
    Other,
}

impl Kind {
    /// Never right, however busy a server is.
    pub fn is_wrong_answer(self) -> bool {
        use Kind::{Cut, Doubled, ForeignCanary, LostCanary, Malformed, Short, WrongId};
        matches!(self, WrongId | ForeignCanary | LostCanary | Doubled | Short | Malformed | Cut)
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Rpc(code) => return write!(f, "JSON-RPC error {code}"),
            Self::Result => "result is an error",
            Self::WrongId => "wrong id",
            Self::ForeignCanary => "foreign canary",
            Self::LostCanary => "canary lost",
            Self::Doubled => "answered twice",
            Self::Short => "too short",
            Self::Malformed => "malformed",
            Self::Cut => "cut",
            Self::Timeout => "timeout",
            Self::Unsent => "not sent",
            Self::Dropped => "idle one dropped",
            Self::Other => "other",
        })
    }
}

/// Why something does not count as answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// For counting.
    pub kind: Kind,
    /// For people; what the server said is in it, so it may hold what was sent.
    pub detail: String,
}

impl Wrong {
    /// Keeps the beginning of the detail.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if let Some((at, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(at);
            detail.push('…');
        }
        Self { kind, detail }
    }

    /// With the beginning of what came.
    pub fn with(kind: Kind, text: &str, came: &[u8]) -> Self {
        let came = String::from_utf8_lossy(&came[..came.len().min(DETAIL_CHARS_MAX)]);
        Self::new(kind, format!("{text}: {came}"))
    }
}

/// What the answer has to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Of the request.
    pub id: u64,
    /// Of the request.
    pub canary: String,
    /// Of the operation.
    pub checks: Checks,
    /// Of the connection.
    pub era: Era,
}

/// How the answer is written.
#[derive(Debug)]
enum Form {
    Json(Vec<u8>),
    Stream(Events),
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    form: Form,
    judge: Judge,
    bytes: u64,
}

#[derive(Debug)]
struct Judge {
    expected: Expected,
    answered: bool,
    progress: u64,
}

/// The parts of a message that say what it is.
#[derive(Deserialize)]
struct Message<'a> {
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
    params: Option<Progress<'a>>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
}

#[derive(Deserialize)]
struct Progress<'a> {
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    #[serde(borrow)]
    result_type: Option<Cow<'a, str>>,
    is_error: Option<bool>,
    tools: Option<Vec<IgnoredAny>>,
    resources: Option<Vec<IgnoredAny>>,
    resource_templates: Option<Vec<IgnoredAny>>,
    prompts: Option<Vec<IgnoredAny>>,
    contents: Option<Vec<IgnoredAny>>,
    content: Option<Vec<IgnoredAny>>,
}

impl Reader {
    /// `None`: of a `Content-Type` that MCP does not have.
    pub fn new(content_type: &str, expected: Expected) -> Option<Self> {
        let form = match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json" => Form::Json(Vec::new()),
            "text/event-stream" => Form::Stream(Events::default()),
            _ => return None,
        };
        Some(Self { form, judge: Judge { expected, answered: false, progress: 0 }, bytes: 0 })
    }

    /// Takes the next piece of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        self.bytes += bytes.len() as u64;
        match &mut self.form {
            Form::Stream(events) => events.feed(bytes, |data| self.judge.message(data)),
            Form::Json(body) if body.len() + bytes.len() > EVENT_BYTES_MAX => {
                let text = format!("the answer is longer than {EVENT_BYTES_MAX} bytes");
                Err(Wrong::new(Kind::Malformed, text))
            }
            Form::Json(body) => {
                body.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The body has ended. Gives its bytes when it was right.
    pub fn end(mut self) -> Result<u64, Wrong> {
        match &self.form {
            Form::Json(body) => self.judge.message(body)?,
            Form::Stream(events) if events.is_partial() => {
                return Err(Wrong::new(Kind::Cut, "the event stream ended within an event"));
            }
            Form::Stream(_) => {}
        }
        let checks = &self.judge.expected.checks;
        if !self.judge.answered {
            return Err(Wrong::new(Kind::Cut, "the event stream ended without an answer"));
        }
        if self.judge.progress < checks.progress_min {
            let text = format!("{} of {} messages of progress", self.judge.progress, checks.progress_min);
            return Err(Wrong::new(Kind::Short, text));
        }
        Ok(self.bytes)
    }
}

impl Judge {
    fn message(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        // The first event of a Legacy stream may have no data, to give it an id (2025-11-25).
        if bytes.is_empty() && self.expected.era == Era::Legacy {
            return Ok(());
        }
        let message: Message<'_> = match serde_json::from_slice(bytes) {
            Ok(message) => message,
            // A body without a length may have lost its end.
            Err(error) if error.is_eof() => return Err(Wrong::with(Kind::Cut, "it ends early", bytes)),
            Err(error) => return Err(Wrong::with(Kind::Malformed, &error.to_string(), bytes)),
        };
        if message.jsonrpc != "2.0" {
            return Err(Wrong::with(Kind::Malformed, "jsonrpc is not \"2.0\"", bytes));
        }
        if let Some(found) = message::canaries(bytes).find(|found| *found != self.expected.canary.as_bytes())
        {
            let text = format!("{} got {}", self.expected.canary, String::from_utf8_lossy(found));
            return Err(Wrong::new(Kind::ForeignCanary, text));
        }
        match &message.method {
            Some(method) => {
                self.notified(method, &message);
                Ok(())
            }
            None => self.answer(&message, bytes),
        }
    }

    /// Only progress that bears the token of the request counts.
    fn notified(&mut self, method: &str, message: &Message<'_>) {
        let token = message.params.as_ref().and_then(|params| params.token);
        let own = token.is_some_and(|token| token.get().trim_matches('"') == self.expected.canary);
        if method == "notifications/progress" && own {
            self.progress += 1;
        }
    }

    fn answer(&mut self, message: &Message<'_>, bytes: &[u8]) -> Result<(), Wrong> {
        let id = message.id.map(RawValue::get);
        if id != Some(self.expected.id.to_string().as_str()) {
            // An error about what could not be read has no id to give.
            if let (None | Some("null"), Some(error)) = (id, &message.error) {
                return Err(Wrong::new(Kind::Rpc(error.code), error.message.as_str()));
            }
            let text = format!("{} was asked, {} answered", self.expected.id, id.unwrap_or("nothing"));
            return Err(Wrong::new(Kind::WrongId, text));
        }
        if self.answered {
            return Err(Wrong::with(Kind::Doubled, "a second answer", bytes));
        }
        self.answered = true;
        match (&message.error, message.result) {
            (Some(error), None) => Err(Wrong::new(Kind::Rpc(error.code), error.message.as_str())),
            (None, Some(result)) => self.result(result, bytes),
            _ => Err(Wrong::with(Kind::Malformed, "neither a result nor an error", bytes)),
        }
    }

    fn result(&self, result: &RawValue, bytes: &[u8]) -> Result<(), Wrong> {
        let Expected { checks, era, canary, .. } = &self.expected;
        let outcome: Outcome<'_> = serde_json::from_str(result.get())
            .map_err(|error| Wrong::with(Kind::Malformed, &error.to_string(), bytes))?;
        if outcome.is_error == Some(true) {
            return Err(Wrong::with(Kind::Result, "isError is true", bytes));
        }
        match outcome.result_type.as_deref() {
            Some("complete") => {}
            None if *era == Era::Legacy => {}
            None => return Err(Wrong::with(Kind::Malformed, "resultType is missing", bytes)),
            Some(_) => return Err(Wrong::with(Kind::Result, "it is not complete", bytes)),
        }
        // The request's own token of progress is not what the tool gives back.
        if checks.echoes && message::canaries(bytes).next().is_none() {
            return Err(Wrong::with(Kind::LostCanary, canary, bytes));
        }
        if (bytes.len() as u64) < checks.answer_bytes_min {
            let text = format!("{} bytes, at least {}", bytes.len(), checks.answer_bytes_min);
            return Err(Wrong::new(Kind::Short, text));
        }
        let lists = [
            &outcome.tools,
            &outcome.resources,
            &outcome.resource_templates,
            &outcome.prompts,
            &outcome.contents,
            &outcome.content,
        ];
        let items = lists.into_iter().flatten().map(Vec::len).max().unwrap_or(0) as u64;
        if items < checks.items_min {
            return Err(Wrong::new(Kind::Short, format!("{items} entries, at least {}", checks.items_min)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
