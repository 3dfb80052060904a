//! A POST whose sender and message are known.

use std::sync::Arc;

use bytes::Bytes;

use super::trace_position::Trace;
use crate::auth::Identity;
use crate::limits::Permit;
use crate::route::Endpoint;
use crate::server::http1::fields::{Field, Fields};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{Envelope, MessageKind as FrameKind, ScanRejection, Scanner, StringSpan};
use metamcp_core::protocol::{Era, McpMethod, Revision, code};

/// One message of a client, checked as far as both eras have in common. Passed on boxed: it is a kilobyte.
pub struct Call {
    /// Its header fields.
    pub fields: Fields,
    /// Where it was sent.
    pub endpoint: Arc<Endpoint>,
    /// Who sent it.
    pub identity: Identity,
    /// The key's place, held until the answer has passed; `None`: whoever has the call holds it.
    pub permit: Option<Permit>,
    /// The message as received.
    pub body: Bytes,
    /// Where in it things lie.
    pub envelope: Envelope,
    /// The method, when it is one the gateway does something about.
    pub method: Option<McpMethod>,
    /// Whether it is one of several messages, whose answers are one.
    pub is_part: bool,
    /// Its place in a trace, when it is traced.
    pub trace: Option<Box<Trace>>,
}

impl Call {
    /// The raw id; empty for a notification.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or_else(Bytes::new, |id| self.raw(id.span))
    }

    /// The bytes at a place, shared.
    pub fn raw(&self, span: metamcp_core::frame::Span) -> Bytes {
        self.body.slice(span.start as usize..span.end as usize)
    }

    /// The value of a string.
    pub fn text(&self, text: Option<StringSpan>) -> Option<std::borrow::Cow<'_, str>> {
        text.map(|text| text.decode(&self.body))
    }

    /// Whether an answer is expected.
    pub fn is_request(&self) -> bool {
        self.envelope.kind == FrameKind::Request
    }

    /// Whether it asks about a task that there is: of that method, or of another of the extension's.
    pub fn is_task_request(&self) -> bool {
        // None of them is a method of which the gateway knows more.
        self.method.is_none()
            && self
                .envelope
                .method
                .is_some_and(|method| method.decode_bytes(&self.body).starts_with(b"tasks/"))
    }

    /// Whether the key may call the tool that is called: the same question that decides what it is listed.
    pub fn check_grants(&self) -> Result<(), Fault> {
        if self.identity.can_call_all_tools() || self.method != Some(McpMethod::ToolsCall) {
            return Ok(());
        }
        // One without a name is refused for that, later.
        match self.text(self.envelope.params.name) {
            Some(name) if !self.identity.can_call_tool(&self.endpoint.scope, &name) => {
                Err(unknown_tool(&name))
            }
            _ => Ok(()),
        }
    }

    /// Whether a list is to be answered from the catalog, since the key may not see all of it.
    pub fn lists_in_part(&self) -> bool {
        self.method == Some(McpMethod::ToolsList) && !self.identity.can_call_all_tools()
    }

    /// By which era the client opened (MCP 2026-07-28, versioning: dual-era servers).
    pub fn era(&self) -> Era {
        if self.envelope.params.meta.protocol_version.is_some() {
            return Era::Modern;
        }
        if self.method == Some(McpMethod::Initialize) || self.fields.has(Field::McpSessionId) {
            return Era::Legacy;
        }
        match self.fields.get(Field::McpProtocolVersion).map(Revision::parse) {
            // A revision nobody knows is answered with those that are known, which only the newer era does.
            Some(None) => Era::Modern,
            Some(Some(revision)) => revision.era(),
            None => Era::Legacy,
        }
    }
}

/// The same for a tool that is not there and for one that the key may not call.
#[cold]
pub fn unknown_tool(name: &str) -> Fault {
    let clipped: String = name.chars().take(NAME_CHARS_MAX).collect();
    Fault::client(FaultKind::InvalidParams, format!("Unknown tool: {clipped}"))
}

/// Of a name in an error text: long enough to be known again, short enough for a log.
pub const NAME_CHARS_MAX: usize = 128;

/// Reads the message.
pub fn scan(scanner: &mut Scanner, body: &Bytes) -> Result<(Envelope, Option<McpMethod>), Fault> {
    let envelope = scanner.scan(body).map_err(|refused| unreadable(refused, body))?;
    let method = envelope.method.and_then(|method| McpMethod::parse(&method.decode_bytes(body)));
    Ok((envelope, method))
}

#[cold]
fn unreadable(ScanRejection { error, id }: ScanRejection, body: &Bytes) -> Fault {
    let kind = match error.code() {
        code::PARSE => FaultKind::Parse,
        code::INVALID_PARAMS => FaultKind::MalformedParams,
        _ => FaultKind::InvalidRequest,
    };
    let id = id.map(|id| body.slice(id.span.start as usize..id.span.end as usize));
    Fault::client(kind, error.to_string()).with_id(id)
}
