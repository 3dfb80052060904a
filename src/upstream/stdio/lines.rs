//! Messages as lines (MCP, stdio): splitting the output of a process into lines, and writing lines to it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use metamcp_core::base::{ChargedBuffer, OutOfMemory};
use metamcp_core::frame::Span;
use metamcp_http::multiplex::{replace_line_breaks, splice_into};

/// Splits the output of a process into lines.
///
/// Invariant: `scanned <= buffer.len()`; there is no line feed before `scanned`.
pub struct LineReader {
    /// Charged for while it has an incomplete line.
    buffer: ChargedBuffer,
    scanned: usize,
    line_bytes_max: usize,
    /// Whether the rest of a line is dropped that was given up.
    is_skipping: bool,
}

/// A line exceeds the limit.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// Read at once: a pipe holds 64 KiB.
const READ_BYTES: usize = 64 << 10;

/// A buffer that grew beyond this for a long line is freed.
const KEPT_BYTES: usize = 1 << 20;

impl LineReader {
    pub fn new(line_bytes_max: usize) -> Self {
        Self { buffer: ChargedBuffer::default(), scanned: 0, line_bytes_max, is_skipping: false }
    }

    /// Returns the buffer to which the next output is to be appended, with room for it.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
            self.buffer = ChargedBuffer::default();
        }
        let buffer = self.buffer.bytes_mut();
        buffer.reserve(READ_BYTES);
        buffer
    }

    /// Charges for the incomplete line, and one more read.
    ///
    /// # Errors
    /// [`OutOfMemory`]: then [`Self::retry_charge`] until it succeeds, or [`Self::give_up_line`].
    pub fn charge(&mut self) -> Result<(), OutOfMemory> {
        // A reader between two lines charges nothing.
        if self.buffer.is_empty() {
            self.buffer.release_charge();
            return Ok(());
        }
        self.buffer.charge_for(READ_BYTES)
    }

    /// As [`Self::charge`], without counting a refusal once more.
    pub fn retry_charge(&mut self) -> Result<(), OutOfMemory> {
        self.buffer.retry_charge_for(READ_BYTES)
    }

    /// Frees the incomplete line. Its rest will be dropped; the lines after it are read as usual.
    pub fn give_up_line(&mut self) {
        (self.buffer, self.scanned) = (ChargedBuffer::default(), 0);
        self.is_skipping = true;
    }

    /// Returns the next line without its end; `None` while it is incomplete.
    pub fn next(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        if self.is_skipping {
            let end = memchr::memchr(b'\n', &self.buffer);
            let skipped = end.map_or(self.buffer.len(), |at| at + 1);
            self.buffer.bytes_mut().advance(skipped);
            self.is_skipping = end.is_none();
        }
        let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return if self.scanned > self.line_bytes_max { Err(LineTooLong) } else { Ok(None) };
        };
        let mut line = self.buffer.bytes_mut().split_to(self.scanned + at + 1);
        self.scanned = 0;
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if line.len() > self.line_bytes_max { Err(LineTooLong) } else { Ok(Some(line.freeze())) }
    }
}

/// Appends a message as one line, with parts replaced. Edits are in ascending order.
pub fn write_line(message: &[u8], edits: &[(Span, &[u8])], out: &mut BytesMut) {
    out.reserve(message.len() + edits.iter().map(|(_, replacement)| replacement.len()).sum::<usize>() + 1);
    let start = out.len();
    splice_into(message, edits, out);
    replace_line_breaks(&mut out[start..]);
    out.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the lines are the same for pieces of every size.
    fn check(output: &[u8], expected: &[&str]) {
        for size in 1..=output.len().max(1) {
            let mut lines = LineReader::new(10);
            let mut found = Vec::new();
            for piece in output.chunks(size) {
                lines.buffer_mut().put_slice(piece);
                loop {
                    match lines.next() {
                        Ok(Some(line)) => found.push(String::from_utf8_lossy(&line).into_owned()),
                        Ok(None) => break,
                        Err(LineTooLong) => {
                            found.push("too long".into());
                            break;
                        }
                    }
                }
                if found.last().is_some_and(|line| line == "too long") {
                    break;
                }
            }
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn splits_lines() {
        check(b"{\"a\":1}\n{}\n", &["{\"a\":1}", "{}"]);
        check(b"a\r\n\r\nb\rc\n", &["a", "", "b\rc"]);
        check(b"a\nno end", &["a"]);
        check(b"0123456789\n", &["0123456789"]);
        check(b"01234567890\n", &["too long"]);
        check(b"a\n0123456789abcdef", &["a", "too long"]);
        check(b"", &[]);
    }

    #[test]
    fn a_line_that_is_given_up_is_dropped_to_its_end() {
        for size in 1..=20 {
            let mut lines = LineReader::new(100);
            lines.buffer_mut().put_slice(b"first\nbegun");
            assert_eq!(lines.next().unwrap().unwrap(), "first");
            assert_eq!(lines.next(), Ok(None));
            lines.give_up_line();
            let mut found = Vec::new();
            for piece in b" and ended\nsecond\nthird\n".chunks(size) {
                lines.buffer_mut().put_slice(piece);
                while let Some(line) = lines.next().unwrap() {
                    found.push(line);
                }
            }
            assert_eq!(found, ["second", "third"], "{size}");
        }
    }

    #[test]
    fn frees_large_buffers() {
        let mut lines = LineReader::new(4 << 20);
        lines.buffer_mut().put_slice(&vec![b'x'; 3 << 20]);
        assert_eq!(lines.next(), Ok(None));
        lines.buffer_mut().put_slice(b"\n");
        assert_eq!(lines.next().unwrap().unwrap().len(), 3 << 20);
        assert!(lines.buffer_mut().capacity() <= KEPT_BYTES);
    }

    #[test]
    fn writes_lines() {
        let check = |message: &str, expected: &str| {
            let mut out = BytesMut::from("x");
            write_line(message.as_bytes(), &[(Span { start: 1, end: 2 }, b"BB")], &mut out);
            assert_eq!(out, format!("x{expected}\n").as_bytes());
        };
        check("abc", "aBBc");
        check("ab\r\nc\n", "aBB  c ");
    }
}
