//! What the client says, and the HTTP request it becomes.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderValue;

use super::params::Params;
use super::session::Open;
use super::trouble::Trouble;
use crate::frame::{Envelope, Kind, Refused, Scanner, Text, encode_header};
use crate::protocol::{Era, Method, header};
use crate::upstream::Outgoing;

/// A message of the client's.
pub struct Message {
    /// As it was written, without the ends of its line.
    pub bytes: Bytes,
    /// What is known of it.
    pub envelope: Envelope,
    /// Its method, where it has one that matters here.
    pub method: Option<Method>,
    /// Which era it is of.
    pub era: Era,
}

impl Message {
    /// Reads one.
    pub fn scan(scanner: &mut Scanner, bytes: Bytes) -> Result<Self, Refused> {
        let envelope = scanner.scan(&bytes)?;
        let method = envelope.method.and_then(|method| Method::parse(&method.value(&bytes)));
        // Only Modern requests say their revision, and each does (MCP 2026-07-28, basic).
        let era = match envelope.params.meta.protocol_version {
            Some(_) => Era::Modern,
            None => Era::Legacy,
        };
        Ok(Self { bytes, envelope, method, era })
    }

    /// Whether it speaks of a request of the session that it was written for: in another, that id may be
    /// another's.
    pub fn is_of_its_session(&self) -> bool {
        self.is_answer() || self.cancels().is_some()
    }

    /// Whether it answers a request of the endpoint's.
    pub fn is_answer(&self) -> bool {
        matches!(self.envelope.kind, Kind::Response | Kind::Error)
    }

    /// Whether an answer is expected.
    pub fn is_request(&self) -> bool {
        self.envelope.kind == Kind::Request
    }

    /// Its id, as it was written.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or(Bytes::from_static(b"null"), |id| self.part(id.span.of(&self.bytes)))
    }

    /// The id that a `notifications/cancelled` is about.
    pub fn cancels(&self) -> Option<Bytes> {
        let id = self.envelope.params.request_id.filter(|_| self.method == Some(Method::Cancelled))?;
        Some(self.part(id.span.of(&self.bytes)))
    }

    /// Whether it is a call of a tool whose head says more of it.
    pub fn is_modern_call(&self) -> bool {
        self.era == Era::Modern && self.method == Some(Method::ToolsCall)
    }

    /// The tool that it calls.
    pub fn tool(&self) -> Cow<'_, str> {
        self.envelope.params.name.map_or(Cow::Borrowed(""), |name| name.decode(&self.bytes))
    }

    /// For a log line: nothing that a peer can choose.
    pub fn shown(&self) -> &'static str {
        match (self.method, self.envelope.method) {
            (Some(method), _) => method.as_str(),
            (None, Some(_)) => "another method",
            (None, None) => "an answer",
        }
    }

    /// As an HTTP request; `open`: the session it is sent in, where there is one.
    pub fn outgoing(&self, open: Option<&Open>, params: &Params) -> Result<Outgoing, Trouble> {
        let mut request = Outgoing::whole(self.bytes.clone());
        if self.era == Era::Modern {
            self.write_modern(&mut request, params)?;
        } else if let Some(open) = open {
            open.write_headers(&mut request);
        }
        Ok(request)
    }

    /// What a Modern request says in its head too (MCP 2026-07-28, Streamable HTTP, request headers).
    fn write_modern(&self, request: &mut Outgoing, params: &Params) -> Result<(), Trouble> {
        let revision = self.envelope.params.meta.protocol_version.map(|text| text.decode(&self.bytes));
        let revision =
            HeaderValue::from_str(&revision.unwrap_or_default()).map_err(|_| Trouble::BadVersion)?;
        request.set(&header::PROTOCOL_VERSION, &revision);
        let mut put = |name: &str, text: &str| request.put(name, encode_header(text).as_bytes());
        if let Some(method) = self.envelope.method {
            put(header::METHOD.as_str(), &method.decode(&self.bytes));
        }
        if let Some(name) = self.named() {
            let name = name.decode(&self.bytes);
            put(header::NAME.as_str(), &name);
            if self.method == Some(Method::ToolsCall) {
                let arguments =
                    self.envelope.params.arguments.map_or(&b"{}"[..], |span| span.of(&self.bytes));
                params.of_call(&name, arguments, put);
            }
        }
        Ok(())
    }

    /// What `Mcp-Name` mirrors.
    fn named(&self) -> Option<Text> {
        let params = &self.envelope.params;
        match self.method {
            Some(Method::ToolsCall | Method::PromptsGet) => params.name,
            Some(Method::ResourcesRead) => params.uri,
            None if self.envelope.method?.value(&self.bytes).starts_with(b"tasks/") => params.task_id,
            _ => None,
        }
    }

    fn part(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[track_caller]
    fn scan(text: &str) -> Message {
        Message::scan(&mut Scanner::new(), Bytes::copy_from_slice(text.as_bytes())).expect("a message")
    }

    #[track_caller]
    fn check(method: &str, params: &str, expected: &[(&str, &str)]) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{META}}}}}"#);
        let request = scan(&text).outgoing(None, &Params::default()).expect("a request");
        let mut lines = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        lines.extend(expected);
        let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        assert_eq!(request.lines(), lines.concat(), "{text}");
    }

    #[test]
    fn modern_heads_mirror_the_message() {
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
        let refused = scan(text).outgoing(None, &Params::default());
        assert!(matches!(refused, Err(Trouble::BadVersion)));
    }

    #[test]
    fn legacy_messages_carry_the_session_only() {
        let message = scan(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#);
        assert_eq!(message.era, Era::Legacy);
        assert_eq!(message.outgoing(None, &Params::default()).expect("a request").lines(), "");
        let cancelled =
            scan(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}"#);
        assert_eq!(cancelled.cancels().expect("an id"), "\"a\"");
        assert_eq!(message.cancels(), None);
    }
}
