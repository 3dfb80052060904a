//! Taking an event stream apart.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

use crate::frame::span::Span;

/// One event with everything in it, and what of an event that has not ended is held. As much as the default
/// cap on a request body: a upstream may answer as much as a client may ask.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A stream that cannot be read on. The reader stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event longer than [`EVENT_BYTES_MAX`], or than the reader was told.
    #[error("an event in the stream is longer than may be held")]
    TooLong,
}

/// What lies between two blank lines of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// All of it, with the blank line that ends it, and without the byte order mark that a stream may begin with. Where
    /// that line ends with a carriage return at the very end of a chunk, without the line feed that may follow.
    pub raw: Bytes,
    /// The value of its `data` lines, joined by line feeds. None: it had no such line, and a client
    /// dispatches nothing. Empty: one empty line.
    pub data: Option<Bytes>,
    /// Where the data lies in `raw`, if it was a single line.
    pub data_span: Option<Span>,
    /// The value of the last `id` line without a NUL in it; empty takes the client's id back.
    pub id: Option<Bytes>,
    /// The value of the last `event` line.
    pub event_name: Option<Bytes>,
    /// The last `retry`, in milliseconds, as sent: the caller decides what it obeys.
    pub retry: Option<u64>,
    /// Whether it says nothing: comments and blank lines only, as servers send to keep a connection alive.
    pub is_comment_only: bool,
}

/// Reads the events of a stream as its chunks come.
///
/// Every byte is looked at once. An event that lies in one chunk is not copied; one that does not is copied
/// once. What follows the last blank line at the end of a stream is no event, and is dropped with the reader.
#[derive(Debug)]
pub struct EventReader {
    /// One event, and what is held of one that has not ended.
    bytes_max: usize,
    /// Bytes of the event from earlier chunks. All of them were scanned.
    partial: BytesMut,
    /// What is left of the newest chunk.
    chunk: Bytes,
    /// How much of `chunk` was scanned. The event's bytes so far are `partial` and `chunk[..scanned]`.
    scanned: usize,
    /// Where the line that is being scanned began, from the beginning of the event.
    /// Invariant: `line <= partial.len() + scanned`.
    line: usize,
    fields: Fields,
    /// The last line ended with a carriage return at the end of a chunk.
    after_cr: bool,
    /// Some line of this stream has ended: a byte order mark can no longer come.
    is_begun: bool,
    is_failed: bool,
}

/// The fields of the event so far, as places in it.
#[derive(Debug, Default)]
struct Fields {
    data: Option<(usize, usize)>,
    /// The data from the second line on.
    joined: Option<BytesMut>,
    id: Option<(usize, usize)>,
    event_name: Option<(usize, usize)>,
    retry: Option<u64>,
}

impl Default for EventReader {
    fn default() -> Self {
        Self::new()
    }
}

