//! Header fields for messages that arrive without an HTTP head of their own. They come from the message
//! itself and from the head of the stream.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use serde_json::Value;

use crate::catalog::{Catalog, ListKind, View};
use crate::server::eras::modern::named_by_header;
use crate::server::http1::fields::{Field, Fields};
use crate::server::mcp::call::Call;
use metamcp_core::frame::{Span, encode_header_value};
use metamcp_core::protocol::header_param::{HEADER_ANNOTATION, parse_header_params};
use metamcp_core::protocol::{McpMethod, Revision, header};

/// The header fields from the head of the stream.
pub struct MessageFields {
    fields: Fields,
}

/// The fields of the stream's head that apply to every message: the trace context.
const TRACE_FIELDS: [(Field, &str); 3] =
    [(Field::Traceparent, "traceparent"), (Field::Tracestate, "tracestate"), (Field::Baggage, "baggage")];

impl MessageFields {
    /// For a stream with these header fields.
    pub fn new(fields: Fields) -> Self {
        Self { fields }
    }

    /// The fields of a message that names neither a session nor a revision.
    pub fn of_stream(&self) -> Fields {
        self.fields.clone()
    }

    /// The fields of the messages in a session that was opened on the stream.
    pub fn of_session(&self, id: &[u8], revision: Revision) -> Fields {
        let mut lines = self.trace_fields();
        lines.put(header::SESSION_ID.as_str(), id);
        lines.put(header::PROTOCOL_VERSION.as_str(), revision.as_str().as_bytes());
        lines.into_fields()
    }

    /// The fields of a Modern request, which repeat parts of its body (MCP 2026-07-28, transports).
    pub fn of_modern(&self, catalog: &Catalog, call: &Call) -> Fields {
        let mut lines = self.trace_fields();
        let texts = [
            (header::PROTOCOL_VERSION, call.envelope.params.meta.protocol_version),
            (header::METHOD, call.envelope.method),
        ];
        for (name, text) in texts {
            // A value that no header can carry is left out, and the request is rejected for the missing
            // field.
            let value = text.map(|text| text.decode_bytes(&call.body));
            if let Some(value) = value.filter(|value| value.iter().all(|byte| matches!(byte, b' '..=b'~'))) {
                lines.put(name.as_str(), &value);
            }
        }
        if let Some(text) = named_by_header(call) {
            lines.put(header::NAME.as_str(), encode_header_value(&text.decode(&call.body)).as_bytes());
        }
        if call.method == Some(McpMethod::ToolsCall) {
            copy_param_headers(catalog, call, &mut lines);
        }
        lines.into_fields()
    }

    fn trace_fields(&self) -> FieldsBuilder {
        let mut lines =
            FieldsBuilder { text: BytesMut::with_capacity(TEXT_BYTES_USUAL), places: Vec::with_capacity(4) };
        for (field, name) in TRACE_FIELDS {
            if let Some(value) = self.fields.get(field) {
                lines.put(name, value);
            }
        }
        lines
    }
}

/// Copies the arguments that the tool wants repeated in headers, if the tool's list is cached. Otherwise the
/// server reports the missing header.
fn copy_param_headers(catalog: &Catalog, call: &Call, lines: &mut FieldsBuilder) {
    let Some(merged) = catalog.snapshot(&call.endpoint, View::Modern) else { return };
    let name = call.text(call.envelope.params.name).unwrap_or_default();
    let tool = merged.listing(ListKind::Tools).item(&name);
    let Some(tool) = tool.filter(|tool| memmem::find(tool, HEADER_ANNOTATION.as_bytes()).is_some()) else {
        return;
    };
    let tool: Value = serde_json::from_slice(tool).unwrap_or_default();
    let arguments = call.envelope.params.arguments.map(|span| span.slice(&call.body));
    let arguments: Value = arguments.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
    // A tool with an invalid annotation is left to its server to report.
    for mark in parse_header_params(&tool["inputSchema"]).unwrap_or_default() {
        if let Some(text) = mark.header_text(&arguments) {
            lines.put(&mark.header, encode_header_value(&text).as_bytes());
        }
    }
}

/// The size of a typical request's header fields.
const TEXT_BYTES_USUAL: usize = 160;

/// A head that is being built.
struct FieldsBuilder {
    text: BytesMut,
    places: Vec<(Span, Span)>,
}

impl FieldsBuilder {
    fn put(&mut self, name: &str, value: &[u8]) {
        let (name, value) = (self.part(name.as_bytes()), self.part(value));
        self.places.push((name, value));
    }

    fn part(&mut self, part: &[u8]) -> Span {
        // The message bounds it, far below 4 GiB.
        let at = |text: &BytesMut| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let start = at(&self.text);
        self.text.put_slice(part);
        Span { start, end: at(&self.text) }
    }

    fn into_fields(self) -> Fields {
        let mut fields = Fields::of(Bytes::from(self.text));
        self.places.into_iter().for_each(|(name, value)| fields.add(name, value));
        fields
    }
}
