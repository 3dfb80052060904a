//! One file of records: mapped while it is written, read as a file when it was recovered.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use super::error::JournalError;
use super::folder::{self, Folder, NumberedFile};
use super::header::{FILE_HEADER_BYTES, FileHeader, HeaderError, RECORD_HEADER_BYTES, RecordHeader, SEAL};
use super::map::{MappedFile, WORD, crash_point};
use super::record::Sequence;
use super::recovery::{DamageKind, Recovery, Scan, ScanEnd, scan};

/// One segment of a journal.
///
/// Invariant: `FILE_HEADER_BYTES <= synced <= end <= disk_bytes`. `first..=last` are its records; it has none when
/// `last < first`.
pub(super) struct Segment {
    pub file: NumberedFile,
    pub source: u128,
    /// Disk space, counted against the limit of the journal.
    pub disk_bytes: u64,
    pub first: u64,
    pub last: u64,
    seed: u32,
    map: Option<MappedFile>,
    end: usize,
    synced: usize,
}

/// The largest payload of a record in a segment of this size.
pub(super) fn payload_max(segment_bytes: usize) -> usize {
    segment_bytes - FILE_HEADER_BYTES - RECORD_HEADER_BYTES
}

impl Segment {
    /// Creates an empty segment with reserved blocks.
    pub fn create(folder: &mut Folder, incarnation: u64, bytes: usize) -> Result<Self, JournalError> {
        let file = folder.next_file(folder::SEGMENT);
        let path = folder.join(&file.name);
        let map = MappedFile::create(&path, bytes).map_err(|error| JournalError::io(&path, &error))?;
        let (kind, directory) = (FileHeader::SEGMENT, folder.directory());
        let header = FileHeader::new(kind, directory, incarnation, file.number, bytes as u64, 0);
        map.write(0, bytemuck::bytes_of(&header));
        Ok(Self {
            file,
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

    /// Appends a record. `false` when there is no room. Neither allocates nor makes a system call.
    #[inline]
    pub fn append(&mut self, kind: u8, sequence: u64, payload: &[u8]) -> bool {
        let Some(map) = &self.map else { return false };
        let bytes = RecordHeader::record_bytes(payload.len());
        if bytes > map.len() - self.end {
            return false;
        }
        let words = RecordHeader::new(self.seed, kind, sequence, payload).to_words();
        map.write(self.end + RECORD_HEADER_BYTES, payload);
        map.store(self.end + 2 * WORD, words[2]);
        map.store(self.end + WORD, words[1]);
        // This store completes the record: a reader stops at a first word of zero.
        map.publish(self.end, words[0]);
        // Nothing that the caller stores next may become visible before the record.
        fence(Ordering::SeqCst);
        self.end += bytes;
        if self.last < self.first {
            self.first = sequence;
        }
        self.last = sequence;
        true
    }

    /// Waits until all records are on disk.
    pub fn sync(&mut self, folder: &Folder) -> Result<(), JournalError> {
        if let Some(map) = self.map.as_ref().filter(|_| self.synced < self.end) {
            // The file header is written with the first records.
            let from = if self.synced == FILE_HEADER_BYTES { 0 } else { self.synced };
            let synced = map.sync(from..self.end);
            synced.map_err(|error| JournalError::io(&folder.join(&self.file.name), &error))?;
            self.synced = self.end;
        }
        Ok(())
    }

    /// Reads the records from number `from` on: the bytes, and the scan of them.
    pub fn load(&self, folder: &Folder, from: u64) -> Result<(Vec<u8>, Scan), JournalError> {
        let (bytes, start) = if let Some(map) = &self.map {
            (map.copy(self.offset(map, from)..self.end), 0)
        } else {
            let path = folder.join(&self.file.name);
            let mut read = read_bounded(&path).map_err(|error| JournalError::io(&path, &error))?;
            read.truncate(self.end);
            (read, FILE_HEADER_BYTES)
        };
        let mut scan = scan(&bytes, self.seed, start, true);
        if scan.records.last().is_none_or(|found| found.sequence != self.last) {
            let path = folder.join(&self.file.name);
            return Err(JournalError::Damaged { path, last: Sequence(self.last) });
        }
        scan.records.retain(|found| found.sequence >= from);
        Ok((bytes, scan))
    }

    fn offset(&self, map: &MappedFile, from: u64) -> usize {
        let mut at = FILE_HEADER_BYTES;
        // Each iteration advances by at least a header.
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

/// Recovers the file of an earlier process: a segment, or nothing of use. Reports faults.
pub(super) fn recover(
    folder: &Folder,
    file: NumberedFile,
    recovery: &mut Recovery,
) -> Result<Option<Segment>, JournalError> {
    let path = folder.join(&file.name);
    let Ok(bytes) = read_bounded(&path) else {
        recovery.drop_file(&file.name, DamageKind::Unreadable, 0);
        return Ok(None);
    };
    let size = bytes.len() as u64;
    let header = match FileHeader::read(&bytes, FileHeader::SEGMENT) {
        Ok(header) => header,
        Err(_) if is_unused(&bytes) => {
            // The process died during creation: the header is written before any record.
            folder.remove(&file.name)?;
            return Ok(None);
        }
        Err(why) => {
            let future = why == HeaderError::FutureVersion;
            let kind = if future { DamageKind::FutureVersion } else { DamageKind::Header };
            recovery.drop_file(&file.name, kind, size);
            return Ok(None);
        }
    };
    if header.directory != folder.directory() || header.number != file.number {
        let foreign = header.directory != folder.directory();
        let kind = if foreign { DamageKind::Foreign } else { DamageKind::Duplicate };
        recovery.drop_file(&file.name, kind, size);
        return Ok(None);
    }
    let scan = scan(&bytes, header.crc, FILE_HEADER_BYTES, size >= header.bytes);
    from_scan(folder, file, &header, size, &scan, recovery)
}

/// Whether a file has no header yet, because the process died during its creation: empty, or full length without records.
pub(super) fn is_unused(bytes: &[u8]) -> bool {
    let records = bytes.get(FILE_HEADER_BYTES..).filter(|records| !records.is_empty());
    bytes.is_empty() || records.is_some_and(|records| records.iter().all(|byte| *byte == 0))
}

fn from_scan(
    folder: &Folder,
    file: NumberedFile,
    header: &FileHeader,
    size: u64,
    scan: &Scan,
    recovery: &mut Recovery,
) -> Result<Option<Segment>, JournalError> {
    let skipped = size.saturating_sub(scan.end as u64);
    let (Some(first), Some(last)) = (scan.records.first(), scan.records.last()) else {
        match scan.end_reason {
            ScanEnd::End | ScanEnd::Sealed | ScanEnd::Damaged(DamageKind::Unfinished) => {
                folder.remove(&file.name)?;
            }
            ScanEnd::Damaged(kind) => recovery.drop_file(&file.name, kind, skipped),
        }
        return Ok(None);
    };
    let mut disk_bytes = size;
    match scan.end_reason {
        ScanEnd::Damaged(kind) if kind != DamageKind::Unfinished => {
            recovery.report(&file.name, kind, skipped);
        }
        stop => {
            if let ScanEnd::Damaged(kind) = stop {
                recovery.report(&file.name, kind, skipped);
            }
            // Saves disk space. If it fails, the segment keeps its full size.
            if let Ok(sealed) = seal(&folder.join(&file.name), header.crc, scan.end, last.sequence) {
                disk_bytes = sealed;
            }
        }
    }
    recovery.segments += 1;
    recovery.records += scan.records.len() as u64;
    let (first, last) = (first.sequence, last.sequence);
    let (source, seed, end) = (source(header), header.crc, scan.end);
    Ok(Some(Segment { file, source, disk_bytes, first, last, seed, map: None, end, synced: end }))
}

/// Truncates a segment to its contents, followed by a seal record. Returns its new size.
fn seal(path: &Path, seed: u32, end: usize, sequence: u64) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let header = RecordHeader::new(seed, SEAL, sequence, &[]);
    crash_point();
    file.write_all_at(bytemuck::bytes_of(&header), end as u64)?;
    let size = (end + RECORD_HEADER_BYTES) as u64;
    crash_point();
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

/// The default size of a segment. Large enough that a new file is rare at a few KiB a second, and small enough that a
/// backlog is released in small steps and that reading a whole segment into memory does not matter.
pub const SEGMENT_BYTES: usize = 4 << 20;

/// A longer segment is not read: this program did not write it.
pub const SEGMENT_BYTES_MAX: usize = 64 << 20;

/// The smallest segment: one page, below which no disk saves anything.
pub const SEGMENT_BYTES_MIN: usize = 4096;

const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES && SEGMENT_BYTES <= SEGMENT_BYTES_MAX);
