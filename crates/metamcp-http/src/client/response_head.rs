use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use metamcp_core::protocol::header;

/// The fields of a response head that the gateway uses.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub content_type: Option<HeaderValue>,
    /// The value of `Mcp-Session-Id`.
    pub session_id: Option<HeaderValue>,
    /// Whether the body has a Content-Encoding, which no request asks for.
    pub is_encoded: bool,
}

impl ResponseHead {
    /// Takes what the gateway uses from a head that hyper parsed.
    pub fn from_hyper<B>(response: &Response<B>) -> Self {
        let get = |name: &HeaderName| response.headers().get(name);
        Self {
            status: response.status(),
            content_type: get(&CONTENT_TYPE).cloned(),
            session_id: get(&header::SESSION_ID).cloned(),
            is_encoded: get(&CONTENT_ENCODING)
                .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")),
        }
    }

    /// Whether the body is an event stream.
    pub fn is_event_stream(&self) -> bool {
        self.content_type.as_ref().is_some_and(|value| header::is_event_stream(value.as_bytes()))
    }

    /// Whether the body is a JSON message. A body without a type is taken for one.
    pub fn is_json(&self) -> bool {
        self.content_type.as_ref().is_none_or(|value| header::is_json(value.as_bytes()))
    }
}
