//! The counters of one worker in a memory-mapped file: a header, then slots of 512 bytes.
//!
//! A slot is a disk sector, so that a loss of power leaves it whole. Within it, the words written by the
//! worker and those written by the flusher are on separate cache lines.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::count::{CallCounts, WORDS};
use super::labels::{CounterLabels, KEY_BYTES_MAX, SERVER_BYTES_MAX, TOOL_BYTES_MAX};
use crate::journal::error::JournalError;
use crate::journal::folder::{self, Folder, NumberedFile, random_u64};
use crate::journal::header::{FileHeader, HeaderError};
use crate::journal::map::{MappedFile, WORD};
use crate::journal::recovery::{DamageKind, Recovery};
use crate::journal::segment::{is_unused, read_bounded};

/// The counter table of one worker.
///
/// Invariant: the worker that has taken the table writes the counters and labels of a slot, and the outbox
/// writes `base`. Before workers exist, the code that opens the table writes both.
pub(super) struct Table {
    map: MappedFile,
    file: NumberedFile,
    id: u64,
    slots: usize,
    taken: AtomicBool,
    /// How often `base` was advanced. Until it is, no further slot can become free.
    base_advances: AtomicU64,
    _lock: Arc<File>,
}

/// The slot for everything that has no slot of its own.
pub(super) const OTHER_SLOT: usize = 0;

const SLOT_BYTES: usize = 512;
const LIVE: usize = 0;
const BASE: usize = 64;
/// Odd while the labels are written.
const VERSION: usize = 128;
/// The lengths of the labels (8, 8 and 16 bits) and a CRC over them and the labels.
const LENGTHS: usize = 136;
const TEXT: usize = 144;

const _: () = assert!(TEXT + KEY_BYTES_MAX + SERVER_BYTES_MAX + TOOL_BYTES_MAX <= SLOT_BYTES);
const _: () = assert!(LIVE + WORDS * WORD <= BASE && BASE + WORDS * WORD <= VERSION);

impl Table {
    pub fn create(folder: &mut Folder, lock: &Arc<File>, slots: usize) -> Result<Self, JournalError> {
        let (file, id) = (folder.next_file(folder::TABLE), random_u64()?);
        let (path, bytes) = (folder.join(&file.name), SLOT_BYTES * (1 + slots));
        let map = MappedFile::create(&path, bytes).map_err(|error| JournalError::io(&path, &error))?;
        let (bytes, slot_count) = (bytes as u64, slots as u64);
        let header =
            FileHeader::new(FileHeader::TABLE, folder.directory(), id, file.number, bytes, slot_count);
        map.write(0, bytemuck::bytes_of(&header));
        Ok(Self::new(map, file, id, slots, lock))
    }

    fn new(map: MappedFile, file: NumberedFile, id: u64, slots: usize, lock: &Arc<File>) -> Self {
        let (taken, base_advances) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { map, file, id, slots, taken, base_advances, _lock: Arc::clone(lock) }
    }

    /// Opens the tables of earlier processes, oldest first.
    pub fn recover_all(
        folder: &Folder,
        lock: &Arc<File>,
        recovery: &mut Recovery,
    ) -> Result<Vec<Self>, JournalError> {
        let mut tables = Vec::new();
        for file in folder.list(folder::TABLE)? {
            tables.extend(Self::recover(folder, file, lock, recovery)?);
        }
        Ok(tables)
    }

    fn recover(
        folder: &Folder,
        file: NumberedFile,
        lock: &Arc<File>,
        recovery: &mut Recovery,
    ) -> Result<Option<Self>, JournalError> {
        let path = folder.join(&file.name);
        let Ok(bytes) = read_bounded(&path) else {
            recovery.drop_file(&file.name, DamageKind::Unreadable, 0);
            return Ok(None);
        };
        let size = bytes.len() as u64;
        let kind = match FileHeader::read(&bytes, FileHeader::TABLE) {
            Err(_) if is_unused(&bytes) => {
                folder.remove(&file.name)?;
                return Ok(None);
            }
            Err(HeaderError::FutureVersion) => DamageKind::FutureVersion,
            Err(HeaderError::Invalid) => DamageKind::Header,
            Ok(header) if header.directory != folder.directory() => DamageKind::Foreign,
            Ok(header) if header.number != file.number => DamageKind::Duplicate,
            Ok(header) if header.bytes != size => DamageKind::Truncated,
            Ok(header) => {
                let slots = usize::try_from(header.slots).unwrap_or(0);
                let bytes = SLOT_BYTES.saturating_mul(slots.saturating_add(1));
                match MappedFile::open(&path, bytes) {
                    Ok(map) => return Ok(Some(Self::new(map, file, header.incarnation, slots, lock))),
                    Err(_) => DamageKind::Unreadable,
                }
            }
        };
        recovery.drop_file(&file.name, kind, size);
        Ok(None)
    }

