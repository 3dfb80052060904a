//! The tokens of a message: the only file that uses simd-json.
//!
//! The structural indexes of a message are the offsets of its tokens, in order: each `{ } [ ] : ,` and the first byte of each
//! string, number, `true`, `false` and `null`. simd-json finds them in its first stage, and validates the grammar in its second.
//! The scanner walks the indexes over the original bytes, since the tape of simd-json has no offsets of numbers. The indexes of
//! a valid message follow the JSON grammar; reading beyond the last one yields a zero byte.

use simd_json::{Buffers, ErrorType, INPUT_PADDING, Node, Tape};

use crate::frame::scan_error::ScanError;
use crate::frame::span::{Span, StringSpan, code_unit};

/// Nested objects and arrays. Real messages stay under ten; JSON schemas of tools reach some twenty.
pub const DEPTH_MAX: usize = 64;

/// Larger buffers are freed after the message that needed them, so that a few large bodies do not cost every worker memory
/// for good. A body of this size is twenty times a large tool list.
pub const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// Tape nodes that are kept: as much memory as [`SCRATCH_BYTES_KEPT`].
const TAPE_NODES_KEPT: usize = SCRATCH_BYTES_KEPT / size_of::<Node<'static>>();

/// Characters of an integer that always fits 64 bits.
const SHORT_NUMBER_BYTES: usize = 18;

pub(super) struct Parser {
    /// The copy of the message that simd-json overwrites, with the padding that it reads beyond the end.
    scratch: Vec<u8>,
    /// Whether the message has a backslash.
    has_escapes: bool,
    buffers: Buffers,
    /// Empty between messages; reused for its allocation. `Tape::reset` detaches it from the lifetime of the scratch.
    tape: Tape<'static>,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { scratch: Vec::new(), has_escapes: false, buffers: buffers(), tape: Tape(Vec::new()) }
    }

    /// Checks that `bytes` is one JSON value, and finds its structural indexes.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        // With room for the padding, since simd-json has 32-bit offsets.
        if bytes.len() > u32::MAX as usize - INPUT_PADDING {
            return Err(ScanError::TooLong);
        }
        self.has_escapes = memchr::memchr(b'\\', bytes).is_some();
        self.copy(bytes);
        let Err(error) = self.fill(bytes.len()) else { return Ok(()) };
        match error.error() {
            // Valid by the grammar, but not supported by simd-json: integers over 64 bits, 1e400, and lone surrogates.
            // Servers may accept them, so they are hidden from simd-json.
            ErrorType::InvalidNumber | ErrorType::InvalidUnicodeCodepoint | ErrorType::InvalidUtf8 => {
                self.parse_with_replacements(bytes)
            }
            _ => Err(to_scan_error(&error)),
        }
    }

    /// The tokens of `bytes`, which must be the message that was parsed last.
    pub(super) fn tokens<'a>(&'a self, bytes: &'a [u8]) -> Tokens<'a> {
        Tokens { bytes, indexes: self.buffers.structural_indexes(), has_escapes: self.has_escapes }
    }

    /// Frees the buffers if the last message was unusually large.
    pub(super) fn shrink(&mut self) {
        let nodes = self.tape.0.capacity();
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT || nodes > TAPE_NODES_KEPT {
            *self = Self::new();
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.scratch.clear();
        self.scratch.reserve(bytes.len() + INPUT_PADDING);
        self.scratch.extend_from_slice(bytes);
        self.scratch.extend_from_slice(&[b' '; INPUT_PADDING]);
    }

    fn fill(&mut self, len: usize) -> simd_json::Result<()> {
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let filled = simd_json::fill_tape_padded(&mut self.scratch, len, &mut self.buffers, &mut tape);
        self.tape = tape.reset();
        filled
    }

    /// Parses again with the unsupported numbers and escapes replaced by others of the same length. Linear, and at most once
    /// per message.
    fn parse_with_replacements(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.copy(bytes);
        for &index in self.buffers.structural_indexes() {
            replace_number(&mut self.scratch, index as usize);
        }
        replace_surrogates(&mut self.scratch);
        self.fill(bytes.len()).map_err(|error| to_scan_error(&error))
    }
}

fn to_scan_error(error: &simd_json::Error) -> ScanError {
    match error.error() {
        ErrorType::DepthLimitExceeded => ScanError::Depth,
        _ => ScanError::Syntax,
    }
}

fn buffers() -> Buffers {
    Buffers::with_max_depth(0, DEPTH_MAX)
}

