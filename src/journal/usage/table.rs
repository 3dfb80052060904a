//! The counters of one worker in a mapped file: a header, then slots of 512 bytes. A slot is a sector, so that
//! a loss of power finds it whole, and has on lines of their own what the worker and what the flusher writes.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::OTHER;
use super::count::{Count, WORDS};
use crate::journal::folder::{self, Folder, Named, random};
use crate::journal::header::{FileHeader, NotOurs};
use crate::journal::map::{Map, WORD};
use crate::journal::segment::{is_unused, read_bounded};
use crate::journal::{DamageKind, JournalError, Recovery};

/// Invariant: the slots' counters and names are written by the worker that has taken the table, `base` by the
/// outbox; before there are workers, by whoever opens it.
pub(super) struct Table {
    map: Map,
    named: Named,
    id: u64,
    slots: usize,
    taken: AtomicBool,
    /// How often `base` was moved: before that no slot can become free.
    settled: AtomicU64,
    _lock: Arc<File>,
}

/// Key, server and tool, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    text: Box<str>,
    /// Where the key ends, and where the server does.
    ends: [usize; 2],
}

/// A key id is 12 characters; some other principal may be a little longer.
pub(super) const KEY_BYTES_MAX: usize = 32;
/// As of [`crate::base::ServerName`].
pub(super) const SERVER_BYTES_MAX: usize = 64;
/// MCP's limit is 128 characters; not all of them need be ASCII.
pub(super) const TOOL_BYTES_MAX: usize = 256;

/// The slot for all that has none of its own.
pub(super) const OTHER_SLOT: usize = 0;

const SLOT_BYTES: usize = 512;
const LIVE: usize = 0;
const BASE: usize = 64;
/// Odd while the names are written.
const VERSION: usize = 128;
/// The lengths of the names (8, 8 and 16 bits) and a CRC over them and the names.
const LENGTHS: usize = 136;
const TEXT: usize = 144;

const _: () = assert!(TEXT + KEY_BYTES_MAX + SERVER_BYTES_MAX + TOOL_BYTES_MAX <= SLOT_BYTES);
const _: () = assert!(LIVE + WORDS * WORD <= BASE && BASE + WORDS * WORD <= VERSION);

impl Table {
    pub fn create(folder: &mut Folder, lock: &Arc<File>, slots: usize) -> Result<Self, JournalError> {
        let (named, id) = (folder.next(folder::TABLE), random()?);
        let (path, bytes) = (folder.join(&named.name), SLOT_BYTES * (1 + slots));
        let map = Map::create(&path, bytes).map_err(|error| JournalError::io(&path, &error))?;
        let (bytes, slot_count) = (bytes as u64, slots as u64);
        let header =
            FileHeader::new(FileHeader::TABLE, folder.directory(), id, named.number, bytes, slot_count);
        map.write(0, bytemuck::bytes_of(&header));
        Ok(Self::new(map, named, id, slots, lock))
    }

    fn new(map: Map, named: Named, id: u64, slots: usize, lock: &Arc<File>) -> Self {
        let (taken, settled) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { map, named, id, slots, taken, settled, _lock: Arc::clone(lock) }
    }

    /// What earlier processes left, oldest first.
    pub fn recover_all(
        folder: &Folder,
        lock: &Arc<File>,
        recovery: &mut Recovery,
    ) -> Result<Vec<Self>, JournalError> {
        let mut tables = Vec::new();
        for named in folder.list(folder::TABLE)? {
            tables.extend(Self::recover(folder, named, lock, recovery)?);
        }
        Ok(tables)
    }

    fn recover(
        folder: &Folder,
        named: Named,
        lock: &Arc<File>,
        recovery: &mut Recovery,
    ) -> Result<Option<Self>, JournalError> {
        let path = folder.join(&named.name);
        let Ok(bytes) = read_bounded(&path) else {
            recovery.drop_file(&named.name, DamageKind::Unreadable, 0);
            return Ok(None);
        };
        let size = bytes.len() as u64;
        let kind = match FileHeader::read(&bytes, FileHeader::TABLE) {
            Err(_) if is_unused(&bytes) => {
                folder.remove(&named.name)?;
                return Ok(None);
            }
            Err(NotOurs::FutureVersion) => DamageKind::FutureVersion,
            Err(NotOurs::Broken) => DamageKind::Header,
            Ok(header) if header.directory != folder.directory() => DamageKind::Foreign,
            Ok(header) if header.number != named.number => DamageKind::Duplicate,
            Ok(header) if header.bytes != size => DamageKind::Truncated,
            Ok(header) => {
                let slots = usize::try_from(header.slots).unwrap_or(0);
                let bytes = SLOT_BYTES.saturating_mul(slots.saturating_add(1));
                match Map::open(&path, bytes) {
                    Ok(map) => return Ok(Some(Self::new(map, named, header.incarnation, slots, lock))),
                    Err(_) => DamageKind::Unreadable,
                }
            }
        };
        recovery.drop_file(&named.name, kind, size);
        Ok(None)
    }

