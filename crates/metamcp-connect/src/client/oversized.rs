//! Finds the id of a message that was too long to be held, from its first and last bytes.

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Returns the id of what may be a request, as written, or `null` if neither end contains it. `None` if the
/// message is not a request: the id of a response may equal that of another request.
pub fn find_request_id(first: &[u8], last: &[u8]) -> Option<String> {
    let members = top_level_members(first);
    let has = |name: &str| members.iter().any(|(key, _)| *key == name.as_bytes());
    if has("result") || has("error") || !(has("method") || has("params")) {
        return None;
    }
    let leading = members.iter().find(|(key, _)| *key == b"id").and_then(|(_, value)| parse_id(value));
    leading.or_else(|| trailing_id(last)).or_else(|| Some("null".to_owned()))
}

/// Finds an id behind the params: if the rest of the message is an object once a brace is put in front of it,
/// the id is on the outermost level.
fn trailing_id(last: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Rest<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    memmem::rfind_iter(last, b"\"id\"").find_map(|at| {
        let object = [b"{", &last[at..]].concat();
        let rest: Rest<'_> = serde_json::from_slice(&object).ok()?;
        parse_id(rest.id.get().as_bytes())
    })
}

/// Accepts a complete string or number.
fn parse_id(value: &[u8]) -> Option<String> {
    let parsed: serde_json::Value = serde_json::from_slice(value).ok()?;
    let is_id = parsed.is_string() || parsed.is_number();
    is_id.then(|| String::from_utf8_lossy(value).into_owned())
}

/// Returns the members of a truncated object: each name, without its quotes, and its value if that is a complete
/// scalar.
fn top_level_members(first: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut members = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    while at < first.len() {
        match first[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let Some(end) = string_end(first, at) else { break };
                let colon = end + leading_blanks(&first[end..]);
                if depth == 1 && first.get(colon) == Some(&b':') {
                    let value = colon + 1 + leading_blanks(&first[colon + 1..]);
                    members.push((&first[at + 1..end - 1], scalar(&first[value..])));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    members
}

/// Returns the string or number at the start of `rest` if something follows it; else nothing.
fn scalar(rest: &[u8]) -> &[u8] {
    let end = match rest.first() {
        Some(b'"') => string_end(rest, 0),
        _ => rest.iter().position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace()),
    };
    end.map_or(&[], |end| &rest[..end])
}

/// Returns the index behind the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn leading_blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: &str, last: &str, expected: Option<&str>) {
        assert_eq!(
            find_request_id(first.as_bytes(), last.as_bytes()).as_deref(),
            expected,
            "{first} ... {last}"
        );
        // However the start is cut, the id found is the same or none.
        for cut in 0..first.len() {
            let found = find_request_id(&first.as_bytes()[..cut], b"");
            let is_known = found.as_deref().is_some_and(|found| found != "null");
            assert!(!is_known || found.as_deref() == expected, "{cut}: {found:?}");
        }
    }

    #[test]
    fn finds_the_id_of_a_request() {
        let call = r#"{"jsonrpc": "2.0", "id": 12, "method":"tools/call","params":{"id":3,"x":"aaa"#;
        check(call, "aaa\"}}", Some("12"));
        check(
            r#"{"method":"tools/call","params":{"x":"aaa"#,
            r#"aa"},"jsonrpc":"2.0","id":"a\"b"}"#,
            Some(r#""a\"b""#),
        );
        check(r#"{"method":"m","params":{"x":"aaa"#, r#"aa","id":7}}"#, Some("null"));
        check(r#"{"method":"m","params":{"x":"aaa"#, r#"aa \"id\":7}"}}"#, Some("null"));
        check(r#"{"method":"m","params":{"x":"aaa"#, r#"aa"},"id":8,"jsonrpc":"2.0"}"#, Some("8"));
        check(r#"{"method":"m","id":{"x":1},"params":{"x":"aaa"#, "\"}}", Some("null"));
    }

    #[test]
    fn a_response_has_no_request_id() {
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"x":"aaa"#, "a\"}}", None);
        check(r#"{"result":{"x":"aaa"#, r#"aa"},"jsonrpc":"2.0","id":5}"#, None);
        check("no JSON at all", "\"id\":1}", None);
        check("", "", None);
    }
}
