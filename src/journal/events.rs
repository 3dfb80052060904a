//! A buffer for the events of streams: one mapped file, divided into blocks that hold records with fixed headers.
//!
//! The file is unlinked as soon as it is mapped, so its contents end with the process and no one can open them. Its
//! disk space is reserved at creation, so that a full disk is an error then and not a signal later.
//!
//! Invariants: an allocated block belongs to its holder until it is released. A record is returned only if its CRC, over
//! header and payload, matches.
//!
//! Does not know: streams, their readers, or time.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::JournalError;
use super::folder::random_u64;
use super::header::{RECORD_HEADER_BYTES, RecordHeader};
use super::map::{MappedFile, WORD};

/// The size of a block: one page. Most streams have one response of some hundred bytes, and each takes at least a block.
pub const BLOCK_BYTES: usize = 4096;

/// A file of blocks.
pub struct EventBlocks {
    map: MappedFile,
    /// Random, so that no record of another file verifies.
    seed: u32,
    count: u32,
    pool: Mutex<BlockPool>,
}

#[derive(Default)]
struct BlockPool {
    /// Released blocks, the last one on top: a page that was touched is reused before a fresh one.
    free: Vec<u32>,
    /// The first block that was never allocated.
    fresh: u32,
}

/// A block and how much of it is used. Must be given back by [`EventBlocks::release`]; a dropped block is lost to the file.
#[derive(Debug)]
pub struct EventBlock {
    number: u32,
    used: usize,
}

/// Which part of an event a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FragmentKind {
    Whole,
    /// The beginning of the event.
    First,
    /// Neither the beginning nor the end.
    Middle,
    /// The end of the event.
    Last,
}

/// A record that was read from a block.
#[derive(Debug, PartialEq, Eq)]
pub struct EventFragment {
    pub kind: FragmentKind,
    /// The event's number in its stream.
    pub sequence: u64,
    /// The offset of the next record in the block.
    pub next: usize,
}

/// A record differs from what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedRecord;

impl FragmentKind {
    /// From whether the event begins and ends with the record.
    pub fn of(begins: bool, ends: bool) -> Self {
        match (begins, ends) {
            (true, true) => Self::Whole,
            (true, false) => Self::First,
            (false, false) => Self::Middle,
            (false, true) => Self::Last,
        }
    }

    /// Whether the event begins with this record.
    pub fn begins(self) -> bool {
        matches!(self, Self::Whole | Self::First)
    }

    /// Whether the event ends with this record.
    pub fn ends(self) -> bool {
        matches!(self, Self::Whole | Self::Last)
    }

    fn kind(self) -> u8 {
        match self {
            Self::Whole => 1,
            Self::First => 2,
            Self::Middle => 3,
            Self::Last => 4,
        }
    }

    fn of_kind(kind: u8) -> Option<Self> {
        [Self::Whole, Self::First, Self::Middle, Self::Last]
            .into_iter()
            .find(|portion| portion.kind() == kind)
    }
}

impl EventBlock {
    fn into_number(self) -> u32 {
        self.number
    }

    /// The payload bytes that still fit.
    pub fn remaining_bytes(&self) -> usize {
        (BLOCK_BYTES - self.used).saturating_sub(RECORD_HEADER_BYTES)
    }

    /// The offset of the next record to be written.
    pub fn used(&self) -> usize {
        self.used
    }
}

