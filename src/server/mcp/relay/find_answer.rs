//! Finds the answer to a call in the usual forms of an event stream, without reading its events one by one.

use bytes::Bytes;
use memchr::{memchr, memmem, memrchr};

use metamcp_core::protocol::AnswerMatch;

/// What a search finds in complete events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundAnswer {
    /// No answer, to whichever call.
    None,
    /// One answer to the call, and no other.
    ThisCall,
    /// The events must be read one by one.
    Unclear,
}

/// Searches complete events for answers to the call with the raw id `call`. Only lines that may have a member `result` or
/// `error` are looked at, so that a stream of notifications costs one pass.
pub fn find_answer(events: &[u8], call: &Bytes) -> FoundAnswer {
    // The name of a member may be written with escapes.
    let has_unicode_escape =
        memchr(b'\\', events).is_some_and(|at| memmem::find(&events[at..], br"\u").is_some());
    if has_unicode_escape {
        return FoundAnswer::Unclear;
    }
    let mut found = FoundAnswer::None;
    let mut rest = events;
    while let Some(at) = find_name_end(rest) {
        let start = memrchr(b'\n', &rest[..at]).map_or(0, |end| end + 1);
        let end = memchr(b'\n', &rest[at..]).map_or(rest.len(), |length| at + length);
        let Some(message) = message_of_line(&rest[start..end], &rest[end..]) else {
            return FoundAnswer::Unclear;
        };
        match AnswerMatch::of_text(message, call) {
            AnswerMatch::NotAnswer => {}
            AnswerMatch::ThisCall if found == FoundAnswer::None => found = FoundAnswer::ThisCall,
            _ => return FoundAnswer::Unclear,
        }
        rest = &rest[end..];
    }
    found
}

/// Where the text may name a member `result` or `error`, in upper or lower case: the first end of such a name.
fn find_name_end(text: &[u8]) -> Option<usize> {
    let has_name_end = |block: &[u8; BLOCK_BYTES + 2]| {
        (0..BLOCK_BYTES).fold(false, |is_found, at| is_found | is_name_end(&block[at..at + 3]))
    };
    let find_from = |start: usize| {
        let at = text[start..].windows(3).position(is_name_end)?;
        Some(start + at)
    };
    let mut at = 0;
    while let Some(block) = text[at..].first_chunk() {
        if has_name_end(block) {
            return find_from(at);
        }
        at += BLOCK_BYTES;
    }
    // Less than a block is left. It is read together with the bytes before it, if there are enough.
    if text.last_chunk().is_none_or(has_name_end) { find_from(at) } else { None }
}

/// Read at once, without branches, so that the compiler makes vector instructions of it.
const BLOCK_BYTES: usize = 32;

/// Whether the three bytes are the end of a name `result` or `error`. Without branches.
fn is_name_end(bytes: &[u8]) -> bool {
    let (first, second) = (bytes[0] | 0x20, bytes[1] | 0x20);
    let result = (first ^ b'l') | (second ^ b't');
    let error = (first ^ b'o') | (second ^ b'r');
    (result.min(error) | (bytes[2] ^ b'"')) == 0
}

/// The message in a line without its line feed, if the line is all data of an event, as most servers write it. `rest` follows
/// the line.
fn message_of_line<'a>(line: &'a [u8], rest: &[u8]) -> Option<&'a [u8]> {
    let ends_event = rest.starts_with(b"\n\n") || rest.starts_with(b"\n\r\n");
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // A carriage return ends a line, too.
    line.strip_prefix(b"data: ").filter(|_| ends_event && memchr(b'\r', line).is_none())
}

