//! A request of a Modern client: what it says, and the same as a Legacy server is asked.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::super::level::Level;
use crate::auth::KeyId;
use crate::base::ServerName;
use crate::frame::{Envelope, Scanner, Span, json_string, splice};
use crate::protocol::{ClientCapabilities, Method, code};
use crate::upstream::shim::Reply;
use crate::upstream::{Outgoing, TraceFields};

/// A request of a Modern client.
pub struct Asked {
    /// The whole message.
    pub message: Bytes,
    /// Where in it things lie.
    pub envelope: Envelope,
    /// Its method, when it is one that the gateway knows.
    pub method: Option<Method>,
    /// The key on whose behalf.
    pub owner: Option<KeyId>,
    /// What the client declared. Without what it cannot do in its era: to say that its roots changed.
    pub capabilities: ClientCapabilities,
    /// From which level on it wants to be told log messages.
    pub log_level: Option<Level>,
    /// The trace that it is part of.
    pub trace: TraceFields,
}

/// The members of `_meta` that the era put there (MCP 2026-07-28, basic). A server of the other era is told
/// them by `initialize` and `logging/setLevel`; one that knows both would take the request for one of this
/// era.
const OF_THE_ERA: [&str; 4] = [
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
];

/// An object, its values as they were written.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

impl Asked {
    /// Reads it. What cannot be read is answered.
    pub fn read(request: &Outgoing) -> Result<Self, Reply> {
        let message = request.message();
        let envelope = Scanner::new().scan(&message).map_err(|refused| {
            let id = refused.id.map_or(&b""[..], |id| id.span.of(&message));
            Reply::error(StatusCode::BAD_REQUEST, id, refused.error.code(), &refused.error.to_string())
        })?;
        let method = envelope.method.and_then(|method| Method::parse(&method.value(&message)));
        let meta = &envelope.params.meta;
        let declared = meta.client_capabilities.map_or(&b"{}"[..], |span| span.of(&message));
        let malformed = |text: &str| {
            let id = envelope.id.map_or(&b""[..], |id| id.span.of(&message));
            Reply::error(StatusCode::BAD_REQUEST, id, code::INVALID_PARAMS, text)
        };
        let capabilities = ClientCapabilities::from_json(declared).map_err(|_| {
            malformed("`io.modelcontextprotocol/clientCapabilities` is no ClientCapabilities object")
        })?;
        let log_level = match meta.log_level.map(|level| level.decode(&message)) {
            None => None,
            Some(name) => Some(Level::parse(&name).ok_or_else(|| {
                malformed("`io.modelcontextprotocol/logLevel` is none of debug, info, notice, warning, error, critical, alert, emergency")
            })?),
        };
        let capabilities = capabilities.without(ClientCapabilities::ROOTS_LIST_CHANGED);
        let (owner, trace) = (request.owner(), request.trace());
        Ok(Self { message, envelope, method, owner, capabilities, log_level, trace })
    }

    /// Its raw id.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or_else(Bytes::new, |id| self.raw(id.span))
    }

    /// Its raw progress token.
    pub fn token(&self) -> Option<Bytes> {
        self.envelope.params.meta.progress_token.map(|token| self.raw(token.span))
    }

    /// Answers it with an error.
    pub fn refusal(&self, status: StatusCode, code: i32, text: &str) -> Reply {
        Reply::error(status, &self.id(), code, text)
    }

    /// Whether it can be asked of a Legacy server in its own name. What only the Legacy era has is unknown in
    /// this one, and tasks are another thing in each; an extension's method is the server's business.
    pub fn is_known_here(&self) -> bool {
        match self.method {
            Some(
                Method::Initialize
                | Method::Ping
                | Method::SetLevel
                | Method::Subscribe
                | Method::Unsubscribe
                | Method::TasksList,
            ) => false,
            Some(_) => true,
            None => {
                let name = self.envelope.method.map(|method| method.decode(&self.message));
                !name.is_some_and(|name| name.starts_with("tasks/"))
            }
        }
    }

    /// Whether its server may ask for input (MCP 2026-07-28, multi round-trip requests).
    pub fn may_be_asked(&self) -> bool {
        matches!(self.method, Some(Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead))
    }

    /// As the server is asked: under a number as its id and progress token, without what is of the other era.
    /// Every other value is as the client wrote it. `None` when it cannot be read that far.
    pub fn legacy(&self, number: u64) -> Option<Bytes> {
        let params = &self.envelope.params;
        let number_text = number.to_string();
        let number = Bytes::from(number_text.clone());
        let mut edits = vec![(self.envelope.id?.span, number)];
        if params.has_input_responses || params.request_state.is_some() {
            let object = params.object?;
            let mut members: Members<'_> = serde_json::from_slice(object.of(&self.message)).ok()?;
            members.retain(|name, _| name != "inputResponses" && name != "requestState");
            let meta = self.meta(&number_text)?;
            let meta: &RawValue = serde_json::from_slice(&meta).ok()?;
            members.insert(Cow::Borrowed("_meta"), meta);
            edits.push((object, write(&members)));
        } else if let Some(object) = params.meta.object {
            edits.push((object, self.meta(&number_text)?));
        }
        edits.sort_by_key(|(span, _)| span.start);
        edited(&self.message, &edits)
    }

    /// `_meta` for the server.
    fn meta(&self, number: &str) -> Option<Bytes> {
        let Some(object) = self.envelope.params.meta.object else { return Some(Bytes::from_static(b"{}")) };
        let mut members: Members<'_> = serde_json::from_slice(object.of(&self.message)).ok()?;
        members.retain(|name, _| !OF_THE_ERA.contains(&&**name));
        let token: &RawValue = serde_json::from_str(number).ok()?;
        if let Some(own) = members.get_mut("progressToken") {
            *own = token;
        }
        Some(write(&members))
    }

    /// The `requestState` it came with.
    pub fn request_state(&self) -> String {
        let state = self.envelope.params.request_state;
        state.map(|state| state.decode(&self.message).into_owned()).unwrap_or_default()
    }

    /// `inputResponses`, raw, by their keys.
    pub fn responses(&self) -> HashMap<String, Bytes> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "inputResponses", default)]
            responses: HashMap<Cow<'a, str>, &'a RawValue>,
        }
        let object = self.envelope.params.object.map_or(&b"{}"[..], |span| span.of(&self.message));
        let Ok(Params { responses }) = serde_json::from_slice(object) else { return HashMap::new() };
        let raw = |value: &RawValue| Bytes::copy_from_slice(value.get().as_bytes());
        responses.into_iter().map(|(key, value)| (key.into_owned(), raw(value))).collect()
    }

    /// What a held call is bound to: the key, the server, and the call with its arguments, however they are
    /// written.
    pub fn binding(&self, server: &ServerName) -> Vec<u8> {
        let object = self.envelope.params.object.map_or(&b"{}"[..], |span| span.of(&self.message));
        let read = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(object);
        let digest = match read {
            Ok(mut params) => {
                for name in ["_meta", "inputResponses", "requestState"] {
                    params.remove(name);
                }
                Sha256::digest(serde_json::Value::Object(params).to_string().as_bytes())
            }
            // Nested too deep to be read: no retry is the same.
            Err(_) => Sha256::digest(object),
        };
        let owner = self.owner.as_ref().map_or("", KeyId::as_str);
        let method = self.envelope.method.map(|method| method.decode(&self.message)).unwrap_or_default();
        // Key ids and names have no NUL in them, and a digest has one length: no two calls are written alike.
        [owner.as_bytes(), b"\0", server.as_str().as_bytes(), b"\0", &digest[..], method.as_bytes()].concat()
    }

    fn raw(&self, span: Span) -> Bytes {
        self.message.slice(span.start as usize..span.end as usize)
    }
}