impl EventBlocks {
    /// Creates a file of `bytes`, rounded down to whole blocks. Creates the folder if it does not exist.
    ///
    /// # Errors
    /// The folder or the file cannot be created, mostly because the disk is full.
    pub fn create(folder: &Path, bytes: usize) -> Result<Self, JournalError> {
        let io = |error: io::Error| JournalError::io(&folder.join("events"), &error);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(io)?;
        delete_leftovers(folder).map_err(io)?;
        let count = u32::try_from(bytes / BLOCK_BYTES).unwrap_or(u32::MAX);
        if count == 0 {
            return Err(JournalError::Config("its bytes are less than a block"));
        }
        let random = random_u64()?;
        let path = folder.join(format!("{random:016x}.{EXTENSION}"));
        let map = MappedFile::create(&path, count as usize * BLOCK_BYTES);
        let map = map.map_err(|error| JournalError::io(&path, &error))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(JournalError::io(&path, &error));
            }
            _ => {}
        }
        let seed = crc32fast::hash(&random.to_le_bytes());
        Ok(Self { map, seed, count, pool: Mutex::default() })
    }

    /// Allocates an empty block; `None` when all are allocated.
    pub fn allocate(&self) -> Option<EventBlock> {
        let mut pool = self.lock_pool();
        let number = pool.free.pop().or_else(|| {
            let fresh = pool.fresh;
            pool.fresh = (fresh + 1).min(self.count);
            (fresh < self.count).then_some(fresh)
        });
        number.map(|number| EventBlock { number, used: 0 })
    }

    pub fn release(&self, block: EventBlock) {
        self.lock_pool().free.push(block.into_number());
    }

    /// The number of allocated blocks.
    pub fn allocated(&self) -> usize {
        let pool = self.lock_pool();
        pool.fresh as usize - pool.free.len()
    }

    /// Appends a record to the block, with as many of the bytes as fit. Returns how many that were.
    pub fn write(
        &self,
        block: &mut EventBlock,
        sequence: u64,
        bytes: &[u8],
        begins: bool,
        ends: bool,
    ) -> usize {
        let payload = &bytes[..bytes.len().min(block.remaining_bytes())];
        let portion = FragmentKind::of(begins, ends && payload.len() == bytes.len());
        let at = block.number as usize * BLOCK_BYTES + block.used;
        let words = RecordHeader::new(self.seed, portion.kind(), sequence, payload).to_words();
        for (index, word) in words.into_iter().enumerate() {
            self.map.store(at + index * WORD, word);
        }
        self.map.write(at + RECORD_HEADER_BYTES, payload);
        block.used += RecordHeader::record_bytes(payload.len());
        payload.len()
    }

    /// Reads the record at offset `at` of the block, and appends its payload to `into`. On failure `into` is unchanged.
    pub fn read(
        &self,
        block: &EventBlock,
        at: usize,
        into: &mut Vec<u8>,
    ) -> Result<EventFragment, DamagedRecord> {
        let start = block.number as usize * BLOCK_BYTES + at;
        if at + RECORD_HEADER_BYTES > block.used {
            return Err(DamagedRecord);
        }
        let header: RecordHeader = bytemuck::cast([0, 1, 2].map(|index| self.map.load(start + index * WORD)));
        let length = header.length as usize;
        let portion = FragmentKind::of_kind(header.kind).ok_or(DamagedRecord)?;
        if length > BLOCK_BYTES || at + RecordHeader::record_bytes(length) > block.used {
            return Err(DamagedRecord);
        }
        let before = into.len();
        self.map.read(start + RECORD_HEADER_BYTES, length, into);
        if header.magic != RecordHeader::MAGIC || header.checksum(self.seed, &into[before..]) != header.crc {
            into.truncate(before);
            return Err(DamagedRecord);
        }
        Ok(EventFragment {
            kind: portion,
            sequence: header.sequence,
            next: at + RecordHeader::record_bytes(length),
        })
    }

    fn lock_pool(&self) -> MutexGuard<'_, BlockPool> {
        // Every change is a single operation, so the pool is consistent even after a panic.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const EXTENSION: &str = "events";

/// Deletes files left by processes that were killed between creating and unlinking them. A file that another process is
/// about to map stays usable without its name.
fn delete_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

