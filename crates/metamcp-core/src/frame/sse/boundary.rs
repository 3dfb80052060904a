//! Event boundaries of a forwarded stream.

use memchr::memrchr2;

/// Tracks the event boundaries of a stream that is forwarded unchanged. Only at a boundary may other events be inserted.
///
/// It differs from [`EventReader`](crate::frame::EventReader) only in a byte order mark before a blank line, which hides that
/// line.
#[derive(Clone, Copy, Debug, Default)]
pub struct BoundaryTracker {
    position: Position,
    /// The last byte was a carriage return. A line feed that follows belongs to it.
    after_cr: bool,
}

/// The position of the next byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// After a blank line, or at the start of the stream.
    #[default]
    Boundary,
    /// At the start of a line within an event.
    Line,
    Text,
}

impl BoundaryTracker {
    /// Creates a tracker at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the stream so far consists of complete events.
    pub fn is_at_boundary(self) -> bool {
        self.position == Position::Boundary
    }

    /// Reads the next chunk. Returns the offset after the last event that ends in it, or 0 if none does.
    ///
    /// Searches from the end: constant time for a chunk that ends with an event, linear in the chunk at worst.
    pub fn feed(&mut self, chunk: &[u8]) -> usize {
        let Some(&last) = chunk.last() else { return 0 };
        // The line feed of a line end that began in the previous chunk.
        let half = usize::from(self.after_cr && chunk.first() == Some(&b'\n'));
        self.after_cr = last == b'\r';
        if half == chunk.len() {
            return if self.is_at_boundary() { half } else { 0 };
        }
        let end = self.last_blank_line(chunk, half);
        let end = if end == 0 && self.is_at_boundary() { half } else { end };
        self.position = match last {
            b'\n' | b'\r' if end == chunk.len() => Position::Boundary,
            b'\n' | b'\r' => Position::Line,
            _ => Position::Text,
        };
        end
    }

    /// Returns the offset after the last blank line in `chunk[half..]`, or 0.
    fn last_blank_line(self, chunk: &[u8], half: usize) -> usize {
        let mut limit = chunk.len();
        while let Some(at) = memrchr2(b'\n', b'\r', &chunk[half..limit]) {
            let at = half + at;
            let is_pair = chunk[at] == b'\n' && at > half && chunk[at - 1] == b'\r';
            let start = at - usize::from(is_pair);
            let is_blank = match start.checked_sub(1) {
                Some(before) => matches!(chunk[before], b'\n' | b'\r'),
                // The line begins with this chunk, or in an earlier one.
                None => self.position != Position::Text,
            };
            if is_blank {
                return at + 1;
            }
            limit = start;
        }
        0
    }
}
