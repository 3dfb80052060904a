//! Event streams that a client can take up again where they broke (MCP 2025-11-25, transports, resumability).
//!
//! What passes to the client is kept for a while in the journal's mapped blocks, and the client reads it from there: what
//! it missed and what comes live are one. Each event has an id, sealed to the key, the session and the stream.
//!
//! Invariants:
//! - What one stream keeps, what all keep, and for how long, is bounded. Who needs room takes that of the streams that
//!   ended and are not read, the first to go before the others, then of those whose clients have gone, then what clients
//!   have read already, its own too, then of those that ended; and only then is one ended: the one that keeps the most,
//!   of several the oldest.
//! - A stream has one reader. Another one takes over from it.
//! - No event is skipped: a reader gets the next one, or is told that it is not there.
//! - Locks are taken in this order: all streams, one stream, the blocks.
//!
//! Does not know: HTTP, where events come from, or what is in them.

mod id;
mod reader;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::id::SessionClaims;
use crate::auth::Sealer;
use crate::journal::JournalError;
use crate::journal::events::{BLOCK_BYTES, Block, Blocks};

pub use id::{EventId, REQUEST_ID_BYTES_MAX};
pub use reader::{ReadOutcome, StreamReader};
pub use state::{ResumableStream, ResumeError, StreamClosed};
pub use writer::{ReconnectTimer, StreamWriter};

/// Bounds of streams that can be taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamsConfig {
    /// All that is kept.
    pub bytes_max: usize,
    /// What one stream keeps.
    pub stream_bytes_max: usize,
    /// A stream that has ended, or that nobody reads, is kept for so long.
    pub retention: Duration,
    /// A client that can come back is sent away when nothing came for so long, if that is not zero.
    pub poll_after: Duration,
}

/// What a client that knows it is told to wait before it comes back. The wait of the SDKs when nobody tells them.
pub const RETRY_MS: u64 = 1000;

/// All streams of this process that can be taken up again.
pub struct ResumableStreams {
    config: StreamsConfig,
    blocks: Blocks,
    sealer: Arc<Sealer>,
    /// Random: tells this process's streams from those of another one before it.
    process: u64,
    next: AtomicU64,
    /// Guards which streams keep something; a few lines at a time, and a walk over them when there is no room.
    known: Mutex<StreamIndex>,
    /// Told when a block is given back.
    freed: Notify,
}

#[derive(Default)]
struct StreamIndex {
    /// Those that have taken a block and have not ended, by age.
    live: BTreeMap<u64, Weak<ResumableStream>>,
    /// Those that have ended, by the time until which they are kept, and by number.
    ended: BTreeMap<(Instant, u64), Arc<ResumableStream>>,
}

