//! Reads what a message is, while it passes in parts that are not kept.

use memchr::memchr;

use crate::frame::span::unescape;

/// The members of a message that say what it is, as far as they have been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    pub id: OutlineId,
    pub has_method: bool,
    pub has_result: bool,
    pub has_error: bool,
}

/// The member `id` of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OutlineId {
    #[default]
    Missing,
    /// The raw value: a number, a string with its quotes, or a literal such as `null`.
    Raw(Vec<u8>),
    /// It is an object or an array, longer than the reader's limit, or there are two of them.
    Invalid,
}

/// Reads the outlines of the messages in a JSON text: of one, or of those in an array.
///
/// Names are compared without regard to case, as some parsers do (Go's `encoding/json`). The text within the members is not
/// validated: of a text that is valid JSON the outlines are right, and of another one no parser reads a message. At most one
/// name and one id are buffered. A byte order mark is skipped.
#[derive(Debug)]
pub struct OutlineReader {
    /// The open objects and arrays.
    depth: usize,
    /// The depth of the members of a message: 1, or 2 in an array; 0 before the first bracket.
    level: usize,
    position: Position,
    is_in_string: bool,
    /// The last byte of the string was a backslash that escapes the next one.
    is_escaped: bool,
    /// The raw name, or the raw id.
    text: Vec<u8>,
    /// Whether `text` lacks bytes, or holds an object or an array.
    is_text_invalid: bool,
    id_bytes_max: usize,
    message: Outline,
}

/// The position between the members of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Before the first bracket of the text.
    Start,
    /// Before or in a name.
    Name,
    /// Between a name and its colon.
    Colon,
    /// In the value of `id`.
    Id,
    /// In the value of another member.
    Value,
    /// Between the messages of an array.
    Between,
    /// After the last bracket of the text.
    End,
    /// The text is not an object, nor an array of objects.
    Invalid,
}

/// The longest name of a member that is known, each of its characters written as an escape.
const NAME_BYTES_MAX: usize = 6 * "method".len() + 2;

impl OutlineReader {
    /// For ids up to this many bytes. Longer ones are [`OutlineId::Invalid`].
    pub fn new(id_bytes_max: usize) -> Self {
        Self {
            depth: 0,
            level: 0,
            position: Position::Start,
            is_in_string: false,
            is_escaped: false,
            text: Vec::new(),
            is_text_invalid: false,
            id_bytes_max,
            message: Outline::default(),
        }
    }

    /// The outline of the message that is being read.
    pub fn message(&self) -> &Outline {
        &self.message
    }

    /// Whether the text can no longer be one or several messages.
    pub fn is_invalid(&self) -> bool {
        self.position == Position::Invalid
    }

    /// Whether the text is complete.
    pub fn is_complete(&self) -> bool {
        self.position == Position::End
    }

