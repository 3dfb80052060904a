//! One resumable stream: its log, its writer's side and its reader's side.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::event_id::{self, EventId, StreamOwner};
use super::log::{Cursor, LogBlock, StreamLog};
use super::pool::StreamPool;
use super::state::{
    LossCause, Resumability, ResumeError, RetentionReason, StreamClosed, StreamPhase, StreamState,
};
use crate::journal::events::{BLOCK_BYTES, EventBlock, EventBlocks};
use crate::session::claims::SessionClaims;

/// One event stream of a session. Small as long as no event was written.
pub struct ResumableStream {
    pub(super) pool: Arc<ResumableStreams>,
    pub(super) number: u64,
    owner: StreamOwner,
    request_id: Option<Box<[u8]>>,
    /// Guards the log and its readers; held while at most 64 KiB are copied.
    state: Mutex<StreamState>,
}

/// All resumable streams of this process.
pub type ResumableStreams = StreamPool<ResumableStream>;

const _: () = assert!(size_of::<ResumableStream>() <= 144);

/// Bounds what the reader has not read: four times what one read returns. A writer that is further ahead waits.
const UNREAD_BLOCKS_MAX: u64 = (256 << 10) / BLOCK_BYTES as u64;

/// If less than this is left in a block, it is not worth another record.
const PAYLOAD_BYTES_MIN: usize = 64;

impl ResumableStream {
    /// Whether a client that leaves can come back to this process.
    pub fn can_be_resumed_here(&self) -> bool {
        !self.pool.is_handed_over()
    }

    pub(super) fn new(
        pool: Arc<ResumableStreams>,
        number: u64,
        claims: &SessionClaims,
        request_id: Option<Bytes>,
    ) -> Self {
        let request_id = request_id.map(|id| Vec::from(id).into_boxed_slice());
        let (owner, state) = (StreamOwner::new(claims), Mutex::new(StreamState::new()));
        let mut stream = Self { pool, number, owner, request_id, state };
        if stream.request_id.is_some() {
            // The response to a call follows soon. Fix the label now, so that all ids of the stream have the
            // same one.
            let log = Box::new(StreamLog::new(stream.new_label()));
            stream.state.get_mut().unwrap_or_else(PoisonError::into_inner).log = Some(log);
        }
        stream
    }

    fn new_label(&self) -> Box<str> {
        let StreamPool { sealer, process, .. } = &*self.pool;
        event_id::seal_label(
            sealer,
            &self.owner,
            *process,
            self.number,
            self.request_id().unwrap_or_default(),
        )
    }

