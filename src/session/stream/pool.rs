//! The blocks that all streams share, and an index of the streams that have some.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::journal::JournalError;
use crate::journal::events::{BLOCK_BYTES, EventBlock, EventBlocks};
use metamcp_config::sections::StreamsConfig;
use metamcp_core::base::{MemoryAccount, MemoryCharge, MemoryShortage};
use metamcp_store::auth::Sealer;

/// The blocks of this process, and an index of the streams of type `S` that retain some. Does not know what a stream is.
pub struct StreamPool<S> {
    config: ArcSwap<StreamsConfig>,
    pub(super) blocks: EventBlocks,
    pub(super) sealer: Arc<Sealer>,
    /// Random: distinguishes this process from earlier ones.
    pub(super) process: u64,
    next_number: AtomicU64,
    /// Whether a client that leaves could not come back, because new connections reach another process.
    is_handed_over: AtomicBool,
    /// Locked for a few lines at a time, or to iterate over the streams when no block is free.
    index: Mutex<StreamIndex<S>>,
    /// For the taken blocks: pages of the file that were written are in memory. Locked for one line at a time.
    charge: Mutex<MemoryCharge>,
    /// The account of that charge.
    pub(super) memory: &'static MemoryAccount,
    /// Until when no memory is reclaimed, because there was nothing to release. Locked while streams are discarded.
    pub(super) reclaim_after: Mutex<Option<Instant>>,
    /// Notified when blocks are released.
    freed: Notify,
}

/// Why there is no block.
pub(super) enum NoBlock {
    AllTaken,
    OutOfMemory(MemoryShortage),
}

struct StreamIndex<S> {
    /// Streams that have taken a block and have not ended, oldest first.
    live: BTreeMap<u64, Weak<S>>,
    /// Ended streams by expiry time and number.
    ended: BTreeMap<(Instant, u64), Arc<S>>,
}

impl<S> StreamPool<S> {
    /// Reserves the space for all blocks in a file in `folder`. The taken ones are charged to `memory`.
    ///
    /// # Errors
    /// The disk is full, or the folder is not usable.
    pub fn open(
        folder: &Path,
        config: StreamsConfig,
        sealer: Arc<Sealer>,
        memory: &'static MemoryAccount,
    ) -> Result<Arc<Self>, JournalError> {
        let blocks = EventBlocks::create(folder, config.bytes_max)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| JournalError::Random(error.to_string()))?;
        Ok(Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            blocks,
            sealer,
            process: u64::from_le_bytes(random),
            next_number: AtomicU64::new(1),
            is_handed_over: AtomicBool::new(false),
            index: Mutex::new(StreamIndex { live: BTreeMap::new(), ended: BTreeMap::new() }),
            charge: Mutex::new(memory.charge()),
            memory,
            reclaim_after: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    pub fn config(&self) -> Guard<Arc<StreamsConfig>> {
        self.config.load()
    }

    /// Replaces the bounds of one stream and the times. The bytes of all streams stay as they were at startup.
    pub fn set_config(&self, config: StreamsConfig) {
        self.config.store(Arc::new(config));
    }

    /// From now on, connections are not closed for their clients to come back: these would reach another process, which
    /// does not have the stream.
    pub fn note_handed_over(&self) {
        self.is_handed_over.store(true, Ordering::Relaxed);
    }

    /// The bytes of all taken blocks.
    pub fn bytes(&self) -> usize {
        self.blocks.allocated() * BLOCK_BYTES
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Relaxed)
    }

    pub(super) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a free block for a stream, and adds the stream to the index.
    pub(super) fn take_block(&self, number: u64, stream: &Arc<S>) -> Result<EventBlock, NoBlock> {
        let block = self.blocks.allocate().ok_or(NoBlock::AllTaken)?;
        if let Err(shortage) = self.charge_blocks() {
            self.blocks.release(block);
            return Err(NoBlock::OutOfMemory(shortage));
        }
        self.index().live.entry(number).or_insert_with(|| Arc::downgrade(stream));
        Ok(block)
    }

    pub(super) fn release_blocks(&self, blocks: impl IntoIterator<Item = EventBlock>) {
        let mut any = false;
        for block in blocks {
            self.blocks.release(block);
            any = true;
        }
        if any {
            // Less than before, or as much as another thread has charged for since.
            let _ = self.charge_blocks();
            self.freed.notify_waiters();
        }
    }

    fn charge_blocks(&self) -> Result<(), MemoryShortage> {
        // The number is read under the lock, so that the last of two threads charges for what there is then.
        let mut charge = self.charge.lock().unwrap_or_else(PoisonError::into_inner);
        charge.resize_own(self.bytes())
    }

    /// Completes when blocks are released.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// The live streams that may retain something. Oldest first.
    pub(super) fn live_streams(&self) -> Vec<Arc<S>> {
        let mut index = self.index();
        index.live.retain(|_, stream| stream.strong_count() > 0);
        index.live.values().filter_map(Weak::upgrade).collect()
    }

    /// Removes the ended stream that expires first, of those that expire by `by` and satisfy `is_wanted`.
    pub(super) fn take_ended(&self, by: Instant, is_wanted: impl Fn(&S) -> bool) -> Option<Arc<S>> {
        let mut index = self.index();
        let mut candidates = index.ended.range(..=(by, u64::MAX));
        let key = candidates.find(|(_, stream)| is_wanted(stream)).map(|(key, _)| *key)?;
        index.ended.remove(&key)
    }

    /// Retains an ended stream until `expires`.
    pub(super) fn retain_ended(&self, number: u64, expires: Instant, stream: &Arc<S>) {
        let mut index = self.index();
        index.live.remove(&number);
        index.ended.insert((expires, number), Arc::clone(stream));
    }

    /// Removes a stream from the index.
    pub(super) fn remove(&self, number: u64, expires: Option<Instant>) {
        let mut index = self.index();
        index.live.remove(&number);
        let ended = expires.and_then(|expires| index.ended.remove(&(expires, number)));
        // Release the lock first: dropping the last reference drops the stream.
        drop(index);
        drop(ended);
    }

    fn index(&self) -> MutexGuard<'_, StreamIndex<S>> {
        // Every change is one operation on a collection, so a poisoned lock guards intact collections.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