const _: () = assert!(BLOCK_BYTES.is_multiple_of(WORD) && BLOCK_BYTES > 2 * RECORD_HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::Folder;

    fn blocks(bytes: usize) -> (Folder, EventBlocks) {
        let folder = Folder::new();
        let blocks = EventBlocks::create(&folder.path().join("streams"), bytes).unwrap();
        (folder, blocks)
    }

    /// Writes an event over as many blocks as needed, and reads it back.
    #[track_caller]
    fn check(bytes: usize, records: usize) {
        let (_folder, store) = blocks(16 * BLOCK_BYTES);
        let event: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut blocks = vec![store.allocate().unwrap()];
        let mut rest = &event[..];
        let mut begins = true;
        loop {
            let block = blocks.last_mut().unwrap();
            rest = &rest[store.write(block, 7, rest, begins, true)..];
            begins = false;
            if rest.is_empty() {
                break;
            }
            blocks.push(store.allocate().unwrap());
        }
        let mut read = Vec::new();
        let found: Vec<_> = blocks.iter().map(|block| store.read(block, 0, &mut read).unwrap()).collect();
        assert_eq!((read, found.len()), (event, records));
        assert!(found.iter().all(|found| found.sequence == 7));
        assert!(found[0].kind.begins() && found[records - 1].kind.ends());
        assert_eq!(found.iter().filter(|found| found.kind.ends()).count(), 1);
        for block in blocks {
            store.release(block);
        }
        assert_eq!(store.allocated(), 0);
    }

    #[test]
    fn events_are_read_as_written() {
        check(0, 1);
        check(1, 1);
        check(BLOCK_BYTES - RECORD_HEADER_BYTES, 1);
        check(BLOCK_BYTES - RECORD_HEADER_BYTES + 1, 2);
        check(10 * BLOCK_BYTES, 11);
    }

    #[test]
    fn blocks_are_limited_and_the_file_has_no_name() {
        let (folder, store) = blocks(3 * BLOCK_BYTES + 1);
        let taken: Vec<_> = std::iter::from_fn(|| store.allocate()).collect();
        assert_eq!((taken.len(), store.allocated()), (3, 3));
        for block in taken {
            store.release(block);
        }
        assert!(store.allocate().is_some());
        assert_eq!(fs::read_dir(folder.path().join("streams")).unwrap().count(), 0);
        assert!(matches!(EventBlocks::create(folder.path(), 10), Err(JournalError::Config(_))));
    }

    #[test]
    fn leftover_files_are_deleted() {
        let folder = Folder::new();
        fs::write(folder.path().join("0123.events"), b"secret").unwrap();
        fs::write(folder.path().join("other"), b"").unwrap();
        let _store = EventBlocks::create(folder.path(), BLOCK_BYTES).unwrap();
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["other"]);
    }

    /// Every flipped bit of a record is noticed, and so is a read past the records of a block.
    #[test]
    fn damage_is_noticed() {
        let (_folder, store) = blocks(2 * BLOCK_BYTES);
        let mut block = store.allocate().unwrap();
        store.write(&mut block, 1, b"some bytes", true, true);
        for bit in 0..block.used * 8 {
            let (at, mask) = (bit / 64 * 8, 1 << (bit % 64));
            store.map.store(at, store.map.load(at) ^ mask);
            let mut into = Vec::from(*b"before");
            // The padding of the last word is not read.
            let is_padding = bit >= 8 * (RECORD_HEADER_BYTES + 10);
            let read = store.read(&block, 0, &mut into);
            assert!(is_padding || (read == Err(DamagedRecord) && into == b"before"), "bit {bit}");
            store.map.store(at, store.map.load(at) ^ mask);
        }
        assert!(store.read(&block, 0, &mut Vec::new()).is_ok());
        assert_eq!(store.read(&block, block.used, &mut Vec::new()), Err(DamagedRecord));
        assert_eq!(store.read(&store.allocate().unwrap(), 0, &mut Vec::new()), Err(DamagedRecord));
    }
}