    /// The common prefix of the event ids.
    pub(super) fn label<'a>(&self, state: &'a StreamState) -> Cow<'a, str> {
        match &state.log {
            Some(log) => Cow::Borrowed(&log.label),
            None => Cow::Owned(self.new_label().into()),
        }
    }

    /// Whether an event id of this process belongs to this stream.
    pub fn matches(&self, id: &EventId) -> bool {
        self.number == id.stream
    }

    /// The raw id of the call that the stream answers.
    pub fn request_id(&self) -> Option<&[u8]> {
        self.request_id.as_deref()
    }

    /// The `id` line of the event that notifies the client of lost events.
    pub fn loss_notice_line(&self) -> Vec<u8> {
        event_id::loss_notice_line(&self.label(&self.state()))
    }

    /// Whether the stream is open and has a reader.
    pub fn has_reader(&self) -> bool {
        let state = self.state();
        state.unread_since.is_none() && state.phase == StreamPhase::Open
    }

    /// Whether the stream has ended or was discarded.
    pub fn is_closed(&self) -> bool {
        self.state().phase != StreamPhase::Open
    }

    /// Replaces the reader by one that continues after the event `sequence`. Returns its generation and
    /// position.
    pub(super) fn attach(&self, sequence: u64) -> Result<(u32, Cursor), ResumeError> {
        let mut state = self.state();
        let cursor = self.find(&state, sequence)?;
        state.generation = state.generation.wrapping_add(1);
        state.set_read_to(cursor);
        state.log.iter_mut().for_each(|log| log.stalled_at = None);
        (state.unread_since, state.has_comment) = (None, false);
        let generation = state.generation;
        let (previous_reader, writer) = (state.take_reader_waker(), state.take_writer_waker());
        drop(state);
        previous_reader.into_iter().chain(writer).for_each(Waker::wake);
        Ok((generation, cursor))
    }

    /// The position after the event `sequence`.
    fn find(&self, state: &StreamState, sequence: u64) -> Result<Cursor, ResumeError> {
        let log = state.log.as_deref();
        let next = log.map_or(1, |log| log.next_sequence);
        let wanted = sequence.checked_add(1).filter(|wanted| *wanted <= next).ok_or(ResumeError::Lost)?;
        let is_partial = log.is_some_and(|log| log.is_within_event) && wanted == next;
        if state.phase == StreamPhase::Lost || is_partial {
            return Err(ResumeError::Lost);
        }
        if wanted == next {
            if state.phase == StreamPhase::Ended {
                return Err(ResumeError::Complete);
            }
            return Ok(state.end());
        }
        self.find_in_log(log.ok_or(ResumeError::Lost)?, wanted)
    }

    /// The position at which a complete or begun event starts.
    fn find_in_log(&self, log: &StreamLog, sequence: u64) -> Result<Cursor, ResumeError> {
        let (index, LogBlock { block, .. }) = log.find_block(sequence).ok_or(ResumeError::Lost)?;
        let (mut offset, mut scratch) = (0, Vec::new());
        // Each iteration advances by a record.
        while offset < block.used() {
            scratch.clear();
            let record = self.blocks().read(block, offset, &mut scratch).map_err(|_| ResumeError::Lost)?;
            if record.kind.begins() && record.sequence == sequence {
                return Ok(Cursor { block: log.first_block + index as u64, offset });
            }
            offset = record.next;
        }
        Err(ResumeError::Lost)
    }

    /// Records that the reader of this generation has left.
    pub(super) fn detach(&self, generation: u32) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        state.unread_since = Some(Instant::now());
        let (reader, writer) = (state.take_reader_waker(), state.take_writer_waker());
        drop(state);
        drop(reader);
        writer.into_iter().for_each(Waker::wake);
    }

    /// Records that the client cancelled the call. Once its reader has left, the stream ends.
    pub fn cancel(&self) {
        let mut state = self.state();
        state.resumability = Resumability::Cancelled;
        let writer = state.take_writer_waker();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }

    /// Discards the stream where the client may have its response, or a part of it. The reader's connection
    /// is then broken off visibly.
    pub fn abort(&self) {
        self.state().loss = LossCause::Aborted;
        self.discard();
    }

    /// Discards the stream because there is no memory for what follows. The reader is told so.
    pub(super) fn fail_out_of_memory(&self) {
        self.state().loss = LossCause::OutOfMemory;
        self.discard();
    }

    /// Releases the retained events. The reader is notified, unless the stream ended and it has read
    /// everything.
    pub fn discard(&self) {
        let mut state = self.state();
        if state.phase == StreamPhase::Lost {
            return;
        }
        if state.phase == StreamPhase::Open || state.read_to() != state.end() {
            state.phase = StreamPhase::Lost;
        }
        let (blocks, expires) = (state.take_blocks(), state.log.as_mut().and_then(|log| log.expires.take()));
        let (reader, writer) = (state.take_reader_waker(), state.take_writer_waker());
        drop(state);
        self.pool.release_blocks(blocks.into_iter().map(|block| block.block));
        self.pool.remove(self.number, expires);
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }

    pub(super) fn is_unread(&self) -> bool {
        self.state().unread_since.is_some()
    }

    /// For how long its client has been seen connected and not reading, although there is something to read. To be asked
    /// again and again while that matters: the time begins with the first call.
    pub(super) fn stalled_for(&self, now: Instant) -> Duration {
        let mut state = self.state();
        let has_reader = state.unread_since.is_none();
        state.log.as_mut().filter(|_| has_reader).map_or(Duration::ZERO, |log| log.stalled_for(now))
    }

    pub(super) fn retained_blocks(&self) -> usize {
        self.state().log.as_ref().map_or(0, |log| log.blocks.len())
    }

    /// Releases the blocks that the reader has read. Returns whether there were any.
    pub(super) fn release_read_blocks(&self) -> bool {
        let mut state = self.state();
        let blocks: Vec<EventBlock> = std::iter::from_fn(|| state.pop_read_block()).collect();
        drop(state);
        let any = !blocks.is_empty();
        self.pool.release_blocks(blocks);
        any
    }

    pub(super) fn blocks(&self) -> &EventBlocks {
        &self.pool.blocks
    }

    pub(super) fn state(&self) -> MutexGuard<'_, StreamState> {
        // No code panics while it holds the lock. An inconsistent value would at worst be misread, which CRCs
        // detect.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes as much of a part of an event as fits into the last block or a new one, and returns how much. Returns
    /// `None` if there is no room. `allocate` gets a block, and is called without the stream's lock.
    pub(super) fn write(
        &self,
        bytes: &[u8],
        begins: bool,
        ends: bool,
        allocate: impl FnOnce() -> Option<EventBlock>,
    ) -> Result<Option<usize>, StreamClosed> {
        let mut state = self.state();
        let has_room = |last: &LogBlock| last.block.remaining_bytes() >= bytes.len().min(PAYLOAD_BYTES_MIN);
        if state.phase == StreamPhase::Open && !state.last_block().is_some_and(has_room) {
            if !self.may_grow(&mut state) {
                return Ok(None);
            }
            drop(state);
            let Some(block) = allocate() else { return Ok(None) };
            state = self.state();
            let log = state.log.get_or_insert_with(|| Box::new(StreamLog::new(self.new_label())));
            log.blocks.push_back(LogBlock { block, first_sequence: None });
        }
        if state.phase != StreamPhase::Open {
            let blocks = state.take_blocks();
            drop(state);
            self.pool.release_blocks(blocks.into_iter().map(|block| block.block));
            return Err(StreamClosed);
        }
        let Some(log) = &mut state.log else { return Ok(None) };
        if begins {
            log.next_sequence += 1;
        }
        let sequence = log.next_sequence - 1;
        let Some(last) = log.blocks.back_mut() else { return Ok(None) };
        if begins {
            last.first_sequence.get_or_insert(sequence);
        }
        let count = self.blocks().write(&mut last.block, sequence, bytes, begins, ends);
        log.is_within_event = !(ends && count == bytes.len());
        let reader = state.take_reader_waker();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(Some(count))
    }

    /// Whether the stream may take another block. A stream at its limit first releases its oldest block, if
    /// that was read.
    fn may_grow(&self, state: &mut StreamState) -> bool {
        let Some(log) = &state.log else { return true };
        let blocks = log.blocks.len();
        let unread = log.first_block + blocks as u64 - log.read_to.block;
        if state.unread_since.is_none() && unread > UNREAD_BLOCKS_MAX {
            return false;
        }
        if blocks < (self.pool.config().stream_bytes_max / BLOCK_BYTES).max(1) {
            return true;
        }
        let oldest = state.pop_read_block();
        let any = oldest.is_some();
        self.pool.release_blocks(oldest);
        any
    }

    /// Why the writer should keep writing. `None` if no client will read the stream. The writer is woken when
    /// that may have changed.
    pub(super) fn poll_retention(&self, waker: &Waker) -> Option<RetentionReason> {
        let mut state = self.state();
        let reason = match state.unread_since {
            _ if state.phase == StreamPhase::Lost => return None,
            Some(_) if state.resumability != Resumability::Possible => return None,
            Some(since) => RetentionReason::Reconnect(since + self.pool.config().retention),
            None => RetentionReason::Reader,
        };
        state.set_writer_waker(waker);
        Some(reason)
    }

    /// Whether the client has cancelled the call. The writer is woken when that may have changed.
    pub(super) fn poll_cancelled(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        state.set_writer_waker(waker);
        state.resumability == Resumability::Cancelled
    }

    /// Whether there is no reader. The writer is woken when that may have changed.
    pub(super) fn poll_unread(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        state.set_writer_waker(waker);
        state.unread_since.is_some()
    }

    /// Records that the writer waits for room.
    pub(super) fn request_room(&self) {
        self.state().wants_room = true;
    }

    /// Whether there may be room since it was requested. The writer is woken when there may be.
    pub(super) fn poll_room(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        state.set_writer_waker(waker);
        !state.wants_room
    }

    /// Makes the reader pass a comment on.
    pub(super) fn send_comment(&self) {
        let mut state = self.state();
        state.has_comment = true;
        let reader = state.take_reader_waker();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Records that all events were written.
    pub(super) fn finish(self: &Arc<Self>) {
        let mut state = self.state();
        if state.phase != StreamPhase::Open {
            return;
        }
        state.phase = StreamPhase::Ended;
        let expires = Instant::now() + self.pool.config().retention;
        let log = state.log.as_mut().filter(|log| !log.blocks.is_empty());
        let expires = log.map(|log| *log.expires.insert(expires));
        let reader = state.take_reader_waker();
        drop(state);
        if let Some(expires) = expires {
            self.pool.retain_ended(self.number, expires, self);
        }
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for ResumableStream {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let blocks = state.take_blocks();
        self.pool.release_blocks(blocks.into_iter().map(|block| block.block));
    }
}
