//! Lines: one JSON-RPC message each (MCP, stdio). Cutting what a process says into them, and writing what it
//! is told.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::shim::{flatten, replace};
use metamcp_core::frame::Span;

/// What a process said, cut into lines.
///
/// Invariant: `scanned <= buffer.len()`; no line feed lies before `scanned`.
pub struct Lines {
    buffer: BytesMut,
    scanned: usize,
    line_bytes_max: usize,
}

/// A line that does not end.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Read at once: a pipe holds 64 KiB.
const READ_BYTES: usize = 64 << 10;

/// A buffer that grew beyond it for a big line is given back.
const KEPT_BYTES: usize = 1 << 20;

impl Lines {
    /// Lines of up to so many bytes.
    pub fn new(line_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, line_bytes_max }
    }

    /// Where to put what comes next.
    pub fn room(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next whole line, without its end; `None` when it has not come whole.
    pub fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return if self.scanned > self.line_bytes_max { Err(TooLong) } else { Ok(None) };
        };
        let mut line = self.buffer.split_to(self.scanned + at + 1);
        self.scanned = 0;
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if line.len() > self.line_bytes_max { Err(TooLong) } else { Ok(Some(line.freeze())) }
    }
}

/// Appends a message with parts replaced, as a line. Edits are in ascending order.
///
/// A raw line end within a message is white space between its tokens, for in a string it would be written as
/// an escape (RFC 8259, section 7): a space is as good, and keeps the message on its line.
pub fn write_line(message: &[u8], edits: &[(Span, &[u8])], out: &mut BytesMut) {
    out.reserve(message.len() + edits.iter().map(|(_, with)| with.len()).sum::<usize>() + 1);
    let start = out.len();
    replace(message, edits, out);
    flatten(&mut out[start..]);
    out.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of every size, the lines are the same.
    fn check(said: &[u8], expected: &[&str]) {
        for size in 1..=said.len().max(1) {
            let mut lines = Lines::new(10);
            let mut found = Vec::new();
            for piece in said.chunks(size) {
                lines.room().put_slice(piece);
                loop {
                    match lines.next() {
                        Ok(Some(line)) => found.push(String::from_utf8_lossy(&line).into_owned()),
                        Ok(None) => break,
                        Err(TooLong) => {
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
    fn cuts_lines() {
        check(b"{\"a\":1}\n{}\n", &["{\"a\":1}", "{}"]);
        check(b"a\r\n\r\nb\rc\n", &["a", "", "b\rc"]);
        check(b"a\nno end", &["a"]);
        check(b"0123456789\n", &["0123456789"]);
        check(b"01234567890\n", &["too long"]);
        check(b"a\n0123456789abcdef", &["a", "too long"]);
        check(b"", &[]);
    }

    #[test]
    fn gives_big_buffers_back() {
        let mut lines = Lines::new(4 << 20);
        lines.room().put_slice(&vec![b'x'; 3 << 20]);
        assert_eq!(lines.next(), Ok(None));
        lines.room().put_slice(b"\n");
        assert_eq!(lines.next().unwrap().unwrap().len(), 3 << 20);
        assert!(lines.room().capacity() <= KEPT_BYTES);
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