impl EventReader {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::with_event_limit(EVENT_BYTES_MAX)
    }

    /// Likewise, of a stream whose events may have so many bytes each.
    pub fn with_event_limit(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            partial: BytesMut::new(),
            chunk: Bytes::new(),
            scanned: 0,
            line: 0,
            fields: Fields::default(),
            after_cr: false,
            is_begun: false,
            is_failed: false,
        }
    }

    /// In the place of one that was at rest.
    pub fn mid_stream() -> Self {
        Self { is_begun: true, ..Self::new() }
    }

    /// Whether it holds nothing but that its stream has begun, so that [`going_on`](Self::going_on) can take its place.
    pub fn is_idle(&self) -> bool {
        self.is_begun && !self.is_failed && !self.after_cr && self.is_at_boundary()
    }

    /// Hands in the next bytes. Call [`next`](Self::next) until it gives none before the next push: what is
    /// left of a chunk is copied otherwise.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut both = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            both.extend_from_slice(&self.chunk);
            both.extend_from_slice(&chunk);
            self.chunk = both.freeze();
        }
    }

    /// Whether no event has begun: a stream that ends here lost nothing.
    pub fn is_at_boundary(&self) -> bool {
        self.partial.is_empty() && self.chunk.is_empty()
    }

    /// The next whole event, or none until more bytes come.
    ///
    /// # Errors
    /// [`SseError::TooLong`], then and ever after.
    #[allow(clippy::should_implement_trait)] // not an Iterator: "none" means "not yet", not "ended"
    pub fn next(&mut self) -> Result<Option<Event>, SseError> {
        if self.is_failed {
            return Err(SseError::TooLong);
        }
        self.skip_half_line_end();
        while let Some(found) = memchr2(b'\n', b'\r', &self.chunk[self.scanned..]) {
            let end = self.partial.len() + self.scanned + found;
            self.scanned += found;
            self.pass_line_end();
            self.bound(self.partial.len() + self.scanned)?;
            if let Some(event) = self.end_line(end) {
                return Ok(Some(event));
            }
        }
        self.bound(self.partial.len() + self.chunk.len())?;
        self.partial.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
        self.scanned = 0;
        Ok(None)
    }

    fn bound(&mut self, event_bytes: usize) -> Result<(), SseError> {
        if event_bytes <= self.bytes_max {
            return Ok(());
        }
        *self = Self { is_failed: true, ..Self::with_event_limit(self.bytes_max) };
        Err(SseError::TooLong)
    }

    /// Passes the line feed of a `\r\n` which was cut in two by the chunks.
    fn skip_half_line_end(&mut self) {
        let Some(&first) = self.chunk.get(self.scanned) else { return };
        if !std::mem::take(&mut self.after_cr) || first != b'\n' {
            return;
        }
        if self.line == 0 {
            // It belongs to an event that is gone.
            self.chunk.advance(1);
        } else {
            self.scanned += 1;
            self.line += 1;
        }
    }

    /// Moves behind the line end at `scanned`.
    fn pass_line_end(&mut self) {
        let is_cr = self.chunk[self.scanned] == b'\r';
        self.scanned += 1;
        if is_cr {
            match self.chunk.get(self.scanned) {
                Some(b'\n') => self.scanned += 1,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
    }

    /// Takes the line that ended at `end`, from the beginning of the event; gives the event if it was blank.
    fn end_line(&mut self, mut end: usize) -> Option<Event> {
        if self.line < self.partial.len() {
            // The line began in an earlier chunk: bring it together.
            self.partial.extend_from_slice(&self.chunk.split_to(self.scanned));
            self.scanned = 0;
        }
        if !std::mem::replace(&mut self.is_begun, true)
            && self.slice(self.line, end).starts_with(BYTE_ORDER_MARK)
        {
            // No event has it, for in the midst of a stream it would be a part of a field's name.
            if self.partial.is_empty() {
                self.chunk.advance(BYTE_ORDER_MARK.len());
                self.scanned -= BYTE_ORDER_MARK.len();
            } else {
                self.partial.advance(BYTE_ORDER_MARK.len());
            }
            end -= BYTE_ORDER_MARK.len();
        }
        if self.line == end {
            return Some(self.end_event());
        }
        self.field(self.line, end);
        self.line = self.partial.len() + self.scanned;
        None
    }

    fn end_event(&mut self) -> Event {
        let head = self.chunk.split_to(self.scanned);
        let raw = if self.partial.is_empty() {
            head
        } else {
            self.partial.extend_from_slice(&head);
            // Taken whole, so that a quiet stream holds no buffer.
            std::mem::take(&mut self.partial).freeze()
        };
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
        self.scanned = 0;
        self.line = 0;
        std::mem::take(&mut self.fields).into_event(raw)
    }

    /// Takes the field in a line that is not blank.
    fn field(&mut self, start: usize, end: usize) {
        let line = self.slice(start, end);
        let (name, value) = match memchr(b':', line) {
            Some(colon) => {
                let space = usize::from(line.get(colon + 1) == Some(&b' '));
                (&line[..colon], colon + 1 + space)
            }
            None => (line, line.len()),
        };
        let place = (start + value, end);
        let value = &line[value..];
        match name {
            b"data" => self.data(place),
            b"event" => self.fields.event_name = Some(place),
            b"id" if memchr(0, value).is_none() => self.fields.id = Some(place),
            b"retry" => self.fields.retry = milliseconds(value).or(self.fields.retry),
            _ => {}
        }
    }

    fn data(&mut self, place: (usize, usize)) {
        let Some(first) = self.fields.data else {
            self.fields.data = Some(place);
            return;
        };
        let mut joined =
            self.fields.joined.take().unwrap_or_else(|| BytesMut::from(self.slice(first.0, first.1)));
        joined.extend_from_slice(b"\n");
        joined.extend_from_slice(self.slice(place.0, place.1));
        self.fields.joined = Some(joined);
    }

    /// Bytes of the event so far. A line lies either in `partial` or in `chunk`, never in both.
    fn slice(&self, start: usize, end: usize) -> &[u8] {
        match start.checked_sub(self.partial.len()) {
            Some(start) => &self.chunk[start..end - self.partial.len()],
            None => &self.partial[start..end],
        }
    }
}

impl Fields {
    fn into_event(self, raw: Bytes) -> Event {
        let cut = |place: Option<(usize, usize)>| place.map(|(start, end)| raw.slice(start..end));
        let is_single = self.joined.is_none();
        let data = match self.joined {
            Some(joined) => Some(joined.freeze()),
            None => cut(self.data),
        };
        let (id, event_name) = (cut(self.id), cut(self.event_name));
        let data_span = self.data.filter(|_| is_single).and_then(|(start, end)| {
            Some(Span { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
        });
        let is_comment_only = data.is_none() && id.is_none() && event_name.is_none() && self.retry.is_none();
        Event { raw, data, data_span, id, event_name, retry: self.retry, is_comment_only }
    }
}

/// The value of a `retry` line: ASCII digits only; more than 64 bit hold reads as the most they hold.
fn milliseconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |&byte: &u8| u64::from(byte - b'0');
    Some(value.iter().map(digit).fold(0, |all, digit| all.saturating_mul(10).saturating_add(digit)))
}
