//! A message of a session, as a request that stands alone (MCP 2026-07-28, basic).

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

use super::object::each;
use super::session::Session;
use crate::frame::{Envelope, Kind, Span, encode_header, json_string, splice};
use crate::protocol::{Method, Revision, header};
use crate::upstream::Outgoing;

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// A request of a client, read.
pub struct Request {
    /// As it came.
    pub message: Bytes,
    /// Where in it things lie.
    pub envelope: Envelope,
    /// The method, when it is one the gateway does something about.
    pub method: Option<Method>,
}

/// What is added to a call that is made again (MCP 2026-07-28, multi round-trip requests).
pub struct Again {
    /// The raw id of this try: each has its own.
    pub id: Bytes,
    /// The raw object of answers, by the keys of the questions.
    pub responses: Option<Bytes>,
    /// The raw `requestState`, when the server gave one.
    pub state: Option<Bytes>,
}

/// Params that a client of a session cannot have.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign;

impl Request {
    /// The bytes at a place, shared.
    pub fn raw(&self, span: Span) -> Bytes {
        self.message.slice(span.start as usize..span.end as usize)
    }

    /// The raw id; empty for a notification.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or_else(Bytes::new, |id| self.raw(id.span))
    }

    /// Whether it is a request, and not a notification or an answer.
    pub fn is_request(&self) -> bool {
        self.envelope.kind == Kind::Request
    }

    /// The tool that is called.
    pub fn tool(&self) -> Option<String> {
        let name = self.envelope.params.name.filter(|_| self.method == Some(Method::ToolsCall))?;
        Some(name.decode(&self.message).into_owned())
    }

    /// As a Modern request with the fields of `from`.
    pub fn modern(
        &self,
        session: &Session,
        from: &Outgoing,
        again: Option<&Again>,
    ) -> Result<Outgoing, Foreign> {
        let params = &self.envelope.params;
        if params.request_state.is_some() || params.has_input_responses {
            return Err(Foreign);
        }
        let mut edits = vec![self.with_meta(session).ok_or(Foreign)?];
        if let (Some(again), Some(id)) = (again, self.envelope.id) {
            edits.push((id.span, again.id.clone()));
            let end = params.object.ok_or(Foreign)?.end.checked_sub(1).ok_or(Foreign)?;
            edits.push((Span { start: end, end }, again.members()));
        }
        edits.sort_by_key(|(span, _)| (span.start, span.end));
        // They are places that the scanner found, in order, and three at most.
        let slices = splice(&self.message, &edits).map_err(|_| Foreign)?;
        let mut request = from.with_message(slices);
        request.set_owner(session.owner);
        self.write_headers(&mut request);
        Ok(request)
    }

    /// Where `_meta` is to be, and what.
    fn with_meta(&self, session: &Session) -> Option<(Span, Bytes)> {
        let params = &self.envelope.params;
        let theirs = params.meta.object.map(|span| span.of(&self.message));
        let meta = meta(session, theirs.unwrap_or(b"{}"))?;
        if let Some(span) = params.meta.object {
            return Some((span, meta));
        }
        let Some(object) = params.object else {
            let end = self.message.iter().rposition(|byte| *byte == b'}')?;
            let end = u32::try_from(end).ok()?;
            return Some((
                Span { start: end, end },
                [b",\"params\":{\"_meta\":", &*meta, b"}"].concat().into(),
            ));
        };
        // `null` for none, or no member at all.
        let (mut none, mut is_empty) = (None, true);
        each(object.of(&self.message), |name, value| {
            is_empty = false;
            if name == "_meta" {
                none = Span::within(&self.message, value.get().as_bytes());
            }
        })
        .ok()?;
        if let Some(span) = none {
            return Some((span, meta));
        }
        let start = object.start + 1;
        let comma: &[u8] = if is_empty { b"" } else { b"," };
        Some((Span { start, end: start }, [b"\"_meta\":", &*meta, comma].concat().into()))
    }

    /// What the headers mirror (MCP 2026-07-28, Streamable HTTP).
    fn write_headers(&self, request: &mut Outgoing) {
        request.set(&header::PROTOCOL_VERSION, &HeaderValue::from_static(Revision::MODERN_LATEST.as_str()));
        let mirror = |request: &mut Outgoing, name: &HeaderName, text: &str| {
            if let Ok(value) = HeaderValue::from_str(&encode_header(text)) {
                request.set(name, &value);
            }
        };
        if let Some(method) = self.envelope.method {
            mirror(request, &header::METHOD, &method.decode(&self.message));
        }
        let params = &self.envelope.params;
        let named = match self.method {
            Some(Method::ToolsCall | Method::PromptsGet) => params.name,
            Some(Method::ResourcesRead) => params.uri,
            _ => None,
        };
        if let Some(named) = named {
            mirror(request, &header::NAME, &named.decode(&self.message));
        }
    }
}

