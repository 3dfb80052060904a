//! Where a stream may be cut.

use memchr::memrchr2;

/// Follows a stream that is passed on untouched, to know where its last whole event ends: behind it,
/// and only there, bytes of our own may be put in.
///
/// A byte order mark before a blank line hides that line; nothing else is read differently from
/// [`EventReader`](crate::frame::EventReader).
#[derive(Clone, Copy, Debug, Default)]
pub struct BoundaryTracker {
    place: Place,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_cr: bool,
}

/// Where in a stream the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Behind a blank line, or at the beginning.
    #[default]
    Boundary,
    /// At the beginning of a line within an event.
    Line,
    /// Within a line.
    Text,
}

impl BoundaryTracker {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether all that was fed so far are whole events.
    pub fn is_at_boundary(self) -> bool {
        self.place == Place::Boundary
    }

    /// Takes the next chunk; gives how many of its bytes lie before the end of the last event that ends in
    /// it, and 0 if none does.
    ///
    /// Looks from the end: constant time for a chunk that ends with an event, linear in the chunk at worst.
    pub fn feed(&mut self, chunk: &[u8]) -> usize {
        let Some(&last) = chunk.last() else { return 0 };
        // The second half of a line end that began in the chunk before.
        let half = usize::from(self.after_cr && chunk.first() == Some(&b'\n'));
        self.after_cr = last == b'\r';
        if half == chunk.len() {
            return if self.is_at_boundary() { half } else { 0 };
        }
        let end = self.last_blank_line(chunk, half);
        let end = if end == 0 && self.is_at_boundary() { half } else { end };
        self.place = match last {
            b'\n' | b'\r' if end == chunk.len() => Place::Boundary,
            b'\n' | b'\r' => Place::Line,
            _ => Place::Text,
        };
        end
    }

    /// The end of the last blank line in `chunk[half..]`, or 0.
    fn last_blank_line(self, chunk: &[u8], half: usize) -> usize {
        let mut limit = chunk.len();
        while let Some(at) = memrchr2(b'\n', b'\r', &chunk[half..limit]) {
            let at = half + at;
            let is_pair = chunk[at] == b'\n' && at > half && chunk[at - 1] == b'\r';
            let start = at - usize::from(is_pair);
            let is_blank = match start.checked_sub(1) {
                Some(before) => matches!(chunk[before], b'\n' | b'\r'),
                // The line began with this chunk, or before it.
                None => self.place != Place::Text,
            };
            if is_blank {
                return at + 1;
            }
            limit = start;
        }
        0
    }
}