/// Whether complete events may carry a message: a line of data with an object or an array. It sees messages that an event of
/// several lines hides from clients, but none in a comment or another field.
pub fn may_have_message(events: &[u8]) -> bool {
    memmem::find_iter(events, b"data:").any(|at| {
        let is_line_start = at == 0 || matches!(events[at - 1], b'\n' | b'\r');
        let value = &events[at + "data:".len()..];
        let first = value.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
        is_line_start && matches!(first, Some(b'{' | b'['))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    const TYPESCRIPT: &str = r#"{"result":{},"jsonrpc":"2.0","id":1}"#;

    #[track_caller]
    fn check_exactly(events: &str, expected: FoundAnswer) {
        assert_eq!(find_answer(events.as_bytes(), &Bytes::from_static(b"1")), expected, "{events:?}");
    }

    #[track_caller]
    fn check(events: &str, expected: FoundAnswer) {
        check_exactly(events, expected);
        check_exactly(&events.replace('\n', "\r\n"), expected);
    }

    #[test]
    fn usual_events_are_recognised_without_reading_them_one_by_one() {
        let note =
            r#"data: {"jsonrpc":"2.0","method":"notifications/message","params":{"id":2,"x":"result"}}"#;
        let request =
            r#"data: {"method":"sampling/createMessage","params":{"result":1},"jsonrpc":"2.0","id":2}"#;
        check(&format!("{note}\n\n"), FoundAnswer::None);
        check(
            &format!("{note}\n\n: comment\n\nevent: message\nid: 7\n{request}\n\nretry: 5\n\n"),
            FoundAnswer::None,
        );
        for own in [ANSWER, TYPESCRIPT, r#"{"id": 1, "error": {"error":{}}}"#] {
            check(&format!("{note}\n\nid: 1\ndata: {own}\n\n{request}\n\n"), FoundAnswer::ThisCall);
            check(&format!("data: {own}\n\ndata: {own}\n\n"), FoundAnswer::Unclear);
            check(&format!("data: {own}\ndata: \n\n"), FoundAnswer::Unclear);
            check(&format!("data:{own}\n\n"), FoundAnswer::Unclear);
            for other in [ANSWER, TYPESCRIPT, r#"{"id":1,"error":{}}"#] {
                for id in ["2", "11", "\"1\"", "null", "[1]"] {
                    let other = other.replace(":1", &format!(":{id}"));
                    check(&format!("{note}\n\ndata: {other}\n\n"), FoundAnswer::Unclear);
                    check(&format!("data: {own}\n\ndata: {other}\n\n"), FoundAnswer::Unclear);
                    check(&format!("data: {other}\n\ndata: {own}\n\n"), FoundAnswer::Unclear);
                }
            }
        }
        for unusual in [
            "data: {\"id\":1,\ndata: \"result\":{}}",
            "\u{feff}data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
            r#"data: {"result":{},"\u0069d":2}"#,
            r#"data: {"r\u0065sult":{},"id":2}"#,
            r#"data: {"Result":{},"id":2}"#,
            r#"data: {"ID":2,"ERROR":{}}"#,
            r#"data: {"error":{}}"#,
            r#"data: {"method":"m","id":1,"result":{}}"#,
            r#"data: {"id":1,"result":{}"#,
        ] {
            check(&format!("{note}\n\n{unusual}\n\n"), FoundAnswer::Unclear);
        }
        check_exactly(&format!("{note}\r\rdata: {ANSWER}\r\r"), FoundAnswer::Unclear);
    }

    #[test]
    fn name_ends_are_found_at_every_offset() {
        for length in 0..150 {
            let text = vec![b'a'; length];
            assert_eq!(find_name_end(&text), None, "{length}");
            for at in 0..length.saturating_sub(2) {
                for name_end in [b"lt\"", b"LT\"", b"oR\""] {
                    let mut text = text.clone();
                    text[at..at + 3].copy_from_slice(name_end);
                    assert_eq!(find_name_end(&text), Some(at), "{length}");
                }
            }
        }
        for other in ["or'", "ot\"", "lr\"", "\"lt", "lt"] {
            assert_eq!(find_name_end(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_message_is_data_with_an_object() {
        let check = |events: &str, expected: bool| {
            assert_eq!(may_have_message(events.as_bytes()), expected, "{events:?}");
        };
        for data in ["data:{}", "data: {}", "data:  [{}]", "id: 1\r\ndata: {", ": x\rdata: {}"] {
            check(&format!("{data}\n\n"), true);
        }
        for other in
            ["", ": {}", ": data: {}", "event: data:{}", "data", "data:", "data: 7", "id: {}", "xdata: {}"]
        {
            check(&format!("{other}\n\n"), false);
        }
    }
}
