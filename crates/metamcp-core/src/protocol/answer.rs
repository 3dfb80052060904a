//! Which call a message answers.

use bytes::Bytes;

use super::message_id::is_same_id;
use crate::frame::{
    Envelope, IdForm, MessageKind, Outline, OutlineId, OutlineReader, Span, object_end, splice,
};

/// How a message relates to a call (JSON-RPC 2.0, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerMatch {
    /// A request or a notification.
    NotAnswer,
    /// An answer, whose id has not been read.
    Unidentified,
    /// The answer to the call.
    ThisCall,
    /// An error without an id: its sender could not read the request.
    ErrorWithoutId,
    /// The answer to another call, or one that no parser can assign to this one for sure.
    OtherCall,
    /// Not a JSON object, nor an array of objects, or not a complete one.
    Unreadable,
}

impl AnswerMatch {
    /// For an answer with this raw id. `id` is `None` if it has no id, or a `null`.
    pub fn of_answer(id: Option<&[u8]>, is_error: bool, call: &[u8]) -> Self {
        match id {
            Some(id) if is_same_id(id, call) => Self::ThisCall,
            None if is_error => Self::ErrorWithoutId,
            Some(_) | None => Self::OtherCall,
        }
    }

    /// For a scanned message. `call` is the raw id of the call.
    pub fn of_envelope(message: &[u8], envelope: &Envelope, call: &[u8]) -> Self {
        let is_error = envelope.kind == MessageKind::Error;
        if !is_error && envelope.kind != MessageKind::Response {
            return Self::NotAnswer;
        }
        let id = envelope.id.filter(|id| id.form != IdForm::Null);
        Self::of_answer(id.map(|id| id.span.slice(message)), is_error, call)
    }

    /// For a whole text, which may also be an array of messages with one answer in it.
    pub fn of_text(text: &[u8], call: &Bytes) -> Self {
        if is_usual_answer(text, call) {
            return Self::ThisCall;
        }
        let mut reader = AnswerReader::new(call.clone());
        reader.push(text);
        reader.finish()
    }

    /// For the outline of a message. It is complete, or still being read.
    fn of_outline(outline: &Outline, is_complete: bool, call: &[u8]) -> Self {
        if !outline.has_result && !outline.has_error {
            return Self::NotAnswer;
        }
        if outline.has_method {
            return Self::OtherCall;
        }
        let id = match &outline.id {
            OutlineId::Invalid => return Self::OtherCall,
            OutlineId::Missing if !is_complete => return Self::Unidentified,
            OutlineId::Raw(raw) if raw != b"null" => Some(&raw[..]),
            OutlineId::Missing | OutlineId::Raw(_) => None,
        };
        Self::of_answer(id, outline.has_error && !outline.has_result, call)
    }

    /// Whether the message may be passed on as the answer to the call.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::ThisCall | Self::ErrorWithoutId)
    }
}

