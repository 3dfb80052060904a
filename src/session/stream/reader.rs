//! The reading side of a stream: copies events out of the mapped blocks as fast as the client takes them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::event_id;
use super::log::Cursor;
use super::resumable_stream::ResumableStream;
use super::state::{LossCause, ResumeError, StreamPhase, StreamState};

/// Reads a stream. After it is dropped, the stream is retained for another reader for a while.
pub struct StreamReader {
    stream: Arc<ResumableStream>,
    generation: u32,
    cursor: Cursor,
    /// The sequence of the last event that was returned, or that the client had before.
    sequence: u64,
    /// Whether only a part of that event was returned.
    is_within_event: bool,
    /// Whether to send the id of that event before anything else.
    announces_id: bool,
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Events with their ids, or a part of one.
    Events(Bytes),
    /// No event; a comment may be sent to keep the connection alive.
    KeepAlive,
    /// The end: everything was read, or another reader took over.
    End,
    /// The rest is lost, and the client is between two events.
    Lost,
    /// There was no memory for the rest, and the client is between two events.
    OutOfMemory,
    /// The rest is lost, and the client is within an event or may have missed its response.
    Truncated,
}

/// Bounds one read, roughly: as much as a socket takes.
const READ_BYTES: usize = 64 << 10;

/// How long a client is told to wait before it reconnects: the default of the SDKs.
const RETRY_MS: u64 = 1000;

impl StreamReader {
    pub(super) fn from_start(stream: Arc<ResumableStream>) -> Self {
        Self::new(stream, 0, Cursor::default(), 0)
    }

    /// Resumes a stream after the event `sequence`. Ends the previous reader.
    pub fn resume(stream: &Arc<ResumableStream>, sequence: u64) -> Result<Self, ResumeError> {
        let (generation, cursor) = stream.attach(sequence)?;
        Ok(Self::new(Arc::clone(stream), generation, cursor, sequence))
    }

    fn new(stream: Arc<ResumableStream>, generation: u32, cursor: Cursor, sequence: u64) -> Self {
        Self { stream, generation, cursor, sequence, is_within_event: false, announces_id: false }
    }

    /// First sends an event without data, so that the client has an id to resume from (MCP 2025-11-25, transports).
    /// Clients of earlier revisions take such an event for a malformed message.
    pub fn announce_id(&mut self) {
        self.announces_id = true;
    }

    pub fn stream(&self) -> &Arc<ResumableStream> {
        &self.stream
    }

    /// Polls for the next bytes for the client.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<ReadOutcome> {
        let mut out = Vec::new();
        let stream = Arc::clone(&self.stream);
        let mut state = stream.state();
        if state.generation != self.generation {
            return Poll::Ready(ReadOutcome::End);
        }
        if std::mem::take(&mut self.announces_id) {
            event_id::write_id_line(&stream.label(&state), self.sequence, &mut out);
            out.extend_from_slice(format!("retry: {RETRY_MS}\ndata: \n\n").as_bytes());
            state.note_id_sent();
        }
        if state.phase == StreamPhase::Lost || self.read(&state, &mut out).is_err() {
            if !out.is_empty() {
                return Poll::Ready(ReadOutcome::Events(out.into()));
            }
            return Poll::Ready(match state.loss {
                _ if self.is_within_event => ReadOutcome::Truncated,
                LossCause::Aborted => ReadOutcome::Truncated,
                LossCause::OutOfMemory => ReadOutcome::OutOfMemory,
                LossCause::Evicted => ReadOutcome::Lost,
            });
        }
        if !out.is_empty() {
            state.note_id_sent();
            state.set_read_to(self.cursor);
            let writer = state.take_waker_for_room();
            drop(state);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(ReadOutcome::Events(out.into()));
        }
        if state.phase == StreamPhase::Ended {
            return Poll::Ready(ReadOutcome::End);
        }
        if std::mem::take(&mut state.has_comment) && !self.is_within_event {
            return Poll::Ready(ReadOutcome::KeepAlive);
        }
        state.set_reader_waker(cx.waker());
        Poll::Pending
    }

    /// Copies records from the cursor on, until `out` is long enough or there are no more. Fails if the records at the
    /// cursor are lost.
    fn read(&mut self, state: &StreamState, out: &mut Vec<u8>) -> Result<(), ()> {
        let Some(log) = &state.log else { return Ok(()) };
        let mut payload = Vec::new();
        // Each iteration advances by a record or a block.
        while out.len() < READ_BYTES {
            let index = self.cursor.block.checked_sub(log.first_block).ok_or(())?;
            let index = usize::try_from(index).map_err(drop)?;
            let Some(current) = log.blocks.get(index) else { return Ok(()) };
            if self.cursor.offset >= current.block.used() {
                if index + 1 >= log.blocks.len() {
                    return Ok(());
                }
                self.cursor = Cursor { block: self.cursor.block + 1, offset: 0 };
                continue;
            }
            payload.clear();
            let blocks = self.stream.blocks();
            let record =
                blocks.read(&current.block, self.cursor.offset, &mut payload).map_err(|_damaged| ())?;
            if record.kind.begins() {
                event_id::write_id_line(&log.label, record.sequence, out);
            }
            out.extend_from_slice(&payload);
            self.is_within_event = !record.kind.ends();
            self.sequence = record.sequence;
            self.cursor.offset = record.next;
        }
        Ok(())
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.stream.detach(self.generation);
    }
}
