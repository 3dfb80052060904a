//! A request to a upstream, before it is written.

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use memchr::memchr;

use super::Upstream;
use super::body::RequestBody;
use super::shim::HttpOperation;
use super::traced::TraceFields;
use crate::auth::KeyId;
use metamcp_core::base::write_decimal;
use metamcp_core::frame::SplicedMessage;
use metamcp_core::protocol::{Era, header};

/// A request to a upstream, to its MCP path unless it says another: its body, and the fields it carries beside those that every
/// request to that upstream carries.
#[derive(Clone)]
pub struct UpstreamRequest {
    method: Method,
    /// The fields as they go over the wire, the names in lower case.
    lines: Vec<u8>,
    body: SplicedMessage,
    owner: Option<KeyId>,
    place: Option<u64>,
    is_apart: bool,
    /// In place of the MCP path; boxed, for a usual request has none.
    path: Option<Box<PathAndQuery>>,
    era: Option<Era>,
}

/// Revision, method, name, session id and the trace: what a usual message carries.
const LINES_BYTES_USUAL: usize = 256;

const LINE_END: &[u8] = b"\r\n";

impl UpstreamRequest {
    /// A message.
    pub fn post(body: SplicedMessage) -> Self {
        let lines = Vec::with_capacity(LINES_BYTES_USUAL);
        Self {
            method: Method::POST,
            lines,
            body,
            owner: None,
            place: None,
            is_apart: false,
            path: None,
            era: None,
        }
    }

    /// A message of one piece.
    pub fn from_message(body: Bytes) -> Self {
        Self::post(SplicedMessage::unedited(body))
    }

    /// For the event stream of a session.
    pub fn get() -> Self {
        Self { method: Method::GET, ..Self::from_message(Bytes::new()) }
    }

    /// For the end of a session.
    pub fn delete() -> Self {
        Self { method: Method::DELETE, ..Self::from_message(Bytes::new()) }
    }

    /// The key on whose behalf it is sent: for a server whose processes are apart by key.
    pub fn set_owner(&mut self, owner: Option<KeyId>) {
        self.owner = owner;
    }

    /// Which session of a client it opens, also when it was open before and got lost: for a server that fails a client
    /// again and again.
    pub fn set_client_session(&mut self, place: u64) {
        self.place = Some(place);
    }

    /// Which session of a client it opens.
    pub(super) fn place(&self) -> Option<u64> {
        self.place
    }

    /// The session that it opens is to share nothing with others, where the server is one whose processes may be shared.
    pub fn set_exclusive(&mut self, is_apart: bool) {
        self.is_apart = is_apart;
    }

    /// Whether that is so.
    pub fn is_exclusive(&self) -> bool {
        self.is_apart
    }

    /// To another path than the MCP path.
    #[must_use]
    pub(super) fn to(mut self, path: PathAndQuery) -> Self {
        self.path = Some(Box::new(path));
        self
    }

    /// With the fields of another request, but for those that name a session or a place in a stream.
    #[must_use]
    pub(super) fn with_fields_of(mut self, other: &Self) -> Self {
        self.lines.clone_from(&other.lines);
        self.remove(&header::SESSION_ID);
        self.remove(&header::LAST_EVENT_ID);
        self
    }

    /// On whose behalf it is sent.
    pub fn owner(&self) -> Option<KeyId> {
        self.owner
    }

    /// It is asked in that era, by a client or on behalf of one: a upstream that does not speak it has what stands in for it.
    /// Without an era it goes to the upstream itself.
    pub fn set_era(&mut self, era: Era) {
        self.era = Some(era);
    }

    /// In which era it is asked.
    pub fn era(&self) -> Option<Era> {
        self.era
    }

    /// The message, in one piece.
    pub fn message(&self) -> Bytes {
        match self.body.parts() {
            [whole] => whole.clone(),
            parts => parts.concat().into(),
        }
    }

    /// What is asked, and within which session.
    pub fn operation(&self) -> (HttpOperation, Option<HeaderValue>) {
        let (verb, session, _) = self.to_verb();
        (verb, session)
    }

    /// Another message in its place: with the same fields, but for those of MCP, which speak of the one before.
    #[must_use]
    pub fn with_message(&self, body: SplicedMessage) -> Self {
        let mut other = Self {
            method: Method::POST,
            lines: self.lines.clone(),
            body,
            owner: self.owner,
            place: self.place,
            is_apart: false,
            path: None,
            era: None,
        };
        other.remove_all(|line| line.starts_with(b"mcp-"));
        other
    }

    /// The fields that tell of its trace.
    pub fn trace(&self) -> TraceFields {
        TraceFields::of(&self.lines)
    }

    /// Adds fields that tell of its trace.
    pub fn add_trace(&mut self, trace: &TraceFields) {
        self.lines.extend_from_slice(trace.lines());
    }