    /// Reads the next bytes. Calls `each` with the outline of each message that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Outline)) {
        while !bytes.is_empty() && self.position != Position::Invalid {
            let read = if self.is_in_string {
                self.read_string(bytes)
            } else if self.depth > self.level {
                self.read_nested(bytes)
            } else {
                self.read_byte(bytes[0], &mut each);
                1
            };
            bytes = &bytes[read..];
        }
    }

    /// Reads to the end of the string. Returns the number of bytes read.
    fn read_string(&mut self, bytes: &[u8]) -> usize {
        // Only quotes are searched: texts have more line feeds, each an escape, than quotes.
        let mut unescaped_from = usize::from(std::mem::take(&mut self.is_escaped));
        let read = loop {
            let rest = &bytes[unescaped_from..];
            let Some(at) = memchr(b'"', rest) else {
                self.is_escaped = ends_with_escape(rest);
                break bytes.len();
            };
            unescaped_from += at + 1;
            if !ends_with_escape(&rest[..at]) {
                self.is_in_string = false;
                break unescaped_from;
            }
        };
        if self.depth == self.level && matches!(self.position, Position::Name | Position::Id) {
            self.keep(&bytes[..read]);
            if !self.is_in_string && self.position == Position::Name {
                self.position = Position::Colon;
            }
        }
        read
    }

    /// Reads to the next quote or bracket within a value. Returns the number of bytes read.
    fn read_nested(&mut self, bytes: &[u8]) -> usize {
        let is_token = |byte: &u8| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']');
        let Some(at) = bytes.iter().position(is_token) else { return bytes.len() };
        match bytes[at] {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.depth += 1,
            _ => self.depth -= 1,
        }
        at + 1
    }

    /// Reads a byte outside of nested values and strings.
    fn read_byte(&mut self, byte: u8, each: &mut impl FnMut(Outline)) {
        match (self.position, byte) {
            (Position::Id, byte) if !matches!(byte, b',' | b'}') => self.read_id_byte(byte),
            (_, b' ' | b'\t' | b'\n' | b'\r') | (Position::Start, 0xef | 0xbb | 0xbf) => {}
            (Position::Start, b'[') => (self.depth, self.level, self.position) = (1, 2, Position::Between),
            (Position::Start | Position::Between, b'{') => {
                self.depth += 1;
                (self.level, self.position) = (self.depth, Position::Name);
                self.message = Outline::default();
            }
            (Position::Between, b',') => {}
            (Position::Between, b']') => (self.depth, self.position) = (0, Position::End),
            (Position::Name, b'"') => {
                self.begin_text();
                self.is_in_string = true;
                self.keep(b"\"");
            }
            (Position::Colon, b':') => self.begin_value(),
            (Position::Value, b'"') => self.is_in_string = true,
            (Position::Value, b'{' | b'[') => self.depth += 1,
            (Position::Value | Position::Id, b',') => self.end_value(Position::Name),
            (Position::Value | Position::Id | Position::Name, b'}') => {
                self.depth -= 1;
                self.end_value(if self.depth == 0 { Position::End } else { Position::Between });
                each(std::mem::take(&mut self.message));
            }
            (Position::Value, _) => {}
            _ => self.position = Position::Invalid,
        }
    }

    fn read_id_byte(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.is_in_string = true;
                self.keep(b"\"");
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.is_text_invalid = true;
            }
            byte if byte.is_ascii_whitespace() => {}
            byte => self.keep(&[byte]),
        }
    }

    fn begin_text(&mut self) {
        self.text.clear();
        self.is_text_invalid = false;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let max = if self.position == Position::Name { NAME_BYTES_MAX } else { self.id_bytes_max };
        let missing = max.saturating_sub(self.text.len());
        self.is_text_invalid |= bytes.len() > missing;
        self.text.extend_from_slice(&bytes[..bytes.len().min(missing)]);
    }

    /// Notes the member whose name was read.
    fn begin_value(&mut self) {
        let name = if self.is_text_invalid { None } else { known_name(&self.text) };
        self.position = Position::Value;
        match name {
            Some(KnownName::Id) => {
                self.position = Position::Id;
                self.begin_text();
            }
            Some(KnownName::Method) => self.message.has_method = true,
            Some(KnownName::Result) => self.message.has_result = true,
            Some(KnownName::Error) => self.message.has_error = true,
            None => {}
        }
    }

    /// Ends the value under way, if any.
    fn end_value(&mut self, next: Position) {
        if self.position == Position::Id {
            let is_valid = !self.is_text_invalid && self.message.id == OutlineId::Missing;
            let raw = std::mem::take(&mut self.text);
            self.message.id = if is_valid { OutlineId::Raw(raw) } else { OutlineId::Invalid };
        }
        self.position = next;
    }
}

#[derive(Clone, Copy)]
enum KnownName {
    Id,
    Method,
    Result,
    Error,
}

/// Where the object ends that `text` begins with. `None` if it is not one, or not a complete one. It counts brackets, as
/// [`OutlineReader`] does.
pub fn object_end(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth == 0 => return None,
            _ => at += 1,
        }
    }
}

/// The position after the quote that ends the string whose text begins at `start`.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut from = start;
    loop {
        let quote = from + memchr(b'"', &text[from..])?;
        if !ends_with_escape(&text[start..quote]) {
            return Some(quote + 1);
        }
        from = quote + 1;
    }
}

/// Whether the byte after a part of a string is escaped. The first byte of the part is not.
fn ends_with_escape(part: &[u8]) -> bool {
    let backslashes = part.iter().rev().take_while(|byte| **byte == b'\\').count();
    backslashes % 2 == 1
}

/// The member with this raw name, quotes included.
fn known_name(raw: &[u8]) -> Option<KnownName> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        let mut name = Vec::with_capacity(inner.len());
        unescape(inner, &mut name).ok()?;
        return find_name(&name);
    }
    find_name(inner)
}

