//! What a client reads of a stream: from the mapped blocks, as fast as it takes it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::state::{ResumableStream, StreamPhase, StreamState};
use super::{RETRY_MS, id};

/// The reader of a stream. Dropped, the stream waits for another for a while.
pub struct StreamReader {
    stream: Arc<ResumableStream>,
    generation: u32,
    at: Cursor,
    /// The number of the last event that was handed out, or that the client had.
    sequence: u64,
    /// Whether the client has a part of an event, whose end is to come.
    is_within: bool,
    /// Whether the id of that event is to be told before anything else comes.
    tells_id: bool,
}

/// A place in a stream: a block, counted from the stream's beginning, and a byte in it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub block: u64,
    pub offset: usize,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Events with their ids, or a part of one.
    Events(Bytes),
    /// Nothing: a comment may be passed on.
    Silence,
    /// Nothing more: all was handed out, or another reader took over.
    End,
    /// What follows is gone, and the client stands between two events.
    Lost,
    /// What follows is gone, and the client stands within an event.
    Torn,
}

/// What is handed out at once: as much as a socket takes.
const PIECE_BYTES: usize = 64 << 10;

impl Cursor {
    /// Behind the last of so many blocks, of which so much is used.
    pub fn end(first_block: u64, blocks: usize, last_used: usize) -> Self {
        match blocks.checked_sub(1) {
            Some(before) => Self { block: first_block + before as u64, offset: last_used },
            None => Self { block: first_block, offset: 0 },
        }
    }
}

impl StreamReader {
    pub(super) fn first(stream: Arc<ResumableStream>) -> Self {
        Self::at(stream, 0, Cursor::default(), 0)
    }

    pub(super) fn at(stream: Arc<ResumableStream>, generation: u32, at: Cursor, sequence: u64) -> Self {
        Self { stream, generation, at, sequence, is_within: false, tells_id: false }
    }

    /// Has the client told by which id it can come back before anything else comes: an event without data (MCP
    /// 2025-11-25, transports). Older clients take such an event for a message that is broken.
    pub fn announce_id(&mut self) {
        self.tells_id = true;
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<ResumableStream> {
        &self.stream
    }

    /// What comes next. After any of the ends there is nothing more to ask.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<ReadOutcome> {
        let mut out = Vec::new();
        let stream = Arc::clone(&self.stream);
        let mut state = stream.state();
        if state.generation != self.generation {
            return Poll::Ready(ReadOutcome::End);
        }
        if std::mem::take(&mut self.tells_id) {
            id::write(&stream.label(&state), self.sequence, &mut out);
            out.extend_from_slice(format!("retry: {RETRY_MS}\ndata: \n\n").as_bytes());
            state.note_id();
        }
        if state.phase == StreamPhase::Lost || self.read(&state, &mut out).is_err() {
            if !out.is_empty() {
                return Poll::Ready(ReadOutcome::Events(out.into()));
            }
            return Poll::Ready(if self.is_within || state.is_torn {
                ReadOutcome::Torn
            } else {
                ReadOutcome::Lost
            });
        }
        if !out.is_empty() {
            state.note_id();
            state.take(self.at);
            let writer = state.note_room();
            drop(state);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(ReadOutcome::Events(out.into()));
        }
        if state.phase == StreamPhase::Ended {
            return Poll::Ready(ReadOutcome::End);
        }
        if std::mem::take(&mut state.comment) && !self.is_within {
            return Poll::Ready(ReadOutcome::Silence);
        }
        state.wait(cx.waker());
        Poll::Pending
    }

    /// Copies records from where it stands, until there are enough or no more.
    fn read(&mut self, state: &StreamState, out: &mut Vec<u8>) -> Result<(), ()> {
        let Some(written) = &state.written else { return Ok(()) };
        let mut record = Vec::new();
        // Each turn moves on by a record or a block.
        while out.len() < PIECE_BYTES {
            let index = self.at.block.checked_sub(written.first_block).ok_or(())?;
            let index = usize::try_from(index).map_err(drop)?;
            let Some(kept) = written.blocks.get(index) else { return Ok(()) };
            if self.at.offset >= kept.block.used() {
                if index + 1 >= written.blocks.len() {
                    return Ok(());
                }
                self.at = Cursor { block: self.at.block + 1, offset: 0 };
                continue;
            }
            record.clear();
            let found =
                self.stream.blocks().read(&kept.block, self.at.offset, &mut record).map_err(|_damaged| ())?;
            if found.portion.begins() {
                id::write(&written.label, found.sequence, out);
            }
            out.extend_from_slice(&record);
            self.is_within = !found.portion.ends();
            self.sequence = found.sequence;
            self.at.offset = found.next;
        }
        Ok(())
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.stream.leave(self.generation);
    }
}
