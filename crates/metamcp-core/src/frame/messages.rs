//! Splits a framed stream into its messages, in either framing.

use bytes::{Buf, Bytes};
use memchr::memchr;

use crate::base::{ChargedBuffer, OutOfMemory};
use crate::frame::header::{FRAME_HEADER_BYTES, FrameHeader, FrameHeaderError};

/// How the messages of a stream are delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageFraming {
    /// One message per line. Blank lines are ignored.
    Lines,
    /// A [`FrameHeader`] before each message. Frames without a payload are ignored.
    Frames,
}

/// One item of a stream: a message, or a placeholder for one that is too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamItem {
    /// A message: a slice of its chunk, or a copy if it spans several chunks. Never empty.
    Message {
        header: Option<FrameHeader>,
        /// The message without a line end.
        bytes: Bytes,
    },
    /// A message over the limit. It is skipped, and the stream continues.
    TooLong,
    /// A message for which there is no memory. It is skipped, and the stream continues.
    Refused(OutOfMemory),
}

/// What is left at the end of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRemainder {
    /// The last message was complete.
    Empty,
    /// A line without a line end.
    Line(Bytes),
    /// An incomplete frame, or an incomplete message that was being skipped.
    Incomplete,
}

/// Splits a stream into messages. Every byte is read once; the memory is bounded by one message.
#[derive(Debug)]
pub struct MessageReader {
    framing: MessageFraming,
    /// The limit of one message.
    message_bytes_max: usize,
    /// The unread rest of the last chunk.
    chunk: Bytes,
    /// The start of a line, header or payload from earlier chunks.
    partial: ChargedBuffer,
    state: ReaderState,
}

#[derive(Debug, Clone, Copy)]
enum ReaderState {
    Line,
    SkipLine,
    Header,
    Payload(FrameHeader),
    SkipPayload(usize),
}

impl ReaderState {
    fn start(framing: MessageFraming) -> Self {
        match framing {
            MessageFraming::Lines => Self::Line,
            MessageFraming::Frames => Self::Header,
        }
    }
}

impl MessageReader {
    /// Creates a reader at the start of a stream.
    pub fn new(framing: MessageFraming, message_bytes_max: usize) -> Self {
        let state = ReaderState::start(framing);
        let (chunk, partial) = (Bytes::new(), ChargedBuffer::default());
        Self { framing, message_bytes_max, chunk, partial, state }
    }

