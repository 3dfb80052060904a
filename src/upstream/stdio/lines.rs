//! Messages as lines (MCP, stdio): splitting the output of a process into lines, and writing lines to it.

use bytes::{BufMut, Bytes, BytesMut};

use metamcp_core::base::{ChargedBuffer, OutOfMemory};
use metamcp_core::frame::{Outline, OutlineId, OutlineReader, Span};
use metamcp_http::multiplex::{REQUEST_ID_BYTES_MAX, replace_line_breaks, splice_into};

/// Splits the output of a process into lines.
///
/// Invariant: `scanned <= buffer.len()`; there is no line feed before `scanned`.
pub struct LineReader {
    /// Charged for while it has an incomplete line.
    buffer: ChargedBuffer,
    scanned: usize,
    line_bytes_max: usize,
    /// The line that was given up, until its end.
    dropped: Option<DroppedLine>,
}

/// A line of which no more is kept than what messages it has.
struct DroppedLine {
    outline: OutlineReader,
    messages: Vec<Outline>,
    /// How much of the line has been read.
    bytes: usize,
}

/// A line of a process, without its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Complete(Bytes),
    /// It was given up with [`LineReader::give_up_line`]. These are its messages with an id: one, or those of a batch.
    Dropped(Vec<Outline>),
}

/// A line exceeds the limit.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// Read at once: a pipe holds 64 KiB.
const READ_BYTES: usize = 64 << 10;

/// Messages of a line that was given up: more than any batch of a server has, since calls are sent to it one by one.
const DROPPED_MESSAGES_MAX: usize = 256;

/// A buffer that grew beyond this for a long line is freed.
const KEPT_BYTES: usize = 1 << 20;

impl LineReader {
    pub fn new(line_bytes_max: usize) -> Self {
        Self { buffer: ChargedBuffer::default(), scanned: 0, line_bytes_max, dropped: None }
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
        let buffer = std::mem::take(&mut self.buffer);
        self.scanned = 0;
        self.dropped.get_or_insert_with(DroppedLine::new).push(&buffer);
    }

    /// Returns the next line; `None` while it is incomplete.
    pub fn next(&mut self) -> Result<Option<Line>, LineTooLong> {
        if self.dropped.is_some() {
            return self.next_dropped();
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
        if line.len() > self.line_bytes_max {
            Err(LineTooLong)
        } else {
            Ok(Some(Line::Complete(line.freeze())))
        }
    }

    /// Drops more of the line that was given up, to its end.
    fn next_dropped(&mut self) -> Result<Option<Line>, LineTooLong> {
        let end = memchr::memchr(b'\n', &self.buffer);
        let rest = match end {
            Some(at) => self.buffer.bytes_mut().split_to(at + 1),
            None => self.buffer.bytes_mut().split(),
        };
        let Some(mut line) = self.dropped.take() else { return Ok(None) };
        line.push(&rest);
        if line.bytes > self.line_bytes_max {
            return Err(LineTooLong);
        }
        if end.is_some() {
            return Ok(Some(Line::Dropped(line.messages)));
        }
        self.dropped = Some(line);
        Ok(None)
    }
}

impl DroppedLine {
    fn new() -> Self {
        Self { outline: OutlineReader::new(REQUEST_ID_BYTES_MAX), messages: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.outline.push(bytes, |message| {
            if matches!(message.id, OutlineId::Raw(_)) && self.messages.len() < DROPPED_MESSAGES_MAX {
                self.messages.push(message);
            }
        });
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

    fn complete(line: Line) -> Bytes {
        match line {
            Line::Complete(line) => line,
            Line::Dropped(_) => panic!("{line:?}"),
        }
    }

    /// Checks that the lines are the same for pieces of every size.
    fn check(output: &[u8], expected: &[&str]) {
        for size in 1..=output.len().max(1) {
            let mut lines = LineReader::new(10);
            let mut found = Vec::new();
            for piece in output.chunks(size) {
                lines.buffer_mut().put_slice(piece);
                loop {
                    match lines.next() {
                        Ok(Some(line)) => found.push(String::from_utf8_lossy(&complete(line)).into_owned()),
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
    fn drops_a_line_that_is_given_up_but_for_its_ids() {
        // The ids of what is dropped, wherever they are in it.
        let check = |line: &str, expected: &[&str]| {
            let output = format!("{{}}\n{line}\nsecond\n");
            for given_up_at in 4..=line.len() + 3 {
                for size in [1, 2, 7, output.len()] {
                    let mut lines = LineReader::new(200);
                    lines.buffer_mut().put_slice(&output.as_bytes()[..given_up_at]);
                    assert_eq!(complete(lines.next().unwrap().unwrap()), "{}");
                    assert_eq!(lines.next(), Ok(None));
                    lines.give_up_line();
                    let (mut ids, mut complete_lines) = (Vec::new(), Vec::new());
                    for piece in output.as_bytes()[given_up_at..].chunks(size) {
                        lines.buffer_mut().put_slice(piece);
                        while let Some(line) = lines.next().unwrap() {
                            match line {
                                Line::Complete(line) => complete_lines.push(line),
                                Line::Dropped(messages) => {
                                    ids.extend(messages.into_iter().map(|message| message.id));
                                }
                            }
                        }
                    }
                    let expected = expected.iter().map(|id| OutlineId::Raw(id.as_bytes().to_vec()));
                    assert_eq!(ids, expected.collect::<Vec<_>>(), "{line} {given_up_at} {size}");
                    assert_eq!(complete_lines, ["second"], "{line} {given_up_at} {size}");
                }
            }
        };
        check(r#"{"jsonrpc":"2.0","id":7,"result":{"id":8}}"#, &["7"]);
        check("{\"result\":{\"id\":8},\"jsonrpc\":\"2.0\",\"id\":\"a\"}\r", &["\"a\""]);
        check(r#"[{"id":1,"result":{}},{"method":"m"},{"id":2,"error":{}}]"#, &["1", "2"]);
        check(r#"{"method":"notifications/message","params":{"id":1}}"#, &[]);
        check("no message", &[]);
        check(r#"{"id":7,"result":{}"#, &[]);
    }

    #[test]
    fn a_line_that_is_given_up_is_still_limited() {
        let mut lines = LineReader::new(100);
        lines.buffer_mut().put_slice(&[b'x'; 90]);
        assert_eq!(lines.next(), Ok(None));
        lines.give_up_line();
        lines.buffer_mut().put_slice(&[b'x'; 10]);
        assert_eq!(lines.next(), Ok(None));
        lines.buffer_mut().put_slice(b"x");
        assert_eq!(lines.next(), Err(LineTooLong));
    }

    #[test]
    fn frees_large_buffers() {
        let mut lines = LineReader::new(4 << 20);
        lines.buffer_mut().put_slice(&vec![b'x'; 3 << 20]);
        assert_eq!(lines.next(), Ok(None));
        lines.buffer_mut().put_slice(b"\n");
        assert_eq!(complete(lines.next().unwrap().unwrap()).len(), 3 << 20);
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