/// Whether a text is a result under this id in one of the two forms that nearly all servers write: the id before the result,
/// or at the end. It takes a third of the instructions of reading all members. What it accepts, [`AnswerReader`] accepts.
fn is_usual_answer(text: &[u8], call: &[u8]) -> bool {
    let id_first = || {
        let rest = text.strip_prefix(br#"{"jsonrpc":"2.0","id":"#)?.strip_prefix(call)?;
        let result = rest.strip_prefix(br#","result":"#)?;
        Some(&result[object_end(result)?..] == b"}")
    };
    let id_last = || {
        let result = text.strip_prefix(br#"{"result":"#)?;
        let rest = result[object_end(result)?..].strip_prefix(br#","jsonrpc":"2.0","id":"#)?;
        Some(rest.strip_prefix(call)? == b"}")
    };
    id_first().or_else(id_last).unwrap_or_default()
}

/// The body of a fuzz target: a whole text is judged as one that passes in parts. Panics otherwise.
#[cfg(any(test, feature = "fuzzing"))]
pub fn texts_agree(text: &[u8]) {
    for call in ["1", "\"a\""] {
        let call = Bytes::from_static(call.as_bytes());
        let mut reader = AnswerReader::new(call.clone());
        text.chunks(1).for_each(|byte| reader.push(byte));
        assert_eq!(AnswerMatch::of_text(text, &call), reader.finish(), "{}", String::from_utf8_lossy(text));
    }
}

/// The escapes of an id that are buffered beyond its own length. Clients' ids have under a hundred bytes.
const ESCAPE_BYTES_MAX: usize = 4 << 10;

/// Finds out which call a message answers that passes in parts.
#[derive(Debug)]
pub struct AnswerReader {
    outline: OutlineReader,
    /// The raw id of the call.
    call: Bytes,
    /// Of the complete messages.
    complete: AnswerMatch,
}

impl AnswerReader {
    /// For the call with the raw id `call`.
    pub fn new(call: Bytes) -> Self {
        // The same id may be written with escapes of six bytes for each byte.
        let id_bytes_max = call.len() + (5 * call.len()).min(ESCAPE_BYTES_MAX) + 2;
        Self { outline: OutlineReader::new(id_bytes_max), call, complete: AnswerMatch::NotAnswer }
    }

    /// Reads the next bytes of the message.
    pub fn push(&mut self, bytes: &[u8]) {
        let Self { outline, call, complete } = self;
        outline.push(bytes, |message| {
            let next = AnswerMatch::of_outline(&message, true, call);
            *complete = combine(*complete, next);
        });
    }

    /// What is known of the message so far.
    pub fn so_far(&self) -> AnswerMatch {
        if self.outline.is_invalid() {
            return AnswerMatch::Unreadable;
        }
        if self.outline.is_complete() {
            return self.complete;
        }
        combine(self.complete, AnswerMatch::of_outline(self.outline.message(), false, &self.call))
    }

    /// What the message is, after its last byte.
    pub fn finish(&self) -> AnswerMatch {
        if self.outline.is_complete() { self.complete } else { AnswerMatch::Unreadable }
    }
}

/// What two messages of an array are together. Of two answers, one is not for this call.
fn combine(first: AnswerMatch, second: AnswerMatch) -> AnswerMatch {
    match (first, second) {
        (AnswerMatch::NotAnswer, other) | (other, AnswerMatch::NotAnswer) => other,
        _ => AnswerMatch::OtherCall,
    }
}

/// The edit that gives an error without an id the raw id of its call. `None` if the message is not an object.
pub fn answer_id_edit(message: &[u8], envelope: &Envelope, call: &Bytes) -> Option<(Span, Bytes)> {
    if let Some(id) = envelope.id {
        return Some((id.span, call.clone()));
    }
    let start = u32::try_from(memchr::memchr(b'{', message)? + 1).ok()?;
    Some((Span { start, end: start }, [b"\"id\":", &call[..], b","].concat().into()))
}

/// Gives an error without an id the raw id of its call. `None` if the message is not an object.
pub fn add_answer_id(message: &Bytes, envelope: &Envelope, call: &Bytes) -> Option<Bytes> {
    let edit = answer_id_edit(message, envelope, call)?;
    Some(splice(message, &[edit]).ok()?.parts().concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Scanner;

    const CALL: Bytes = Bytes::from_static(b"\"a\"");

    /// Checks a message with each reader, and cut at each offset.
    #[track_caller]
    fn check(message: &str, expected: AnswerMatch) {
        let bytes = Bytes::copy_from_slice(message.as_bytes());
        assert_eq!(AnswerMatch::of_text(&bytes, &CALL), expected, "{message}");
        for at in 0..bytes.len() {
            let mut reader = AnswerReader::new(CALL);
            reader.push(&bytes[..at]);
            assert_eq!(reader.finish(), AnswerMatch::Unreadable, "{at} bytes of {message}");
            reader.push(&bytes[at..]);
            assert_eq!(reader.finish(), expected, "{message}");
        }
        if let Ok(envelope) = Scanner::new().scan(&bytes) {
            assert_eq!(AnswerMatch::of_envelope(&bytes, &envelope, &CALL), expected, "{message}");
        }
    }

    #[test]
    fn answers_are_told_from_other_messages() {
        use AnswerMatch::{ErrorWithoutId, NotAnswer, OtherCall, ThisCall};
        let ids = [
            (r#""a""#, ThisCall),
            (r#""\u0061""#, ThisCall),
            (r#""b""#, OtherCall),
            ("1", OtherCall),
            ("7.5", OtherCall),
            ("[\"a\"]", OtherCall),
        ];
        for (id, expected) in ids {
            check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#), expected);
            check(&format!(r#"{{"result": {{"id":"b"}}, "jsonrpc": "2.0", "id": {id}}}"#), expected);
            check(&format!(r#"{{"error":{{"code":1,"message":"m"}},"id":{id},"jsonrpc":"2.0"}}"#), expected);
            check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#), NotAnswer);
            check(&format!(r#"{{"method":"ping","id":{id},"result":{{}}}}"#), OtherCall);
            check(&format!(r#"{{"id":"a","result":{{}},"id":{id}}}"#), OtherCall);
        }
        check(&format!(r#"{{"id":"{}","result":{{}}}}"#, "a".repeat(300)), OtherCall);
        for id in ["", r#""id":null,"#] {
            let error = format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":1,"message":"m"}}}}"#);
            check(&error, ErrorWithoutId);
            check(&format!(r#"{{"jsonrpc":"2.0",{id}"result":{{}}}}"#), OtherCall);
        }
        check(r#"{"jsonrpc":"2.0","method":"notifications/message"}"#, NotAnswer);
    }

    /// Checks that a text in a usual form is recognised as one, or left to the reader of members, and that each text that it
    /// begins with is not an answer.
    #[test]
    fn usual_answers_are_recognised_by_their_ends() {
        let check = |text: &str, is_usual: bool, expected: AnswerMatch| {
            assert_eq!(is_usual_answer(text.as_bytes(), &CALL), is_usual, "{text}");
            assert_eq!(AnswerMatch::of_text(text.as_bytes(), &CALL), expected, "{text}");
            for end in 0..text.len() {
                let start = &text.as_bytes()[..end];
                assert_eq!(AnswerMatch::of_text(start, &CALL), AnswerMatch::Unreadable, "{end} of {text}");
            }
        };
        let (this, other) = (AnswerMatch::ThisCall, AnswerMatch::OtherCall);
        check(r#"{"jsonrpc":"2.0","id":"a","result":{"x":"\"y\n\\"}}"#, true, this);
        check(r#"{"jsonrpc":"2.0","id":"a","result":{"x":"}{\\\"}"}}"#, true, this);
        check(r#"{"result":{"x":[1]},"jsonrpc":"2.0","id":"a"}"#, true, this);
        check(r#"{"jsonrpc":"2.0","id":"a","result":{"id":7,"\u00e4":[{},{"METHOD":1}]}}"#, true, this);
        check(r#"{"jsonrpc":"2.0","id":"a","result":[]}"#, true, this);
        check(r#"{"jsonrpc":"2.0","id":"a","result":7}"#, false, this);
        check(r#"{"jsonrpc":"2.0","id":"a","result":{} }"#, false, this);
        for name in ["id", "ID", "\\u0069d"] {
            check(&format!(r#"{{"jsonrpc":"2.0","id":"a","result":{{}},"{name}":7}}"#), false, other);
            check(&format!(r#"{{"result":{{}},"{name}":7,"jsonrpc":"2.0","id":"a"}}"#), false, other);
        }
        for name in ["method", "Method", "m\\u0065thod"] {
            check(&format!(r#"{{"jsonrpc":"2.0","id":"a","result":{{}},"{name}":"m"}}"#), false, other);
            check(&format!(r#"{{"result":{{}},"{name}":"m","jsonrpc":"2.0","id":"a"}}"#), false, other);
        }
        check(r#"{"result":"\"},\"jsonrpc\":\"2.0\",\"id\":\"a\"}","id":7}"#, false, other);
        check(r#"{"jsonrpc":"2.0","id":"ab","result":{}}"#, false, other);
        check(r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, false, AnswerMatch::NotAnswer);
        let trailing = r#"{"jsonrpc":"2.0","id":"a","result":{}}}"#;
        assert_eq!(AnswerMatch::of_text(trailing.as_bytes(), &CALL), AnswerMatch::Unreadable);
    }

    #[test]
    fn generated_texts_are_judged_alike_whole_and_in_parts() {
        let parts = [
            r#"{"jsonrpc":"2.0","id":"a","result":"#,
            r#"{"result":"#,
            r#","jsonrpc":"2.0","id":"a"}"#,
            r#","ID":1"#,
            "{",
            "}",
            "[]",
            r#""}\"""#,
        ];
        // Each text of up to five parts: a number in the base of the parts.
        let count = parts.len();
        for number in 0..count.pow(5) {
            let (mut text, mut rest) = (String::new(), number);
            while rest > 0 {
                text.push_str(parts[rest % count]);
                rest /= count;
            }
            texts_agree(text.as_bytes());
        }
    }

    #[test]
    fn corpora() {
        crate::fuzz::run_corpus("scan", texts_agree);
    }

    #[test]
    fn an_array_may_have_one_answer() {
        let own = r#"{"jsonrpc":"2.0","id":"a","result":{}}"#;
        let other = r#"{"jsonrpc":"2.0","id":"b","result":{}}"#;
        let note = r#"{"jsonrpc":"2.0","method":"notifications/message"}"#;
        check(&format!("[{own}]"), AnswerMatch::ThisCall);
        check(&format!("[{note},{own},{note}]"), AnswerMatch::ThisCall);
        check(&format!("[{own},{other}]"), AnswerMatch::OtherCall);
        check(&format!("[{own},{own}]"), AnswerMatch::OtherCall);
        check(&format!("[{note}]"), AnswerMatch::NotAnswer);
    }

    #[test]
    fn the_start_of_a_message_may_tell_what_it_is() {
        use AnswerMatch::{NotAnswer, OtherCall, ThisCall, Unidentified, Unreadable};
        let check = |start: &str, expected: AnswerMatch| {
            let mut reader = AnswerReader::new(CALL);
            reader.push(start.as_bytes());
            assert_eq!(reader.so_far(), expected, "{start}");
        };
        check(r#"{"jsonrpc": "2.0", "id": "a", "result": {"#, ThisCall);
        check(r#"{"jsonrpc": "2.0", "id": "b", "error": {"#, OtherCall);
        check(r#"{"id":"b","#, NotAnswer);
        check(r#"{"result":{"id":"b","#, Unidentified);
        check(r#"{"result":{"id":"b"},"id":1,"#, OtherCall);
        check(r#"[{"id":"a","result":{}},{"result":"#, OtherCall);
        check(r#"[{"id":"a","result":{}}"#, ThisCall);
        check("{\"method\":\"ping\",\"id\":1", NotAnswer);
        check("text", Unreadable);
        check("", NotAnswer);
    }

    #[test]
    fn an_error_is_given_the_id_of_its_call() {
        let check = |message: &str, expected: &str| {
            let message = Bytes::copy_from_slice(message.as_bytes());
            let envelope = Scanner::new().scan(&message).unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(add_answer_id(&message, &envelope, &CALL).as_deref(), Some(expected.as_bytes()));
        };
        check(
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":1,"message":"x"}}"#,
        );
        check(
            r#" {"jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#,
            r#" {"id":"a","jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#,
        );
    }
}
