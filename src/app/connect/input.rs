//! What the client writes, cut into lines: one JSON-RPC message each (MCP, stdio).

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use tokio::sync::mpsc;

/// What came between two line feeds.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// All of it, without white space at its ends; never empty.
    Whole(Bytes),
    /// More than may be held; the rest of it is passed over.
    TooLong,
}

/// The lines of a client, as their bytes come.
///
/// Invariant: `scanned <= buffer.len()`, and no line feed lies before `scanned`.
pub struct Lines {
    chunks: mpsc::Receiver<Bytes>,
    buffer: BytesMut,
    scanned: usize,
    /// Within a line that was too long.
    is_passing_over: bool,
    line_bytes_max: usize,
}

impl Lines {
    /// Of up to so many bytes each.
    pub fn new(chunks: mpsc::Receiver<Bytes>, line_bytes_max: usize) -> Self {
        Self { chunks, buffer: BytesMut::new(), scanned: 0, is_passing_over: false, line_bytes_max }
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
            if std::mem::take(&mut self.is_passing_over) {
                continue;
            }
            if let Some(line) = self.judge(&line) {
                return Some(line);
            }
        }
        self.scanned = self.buffer.len();
        if self.is_passing_over || self.scanned > self.line_bytes_max {
            // Given back, not only emptied: it has grown.
            self.buffer = BytesMut::new();
            self.scanned = 0;
            let is_news = !std::mem::replace(&mut self.is_passing_over, true);
            return is_news.then_some(Line::TooLong);
        }
        None
    }

    fn last(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        self.scanned = 0;
        self.judge(&rest).filter(|_| !self.is_passing_over)
    }

    /// `None` for a blank line, which says nothing.
    fn judge(&self, line: &Bytes) -> Option<Line> {
        let trimmed = line.trim_ascii();
        match trimmed.len() {
            0 => None,
            bytes if bytes > self.line_bytes_max => Some(Line::TooLong),
            _ => Some(Line::Whole(line.slice_ref(trimmed))),
        }
    }
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
                        Line::TooLong => "too long".to_owned(),
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
