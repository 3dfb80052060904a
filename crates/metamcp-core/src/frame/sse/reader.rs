//! The parser of event streams.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

use super::BYTE_ORDER_MARK;
use super::retry::parse_milliseconds;
use crate::base::{ChargedBuffer, OutOfMemory};
use crate::frame::span::Span;

/// The length of one event, complete or not. The same as the default limit of a request body, so that a
/// response may be as long as a request.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

/// The stream is unreadable from here on. The reader returns this error from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event is longer than [`EVENT_BYTES_MAX`] or than the limit of the reader.
    #[error("an event in the stream is longer than may be held")]
    TooLong,
    /// There is no memory for an event that is not complete.
    #[error("there is no memory for an event in the stream: {0}")]
    OutOfMemory(#[from] OutOfMemory),
}

/// The part of a stream between two blank lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// All bytes, with the blank line at the end, and without a byte order mark at the start of the stream.
    /// If the blank line ends with a carriage return at the end of a chunk, a line feed that follows is not
    /// included.
    pub raw: Bytes,
    /// The values of its `data` lines, joined by line feeds. `None` if it has none; a client dispatches
    /// nothing then. Empty for one empty line.
    pub data: Option<Bytes>,
    /// The span of the data in `raw`, if it is a single line.
    pub data_span: Option<Span>,
    /// The value of the last `id` line without a NUL. An empty value resets the client's last event id.
    pub id: Option<Bytes>,
    /// The value of the last `event` line.
    pub event_name: Option<Bytes>,
    /// The last `retry` in milliseconds, unbounded: the caller decides what to obey.
    pub retry: Option<u64>,
    /// Whether it has comments only, as servers send them to keep a connection alive.
    pub is_comment_only: bool,
}

/// Parses the events of a stream.
///
/// Every byte is read once. An event within one chunk is not copied; any other event is copied once. The
/// bytes after the last blank line of a stream are no event, and are dropped with the reader.
#[derive(Debug)]
pub struct EventReader {
    /// The limit of one event.
    event_bytes_max: usize,
    /// The bytes of the event from earlier chunks. All of them were scanned.
    pub(super) partial: ChargedBuffer,
    /// The unread rest of the last chunk.
    chunk: Bytes,
    /// The number of bytes of `chunk` that were scanned. The event so far is `partial` and `chunk[..scanned]`.
    scanned: usize,
    /// The start of the current line, relative to the start of the event.
    /// Invariant: `line_start <= partial.len() + scanned`.
    line_start: usize,
    fields: EventFields,
    /// The last line ended with a carriage return at the end of a chunk.
    after_cr: bool,
    /// A line of the stream has ended, so that no byte order mark can follow.
    is_begun: bool,
    failure: Option<SseError>,
}

/// The fields of the event so far, as ranges of its bytes.
#[derive(Debug, Default)]
struct EventFields {
    data: Option<(usize, usize)>,
    /// The joined data, from the second line on.
    joined: Option<ChargedBuffer>,
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
    /// Creates a reader at the start of a stream.
    pub fn new() -> Self {
        Self::with_event_limit(EVENT_BYTES_MAX)
    }