impl ResumableStreams {
    /// None yet. Reserves all the room in a file of that folder.
    ///
    /// # Errors
    /// There is no room on the disk, or the folder cannot be used.
    pub fn open(
        folder: &Path,
        config: StreamsConfig,
        sealer: Arc<Sealer>,
    ) -> Result<Arc<Self>, JournalError> {
        let blocks = Blocks::create(folder, config.bytes_max)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| JournalError::Random(error.to_string()))?;
        Ok(Arc::new(Self {
            config,
            blocks,
            sealer,
            process: u64::from_le_bytes(random),
            next: AtomicU64::new(1),
            known: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Its bounds.
    pub fn config(&self) -> &StreamsConfig {
        &self.config
    }

    /// A new stream of a session, and its first reader. `request`: the raw id of the call that it answers.
    pub fn begin(
        self: &Arc<Self>,
        seal: &SessionClaims,
        request: Option<Bytes>,
    ) -> (StreamWriter, StreamReader) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(ResumableStream::new(Arc::clone(self), number, seal, request));
        let reader = StreamReader::first(Arc::clone(&stream));
        (StreamWriter::new(stream), reader)
    }

    /// What an event id of that session says; `None` when it is not one.
    pub fn parse_event_id(&self, seal: &SessionClaims, text: &[u8]) -> Option<EventId> {
        EventId::parse(text, &self.sealer, seal)
    }

    /// Whether the stream is one of this process's.
    pub fn is_from_this_process(&self, mark: &EventId) -> bool {
        mark.process == self.process
    }

    /// How many bytes are taken.
    pub fn bytes(&self) -> usize {
        self.blocks.taken() * BLOCK_BYTES
    }

    /// Drops what is kept for too long. To be called now and then.
    pub fn expire(&self) {
        let now = Instant::now();
        while let Some(stream) = self.take_ended(now, |_| true) {
            stream.lose();
        }
    }

    /// The first to go of those that ended, when it may go by then.
    fn take_ended(
        &self,
        by: Instant,
        is_fit: impl Fn(&ResumableStream) -> bool,
    ) -> Option<Arc<ResumableStream>> {
        let mut known = self.known();
        let until = known.ended.range(..=(by, u64::MAX));
        let first = until.filter(|(_, stream)| is_fit(stream)).map(|(key, _)| *key).next()?;
        known.ended.remove(&first)
    }

    /// A block for a stream; others give theirs for it. `None` when nobody else has one.
    fn block(&self, stream: &Arc<ResumableStream>) -> Option<Block> {
        loop {
            if let Some(block) = self.blocks.take() {
                self.known().live.entry(stream.number).or_insert_with(|| Arc::downgrade(stream));
                return Some(block);
            }
            if !self.make_room(stream) {
                return None;
            }
        }
    }

    /// Whether somebody gave something.
    fn make_room(&self, asker: &Arc<ResumableStream>) -> bool {
        let end = |is_fit: fn(&ResumableStream) -> bool| {
            let ended = self.take_ended(Instant::now() + self.config.retention, is_fit);
            ended.map(|ended| ended.lose()).is_some()
        };
        if end(ResumableStream::is_left) {
            return true;
        }
        let others = self.others(asker.number);
        // Not the oldest whatever it keeps: whoever takes all the room is not to take it from those who take little.
        let biggest = |streams: &mut dyn Iterator<Item = &Arc<ResumableStream>>| {
            let kept = streams.map(|stream| (stream.kept_blocks(), stream)).filter(|(kept, _)| *kept > 0);
            kept.max_by_key(|(kept, stream)| (*kept, Reverse(stream.number))).map(|(_, stream)| stream.lose())
        };
        biggest(&mut others.iter().filter(|other| other.is_left())).is_some()
            || others.iter().chain([asker]).any(|stream| stream.forget_read())
            || end(|_| true)
            || biggest(&mut others.iter().chain([asker])).is_some()
    }

    /// Those that have not ended and may keep something, the oldest first.
    fn others(&self, number: u64) -> Vec<Arc<ResumableStream>> {
        let mut known = self.known();
        known.live.retain(|_, stream| stream.strong_count() > 0);
        let others = known.live.values().filter_map(Weak::upgrade);
        others.filter(|other| other.number != number).collect()
    }

    /// The stream has ended: it is kept until then.
    fn keep_ended(&self, until: Instant, stream: &Arc<ResumableStream>) {
        let mut known = self.known();
        known.live.remove(&stream.number);
        known.ended.insert((until, stream.number), Arc::clone(stream));
    }

    fn forget(&self, number: u64, until: Option<Instant>) {
        let mut known = self.known();
        known.live.remove(&number);
        let ended = until.and_then(|until| known.ended.remove(&(until, number)));
        // Behind the lock: with the last hold on it goes the stream itself.
        drop(known);
        drop(ended);
    }

    fn give(&self, blocks: impl IntoIterator<Item = Block>) {
        let mut any = false;
        for block in blocks {
            self.blocks.give(block);
            any = true;
        }
        if any {
            self.freed.notify_waiters();
        }
    }

    fn known(&self) -> MutexGuard<'_, StreamIndex> {
        // Every change is one operation on a collection, so a poisoned lock guards whole ones.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
