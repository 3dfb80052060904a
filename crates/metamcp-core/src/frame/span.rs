//! Places in a received message, and the reading of JSON strings there.

use std::borrow::Cow;

/// A half-open range of bytes in the message it was found in. Only meaningful with those bytes.
///
/// Offsets are 32 bit: a message of 4 GiB is refused before it is scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset behind the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes of `message` at this place; empty where `message` is too short to be the one it was
    /// found in.
    pub fn slice(self, message: &[u8]) -> &[u8] {
        message.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Where a part of a message lies in it. Both are parts of one text, so the difference of their addresses
    /// is where the one begins in the other.
    pub fn locate(message: &[u8], part: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(message.as_ptr() as usize)?;
        let end = start.checked_add(part.len()).filter(|end| *end <= message.len())?;
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether nothing lies between start and end.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A JSON string as it was written, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringSpan {
    /// Where the string lies, quotes included.
    pub span: Span,
    /// Whether it holds an escape, so that its raw bytes are not its value.
    pub escaped: bool,
}

impl StringSpan {
    /// The value of the string. Borrows from `message` unless there are escapes in it.
    pub fn decode<'a>(&self, message: &'a [u8]) -> Cow<'a, str> {
        let inner = self.inner(message);
        if !self.escaped {
            // The scanner has seen that it is UTF-8; other bytes than those scanned may not be.
            return str::from_utf8(inner).map_or_else(|_| String::from_utf8_lossy(inner), Cow::Borrowed);
        }
        let mut value = Vec::with_capacity(inner.len());
        // The scanner hands out no string with a lone surrogate; it would read as U+FFFD here.
        let _ = unescape(inner, &mut value);
        Cow::Owned(String::from_utf8_lossy(&value).into_owned())
    }

    /// Likewise, for what is only compared.
    pub fn decode_bytes<'a>(&self, message: &'a [u8]) -> Cow<'a, [u8]> {
        if self.escaped {
            return Cow::Owned(self.decode(message).into_owned().into_bytes());
        }
        Cow::Borrowed(self.inner(message))
    }

    /// Whether the value of the string is this.
    pub fn equals(&self, message: &[u8], value: &[u8]) -> bool {
        if self.escaped { self.decode(message).as_bytes() == value } else { self.inner(message) == value }
    }

    /// What stands between the quotes, escapes as written.
    pub(super) fn inner<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        match self.span.slice(message) {
            [b'"', inner @ .., b'"'] => inner,
            _ => &[],
        }
    }
}

/// How an id was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdForm {
    /// An integer of any length.
    Number,
    /// A string.
    String,
    /// `null`: only in an error about a message whose id could not be read.
    Null,
}

/// The id of a message, or a progress token: an opaque value which is compared and sent back as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSpan {
    /// Where it lies, quotes included.
    pub span: Span,
    /// How it was written.
    pub form: IdForm,
}

/// A `\u` escape of half a surrogate pair: there is no such character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

/// Appends the value of a JSON string whose grammar was already checked (`inner`: without quotes).
///
/// A lone surrogate is written as U+FFFD and reported; escapes that the grammar does not know are kept as
/// they are.
pub(super) fn unescape(inner: &[u8], value: &mut Vec<u8>) -> Result<(), LoneSurrogate> {
    let mut lone = Ok(());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        value.extend_from_slice(&rest[..at]);
        let (character, taken) = escape(&rest[at..]);
        if character.is_none() {
            lone = Err(LoneSurrogate);
        }
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = rest.get(at + taken..).unwrap_or_default();
    }
    value.extend_from_slice(rest);
    lone
}

/// Reads one escape; gives its character (none for a lone surrogate) and its length in bytes.
fn escape(bytes: &[u8]) -> (Option<char>, usize) {
    let character = match bytes.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(bytes),
        Some(&byte) => char::from(byte),
        None => '\\',
    };
    (Some(character), 2)
}

fn unicode_escape(bytes: &[u8]) -> (Option<char>, usize) {
    const ONE: usize = 6; // \uXXXX
    let Some(first) = code_unit(bytes) else { return (Some(char::REPLACEMENT_CHARACTER), ONE) };
    if let Some(character) = char::from_u32(first) {
        return (Some(character), ONE);
    }
    let low = bytes.get(ONE..).and_then(code_unit).filter(|unit| (0xdc00..0xe000).contains(unit));
    match low {
        Some(low) if first < 0xdc00 => {
            (char::from_u32(0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)), 2 * ONE)
        }
        _ => (None, ONE),
    }
}

/// The UTF-16 code unit of a `\uXXXX` at the head of `bytes`, if there is one.
pub(super) fn code_unit(bytes: &[u8]) -> Option<u32> {
    let [b'\\', b'u', digits @ ..] = bytes else { return None };
    digits.get(..4)?.iter().try_fold(0, |unit, &digit| Some((unit << 4) | char::from(digit).to_digit(16)?))
}
