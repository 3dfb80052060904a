//! The data of a span.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::context::{SpanId, TraceContext};

/// One span. It holds nothing of a call's arguments, of its result, or of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The ids of the span itself.
    pub context: TraceContext,
    /// `None` for the root of a trace.
    pub parent: Option<SpanId>,
    /// Whether the parent is in another process.
    pub is_parent_remote: bool,
    /// The context of a related span.
    pub link: Option<TraceContext>,
    /// The value of `tracestate`, passed through.
    pub tracestate: Option<Box<str>>,
    pub kind: SpanKind,
    /// Start, in nanoseconds since the Unix epoch.
    pub began_ns: u64,
    /// End, in nanoseconds since the Unix epoch; zero while the span is active.
    pub ended_ns: u64,
    /// The span attribute `mcp.method.name`.
    pub method: Cow<'static, str>,
    /// What the method is called on; part of the span's name.
    pub target: Option<SpanTarget>,
    /// The span attribute `jsonrpc.request.id`.
    pub id: Option<Box<str>>,
    /// The span attribute `mcp.protocol.version`.
    pub protocol: Option<&'static str>,
    /// The name of the endpoint for [`SpanKind::Server`], of the server for [`SpanKind::Client`].
    pub endpoint_or_server: Box<str>,
    /// `ok`, `error` or `gone`, as in the metrics.
    pub outcome: &'static str,
    /// The span attribute `error.type`.
    pub error: Option<Cow<'static, str>>,
    /// The span attribute `rpc.response.status_code`.
    pub code: Option<i32>,
}

impl Span {
    /// The size of all texts that a client chose.
    pub(super) fn client_bytes(&self) -> usize {
        let target =
            self.target.as_ref().map_or(0, |(SpanTarget::Tool(name) | SpanTarget::Prompt(name))| name.len());
        let method = if let Cow::Owned(method) = &self.method { method.len() } else { 0 };
        let texts = [&self.tracestate, &self.id].map(|text| text.as_ref().map_or(0, |text| text.len()));
        target + method + texts.iter().sum::<usize>()
    }
}

/// The gateway's role in the operation, as OpenTelemetry defines span kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A client sent a message to an endpoint of the gateway.
    Server,
    /// The gateway sent a message to a server.
    Client,
}

/// The tool or prompt that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanTarget {
    /// The span attribute `gen_ai.tool.name`.
    Tool(Box<str>),
    /// The span attribute `gen_ai.prompt.name`.
    Prompt(Box<str>),
}

/// Characters kept of a text that a client chose; longer than any name in use.
pub const TEXT_CHARS_MAX: usize = 128;

/// Returns the first `TEXT_CHARS_MAX` characters.
pub fn truncate_text(text: &str) -> Box<str> {
    let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(index, _)| index);
    text[..end].into()
}

pub(super) fn unix_now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
}

/// Saturates in the year 2554.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
