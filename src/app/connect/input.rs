//! What the client writes, cut into lines: one JSON-RPC message each (MCP, stdio).

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use tokio::sync::mpsc;

/// What came between two line feeds.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// All of it, without white space at its ends; never empty.
    Whole(Bytes),
    /// More than may be held: where it begins and where it ends, up to [`END_BYTES`] of each.
    TooLong(Bytes, Bytes),
}

/// Of each end of a line that is too long: the members of a message around its params are shorter.
pub const END_BYTES: usize = 1 << 10;

/// The lines of a client, as their bytes come.
///
/// Invariant: `scanned <= buffer.len()`, and no line feed lies before `scanned`.
pub struct Lines {
    chunks: mpsc::Receiver<Bytes>,
    buffer: BytesMut,
    scanned: usize,
    /// Within a line that is too long: how it began, and what came last of it.
    passed_over: Option<(Bytes, BytesMut)>,
    line_bytes_max: usize,
}

impl Lines {
    /// Of up to so many bytes each.
    pub fn new(chunks: mpsc::Receiver<Bytes>, line_bytes_max: usize) -> Self {
        Self { chunks, buffer: BytesMut::new(), scanned: 0, passed_over: None, line_bytes_max }
    }

    /// How many.
    pub fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    /// The next line; `None` at the end. The last one may lack its line feed. Cancel safe.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.cut() {
                return Some(line);
            }
            let Some(chunk) = self.chunks.recv().await else { return self.last() };
            self.buffer.extend_from_slice(&chunk);
        }
    }

    fn cut(&mut self) -> Option<Line> {
        while let Some(at) = memchr(b'\n', &self.buffer[self.scanned..]) {
            let line = self.buffer.split_to(self.scanned + at + 1).freeze();
            self.scanned = 0;
            let line = match self.passed_over.take() {
                Some(passed_over) => Some(ended(passed_over, &line)),
                None => self.judge(&line),
            };
            if line.is_some() {
                return line;
            }
        }
        self.scanned = self.buffer.len();
        if self.passed_over.is_some() || self.scanned > self.line_bytes_max {
            // Given back, not only emptied: it has grown.
            let more = std::mem::take(&mut self.buffer);
            self.scanned = 0;
            let (_, last) = self.passed_over.get_or_insert_with(|| (beginning(&more), BytesMut::new()));
            keep_end(last, &more);
        }
        None
    }

    fn last(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        self.scanned = 0;
        match self.passed_over.take() {
            Some(passed_over) => Some(ended(passed_over, &rest)),
            None => self.judge(&rest),
        }
    }

    /// `None` for a blank line, which says nothing.
    fn judge(&self, line: &Bytes) -> Option<Line> {
        let trimmed = line.trim_ascii();
        match trimmed.len() {
            0 => None,
            bytes if bytes > self.line_bytes_max => {
                Some(ended((beginning(trimmed), BytesMut::new()), trimmed))
            }
            _ => Some(Line::Whole(line.slice_ref(trimmed))),
        }
    }
}

/// Copied: a part would keep the whole.
fn beginning(line: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&line[..line.len().min(END_BYTES)])
}

/// `last`, when `more` has come after it.
fn keep_end(last: &mut BytesMut, more: &[u8]) {
    last.extend_from_slice(&more[more.len().saturating_sub(END_BYTES)..]);
    let over = last.len().saturating_sub(END_BYTES);
    drop(last.split_to(over));
}

fn ended((first, mut last): (Bytes, BytesMut), rest: &[u8]) -> Line {
    keep_end(&mut last, rest);
    Line::TooLong(first, last.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of every size, the lines are the same.
    fn check(said: &[u8], expected: &[&str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for size in 1..=said.len().max(1) {
            let (sender, chunks) = mpsc::channel(said.len().max(1));
            for piece in said.chunks(size) {
                sender.try_send(Bytes::copy_from_slice(piece)).expect("there is room");
            }
            drop(sender);
            let found = runtime.block_on(async {
                let mut lines = Lines::new(chunks, 10);
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
    fn cuts_lines() {
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
