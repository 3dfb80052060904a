//! Room for the events of streams: one mapped file, parted into blocks, each with records behind fixed headers.
//!
//! The file has no name any more once it is mapped: what is in it ends with the process, and nobody finds it. Its disk
//! space is reserved when it is made, so that a full disk is an error then and not a signal later.
//!
//! Invariants: a block that was taken belongs to its holder until it is given back; no record is handed out whose CRC,
//! over its header and its bytes, does not fit.
//!
//! Does not know: streams, who reads them, or time.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::JournalError;
use super::folder::random;
use super::header::{RECORD_HEADER_BYTES, RecordHeader};
use super::map::{Map, WORD};

/// One block: a page. Most streams have one answer of some hundred bytes, and each takes a block at least.
pub const BLOCK_BYTES: usize = 4096;

/// The blocks of one file.
pub struct Blocks {
    map: Map,
    /// Random: no record of another file fits.
    seed: u32,
    /// How many there are.
    count: u32,
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    /// Given back, the last one on top: a page that was touched is used again before another one is.
    free: Vec<u32>,
    /// From here on none was ever taken.
    fresh: u32,
}

/// A block and how much of it is used. Given back by [`Blocks::give`]; one that is dropped is lost to the file.
#[derive(Debug)]
pub struct Block {
    number: u32,
    used: usize,
}

/// What of an event a record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portion {
    /// All of it.
    Whole,
    /// Its beginning.
    First,
    /// Neither its beginning nor its end.
    Middle,
    /// Its end.
    Last,
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// What of the event it has.
    pub portion: Portion,
    /// The event's number in its stream.
    pub sequence: u64,
    /// Where the next record of the block begins.
    pub next: usize,
}

/// A record is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

impl Portion {
    /// By whether the event begins and ends with it.
    pub fn of(begins: bool, ends: bool) -> Self {
        match (begins, ends) {
            (true, true) => Self::Whole,
            (true, false) => Self::First,
            (false, false) => Self::Middle,
            (false, true) => Self::Last,
        }
    }

    /// Whether the event begins with it.
    pub fn begins(self) -> bool {
        matches!(self, Self::Whole | Self::First)
    }

    /// Whether the event ends with it.
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

impl Block {
    fn into_number(self) -> u32 {
        self.number
    }

    /// How many bytes of an event still fit.
    pub fn room(&self) -> usize {
        (BLOCK_BYTES - self.used).saturating_sub(RECORD_HEADER_BYTES)
    }

