//! One stream: who writes it, what of it is kept.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::reader::{Cursor, Reader};
use super::{Streams, id};
use crate::frame::Part;
use crate::journal::events::{BLOCK_BYTES, Block, Blocks};

/// One event stream of a session, whoever reads it.
pub struct Stream {
    pub(super) streams: Arc<Streams>,
    pub(super) number: u64,
    /// What the ids of its events begin with.
    pub(super) label: Box<str>,
    request: Option<Bytes>,
    /// Guards what is kept, and who reads it; for a copy of 64 KiB at most.
    state: Mutex<State>,
    /// Wakes the writer: a reader came or left, or the stream is lost.
    moved: Notify,
    /// Wakes the writer, when it waits for room: the reader took something.
    taken: Notify,
}

/// Invariant: `first_block <= taken.block`, and no block before that of a reader that is there is missing.
pub(super) struct State {
    pub blocks: VecDeque<Kept>,
    /// The number of the first block that is kept; they are counted from the stream's beginning.
    pub first_block: u64,
    /// The number of the next event to begin. The first is 1.
    pub next: u64,
    /// Whether an event has begun and not ended.
    is_within: bool,
    /// Moves with each reader, so that the one before ends.
    pub generation: u64,
    pub waker: Option<Waker>,
    /// Up to where the reader has taken what there is.
    pub taken: Cursor,
    /// Since when nobody reads; `None` while somebody does.
    left: Option<Instant>,
    pub comes_back: ComesBack,
    /// Whether a comment is to be passed on.
    pub comment: bool,
    pub phase: Phase,
    /// Whether the writer broke off, so that nobody is to say that nothing followed.
    pub is_torn: bool,
    /// When it goes, once it has ended.
    until: Option<Instant>,
}

/// Whether a client that has gone comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ComesBack {
    /// It knows no id yet.
    Not,
    /// It may.
    May,
    /// It has cancelled the call.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is more to come.
    Open,
    /// All has come.
    Ended,
    /// What was kept is gone.
    Lost,
}

pub(super) struct Kept {
    pub block: Block,
    /// The number of the first event that begins in it.
    pub begins: Option<u64>,
}

/// The stream is lost, or nobody waits for it any more: what is written has no reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Why a stream cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHere {
    /// It has ended, and the client has all of it.
    AllTaken,
    /// What follows is not kept any more, or never was.
    Lost,
}

/// What a reader has not taken is no more than this: four times what is handed out at once. Whoever writes more waits.
const UNREAD_BLOCKS_MAX: u64 = (256 << 10) / BLOCK_BYTES as u64;

/// The rest of a block below this is not worth a record.
const PAYLOAD_BYTES_MIN: usize = 64;

impl Stream {
    pub(super) fn new(streams: Arc<Streams>, number: u64, label: Box<str>, request: Option<Bytes>) -> Self {
        let state = State {
            blocks: VecDeque::new(),
            first_block: 0,
            next: 1,
            is_within: false,
            generation: 0,
            waker: None,
            taken: Cursor::default(),
            left: None,
            comes_back: ComesBack::Not,
            comment: false,
            phase: Phase::Open,
            is_torn: false,
            until: None,
        };
        let (moved, taken) = (Notify::new(), Notify::new());
        Self { streams, number, label, request, state: Mutex::new(state), moved, taken }
    }

    /// Whether it is the one with that number.
    pub fn is(&self, mark: &super::Mark) -> bool {
        self.number == mark.number
    }

    /// The raw id of the call that it answers.
    pub fn request(&self) -> Option<&Bytes> {
        self.request.as_ref()
    }

    /// The `id` line of the event by which its client is told that what it misses is gone.
    pub fn over_line(&self) -> Vec<u8> {
        id::over_line(&self.label)
    }

    /// Whether somebody reads it, and there is more to come.
    pub fn is_followed(&self) -> bool {
        let state = self.state();
        state.left.is_none() && state.phase == Phase::Open
    }

    /// Whether all has come, or what was kept is gone.
    pub fn is_over(&self) -> bool {
        self.state().phase != Phase::Open
    }

    /// Its reader behind the event with that number; the one before ends.
    pub fn attach(self: &Arc<Self>, sequence: u64) -> Result<Reader, NotHere> {
        let mut state = self.state();
        let at = self.find(&state, sequence)?;
        state.generation += 1;
        state.taken = at;
        (state.left, state.comment) = (None, false);
        let generation = state.generation;
        let before = state.waker.take();
        drop(state);
        before.into_iter().for_each(Waker::wake);
        self.moved.notify_waiters();
        Ok(Reader::at(Arc::clone(self), generation, at, sequence))
    }