impl Again {
    /// As members behind others.
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

/// A request of the gateway's own on behalf of the session. `params`: raw members, each with a comma behind
/// it.
pub fn own(session: &Session, id: &str, method: Method, params: &str) -> Option<Outgoing> {
    let meta = meta(session, b"{}")?;
    let id = json_string(id);
    let method = method.as_str();
    let rest = format!(r#","method":"{method}","params":{{{params}"_meta":"#);
    let message = [br#"{"jsonrpc":"2.0","id":"#, &*id, rest.as_bytes(), &meta, b"}}"].concat();
    let mut request = Outgoing::whole(message.into());
    request.set_owner(session.owner);
    request.set(&header::PROTOCOL_VERSION, &HeaderValue::from_static(Revision::MODERN_LATEST.as_str()));
    request.set(&header::METHOD, &HeaderValue::from_static(method));
    Some(request)
}

/// The `_meta` of a request: what the client said when it opened the session, and what it says beside with
/// this one. What only the Modern era has is not the client's to say here: it would declare what it did not.
fn meta(session: &Session, theirs: &[u8]) -> Option<Bytes> {
    let mut meta = BytesMut::with_capacity(256 + theirs.len());
    let mut put = |name: &str, value: &[u8]| {
        meta.put_u8(if meta.is_empty() { b'{' } else { b',' });
        meta.put_slice(&json_string(name));
        meta.put_u8(b':');
        meta.put_slice(value);
    };
    put(PROTOCOL_VERSION, &json_string(Revision::MODERN_LATEST.as_str()));
    put(CLIENT_CAPABILITIES, &session.introduced.declared);
    if let Some(info) = &session.introduced.client_info {
        put(CLIENT_INFO, info);
    }
    if let Some(level) = session.log_level() {
        put(LOG_LEVEL, &level);
    }
    each(theirs, |name, value| {
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
    use crate::frame::Scanner;

    /// A message, read.
    pub fn read(message: &str) -> Request {
        let message = Bytes::from(message.to_owned());
        let envelope = Scanner::new().scan(&message).unwrap();
        let method = envelope.method.and_then(|method| Method::parse(&method.value(&message)));
        Request { message, envelope, method }
    }

    const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#;

    /// `META` stands for what the session says, in what is expected.
    #[track_caller]
    fn check(message: &str, again: Option<&Again>, expected: Option<&str>) {
        let session = session(r#"{"roots":{}}"#);
        let from = Outgoing::get();
        let made = read(message).modern(&session, &from, again).ok();
        let made = made.map(|request| String::from_utf8(request.message().to_vec()).unwrap());
        assert_eq!(made, expected.map(|expected| expected.replace("META", META)), "{message}");
    }

    #[test]
    fn what_the_session_knows_is_said_with_every_request() {
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
    fn nothing_is_declared_that_was_not_declared_at_the_beginning() {
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
    fn a_call_is_made_again_with_the_answers() {
        let again = Again {
            id: "\"again-1\"".into(),
            responses: Some(r#"{"k":{"action":"decline"}}"#.into()),
            state: Some(r#""\u0061\/b""#.into()),
        };
        check(
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","_meta":{"progressToken":7} },"id":1}"#,
            Some(&again),
            Some(
                r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","_meta":{META,"progressToken":7} ,"inputResponses":{"k":{"action":"decline"}},"requestState":"\u0061\/b"},"id":"again-1"}"#,
            ),
        );
    }

    #[test]
    fn own_requests_are_whole() {
        let request = own(&session("{}"), "x\"y", Method::ToolsList, "\"cursor\":\"c\",").unwrap();
        let envelope = Scanner::new().scan(&request.message()).unwrap();
        let message = request.message();
        assert_eq!(envelope.id.unwrap().span.of(&message), br#""x\"y""#);
        assert!(envelope.params.cursor.is_some() && envelope.params.meta.client_capabilities_is_object);
    }
}
