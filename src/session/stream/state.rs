//! One stream: who writes it, what of it is kept.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;

use super::reader::{Cursor, StreamReader};
use super::{ResumableStreams, id};
use crate::journal::events::{BLOCK_BYTES, Block, Blocks};
use crate::session::id::SessionClaims;

/// One event stream of a session, whoever reads it. Small as long as nothing was written.
pub struct ResumableStream {
    pub(super) streams: Arc<ResumableStreams>,
    pub(super) number: u64,
    owner: id::StreamOwner,
    request: Option<Box<[u8]>>,
    /// Guards what is kept, and who reads it; for a copy of 64 KiB at most.
    state: Mutex<StreamState>,
}

const _: () = assert!(size_of::<ResumableStream>() <= 144);

/// Both wakers are taken under the lock, and used when it is free.
pub(super) struct StreamState {
    /// Boxed: most streams never say anything.
    pub written: Option<Box<StreamLog>>,
    /// Wakes the reader: there is something for it.
    waker: Option<Waker>,
    /// Wakes the writer: a reader came or left, the stream is lost, or there may be room.
    writer: Option<Waker>,
    /// Since when nobody reads; `None` while somebody does.
    left: Option<Instant>,
    /// Moves with each reader, so that the one before ends.
    pub generation: u32,
    pub comes_back: Resumability,
    /// Whether a comment is to be passed on.
    pub comment: bool,
    pub phase: StreamPhase,
    /// Whether the writer broke off, so that nobody is to say that nothing followed.
    pub is_torn: bool,
    /// Whether the writer waits for room. False as soon as there may be some.
    wants_room: bool,
}

/// What was written, as far as it is kept.
///
/// Invariant: `first_block <= taken.block`, and no block before that of a reader that is there is missing.
pub(super) struct StreamLog {
    /// What the ids of its events begin with.
    pub label: Box<str>,
    pub blocks: VecDeque<LogBlock>,
    /// The number of the first block that is kept; they are counted from the stream's beginning.
    pub first_block: u64,
    /// The number of the next event to begin. The first is 1.
    next: u64,
    /// Whether an event has begun and not ended.
    is_within: bool,
    /// Up to where the reader has taken what there is.
    taken: Cursor,
    /// When it goes, once the stream has ended.
    until: Option<Instant>,
}

/// Whether a client that has gone comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumability {
    /// It knows no id yet.
    Not,
    /// It may.
    May,
    /// It has cancelled the call.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamPhase {
    /// There is more to come.
    Open,
    /// All has come.
    Ended,
    /// What was kept is gone.
    Lost,
}

pub(super) struct LogBlock {
    pub block: Block,
    /// The number of the first event that begins in it.
    pub begins: Option<u64>,
}

/// The stream is lost, or nobody waits for it any more: what is written has no reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamClosed;

/// Why a stream cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeError {
    /// It has ended, and the client has all of it.
    Complete,
    /// What follows is not kept any more, or never was.
    Lost,
}

/// What a reader has not taken is no more than this: four times what is handed out at once. Whoever writes more waits.
const UNREAD_BLOCKS_MAX: u64 = (256 << 10) / BLOCK_BYTES as u64;

/// The rest of a block below this is not worth a record.
const PAYLOAD_BYTES_MIN: usize = 64;

impl ResumableStream {
    pub(super) fn new(
        streams: Arc<ResumableStreams>,
        number: u64,
        seal: &SessionClaims,
        request: Option<Bytes>,
    ) -> Self {
        let state = StreamState {
            written: None,
            waker: None,
            writer: None,
            left: None,
            generation: 0,
            comes_back: Resumability::Not,
            comment: false,
            phase: StreamPhase::Open,
            is_torn: false,
            wants_room: false,
        };
        let request = request.map(|id| Vec::from(id).into_boxed_slice());
        let mut stream =
            Self { streams, number, owner: id::StreamOwner::new(seal), request, state: Mutex::new(state) };
        if stream.request.is_some() {
            // The answer to a call comes soon, and its ids are to begin with the same text from the first on.
            let written = Box::new(stream.nothing_written());
            stream.state.get_mut().unwrap_or_else(PoisonError::into_inner).written = Some(written);
        }
        stream
    }

