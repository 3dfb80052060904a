//! The retained part of one stream, as a sequence of blocks.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::journal::events::EventBlock;

/// A position in a stream: a block, counted from the stream's beginning, and a byte offset in it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub block: u64,
    pub offset: usize,
}

/// The retained events of a stream.
///
/// Invariant: `first_block <= read_to.block`, and no block from the current reader's position on is missing.
pub(super) struct StreamLog {
    /// The common prefix of the event ids.
    pub label: Box<str>,
    pub blocks: VecDeque<LogBlock>,
    /// The number of the first retained block, counted from the stream's beginning.
    pub first_block: u64,
    /// The sequence of the next event. The first event has 1.
    pub next_sequence: u64,
    /// Whether an event has begun and not ended.
    pub is_within_event: bool,
    /// How far the reader has read.
    pub read_to: Cursor,
    /// Where the reader was when it was last found with something to read, and when it was first found there.
    pub stalled_at: Option<(Cursor, Instant)>,
    /// When the log expires, once the stream has ended.
    pub expires: Option<Instant>,
}

pub(super) struct LogBlock {
    pub block: EventBlock,
    /// The sequence of the first event that begins in the block.
    pub first_sequence: Option<u64>,
}

impl StreamLog {
    pub fn new(label: Box<str>) -> Self {
        Self {
            label,
            blocks: VecDeque::new(),
            first_block: 0,
            next_sequence: 1,
            is_within_event: false,
            read_to: Cursor::default(),
            stalled_at: None,
            expires: None,
        }
    }

    /// The position after the last retained byte.
    pub fn end(&self) -> Cursor {
        match self.blocks.back() {
            Some(last) => {
                Cursor { block: self.first_block + self.blocks.len() as u64 - 1, offset: last.block.used() }
            }
            None => Cursor { block: self.first_block, offset: 0 },
        }
    }

    /// For how long the reader has been seen not to read although there is something to read. The first look at one finds that
    /// it has only begun to wait.
    pub fn stalled_for(&mut self, now: Instant) -> Duration {
        let read_to = self.read_to;
        if read_to == self.end() {
            self.stalled_at = None;
            return Duration::ZERO;
        }
        let seen = self.stalled_at.filter(|(cursor, _)| *cursor == read_to);
        let (_, since) = *self.stalled_at.insert(seen.unwrap_or((read_to, now)));
        now.saturating_duration_since(since)
    }

    /// The last block in which an event with a sequence up to `sequence` begins, and its index.
    pub fn find_block(&self, sequence: u64) -> Option<(usize, &LogBlock)> {
        self.blocks
            .iter()
            .enumerate()
            .take_while(|(_, block)| block.first_sequence.is_none_or(|first| first <= sequence))
            .filter(|(_, block)| block.first_sequence.is_some())
            .last()
    }

    /// Removes the oldest block, if it has been read completely.
    pub fn pop_read_block(&mut self) -> Option<EventBlock> {
        if self.first_block >= self.read_to.block {
            return None;
        }
        let block = self.blocks.pop_front()?;
        self.first_block += 1;
        Some(block.block)
    }
}
