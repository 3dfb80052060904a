//! Turns a message of a session into a self-contained Modern request (MCP 2026-07-28, basic).

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

use super::json_object::for_each_member;
use super::session::Session;
use metamcp_core::frame::{Envelope, MessageKind, Span, encode_header_value, json_string, splice};
use metamcp_core::protocol::{McpMethod, Revision, header};
use metamcp_http::UpstreamRequest;

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// A scanned message of a client.
pub struct ClientMessage {
    /// The message as the client sent it.
    pub bytes: Bytes,
    pub envelope: Envelope,
    /// The method, if it is one that the gateway knows.
    pub method: Option<McpMethod>,
}

/// What the retry of a call adds to its params (MCP 2026-07-28, multi round-trip requests).
pub struct RetryParams {
    /// The raw id; each attempt has its own.
    pub id: Bytes,
    /// The raw object of the client's responses, by the keys of the input requests.
    pub responses: Option<Bytes>,
    /// The raw `requestState`, if the server gave one.
    pub state: Option<Bytes>,
}

/// The message has params that do not exist in the Legacy era.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsupportedParams;

impl ClientMessage {
    /// Returns the bytes at a span, without copying.
    pub fn raw(&self, span: Span) -> Bytes {
        self.bytes.slice(span.start as usize..span.end as usize)
    }

    /// Returns the raw id; empty for a notification.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or_else(Bytes::new, |id| self.raw(id.span))
    }

    /// Whether it is a request, and not a notification or a response.
    pub fn is_request(&self) -> bool {
        self.envelope.kind == MessageKind::Request
    }

    /// Returns the name of the called tool.
    pub fn tool_name(&self) -> Option<String> {
        let name = self.envelope.params.name.filter(|_| self.method == Some(McpMethod::ToolsCall))?;
        Some(name.decode(&self.bytes).into_owned())
    }

    /// Returns the Modern request, with the header fields of `original`.
    pub fn to_modern(
        &self,
        session: &Session,
        original: &UpstreamRequest,
        retry: Option<&RetryParams>,
    ) -> Result<UpstreamRequest, UnsupportedParams> {
        let params = &self.envelope.params;
        if params.request_state.is_some() || params.has_input_responses {
            return Err(UnsupportedParams);
        }
        let mut edits = vec![self.meta_edit(session).ok_or(UnsupportedParams)?];
        if let (Some(retry), Some(id)) = (retry, self.envelope.id) {
            edits.push((id.span, retry.id.clone()));
            let end = params.object.ok_or(UnsupportedParams)?.end.checked_sub(1).ok_or(UnsupportedParams)?;
            edits.push((Span { start: end, end }, retry.members()));
        }
        edits.sort_by_key(|(span, _)| (span.start, span.end));
        // The edits cannot fail: they are at most three spans that the scanner found, in order.
        let slices = splice(&self.bytes, &edits).map_err(|_| UnsupportedParams)?;
        let mut request = original.with_message(slices);
        request.set_owner(session.owner);
        self.write_headers(&mut request);
        Ok(request)
    }

    /// Returns the edit that sets `_meta`.
    fn meta_edit(&self, session: &Session) -> Option<(Span, Bytes)> {
        let params = &self.envelope.params;
        let client_meta = params.meta.object.map(|span| span.slice(&self.bytes));
        let meta = meta(session, client_meta.unwrap_or(b"{}"))?;
        if let Some(span) = params.meta.object {
            return Some((span, meta));
        }
        let Some(object) = params.object else {
            let end = self.bytes.iter().rposition(|byte| *byte == b'}')?;
            let end = u32::try_from(end).ok()?;
            return Some((
                Span { start: end, end },
                [b",\"params\":{\"_meta\":", &*meta, b"}"].concat().into(),
            ));
        };
        // `_meta` may be `null` or absent.
        let (mut null, mut is_empty) = (None, true);
        for_each_member(object.slice(&self.bytes), |name, value| {
            is_empty = false;
            if name == "_meta" {
                null = Span::locate(&self.bytes, value.get().as_bytes());
            }
        })
        .ok()?;
        if let Some(span) = null {
            return Some((span, meta));
        }
        let start = object.start + 1;
        let comma: &[u8] = if is_empty { b"" } else { b"," };
        Some((Span { start, end: start }, [b"\"_meta\":", &*meta, comma].concat().into()))
    }

    /// Sets the headers that mirror the message (MCP 2026-07-28, Streamable HTTP).
    fn write_headers(&self, request: &mut UpstreamRequest) {
        request.set_header(
            &header::PROTOCOL_VERSION,
            &HeaderValue::from_static(Revision::MODERN_LATEST.as_str()),
        );
        let mirror = |request: &mut UpstreamRequest, name: &HeaderName, text: &str| {
            if let Ok(value) = HeaderValue::from_str(&encode_header_value(text)) {
                request.set_header(name, &value);
            }
        };
        if let Some(method) = self.envelope.method {
            mirror(request, &header::METHOD, &method.decode(&self.bytes));
        }
        let params = &self.envelope.params;
        let named = match self.method {
            Some(McpMethod::ToolsCall | McpMethod::PromptsGet) => params.name,
            Some(McpMethod::ResourcesRead) => params.uri,
            _ => None,
        };
        if let Some(named) = named {
            mirror(request, &header::NAME, &named.decode(&self.bytes));
        }
    }
}

impl RetryParams {
    /// Returns the members, each preceded by a comma.
    fn members(&self) -> Bytes {
        let mut members = BytesMut::new();
        for (name, value) in [("inputResponses", &self.responses), ("requestState", &self.state)] {
            if let Some(value) = value {
                members.put_slice(b",\"");
                members.put_slice(name.as_bytes());
                members.put_slice(b"\":");
                members.put_slice(value);
            }
        }
        members.freeze()
    }
}

