//! A span: from when a worker begins it until it is handed on.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Traces;
use super::context::{Context, SpanId};
use crate::base::Kind;

/// What one span tells. Nothing of a call's arguments, of its answer, or of who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Itself.
    pub context: Context,
    /// The span that it is a part of; `None`: it is the first of its trace.
    pub parent: Option<SpanId>,
    /// Whether that is in another process.
    pub is_parent_remote: bool,
    /// Another one that it has to do with.
    pub link: Option<Context>,
    /// What others said of the trace.
    pub tracestate: Option<Box<str>>,
    /// Whose side it is of.
    pub side: Side,
    /// Since the Unix epoch.
    pub began_ns: u64,
    /// Likewise; zero: not yet.
    pub ended_ns: u64,
    /// `mcp.method.name`.
    pub method: Cow<'static, str>,
    /// What is asked for, where the name of the span has it.
    pub target: Option<Target>,
    /// `jsonrpc.request.id`.
    pub id: Option<Box<str>>,
    /// `mcp.protocol.version`.
    pub protocol: Option<&'static str>,
    /// The endpoint, or the server, by the side.
    pub place: Box<str>,
    /// What became of it: `ok`, `error`, `gone`, as in the metrics.
    pub outcome: &'static str,
    /// `error.type`.
    pub error: Option<Cow<'static, str>>,
    /// `rpc.response.status_code`.
    pub code: Option<i32>,
}

impl Span {
    /// Of all in it that a client chose.
    pub(super) fn bytes(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |(Target::Tool(name) | Target::Prompt(name))| name.len());
        let method = if let Cow::Owned(method) = &self.method { method.len() } else { 0 };
        let texts = [&self.tracestate, &self.id].map(|text| text.as_ref().map_or(0, |text| text.len()));
        target + method + texts.iter().sum::<usize>()
    }
}

/// Which side of a message a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What a client asked of an endpoint.
    Server,
    /// What was asked of a server for it.
    Client,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `gen_ai.tool.name`.
    Tool(Box<str>),
    /// `gen_ai.prompt.name`.
    Prompt(Box<str>),
}

/// The outcome of what failed.
const FAILED: &str = "error";

/// An error of which no more is known (semantic conventions, `error.type`).
const OTHER: &str = "_OTHER";

/// Of a text that a client chose: longer than any name in use.
pub const TEXT_CHARS_MAX: usize = 128;

/// What a client wrote, as far as it is told.
pub fn clip(text: &str) -> Box<str> {
    let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    text[..end].into()
}

/// A span that is under way. Handed on when it ends; nothing is told of one that is dropped before.
pub struct Open {
    span: Option<Box<Span>>,
    traces: Arc<Traces>,
}

impl Open {
    pub(super) fn new(span: Span, traces: Arc<Traces>) -> Self {
        Self { span: Some(Box::new(span)), traces }
    }

    /// It ends by that.
    pub fn fail(&mut self, kind: Kind) {
        self.span.iter_mut().for_each(|span| span.error = Some(Cow::Borrowed(kind.label())));
    }

    /// Likewise; it is answered by an error with that code of JSON-RPC.
    pub fn answer_error(&mut self, kind: Kind, code: i32) {
        self.fail(kind);
        self.span.iter_mut().for_each(|span| span.code = Some(code));
    }

    /// It is refused, by that status of HTTP.
    pub fn refuse(&mut self, status: u16) {
        self.span.iter_mut().for_each(|span| span.error = Some(Cow::Owned(status.to_string())));
    }

    /// It is about another server, or endpoint.
    pub fn move_to(&mut self, place: &str) {
        self.span.iter_mut().for_each(|span| span.place = place.into());
    }

    /// It took so long, and came to that.
    pub fn end(&mut self, outcome: &'static str, after: Duration) {
        let Some(mut span) = self.span.take() else { return };
        span.outcome = outcome;
        if outcome == FAILED {
            span.error.get_or_insert(Cow::Borrowed(OTHER));
        }
        span.ended_ns = span.began_ns.saturating_add(ns(after));
        self.traces.hand_on(span);
    }
}

/// Now, since the Unix epoch.
pub(super) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ns)
}

/// The year 2554 is as late as that.
fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
