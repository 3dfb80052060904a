//! Requests to a server, before they are encoded.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};
use memchr::memchr;

use super::multiplex::HttpOperation;
use super::trace_fields::TraceFields;
use metamcp_core::base::{CredentialLifetime, KeyId};
use metamcp_core::frame::SplicedMessage;
use metamcp_core::protocol::{Era, header};

/// A request to a server's MCP path, or to another path if one is set: the body, and the header fields
/// besides those that every request to the server carries.
#[derive(Clone)]
pub struct UpstreamRequest {
    method: Method,
    /// The fields as they go over the wire, with lower-case names.
    header_block: Vec<u8>,
    body: SplicedMessage,
    owner: Option<KeyId>,
    credential: Option<Arc<dyn CredentialLifetime>>,
    client_session: Option<u64>,
    is_exclusive: bool,
    /// In place of the MCP path. Boxed, because few requests have one.
    path: Option<Box<PathAndQuery>>,
    era: Option<Era>,
}

/// What a request takes of a server's limits, and how long it may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Takes a permit among the server's in-flight calls; silence is bounded.
    Call,
    /// A notification, a response to a request of the server, or the end of a session: a call in flight may wait for it, or
    /// end because of it. It takes a permit among the few for messages instead; silence is bounded.
    Message,
    /// Bounded by the clients that hold it; silence is normal.
    Stream,
}

/// Revision, method, name, session id and trace: the fields of a common message.
const HEADER_BYTES_COMMON: usize = 256;

/// The end of a line in a head.
pub const LINE_END: &[u8] = b"\r\n";

impl UpstreamRequest {
    /// Creates a POST of a message.
    pub fn post(body: SplicedMessage) -> Self {
        Self {
            method: Method::POST,
            header_block: Vec::with_capacity(HEADER_BYTES_COMMON),
            body,
            owner: None,
            credential: None,
            client_session: None,
            is_exclusive: false,
            path: None,
            era: None,
        }
    }

    /// Creates a POST of a message in one piece.
    pub fn from_message(body: Bytes) -> Self {
        Self::post(SplicedMessage::unedited(body))
    }

    /// Creates a GET, which opens the event stream of a session.
    pub fn get() -> Self {
        Self { method: Method::GET, ..Self::from_message(Bytes::new()) }
    }

    /// Creates a DELETE, which ends a session.
    pub fn delete() -> Self {
        Self { method: Method::DELETE, ..Self::from_message(Bytes::new()) }
    }

    /// Sets the key on whose behalf the request is sent, for a server with one process per key.
    pub fn set_owner(&mut self, owner: Option<KeyId>) {
        self.owner = owner;
    }

    /// Returns the key on whose behalf the request is sent.
    pub fn owner(&self) -> Option<KeyId> {
        self.owner
    }

    /// Sets the credential that the client sent, for an era adapter that goes on after the response.
    pub fn set_credential(&mut self, credential: Arc<dyn CredentialLifetime>) {
        self.credential = Some(credential);
    }

    /// Returns the credential that the client sent, if it is known.
    pub fn credential(&self) -> Option<&Arc<dyn CredentialLifetime>> {
        self.credential.as_ref()
    }

    /// Sets which session of a client the request opens. The number stays the same when a lost session is
    /// opened again, so that a server that fails one client repeatedly backs off for that client alone.
    pub fn set_client_session(&mut self, number: u64) {
        self.client_session = Some(number);
    }

    pub fn client_session(&self) -> Option<u64> {
        self.client_session
    }

    /// Sets whether the session that the request opens must not share a process with others.
    pub fn set_exclusive(&mut self, is_exclusive: bool) {
        self.is_exclusive = is_exclusive;
    }

    /// Whether the session that the request opens must not share a process with others.
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// Replaces the MCP path.
    #[must_use]
    pub fn with_path(mut self, path: PathAndQuery) -> Self {
        self.path = Some(Box::new(path));
        self
    }

    /// Copies the header fields of another request, except for those that name a session or a position in a
    /// stream.
    #[must_use]
    pub fn with_headers_of(mut self, other: &Self) -> Self {
        self.header_block.clone_from(&other.header_block);
        self.remove_header(&header::SESSION_ID);
        self.remove_header(&header::LAST_EVENT_ID);
        self
    }

    /// Sets the era in which a client asks. The era adapter answers if the server does not speak that era.
    /// Without an era the request goes to the server itself.
    pub fn set_era(&mut self, era: Era) {
        self.era = Some(era);
    }

