//! A request of a Modern client, and its translation for a Legacy server.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use metamcp_core::base::{CredentialLifetime, Fault, KeyId, ServerName};
use metamcp_core::frame::{Envelope, Scanner, Span, json_string, splice};
use metamcp_core::protocol::{ClientCapabilities, LogLevel, McpMethod, code};
use metamcp_http::multiplex::LocalResponse;
use metamcp_http::{TraceFields, UpstreamRequest};

/// A request of a Modern client.
pub struct ModernRequest {
    pub message: Bytes,
    pub envelope: Envelope,
    /// The method, if it is one that the gateway knows.
    pub method: Option<McpMethod>,
    /// The key that the client authenticated with.
    pub owner: Option<KeyId>,
    /// The credential that the client sent. `None` if it is not known: nothing ends with it then.
    pub credential: Option<Arc<dyn CredentialLifetime>>,
    /// The capabilities that the client declared, without notifications of changed roots, which the Modern
    /// era does not have.
    pub capabilities: ClientCapabilities,
    /// The minimum level of the log messages that the client wants.
    pub log_level: Option<LogLevel>,
    pub trace: TraceFields,
}

/// The members of `_meta` that belong to the Modern era (MCP 2026-07-28, basic). A Legacy server receives
/// them by `initialize` and `logging/setLevel`; a server of both eras would take the request for a Modern
/// one.
const MODERN_META_MEMBERS: [&str; 4] = [
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
];

/// The members of an object, with raw values.
type RawMembers<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

impl ModernRequest {
    /// Parses a request. The error is the response to one that is malformed.
    pub fn parse(request: &UpstreamRequest) -> Result<Self, LocalResponse> {
        let message = request.message();
        let envelope = Scanner::new().scan(&message).map_err(|refused| {
            let id = refused.id.map_or(&b""[..], |id| id.span.slice(&message));
            LocalResponse::from_error(
                StatusCode::BAD_REQUEST,
                id,
                refused.error.code(),
                &refused.error.to_string(),
            )
        })?;
        let method = envelope.method.and_then(|method| McpMethod::parse(&method.decode_bytes(&message)));
        let meta = &envelope.params.meta;
        let declared = meta.client_capabilities.map_or(&b"{}"[..], |span| span.slice(&message));
        let malformed = |text: &str| {
            let id = envelope.id.map_or(&b""[..], |id| id.span.slice(&message));
            LocalResponse::from_error(StatusCode::BAD_REQUEST, id, code::INVALID_PARAMS, text)
        };
        let capabilities = ClientCapabilities::from_json(declared).map_err(|_| {
            malformed("`io.modelcontextprotocol/clientCapabilities` is not a ClientCapabilities object")
        })?;
        let log_level = match meta.log_level.map(|level| level.decode(&message)) {
            None => None,
            Some(name) => Some(LogLevel::parse(&name).ok_or_else(|| {
                malformed("`io.modelcontextprotocol/logLevel` is not one of debug, info, notice, warning, error, critical, alert, emergency")
            })?),
        };
        let capabilities = capabilities.without(ClientCapabilities::ROOTS_LIST_CHANGED);
        let (owner, credential, trace) = (request.owner(), request.credential().cloned(), request.trace());
        Ok(Self { message, envelope, method, owner, credential, capabilities, log_level, trace })
    }

    /// Returns the raw id.
    pub fn id(&self) -> Bytes {
        self.envelope.id.map_or_else(Bytes::new, |id| self.raw(id.span))
    }

    /// Returns the raw progress token.
    pub fn progress_token(&self) -> Option<Bytes> {
        self.envelope.params.meta.progress_token.map(|token| self.raw(token.span))
    }

    /// Returns an error response.
    pub fn refusal(&self, status: StatusCode, code: i32, text: &str) -> LocalResponse {
        LocalResponse::from_error(status, &self.id(), code, text)
    }

    /// Returns the error response for a session that could not be opened.
    pub fn fault_reply(&self, fault: &Fault) -> LocalResponse {
        let data = json!({"origin": "server", "kind": fault.kind.label()});
        let text = fault.for_client();
        LocalResponse::from_error_data(StatusCode::OK, &self.id(), code::INTERNAL, text, Some(&data))
    }

    /// Whether the method can be passed to a Legacy server. Methods that only the Legacy era has do not exist
    /// for a Modern client, and tasks differ between the eras. Methods of extensions are passed on.
    pub fn exists_in_legacy(&self) -> bool {
        match self.method {
            Some(
                McpMethod::Initialize
                | McpMethod::Ping
                | McpMethod::SetLevel
                | McpMethod::Subscribe
                | McpMethod::Unsubscribe
                | McpMethod::TasksList,
            ) => false,
            Some(_) => true,
            None => {
                let name = self.envelope.method.map(|method| method.decode(&self.message));
                !name.is_some_and(|name| name.starts_with("tasks/"))
            }
        }
    }

    /// Whether the server may ask for input during it (MCP 2026-07-28, multi round-trip requests).
    pub fn allows_input(&self) -> bool {
        matches!(self.method, Some(McpMethod::ToolsCall | McpMethod::PromptsGet | McpMethod::ResourcesRead))
    }

