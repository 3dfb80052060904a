//! Which streams give way when no block is free.

use std::cmp::Reverse;
use std::sync::Arc;

use tokio::time::Instant;

use super::resumable_stream::{ResumableStream, ResumableStreams};
use crate::journal::events::EventBlock;

/// Takes a block for a stream. If none is free, other streams give way. `None` if there is nothing left to release.
pub(super) fn allocate_block(pool: &ResumableStreams, stream: &Arc<ResumableStream>) -> Option<EventBlock> {
    loop {
        if let Some(block) = pool.take_block(stream.number, stream) {
            return Some(block);
        }
        if !make_room(pool, stream) {
            return None;
        }
    }
}

/// Releases blocks, in the order that the module documents. Returns whether there were any.
fn make_room(pool: &ResumableStreams, requester: &Arc<ResumableStream>) -> bool {
    let discard_ended = |is_wanted: fn(&ResumableStream) -> bool| {
        let ended = pool.take_ended(Instant::now() + pool.config().retention, is_wanted);
        ended.map(|ended| ended.discard()).is_some()
    };
    if discard_ended(ResumableStream::is_unread) {
        return true;
    }
    let others = pool.live_except(requester.number);
    // The largest rather than the oldest: a stream that takes all the room must not evict those that take little.
    let discard_largest = |streams: &mut dyn Iterator<Item = &Arc<ResumableStream>>| {
        let sizes = streams.map(|stream| (stream.retained_blocks(), stream)).filter(|(size, _)| *size > 0);
        let largest = sizes.max_by_key(|(size, stream)| (*size, Reverse(stream.number)));
        largest.map(|(_, stream)| stream.discard())
    };
    discard_largest(&mut others.iter().filter(|other| other.is_unread())).is_some()
        || others.iter().chain([requester]).any(|stream| stream.release_read_blocks())
        || discard_ended(|_| true)
        || discard_largest(&mut others.iter().chain([requester])).is_some()
}
