//! Headers and content types of the Streamable HTTP transport.

use http::HeaderName;

/// The revision of a request.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// A copy of `method` (2026-07-28).
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// A copy of `params.name` or `params.uri` (2026-07-28).
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// The prefix of headers with copies of arguments that the tool's schema annotates (2026-07-28).
pub const PARAM_PREFIX: &str = "mcp-param-";
/// The id of a Legacy session.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// The event behind which a stream is resumed.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// `Accept` of a request: both content types that a server may respond with.
pub const ACCEPT_BOTH: &str = "application/json, text/event-stream";
pub const JSON: &str = "application/json";
/// A framed stream with one message per line.
pub const LINES: &str = "application/x-ndjson";
/// A framed stream with a fixed header before each message.
pub const FRAMES: &str = "application/vnd.metamcp.frames";
pub const EVENT_STREAM: &str = "text/event-stream";

/// Whether a Content-Type is that of JSON.
pub fn is_json(value: &[u8]) -> bool {
    is_media_type(value, JSON)
}

/// Whether a Content-Type is that of an event stream.
pub fn is_event_stream(value: &[u8]) -> bool {
    is_media_type(value, EVENT_STREAM)
}

/// Whether a media type equals `wanted`, without regard to its parameters (RFC 9110, section 8.3.1).
pub fn is_media_type(value: &[u8], wanted: &str) -> bool {
    // Nearly every value has no parameters, so comparing lengths decides first.
    if value.len() <= wanted.len() {
        return value.eq_ignore_ascii_case(wanted.as_bytes());
    }
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
}

/// Parses Content-Length: `1*DIGIT` (RFC 9110, section 8.6), with at most 15 digits so that it cannot overflow.
pub fn parse_content_length(value: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 15;
    if value.is_empty() || value.len() > DIGITS_MAX {
        return None;
    }
    value.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Some(sum * 10 + u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_ignored() {
        let check =
            |value: &str, expected: bool| assert_eq!(is_json(value.as_bytes()), expected, "{value:?}");
        for value in [
            "application/json",
            "Application/JSON",
            " application/json ",
            "application/json;",
            "application/json ; a=b",
        ] {
            check(value, true);
        }
        // Some have the same length as the type.
        for value in [
            "",
            ";",
            "application/jso",
            "application/jso;",
            "application/jso ",
            "application/jsonx",
            "text/event-stream",
        ] {
            check(value, false);
        }
    }
}
