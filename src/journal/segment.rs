//! One file of records: mapped while it is written, read as a file once it was found.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use super::folder::{self, Folder, Named};
use super::header::{FILE_HEADER_BYTES, FileHeader, NotOurs, RECORD_HEADER_BYTES, RecordHeader, SEAL};
use super::map::{Map, WORD, step};
use super::recovery::{DamageKind, Recovery, Scan, Stop, scan};
use super::{JournalError, SEGMENT_BYTES_MAX, Sequence};

/// Invariant: `FILE_HEADER_BYTES <= synced <= end <= disk_bytes`; `first..=last` are its records, and it has
/// none when `last < first`.
pub(super) struct Segment {
    pub named: Named,
    pub source: u128,
    /// What it takes of the journal's bytes.
    pub disk_bytes: u64,
    pub first: u64,
    pub last: u64,
    seed: u32,
    map: Option<Map>,
    end: usize,
    synced: usize,
}

/// The most that a record's payload may have in a segment of that size.
pub(super) fn payload_max(segment_bytes: usize) -> usize {
    segment_bytes - FILE_HEADER_BYTES - RECORD_HEADER_BYTES
}

impl Segment {
    /// An empty one, its blocks reserved.
    pub fn create(folder: &mut Folder, incarnation: u64, bytes: usize) -> Result<Self, JournalError> {
        let named = folder.next(folder::SEGMENT);
        let path = folder.join(&named.name);
        let map = Map::create(&path, bytes).map_err(|error| JournalError::io(&path, &error))?;
        let (kind, directory) = (FileHeader::SEGMENT, folder.directory());
        let header = FileHeader::new(kind, directory, incarnation, named.number, bytes as u64, 0);
        map.write(0, bytemuck::bytes_of(&header));
        Ok(Self {
            named,
            source: source(&header),
            disk_bytes: bytes as u64,
            first: 1,
            last: 0,
            seed: header.crc,
            map: Some(map),
            end: FILE_HEADER_BYTES,
            synced: FILE_HEADER_BYTES,
        })
    }

    /// False when there is no room. No allocation, no system call.
    #[inline]
    pub fn append(&mut self, kind: u8, sequence: u64, payload: &[u8]) -> bool {
        let Some(map) = &self.map else { return false };
        let bytes = RecordHeader::record_bytes(payload.len());
        if bytes > map.len() - self.end {
            return false;
        }
        let words = RecordHeader::new(self.seed, kind, sequence, payload).words();
        map.write(self.end + RECORD_HEADER_BYTES, payload);
        map.store(self.end + 2 * WORD, words[2]);
        map.store(self.end + WORD, words[1]);
        // From here on the record is there: a reader stops at a first word of zero.
        map.publish(self.end, words[0]);
        // What the caller stores next must not come before it.
        fence(Ordering::SeqCst);
        self.end += bytes;
        if self.last < self.first {
            self.first = sequence;
        }
        self.last = sequence;
        true
    }

    /// Waits until the disk has all records.
    pub fn sync(&mut self, folder: &Folder) -> Result<(), JournalError> {
        if let Some(map) = self.map.as_ref().filter(|_| self.synced < self.end) {
            // The header goes with the first records.
            let from = if self.synced == FILE_HEADER_BYTES { 0 } else { self.synced };
            let synced = map.sync(from..self.end);
            synced.map_err(|error| JournalError::io(&folder.join(&self.named.name), &error))?;
            self.synced = self.end;
        }
        Ok(())
    }

    /// The bytes from the record `from`, or the first behind it, and what is in them.
    pub fn load(&self, folder: &Folder, from: u64) -> Result<(Vec<u8>, Scan), JournalError> {
        let (bytes, start) = if let Some(map) = &self.map {
            (map.copy(self.offset(map, from)..self.end), 0)
        } else {
            let path = folder.join(&self.named.name);
            let mut read = read_bounded(&path).map_err(|error| JournalError::io(&path, &error))?;
            read.truncate(self.end);
            (read, FILE_HEADER_BYTES)
        };
        let mut scan = scan(&bytes, self.seed, start, true);
        if scan.records.last().is_none_or(|found| found.sequence != self.last) {
            let path = folder.join(&self.named.name);
            return Err(JournalError::Damaged { path, last: Sequence(self.last) });
        }
        scan.records.retain(|found| found.sequence >= from);
        Ok((bytes, scan))
    }

