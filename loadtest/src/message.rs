//! Requests of both eras, encoded once as templates and filled in for each request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::scenario::{CANARY, Era, Operation, RequestKind};

/// The revision of the Modern era.
pub const MODERN_REVISION: &str = "2026-07-28";

/// The revision that the Legacy era requests.
pub const LEGACY_REVISION: &str = "2025-11-25";

/// The header with the revision, in both eras.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The header with the session id, in the Legacy era.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The length of a canary, a text that is unique to one request of one run: `mcpl`, the run, `x`, the request, `z`. Run and
/// request have 12 hexadecimal digits each.
const CANARY_BYTES: usize = 4 + 12 + 1 + 12 + 1;

const RUN_MASK: u64 = (1 << 48) - 1;

/// Returns the canary of a request.
pub fn canary(run: u64, request: u64) -> String {
    format!("mcpl{:012x}x{:012x}z", run & RUN_MASK, request & RUN_MASK)
}

/// Finds all canaries in a text, those of other runs included.
pub fn find_canaries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memmem::find_iter(text, b"mcpl").filter_map(|at| {
        let found = text.get(at..at + CANARY_BYTES)?;
        let is_hex = |part: &[u8]| part.iter().all(u8::is_ascii_hexdigit);
        let is_valid = is_hex(&found[4..16]) && found[16] == b'x' && is_hex(&found[17..29]);
        (is_valid && found[29] == b'z').then_some(found)
    })
}

/// A request of one operation in one era, complete except for its id and its canary.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    /// The headers, without credentials and session.
    pub headers: HeaderMap,
    /// The body behind the id, split at each canary.
    segments: Vec<Bytes>,
}

/// The body in front of the id.
const BODY_PREFIX: &[u8] = br#"{"jsonrpc":"2.0","id":"#;

impl RequestTemplate {
    /// Encodes an operation of a scenario.
    pub fn for_operation(operation: &Operation, era: Era) -> Self {
        let name = match &operation.request {
            RequestKind::Tool(name) | RequestKind::Prompt(name) | RequestKind::Resource(name) => {
                Some(name.as_str())
            }
            RequestKind::Method(_) => None,
        };
        let token = (operation.checks.progress_min > 0).then_some(CANARY);
        Self::new(era, operation.request.method(), name, operation.params.clone(), token)
    }

    /// Encodes any method. `name` is the value of `Mcp-Name`.
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
        let segments = rest.split(CANARY).map(|segment| Bytes::from(segment.to_owned())).collect();
        Self { headers: headers(era, method, name), segments }
    }

    /// Returns the body with an id and a canary filled in.
    pub fn fill(&self, id: u64, canary: &str) -> Bytes {
        let id = id.to_string();
        let texts: usize = self.segments.iter().map(|segment| segment.len() + canary.len()).sum();
        let mut body = Vec::with_capacity(BODY_PREFIX.len() + id.len() + texts);
        body.extend_from_slice(BODY_PREFIX);
        body.extend_from_slice(id.as_bytes());
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                body.extend_from_slice(canary.as_bytes());
            }
            body.extend_from_slice(segment);
        }
        body.into()
    }
}

/// The template of the Legacy era's `initialize`.
pub fn initialize_template() -> RequestTemplate {
    let params = json!({
        "protocolVersion": LEGACY_REVISION,
        "capabilities": {},
        "clientInfo": client_info(),
    });
    let Value::Object(params) = params else { unreachable!("an object was written") };
    let mut template = RequestTemplate::new(Era::Legacy, "initialize", None, params, None);
    // The revision is not negotiated yet.
    template.headers.remove(PROTOCOL_VERSION);
    template
}

/// The notification that follows `initialize`.
pub const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The template of `subscriptions/listen`, the event stream of the Modern era.
pub fn listen_template() -> RequestTemplate {
    let notifications = json!({ "toolsListChanged": true });
    let params = Map::from_iter([("notifications".to_owned(), notifications)]);
    RequestTemplate::new(Era::Modern, "subscriptions/listen", None, params, None)
}

fn client_info() -> Value {
    json!({ "name": "mcpload", "version": env!("CARGO_PKG_VERSION") })
}

/// `_meta` of every request (MCP 2026-07-28).
fn modern_meta() -> Map<String, Value> {
    Map::from_iter([
        ("io.modelcontextprotocol/protocolVersion".to_owned(), MODERN_REVISION.into()),
        ("io.modelcontextprotocol/clientCapabilities".to_owned(), json!({})),
        ("io.modelcontextprotocol/clientInfo".to_owned(), client_info()),
    ])
}

fn headers(era: Era, method: &str, name: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    match era {
        Era::Legacy => drop(headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(LEGACY_REVISION))),
        Era::Modern => {
            headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(MODERN_REVISION));
            headers.insert(METHOD, encode_header_value(method));
            if let Some(name) = name {
                headers.insert(NAME, encode_header_value(name));
            }
        }
    }
    headers
}

/// Encodes text as `=?base64?…?=` where HTTP cannot carry it as it is (MCP 2026-07-28, request headers).
fn encode_header_value(text: &str) -> HeaderValue {
    let is_plain = !text.is_empty()
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    let encoded =
        if is_plain { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text.as_bytes())) };
    HeaderValue::try_from(encoded).expect("visible ASCII is a valid header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(era: Era, method: &str, name: Option<&str>, params: Value, expected: (&str, Option<&str>)) {
        let Value::Object(params) = params else { panic!("params must be an object") };
        let template = RequestTemplate::new(era, method, name, params, None);
        let body = template.fill(7, "C");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["id"], 7);
        assert_eq!(body["method"], method);
        assert_eq!(body["params"]["a"], expected.0);
        assert_eq!(template.headers.get(NAME).map(|value| value.to_str().unwrap()), expected.1);
        let meta = &body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
        assert_eq!(meta == MODERN_REVISION, era == Era::Modern);
    }

    #[test]
    fn requests_follow_their_era() {
        let params = || json!({ "a": "x{canary}y{canary}" });
        check(Era::Modern, "tools/call", Some("echo"), params(), ("xCyC", Some("echo")));
        check(Era::Modern, "tools/call", Some("écho"), params(), ("xCyC", Some("=?base64?w6ljaG8=?=")));
        check(Era::Modern, "tools/list", None, params(), ("xCyC", None));
        check(Era::Legacy, "tools/call", Some("echo"), params(), ("xCyC", None));
    }

    #[test]
    fn only_whole_canaries_are_found() {
        let (one, two) = (canary(1, 2), canary(u64::MAX, 3));
        let text = format!("mcpload mcpl {one}{two} {}", &one[..20]);
        let found: Vec<_> = find_canaries(text.as_bytes()).collect();
        assert_eq!(found, [one.as_bytes(), two.as_bytes()]);
    }
}
