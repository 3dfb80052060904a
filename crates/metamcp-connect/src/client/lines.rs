//! Splits the client's input into lines: one JSON-RPC message each (MCP, stdio).

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use tokio::sync::mpsc;

/// One line of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without the white space around it; never empty.
    Whole(Bytes),
    /// A line over the limit: its first and its last bytes, up to [`END_BYTES`] of each.
    TooLong(Bytes, Bytes),
}

/// What is kept of each end of a line that is too long: the members of a message around its params are shorter.
pub const END_BYTES: usize = 1 << 10;

/// Reads lines from chunks of bytes.
///
/// Invariant: `scanned <= buffer.len()`, and no line feed lies before `scanned`.
pub struct LineReader {
    chunks: mpsc::Receiver<Bytes>,
    buffer: BytesMut,
    scanned: usize,
    /// Both ends of the line that is being skipped because it is too long.
    skipped: Option<(Bytes, BytesMut)>,
    line_bytes_max: usize,
}

impl LineReader {
    pub fn new(chunks: mpsc::Receiver<Bytes>, line_bytes_max: usize) -> Self {
        Self { chunks, buffer: BytesMut::new(), scanned: 0, skipped: None, line_bytes_max }
    }

    pub fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    /// Returns the next line; `None` at the end of the input. The last line may lack its line feed. Cancel safe.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.take_line() {
                return Some(line);
            }
            let Some(chunk) = self.chunks.recv().await else { return self.take_rest() };
            self.buffer.extend_from_slice(&chunk);
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        while let Some(at) = memchr(b'\n', &self.buffer[self.scanned..]) {
            let line = self.buffer.split_to(self.scanned + at + 1).freeze();
            self.scanned = 0;
            let line = match self.skipped.take() {
                Some(ends) => Some(too_long(ends, &line)),
                None => self.check_length(&line),
            };
            if line.is_some() {
                return line;
            }
        }
        self.scanned = self.buffer.len();
        if self.skipped.is_some() || self.scanned > self.line_bytes_max {
            // Taken rather than cleared, so that the grown buffer is freed.
            let more = std::mem::take(&mut self.buffer);
            self.scanned = 0;
            let (_, last) = self.skipped.get_or_insert_with(|| (copy_start(&more), BytesMut::new()));
            extend_end(last, &more);
        }
        None
    }

    fn take_rest(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        self.scanned = 0;
        match self.skipped.take() {
            Some(ends) => Some(too_long(ends, &rest)),
            None => self.check_length(&rest),
        }
    }

    /// `None` for a blank line.
    fn check_length(&self, line: &Bytes) -> Option<Line> {
        let trimmed = line.trim_ascii();
        match trimmed.len() {
            0 => None,
            bytes if bytes > self.line_bytes_max => {
                Some(too_long((copy_start(trimmed), BytesMut::new()), trimmed))
            }
            _ => Some(Line::Whole(line.slice_ref(trimmed))),
        }
    }
}

/// Copies: a slice would keep the whole line allocated.
fn copy_start(line: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&line[..line.len().min(END_BYTES)])
}

/// Appends `more` to `last` and keeps the last `END_BYTES` of it.
fn extend_end(last: &mut BytesMut, more: &[u8]) {
    last.extend_from_slice(&more[more.len().saturating_sub(END_BYTES)..]);
    let excess = last.len().saturating_sub(END_BYTES);
    drop(last.split_to(excess));
}

fn too_long((first, mut last): (Bytes, BytesMut), rest: &[u8]) -> Line {
    extend_end(&mut last, rest);
    Line::TooLong(first, last.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the lines are the same however the input is cut into chunks.
    fn check(input: &[u8], expected: &[&str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for size in 1..=input.len().max(1) {
            let (sender, chunks) = mpsc::channel(input.len().max(1));
            for piece in input.chunks(size) {
                sender.try_send(Bytes::copy_from_slice(piece)).expect("there is room");
            }
            drop(sender);
            let found = runtime.block_on(async {
                let mut lines = LineReader::new(chunks, 10);
                let mut found = Vec::new();
                while let Some(line) = lines.next().await {
                    found.push(match line {
                        Line::Whole(line) => String::from_utf8_lossy(&line).into_owned(),
                        Line::TooLong(first, last) => {
                            assert!(!first.is_empty() && last.len() <= END_BYTES);
                            "too long".to_owned()
                        }
                    });
                }
                assert_eq!(lines.next().await, None, "the end stays the end");
                found
            });
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn splits_lines() {
        check(b"", &[]);
        check(b"{\"a\":1}\n{}\n", &["{\"a\":1}", "{}"]);
        check(b"a\r\n\r\n \t\nb\rc\n", &["a", "b\rc"]);
        check(b"a\nno end", &["a", "no end"]);
        check(b"0123456789\n", &["0123456789"]);
        check(b"01234567890\nb\n", &["too long", "b"]);
        check(b"a\n0123456789abcdef0123456789abcdef\nb\nc", &["a", "too long", "b", "c"]);
        check(b"0123456789abcdef", &["too long"]);
        check(b"\xff\n", &["\u{fffd}"]);
    }
}
