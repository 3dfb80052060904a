//! Whether a message is the answer to a call.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memmem, memrchr};

use metamcp_core::frame::Scanner;
use metamcp_core::protocol::{is_answer_to, is_same_id};

/// Whether a server's message may be passed on as the answer to the call with the raw id `id` (JSON-RPC 2.0, section 5).
/// An error may have no id, if the server could not read the request. A text that cannot be read is passed on as it is, for
/// the client to judge.
pub fn is_answer(scanner: &RefCell<Scanner>, message: &Bytes, id: &[u8]) -> bool {
    if begins_with_id(message, id) || ends_with_id(message, id) {
        return true;
    }
    let Ok(envelope) = scanner.borrow_mut().scan(message) else { return true };
    is_answer_to(id, message, &envelope)
}

/// Whether the id comes first, as most servers write it.
fn begins_with_id(message: &[u8], id: &[u8]) -> bool {
    let rest = message.strip_prefix(br#"{"jsonrpc":"2.0","id":"#).and_then(|rest| rest.strip_prefix(id));
    rest.is_some_and(|rest| matches!(rest.first(), Some(b',')))
}

/// Whether the id comes last, as the TypeScript SDK writes it. What precedes the last brace of a JSON object is its own
/// member; a comma in a string would be followed by an escaped quote.
fn ends_with_id(message: &[u8], id: &[u8]) -> bool {
    let rest = message.strip_suffix(b"}").and_then(|rest| rest.strip_suffix(id));
    rest.is_some_and(|rest| rest.ends_with(br#","id":"#))
}

/// What a search finds in a complete part of an event stream.
#[derive(Debug, PartialEq, Eq)]
pub enum FoundAnswer {
    /// No answer, to whichever call.
    None,
    /// One message with the id of the call and no answer to another call. The range is that of the message.
    Own(Range<usize>),
    /// The events must be read one by one.
    Unclear,
}

/// Searches a complete part of an event stream for answers. It knows the usual forms of an answer to the call `id`. Only lines
/// with a member `id` are looked at, so that a stream of notifications costs one search.
pub fn find_answer(events: &[u8], id: &[u8]) -> FoundAnswer {
    const MEMBER: &[u8] = br#""id""#;
    // Its name may be written with escapes.
    if let Some(at) = memchr(b'\\', events)
        && memmem::find(&events[at..], br"\u").is_some()
    {
        return FoundAnswer::Unclear;
    }
    let (mut found, mut offset) = (FoundAnswer::None, 0);
    while let Some(at) = memmem::find(&events[offset..], MEMBER) {
        let at = offset + at;
        let start = memrchr(b'\n', &events[offset..at]).map_or(offset, |end| offset + end + 1);
        offset = memchr(b'\n', &events[at..]).map_or(events.len(), |length| at + length);
        let Some(message) = data_of_line(&events[start..offset]) else { return FoundAnswer::Unclear };
        if begins_with_method(message) {
            continue;
        }
        let is_own = begins_with_id(message, id) || ends_with_id(message, id);
        if !is_own || found != FoundAnswer::None {
            return FoundAnswer::Unclear;
        }
        let start = start + DATA_FIELD.len();
        found = FoundAnswer::Own(start..start + message.len());
    }
    found
}

/// The start of a line that carries data of an event, as servers write it.
const DATA_FIELD: &[u8] = b"data: ";

/// The message in a line without its line feed, if the line is all data of an event.
fn data_of_line(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // A carriage return ends a line too.
    line.strip_prefix(DATA_FIELD).filter(|_| memchr(b'\r', line).is_none())
}

/// Whether the method comes first, as in nearly all requests and notifications. Such a message is not an answer.
fn begins_with_method(message: &[u8]) -> bool {
    [&br#"{"jsonrpc":"2.0","method":"#[..], br#"{"method":"#].iter().any(|start| message.starts_with(start))
}

/// What the start of a long message tells about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageStart {
    /// The answer to the call.
    Own,
    /// The answer to another call.
    Foreign,
    /// An answer, whose id follows.
    Answer,
    /// A request or a notification.
    Other,
    /// It is in no usual form.
    Unknown,
}

/// Checks the id of an answer that is passed on in parts, by its first and its last bytes. Only the usual positions of the
/// id are known: an id elsewhere is not checked.
pub struct LongAnswerCheck {
    id: Bytes,
    /// The last bytes of the answer so far, at most [`TAIL_BYTES_MAX`].
    tail: Vec<u8>,
}

/// Ids are numbers or UUIDs. The last 256 bytes have room for an id four times as long.
const TAIL_BYTES_MAX: usize = 256;

impl LongAnswerCheck {
    /// For the call with the raw id `id`.
    pub fn new(id: Bytes) -> Self {
        Self { id, tail: Vec::new() }
    }

    /// Whether the answer that begins with these bytes is for another call.
    pub fn is_foreign_at_start(&self, first: &[u8]) -> bool {
        let Some(rest) = first.strip_prefix(br#"{"jsonrpc":"2.0","id":"#) else { return false };
        let end = rest.iter().take(TAIL_BYTES_MAX).position(|byte| *byte == b',');
        end.is_some_and(|end| self.is_other_id(&rest[..end]))
    }

    /// What the first bytes of a message in an event stream, which may also be none of an answer, tell about it.
    pub fn read_start(&self, first: &[u8]) -> MessageStart {
        let is_outcome =
            |rest: &[u8]| [&br#""result":"#[..], br#""error":"#].iter().any(|name| rest.starts_with(name));
        let Some(members) = first.strip_prefix(b"{") else { return MessageStart::Unknown };
        let members = members.strip_prefix(br#""jsonrpc":"2.0","#).unwrap_or(members);
        if is_outcome(members) {
            return MessageStart::Answer;
        }
        let Some(rest) = members.strip_prefix(br#""id":"#) else {
            let is_other = members.starts_with(br#""method":"#);
            return if is_other { MessageStart::Other } else { MessageStart::Unknown };
        };
        match rest.iter().take(TAIL_BYTES_MAX).position(|byte| *byte == b',') {
            Some(end) if !is_outcome(&rest[end + 1..]) => MessageStart::Unknown,
            Some(end) if is_same_id(&rest[..end], &self.id) => MessageStart::Own,
            Some(end) if self.is_other_id(&rest[..end]) => MessageStart::Foreign,
            _ => MessageStart::Unknown,
        }
    }

    /// Notes the next bytes of the answer.
    pub fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let excess = (self.tail.len() + kept.len()).saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..excess);
        self.tail.extend_from_slice(kept);
    }

    /// Whether the complete answer is for another call.
    pub fn is_foreign_at_end(&self) -> bool {
        const MEMBER: &[u8] = br#","id":"#;
        let tail = self.tail.trim_ascii_end();
        let Some(rest) = tail.strip_suffix(b"}") else { return false };
        let start = memmem::rfind(rest, MEMBER).map(|at| at + MEMBER.len());
        start.is_some_and(|start| self.is_other_id(&rest[start..]))
    }

    /// Whether the complete message ends with the id of the call, as its last member.
    pub fn is_own_at_end(&self) -> bool {
        ends_with_id(self.tail.trim_ascii_end(), &self.id)
    }

    /// Whether these bytes are a whole JSON id, and not that of the call. `null` stands for an unknown id.
    fn is_other_id(&self, raw: &[u8]) -> bool {
        let is_number = raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') && !raw.is_empty();
        let is_string = || matches!(raw, [b'"', inner @ .., b'"'] if !inner.iter().any(|byte| matches!(byte, b'"' | b'\\')));
        (is_number || is_string()) && !is_same_id(raw, &self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, id: &str, expected: bool) {
        let message = Bytes::copy_from_slice(message.as_bytes());
        assert_eq!(is_answer(&RefCell::default(), &message, id.as_bytes()), expected, "{message:?} {id}");
    }

    #[test]
    fn answers_have_the_id_of_the_call() {
        let result = |id: &str| {
            [
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#),
                format!(r#"{{"result":{{"id":7}},"jsonrpc":"2.0","id":{id}}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"m"}}}}"#),
                format!(" {{ \"id\" : {id} , \"jsonrpc\" : \"2.0\", \"result\" : {{ }} }} "),
            ]
        };
        for (id, other) in
            [("1", "2"), ("1", "11"), ("11", "1"), ("\"a\"", "\"b\""), ("1", "\"1\""), ("\"1\"", "1")]
        {
            for message in result(id) {
                check(&message, id, true);
                check(&message, other, false);
            }
        }
        for message in result(r#""\u0061""#) {
            check(&message, "\"a\"", true);
        }
    }

    #[test]
    fn an_error_may_lack_an_id_and_nothing_else_may() {
        check(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#, "1", true);
        check(r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#, "1", true);
        check(r#"{"jsonrpc":"2.0","method":"notifications/message"}"#, "1", false);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "2", false);
        // No messages: the client judges them.
        check(r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, "1", true);
        check("<html>", "1", true);
        check("", "1", true);
    }

    #[test]
    fn an_id_in_a_string_is_none() {
        check(r#"{"jsonrpc":"2.0","result":{"x":",\"id\":1}"},"id":2}"#, "1", false);
        check(r#"{"jsonrpc":"2.0","id":2,"result":{"x":[{"id":1}]}}"#, "1", false);
        check(r#"{"jsonrpc":"2.0","id":2,"result":{"a":0,"id":1}}"#, "1", false);
    }

    #[test]
    fn usual_events_are_recognised_without_parsing() {
        const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        const TYPESCRIPT: &str = r#"{"result":{},"jsonrpc":"2.0","id":1}"#;
        // `expected`: `None` if the events must be read, else the message with the id of the call.
        let check_as = |events: &str, expected: Option<&str>| {
            let found = match find_answer(events.as_bytes(), b"1") {
                FoundAnswer::None => Some(""),
                FoundAnswer::Own(range) => Some(&events[range]),
                FoundAnswer::Unclear => None,
            };
            assert_eq!(found, expected, "{events:?}");
        };
        let check = |events: &str, expected: Option<&str>| {
            check_as(events, expected);
            check_as(&events.replace('\n', "\r\n"), expected);
        };
        let note = r#"data: {"jsonrpc":"2.0","method":"notifications/message","params":{"id":2}}"#;
        let request = r#"data: {"method":"sampling/createMessage","params":{},"jsonrpc":"2.0","id":2}"#;
        check(&format!("{note}\n\n"), Some(""));
        check(&format!("{note}\n\n: comment\n\nevent: message\nid: 7\n{request}\n\nretry: 5\n\n"), Some(""));
        for own in [ANSWER, TYPESCRIPT] {
            check(&format!("{note}\n\nid: 1\ndata: {own}\n\n{request}\n\n"), Some(own));
            check(&format!("data: {own}\n\ndata: {own}\n\n"), None);
            for id in ["2", "11", "\"1\""] {
                let foreign = own.replace(":1", &format!(":{id}"));
                check(&format!("{note}\n\ndata: {foreign}\n\n"), None);
                check(&format!("data: {own}\n\ndata: {foreign}\n\n"), None);
            }
        }
        // Unusual forms are left to a reader of events.
        for unusual in [
            r#"data:{"id":1,"result":{}}"#,
            r#"data: {"result":{},"id":1 }"#,
            "data: {\"id\":1,\ndata: \"result\":{}}",
            "\u{feff}data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
            r#"data: {"result":{},"\u0069d":2}"#,
            r#"data: {"error":{},"id":2}"#,
        ] {
            check(&format!("{note}\n\n{unusual}\n\n"), None);
        }
        // Nothing without an id is an answer to another call.
        for other in ["data: 7", "data:{\"result\":{}}", "note", "data: {\ndata: }", "data: \"\\n\""] {
            check(&format!("{note}\n\n{other}\n\n"), Some(""));
        }
        check_as(&format!("{note}\r\rdata: {{\"id\":2,\"result\":{{}}}}\r\r"), None);
    }

    #[test]
    fn a_long_answer_is_checked_at_both_ends() {
        let long = "x".repeat(1000);
        for (id, own) in [("1", true), ("2", false), ("\"1\"", false), ("\"\\u0031\"", true), ("null", true)]
        {
            let first = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"{long}"}}"#);
            let last = format!(r#"{{"result":{{"id":2,"x":"{long}"}},"jsonrpc":"2.0","id":{id}}}"#);
            for size in [1, 7, 300, 4096] {
                for (message, expected) in [(&first, [own, true]), (&last, [true, own])] {
                    let mut answer = LongAnswerCheck::new(Bytes::from_static(b"1"));
                    assert_eq!(
                        !answer.is_foreign_at_start(message.as_bytes()),
                        expected[0],
                        "{id} {message}"
                    );
                    message.as_bytes().chunks(size).for_each(|part| answer.push(part));
                    assert_eq!(!answer.is_foreign_at_end(), expected[1], "{id} {size} {message}");
                }
            }
        }
    }

    #[test]
    fn the_start_of_a_long_message_tells_what_it_is() {
        let check = |first: &str, expected: MessageStart| {
            let check = LongAnswerCheck::new(Bytes::from_static(b"1"));
            assert_eq!(check.read_start(first.as_bytes()), expected, "{first}");
        };
        for outcome in ["result", "error"] {
            check(&format!(r#"{{"jsonrpc":"2.0","id":1,"{outcome}":{{"#), MessageStart::Own);
            check(&format!(r#"{{"id":1,"{outcome}":{{"#), MessageStart::Own);
            check(&format!(r#"{{"jsonrpc":"2.0","id":2,"{outcome}":{{"#), MessageStart::Foreign);
            check(&format!(r#"{{"jsonrpc":"2.0","id":"1","{outcome}":{{"#), MessageStart::Foreign);
            check(&format!(r#"{{"jsonrpc":"2.0","{outcome}":{{"id":2"#), MessageStart::Answer);
            check(&format!(r#"{{"{outcome}":{{"id":2"#), MessageStart::Answer);
            check(&format!(r#"{{ "{outcome}":{{"#), MessageStart::Unknown);
            check(&format!(r#"{{"jsonrpc":"2.0","id":[1,"{outcome}":{{"#), MessageStart::Unknown);
        }
        check(r#"{"jsonrpc":"2.0","method":"notifications/message","#, MessageStart::Other);
        check(r#"{"method":"sampling/createMessage","params":{"#, MessageStart::Other);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","#, MessageStart::Unknown);
        check("", MessageStart::Unknown);
        check("text", MessageStart::Unknown);
    }

    #[test]
    fn an_id_elsewhere_is_not_judged() {
        for message in [
            r#"{"jsonrpc":"2.0","result":{"x":[{"a":0,"id":2}]}}"#,
            r#"{"jsonrpc":"2.0","result":",\"id\":2}"}"#,
            r#"{"id":2,"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{},"id":{"a":1}}"#,
            "",
        ] {
            let mut answer = LongAnswerCheck::new(Bytes::from_static(b"1"));
            answer.push(message.as_bytes());
            assert!(
                !answer.is_foreign_at_start(message.as_bytes()) && !answer.is_foreign_at_end(),
                "{message}"
            );
        }
    }
}