    fn nothing_written(&self) -> StreamLog {
        StreamLog {
            label: self.new_label(),
            blocks: VecDeque::new(),
            first_block: 0,
            next: 1,
            is_within: false,
            taken: Cursor::default(),
            until: None,
        }
    }

    fn new_label(&self) -> Box<str> {
        let ResumableStreams { sealer, process, .. } = &*self.streams;
        id::label(sealer, &self.owner, *process, self.number, self.request().unwrap_or_default())
    }

    /// What the ids of its events begin with.
    pub(super) fn label<'a>(&self, state: &'a StreamState) -> Cow<'a, str> {
        match &state.written {
            Some(written) => Cow::Borrowed(&written.label),
            None => Cow::Owned(self.new_label().into()),
        }
    }

    /// Whether it is the one with that number.
    pub fn is(&self, mark: &super::EventId) -> bool {
        self.number == mark.number
    }

    /// The raw id of the call that it answers.
    pub fn request(&self) -> Option<&[u8]> {
        self.request.as_deref()
    }

    /// The `id` line of the event by which its client is told that what it misses is gone.
    pub fn loss_notice_line(&self) -> Vec<u8> {
        id::loss_notice_line(&self.label(&self.state()))
    }

    /// Whether somebody reads it, and there is more to come.
    pub fn has_reader(&self) -> bool {
        let state = self.state();
        state.left.is_none() && state.phase == StreamPhase::Open
    }

    /// Whether all has come, or what was kept is gone.
    pub fn is_over(&self) -> bool {
        self.state().phase != StreamPhase::Open
    }

    /// Its reader behind the event with that number; the one before ends.
    pub fn attach(self: &Arc<Self>, sequence: u64) -> Result<StreamReader, ResumeError> {
        let mut state = self.state();
        let at = self.find(&state, sequence)?;
        state.generation = state.generation.wrapping_add(1);
        state.take(at);
        (state.left, state.comment) = (None, false);
        let generation = state.generation;
        let (before, writer) = (state.waker.take(), state.note_move());
        drop(state);
        before.into_iter().chain(writer).for_each(Waker::wake);
        Ok(StreamReader::at(Arc::clone(self), generation, at, sequence))
    }

    fn find(&self, state: &StreamState, sequence: u64) -> Result<Cursor, ResumeError> {
        let written = state.written.as_deref();
        let next = written.map_or(1, |written| written.next);
        let wanted = sequence.checked_add(1).filter(|wanted| *wanted <= next).ok_or(ResumeError::Lost)?;
        let is_in_hand = written.is_some_and(|written| written.is_within) && wanted == next;
        if state.phase == StreamPhase::Lost || is_in_hand {
            return Err(ResumeError::Lost);
        }
        if wanted == next {
            if state.phase == StreamPhase::Ended {
                return Err(ResumeError::Complete);
            }
            return Ok(state.end());
        }
        self.find_kept(written.ok_or(ResumeError::Lost)?, wanted)
    }

    /// Where an event begins that is not behind the last.
    fn find_kept(&self, written: &StreamLog, wanted: u64) -> Result<Cursor, ResumeError> {
        let before = |kept: &&LogBlock| kept.begins.is_none_or(|begins| begins <= wanted);
        // The last block in which an event begins that is not behind the wanted one.
        let (index, kept) = written
            .blocks
            .iter()
            .enumerate()
            .take_while(|(_, kept)| before(kept))
            .filter(|(_, kept)| kept.begins.is_some())
            .last()
            .ok_or(ResumeError::Lost)?;
        let (mut offset, mut scratch) = (0, Vec::new());
        // Each turn moves on by a record.
        while offset < kept.block.used() {
            scratch.clear();
            let found =
                self.blocks().read(&kept.block, offset, &mut scratch).map_err(|_| ResumeError::Lost)?;
            if found.portion.begins() && found.sequence == wanted {
                return Ok(Cursor { block: written.first_block + index as u64, offset });
            }
            offset = found.next;
        }
        Err(ResumeError::Lost)
    }

    /// The reader of that generation has gone.
    pub(super) fn leave(&self, generation: u32) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        state.left = Some(Instant::now());
        let (reader, writer) = (state.waker.take(), state.note_move());
        drop(state);
        drop(reader);
        writer.into_iter().for_each(Waker::wake);
    }

    /// Nobody will come back for it; when its reader has gone already, it ends now.
    pub fn cancel(&self) {
        let mut state = self.state();
        state.comes_back = Resumability::Never;
        let writer = state.note_move();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }

    /// The writer broke off where the client may have its answer, or half of it: the reader's connection breaks visibly.
    pub fn abort(&self) {
        self.state().is_torn = true;
        self.lose();
    }

    /// What is kept goes, and its reader is told, unless it has all there is.
    pub fn lose(&self) {
        let mut state = self.state();
        if state.phase == StreamPhase::Lost {
            return;
        }
        if state.phase == StreamPhase::Open || state.taken() != state.end() {
            state.phase = StreamPhase::Lost;
        }
        let (blocks, until) =
            (state.take_blocks(), state.written.as_mut().and_then(|kept| kept.until.take()));
        let (waker, writer) = (state.waker.take(), state.note_move());
        drop(state);
        self.streams.give(blocks.into_iter().map(|kept| kept.block));
        self.streams.forget(self.number, until);
        waker.into_iter().chain(writer).for_each(Waker::wake);
    }

    /// Whether nobody reads it.
    pub(super) fn is_left(&self) -> bool {
        self.state().left.is_some()
    }

    pub(super) fn kept_blocks(&self) -> usize {
        self.state().written.as_ref().map_or(0, |written| written.blocks.len())
    }

    /// Forgets what its reader has taken already; whether there was any.
    pub(super) fn forget_read(&self) -> bool {
        let mut state = self.state();
        let forgotten: Vec<Block> = std::iter::from_fn(|| state.pop_read()).collect();
        drop(state);
        let any = !forgotten.is_empty();
        self.streams.give(forgotten);
        any
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.streams.blocks
    }

    pub(super) fn state(&self) -> MutexGuard<'_, StreamState> {
        // What is done under it does not panic; a value that is not whole could only be read wrongly, which CRCs tell.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As much of a part as fits; `None` when there is no room.
    pub(super) fn write(
        self: &Arc<Self>,
        bytes: &[u8],
        begins: bool,
        ends: bool,
    ) -> Result<Option<usize>, StreamClosed> {
        let mut state = self.state();
        let has_room = |kept: &LogBlock| kept.block.room() >= bytes.len().min(PAYLOAD_BYTES_MIN);
        if state.phase == StreamPhase::Open && !state.last().is_some_and(has_room) {
            if !self.may_grow(&mut state) {
                return Ok(None);
            }
            drop(state);
            let Some(block) = self.streams.block(self) else { return Ok(None) };
            state = self.state();
            let written = state.written.get_or_insert_with(|| Box::new(self.nothing_written()));
            written.blocks.push_back(LogBlock { block, begins: None });
        }
        if state.phase != StreamPhase::Open {
            let blocks = state.take_blocks();
            drop(state);
            self.streams.give(blocks.into_iter().map(|kept| kept.block));
            return Err(StreamClosed);
        }
        let Some(written) = &mut state.written else { return Ok(None) };
        if begins {
            written.next += 1;
        }
        let sequence = written.next - 1;
        let Some(kept) = written.blocks.back_mut() else { return Ok(None) };
        if begins {
            kept.begins.get_or_insert(sequence);
        }
        let count = self.blocks().write(&mut kept.block, sequence, bytes, begins, ends);
        written.is_within = !(ends && count == bytes.len());
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(Some(count))
    }

    /// Whether it may have one more block. What a reader has taken makes room; what nobody reads stays.
    fn may_grow(&self, state: &mut StreamState) -> bool {
        let Some(written) = &state.written else { return true };
        let blocks = written.blocks.len();
        let unread = written.first_block + blocks as u64 - written.taken.block;
        if state.left.is_none() && unread > UNREAD_BLOCKS_MAX {
            return false;
        }
        if blocks < (self.streams.config.stream_bytes_max / BLOCK_BYTES).max(1) {
            return true;
        }
        let oldest = if state.left.is_none() { state.pop_read() } else { None };
        let any = oldest.is_some();
        self.streams.give(oldest);
        any
    }
}

