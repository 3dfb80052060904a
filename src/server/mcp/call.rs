//! A JSON-RPC message that a client posted, with its verified sender.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::trace_position::Trace;
use crate::limits::Permit;
use crate::route::Endpoint;
use crate::server::http1::fields::{Field, Fields};
use crate::telemetry::records::RecordTicket;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{Envelope, MessageKind as FrameKind, ScanRejection, Scanner, StringSpan};
use metamcp_core::protocol::{Era, McpMethod, Revision, code};
use metamcp_store::auth::Identity;

/// One message of a client, after the checks that both eras share. Passed on boxed, because it is about a
/// kilobyte.
pub struct Call {
    /// The header fields of the request.
    pub fields: Fields,
    /// The endpoint that the request was sent to.
    pub endpoint: Arc<Endpoint>,
    pub identity: Identity,
    /// The key's permit, held until the response has passed. `None` if the owner of the call holds it
    /// instead.
    pub permit: Option<Permit>,
    /// The message as received.
    pub body: Bytes,
    /// The spans of the message's members in `body`.
    pub envelope: Envelope,
    /// The method, if the gateway treats it specially.
    pub method: Option<McpMethod>,
    /// Whether its answer shares a response with the answers to other messages: those of a batch, or of a
    /// framed stream.
    pub shares_response: bool,
    /// The position in a trace, if the message is traced.
    pub trace: Option<Box<Trace>>,
    /// The record of the call, for what sends it to a server. `None` if it is not recorded.
    pub record: Option<Rc<RecordTicket>>,
}

impl Call {
    /// A message with a response of its own, neither traced nor recorded yet. `scanned` is what [`scan`] found in `body`.
    pub fn new(
        fields: Fields,
        endpoint: Arc<Endpoint>,
        identity: Identity,
        permit: Option<Permit>,
        body: Bytes,
        (envelope, method): (Envelope, Option<McpMethod>),
    ) -> Self {
        let (shares_response, trace, record) = (false, None, None);
        Self { fields, endpoint, identity, permit, body, envelope, method, shares_response, trace, record }
    }

    /// The raw id; empty for a notification.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or_else(Bytes::new, |id| self.raw(id.span))
    }

    /// The bytes of a span, without a copy.
    pub fn raw(&self, span: metamcp_core::frame::Span) -> Bytes {
        self.body.slice(span.start as usize..span.end as usize)
    }

    /// The decoded value of a string.
    pub fn text(&self, text: Option<StringSpan>) -> Option<std::borrow::Cow<'_, str>> {
        text.map(|text| text.decode(&self.body))
    }

    /// Whether the message expects an answer.
    pub fn is_request(&self) -> bool {
        self.envelope.kind == FrameKind::Request
    }

    /// Whether the message is a request about an existing task: any method of the tasks extension.
    pub fn is_task_request(&self) -> bool {
        // `McpMethod` has no variant for these methods, because the gateway does nothing else with them.
        self.method.is_none()
            && self
                .envelope
                .method
                .is_some_and(|method| method.decode_bytes(&self.body).starts_with(b"tasks/"))
    }

    /// Checks that the key may call the requested tool. The same predicate decides which tools the key sees
    /// in lists.
    pub fn check_grants(&self) -> Result<(), Fault> {
        if self.identity.can_call_all_tools() || self.method != Some(McpMethod::ToolsCall) {
            return Ok(());
        }
        // A call without a name is rejected later, for that reason.
        match self.text(self.envelope.params.name) {
            Some(name) if !self.identity.can_call_tool(&self.endpoint.scope, &name) => {
                Err(unknown_tool(&name))
            }
            _ => Ok(()),
        }
    }

    /// Whether the gateway must answer this list from the catalog, because the key may not see all tools.
    pub fn lists_in_part(&self) -> bool {
        self.method == Some(McpMethod::ToolsList) && !self.identity.can_call_all_tools()
    }

    /// The era that the client speaks (MCP 2026-07-28, versioning: dual-era servers).
    pub fn era(&self) -> Era {
        if self.envelope.params.meta.protocol_version.is_some() {
            return Era::Modern;
        }
        if self.method == Some(McpMethod::Initialize) || self.fields.has(Field::McpSessionId) {
            return Era::Legacy;
        }
        match self.fields.get(Field::McpProtocolVersion).map(Revision::parse) {
            // An unknown revision is answered with the supported revisions, which only the Modern era
            // defines.
            Some(None) => Era::Modern,
            Some(Some(revision)) => revision.era(),
            None => Era::Legacy,
        }
    }
}

/// The fault for an unknown tool. A tool that the key may not call gets the same one.
#[cold]
pub fn unknown_tool(name: &str) -> Fault {
    let clipped: String = name.chars().take(NAME_CHARS_MAX).collect();
    Fault::client(FaultKind::InvalidParams, format!("Unknown tool: {clipped}"))
}

/// Limit for a name in an error text: long enough to recognize, short enough for a log.
pub const NAME_CHARS_MAX: usize = 128;

/// Scans a message and parses its method.
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
