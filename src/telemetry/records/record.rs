//! What is recorded of a call.

use std::borrow::Cow;
use std::sync::Arc;

use metamcp_core::base::{RequestId, ServerName};
use metamcp_store::auth::Identity;

use crate::telemetry::metrics::OperationOutcome;
use crate::telemetry::traces::TraceId;

/// One call, in the form in which it passes from its worker to the writer.
#[derive(Debug, Clone)]
pub struct CallRecord {
    pub request_id: RequestId,
    /// When the message arrived: milliseconds since the Unix epoch.
    pub began_unix_ms: u64,
    pub call: CallDescription,
    /// `None` if no server was asked.
    pub server: Option<ServerName>,
    pub outcome: CallOutcome,
    /// The type of the gateway's own error, as in the metrics.
    pub error: Option<&'static str>,
    pub duration_ms: u64,
    /// Bytes of the response that were handed out.
    pub bytes_out: u64,
}

/// What is known of a call when its message has been read.
#[derive(Debug, Clone)]
pub struct CallDescription {
    pub identity: Identity,
    /// The scope of the endpoint: `e/NAME`, or `s/NAME` for a server of its own. `None` for a call over REST.
    pub scope: Option<Arc<str>>,
    pub method: Cow<'static, str>,
    pub target: Option<CallTarget>,
    /// The JSON-RPC id as raw JSON, unless it is too long.
    pub id: Option<Box<str>>,
    pub trace: Option<TraceId>,
    pub bytes_in: u64,
}

/// The name of the requested item, as the client wrote it, or the server's own name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTarget {
    pub kind: TargetKind,
    pub name: Box<str>,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    Tool,
    Prompt,
    /// Named by its URI.
    Resource,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was answered. Whether the answer of a server is an error is not read.
    Answer,
    /// The server failed, or rejected the message. Over REST, also if the tool reported an error.
    Error,
    /// The client disconnected, or cancelled the call.
    Disconnect,
    /// The gateway refused it; no server was asked.
    Refusal,
}

/// Longer than every name of a tool in use; MCP allows 128 characters (MCP 2026-07-28, tools).
const NAME_BYTES_MAX: usize = 256;

/// URIs with a long query are cut, so that a record is small.
const URI_BYTES_MAX: usize = 512;

/// Ids are numbers or UUIDs. A longer one is left out, since half an id identifies nothing.
const ID_BYTES_MAX: usize = 128;

impl CallTarget {
    /// Truncates names that are too long.
    pub fn new(kind: TargetKind, name: &str) -> Self {
        let bytes_max = match kind {
            TargetKind::Tool | TargetKind::Prompt => NAME_BYTES_MAX,
            TargetKind::Resource => URI_BYTES_MAX,
        };
        Self { kind, name: name[..name.floor_char_boundary(bytes_max)].into() }
    }
}

impl CallDescription {
    /// The raw JSON of an id, as it is kept.
    pub fn short_id(raw: &[u8]) -> Option<Box<str>> {
        let raw = std::str::from_utf8(raw).ok().filter(|raw| raw.len() <= ID_BYTES_MAX);
        raw.map(Into::into)
    }

    /// The name of a method, as it is kept.
    pub fn short_method(name: &str) -> Cow<'static, str> {
        Cow::Owned(name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned())
    }
}

impl CallOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Error => "error",
            Self::Disconnect => "disconnect",
            Self::Refusal => "refused",
        }
    }
}

impl From<OperationOutcome> for CallOutcome {
    fn from(outcome: OperationOutcome) -> Self {
        match outcome {
            OperationOutcome::Answer => Self::Answer,
            OperationOutcome::Error => Self::Error,
            OperationOutcome::Disconnect => Self::Disconnect,
        }
    }
}