impl Drop for ResumableStream {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let blocks = state.take_blocks();
        self.streams.give(blocks.into_iter().map(|kept| kept.block));
    }
}

impl StreamState {
    /// Behind the last of what is kept.
    fn end(&self) -> Cursor {
        let Some(written) = &self.written else { return Cursor::default() };
        let last = written.blocks.back().map_or(0, |kept| kept.block.used());
        Cursor::end(written.first_block, written.blocks.len(), last)
    }

    /// Up to where the reader has taken what there is.
    fn taken(&self) -> Cursor {
        self.written.as_ref().map_or_else(Cursor::default, |written| written.taken)
    }

    /// The reader stands there.
    pub fn take(&mut self, at: Cursor) {
        self.written.iter_mut().for_each(|written| written.taken = at);
    }

    fn last(&self) -> Option<&LogBlock> {
        self.written.as_ref()?.blocks.back()
    }

    fn take_blocks(&mut self) -> VecDeque<LogBlock> {
        self.written.as_mut().map(|written| std::mem::take(&mut written.blocks)).unwrap_or_default()
    }

    /// The client has an id by now.
    pub fn note_id(&mut self) {
        if self.comes_back == Resumability::Not {
            self.comes_back = Resumability::May;
        }
    }

    /// The reader is woken when there is something for it.
    pub fn wait(&mut self, waker: &Waker) {
        put(&mut self.waker, waker);
    }

