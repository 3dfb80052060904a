//! Requests as bytes, in both eras, made once and filled in for each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::scenario::{Ask, CANARY, Era, Operation};

/// What the Modern era speaks.
pub const MODERN: &str = "2026-07-28";

/// What the Legacy era offers.
pub const LEGACY: &str = "2025-11-25";

/// The revision, in both eras.
pub const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The session, in the Legacy era.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// A text that no other request of any run has: `mcpl`, the run, `x`, the request, `z`; both 12 digits of base 16.
const CANARY_BYTES: usize = 4 + 12 + 1 + 12 + 1;

const RUN_MASK: u64 = (1 << 48) - 1;

/// The canary of one request.
pub fn canary(run: u64, request: u64) -> String {
    format!("mcpl{:012x}x{:012x}z", run & RUN_MASK, request & RUN_MASK)
}

/// Every canary in a text, of this run or another.
pub fn canaries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memmem::find_iter(text, b"mcpl").filter_map(|at| {
        let found = text.get(at..at + CANARY_BYTES)?;
        let is_number = |part: &[u8]| part.iter().all(u8::is_ascii_hexdigit);
        let parts = is_number(&found[4..16]) && found[16] == b'x' && is_number(&found[17..29]);
        (parts && found[29] == b'z').then_some(found)
    })
}

/// One kind of request in one era, ready but for its id and its canary.
#[derive(Debug, Clone)]
pub struct Template {
    /// What goes over the connection with it, but credentials and session.
    pub headers: HeaderMap,
    /// Between the id and every canary.
    pieces: Vec<Bytes>,
}

/// Before the id, which is all that stands in front of the pieces.
const FRONT: &[u8] = br#"{"jsonrpc":"2.0","id":"#;

impl Template {
    /// Of an operation; a tool is called by its name there.
    pub fn of(operation: &Operation, era: Era) -> Self {
        let name = match &operation.ask {
            Ask::Tool(name) | Ask::Prompt(name) | Ask::Resource(name) => Some(name.as_str()),
            Ask::Method(_) => None,
        };
        let token = (operation.checks.progress_min > 0).then_some(CANARY);
        Self::new(era, operation.ask.method(), name, operation.params.clone(), token)
    }

    /// Of any method; `name` is what goes into `Mcp-Name`.
    pub fn new(
        era: Era,
        method: &str,
        name: Option<&str>,
        mut params: Map<String, Value>,
        progress_token: Option<&str>,
    ) -> Self {
        let mut meta = if era == Era::Modern { modern_meta() } else { Map::new() };
        if let Some(token) = progress_token {
            meta.insert("progressToken".to_owned(), token.into());
        }
        if !meta.is_empty() {
            params.insert("_meta".to_owned(), meta.into());
        }
        let mut rest = format!(",\"method\":{}", Value::from(method));
        if !params.is_empty() {
            rest.push_str(",\"params\":");
            rest.push_str(&Value::Object(params).to_string());
        }
        rest.push('}');
        let pieces = rest.split(CANARY).map(|piece| Bytes::from(piece.to_owned())).collect();
        Self { headers: headers(era, method, name), pieces }
    }

    /// The body of one request.
    pub fn fill(&self, id: u64, canary: &str) -> Bytes {
        let id = id.to_string();
        let texts: usize = self.pieces.iter().map(|piece| piece.len() + canary.len()).sum();
        let mut body = Vec::with_capacity(FRONT.len() + id.len() + texts);
        body.extend_from_slice(FRONT);
        body.extend_from_slice(id.as_bytes());
        for (at, piece) in self.pieces.iter().enumerate() {
            if at > 0 {
                body.extend_from_slice(canary.as_bytes());
            }
            body.extend_from_slice(piece);
        }
        body.into()
    }
}

/// `initialize` of the Legacy era.
pub fn initialize() -> Template {
    let params = json!({
        "protocolVersion": LEGACY,
        "capabilities": {},
        "clientInfo": client_info(),
    });
    let Value::Object(params) = params else { unreachable!("an object was written") };
    let mut template = Template::new(Era::Legacy, "initialize", None, params, None);
    // Nothing is agreed on yet.
    template.headers.remove(REVISION);
    template
}

/// What follows `initialize`; it has no id.
pub const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The event stream of the Modern era.
pub fn listen() -> Template {
    let notifications = json!({ "toolsListChanged": true });
    let params = Map::from_iter([("notifications".to_owned(), notifications)]);
    Template::new(Era::Modern, "subscriptions/listen", None, params, None)
}

fn client_info() -> Value {
    json!({ "name": "mcpload", "version": env!("CARGO_PKG_VERSION") })
}

/// Specification 2026-07-28, `_meta` of every request.
fn modern_meta() -> Map<String, Value> {
    Map::from_iter([
        ("io.modelcontextprotocol/protocolVersion".to_owned(), MODERN.into()),
        ("io.modelcontextprotocol/clientCapabilities".to_owned(), json!({})),
        ("io.modelcontextprotocol/clientInfo".to_owned(), client_info()),
    ])
}

fn headers(era: Era, method: &str, name: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    match era {
        Era::Legacy => drop(headers.insert(REVISION, HeaderValue::from_static(LEGACY))),
        Era::Modern => {
            headers.insert(REVISION, HeaderValue::from_static(MODERN));
            headers.insert(METHOD, encoded(method));
            if let Some(name) = name {
                headers.insert(NAME, encoded(name));
            }
        }
    }
    headers
}

/// Plain where HTTP can carry it, else as specification 2026-07-28 writes it: `=?base64?…?=`.
fn encoded(text: &str) -> HeaderValue {
    let plain = !text.is_empty()
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    let written =
        if plain { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text.as_bytes())) };
    HeaderValue::try_from(written).expect("visible ASCII is a header's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(era: Era, method: &str, name: Option<&str>, params: Value, expected: (&str, Option<&str>)) {
        let Value::Object(params) = params else { panic!("params are an object") };
        let template = Template::new(era, method, name, params, None);
        let body = template.fill(7, "C");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["id"], 7);
        assert_eq!(body["method"], method);
        assert_eq!(body["params"]["a"], expected.0);
        assert_eq!(template.headers.get(NAME).map(|value| value.to_str().unwrap()), expected.1);
        let meta = &body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
        assert_eq!(meta == MODERN, era == Era::Modern);
    }

    #[test]
    fn requests_are_those_of_the_era() {
        let params = || json!({ "a": "x{canary}y{canary}" });
        check(Era::Modern, "tools/call", Some("echo"), params(), ("xCyC", Some("echo")));
        check(Era::Modern, "tools/call", Some("écho"), params(), ("xCyC", Some("=?base64?w6ljaG8=?=")));
        check(Era::Modern, "tools/list", None, params(), ("xCyC", None));
        check(Era::Legacy, "tools/call", Some("echo"), params(), ("xCyC", None));
    }

    #[test]
    fn canaries_are_found_whole_only() {
        let (one, two) = (canary(1, 2), canary(u64::MAX, 3));
        let text = format!("mcpload mcpl {one}{two} {}", &one[..20]);
        let found: Vec<_> = canaries(text.as_bytes()).collect();
        assert_eq!(found, [one.as_bytes(), two.as_bytes()]);
    }
}