    fn find(&self, state: &State, sequence: u64) -> Result<Cursor, NotHere> {
        let wanted = sequence.checked_add(1).filter(|wanted| *wanted <= state.next).ok_or(NotHere::Lost)?;
        let is_in_hand = state.is_within && wanted == state.next;
        if state.phase == Phase::Lost || is_in_hand {
            return Err(NotHere::Lost);
        }
        if wanted == state.next {
            if state.phase == Phase::Ended {
                return Err(NotHere::AllTaken);
            }
            return Ok(state.end());
        }
        let before = |kept: &&Kept| kept.begins.is_none_or(|begins| begins <= wanted);
        // The last block in which an event begins that is not behind the wanted one.
        let (index, kept) = state
            .blocks
            .iter()
            .enumerate()
            .take_while(|(_, kept)| before(kept))
            .filter(|(_, kept)| kept.begins.is_some())
            .last()
            .ok_or(NotHere::Lost)?;
        let (mut offset, mut scratch) = (0, Vec::new());
        // Each turn moves on by a record.
        while offset < kept.block.used() {
            scratch.clear();
            let found = self.blocks().read(&kept.block, offset, &mut scratch).map_err(|_| NotHere::Lost)?;
            if found.portion.begins() && found.sequence == wanted {
                return Ok(Cursor { block: state.first_block + index as u64, offset });
            }
            offset = found.next;
        }
        Err(NotHere::Lost)
    }

    /// The reader of that generation has gone.
    pub(super) fn leave(&self, generation: u64) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        state.left = Some(Instant::now());
        state.waker = None;
        drop(state);
        self.moved.notify_waiters();
    }

    /// The reader took something: there may be room.
    pub(super) fn note_taken(&self) {
        self.taken.notify_waiters();
    }

    /// Nobody will come back for it; when its reader has gone already, it ends now.
    pub fn cancel(&self) {
        self.state().comes_back = ComesBack::Never;
        self.moved.notify_waiters();
    }

    /// The writer broke off where the client may have its answer, or half of it: the reader's connection breaks visibly.
    pub fn tear(&self) {
        self.state().is_torn = true;
        self.lose();
    }

    /// What is kept goes, and its reader is told, unless it has all there is.
    pub fn lose(&self) {
        let mut state = self.state();
        if state.phase == Phase::Lost {
            return;
        }
        if state.phase == Phase::Open || state.taken != state.end() {
            state.phase = Phase::Lost;
        }
        let blocks = std::mem::take(&mut state.blocks);
        let (waker, until) = (state.waker.take(), state.until.take());
        drop(state);
        self.streams.give(blocks.into_iter().map(|kept| kept.block));
        self.streams.forget(self.number, until);
        waker.into_iter().for_each(Waker::wake);
        self.moved.notify_waiters();
    }

    /// Whether nobody reads it.
    pub(super) fn is_left(&self) -> bool {
        self.state().left.is_some()
    }

    pub(super) fn kept_blocks(&self) -> usize {
        self.state().blocks.len()
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // What is done under it does not panic; a value that is not whole could only be read wrongly, which CRCs tell.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As much of a part as fits; `None` when there is no room.
    fn write(self: &Arc<Self>, bytes: &[u8], begins: bool, ends: bool) -> Result<Option<usize>, Gone> {
        let mut state = self.state();
        let has_room = |kept: &Kept| kept.block.room() >= bytes.len().min(PAYLOAD_BYTES_MIN);
        if state.phase == Phase::Open && !state.blocks.back().is_some_and(has_room) {
            if !self.may_grow(&mut state) {
                return Ok(None);
            }
            drop(state);
            let Some(block) = self.streams.block(self) else { return Ok(None) };
            state = self.state();
            state.blocks.push_back(Kept { block, begins: None });
        }
        if state.phase != Phase::Open {
            let blocks = std::mem::take(&mut state.blocks);
            drop(state);
            self.streams.give(blocks.into_iter().map(|kept| kept.block));
            return Err(Gone);
        }
        if begins {
            state.next += 1;
        }
        let sequence = state.next - 1;
        let Some(kept) = state.blocks.back_mut() else { return Ok(None) };
        if begins {
            kept.begins.get_or_insert(sequence);
        }
        let written = self.blocks().write(&mut kept.block, sequence, bytes, begins, ends);
        state.is_within = !(ends && written == bytes.len());
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(Some(written))
    }

    /// Whether it may have one more block. What a reader has taken makes room; what nobody reads stays.
    fn may_grow(&self, state: &mut State) -> bool {
        let unread = state.first_block + state.blocks.len() as u64 - state.taken.block;
        if state.left.is_none() && unread > UNREAD_BLOCKS_MAX {
            return false;
        }
        if state.blocks.len() < (self.streams.config.stream_bytes_max / BLOCK_BYTES).max(1) {
            return true;
        }
        let oldest = if state.left.is_none() { state.pop_read() } else { None };
        let any = oldest.is_some();
        self.streams.give(oldest);
        any
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let blocks = std::mem::take(&mut state.blocks);
        self.streams.give(blocks.into_iter().map(|kept| kept.block));
    }
}

