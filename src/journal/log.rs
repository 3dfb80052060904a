//! The journal: a sequence of segments. Only the last one is written to.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::JournalError;
use super::folder::{self, Folder};
use super::record::{Record, RecordKind, Sequence};
use super::recovery::Recovery;
use super::segment::{self, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Segment, payload_max};

/// Where a journal lives and how much of the disk it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The journal's own folder; created with mode 0700 if it does not exist.
    pub folder: PathBuf,
    /// The reserved size of one segment; [`SEGMENT_BYTES`] unless there is a reason.
    pub segment_bytes: usize,
    /// The limit for all segments together; at least two segments.
    pub total_bytes: u64,
}

/// An append-only log with a single writer.
///
/// Invariant: the segments are in the order of their sequences: `full`, then `current`, then `spare`.
pub struct Journal {
    folder: Folder,
    config: Config,
    incarnation: u64,
    full: VecDeque<Segment>,
    current: Option<Segment>,
    spare: Option<Segment>,
    next: u64,
    /// Files were created whose names may not be on disk yet.
    has_unsynced_names: bool,
}

impl Journal {
    /// Locks the folder and recovers what earlier processes left. Opens even when the disk or the journal is full: the
    /// records can be read, and `append` returns `Full`.
    pub fn open(config: Config) -> Result<(Self, Recovery), JournalError> {
        if !config.segment_bytes.is_multiple_of(SEGMENT_BYTES_MIN)
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&config.segment_bytes)
        {
            return Err(JournalError::Config("a segment is 4 KiB to 64 MiB, a multiple of 4 KiB"));
        }
        if config.total_bytes < 2 * config.segment_bytes as u64 {
            return Err(JournalError::Config("the total must allow two segments: one is always held ready"));
        }
        let folder = Folder::open(&config.folder)?;
        let mut recovery = Recovery::default();
        let mut full: VecDeque<Segment> = VecDeque::new();
        for file in folder.list(folder::SEGMENT)? {
            full.extend(segment::recover(&folder, file, &mut recovery)?);
        }
        let next = full.iter().map(|segment| segment.last).max().unwrap_or(0).saturating_add(1);
        let incarnation = folder::random_u64()?;
        let (current, spare, has_unsynced_names) = (None, None, true);
        let mut journal =
            Self { folder, config, incarnation, full, current, spare, next, has_unsynced_names };
        match journal.prepare() {
            Ok(()) | Err(JournalError::DiskFull(_)) => Ok((journal, recovery)),
            Err(error) => Err(error),
        }
    }

    /// Appends a record. Neither allocates nor makes a system call. The record survives the process from here on.
    ///
    /// `Full`: nothing was written, and no sequence number was used.
    #[inline]
    pub fn append(&mut self, kind: RecordKind, payload: &[u8]) -> Result<Sequence, JournalError> {
        let max = payload_max(self.config.segment_bytes);
        if payload.len() > max {
            return Err(JournalError::TooLarge { bytes: payload.len(), max });
        }
        let sequence = self.next;
        let appended = |current: &mut Segment| current.append(kind.0.get(), sequence, payload);
        if !self.current.as_mut().is_some_and(appended) {
            let mut spare = self.spare.take().ok_or(JournalError::Full)?;
            spare.append(kind.0.get(), sequence, payload);
            // `prepare` has reserved the capacity.
            self.full.extend(self.current.replace(spare));
        }
        self.next += 1;
        Ok(Sequence(sequence))
    }

    /// Prepares the next segment, if none is ready and the byte limit allows it. To be called periodically, away from
    /// the request path: it makes system calls.
    pub fn prepare(&mut self) -> Result<(), JournalError> {
        self.full.reserve(1);
        let segment_bytes = self.config.segment_bytes;
        if self.spare.is_none() && self.bytes() + segment_bytes as u64 <= self.config.total_bytes {
            self.spare = Some(Segment::create(&mut self.folder, self.incarnation, segment_bytes)?);
            self.has_unsynced_names = true;
        }
        Ok(())
    }

    /// The disk space of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments().chain(&self.spare).map(|segment| segment.disk_bytes).sum()
    }

    /// The largest payload of one record, in bytes.
    pub fn payload_max(&self) -> usize {
        payload_max(self.config.segment_bytes)
    }

    /// The number of the next record.
    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.next)
    }

    /// Waits until every appended record is on disk: from then on they survive a loss of power.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let Self { folder, full, current, .. } = self;
        full.iter_mut().chain(current).try_for_each(|segment| segment.sync(folder))?;
        if self.has_unsynced_names {
            self.folder.sync()?;
            self.has_unsynced_names = false;
        }
        Ok(())
    }

    /// The records from this number on, oldest first. Copies one segment at a time.
    ///
    /// A segment that can no longer be read gives one error, and its records are skipped.
    pub fn read_from(&self, sequence: Sequence) -> Records<'_> {
        let segments = self.segments().filter(|segment| segment.last >= segment.first.max(sequence.0));
        Records {
            folder: &self.folder,
            segments: segments.collect(),
            from: sequence.0,
            loaded: VecDeque::new(),
        }
    }

    /// Deletes the segments whose records are all at or before this number.
    pub fn release_until(&mut self, sequence: Sequence) -> Result<(), JournalError> {
        while let Some(segment) = self.full.front().filter(|segment| segment.last <= sequence.0) {
            self.folder.remove(&segment.file.name)?;
            self.full.pop_front();
        }
        Ok(())
    }

    /// Whether `release_until` would delete anything.
    pub fn can_release(&self, sequence: Sequence) -> bool {
        self.full.front().is_some_and(|segment| segment.last <= sequence.0)
    }

    /// A clone of the folder's lock: it keeps other processes out while it lives.
    pub(super) fn lock(&self) -> Arc<File> {
        self.folder.lock()
    }

    pub(super) fn folder(&mut self) -> &mut Folder {
        &mut self.folder
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.full.iter().chain(&self.current)
    }
}

/// An iterator over records; see [`Journal::read_from`].
pub struct Records<'a> {
    folder: &'a Folder,
    segments: VecDeque<&'a Segment>,
    from: u64,
    loaded: VecDeque<Record>,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Each iteration takes a segment.
        while self.loaded.is_empty() {
            let segment = self.segments.pop_front()?;
            let (bytes, scan) = match segment.load(self.folder, self.from) {
                Ok(loaded) => loaded,
                Err(error) => return Some(Err(error)),
            };
            self.loaded.extend(scan.records.into_iter().filter_map(|found| {
                let kind = RecordKind(NonZeroU8::new(found.kind)?);
                let payload = bytes[found.payload].to_vec();
                Some(Record { source: segment.source, sequence: Sequence(found.sequence), kind, payload })
            }));
        }
        self.loaded.pop_front().map(Ok)
    }
}

/// The default limit for all segments together: sixteen segments of the default size.
pub const TOTAL_BYTES: u64 = 16 * SEGMENT_BYTES as u64;