    /// Returns the message for the server: with a number as its id and progress token, and without the
    /// members of the Modern era. All other values are unchanged. `None` if the params cannot be parsed.
    pub fn to_legacy(&self, number: u64) -> Option<Bytes> {
        let params = &self.envelope.params;
        let number_text = number.to_string();
        let number = Bytes::from(number_text.clone());
        let mut edits = vec![(self.envelope.id?.span, number)];
        if params.has_input_responses || params.request_state.is_some() {
            let object = params.object?;
            let mut members: RawMembers<'_> = serde_json::from_slice(object.slice(&self.message)).ok()?;
            members.retain(|name, _| name != "inputResponses" && name != "requestState");
            let meta = self.meta(&number_text)?;
            let meta: &RawValue = serde_json::from_slice(&meta).ok()?;
            members.insert(Cow::Borrowed("_meta"), meta);
            edits.push((object, write(&members)));
        } else if let Some(object) = params.meta.object {
            edits.push((object, self.meta(&number_text)?));
        }
        edits.sort_by_key(|(span, _)| span.start);
        apply_edits(&self.message, &edits)
    }

    /// Returns the `_meta` for the server.
    fn meta(&self, number: &str) -> Option<Bytes> {
        let Some(object) = self.envelope.params.meta.object else { return Some(Bytes::from_static(b"{}")) };
        let mut members: RawMembers<'_> = serde_json::from_slice(object.slice(&self.message)).ok()?;
        members.retain(|name, _| !MODERN_META_MEMBERS.contains(&&**name));
        let token: &RawValue = serde_json::from_str(number).ok()?;
        if let Some(value) = members.get_mut("progressToken") {
            *value = token;
        }
        Some(write(&members))
    }

    pub fn request_state(&self) -> String {
        let state = self.envelope.params.request_state;
        state.map(|state| state.decode(&self.message).into_owned()).unwrap_or_default()
    }

    /// Returns the raw `inputResponses` by their keys.
    pub fn responses(&self) -> HashMap<String, Bytes> {
        #[derive(Deserialize)]
        struct ResponseParams<'a> {
            #[serde(borrow, rename = "inputResponses", default)]
            responses: HashMap<Cow<'a, str>, &'a RawValue>,
        }
        let object = self.envelope.params.object.map_or(&b"{}"[..], |span| span.slice(&self.message));
        let Ok(ResponseParams { responses }) = serde_json::from_slice(object) else { return HashMap::new() };
        let raw = |value: &RawValue| Bytes::copy_from_slice(value.get().as_bytes());
        responses.into_iter().map(|(key, value)| (key.into_owned(), raw(value))).collect()
    }

    /// Returns what a held call is bound to: the key, the server, the method and the params, independent of
    /// their formatting.
    pub fn binding(&self, server: &ServerName) -> Vec<u8> {
        let object = self.envelope.params.object.map_or(&b"{}"[..], |span| span.slice(&self.message));
        let parsed = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(object);
        let digest = match parsed {
            Ok(mut params) => {
                for name in ["_meta", "inputResponses", "requestState"] {
                    params.remove(name);
                }
                Sha256::digest(serde_json::Value::Object(params).to_string().as_bytes())
            }
            // Nested too deep to be parsed: only a retry with the same bytes matches.
            Err(_) => Sha256::digest(object),
        };
        let owner = self.owner.as_ref().map_or("", KeyId::as_str);
        let method = self.envelope.method.map(|method| method.decode(&self.message)).unwrap_or_default();
        // Unambiguous: key ids and names contain no NUL, and the digest has a fixed length.
        [owner.as_bytes(), b"\0", server.as_str().as_bytes(), b"\0", &digest[..], method.as_bytes()].concat()
    }

    fn raw(&self, span: Span) -> Bytes {
        self.message.slice(span.start as usize..span.end as usize)
    }
}

/// Applies edits to a message.
pub fn apply_edits(message: &Bytes, edits: &[(Span, Bytes)]) -> Option<Bytes> {
    let slices = splice(message, edits).ok()?;
    Some(slices.parts().concat().into())
}

fn write(members: &RawMembers<'_>) -> Bytes {
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

    fn request(message: &str) -> ModernRequest {
        let message = message.replace("META", META);
        let Ok(request) = ModernRequest::parse(&UpstreamRequest::from_message(message.into())) else {
            panic!("it can be read")
        };
        request
    }

    #[test]
    fn requests_are_translated() {
        let check = |message: &str, expected: &str| {
            assert_eq!(request(message).to_legacy(7).expect("it can be written"), expected);
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
    fn requests_are_parsed() {
        let one = request(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{META,"io.modelcontextprotocol/logLevel":"notice"},"inputResponses":{"a":{"x": 1},"b":2},"requestState":"s\u0041"}}"#,
        );
        assert_eq!(one.capabilities.to_json(), r#"{"roots":{},"sampling":{}}"#);
        assert_eq!(one.log_level, LogLevel::parse("notice"));
        assert_eq!(one.request_state(), "sA");
        let responses = one.responses();
        assert_eq!((responses.len(), &responses["a"][..]), (2, &br#"{"x": 1}"#[..]));
        for (message, known) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{META}}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"_meta":{META}}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"_meta":{META}}}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"_meta":{META}}}"#, true),
        ] {
            assert_eq!(request(message).exists_in_legacy(), known, "{message}");
        }
    }

    #[test]
    fn a_retry_has_the_same_binding() {
        let call = |more: &str| {
            request(&format!(
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
