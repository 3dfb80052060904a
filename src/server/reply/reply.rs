//! The only place where the gateway's own responses and faults become HTTP and JSON-RPC.

use std::num::NonZeroU32;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::json;

use super::body::ResponseBody;
use metamcp_config::sections::AuthMode;
use metamcp_core::base::{Fault, FaultKind, FaultOrigin, FaultScope};
use metamcp_core::protocol::{code, header};

/// A response before it is written, by hyper or by the fast lane.
pub struct Reply {
    pub status: StatusCode,
    /// The type of the body. Separate from the other fields, so that most responses need no map.
    pub content_type: Option<HeaderValue>,
    /// All other header fields. Most responses have none.
    pub headers: Option<Box<HeaderMap>>,
    pub body: ResponseBody,
}

impl Reply {
    /// A response without header fields.
    pub fn new(status: StatusCode, body: ResponseBody) -> Self {
        Self { status, content_type: None, headers: None, body }
    }

    /// A response with a `Content-Type`.
    pub fn typed(status: StatusCode, content_type: HeaderValue, body: ResponseBody) -> Self {
        Self { content_type: Some(content_type), ..Self::new(status, body) }
    }

    /// The header fields other than `Content-Type`.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers.get_or_insert_default()
    }

    /// Converts the response for hyper.
    pub fn into_http(self) -> Response<ResponseBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.map_or_else(HeaderMap::new, |headers| *headers);
        if let Some(content_type) = self.content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        response
    }
}

/// A JSON-RPC result, without joining its parts.
pub fn result(id: &[u8], result: Bytes) -> Reply {
    let mut head = Vec::with_capacity(id.len() + 40);
    head.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    head.extend_from_slice(id);
    head.extend_from_slice(br#","result":"#);
    json(StatusCode::OK, ResponseBody::pieces([head.into(), result, Bytes::from_static(b"}")]))
}

/// A complete JSON message.
pub fn message(bytes: Bytes) -> Reply {
    json(StatusCode::OK, ResponseBody::whole(bytes))
}

/// 202: a notification or response was accepted.
pub fn accepted() -> Reply {
    status(StatusCode::ACCEPTED)
}

/// A response without a body.
pub fn status(status: StatusCode) -> Reply {
    Reply::new(status, ResponseBody::empty())
}

/// An event stream. Its header fields keep caches and proxies from buffering events.
pub fn events(body: ResponseBody) -> Reply {
    let mut reply = Reply::typed(StatusCode::OK, HeaderValue::from_static(header::EVENT_STREAM), body);
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    reply
}

/// The response for a fault.
#[cold]
pub fn fault(fault: &Fault, request_id: &str) -> Reply {
    let wire = Wire::of(fault);
    let mut reply = json(wire.status, ResponseBody::whole(error_message(fault, wire.code)));
    let headers = reply.headers_mut();
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    match fault.kind {
        FaultKind::Unauthenticated => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"metamcp\""));
        }
        FaultKind::QuotaExceeded => {
            headers.insert(RETRY_AFTER, HeaderValue::from(fault.retry_after_s.map_or(1, NonZeroU32::get)));
        }
        FaultKind::TooManyInFlight
        | FaultKind::Overloaded
        | FaultKind::OutOfMemory
        | FaultKind::ShuttingDown => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        FaultKind::MethodNotAllowed => {
            headers.insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
        }
        _ => {}
    }
    if fault.scope == FaultScope::Connection {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// The last event of a stream that ends with a fault.
#[cold]
pub fn terminal_event(fault: &Fault) -> Bytes {
    let message = error_message(fault, Wire::of(fault).code);
    let mut event = Vec::with_capacity(message.len() + 32);
    event.extend_from_slice(b"event: message\ndata: ");
    event.extend_from_slice(&message);
    event.extend_from_slice(b"\n\n");
    event.into()
}

/// A fault as a JSON-RPC error.
#[cold]
pub fn error(fault: &Fault) -> Bytes {
    error_message(fault, Wire::of(fault).code)
}

/// The JSON-RPC error code of a fault.
#[cold]
pub fn code(fault: &Fault) -> i32 {
    Wire::of(fault).code
}

struct Wire {
    status: StatusCode,
    code: i32,
}

impl Wire {
    /// The status and code of each fault kind (MCP 2026-07-28, errors and transports; the practice of the
    /// Legacy SDKs).
    fn of(fault: &Fault) -> Self {
        let (status, code) = match fault.kind {
            FaultKind::Parse => (StatusCode::BAD_REQUEST, code::PARSE),
            FaultKind::InvalidRequest => (StatusCode::BAD_REQUEST, code::INVALID_REQUEST),
            FaultKind::MalformedParams => (StatusCode::BAD_REQUEST, code::INVALID_PARAMS),
            FaultKind::InvalidParams => (StatusCode::OK, code::INVALID_PARAMS),
            FaultKind::UnknownMethod => (StatusCode::NOT_FOUND, code::METHOD_NOT_FOUND),
            FaultKind::UnknownMethodInSession => (StatusCode::OK, code::METHOD_NOT_FOUND),
            FaultKind::HeaderMismatch => (StatusCode::BAD_REQUEST, code::HEADER_MISMATCH),
            FaultKind::UnsupportedVersion => (StatusCode::BAD_REQUEST, code::UNSUPPORTED_VERSION),
            FaultKind::MissingCapability => (StatusCode::BAD_REQUEST, code::MISSING_CAPABILITY),
            // Not a code of the Modern era, so that a client of both eras falls back to `initialize`.
            FaultKind::EraMismatch | FaultKind::SessionMissing => {
                (StatusCode::BAD_REQUEST, code::LEGACY_TRANSPORT)
            }
            FaultKind::SessionUnknown => (StatusCode::NOT_FOUND, code::LEGACY_TRANSPORT),
            FaultKind::Unauthenticated => (StatusCode::UNAUTHORIZED, code::LEGACY_TRANSPORT),
            FaultKind::Forbidden => (StatusCode::FORBIDDEN, code::LEGACY_TRANSPORT),
            FaultKind::NotFound => (StatusCode::NOT_FOUND, code::LEGACY_TRANSPORT),
            FaultKind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, code::LEGACY_TRANSPORT),
            FaultKind::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, code::LEGACY_TRANSPORT),
            FaultKind::UnsupportedMedia => (StatusCode::UNSUPPORTED_MEDIA_TYPE, code::LEGACY_TRANSPORT),
            FaultKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, code::LEGACY_TRANSPORT),
            FaultKind::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, code::LEGACY_TRANSPORT),
            FaultKind::BodyIncomplete => (StatusCode::BAD_REQUEST, code::PARSE),
            FaultKind::TooManyInFlight | FaultKind::QuotaExceeded => {
                (StatusCode::TOO_MANY_REQUESTS, code::LEGACY_TRANSPORT)
            }
            FaultKind::OutOfMemory => (StatusCode::SERVICE_UNAVAILABLE, code::LEGACY_TRANSPORT),
            FaultKind::Overloaded | FaultKind::ShuttingDown => {
                (StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL)
            }
            FaultKind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, code::INTERNAL),
            FaultKind::Unreachable
            | FaultKind::ConnectionLost
            | FaultKind::InvalidResponse
            | FaultKind::UpstreamRefused => (StatusCode::BAD_GATEWAY, code::INTERNAL),
            FaultKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL),
        };
        // A server's failure is the outcome of one call, not of the connection. Reported by status, it ends
        // whole sessions in clients that raise an error for every 5xx (Python SDK 1.x).
        let in_band = fault.origin == FaultOrigin::Upstream && fault.id.is_some();
        Self { status: if in_band { StatusCode::OK } else { status }, code }
    }
}