    /// Adds the next chunk. [`next`](Self::next) must have returned `None` before.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the last chunk was read");
        self.chunk = chunk;
    }

    /// Whether the stream is within a message.
    pub fn is_mid_message(&self) -> bool {
        !self.partial.is_empty() || !matches!(self.state, ReaderState::Line | ReaderState::Header)
    }

    /// Returns the next message, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameHeaderError`]: the start of the next frame is unknown. The reader must not be used again.
    #[allow(clippy::should_implement_trait)] // not an Iterator: "none" means "not yet", not "ended"
    pub fn next(&mut self) -> Result<Option<StreamItem>, FrameHeaderError> {
        while !self.chunk.is_empty() {
            let item = match self.state {
                ReaderState::Line => self.read_line(),
                ReaderState::SkipLine => {
                    self.skip_line();
                    None
                }
                ReaderState::Header => self.read_header()?,
                ReaderState::Payload(header) => self.read_payload(header),
                ReaderState::SkipPayload(left) => {
                    self.skip_payload(left);
                    None
                }
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        // An empty slice would keep the whole chunk alive.
        self.chunk = Bytes::new();
        Ok(None)
    }

    /// Ends the stream. Returns what is left of it.
    pub fn finish(&mut self) -> StreamRemainder {
        match self.state {
            ReaderState::Line | ReaderState::Header if self.partial.is_empty() => StreamRemainder::Empty,
            ReaderState::Line => match trim_line(self.partial.take()) {
                line if line.is_empty() => StreamRemainder::Empty,
                line => StreamRemainder::Line(line),
            },
            _ => StreamRemainder::Incomplete,
        }
    }

    fn read_line(&mut self) -> Option<StreamItem> {
        let Some(end) = memchr(b'\n', &self.chunk) else {
            if self.partial.len() + self.chunk.len() > self.line_bytes_max() {
                return Some(self.skip(ReaderState::SkipLine, StreamItem::TooLong));
            }
            if let Err(refusal) = self.keep(self.chunk.len()) {
                return Some(self.skip(ReaderState::SkipLine, StreamItem::Refused(refusal)));
            }
            return None;
        };
        let line = if self.partial.is_empty() {
            self.chunk.split_to(end)
        } else {
            if let Err(refusal) = self.keep(end) {
                return Some(self.skip(ReaderState::SkipLine, StreamItem::Refused(refusal)));
            }
            self.partial.take()
        };
        self.chunk.advance(1);
        // Blanks count too: in an incomplete line, those at its end are not known yet.
        let is_long = line.len() > self.line_bytes_max();
        let bytes = trim_line(line);
        if is_long || bytes.len() > self.message_bytes_max {
            return Some(StreamItem::TooLong);
        }
        (!bytes.is_empty()).then_some(StreamItem::Message { header: None, bytes })
    }

    /// The limit of a line: one more byte for a carriage return at the end.
    fn line_bytes_max(&self) -> usize {
        self.message_bytes_max.saturating_add(1)
    }

    fn skip_line(&mut self) {
        match memchr(b'\n', &self.chunk) {
            Some(end) => {
                self.chunk.advance(end + 1);
                self.state = ReaderState::Line;
            }
            None => self.chunk.clear(),
        }
    }

    fn read_header(&mut self) -> Result<Option<StreamItem>, FrameHeaderError> {
        let header = if self.partial.is_empty() && self.chunk.len() >= FRAME_HEADER_BYTES {
            let header = FrameHeader::parse(&self.chunk)?;
            self.chunk.advance(FRAME_HEADER_BYTES);
            header
        } else {
            let here = self.chunk.split_to(self.chunk.len().min(FRAME_HEADER_BYTES - self.partial.len()));
            // Too few for a charge.
            self.partial.bytes_mut().extend_from_slice(&here);
            FrameHeader::parse(&self.partial)?
        };
        let Some(header) = header else { return Ok(None) };
        self.partial.clear();
        // 32 bits fit into `usize` on all supported platforms.
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        if length > self.message_bytes_max {
            self.state = ReaderState::SkipPayload(length);
            return Ok(Some(StreamItem::TooLong));
        }
        if length > 0 {
            self.state = ReaderState::Payload(header);
        }
        Ok(None)
    }

    fn read_payload(&mut self, header: FrameHeader) -> Option<StreamItem> {
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        let bytes = if self.partial.is_empty() && self.chunk.len() >= length {
            self.chunk.split_to(length)
        } else {
            // The buffer grows with the bytes that arrive, not by the length in the header.
            let here = self.chunk.len().min(length - self.partial.len());
            if let Err(refusal) = self.keep(here) {
                let left = length - self.partial.len();
                return Some(self.skip(ReaderState::SkipPayload(left), StreamItem::Refused(refusal)));
            }
            if self.partial.len() < length {
                return None;
            }
            self.partial.take()
        };
        self.state = ReaderState::Header;
        Some(StreamItem::Message { header: Some(header), bytes })
    }

    fn skip_payload(&mut self, left: usize) {
        let here = left.min(self.chunk.len());
        self.chunk.advance(here);
        self.state = if here == left {
            ReaderState::start(self.framing)
        } else {
            ReaderState::SkipPayload(left - here)
        };
    }

    /// Gives up the message that has begun.
    #[cold]
    fn skip(&mut self, state: ReaderState, item: StreamItem) -> StreamItem {
        (self.partial, self.state) = (self.partial.sibling(), state);
        item
    }

    /// Moves bytes of the chunk to `partial`.
    fn keep(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        self.partial.extend(&self.chunk[..bytes])?;
        self.chunk.advance(bytes);
        Ok(())
    }
}

/// Removes the white space around a line.
fn trim_line(line: Bytes) -> Bytes {
    let trimmed = line.trim_ascii();
    if trimmed.len() == line.len() { line } else { line.slice_ref(trimmed) }
}

#[cfg(test)]
mod tests;