    /// Adds a field, beside others of its name.
    pub fn add_header(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put_header(name.as_str(), value.as_bytes());
    }

    /// Adds a field in place of others of its name.
    pub fn set_header(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.remove(name);
        self.add_header(name, value);
    }

    /// Takes the fields of that name out.
    fn remove(&mut self, name: &HeaderName) {
        let name = name.as_str().as_bytes();
        self.remove_all(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":")));
    }

    fn remove_all(&mut self, is_it: impl Fn(&[u8]) -> bool) {
        let mut at = 0;
        while let Some(end) = memchr(b'\n', &self.lines[at..]).map(|found| at + found + 1) {
            if is_it(&self.lines[at..end]) {
                self.lines.drain(at..end);
            } else {
                at = end;
            }
        }
    }

    /// Adds a field. `name`: in lower case; `value`: bytes that HTTP allows in one (RFC 9110, section 5.5). A value
    /// with a line break, which would begin another field, is left out.
    pub fn put_header(&mut self, name: &str, value: &[u8]) {
        debug_assert!(
            HeaderValue::from_bytes(value).is_ok(),
            "no value of a field: {}",
            value.escape_ascii()
        );
        // Looked at whole: values are short, and this is a few vector instructions where a search is a call.
        if value.iter().fold(false, |broken, byte| broken | matches!(byte, b'\r' | b'\n')) {
            return;
        }
        self.lines.put_slice(name.as_bytes());
        self.lines.put_slice(b": ");
        self.lines.put_slice(value);
        self.lines.put_slice(LINE_END);
    }

    /// As a server that only looks like one of Streamable HTTP is asked.
    pub(super) fn to_verb(&self) -> (HttpOperation, Option<HeaderValue>, Option<KeyId>) {
        let verb = match self.method {
            Method::GET => HttpOperation::Get,
            Method::DELETE => HttpOperation::Delete,
            // There is no head: what it would tell of the trace is told in the message.
            _ => HttpOperation::Post(self.trace().put_into(self.message())),
        };
        let session = self.fields().find(|(name, _)| *name == header::SESSION_ID);
        (verb, session.map(|(_, value)| value), self.owner)
    }

    /// Bytes of the body.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.remaining_bytes()
    }

    /// As it goes over the wire (RFC 9112, sections 3 to 6).
    pub(super) fn render(&self, upstream: &Upstream) -> Vec<u8> {
        let opening = upstream.head(&self.method);
        let path_bytes = self.path.as_ref().map_or(0, |path| path.as_str().len());
        let body_bytes = self.body_bytes();
        let mut out = Vec::with_capacity(
            opening.lines.len() + path_bytes + self.lines.len() + LENGTH_LINE_BYTES_MAX + body_bytes,
        );
        match &self.path {
            None => out.put_slice(&opening.lines),
            Some(path) => {
                put_request_line(&mut out, &self.method, path);
                out.put_slice(&opening.lines[opening.first_line_bytes..]);
            }
        }
        out.put_slice(&self.lines);
        if self.method == Method::POST {
            out.put_slice(b"content-length: ");
            write_decimal(&mut out, body_bytes as u64);
            out.put_slice(LINE_END);
        }
        out.put_slice(LINE_END);
        for slice in self.body.parts() {
            out.put_slice(slice);
        }
        out
    }

    /// The fields that were added, as they go over the wire.
    #[cfg(test)]
    pub fn header_lines(&self) -> String {
        String::from_utf8_lossy(&self.lines).into_owned()
    }

    fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        self.lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|byte| *byte == b':')?;
            let value = HeaderValue::from_bytes(line.get(colon + b": ".len()..)?).ok()?;
            Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
        })
    }

    /// As hyper takes it.
    pub(super) fn to_http(&self, upstream: &Upstream) -> Request<RequestBody> {
        let mut headers: HeaderMap = upstream.head(&self.method).fields.clone();
        for (name, value) in self.fields() {
            headers.append(name, value);
        }
        let mut request = Request::new(RequestBody::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        let path = self.path.as_deref().unwrap_or(&upstream.path);
        *request.uri_mut() = path.clone().into();
        *request.headers_mut() = headers;
        request
    }
}

/// The request line (RFC 9112, section 3).
pub(super) fn put_request_line(out: &mut impl BufMut, method: &Method, path: &PathAndQuery) {
    for part in [method.as_str(), " ", path.as_str(), " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
}

/// `content-length: ` with the largest number, and the end of the head.
const LENGTH_LINE_BYTES_MAX: usize = 16 + 20 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &UpstreamRequest, expected: &[(&str, &[u8])]) {
        let fields: Vec<_> = request.fields().collect();
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
            &UpstreamRequest::from_message(Bytes::new()).with_fields_of(&request),
            &[("traceparent", b"00-1")],
        );
    }
}
