//! The messages of a framed stream, one behind the other: found as the chunks come, in either form.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use crate::frame::header::{FRAME_HEADER_BYTES, FrameHeader, FrameHeaderError};

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageFraming {
    /// Each on a line of its own; blank lines mean nothing.
    Lines,
    /// Each behind a [`FrameHeader`]; frames without payload mean nothing.
    Frames,
}

/// One message, or what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamItem {
    /// As it came: a slice of the chunk that it lies in, or a copy where it lies in several. Never empty.
    Message {
        /// What stood in front of it.
        header: Option<FrameHeader>,
        /// Its bytes, without a line's end.
        bytes: Bytes,
    },
    /// One longer than may be held: it is passed over, and what follows it is read.
    TooLong,
}

/// What is left where no more bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRemainder {
    /// The last message was whole.
    Empty,
    /// A line that has no end.
    Line(Bytes),
    /// Half a frame, or what was being passed over.
    Incomplete,
}

/// Finds messages as the chunks come. Every byte is looked at once; memory is at most one message.
#[derive(Debug)]
pub struct MessageReader {
    form: MessageFraming,
    /// Of one message.
    bytes_max: usize,
    /// What is left of the newest chunk. Nothing of it was looked at.
    chunk: Bytes,
    /// Of the line, header or payload that has begun, from earlier chunks.
    partial: BytesMut,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Line,
    SkipLine,
    Header,
    Payload(FrameHeader),
    SkipPayload(usize),
}

impl State {
    fn start(form: MessageFraming) -> Self {
        match form {
            MessageFraming::Lines => Self::Line,
            MessageFraming::Frames => Self::Header,
        }
    }
}

impl MessageReader {
    /// At the beginning of a stream whose messages may have so many bytes each.
    pub fn new(form: MessageFraming, bytes_max: usize) -> Self {
        let state = State::start(form);
        Self { form, bytes_max, chunk: Bytes::new(), partial: BytesMut::new(), state }
    }

    /// Hands in the next bytes. Call [`next`](Self::next) until it gives none before the next push.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "what was pushed before has been read");
        self.chunk = chunk;
    }

    /// Whether a message has begun that is not whole.
    pub fn is_mid_message(&self) -> bool {
        !self.partial.is_empty() || !matches!(self.state, State::Line | State::Header)
    }

    /// The next message, or none until more bytes come.
    ///
    /// # Errors
    /// [`BadHeader`]: where the next frame begins is not known. Nothing is to be read on.
    #[allow(clippy::should_implement_trait)] // not an Iterator: "none" means "not yet", not "ended"
    pub fn next(&mut self) -> Result<Option<StreamItem>, FrameHeaderError> {
        while !self.chunk.is_empty() {
            let piece = match self.state {
                State::Line => self.line(),
                State::SkipLine => {
                    self.skip_line();
                    None
                }
                State::Header => self.header()?,
                State::Payload(header) => self.payload(header),
                State::SkipPayload(left) => {
                    self.skip_payload(left);
                    None
                }
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
        // An empty slice would hold the whole chunk.
        self.chunk = Bytes::new();
        Ok(None)
    }

    /// No more bytes come.
    pub fn finish(&mut self) -> StreamRemainder {
        match self.state {
            State::Line | State::Header if self.partial.is_empty() => StreamRemainder::Empty,
            State::Line => match trimmed(std::mem::take(&mut self.partial).freeze()) {
                line if line.is_empty() => StreamRemainder::Empty,
                line => StreamRemainder::Line(line),
            },
            _ => StreamRemainder::Incomplete,
        }
    }

    fn line(&mut self) -> Option<StreamItem> {
        let Some(end) = memchr(b'\n', &self.chunk) else {
            // One more, for the carriage return that may stand at the end.
            if self.partial.len() + self.chunk.len() > self.bytes_max + 1 {
                self.partial = BytesMut::new();
                self.state = State::SkipLine;
                return Some(StreamItem::TooLong);
            }
            self.keep(self.chunk.len());
            return None;
        };
        let line = if self.partial.is_empty() {
            self.chunk.split_to(end)
        } else {
            self.keep(end);
            std::mem::take(&mut self.partial).freeze()
        };
        self.chunk.advance(1);
        let bytes = trimmed(line);
        if bytes.len() > self.bytes_max {
            return Some(StreamItem::TooLong);
        }
        (!bytes.is_empty()).then_some(StreamItem::Message { header: None, bytes })
    }

    fn skip_line(&mut self) {
        match memchr(b'\n', &self.chunk) {
            Some(end) => {
                self.chunk.advance(end + 1);
                self.state = State::Line;
            }
            None => self.chunk.clear(),
        }
    }

    fn header(&mut self) -> Result<Option<StreamItem>, FrameHeaderError> {
        let read = if self.partial.is_empty() && self.chunk.len() >= FRAME_HEADER_BYTES {
            let read = FrameHeader::parse(&self.chunk)?;
            self.chunk.advance(FRAME_HEADER_BYTES);
            read
        } else {
            self.keep(self.chunk.len().min(FRAME_HEADER_BYTES - self.partial.len()));
            FrameHeader::parse(&self.partial)?
        };
        let Some(header) = read else { return Ok(None) };
        self.partial.clear();
        // 32 bit fit where it runs.
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        if length > self.bytes_max {
            self.state = State::SkipPayload(length);
            return Ok(Some(StreamItem::TooLong));
        }
        if length > 0 {
            self.state = State::Payload(header);
        }
        Ok(None)
    }

    fn payload(&mut self, header: FrameHeader) -> Option<StreamItem> {
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        let bytes = if self.partial.is_empty() && self.chunk.len() >= length {
            self.chunk.split_to(length)
        } else {
            // Grows as bytes come, whatever the header says of how many there will be.
            self.keep(self.chunk.len().min(length - self.partial.len()));
            if self.partial.len() < length {
                return None;
            }
            std::mem::take(&mut self.partial).freeze()
        };
        self.state = State::Header;
        Some(StreamItem::Message { header: Some(header), bytes })
    }

    fn skip_payload(&mut self, left: usize) {
        let here = left.min(self.chunk.len());
        self.chunk.advance(here);
        self.state = if here == left { State::start(self.form) } else { State::SkipPayload(left - here) };
    }

    /// So many bytes of the chunk belong to what has begun.
    fn keep(&mut self, bytes: usize) {
        self.partial.extend_from_slice(&self.chunk[..bytes]);
        self.chunk.advance(bytes);
    }
}

/// Without the white space around it; nothing, of a line that has nothing else.
fn trimmed(line: Bytes) -> Bytes {
    let whole = line.trim_ascii();
    if whole.len() == line.len() { line } else { line.slice_ref(whole) }
}

#[cfg(test)]
mod tests;