    /// Brings the counters to the invariant, from what the journal has of them; finishes what was begun.
    pub fn settle(&self, journaled: &[Count]) {
        for (slot, journaled) in journaled.iter().enumerate() {
            let version = self.version(slot);
            if !version.is_multiple_of(2) {
                self.map.publish(at(slot) + VERSION, version.wrapping_add(1));
            }
            self.put(slot, LIVE, self.live(slot).max(*journaled));
            self.put(slot, BASE, *journaled);
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// False when a worker has it already.
    pub fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::Acquire)
    }

    pub fn give_back(&self) {
        self.taken.store(false, Ordering::Release);
    }

    /// What was added so far.
    pub fn live(&self, slot: usize) -> Count {
        self.count(slot, LIVE)
    }

    /// What of it certainly is, or was, in a record.
    pub fn base(&self, slot: usize) -> Count {
        self.count(slot, BASE)
    }

    pub fn bases(&self) -> Vec<Count> {
        (0..self.slots).map(|slot| self.base(slot)).collect()
    }

    /// For the outbox, once the record is on disk.
    pub fn set_base(&self, slot: usize, base: Count) {
        self.put(slot, BASE, base);
    }

    pub fn note_settled(&self) {
        self.settled.fetch_add(1, Ordering::Release);
    }

    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// For the worker that has the table. Plain stores: nobody else writes these words.
    #[inline]
    pub fn add(&self, slot: usize, count: Count) {
        self.map.add(at(slot) + LIVE, count.words());
    }

    /// Gives a slot its names. For the worker that has the table, while `live == base`.
    pub fn occupy(&self, slot: usize, names: &Names) {
        let (at, version) = (at(slot), self.version(slot));
        self.map.store(at + VERSION, version | 1);
        // Who sees what follows sees the odd version.
        fence(Ordering::SeqCst);
        self.map.write(at + TEXT, names.text.as_bytes());
        self.map.store(at + LENGTHS, names.packed());
        self.map.publish(at + VERSION, (version | 1).wrapping_add(1));
        // No count reaches the slot before its names.
        fence(Ordering::SeqCst);
    }

    /// Changes whenever the names do; odd while they do.
    pub fn version(&self, slot: usize) -> u64 {
        self.map.load_acquire(at(slot) + VERSION)
    }

    /// None when the slot has none, or damaged ones.
    pub fn names(&self, slot: usize) -> Option<Names> {
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
        let names = Names { text, ends: [lengths[0], lengths[0] + lengths[1]] };
        let whole = names.ends.iter().all(|end| names.text.is_char_boundary(*end));
        (whole && names.packed() == packed).then_some(names)
    }

    /// Waits until the disk has the counters.
    pub fn sync(&self, folder: &Folder) -> Result<(), JournalError> {
        let synced = self.map.sync(0..self.map.len());
        synced.map_err(|error| JournalError::io(&folder.join(&self.named.name), &error))
    }

    fn count(&self, slot: usize, part: usize) -> Count {
        Count::from_words(std::array::from_fn(|word| self.map.load(at(slot) + part + word * WORD)))
    }

    fn put(&self, slot: usize, part: usize, count: Count) {
        if self.count(slot, part) != count {
            for (word, value) in count.words().into_iter().enumerate() {
                self.map.store(at(slot) + part + word * WORD, value);
            }
        }
    }
}

fn at(slot: usize) -> usize {
    SLOT_BYTES * (1 + slot)
}

impl Names {
    pub fn new(key: &str, server: &str, tool: &str) -> Self {
        let text = [key, server, tool].concat().into();
        Self { text, ends: [key.len(), key.len() + server.len()] }
    }

    pub fn other() -> Self {
        Self::new(OTHER, OTHER, OTHER)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Key, server, tool.
    pub fn parts(&self) -> [&str; 3] {
        let [key, server] = self.ends;
        [&self.text[..key], &self.text[key..server], &self.text[server..]]
    }

    pub fn lengths(&self) -> [u16; 3] {
        // They are bounded by what a slot holds.
        self.parts().map(|part| u16::try_from(part.len()).unwrap_or(u16::MAX))
    }

    fn packed(&self) -> u64 {
        let [key, server, tool] = self.lengths().map(u64::from);
        let lengths = key & 0xff | (server & 0xff) << 8 | tool << 16;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&lengths.to_le_bytes());
        hasher.update(self.text.as_bytes());
        lengths | u64::from(hasher.finalize()) << 32
    }
}