/// Replaces a well-formed number by `1` and spaces if it is long or has an exponent.
fn replace_number(scratch: &mut [u8], start: usize) {
    let Some(tail) = scratch.get_mut(start..) else { return };
    if !tail.first().is_some_and(|&byte| byte == b'-' || byte.is_ascii_digit()) {
        return;
    }
    let len = number_len(tail);
    if len > SHORT_NUMBER_BYTES || tail[..len].iter().any(|byte| matches!(byte, b'e' | b'E')) {
        tail[..len].fill(b' ');
        tail[0] = b'1';
    }
}

/// The length of the number at the start of `bytes`, or 0: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
fn number_len(bytes: &[u8]) -> usize {
    let digits = |at: usize| bytes[at.min(bytes.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let mut at = usize::from(byte(0) == b'-');
    let whole = digits(at);
    if whole == 0 || (whole > 1 && byte(at) == b'0') {
        return 0;
    }
    at += whole;
    if byte(at) == b'.' {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return 0;
        }
        at += 1 + fraction;
    }
    if matches!(byte(at), b'e' | b'E') {
        at += 1 + usize::from(matches!(byte(at + 1), b'+' | b'-'));
        let exponent = digits(at);
        if exponent == 0 {
            return 0;
        }
        at += exponent;
    }
    at
}

/// Replaces every escaped surrogate by an escaped `A`, whether paired or not.
fn replace_surrogates(scratch: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &scratch[at..]) {
        at += found;
        match code_unit(&scratch[at..]) {
            Some(0xd800..0xe000) => {
                scratch[at + 2..at + 6].copy_from_slice(b"0041");
                at += 6;
            }
            // The byte after the backslash belongs to the escape, even if it is a backslash.
            _ => at = (at + 2).min(scratch.len()),
        }
    }
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    String,
    Object,
    Array,
    Null,
    Number,
    Bool,
}

/// The structural indexes of a parsed message, over its original bytes.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) indexes: &'a [u32],
    /// Whether the message has a backslash. Nearly no message has one.
    has_escapes: bool,
}

impl Tokens<'_> {
    /// The string at an index.
    pub(super) fn string(self, at: usize) -> StringSpan {
        let span = self.span(at, at + 1);
        let escaped = self.has_escapes && memchr::memchr(b'\\', span.slice(self.bytes)).is_some();
        StringSpan { span, escaped }
    }

    /// The byte at an index; 0 beyond the last one.
    pub(super) fn byte(self, at: usize) -> u8 {
        self.indexes.get(at).and_then(|&index| self.bytes.get(index as usize)).copied().unwrap_or(0)
    }

    /// The type of the value at an index.
    pub(super) fn value_type(self, at: usize) -> ValueType {
        match self.byte(at) {
            b'"' => ValueType::String,
            b'{' => ValueType::Object,
            b'[' => ValueType::Array,
            b'n' => ValueType::Null,
            b't' | b'f' => ValueType::Bool,
            _ => ValueType::Number,
        }
    }

    /// The index after the value at `at`.
    pub(super) fn index_after(self, at: usize) -> usize {
        if !matches!(self.byte(at), b'{' | b'[') {
            return at + 1;
        }
        let mut depth = 0_i32;
        for (step, &index) in self.indexes.get(at..).unwrap_or_default().iter().enumerate() {
            let byte = self.bytes.get(index as usize).copied().unwrap_or(0);
            depth += i32::from(NESTING[usize::from(byte)]);
            if depth == 0 {
                return at + step + 1;
            }
        }
        self.indexes.len()
    }

    /// The span of the value between the indexes `at` and `end`, without trailing white space.
    pub(super) fn span(self, at: usize, end: usize) -> Span {
        let start = self.indexes.get(at).copied().unwrap_or(0);
        let limit = self.indexes.get(end).map_or(self.bytes.len(), |&index| index as usize);
        let raw = self.bytes.get(start as usize..limit).unwrap_or_default();
        let len =
            raw.iter().rposition(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).map_or(0, |at| at + 1);
        // It fits: the length of a message is checked against 32 bits.
        Span { start, end: start + u32::try_from(len).unwrap_or(0) }
    }
}

/// The change of the depth at each byte.
const NESTING: [i8; 256] = {
    let mut table = [0; 256];
    table[b'{' as usize] = 1;
    table[b'[' as usize] = 1;
    table[b'}' as usize] = -1;
    table[b']' as usize] = -1;
    table
};

#[cfg(test)]
impl Parser {
    /// The size of the buffers.
    pub(super) fn held_bytes(&self) -> usize {
        self.scratch.capacity() + self.tape.0.capacity() * size_of::<Node<'static>>()
    }
}
