//! What is found in the bytes of a segment: the records before the first thing that is wrong, and what that is.

use std::fmt;
use std::ops::Range;

use super::header::{RECORD_HEADER_BYTES, RecordHeader, SEAL, VERSION};

/// What an opening of a journal found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that are there to be read.
    pub records: u64,
    /// Segments that hold them.
    pub segments: u64,
    /// Files of which nothing is used. They are left where they are and count for nothing.
    pub files_dropped: u64,
    /// Bytes behind the first thing that is wrong in a segment, all of a dropped file included.
    pub bytes_skipped: u64,
    /// What was wrong, at most `DAMAGE_MAX` entries; empty after an orderly end, and as a rule after a kill.
    pub damage: Vec<Damage>,
}

/// One file with something wrong in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its name in the journal's folder.
    pub file: String,
    /// What is wrong.
    pub kind: DamageKind,
    /// Bytes not used on its account.
    pub bytes_skipped: u64,
}

/// What may be wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// An append that the process did not live to finish: it was never acknowledged, nothing is lost.
    Unfinished,
    /// A record whose bytes do not fit its CRC.
    Torn,
    /// Zeros where records were, with more records behind them.
    Zeroed,
    /// The file is shorter than it was made.
    Truncated,
    /// A record or file written by a later version of this program.
    FutureVersion,
    /// A copy of another segment of this journal.
    Duplicate,
    /// A file of some other journal.
    Foreign,
    /// The header of the file is destroyed.
    Header,
    /// The system cannot read it.
    Unreadable,
}

/// Told in full; more are counted only. Nobody reads more lines of the same kind.
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
    pub(super) fn note(&mut self, file: &str, kind: DamageKind, bytes_skipped: u64) {
        self.bytes_skipped += bytes_skipped;
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(Damage { file: file.to_owned(), kind, bytes_skipped });
        }
    }

    pub(super) fn drop_file(&mut self, file: &str, kind: DamageKind, bytes: u64) {
        self.files_dropped += 1;
        self.note(file, kind, bytes);
    }
}

/// The records of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    pub records: Vec<Found>,
    /// Behind the last good record.
    pub end: usize,
    pub stop: Stop,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub sequence: u64,
    pub kind: u8,
    /// Where the record begins.
    pub at: usize,
    pub payload: Range<usize>,
}

/// Why there is no further record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Zeros to the end of the file.
    End,
    /// The segment was closed and cut to what it holds.
    Sealed,
    Damaged(DamageKind),
}

/// Reads records, from `start`, a place where one begins. `whole`: the bytes reach to where the file was made
/// to end.
pub(super) fn scan(bytes: &[u8], seed: u32, start: usize, whole: bool) -> Scan {
    let mut scan = Scan { records: Vec::new(), end: start, stop: Stop::End };
    let mut expected = None;
    // Each turn moves on by a header at least.
    loop {
        match record(bytes, seed, scan.end, whole) {
            Ok(found) if found.kind == SEAL => {
                scan.stop = Stop::Sealed;
                return scan;
            }
            Ok(found) if expected.is_none_or(|expected| expected == found.sequence) => {
                expected = found.sequence.checked_add(1);
                scan.end = found.at + RecordHeader::record_bytes(found.payload.len());
                scan.records.push(found);
            }
            Ok(_) => {
                scan.stop = Stop::Damaged(DamageKind::Torn);
                return scan;
            }
            Err(stop) => {
                scan.stop = stop;
                return scan;
            }
        }
    }
}

fn record(bytes: &[u8], seed: u32, at: usize, whole: bool) -> Result<Found, Stop> {
    let cut = if whole { DamageKind::Torn } else { DamageKind::Truncated };
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(header) = header(rest) else {
        let zeros = rest.iter().all(|byte| *byte == 0);
        return Err(if whole && zeros { Stop::End } else { Stop::Damaged(cut) });
    };
    if header.words()[0] == 0 {
        return Err(match (rest.iter().all(|byte| *byte == 0), follows(rest)) {
            (true, _) if whole => Stop::End,
            (true, _) => Stop::Damaged(DamageKind::Truncated),
            (false, true) => Stop::Damaged(DamageKind::Zeroed),
            (false, false) => Stop::Damaged(DamageKind::Unfinished),
        });
    }
    if header.magic != RecordHeader::MAGIC {
        return Err(Stop::Damaged(DamageKind::Torn));
    }
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let payload = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES.saturating_add(length);
    // The zeros that fill up the payload are part of the CRC: read them, do not take them for granted.
    let padded = rest.get(payload.start..payload.end.checked_next_multiple_of(8).unwrap_or(usize::MAX));
    let Some(padded) = padded else { return Err(Stop::Damaged(cut)) };
    let (content, fill) = padded.split_at(length);
    if header.checksum(seed, content) != header.crc || fill.iter().any(|byte| *byte != 0) {
        let torn =
            if has_zero_sector(bytes, at, at + payload.end) { DamageKind::Zeroed } else { DamageKind::Torn };
        return Err(Stop::Damaged(torn));
    }
    if header.version != VERSION {
        return Err(Stop::Damaged(DamageKind::FutureVersion));
    }
    let payload = at + payload.start..at + payload.end;
    Ok(Found { sequence: header.sequence, kind: header.kind, at, payload })
}

fn header(bytes: &[u8]) -> Option<RecordHeader> {
    bytes.get(..RECORD_HEADER_BYTES).map(bytemuck::pod_read_unaligned)
}

/// Whether something that looks like a record stands behind the zeros. It only chooses the word for the
/// damage, so the CRC is not asked: over hostile bytes that could take for ever.
fn follows(rest: &[u8]) -> bool {
    let looks = |at: usize| {
        header(&rest[at..]).is_some_and(|header| {
            header.magic == RecordHeader::MAGIC
                && header.version == VERSION
                && usize::try_from(header.length).is_ok_and(|length| length <= rest.len() - at)
        })
    };
    (0..rest.len()).step_by(8).any(looks)
}

/// Whether a sector of the file, within that record, is all zeros. It, too, only chooses the word.
fn has_zero_sector(bytes: &[u8], from: usize, to: usize) -> bool {
    /// What a disk writes at once.
    const SECTOR: usize = 512;
    let sector = |at: usize| bytes.get(at..at + SECTOR);
    let mut sectors = (from.next_multiple_of(SECTOR)..to).step_by(SECTOR).filter_map(sector);
    sectors.any(|sector| sector.iter().all(|byte| *byte == 0))
}
