//! Scans the bytes of a segment: the records before the first fault, and what the fault is.

use std::fmt;
use std::ops::Range;

use super::header::{RECORD_HEADER_BYTES, RecordHeader, SEAL, VERSION};

/// What the opening of a journal found on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that can be read.
    pub records: u64,
    pub segments: u64,
    /// Files that cannot be used. They stay on disk and do not count against the byte limit.
    pub files_dropped: u64,
    /// Bytes behind the first fault of each segment, including all bytes of dropped files.
    pub bytes_skipped: u64,
    /// The faults, at most `DAMAGE_MAX` of them. Empty after an orderly exit, and usually after a kill.
    pub damage: Vec<Damage>,
}

/// A fault in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file's name in the journal's folder.
    pub file: String,
    pub kind: DamageKind,
    /// Bytes that are not used because of it.
    pub bytes_skipped: u64,
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// The process died during an append. The record was never acknowledged, so nothing is lost.
    Unfinished,
    /// The bytes of a record do not match its CRC.
    Torn,
    /// Zeros in place of records, with more records behind them.
    Zeroed,
    /// The file is shorter than when it was created.
    Truncated,
    /// A record or file written by a later version of this program.
    FutureVersion,
    /// The file is a copy of another segment of this journal.
    Duplicate,
    /// The file belongs to another journal.
    Foreign,
    /// The header of the file is damaged.
    Header,
    /// The operating system cannot read the file.
    Unreadable,
}

/// Faults listed in full. More are only counted, since more lines of the same kind are of no use.
pub const DAMAGE_MAX: usize = 64;

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DamageKind::Unfinished => "ends in a record that was not finished; nothing is lost",
            DamageKind::Torn => "has a damaged record; what follows it in this file is lost",
            DamageKind::Zeroed => "has zeros where records were; what follows in this file is lost",
            DamageKind::Truncated => "is shorter than it was made; what stood behind is lost",
            DamageKind::FutureVersion => "was written by a later version; start that version to use it",
            DamageKind::Duplicate => "is a copy of another segment; remove it",
            DamageKind::Foreign => "belongs to another journal; remove it, or put it back there",
            DamageKind::Header => "has a damaged header; nothing in it can be used, remove it",
            DamageKind::Unreadable => "cannot be read; check the disk",
        };
        write!(f, "{} {what} ({} bytes skipped)", self.file, self.bytes_skipped)
    }
}

impl Recovery {
    pub(super) fn report(&mut self, file: &str, kind: DamageKind, bytes_skipped: u64) {
        self.bytes_skipped += bytes_skipped;
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(Damage { file: file.to_owned(), kind, bytes_skipped });
        }
    }

    pub(super) fn drop_file(&mut self, file: &str, kind: DamageKind, bytes: u64) {
        self.files_dropped += 1;
        self.report(file, kind, bytes);
    }
}

/// The result of scanning a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    pub records: Vec<ScannedRecord>,
    /// The offset behind the last good record.
    pub end: usize,
    pub end_reason: ScanEnd,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScannedRecord {
    pub sequence: u64,
    pub kind: u8,
    /// The offset of the record.
    pub at: usize,
    pub payload: Range<usize>,
}

/// Why the scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanEnd {
    /// Only zeros follow, to the end of the file.
    End,
    /// A seal record follows: the segment was truncated to its contents.
    Sealed,
    Damaged(DamageKind),
}

/// Reads records from the offset `start`, at which a record begins. `is_complete`: the bytes reach to the
/// original end of the file.
pub(super) fn scan(bytes: &[u8], seed: u32, start: usize, is_complete: bool) -> Scan {
    let mut scan = Scan { records: Vec::new(), end: start, end_reason: ScanEnd::End };
    let mut expected = None;
    // Each iteration advances by at least a header.
    loop {
        match read_record(bytes, seed, scan.end, is_complete) {
            Ok(found) if found.kind == SEAL => {
                scan.end_reason = ScanEnd::Sealed;
                return scan;
            }
            Ok(found) if expected.is_none_or(|expected| expected == found.sequence) => {
                expected = found.sequence.checked_add(1);
                scan.end = found.at + RecordHeader::record_bytes(found.payload.len());
                scan.records.push(found);
            }
            Ok(_) => {
                scan.end_reason = ScanEnd::Damaged(DamageKind::Torn);
                return scan;
            }
            Err(end_reason) => {
                scan.end_reason = end_reason;
                return scan;
            }
        }
    }
}

fn read_record(bytes: &[u8], seed: u32, at: usize, is_complete: bool) -> Result<ScannedRecord, ScanEnd> {
    let cut = if is_complete { DamageKind::Torn } else { DamageKind::Truncated };
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(header) = read_header(rest) else {
        let zeros = rest.iter().all(|byte| *byte == 0);
        return Err(if is_complete && zeros { ScanEnd::End } else { ScanEnd::Damaged(cut) });
    };
    if header.to_words()[0] == 0 {
        return Err(match (rest.iter().all(|byte| *byte == 0), has_later_record(rest)) {
            (true, _) if is_complete => ScanEnd::End,
            (true, _) => ScanEnd::Damaged(DamageKind::Truncated),
            (false, true) => ScanEnd::Damaged(DamageKind::Zeroed),
            (false, false) => ScanEnd::Damaged(DamageKind::Unfinished),
        });
    }
    if header.magic != RecordHeader::MAGIC {
        return Err(ScanEnd::Damaged(DamageKind::Torn));
    }
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let payload = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES.saturating_add(length);
    // The padding is covered by the CRC: it must be read, not assumed to be zero.
    let padded = rest.get(payload.start..payload.end.checked_next_multiple_of(8).unwrap_or(usize::MAX));
    let Some(padded) = padded else { return Err(ScanEnd::Damaged(cut)) };
    let (content, fill) = padded.split_at(length);
    if header.checksum(seed, content) != header.crc || fill.iter().any(|byte| *byte != 0) {
        let torn =
            if has_zero_sector(bytes, at, at + payload.end) { DamageKind::Zeroed } else { DamageKind::Torn };
        return Err(ScanEnd::Damaged(torn));
    }
    if header.version != VERSION {
        return Err(ScanEnd::Damaged(DamageKind::FutureVersion));
    }
    let payload = at + payload.start..at + payload.end;
    Ok(ScannedRecord { sequence: header.sequence, kind: header.kind, at, payload })
}

fn read_header(bytes: &[u8]) -> Option<RecordHeader> {
    bytes.get(..RECORD_HEADER_BYTES).map(bytemuck::pod_read_unaligned)
}

/// Whether something that looks like a record follows the zeros. This only selects the name of the fault, so
/// the CRC is not checked: over hostile bytes that could take forever.
fn has_later_record(rest: &[u8]) -> bool {
    let looks = |at: usize| {
        read_header(&rest[at..]).is_some_and(|header| {
            header.magic == RecordHeader::MAGIC
                && header.version == VERSION
                && usize::try_from(header.length).is_ok_and(|length| length <= rest.len() - at)
        })
    };
    (0..rest.len()).step_by(8).any(looks)
}

/// Whether a whole sector within the record is zeros. This, too, only selects the name of the fault.
fn has_zero_sector(bytes: &[u8], from: usize, to: usize) -> bool {
    /// What a disk writes atomically.
    const SECTOR: usize = 512;
    let sector = |at: usize| bytes.get(at..at + SECTOR);
    let mut sectors = (from.next_multiple_of(SECTOR)..to).step_by(SECTOR).filter_map(sector);
    sectors.any(|sector| sector.iter().all(|byte| *byte == 0))
}