/// The message with parts replaced, in one piece.
pub fn edited(message: &Bytes, edits: &[(Span, Bytes)]) -> Option<Bytes> {
    let slices = splice(message, edits).ok()?;
    Some(slices.parts().concat().into())
}

fn write(members: &Members<'_>) -> Bytes {
    let mut json = Vec::new();
    for (name, value) in members {
        json.push(if json.is_empty() { b'{' } else { b',' });
        json.extend_from_slice(&json_string(name));
        json.push(b':');
        json.extend_from_slice(value.get().as_bytes());
    }
    if json.is_empty() {
        json.push(b'{');
    }
    json.push(b'}');
    json.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true},"sampling":{}}"#;

    fn asked(message: &str) -> Asked {
        let message = message.replace("META", META);
        let Ok(asked) = Asked::read(&Outgoing::whole(message.into())) else { panic!("it can be read") };
        asked
    }

    #[test]
    fn a_server_is_asked_in_its_own_era() {
        let check = |message: &str, expected: &str| {
            assert_eq!(asked(message).legacy(7).expect("it can be written"), expected);
        };
        check(
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{"cursor":"x","_meta":{META}}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":"x","_meta":{}}}"#,
        );
        check(
            r#"{"method":"tools/call","params":{"_meta":{META,"progressToken":"p","z":[1.0 ]},"arguments":{"n":1e400},"name":"t"},"id":0,"jsonrpc":"2.0"}"#,
            r#"{"method":"tools/call","params":{"_meta":{"progressToken":7,"z":[1.0 ]},"arguments":{"n":1e400},"name":"t"},"id":7,"jsonrpc":"2.0"}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{META},"inputResponses":{"a":{}},"requestState":"s"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"_meta":{},"name":"t"}}"#,
        );
    }

    #[test]
    fn reads_what_decides() {
        let one = asked(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{META,"io.modelcontextprotocol/logLevel":"notice"},"inputResponses":{"a":{"x": 1},"b":2},"requestState":"s\u0041"}}"#,
        );
        assert_eq!(one.capabilities.to_json(), r#"{"roots":{},"sampling":{}}"#);
        assert_eq!(one.log_level, Level::parse("notice"));
        assert_eq!(one.request_state(), "sA");
        let responses = one.responses();
        assert_eq!((responses.len(), &responses["a"][..]), (2, &br#"{"x": 1}"#[..]));
        for (message, known) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{META}}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"_meta":{META}}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"_meta":{META}}}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"_meta":{META}}}"#, true),
        ] {
            assert_eq!(asked(message).is_known_here(), known, "{message}");
        }
    }

    #[test]
    fn a_retry_is_the_same_call() {
        let call = |more: &str| {
            asked(&format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t",{more},"_meta":{{META}}}}}}"#
            ))
        };
        let server = ServerName::new("s").expect("a name");
        let first = call(r#""arguments":{"a":1,"b":[2]}"#).binding(&server);
        let check = |more: &str, same: bool| assert_eq!(call(more).binding(&server) == first, same, "{more}");
        check(r#""arguments":{"b":[ 2 ],"a":1},"requestState":"s","inputResponses":{}"#, true);
        check(r#""arguments":{"a":1,"b":[3]}"#, false);
        check(r#""arguments":{"a":1}"#, false);
        check(r#""argument":{"a":1,"b":[2]}"#, false);
        let other = ServerName::new("t").expect("a name");
        assert_ne!(call(r#""arguments":{"a":1,"b":[2]}"#).binding(&other), first);
    }
}
