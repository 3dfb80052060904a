//! Which streams give way when no block is free, or when others need the memory.

use std::cmp::Reverse;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::pool::NoBlock;
use super::resumable_stream::{ResumableStream, ResumableStreams};
use crate::journal::events::EventBlock;
use metamcp_core::base::{MemoryShortage, ReclaimMemory};

/// How long no memory is reclaimed after a search in vain. A search visits all streams, up to one per block, and requests
/// that are refused for lack of memory arrive by the thousand.
const RECLAIM_PAUSE: Duration = Duration::from_millis(100);

/// How long a connected client may read nothing while others lack the memory that its events take: as long as a writer waits
/// for memory. A client that does read takes far less.
pub(super) const READER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a writer has waited for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryWait {
    /// It can wait on.
    Ongoing,
    /// Too long: the stream that retains most gives way, whoever reads it.
    Over,
}

/// Takes a block for a stream. If none is free, other streams give way. If there is no memory for it, only events that nobody
/// reads give way, until the wait is over. `None` if there is nothing left to release.
pub(super) fn allocate_block(
    pool: &ResumableStreams,
    stream: &Arc<ResumableStream>,
    wait: MemoryWait,
) -> Option<EventBlock> {
    // Each iteration releases blocks.
    loop {
        let shortage = match pool.take_block(stream.number, stream) {
            Ok(block) => return Some(block),
            Err(NoBlock::AllTaken) if make_room(pool, stream) => continue,
            Err(NoBlock::AllTaken) => return None,
            Err(NoBlock::OutOfMemory(shortage)) => shortage,
        };
        pool.reclaim(shortage);
        if let Ok(block) = pool.take_block(stream.number, stream) {
            return Some(block);
        }
        if wait == MemoryWait::Ongoing
            || !discard_largest(pool.live_streams().iter(), ResumableStream::fail_out_of_memory)
        {
            return None;
        }
    }
}

/// Releases blocks, in the order that the module documents. Returns whether there were any.
fn make_room(pool: &ResumableStreams, requester: &Arc<ResumableStream>) -> bool {
    if discard_ended(pool, ResumableStream::is_unread) {
        return true;
    }
    let mut others = pool.live_streams();
    others.retain(|other| other.number != requester.number);
    discard_largest(others.iter().filter(|other| other.is_unread()), ResumableStream::discard)
        || others.iter().chain([requester]).any(|stream| stream.release_read_blocks())
        || discard_ended(pool, |_| true)
        || discard_largest(others.iter().chain([requester]), ResumableStream::discard)
}

/// Discards the largest stream rather than the oldest: one that takes all the room must not evict those that take little.
/// Returns whether there was any.
fn discard_largest<'a>(
    streams: impl Iterator<Item = &'a Arc<ResumableStream>>,
    discard: fn(&ResumableStream),
) -> bool {
    let sizes = streams.map(|stream| (stream.retained_blocks(), stream)).filter(|(size, _)| *size > 0);
    let largest = sizes.max_by_key(|(size, stream)| (*size, Reverse(stream.number)));
    largest.map(|(_, stream)| discard(stream)).is_some()
}

/// Discards the ended stream that expires first, of those that are wanted. Returns whether there was one.
fn discard_ended(pool: &ResumableStreams, is_wanted: impl Fn(&ResumableStream) -> bool) -> bool {
    let ended = pool.take_ended(Instant::now() + pool.config().retention, is_wanted);
    ended.map(|ended| ended.discard()).is_some()
}

/// The streams that satisfy `is_wanted`, the largest first, the oldest of equally large ones.
fn largest_first(
    streams: &[Arc<ResumableStream>],
    is_wanted: impl Fn(&ResumableStream) -> bool,
) -> impl Iterator<Item = &Arc<ResumableStream>> {
    let wanted = streams.iter().filter(|stream| is_wanted(stream));
    let mut sized: Vec<_> =
        wanted.map(|stream| (Reverse(stream.retained_blocks()), stream.number, stream)).collect();
    sized.sort_unstable_by_key(|(blocks, number, _)| (*blocks, *number));
    sized.into_iter().map(|(.., stream)| stream)
}

/// Events that nobody reads give way to any message that the gateway must hold: those of clients that have left, those that
/// clients have already read, and those of clients that stay connected and do not read. What a client still reads is kept.
impl ReclaimMemory for ResumableStreams {
    fn reclaim(&self, shortage: MemoryShortage) {
        let missing = || self.memory.missing_bytes(shortage);
        let mut reclaim_after = self.reclaim_after.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have reclaimed enough meanwhile. If all blocks do not suffice, none gives way.
        if missing() == 0 || self.bytes() < missing() {
            return;
        }
        if reclaim_after.is_some_and(|after| Instant::now() < after) {
            return;
        }
        // Each iteration discards a stream.
        while missing() > 0 && discard_ended(self, ResumableStream::is_unread) {}
        let live = if missing() > 0 { self.live_streams() } else { Vec::new() };
        // The largest first, as in `discard_largest`.
        for stream in largest_first(&live, ResumableStream::is_unread) {
            if missing() == 0 {
                return;
            }
            stream.discard();
        }
        for stream in &live {
            if missing() == 0 {
                return;
            }
            stream.release_read_blocks();
        }
        let now = Instant::now();
        let is_stalled = |stream: &ResumableStream| stream.stalled_for(now) >= READER_PATIENCE;
        while missing() > 0 && discard_ended(self, is_stalled) {}
        for stream in largest_first(&live, is_stalled) {
            if missing() == 0 {
                return;
            }
            stream.fail_out_of_memory();
        }
        *reclaim_after = (missing() > 0).then(|| Instant::now() + RECLAIM_PAUSE);
    }
}