impl State {
    /// Behind the last of what is kept.
    fn end(&self) -> Cursor {
        let last = self.blocks.back().map_or(0, |kept| kept.block.used());
        Cursor::end(self.first_block, self.blocks.len(), last)
    }

    /// The client has an id by now.
    pub fn note_id(&mut self) {
        if self.comes_back == ComesBack::Not {
            self.comes_back = ComesBack::May;
        }
    }

    /// The oldest block, when a reader is there and has taken all of it.
    fn pop_read(&mut self) -> Option<Block> {
        if self.left.is_some() || self.first_block >= self.taken.block {
            return None;
        }
        let kept = self.blocks.pop_front()?;
        self.first_block += 1;
        Some(kept.block)
    }
}

/// The one who writes a stream. Dropped before its end, the stream is lost.
pub struct Writer(Arc<Stream>);

impl Writer {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self(stream)
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.0
    }

    /// Writes a part of an event behind the others; waits for room. Not cancel safe: a part of it may be written.
    pub async fn push(&self, part: &Part) -> Result<(), Gone> {
        let (mut rest, mut begins) = (&part.bytes[..], part.begins);
        loop {
            let written = match self.0.write(rest, begins, part.ends)? {
                Some(written) => written,
                None => self.push_with_room(rest, begins, part.ends).await?,
            };
            rest = &rest[written..];
            begins = false;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    async fn push_with_room(&self, bytes: &[u8], begins: bool, ends: bool) -> Result<usize, Gone> {
        loop {
            let (mut moved, mut taken) = (pin!(self.0.moved.notified()), pin!(self.0.taken.notified()));
            let mut freed = pin!(self.0.streams.freed.notified());
            moved.as_mut().enable();
            taken.as_mut().enable();
            freed.as_mut().enable();
            if let Some(written) = self.0.write(bytes, begins, ends)? {
                return Ok(written);
            }
            tokio::select! {
                () = moved => {}
                () = taken => {}
                () = freed => {}
            }
        }
    }

    /// Has the reader pass a comment on, so that the connection is not taken for dead.
    pub fn comment(&self) {
        let mut state = self.0.state();
        state.comment = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Completes when nobody waits for the stream: its client has gone, and cannot come back or did not in time; or the
    /// stream is lost. Cancel safe.
    pub async fn abandoned(&self) {
        loop {
            let mut moved = pin!(self.0.moved.notified());
            moved.as_mut().enable();
            let until = {
                let state = self.0.state();
                if state.phase == Phase::Lost {
                    return;
                }
                match state.left {
                    Some(_) if state.comes_back != ComesBack::May => return,
                    left => left.map(|left| left + self.0.streams.config.kept_for),
                }
            };
            let Some(until) = until else {
                moved.await;
                continue;
            };
            if until <= Instant::now() {
                return;
            }
            // Boxed: most clients stay, and then there is nothing to be waited for.
            let over = Box::pin(sleep_until(until));
            tokio::select! {
                () = moved => {}
                () = over => {}
            }
        }
    }

    /// Completes when the client has cancelled the call. Cancel safe.
    pub async fn cancelled(&self) {
        self.moved_to(|state| state.comes_back == ComesBack::Never).await;
    }

    /// Completes when nobody reads the stream. Cancel safe.
    pub async fn left(&self) {
        self.moved_to(|state| state.left.is_some()).await;
    }

    async fn moved_to(&self, is_there: impl Fn(&State) -> bool) {
        loop {
            let mut moved = pin!(self.0.moved.notified());
            moved.as_mut().enable();
            if is_there(&self.0.state()) {
                return;
            }
            moved.await;
        }
    }

    /// All has come.
    pub fn finish(self) {
        let mut state = self.0.state();
        if state.phase != Phase::Open {
            return;
        }
        state.phase = Phase::Ended;
        let is_kept = !state.blocks.is_empty();
        let until = is_kept.then(|| Instant::now() + self.0.streams.config.kept_for);
        state.until = until;
        let waker = state.waker.take();
        drop(state);
        if let Some(until) = until {
            self.0.streams.keep_ended(until, &self.0);
        }
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.0.is_over() {
            self.0.lose();
        }
    }
}
