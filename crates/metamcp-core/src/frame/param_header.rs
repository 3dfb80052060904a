//! The values of the `Mcp-Name` and `Mcp-Param-*` headers: text as it is where HTTP can carry it, and
//! `=?base64?` + standard base64 of its UTF-8 + `?=` where it cannot (MCP 2026-07-28, Streamable HTTP,
//! request headers).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const SENTINEL_HEAD: &str = "=?base64?";
const SENTINEL_TAIL: &str = "?=";

/// A header value that stands for no text. The answer to it is HTTP 400 with `HeaderMismatch` (-32020).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderValueError {
    /// Control characters, or bytes outside ASCII.
    #[error("the header holds characters that must be sent as =?base64?...?=")]
    Characters,
    /// Not base64 between the markers.
    #[error("the header is not valid standard base64 between =?base64? and ?=")]
    Base64,
    /// Base64 of something else than UTF-8.
    #[error("the header is base64 of bytes that are not UTF-8")]
    Utf8,
}

/// The text that a header value stands for. A value that lacks one of the markers is literal.
///
/// # Errors
/// [`InvalidHeader`].
pub fn decode_header_value(value: &[u8]) -> Result<Cow<'_, str>, HeaderValueError> {
    let text = std::str::from_utf8(value).map_err(|_| HeaderValueError::Characters)?;
    if !text.bytes().all(is_plain) {
        return Err(HeaderValueError::Characters);
    }
    let Some(payload) = sentinel_payload(text) else { return Ok(Cow::Borrowed(text)) };
    let decoded = STANDARD.decode(payload).map_err(|_| HeaderValueError::Base64)?;
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| HeaderValueError::Utf8)
}

/// The header value that stands for a text: always one that HTTP allows.
pub fn encode_header_value(text: &str) -> Cow<'_, str> {
    let is_edge_space = |byte: Option<u8>| matches!(byte, Some(b' ' | b'\t'));
    let plain = text.bytes().all(is_plain)
        && !is_edge_space(text.bytes().next())
        && !is_edge_space(text.bytes().next_back())
        && sentinel_payload(text).is_none();
    if plain {
        return Cow::Borrowed(text);
    }
    let mut value = String::from(SENTINEL_HEAD);
    STANDARD.encode_string(text, &mut value);
    value.push_str(SENTINEL_TAIL);
    Cow::Owned(value)
}

/// Visible ASCII, space and tab.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

fn sentinel_payload(text: &str) -> Option<&str> {
    text.strip_prefix(SENTINEL_HEAD)?.strip_suffix(SENTINEL_TAIL)
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
    fn both_ways() {
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
    fn only_read() {
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
        fn every_text_comes_back(text in ".*") {
            let header = encode_header_value(&text);
            proptest::prop_assert!(header.bytes().all(is_plain));
            let decoded = decode_header_value(header.as_bytes());
            proptest::prop_assert_eq!(decoded.as_deref(), Ok(text.as_str()));
        }
    }
}
