//! A message of the client, and the HTTP request it becomes.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderValue;

use super::super::endpoint::{OpenSession, ParamHeaders};
use super::super::error::RequestError;
use metamcp_core::frame::{Envelope, MessageKind, ScanRejection, Scanner, StringSpan, encode_header_value};
use metamcp_core::protocol::{Era, McpMethod, header};
use metamcp_http::UpstreamRequest;

/// One JSON-RPC message of the client.
pub struct ClientMessage {
    /// As written, without the line break.
    pub bytes: Bytes,
    /// Where its members lie in `bytes`.
    pub envelope: Envelope,
    /// Its method; `None` for a response and for methods that need no special treatment.
    pub method: Option<McpMethod>,
    pub era: Era,
}

impl ClientMessage {
    pub fn scan(scanner: &mut Scanner, bytes: Bytes) -> Result<Self, ScanRejection> {
        let envelope = scanner.scan(&bytes)?;
        let method = envelope.method.and_then(|method| McpMethod::parse(&method.decode_bytes(&bytes)));
        // Every Modern request names its revision in `_meta`, and only those do (MCP 2026-07-28, basic).
        let era = match envelope.params.meta.protocol_version {
            Some(_) => Era::Modern,
            None => Era::Legacy,
        };
        Ok(Self { bytes, envelope, method, era })
    }

    /// Whether the message names a request of its session: in another session that id may belong to another
    /// request.
    pub fn is_bound_to_session(&self) -> bool {
        self.is_response() || self.cancelled_id().is_some()
    }

    pub fn is_response(&self) -> bool {
        matches!(self.envelope.kind, MessageKind::Response | MessageKind::Error)
    }

    pub fn is_request(&self) -> bool {
        self.envelope.kind == MessageKind::Request
    }

    /// Returns the id as written, `null` if there is none.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or(Bytes::from_static(b"null"), |id| self.slice(id.span.slice(&self.bytes)))
    }

    /// Returns the id that a `notifications/cancelled` names.
    pub fn cancelled_id(&self) -> Option<Bytes> {
        let id = self.envelope.params.request_id.filter(|_| self.method == Some(McpMethod::Cancelled))?;
        Some(self.slice(id.span.slice(&self.bytes)))
    }

    /// Whether it is a tool call whose HTTP head repeats annotated arguments.
    pub fn is_modern_call(&self) -> bool {
        self.era == Era::Modern && self.method == Some(McpMethod::ToolsCall)
    }

    /// Returns the name of the called tool.
    pub fn tool(&self) -> Cow<'_, str> {
        self.envelope.params.name.map_or(Cow::Borrowed(""), |name| name.decode(&self.bytes))
    }

    /// Returns a description for the log that contains nothing a peer can choose.
    pub fn log_name(&self) -> &'static str {
        match (self.method, self.envelope.method) {
            (Some(method), _) => method.as_str(),
            (None, Some(_)) => "another method",
            (None, None) => "a response",
        }
    }

    /// Builds the HTTP request. `open` is the session that it belongs to, if any.
    pub fn to_request(
        &self,
        open: Option<&OpenSession>,
        param_headers: &ParamHeaders,
    ) -> Result<UpstreamRequest, RequestError> {
        let mut request = UpstreamRequest::from_message(self.bytes.clone());
        if self.era == Era::Modern {
            self.write_modern_headers(&mut request, param_headers)?;
        } else if let Some(open) = open {
            open.write_headers(&mut request);
        }
        Ok(request)
    }

    /// Writes what a Modern request repeats in its head (MCP 2026-07-28, Streamable HTTP, request headers).
    fn write_modern_headers(
        &self,
        request: &mut UpstreamRequest,
        param_headers: &ParamHeaders,
    ) -> Result<(), RequestError> {
        let revision = self.envelope.params.meta.protocol_version.map(|text| text.decode(&self.bytes));
        let revision =
            HeaderValue::from_str(&revision.unwrap_or_default()).map_err(|_| RequestError::InvalidVersion)?;
        request.set_header(&header::PROTOCOL_VERSION, &revision);
        let mut put = |name: &str, text: &str| request.put_header(name, encode_header_value(text).as_bytes());
        if let Some(method) = self.envelope.method {
            put(header::METHOD.as_str(), &method.decode(&self.bytes));
        }
        if let Some(name) = self.header_name() {
            let name = name.decode(&self.bytes);
            put(header::NAME.as_str(), &name);
            if self.method == Some(McpMethod::ToolsCall) {
                let arguments =
                    self.envelope.params.arguments.map_or(&b"{}"[..], |span| span.slice(&self.bytes));
                param_headers.write(&name, arguments, put);
            }
        }
        Ok(())
    }

    /// Returns what the header `Mcp-Name` repeats.
    fn header_name(&self) -> Option<StringSpan> {
        let params = &self.envelope.params;
        match self.method {
            Some(McpMethod::ToolsCall | McpMethod::PromptsGet) => params.name,
            Some(McpMethod::ResourcesRead) => params.uri,
            None if self.envelope.method?.decode_bytes(&self.bytes).starts_with(b"tasks/") => params.task_id,
            _ => None,
        }
    }

    fn slice(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[track_caller]
    fn scan(text: &str) -> ClientMessage {
        ClientMessage::scan(&mut Scanner::new(), Bytes::copy_from_slice(text.as_bytes())).expect("a message")
    }

    #[track_caller]
    fn check(method: &str, params: &str, expected: &[(&str, &str)]) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{META}}}}}"#);
        let request = scan(&text).to_request(None, &ParamHeaders::default()).expect("a request");
        let mut lines = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        lines.extend(expected);
        let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        assert_eq!(request.header_lines(), lines.concat(), "{text}");
    }

    #[test]
    fn modern_heads_repeat_the_message() {
        check("tools/list", "", &[]);
        check("tools/call", r#""name":"echo","#, &[("mcp-name", "echo")]);
        check("tools/call", r#""name":"\u00e4","#, &[("mcp-name", "=?base64?w6Q=?=")]);
        check("prompts/get", r#""name":"p","#, &[("mcp-name", "p")]);
        check("resources/read", r#""uri":"file:///a b","#, &[("mcp-name", "file:///a b")]);
        check("resources/read", r#""uri":"a\r\nX-Evil: 1","#, &[("mcp-name", "=?base64?YQ0KWC1FdmlsOiAx?=")]);
        check("tasks/get", r#""taskId":"t","#, &[("mcp-name", "t")]);
        check("vendor/name", r#""name":"not this","#, &[]);
    }

    #[test]
    fn refuses_a_version_that_would_break_the_head() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026\r\nX-Evil: 1","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
        let refused = scan(text).to_request(None, &ParamHeaders::default());
        assert!(matches!(refused, Err(RequestError::InvalidVersion)));
    }

    #[test]
    fn legacy_messages_carry_the_session_only() {
        let message = scan(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#);
        assert_eq!(message.era, Era::Legacy);
        assert_eq!(message.to_request(None, &ParamHeaders::default()).expect("a request").header_lines(), "");
        let cancelled =
            scan(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}"#);
        assert_eq!(cancelled.cancelled_id().expect("an id"), "\"a\"");
        assert_eq!(message.cancelled_id(), None);
    }
}