    /// Restores the invariant after a restart, from the totals in the journal, and completes an interrupted
    /// change of labels.
    pub fn reconcile(&self, journaled: &[CallCounts]) {
        for (slot, journaled) in journaled.iter().enumerate() {
            let version = self.version(slot);
            if !version.is_multiple_of(2) {
                self.map.publish(at(slot) + VERSION, version.wrapping_add(1));
            }
            self.store_if_changed(slot, LIVE, self.live(slot).max(*journaled));
            self.store_if_changed(slot, BASE, *journaled);
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// Claims the table for a worker. `false` when another worker has it.
    pub fn claim(&self) -> bool {
        !self.taken.swap(true, Ordering::Acquire)
    }

    pub fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }

    /// The counts added so far.
    pub fn live(&self, slot: usize) -> CallCounts {
        self.count(slot, LIVE)
    }

    /// The part of `live` that certainly is, or was, in a record.
    pub fn base(&self, slot: usize) -> CallCounts {
        self.count(slot, BASE)
    }

    pub fn bases(&self) -> Vec<CallCounts> {
        (0..self.slots).map(|slot| self.base(slot)).collect()
    }

    /// Advances `base`; for the outbox, once the record is on disk.
    pub fn set_base(&self, slot: usize, base: CallCounts) {
        self.store_if_changed(slot, BASE, base);
    }

    pub fn note_base_advanced(&self) {
        self.base_advances.fetch_add(1, Ordering::Release);
    }

    pub fn base_advances(&self) -> u64 {
        self.base_advances.load(Ordering::Acquire)
    }

    /// Adds to a slot; for the worker that has the table. Plain stores: no other thread writes these words.
    #[inline]
    pub fn add(&self, slot: usize, count: CallCounts) {
        self.map.add(at(slot) + LIVE, count.to_words());
    }

    /// Gives a slot its labels; for the worker that has the table, while `live == base`.
    pub fn occupy(&self, slot: usize, labels: &CounterLabels) {
        let (at, version) = (at(slot), self.version(slot));
        self.map.store(at + VERSION, version | 1);
        // A reader that sees the stores below sees the odd version.
        fence(Ordering::SeqCst);
        self.map.write(at + TEXT, labels.text().as_bytes());
        self.map.store(at + LENGTHS, labels.packed_lengths());
        self.map.publish(at + VERSION, (version | 1).wrapping_add(1));
        // No count is added to the slot before its labels are there.
        fence(Ordering::SeqCst);
    }

    /// Changes with the labels; odd while they change.
    pub fn version(&self, slot: usize) -> u64 {
        self.map.load_acquire(at(slot) + VERSION)
    }

    /// The labels of a slot; `None` when it has none, or damaged ones.
    pub fn labels(&self, slot: usize) -> Option<CounterLabels> {
        let (at, packed) = (at(slot), self.map.load(at(slot) + LENGTHS));
        let [key, server, low, high, ..] = packed.to_le_bytes();
        let lengths = [usize::from(key), usize::from(server), usize::from(u16::from_le_bytes([low, high]))];
        let length: usize = lengths.iter().sum();
        if length == 0 || TEXT + length > SLOT_BYTES {
            return None;
        }
        let mut bytes = self.map.copy(at + TEXT..at + TEXT + length.next_multiple_of(WORD));
        bytes.truncate(length);
        let text = String::from_utf8(bytes).ok()?.into();
        let labels = CounterLabels::split(text, [lengths[0], lengths[1]])?;
        (labels.packed_lengths() == packed).then_some(labels)
    }

    /// Waits until the counters are on disk.
    pub fn sync(&self, folder: &Folder) -> Result<(), JournalError> {
        let synced = self.map.sync(0..self.map.len());
        synced.map_err(|error| JournalError::io(&folder.join(&self.file.name), &error))
    }

    fn count(&self, slot: usize, part: usize) -> CallCounts {
        CallCounts::from_words(std::array::from_fn(|word| self.map.load(at(slot) + part + word * WORD)))
    }

    fn store_if_changed(&self, slot: usize, part: usize, count: CallCounts) {
        if self.count(slot, part) != count {
            for (word, value) in count.to_words().into_iter().enumerate() {
                self.map.store(at(slot) + part + word * WORD, value);
            }
        }
    }
}

fn at(slot: usize) -> usize {
    SLOT_BYTES * (1 + slot)
}