fn find_name(name: &[u8]) -> Option<KnownName> {
    const NAMES: [(&str, KnownName); 4] = [
        ("id", KnownName::Id),
        ("method", KnownName::Method),
        ("result", KnownName::Result),
        ("error", KnownName::Error),
    ];
    let known = NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    known.map(|(_, member)| *member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID_BYTES_MAX: usize = 8;

    /// The outlines of the complete messages, and whether the text is complete. `None` if it is no message.
    fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Option<(Vec<Outline>, bool)> {
        let (mut reader, mut outlines) = (OutlineReader::new(ID_BYTES_MAX), Vec::new());
        parts.into_iter().for_each(|part| reader.push(part, |outline| outlines.push(outline)));
        (!reader.is_invalid()).then(|| (outlines, reader.is_complete()))
    }

    /// Checks the outlines of a text, at whichever offset it is cut.
    #[track_caller]
    fn check(text: &str, expected: Option<&[Outline]>) {
        let bytes = text.as_bytes();
        let expected = expected.map(|outlines| (outlines.to_vec(), true));
        assert_eq!(read([bytes]), expected, "{text}");
        assert_eq!(read(bytes.chunks(1)), expected, "byte by byte: {text}");
        for at in 0..bytes.len() {
            assert_eq!(read([&bytes[..at], &bytes[at..]]), expected, "cut at {at}: {text}");
        }
    }

    fn id(raw: &str) -> OutlineId {
        OutlineId::Raw(raw.as_bytes().to_vec())
    }

    fn result(id: OutlineId) -> Outline {
        Outline { id, has_result: true, ..Outline::default() }
    }

    #[test]
    fn the_outermost_members_are_found() {
        let one = |text: &str, expected: Outline| check(text, Some(&[expected]));
        for raw in ["1", "-7.5e2", "\"a\"", r#""\"},""#, "null", "true"] {
            one(&format!(r#"{{"jsonrpc":"2.0","id":{raw},"result":{{}}}}"#), result(id(raw)));
            one(&format!(r#"{{"result":[1,{{"id":2,"x":"\"}}"}}],"id":{raw}}}"#), result(id(raw)));
            one(&format!("\u{feff} {{ \"id\" :\t{raw} ,\r\n \"result\" : \"\" }} \n"), result(id(raw)));
        }
        for name in ["id", r"\u0069d", r"\u0069\u0064", "ID", "Id"] {
            one(&format!(r#"{{"result":7,"{name}":1}}"#), result(id("1")));
        }
        one(r#"{"x":{"id":1},"y":"\"id\":1","result":null}"#, result(OutlineId::Missing));
        one("{}", Outline::default());
        one(r#"{"":1}"#, Outline::default());
        one(
            r#"{"method":"m","params":{"result":1},"id":3}"#,
            Outline { id: id("3"), has_method: true, ..Outline::default() },
        );
        one(r#"{"error":{},"id":3}"#, Outline { id: id("3"), has_error: true, ..Outline::default() });
        let long = "x".repeat(NAME_BYTES_MAX);
        one(&format!(r#"{{"{long}":1,"result":1,"{long}\u0069d":2}}"#), result(OutlineId::Missing));
    }

    #[test]
    fn an_id_that_is_none_is_invalid() {
        for raw in ["{}", "[1]", "[]", "\"1234567\"", "123456789", r#"{"id":1}"#] {
            check(&format!(r#"{{"id":{raw},"result":1}}"#), Some(&[result(OutlineId::Invalid)]));
        }
        check(r#"{"id":1,"result":1,"id":1}"#, Some(&[result(OutlineId::Invalid)]));
        check(r#"{"id":1,"result":1,"\u0049d":1}"#, Some(&[result(OutlineId::Invalid)]));
    }

    #[test]
    fn each_message_of_an_array_has_an_outline() {
        check("[]", Some(&[]));
        check(
            r#" [ {"id":1,"result":[{"id":4}]} , {"id":"b","result":{}},{} ] "#,
            Some(&[result(id("1")), result(id("\"b\"")), Outline::default()]),
        );
    }

    #[test]
    fn other_texts_are_no_messages() {
        for text in
            ["1", "\"a\"", "null", "<html>", "[1]", "[[{}]]", "{1:2}", "{} {}", "{}x", "[{}]]", "{\"a\"}"]
        {
            check(text, None);
        }
        for text in ["", "{", "[", r#"{"id":1,"result":{"#, r#"{"id":1,"result":{}"#, "[{}", "{\"a"] {
            assert_eq!(read([text.as_bytes()]).map(|read| read.1), Some(false), "{text}");
        }
    }

    #[test]
    fn members_are_known_before_the_end() {
        let check = |text: &str, expected: Outline| {
            let mut reader = OutlineReader::new(ID_BYTES_MAX);
            reader.push(text.as_bytes(), |outline| panic!("a complete message: {outline:?}"));
            assert_eq!(*reader.message(), expected, "{text}");
        };
        check(r#"{"id":1"#, Outline::default());
        check(r#"{"id":1,"result":"#, result(id("1")));
        check(r#"{"result":{"id":2}"#, result(OutlineId::Missing));
        check(r#"{"result"#, Outline::default());
    }
}