    /// Creates a reader with a limit of one event.
    pub fn with_event_limit(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            partial: ChargedBuffer::default(),
            chunk: Bytes::new(),
            scanned: 0,
            line_start: 0,
            fields: EventFields::default(),
            after_cr: false,
            is_begun: false,
            failure: None,
        }
    }

    /// Creates a reader that continues for one that was [idle](Self::is_idle).
    pub fn mid_stream() -> Self {
        Self { is_begun: true, ..Self::new() }
    }

    /// Whether the reader has no state except that its stream has begun, so that
    /// [`mid_stream`](Self::mid_stream) can replace it.
    pub fn is_idle(&self) -> bool {
        self.is_begun && self.failure.is_none() && !self.after_cr && self.is_at_boundary()
    }

    /// Adds the next chunk. If [`next`](Self::next) has not returned `None` before, the rest of the last
    /// chunk is copied.
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

    /// Whether the stream is between events, so that nothing is lost if it ends here.
    pub fn is_at_boundary(&self) -> bool {
        self.partial.is_empty() && self.chunk.is_empty()
    }

    /// Returns the next complete event, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`SseError`], for this and all later calls.
    #[allow(clippy::should_implement_trait)] // not an Iterator: "none" means "not yet", not "ended"
    pub fn next(&mut self) -> Result<Option<Event>, SseError> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        self.skip_line_feed();
        while let Some(offset) = memchr2(b'\n', b'\r', &self.chunk[self.scanned..]) {
            let end = self.partial.len() + self.scanned + offset;
            self.scanned += offset;
            self.skip_line_end();
            self.check_length(self.partial.len() + self.scanned)?;
            match self.end_line(end) {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(error) => return Err(self.fail(error.into())),
            }
        }
        self.check_length(self.partial.len() + self.chunk.len())?;
        self.partial.extend(&self.chunk).map_err(|error| self.fail(error.into()))?;
        self.chunk = Bytes::new();
        self.scanned = 0;
        Ok(None)
    }

    fn check_length(&mut self, event_bytes: usize) -> Result<(), SseError> {
        if event_bytes <= self.event_bytes_max {
            return Ok(());
        }
        Err(self.fail(SseError::TooLong))
    }

    #[cold]
    fn fail(&mut self, error: SseError) -> SseError {
        *self = Self { failure: Some(error), ..Self::with_event_limit(self.event_bytes_max) };
        error
    }

    /// Skips the line feed of a `\r\n` that was split between two chunks.
    fn skip_line_feed(&mut self) {
        let Some(&first) = self.chunk.get(self.scanned) else { return };
        if !std::mem::take(&mut self.after_cr) || first != b'\n' {
            return;
        }
        if self.line_start == 0 {
            // It belongs to the previous event.
            self.chunk.advance(1);
        } else {
            self.scanned += 1;
            self.line_start += 1;
        }
    }

    /// Skips the line end at `scanned`.
    fn skip_line_end(&mut self) {
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

    /// Processes the line that ends at `end`, relative to the start of the event. Returns the event if the
    /// line is blank.
    fn end_line(&mut self, mut end: usize) -> Result<Option<Event>, OutOfMemory> {
        if self.line_start < self.partial.len() {
            // The line began in an earlier chunk: join it.
            self.partial.extend(&self.chunk.split_to(self.scanned))?;
            self.scanned = 0;
        }
        if !std::mem::replace(&mut self.is_begun, true)
            && self.slice(self.line_start, end).starts_with(BYTE_ORDER_MARK)
        {
            // Events do not include it: within a stream it would be part of a field name.
            if self.partial.is_empty() {
                self.chunk.advance(BYTE_ORDER_MARK.len());
                self.scanned -= BYTE_ORDER_MARK.len();
            } else {
                self.partial.bytes_mut().advance(BYTE_ORDER_MARK.len());
            }
            end -= BYTE_ORDER_MARK.len();
        }
        if self.line_start == end {
            return self.end_event().map(Some);
        }
        self.read_field(self.line_start, end)?;
        self.line_start = self.partial.len() + self.scanned;
        Ok(None)
    }

    fn end_event(&mut self) -> Result<Event, OutOfMemory> {
        let head = self.chunk.split_to(self.scanned);
        let raw = if self.partial.is_empty() {
            head
        } else {
            self.partial.extend(&head)?;
            // The buffer is given away, so that an idle stream holds none.
            self.partial.take()
        };
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
        self.scanned = 0;
        self.line_start = 0;
        Ok(std::mem::take(&mut self.fields).into_event(raw))
    }

    /// Processes the field of a line that is not blank.
    fn read_field(&mut self, start: usize, end: usize) -> Result<(), OutOfMemory> {
        let line = self.slice(start, end);
        let (name, value) = match memchr(b':', line) {
            Some(colon) => {
                let space = usize::from(line.get(colon + 1) == Some(&b' '));
                (&line[..colon], colon + 1 + space)
            }
            None => (line, line.len()),
        };
        let range = (start + value, end);
        let value = &line[value..];
        match name {
            b"data" => self.add_data(range)?,
            b"event" => self.fields.event_name = Some(range),
            b"id" if memchr(0, value).is_none() => self.fields.id = Some(range),
            b"retry" => self.fields.retry = parse_milliseconds(value).or(self.fields.retry),
            _ => {}
        }
        Ok(())
    }

    fn add_data(&mut self, range: (usize, usize)) -> Result<(), OutOfMemory> {
        let Some(first) = self.fields.data else {
            self.fields.data = Some(range);
            return Ok(());
        };
        let mut joined = self.fields.joined.take().unwrap_or_else(|| self.partial.sibling());
        if joined.is_empty() {
            // The second line. A line feed has been joined to the first if it is empty.
            joined.extend(self.slice(first.0, first.1))?;
        }
        joined.extend(b"\n")?;
        joined.extend(self.slice(range.0, range.1))?;
        self.fields.joined = Some(joined);
        Ok(())
    }

    /// Returns bytes of the event so far. A line is either in `partial` or in `chunk`, never in both.
    fn slice(&self, start: usize, end: usize) -> &[u8] {
        match start.checked_sub(self.partial.len()) {
            Some(start) => &self.chunk[start..end - self.partial.len()],
            None => &self.partial[start..end],
        }
    }
}

impl EventFields {
    fn into_event(self, raw: Bytes) -> Event {
        let slice = |range: Option<(usize, usize)>| range.map(|(start, end)| raw.slice(start..end));
        let is_single = self.joined.is_none();
        let data = match self.joined {
            Some(joined) => Some(joined.freeze()),
            None => slice(self.data),
        };
        let (id, event_name) = (slice(self.id), slice(self.event_name));
        let data_span = self.data.filter(|_| is_single).and_then(|(start, end)| {
            Some(Span { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
        });
        let is_comment_only = data.is_none() && id.is_none() && event_name.is_none() && self.retry.is_none();
        Event { raw, data, data_span, id, event_name, retry: self.retry, is_comment_only }
    }
}