    /// Returns the era in which a client asks.
    pub fn era(&self) -> Option<Era> {
        self.era
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    pub fn path(&self) -> Option<&PathAndQuery> {
        self.path.as_deref()
    }

    pub fn body(&self) -> &SplicedMessage {
        &self.body
    }

    pub fn body_bytes(&self) -> usize {
        self.body.remaining_bytes()
    }

    /// Returns the message in one piece.
    pub fn message(&self) -> Bytes {
        match self.body.parts() {
            [whole] => whole.clone(),
            parts => parts.concat().into(),
        }
    }

    /// The operation and session of a request to a server that does not speak Streamable HTTP. There is no
    /// head, so the message itself carries the trace.
    pub fn operation(&self) -> (HttpOperation, Option<HeaderValue>) {
        let operation = match self.method {
            Method::GET => HttpOperation::Get,
            Method::DELETE => HttpOperation::Delete,
            _ => HttpOperation::Post(self.trace().add_to_message(self.message())),
        };
        let session = self.headers().find(|(name, _)| *name == header::SESSION_ID);
        (operation, session.map(|(_, value)| value))
    }

    /// Creates a POST of another message with the same header fields, except for those of MCP, which describe
    /// the first message.
    #[must_use]
    pub fn with_message(&self, body: SplicedMessage) -> Self {
        let mut other = Self {
            method: Method::POST,
            header_block: self.header_block.clone(),
            body,
            owner: self.owner,
            credential: self.credential.clone(),
            client_session: self.client_session,
            is_exclusive: false,
            path: None,
            era: None,
        };
        other.remove_header_lines(|line| line.starts_with(b"mcp-"));
        other
    }

    /// Returns the fields of the trace.
    pub fn trace(&self) -> TraceFields {
        TraceFields::from_header_block(&self.header_block)
    }

    /// Adds the fields of a trace.
    pub fn add_trace(&mut self, trace: &TraceFields) {
        self.header_block.extend_from_slice(trace.header_lines());
    }

    /// Adds a field next to others of its name.
    pub fn add_header(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put_header(name.as_str(), value.as_bytes());
    }

    /// Adds a field in place of others of its name.
    pub fn set_header(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.remove_header(name);
        self.add_header(name, value);
    }

    fn remove_header(&mut self, name: &HeaderName) {
        let name = name.as_str().as_bytes();
        self.remove_header_lines(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":")));
    }

    fn remove_header_lines(&mut self, matches: impl Fn(&[u8]) -> bool) {
        let mut at = 0;
        while let Some(end) = memchr(b'\n', &self.header_block[at..]).map(|found| at + found + 1) {
            if matches(&self.header_block[at..end]) {
                self.header_block.drain(at..end);
            } else {
                at = end;
            }
        }
    }

    /// Adds a field. `name`: in lower case; `value`: bytes that HTTP allows in one (RFC 9110, section 5.5). A
    /// value with a line break, which would begin another field, is left out.
    pub fn put_header(&mut self, name: &str, value: &[u8]) {
        debug_assert!(
            HeaderValue::from_bytes(value).is_ok(),
            "not a valid field value: {}",
            value.escape_ascii()
        );
        // Checked as a whole: values are short, and this compiles to a few vector instructions, a search to a
        // call.
        if value.iter().fold(false, |broken, byte| broken | matches!(byte, b'\r' | b'\n')) {
            return;
        }
        self.header_block.put_slice(name.as_bytes());
        self.header_block.put_slice(b": ");
        self.header_block.put_slice(value);
        self.header_block.put_slice(LINE_END);
    }

    /// Returns the added fields as they go over the wire.
    pub fn header_block(&self) -> &[u8] {
        &self.header_block
    }

    /// Returns the added fields as text.
    #[cfg(any(test, feature = "test-util"))]
    pub fn header_lines(&self) -> String {
        String::from_utf8_lossy(&self.header_block).into_owned()
    }

    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        self.header_block.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|byte| *byte == b':')?;
            let value = HeaderValue::from_bytes(line.get(colon + b": ".len()..)?).ok()?;
            Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &UpstreamRequest, expected: &[(&str, &[u8])]) {
        let fields: Vec<_> = request.headers().collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn fields_are_added_and_replaced() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut request = UpstreamRequest::from_message(Bytes::new());
        check(&request, &[]);
        request.put_header("mcp-name", b"a: b\t\xff");
        request.add_header(&name("mcp-name-2"), &value(""));
        request.add_header(&name("mcp-name"), &value("again"));
        check(&request, &[("mcp-name", b"a: b\t\xff"), ("mcp-name-2", b""), ("mcp-name", b"again")]);
        request.set_header(&name("mcp-name"), &value("once"));
        check(&request, &[("mcp-name-2", b""), ("mcp-name", b"once")]);
        request.set_header(&name("mcp"), &value("another"));
        check(&request, &[("mcp-name-2", b""), ("mcp-name", b"once"), ("mcp", b"another")]);
        request.put_header("traceparent", b"t");
        let other = request.with_message(SplicedMessage::unedited("{}".into()));
        check(&other, &[("mcp", b"another"), ("traceparent", b"t")]);
        assert_eq!((other.message(), request.message()), ("{}".into(), Bytes::new()));
    }

    #[test]
    fn fields_of_a_session_stay_with_it() {
        let mut request = UpstreamRequest::get();
        request.put_header("traceparent", b"00-1");
        request.put_header("mcp-session-id", b"x");
        request.put_header("last-event-id", b"7");
        check(
            &UpstreamRequest::from_message(Bytes::new()).with_headers_of(&request),
            &[("traceparent", b"00-1")],
        );
    }
}