    /// The writer is to look again, at all that it may wait for.
    fn note_move(&mut self) -> Option<Waker> {
        self.wants_room = false;
        self.writer.take()
    }

    /// The reader took something: there may be room.
    pub fn note_room(&mut self) -> Option<Waker> {
        if self.wants_room { self.note_move() } else { None }
    }

    /// The oldest block, when a reader is there and has taken all of it.
    fn pop_read(&mut self) -> Option<Block> {
        let written = self.written.as_mut()?;
        if self.left.is_some() || written.first_block >= written.taken.block {
            return None;
        }
        let kept = written.blocks.pop_front()?;
        written.first_block += 1;
        Some(kept.block)
    }
}

fn put(place: &mut Option<Waker>, waker: &Waker) {
    if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}

/// What concerns the one who writes.
impl ResumableStream {
    /// Why the writer is to go on waiting: until that moment, if the client comes back by then, or for as long as there is
    /// one. `None`: nobody waits for the stream.
    pub(super) fn waits(&self, waker: &Waker) -> Option<RetentionReason> {
        let mut state = self.state();
        let waits = match state.left {
            _ if state.phase == StreamPhase::Lost => return None,
            Some(_) if state.comes_back != Resumability::May => return None,
            Some(left) => RetentionReason::Until(left + self.streams.config.retention),
            None => RetentionReason::Read,
        };
        put(&mut state.writer, waker);
        Some(waits)
    }

    /// Whether the client has cancelled the call; the writer is woken when that may have changed.
    pub(super) fn is_cancelled(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        put(&mut state.writer, waker);
        state.comes_back == Resumability::Never
    }

    /// Whether nobody reads; the writer is woken when that may have changed.
    pub(super) fn is_unread(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        put(&mut state.writer, waker);
        state.left.is_some()
    }

    /// The writer waits for room from here on.
    pub(super) fn want_room(&self) {
        self.state().wants_room = true;
    }

    /// Whether there may be room since it was wanted; the writer is woken when there may be.
    pub(super) fn may_have_room(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        put(&mut state.writer, waker);
        !state.wants_room
    }

    /// Has the reader pass a comment on.
    pub(super) fn comment(&self) {
        let mut state = self.state();
        state.comment = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// All has come.
    pub(super) fn finish(self: &Arc<Self>) {
        let mut state = self.state();
        if state.phase != StreamPhase::Open {
            return;
        }
        state.phase = StreamPhase::Ended;
        let until = Instant::now() + self.streams.config.retention;
        let written = state.written.as_mut().filter(|written| !written.blocks.is_empty());
        let until = written.map(|written| *written.until.insert(until));
        let waker = state.waker.take();
        drop(state);
        if let Some(until) = until {
            self.streams.keep_ended(until, self);
        }
        waker.into_iter().for_each(Waker::wake);
    }
}

/// For what a stream goes on.
#[derive(Debug, Clone, Copy)]
pub(super) enum RetentionReason {
    /// Its client reads.
    Read,
    /// It has gone, and may come back until then.
    Until(Instant),
}
