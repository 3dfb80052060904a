//! Header fields of the Streamable HTTP transport.

use http::HeaderName;

/// The revision of a request.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Mirrors `method` (2026-07-28).
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// Mirrors `params.name` or `params.uri` (2026-07-28).
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Mirrors arguments that the tool's schema marks; the rest of the name follows (2026-07-28).
pub const PARAM_PREFIX: &str = "mcp-param-";
/// The id of a Legacy session.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Where a broken stream is to be taken up again.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Both forms in which a server may answer.
pub const ACCEPT_BOTH: &str = "application/json, text/event-stream";
/// A JSON body.
pub const JSON: &str = "application/json";
/// Messages of a framed stream, each on a line of its own.
pub const LINES: &str = "application/x-ndjson";
/// Messages of a framed stream, each behind a fixed header.
pub const FRAMES: &str = "application/vnd.metamcp.frames";
/// An event stream.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Whether a Content-Type is that of JSON.
pub fn is_json(value: &[u8]) -> bool {
    is_media_type(value, JSON)
}

/// Whether a Content-Type is that of an event stream.
pub fn is_event_stream(value: &[u8]) -> bool {
    is_media_type(value, EVENT_STREAM)
}

/// Whether a media type is this one, whatever its parameters (RFC 9110, section 8.3.1).
pub fn is_media_type(value: &[u8], wanted: &str) -> bool {
    // Nearly every value is one type and nothing else: its length tells most of what there is to know.
    if value.len() <= wanted.len() {
        return value.eq_ignore_ascii_case(wanted.as_bytes());
    }
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
}

/// The value of Content-Length: `1*DIGIT` (RFC 9110, section 8.6), of a size that cannot overflow.
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
    fn types_and_their_parameters() {
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
        // Some of them as long as the name itself.
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