    /// Where the next record will begin.
    pub fn used(&self) -> usize {
        self.used
    }
}

impl Blocks {
    /// So many bytes, rounded down to whole blocks, in a folder that is made when it is not there.
    ///
    /// # Errors
    /// The folder or the file cannot be made, mostly for want of room on the disk.
    pub fn create(folder: &Path, bytes: usize) -> Result<Self, JournalError> {
        let io = |error: io::Error| JournalError::io(&folder.join("events"), &error);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(io)?;
        sweep(folder).map_err(io)?;
        let count = u32::try_from(bytes / BLOCK_BYTES).unwrap_or(u32::MAX);
        if count == 0 {
            return Err(JournalError::Config("its bytes are less than a block"));
        }
        let random = random()?;
        let path = folder.join(format!("{random:016x}.{EXTENSION}"));
        let map = Map::create(&path, count as usize * BLOCK_BYTES);
        let map = map.map_err(|error| JournalError::io(&path, &error))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(JournalError::io(&path, &error));
            }
            _ => {}
        }
        let seed = crc32fast::hash(&random.to_le_bytes());
        Ok(Self { map, seed, count, room: Mutex::default() })
    }

    /// A block with nothing in it; `None` when all are taken.
    pub fn take(&self) -> Option<Block> {
        let mut room = self.room();
        let number = room.free.pop().or_else(|| {
            let fresh = room.fresh;
            room.fresh = (fresh + 1).min(self.count);
            (fresh < self.count).then_some(fresh)
        });
        number.map(|number| Block { number, used: 0 })
    }

    /// Gives a block back.
    pub fn give(&self, block: Block) {
        self.room().free.push(block.into_number());
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        let room = self.room();
        room.fresh as usize - room.free.len()
    }

    /// Writes a record behind the others of the block: as much of the bytes as fits, and how much that was.
    pub fn write(&self, block: &mut Block, sequence: u64, bytes: &[u8], begins: bool, ends: bool) -> usize {
        let payload = &bytes[..bytes.len().min(block.room())];
        let portion = Portion::of(begins, ends && payload.len() == bytes.len());
        let at = block.number as usize * BLOCK_BYTES + block.used;
        let words = RecordHeader::new(self.seed, portion.kind(), sequence, payload).words();
        for (index, word) in words.into_iter().enumerate() {
            self.map.store(at + index * WORD, word);
        }
        self.map.write(at + RECORD_HEADER_BYTES, payload);
        block.used += RecordHeader::record_bytes(payload.len());
        payload.len()
    }

    /// Reads the record of the block that begins `at`, and adds its bytes to `into`, which stays as it was when that fails.
    pub fn read(&self, block: &Block, at: usize, into: &mut Vec<u8>) -> Result<Found, Damaged> {
        let start = block.number as usize * BLOCK_BYTES + at;
        if at + RECORD_HEADER_BYTES > block.used {
            return Err(Damaged);
        }
        let header: RecordHeader = bytemuck::cast([0, 1, 2].map(|index| self.map.load(start + index * WORD)));
        let length = header.length as usize;
        let portion = Portion::of_kind(header.kind).ok_or(Damaged)?;
        if length > BLOCK_BYTES || at + RecordHeader::record_bytes(length) > block.used {
            return Err(Damaged);
        }
        let before = into.len();
        self.map.read(start + RECORD_HEADER_BYTES, length, into);
        if header.magic != RecordHeader::MAGIC || header.checksum(self.seed, &into[before..]) != header.crc {
            into.truncate(before);
            return Err(Damaged);
        }
        Ok(Found { portion, sequence: header.sequence, next: at + RecordHeader::record_bytes(length) })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Every change is one operation, so a poisoned lock guards a whole value.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const EXTENSION: &str = "events";

/// A process that was killed between the making of its file and the taking of its name left it behind. One that another
/// process is about to map stays mapped without its name, too.
fn sweep(folder: &Path) -> io::Result<()> {
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

    fn blocks(bytes: usize) -> (Folder, Blocks) {
        let folder = Folder::new();
        let blocks = Blocks::create(&folder.path().join("streams"), bytes).unwrap();
        (folder, blocks)
    }

    /// Writes an event over as many blocks as it takes and reads it back.
    #[track_caller]
    fn check(bytes: usize, records: usize) {
        let (_folder, store) = blocks(16 * BLOCK_BYTES);
        let event: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut blocks = vec![store.take().unwrap()];
        let mut rest = &event[..];
        let mut begins = true;
        loop {
            let block = blocks.last_mut().unwrap();
            rest = &rest[store.write(block, 7, rest, begins, true)..];
            begins = false;
            if rest.is_empty() {
                break;
            }
            blocks.push(store.take().unwrap());
        }
        let mut read = Vec::new();
        let found: Vec<_> = blocks.iter().map(|block| store.read(block, 0, &mut read).unwrap()).collect();
        assert_eq!((read, found.len()), (event, records));
        assert!(found.iter().all(|found| found.sequence == 7));
        assert!(found[0].portion.begins() && found[records - 1].portion.ends());
        assert_eq!(found.iter().filter(|found| found.portion.ends()).count(), 1);
        for block in blocks {
            store.give(block);
        }
        assert_eq!(store.taken(), 0);
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
    fn there_are_so_many_and_no_more() {
        let (folder, store) = blocks(3 * BLOCK_BYTES + 1);
        let taken: Vec<_> = std::iter::from_fn(|| store.take()).collect();
        assert_eq!((taken.len(), store.taken()), (3, 3));
        for block in taken {
            store.give(block);
        }
        assert!(store.take().is_some());
        // Nothing has a name.
        assert_eq!(fs::read_dir(folder.path().join("streams")).unwrap().count(), 0);
        assert!(matches!(Blocks::create(folder.path(), 10), Err(JournalError::Config(_))));
    }

    #[test]
    fn what_was_left_behind_is_swept_away() {
        let folder = Folder::new();
        fs::write(folder.path().join("0123.events"), b"secret").unwrap();
        fs::write(folder.path().join("other"), b"").unwrap();
        let _store = Blocks::create(folder.path(), BLOCK_BYTES).unwrap();
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["other"]);
    }

    /// Every bit of a record that is turned is noticed, and so is a block that has another's records.
    #[test]
    fn damage_is_noticed() {
        let (_folder, store) = blocks(2 * BLOCK_BYTES);
        let mut block = store.take().unwrap();
        store.write(&mut block, 1, b"some bytes", true, true);
        for bit in 0..block.used * 8 {
            let (at, mask) = (bit / 64 * 8, 1 << (bit % 64));
            store.map.store(at, store.map.load(at) ^ mask);
            let mut into = Vec::from(*b"before");
            // The bytes that fill up the last word are zero, whatever is stored there.
            let is_padding = bit >= 8 * (RECORD_HEADER_BYTES + 10);
            let read = store.read(&block, 0, &mut into);
            assert!(is_padding || (read == Err(Damaged) && into == b"before"), "bit {bit}");
            store.map.store(at, store.map.load(at) ^ mask);
        }
        assert!(store.read(&block, 0, &mut Vec::new()).is_ok());
        assert_eq!(store.read(&block, block.used, &mut Vec::new()), Err(Damaged));
        assert_eq!(store.read(&store.take().unwrap(), 0, &mut Vec::new()), Err(Damaged));
    }
}
