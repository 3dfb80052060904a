//! The one file that touches simd-json: a message becomes a list of marks.
//!
//! A mark is the offset of a token: each `{ } [ ] : ,` and the first byte of each string, number, `true`,
//! `false` and `null`, in order. simd-json finds them in its first stage and checks the grammar in its
//! second; we walk the marks over the original bytes, since its tape does not say where a number stood.
//! Marks after a successful parse follow the JSON grammar; a walk that leaves them reads a zero byte.

use simd_json::{Buffers, ErrorType, INPUT_PADDING, Node, Tape};

use crate::frame::fault::ScanError;
use crate::frame::span::{Span, StringSpan, code_unit};

/// Objects and arrays within each other. Real messages stay under ten; JSON schemas of tools reach some twenty.
pub const DEPTH_MAX: usize = 64;

/// Buffers above this size are given back after the message that needed them, so that a few big bodies
/// do not swell every worker for good. A body of this size is twenty times a large tool list.
pub const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// Tape nodes kept: as much memory as a scratch of the size above.
const TAPE_NODES_KEPT: usize = SCRATCH_BYTES_KEPT / size_of::<Node<'static>>();

/// An integer of so many characters always fits 64 bit; only longer ones need a second look.
const SHORT_NUMBER: usize = 18;

pub(super) struct Parser {
    /// The copy that simd-json may spoil, with the padding it reads over.
    scratch: Vec<u8>,
    /// Whether a backslash is in the message.
    has_escapes: bool,
    buffers: Buffers,
    /// Empty between two messages; kept for its allocation. `Tape::reset` frees it from the lifetime of
    /// the scratch.
    tape: Tape<'static>,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { scratch: Vec::new(), has_escapes: false, buffers: buffers(), tape: Tape(Vec::new()) }
    }

    /// Checks that `bytes` are one JSON value, and finds its marks.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        // With room for the padding: simd-json counts in 32 bit.
        if bytes.len() > u32::MAX as usize - INPUT_PADDING {
            return Err(ScanError::TooLong);
        }
        self.has_escapes = memchr::memchr(b'\\', bytes).is_some();
        self.copy(bytes);
        let Err(error) = self.fill(bytes.len()) else { return Ok(()) };
        match error.error() {
            // Right by the grammar, but more than simd-json reads: integers over 64 bit, 1e400, and halves
            // of surrogate pairs. What is behind us may take them, so they are hidden from simd-json.
            ErrorType::InvalidNumber | ErrorType::InvalidUnicodeCodepoint | ErrorType::InvalidUtf8 => {
                self.parse_softened(bytes)
            }
            _ => Err(fault(&error)),
        }
    }

    /// The marks of the last message that was parsed, which was this.
    pub(super) fn tokens<'a>(&'a self, bytes: &'a [u8]) -> Tokens<'a> {
        Tokens { bytes, marks: self.buffers.structural_indexes(), has_escapes: self.has_escapes }
    }

    /// Gives back what an unusually large message made us allocate.
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

    /// Parses once more, with the numbers and escapes that simd-json cannot hold replaced by others of the
    /// same length. Linear, and at most once a message.
    fn parse_softened(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.copy(bytes);
        for &mark in self.buffers.structural_indexes() {
            soften_number(&mut self.scratch, mark as usize);
        }
        soften_surrogates(&mut self.scratch);
        self.fill(bytes.len()).map_err(|error| fault(&error))
    }
}

fn fault(error: &simd_json::Error) -> ScanError {
    match error.error() {
        ErrorType::DepthLimitExceeded => ScanError::Depth,
        _ => ScanError::Syntax,
    }
}

fn buffers() -> Buffers {
    Buffers::with_max_depth(0, DEPTH_MAX)
}

/// Puts `1` and spaces in place of a well-formed long number or one with an exponent.
fn soften_number(scratch: &mut [u8], mark: usize) {
    let Some(tail) = scratch.get_mut(mark..) else { return };
    if !tail.first().is_some_and(|&byte| byte == b'-' || byte.is_ascii_digit()) {
        return;
    }
    let len = number_len(tail);
    if len > SHORT_NUMBER || tail[..len].iter().any(|byte| matches!(byte, b'e' | b'E')) {
        tail[..len].fill(b' ');
        tail[0] = b'1';
    }
}

/// Length of the number at the head of `bytes`, or 0: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
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

/// Turns every escaped surrogate into an escaped `A`, paired or not.
fn soften_surrogates(scratch: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &scratch[at..]) {
        at += found;
        match code_unit(&scratch[at..]) {
            Some(0xd800..0xe000) => {
                scratch[at + 2..at + 6].copy_from_slice(b"0041");
                at += 6;
            }
            // The byte behind the backslash belongs to the escape, also when it is a backslash.
            _ => at = (at + 2).min(scratch.len()),
        }
    }
}

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    String,
    Object,
    Array,
    Null,
    Number,
    Bool,
}

/// The marks of a message that was parsed, over its original bytes.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) marks: &'a [u32],
    /// Whether a backslash is in the bytes: nearly every message has none.
    has_escapes: bool,
}

impl Tokens<'_> {
    /// The string at a mark.
    pub(super) fn text(self, at: usize) -> StringSpan {
        let span = self.span(at, at + 1);
        let escaped = self.has_escapes && memchr::memchr(b'\\', span.slice(self.bytes)).is_some();
        StringSpan { span, escaped }
    }

    /// The byte at a mark; 0 behind the last one.
    pub(super) fn byte(self, at: usize) -> u8 {
        self.marks.get(at).and_then(|&mark| self.bytes.get(mark as usize)).copied().unwrap_or(0)
    }

    /// What kind of value begins at a mark.
    pub(super) fn form(self, at: usize) -> Form {
        match self.byte(at) {
            b'"' => Form::String,
            b'{' => Form::Object,
            b'[' => Form::Array,
            b'n' => Form::Null,
            b't' | b'f' => Form::Bool,
            _ => Form::Number,
        }
    }

    /// The mark behind the value which begins at `at`.
    pub(super) fn behind(self, at: usize) -> usize {
        if !matches!(self.byte(at), b'{' | b'[') {
            return at + 1;
        }
        let mut depth = 0_i32;
        for (step, &mark) in self.marks.get(at..).unwrap_or_default().iter().enumerate() {
            let byte = self.bytes.get(mark as usize).copied().unwrap_or(0);
            depth += i32::from(NESTING[usize::from(byte)]);
            if depth == 0 {
                return at + step + 1;
            }
        }
        self.marks.len()
    }

    /// The place of the value between the marks `at` and `behind`, without the white space after it.
    pub(super) fn span(self, at: usize, behind: usize) -> Span {
        let start = self.marks.get(at).copied().unwrap_or(0);
        let limit = self.marks.get(behind).map_or(self.bytes.len(), |&mark| mark as usize);
        let raw = self.bytes.get(start as usize..limit).unwrap_or_default();
        let len =
            raw.iter().rposition(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).map_or(0, |at| at + 1);
        // Fits: the length of a message was checked against 32 bit.
        Span { start, end: start + u32::try_from(len).unwrap_or(0) }
    }
}

/// What a byte adds to the depth.
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
    /// Bytes of the buffers that are kept.
    pub(super) fn held_bytes(&self) -> usize {
        self.scratch.capacity() + self.tape.0.capacity() * size_of::<Node<'static>>()
    }
}