fn error_message(fault: &Fault, code: i32) -> Bytes {
    let id = fault.id.as_deref().and_then(|id| std::str::from_utf8(id).ok()).unwrap_or("null");
    let text = serde_json::Value::from(fault.for_client());
    let data = match (&fault.data, fault.origin) {
        (Some(data), _) => String::from_utf8_lossy(data).into_owned(),
        (None, FaultOrigin::Upstream) => json!({"origin": "server", "kind": fault.kind.label()}).to_string(),
        (None, _) => String::new(),
    };
    let data = if data.is_empty() { data } else { format!(",\"data\":{data}") };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text}{data}}}}}"#).into()
}

fn json(status: StatusCode, body: ResponseBody) -> Reply {
    Reply::typed(status, HeaderValue::from_static(header::JSON), body)
}

/// The fault of a path that names no endpoint, or none that the key may use. `name` is that of the path or of the endpoint, as
/// [`Endpoint::display_name`](crate::route::Endpoint::display_name) writes it.
#[cold]
pub fn no_such_endpoint(mode: AuthMode, name: &str) -> Fault {
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    let for_key = match mode {
        AuthMode::Keys => " that this key may use",
        AuthMode::Open => "",
    };
    let text = format!(
        "there is no endpoint `{name}`{for_key}; MCP is at /mcp, /mcp/{{endpoint}}, /metamcp/{{endpoint}}/mcp and \
         /servers/{{server}}/mcp"
    );
    Fault::client(FaultKind::NotFound, text)
}

/// The names of endpoints and servers are shorter.
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fault: &Fault, status: u16, code: i32) {
        let wire = Wire::of(fault);
        assert_eq!((wire.status.as_u16(), wire.code), (status, code));
        let message = error_message(fault, wire.code);
        let value: serde_json::Value = serde_json::from_slice(&message).expect("an error is JSON");
        assert_eq!(value["error"]["code"], code);
    }

    #[test]
    fn faults_on_the_wire() {
        check(&Fault::client(FaultKind::Parse, "a \"quoted\" text"), 400, -32700);
        check(&Fault::client(FaultKind::HeaderMismatch, ""), 400, -32020);
        check(&Fault::client(FaultKind::UnknownMethod, ""), 404, -32601);
        check(&Fault::client(FaultKind::InvalidParams, "").with_data("{\"uri\":\"x\"}"), 200, -32602);
        check(&Fault::gateway(FaultKind::OutOfMemory, ""), 503, -32000);
        check(&Fault::upstream(FaultKind::Unreachable, ""), 502, -32603);
        let answered =
            Fault::upstream(FaultKind::Unreachable, "").with_id(Some(Bytes::from_static(b"\"a\"")));
        check(&answered, 200, -32603);
    }
}
