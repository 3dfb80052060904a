//! Spans of a received message, and the decoding of JSON strings in it.

use std::borrow::Cow;

/// A half-open range of bytes of a message. Meaningful only together with that message.
///
/// Offsets have 32 bits: a message of 4 GiB or more is rejected before it is scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The offset of the first byte.
    pub start: u32,
    /// The offset after the last byte.
    pub end: u32,
}

impl Span {
    /// Returns the bytes of the span. Empty if `message` is too short, and so not the message that the span belongs to.
    pub fn slice(self, message: &[u8]) -> &[u8] {
        message.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Returns the span of a subslice of `message`, by comparing addresses.
    pub fn locate(message: &[u8], part: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(message.as_ptr() as usize)?;
        let end = start.checked_add(part.len()).filter(|end| *end <= message.len())?;
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
    }

    /// The length in bytes.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The span of a JSON string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringSpan {
    /// The string, quotes included.
    pub span: Span,
    /// Whether it has an escape, so that its raw bytes differ from its value.
    pub escaped: bool,
}

impl StringSpan {
    /// Returns the value of the string. Borrows from `message` unless it has escapes.
    pub fn decode<'a>(&self, message: &'a [u8]) -> Cow<'a, str> {
        let inner = self.inner(message);
        if !self.escaped {
            // The scanner checked for UTF-8, but `message` may not be what it scanned.
            return str::from_utf8(inner).map_or_else(|_| String::from_utf8_lossy(inner), Cow::Borrowed);
        }
        let mut value = Vec::with_capacity(inner.len());
        // The scanner rejects lone surrogates. One would become U+FFFD here.
        let _ = unescape(inner, &mut value);
        Cow::Owned(String::from_utf8_lossy(&value).into_owned())
    }

    /// Returns the value as bytes, for comparison.
    pub fn decode_bytes<'a>(&self, message: &'a [u8]) -> Cow<'a, [u8]> {
        if self.escaped {
            return Cow::Owned(self.decode(message).into_owned().into_bytes());
        }
        Cow::Borrowed(self.inner(message))
    }

    /// Whether the value of the string equals `value`.
    pub fn equals(&self, message: &[u8], value: &[u8]) -> bool {
        if self.escaped { self.decode(message).as_bytes() == value } else { self.inner(message) == value }
    }

    /// Returns the raw bytes between the quotes.
    pub(super) fn inner<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        match self.span.slice(message) {
            [b'"', inner @ .., b'"'] => inner,
            _ => &[],
        }
    }
}

/// The JSON type of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdForm {
    /// An integer of any length.
    Number,
    String,
    /// `null`, only in an error about a message whose id could not be read.
    Null,
}

/// The span of a message id or of a progress token: an opaque value that is compared and sent back as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSpan {
    /// The value, quotes included.
    pub span: Span,
    pub form: IdForm,
}

/// A `\u` escape of a surrogate without its other half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

/// Appends the value of a JSON string. `inner` is valid JSON without the quotes.
///
/// A lone surrogate becomes U+FFFD and an error. An unknown escape is copied.
pub(super) fn unescape(inner: &[u8], value: &mut Vec<u8>) -> Result<(), LoneSurrogate> {
    let mut result = Ok(());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        value.extend_from_slice(&rest[..at]);
        let (character, length) = decode_escape(&rest[at..]);
        if character.is_none() {
            result = Err(LoneSurrogate);
        }
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = rest.get(at + length..).unwrap_or_default();
    }
    value.extend_from_slice(rest);
    result
}

/// Decodes one escape. Returns its character, or `None` for a lone surrogate, and its length in bytes.
fn decode_escape(bytes: &[u8]) -> (Option<char>, usize) {
    let character = match bytes.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return decode_unicode_escape(bytes),
        Some(&byte) => char::from(byte),
        None => '\\',
    };
    (Some(character), 2)
}

fn decode_unicode_escape(bytes: &[u8]) -> (Option<char>, usize) {
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

/// The UTF-16 code unit of a `\uXXXX` at the start of `bytes`, if there is one.
pub(super) fn code_unit(bytes: &[u8]) -> Option<u32> {
    let [b'\\', b'u', digits @ ..] = bytes else { return None };
    digits.get(..4)?.iter().try_fold(0, |unit, &digit| Some((unit << 4) | char::from(digit).to_digit(16)?))
}
