//! The encoding of `Mcp-Name` and `Mcp-Param-*` headers: plain text where HTTP can carry it, otherwise `=?base64?`, standard
//! base64 of its UTF-8, and `?=` (MCP 2026-07-28, Streamable HTTP, request headers).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BASE64_PREFIX: &str = "=?base64?";
const BASE64_SUFFIX: &str = "?=";

/// An invalid header value. The response to it is HTTP 400 with `HeaderMismatch` (-32020).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderValueError {
    /// It has control characters or bytes outside ASCII.
    #[error("the header holds characters that must be sent as =?base64?...?=")]
    Characters,
    /// It is not base64 between the markers.
    #[error("the header is not valid standard base64 between =?base64? and ?=")]
    Base64,
    /// It is base64 of bytes that are not UTF-8.
    #[error("the header is base64 of bytes that are not UTF-8")]
    Utf8,
}

/// Decodes a header value. A value without both markers is literal.
///
/// # Errors
/// [`HeaderValueError`].
pub fn decode_header_value(value: &[u8]) -> Result<Cow<'_, str>, HeaderValueError> {
    let text = std::str::from_utf8(value).map_err(|_| HeaderValueError::Characters)?;
    if !text.bytes().all(is_plain) {
        return Err(HeaderValueError::Characters);
    }
    let Some(payload) = base64_payload(text) else { return Ok(Cow::Borrowed(text)) };
    let decoded = STANDARD.decode(payload).map_err(|_| HeaderValueError::Base64)?;
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| HeaderValueError::Utf8)
}

/// Encodes a text as a header value that HTTP allows.
pub fn encode_header_value(text: &str) -> Cow<'_, str> {
    let is_edge_space = |byte: Option<u8>| matches!(byte, Some(b' ' | b'\t'));
    let can_be_plain = text.bytes().all(is_plain)
        && !is_edge_space(text.bytes().next())
        && !is_edge_space(text.bytes().next_back())
        && base64_payload(text).is_none();
    if can_be_plain {
        return Cow::Borrowed(text);
    }
    let mut value = String::from(BASE64_PREFIX);
    STANDARD.encode_string(text, &mut value);
    value.push_str(BASE64_SUFFIX);
    Cow::Owned(value)
}

/// Visible ASCII, space and tab.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

fn base64_payload(text: &str) -> Option<&str> {
    text.strip_prefix(BASE64_PREFIX)?.strip_suffix(BASE64_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, header: &str) {
        assert_eq!(encode_header_value(text), header, "{text:?}");
        assert_eq!(decode_header_value(header.as_bytes()).as_deref(), Ok(text), "{header:?}");
    }

    fn check_decode(header: &[u8], expected: Result<&str, HeaderValueError>) {
        assert_eq!(decode_header_value(header).as_deref(), expected.as_deref(), "{header:?}");
    }

    #[test]
    fn values_are_encoded_and_decoded() {
        check("echo", "echo");
        check("", "");
        check("a b\tc ~", "a b\tc ~");
        check("file:///tmp/x?y=1", "file:///tmp/x?y=1");
        check(" a", "=?base64?IGE=?=");
        check("a\t", "=?base64?YQk=?=");
        check("héllo", "=?base64?aMOpbGxv?=");
        check("a\r\nX-Evil: 1", "=?base64?YQ0KWC1FdmlsOiAx?=");
        check("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?=");
        check("=?base64?no tail", "=?base64?no tail");
        check("=?BASE64?YQ==?=", "=?BASE64?YQ==?=");
        // One character short of both markers: literal.
        check("=?base64?=", "=?base64?=");
    }

    #[test]
    fn values_are_decoded() {
        check_decode(b"=?base64?YQ==?=", Ok("a"));
        check_decode(b"=?base64??=", Ok(""));
        check_decode(b"=?base64?YQ?=", Err(HeaderValueError::Base64));
        check_decode(b"=?base64?Y*==?=", Err(HeaderValueError::Base64));
        check_decode(b"=?base64?YR==?=", Err(HeaderValueError::Base64));
        check_decode(b"=?base64?_-8=?=", Err(HeaderValueError::Base64));
        check_decode(b"=?base64?/w==?=", Err(HeaderValueError::Utf8));
        check_decode(b"a\x00b", Err(HeaderValueError::Characters));
        check_decode(b"a\x7f", Err(HeaderValueError::Characters));
        check_decode("é".as_bytes(), Err(HeaderValueError::Characters));
        check_decode(b"\xff", Err(HeaderValueError::Characters));
    }

    proptest::proptest! {
        #[test]
        fn every_text_round_trips(text in ".*") {
            let header = encode_header_value(&text);
            proptest::prop_assert!(header.bytes().all(is_plain));
            let decoded = decode_header_value(header.as_bytes());
            proptest::prop_assert_eq!(decoded.as_deref(), Ok(text.as_str()));
        }
    }
}
