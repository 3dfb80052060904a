//! Whose a message is of which only both ends are known, for it was too long to be held.

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The id of what may be a request, as it was written; `null` where the ends do not tell it. `None` for what is
/// none: the id of an answer is of another's request, and may be one of the client's own too.
pub fn id(first: &[u8], last: &[u8]) -> Option<String> {
    let known = members(first);
    let has = |name: &str| known.iter().any(|(key, _)| *key == name.as_bytes());
    if has("result") || has("error") || !(has("method") || has("params")) {
        return None;
    }
    let of_first = known.iter().find(|(key, _)| *key == b"id").and_then(|(_, value)| raw(value));
    of_first.or_else(|| of_end(last)).or_else(|| Some("null".to_owned()))
}

/// What stands behind the params: where the rest of the message is an object when a brace is put in front of it, it
/// is on the outermost level.
fn of_end(last: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Rest<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    memmem::rfind_iter(last, b"\"id\"").find_map(|at| {
        let object = [b"{", &last[at..]].concat();
        let rest: Rest<'_> = serde_json::from_slice(&object).ok()?;
        raw(rest.id.get().as_bytes())
    })
}

/// A text or a number, complete.
fn raw(value: &[u8]) -> Option<String> {
    let read: serde_json::Value = serde_json::from_slice(value).ok()?;
    let is_id = read.is_string() || read.is_number();
    is_id.then(|| String::from_utf8_lossy(value).into_owned())
}

/// The members of an object that is cut off somewhere: each name, without its quotes, and its value if that is whole
/// and no object or list.
fn members(first: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    while at < first.len() {
        match first[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let Some(end) = string_end(first, at) else { break };
                let behind = end + blanks(&first[end..]);
                if depth == 1 && first.get(behind) == Some(&b':') {
                    let value = behind + 1 + blanks(&first[behind + 1..]);
                    found.push((&first[at + 1..end - 1], scalar(&first[value..])));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// A text or a number that something stands behind; else nothing.
fn scalar(rest: &[u8]) -> &[u8] {
    let end = match rest.first() {
        Some(b'"') => string_end(rest, 0),
        _ => rest.iter().position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace()),
    };
    end.map_or(&[], |end| &rest[..end])
}

/// Behind the closing quote of the text that begins at `start`.
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

fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: &str, last: &str, expected: Option<&str>) {
        assert_eq!(id(first.as_bytes(), last.as_bytes()).as_deref(), expected, "{first} ... {last}");
        // Cut anywhere, it tells the same or nothing.
        for cut in 0..first.len() {
            let found = id(&first.as_bytes()[..cut], b"");
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
    fn an_answer_is_told_nothing() {
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"x":"aaa"#, "a\"}}", None);
        check(r#"{"result":{"x":"aaa"#, r#"aa"},"jsonrpc":"2.0","id":5}"#, None);
        check("no JSON at all", "\"id\":1}", None);
        check("", "", None);
    }
}