/// Builds a request of the gateway's own on behalf of the session. `params` holds raw members, each followed
/// by a comma.
pub fn gateway_request(
    session: &Session,
    id: &str,
    method: McpMethod,
    params: &str,
) -> Option<UpstreamRequest> {
    let meta = meta(session, b"{}")?;
    let id = json_string(id);
    let method = method.as_str();
    let rest = format!(r#","method":"{method}","params":{{{params}"_meta":"#);
    let message = [br#"{"jsonrpc":"2.0","id":"#, &*id, rest.as_bytes(), &meta, b"}}"].concat();
    let mut request = UpstreamRequest::from_message(message.into());
    request.set_owner(session.owner);
    request
        .set_header(&header::PROTOCOL_VERSION, &HeaderValue::from_static(Revision::MODERN_LATEST.as_str()));
    request.set_header(&header::METHOD, &HeaderValue::from_static(method));
    Some(request)
}

/// Builds the `_meta` of a request: what the client declared in `initialize`, and the members that it sent
/// with this message. Members that only the Modern era has are dropped: with them a client could declare what
/// it did not in `initialize`.
fn meta(session: &Session, client_meta: &[u8]) -> Option<Bytes> {
    let mut meta = BytesMut::with_capacity(256 + client_meta.len());
    let mut put = |name: &str, value: &[u8]| {
        meta.put_u8(if meta.is_empty() { b'{' } else { b',' });
        meta.put_slice(&json_string(name));
        meta.put_u8(b':');
        meta.put_slice(value);
    };
    put(PROTOCOL_VERSION, &json_string(Revision::MODERN_LATEST.as_str()));
    put(CLIENT_CAPABILITIES, &session.introduction.declared);
    if let Some(info) = &session.introduction.client_info {
        put(CLIENT_INFO, info);
    }
    if let Some(level) = session.log_level() {
        put(LOG_LEVEL, &level);
    }
    for_each_member(client_meta, |name, value| {
        if ![PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL].contains(&&*name) {
            put(&name, value.get().as_bytes());
        }
    })
    .ok()?;
    meta.put_u8(b'}');
    Some(meta.freeze())
}

#[cfg(test)]
pub mod tests {
    use super::super::session::tests::session;
    use super::*;
    use metamcp_core::frame::Scanner;

    pub fn read(message: &str) -> ClientMessage {
        let message = Bytes::from(message.to_owned());
        let envelope = Scanner::new().scan(&message).unwrap();
        let method = envelope.method.and_then(|method| McpMethod::parse(&method.decode_bytes(&message)));
        ClientMessage { bytes: message, envelope, method }
    }

    const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#;

    /// `META` in `expected` stands for what the session declares.
    #[track_caller]
    fn check(message: &str, retry: Option<&RetryParams>, expected: Option<&str>) {
        let session = session(r#"{"roots":{}}"#);
        let original = UpstreamRequest::get();
        let made = read(message).to_modern(&session, &original, retry).ok();
        let made = made.map(|request| String::from_utf8(request.message().to_vec()).unwrap());
        assert_eq!(made, expected.map(|expected| expected.replace("META", META)), "{message}");
    }

    #[test]
    fn every_request_carries_the_introduction() {
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            None,
            Some(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{META}}}"#),
        );
        check(
            r#"{"jsonrpc":"2.0","params":{ },"method":"tools/list","id":1} "#,
            None,
            Some(r#"{"jsonrpc":"2.0","params":{"_meta":{META} },"method":"tools/list","id":1} "#),
        );
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x": 1.0e2}}}"#,
            None,
            Some(
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{META},"name":"a","arguments":{"x": 1.0e2}}}"#,
            ),
        );
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":null,"name":"a"}}"#,
            None,
            Some(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{META},"name":"a"}}"#),
        );
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{ "progressToken" : "t","x":[1] }}}"#,
            None,
            Some(
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{META,"progressToken":"t","x":[1]}}}"#,
            ),
        );
    }

    #[test]
    fn capabilities_come_from_initialize_only() {
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/logLevel":"debug"}}}"#,
            None,
            Some(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{META}}}"#),
        );
        let forged = |members: &str| {
            check(
                &format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a",{members}}}}}"#
                ),
                None,
                None,
            );
        };
        forged(r#""requestState":"x""#);
        forged(r#""inputResponses":{}"#);
    }

    #[test]
    fn a_retry_carries_the_responses() {
        let retry = RetryParams {
            id: "\"again-1\"".into(),
            responses: Some(r#"{"k":{"action":"decline"}}"#.into()),
            state: Some(r#""\u0061\/b""#.into()),
        };
        check(
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","_meta":{"progressToken":7} },"id":1}"#,
            Some(&retry),
            Some(
                r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","_meta":{META,"progressToken":7} ,"inputResponses":{"k":{"action":"decline"}},"requestState":"\u0061\/b"},"id":"again-1"}"#,
            ),
        );
    }

    #[test]
    fn gateway_requests_are_complete() {
        let request =
            gateway_request(&session("{}"), "x\"y", McpMethod::ToolsList, "\"cursor\":\"c\",").unwrap();
        let envelope = Scanner::new().scan(&request.message()).unwrap();
        let message = request.message();
        assert_eq!(envelope.id.unwrap().span.slice(&message), br#""x\"y""#);
        assert!(envelope.params.cursor.is_some() && envelope.params.meta.client_capabilities_is_object);
    }
}
