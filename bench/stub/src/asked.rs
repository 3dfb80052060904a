//! What a message asks for, found by names and not by parsing: the messages of the comparison hold each name once, or
//! first where it counts.

use memchr::memmem;

/// What the answer repeats.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Empty where the message has none.
    pub method: &'a [u8],
    /// As it is written, quotes included; `null` where there is none.
    pub id: &'a [u8],
    /// Likewise; the id where there is none.
    pub token: &'a [u8],
    /// The beginning of the argument `text`.
    pub text: &'a [u8],
    /// The revision that `initialize` names.
    pub revision: &'a [u8],
}

/// Of the argument `text`: what tells one call from another fits, and a large request gets no large answer.
const TEXT_BYTES_MAX: usize = 32;
/// Longer ids than the load and gateways make are cut off, which shows as a wrong answer.
const VALUE_BYTES_MAX: usize = 128;
const TEXT: &[u8] = b"hello";
const REVISION: &[u8] = b"2025-11-25";

impl<'a> Asked<'a> {
    /// Looks for it in a body.
    pub fn of(body: &'a [u8]) -> Self {
        let id = value(body, b"\"id\"").unwrap_or(b"null");
        let text = value(body, b"\"text\"").map_or(TEXT, bare);
        Self {
            method: value(body, b"\"method\"").map_or(b"", bare),
            id,
            token: value(body, b"\"progressToken\"").unwrap_or(id),
            text: &text[..text.len().min(TEXT_BYTES_MAX)],
            revision: value(body, b"\"protocolVersion\"").map_or(REVISION, bare),
        }
    }
}

/// The string or number behind the first mention of a name that is followed by a colon.
fn value<'a>(body: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
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

/// Without quotes, and without what comes behind an escape.
fn bare(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let end = value.iter().position(|byte| *byte == b'"' || *byte == b'\\');
    &value[..end.unwrap_or(value.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: [&str; 5]) {
        let asked = Asked::of(body.as_bytes());
        let found = [asked.method, asked.id, asked.token, asked.text, asked.revision];
        assert_eq!(found.map(|bytes| String::from_utf8_lossy(bytes).into_owned()), expected, "{body}");
    }

    #[test]
    fn bodies() {
        let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"call 7"},"_meta":{"progressToken":"p"}}}"#;
        check(call, ["tools/call", "7", "\"p\"", "call 7", "2025-11-25"]);
        for cut in 0..call.len() {
            Asked::of(&call.as_bytes()[..cut]);
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
