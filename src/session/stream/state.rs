//! The variable state of one stream.

use std::collections::VecDeque;
use std::task::Waker;

use tokio::time::Instant;

use super::log::{Cursor, LogBlock, StreamLog};
use crate::journal::events::EventBlock;

/// The variable state of a stream. Wakers are taken under its lock, and woken after the lock is released.
pub(super) struct StreamState {
    /// Boxed: most streams never carry an event.
    pub log: Option<Box<StreamLog>>,
    /// Woken when there is something to read.
    reader_waker: Option<Waker>,
    /// Woken when a reader attaches or detaches, when the stream is discarded, or when there may be room.
    writer_waker: Option<Waker>,
    /// When the last reader left. `None` while there is a reader.
    pub unread_since: Option<Instant>,
    /// Incremented by each new reader, which ends the previous one.
    pub generation: u32,
    pub resumability: Resumability,
    /// Whether the reader is to pass a comment on.
    pub has_comment: bool,
    pub phase: StreamPhase,
    /// Why the retained events are gone, once they are.
    pub loss: LossCause,
    /// Whether the writer waits for room. Reset as soon as there may be some.
    pub wants_room: bool,
}

/// Whether a client that has left can come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumability {
    /// The client has no event id yet.
    NoId,
    Possible,
    /// The client has cancelled the call.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamPhase {
    /// More events may follow.
    Open,
    /// All events were written.
    Ended,
    /// The retained events are gone.
    Lost,
}

/// Why retained events are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LossCause {
    /// Others needed the room, or the events have expired.
    Evicted,
    /// The writer stopped where the client may have its response, or a part of it. The client must not be told
    /// that nothing followed.
    Aborted,
    /// There was no memory for what follows.
    OutOfMemory,
}

/// No client will read what is written: the stream was discarded, or its client will not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamClosed;

/// Why a stream cannot be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeError {
    /// The stream has ended, and the client has all of it.
    Complete,
    /// The requested events are no longer retained, or never existed.
    Lost,
}

/// Why the writer keeps writing.
#[derive(Debug, Clone, Copy)]
pub(super) enum RetentionReason {
    /// A client reads the stream.
    Reader,
    /// The client left, and may come back until this time.
    Reconnect(Instant),
}

impl StreamState {
    pub fn new() -> Self {
        Self {
            log: None,
            reader_waker: None,
            writer_waker: None,
            unread_since: None,
            generation: 0,
            resumability: Resumability::NoId,
            has_comment: false,
            phase: StreamPhase::Open,
            loss: LossCause::Evicted,
            wants_room: false,
        }
    }

    /// The position after the last retained byte.
    pub fn end(&self) -> Cursor {
        self.log.as_ref().map_or_else(Cursor::default, |log| log.end())
    }

    /// How far the reader has read.
    pub fn read_to(&self) -> Cursor {
        self.log.as_ref().map_or_else(Cursor::default, |log| log.read_to)
    }

    /// Records how far the reader has read.
    pub fn set_read_to(&mut self, cursor: Cursor) {
        self.log.iter_mut().for_each(|log| log.read_to = cursor);
    }

    pub fn last_block(&self) -> Option<&LogBlock> {
        self.log.as_ref()?.blocks.back()
    }

    pub fn take_blocks(&mut self) -> VecDeque<LogBlock> {
        self.log.as_mut().map(|log| std::mem::take(&mut log.blocks)).unwrap_or_default()
    }

    /// Removes the oldest block, if there is a reader that has read all of it.
    pub fn pop_read_block(&mut self) -> Option<EventBlock> {
        if self.unread_since.is_some() {
            return None;
        }
        self.log.as_mut()?.pop_read_block()
    }

    /// Records that the client has an event id.
    pub fn note_id_sent(&mut self) {
        if self.resumability == Resumability::NoId {
            self.resumability = Resumability::Possible;
        }
    }

    pub fn set_reader_waker(&mut self, waker: &Waker) {
        set_waker(&mut self.reader_waker, waker);
    }

    pub fn set_writer_waker(&mut self, waker: &Waker) {
        set_waker(&mut self.writer_waker, waker);
    }

    pub fn take_reader_waker(&mut self) -> Option<Waker> {
        self.reader_waker.take()
    }

    /// Takes the writer's waker, so that the writer checks everything it may wait for.
    pub fn take_writer_waker(&mut self) -> Option<Waker> {
        self.wants_room = false;
        self.writer_waker.take()
    }

    /// Takes the writer's waker if it waits for room.
    pub fn take_waker_for_room(&mut self) -> Option<Waker> {
        if self.wants_room { self.take_writer_waker() } else { None }
    }
}

fn set_waker(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}