    fn offset(&self, map: &Map, from: u64) -> usize {
        let mut at = FILE_HEADER_BYTES;
        // Each turn moves on by a header at least.
        while at < self.end {
            let words = [map.load(at), map.load(at + WORD), map.load(at + 2 * WORD)];
            let header: RecordHeader = bytemuck::cast(words);
            if header.sequence >= from {
                break;
            }
            at += RecordHeader::record_bytes(usize::try_from(header.length).unwrap_or(usize::MAX / 2));
        }
        at.min(self.end)
    }
}

/// What an earlier process left in a file: a segment, or nothing of use. Notes what is wrong.
pub(super) fn recover(
    folder: &Folder,
    named: Named,
    recovery: &mut Recovery,
) -> Result<Option<Segment>, JournalError> {
    let path = folder.join(&named.name);
    let Ok(bytes) = read_bounded(&path) else {
        recovery.drop_file(&named.name, DamageKind::Unreadable, 0);
        return Ok(None);
    };
    let size = bytes.len() as u64;
    let header = match FileHeader::read(&bytes, FileHeader::SEGMENT) {
        Ok(header) => header,
        Err(_) if is_unused(&bytes) => {
            // Killed while it was made: the header comes before any record.
            folder.remove(&named.name)?;
            return Ok(None);
        }
        Err(why) => {
            let future = why == NotOurs::FutureVersion;
            let kind = if future { DamageKind::FutureVersion } else { DamageKind::Header };
            recovery.drop_file(&named.name, kind, size);
            return Ok(None);
        }
    };
    if header.directory != folder.directory() || header.number != named.number {
        let foreign = header.directory != folder.directory();
        let kind = if foreign { DamageKind::Foreign } else { DamageKind::Duplicate };
        recovery.drop_file(&named.name, kind, size);
        return Ok(None);
    }
    let scan = scan(&bytes, header.crc, FILE_HEADER_BYTES, size >= header.bytes);
    settle(folder, named, &header, size, &scan, recovery)
}

/// Killed between the making of the file and its header: empty, or its full length and no record.
pub(super) fn is_unused(bytes: &[u8]) -> bool {
    let records = bytes.get(FILE_HEADER_BYTES..).filter(|records| !records.is_empty());
    bytes.is_empty() || records.is_some_and(|records| records.iter().all(|byte| *byte == 0))
}

fn settle(
    folder: &Folder,
    named: Named,
    header: &FileHeader,
    size: u64,
    scan: &Scan,
    recovery: &mut Recovery,
) -> Result<Option<Segment>, JournalError> {
    let skipped = size.saturating_sub(scan.end as u64);
    let (Some(first), Some(last)) = (scan.records.first(), scan.records.last()) else {
        match scan.stop {
            Stop::End | Stop::Sealed | Stop::Damaged(DamageKind::Unfinished) => folder.remove(&named.name)?,
            Stop::Damaged(kind) => recovery.drop_file(&named.name, kind, skipped),
        }
        return Ok(None);
    };
    let mut disk_bytes = size;
    match scan.stop {
        Stop::Damaged(kind) if kind != DamageKind::Unfinished => recovery.note(&named.name, kind, skipped),
        stop => {
            if let Stop::Damaged(kind) = stop {
                recovery.note(&named.name, kind, skipped);
            }
            // Only an economy: when it fails the segment takes its full size.
            if let Ok(sealed) = seal(&folder.join(&named.name), header.crc, scan.end, last.sequence) {
                disk_bytes = sealed;
            }
        }
    }
    recovery.segments += 1;
    recovery.records += scan.records.len() as u64;
    let (first, last) = (first.sequence, last.sequence);
    let (source, seed, end) = (source(header), header.crc, scan.end);
    Ok(Some(Segment { named, source, disk_bytes, first, last, seed, map: None, end, synced: end }))
}

/// Cuts a segment to what it holds, behind a record that says so. Gives its new size.
fn seal(path: &Path, seed: u32, end: usize, sequence: u64) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let header = RecordHeader::new(seed, SEAL, sequence, &[]);
    step();
    file.write_all_at(bytemuck::bytes_of(&header), end as u64)?;
    let size = (end + RECORD_HEADER_BYTES) as u64;
    step();
    file.set_len(size)?;
    Ok(size)
}

fn source(header: &FileHeader) -> u128 {
    u128::from(header.directory) << 64 | u128::from(header.incarnation)
}

pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SEGMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > SEGMENT_BYTES_MAX + RECORD_HEADER_BYTES {
        return Err(io::Error::other("it is longer than any segment"));
    }
    Ok(bytes)
}
