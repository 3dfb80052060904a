//! Finds the parts of a request that the response repeats, by searching for their names instead of parsing. In the messages of
//! the comparison each name occurs once, or first where it counts.

use memchr::memmem;

/// The parts of a request that the response repeats.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestParts<'a> {
    /// Empty if the message has none.
    pub method: &'a [u8],
    /// The raw id; `null` if there is none.
    pub id: &'a [u8],
    /// The raw progress token; the id if there is none.
    pub token: &'a [u8],
    /// The start of the argument `text`.
    pub text: &'a [u8],
    /// The revision that `initialize` requests.
    pub revision: &'a [u8],
}

/// Bytes of the argument `text` that are repeated: enough to tell calls apart, while a large request gets a small response.
const TEXT_BYTES_MAX: usize = 32;
/// The longest id. A longer one would be truncated, which the load reports as a wrong response.
const VALUE_BYTES_MAX: usize = 128;
const DEFAULT_TEXT: &[u8] = b"hello";
const DEFAULT_REVISION: &[u8] = b"2025-11-25";

impl<'a> RequestParts<'a> {
    /// Finds the parts in a body.
    pub fn find(body: &'a [u8]) -> Self {
        let id = find_value(body, b"\"id\"").unwrap_or(b"null");
        let text = find_value(body, b"\"text\"").map_or(DEFAULT_TEXT, unquote);
        Self {
            method: find_value(body, b"\"method\"").map_or(b"", unquote),
            id,
            token: find_value(body, b"\"progressToken\"").unwrap_or(id),
            text: &text[..text.len().min(TEXT_BYTES_MAX)],
            revision: find_value(body, b"\"protocolVersion\"").map_or(DEFAULT_REVISION, unquote),
        }
    }
}

/// Returns the string or number after the first occurrence of a name that a colon follows.
fn find_value<'a>(body: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    memmem::find_iter(body, name).find_map(|at| {
        let rest = body[at + name.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let rest = &rest[..rest.len().min(VALUE_BYTES_MAX)];
        let end = if rest.first() == Some(&b'"') {
            rest.iter().skip(1).position(|byte| *byte == b'"').map(|end| end + 2)
        } else {
            rest.iter().position(|byte| b",}] \r\n\t".contains(byte))
        };
        Some(&rest[..end.unwrap_or(rest.len())])
    })
}

/// Removes the quotes, and everything from the first escape on.
fn unquote(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let end = value.iter().position(|byte| *byte == b'"' || *byte == b'\\');
    &value[..end.unwrap_or(value.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: [&str; 5]) {
        let parts = RequestParts::find(body.as_bytes());
        let found = [parts.method, parts.id, parts.token, parts.text, parts.revision];
        assert_eq!(found.map(|bytes| String::from_utf8_lossy(bytes).into_owned()), expected, "{body}");
    }

    #[test]
    fn parts_are_found() {
        let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"call 7"},"_meta":{"progressToken":"p"}}}"#;
        check(call, ["tools/call", "7", "\"p\"", "call 7", "2025-11-25"]);
        for cut in 0..call.len() {
            RequestParts::find(&call.as_bytes()[..cut]);
        }
        check(
            r#"{"method": "initialize", "id": "a", "params": {"protocolVersion": "2025-06-18"}}"#,
            ["initialize", "\"a\"", "\"a\"", "hello", "2025-06-18"],
        );
        check(
            r#"{"method":"notifications/initialized"}"#,
            ["notifications/initialized", "null", "null", "hello", "2025-11-25"],
        );
        check(r#"{"name":"id","id":1,"text":"a\nb"}"#, ["", "1", "1", "a", "2025-11-25"]);
        check(
            &format!(r#"{{"id":2,"text":"{}"}}"#, "x".repeat(1000)),
            ["", "2", "2", &"x".repeat(TEXT_BYTES_MAX), "2025-11-25"],
        );
    }
}
