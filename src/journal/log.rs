//! The journal: segments in a row, of which the last is written.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;

use super::folder::{self, Folder};
use super::recovery::Recovery;
use super::segment::{self, Segment, payload_max};
use super::{JournalError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// Where a journal lives and how much of the disk it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its own folder; made, mode 0700, when it is not there.
    pub folder: PathBuf,
    /// One segment, as it is reserved; [`super::SEGMENT_BYTES`] unless there is a reason.
    pub segment_bytes: usize,
    /// All segments together; two at least.
    pub total_bytes: u64,
}

/// The number of a record: one more than that of the record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// What a record is for: the caller's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub NonZeroU8);

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The opening of the journal that wrote it, unique in the world. (source, sequence) names one record.
    pub source: u128,
    /// Its place.
    pub sequence: Sequence,
    /// As given to `append`.
    pub kind: Kind,
    /// As given to `append`.
    pub payload: Vec<u8>,
}

/// An append-only log. One writer: itself.
///
/// Invariant: the segments are in the order of their sequences; `full`, then `current`, then `spare`.
pub struct Journal {
    folder: Folder,
    config: Config,
    incarnation: u64,
    full: VecDeque<Segment>,
    current: Option<Segment>,
    spare: Option<Segment>,
    next: u64,
    /// Files were made whose names the disk may not know yet.
    names_pending: bool,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Journal {
    /// Locks the folder and finds what earlier processes left. When the disk or the journal is full it opens
    /// all the same: what is in it can be read, and `append` says `Full`.
    pub fn open(config: Config) -> Result<(Self, Recovery), JournalError> {
        if !config.segment_bytes.is_multiple_of(SEGMENT_BYTES_MIN)
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&config.segment_bytes)
        {
            return Err(JournalError::Config("a segment is 4 KiB to 64 MiB, in steps of 4 KiB"));
        }
        if config.total_bytes < 2 * config.segment_bytes as u64 {
            return Err(JournalError::Config("give it room for two segments, of which one is always ready"));
        }
        let folder = Folder::open(&config.folder)?;
        let mut recovery = Recovery::default();
        let mut full: VecDeque<Segment> = VecDeque::new();
        for named in folder.list(folder::SEGMENT)? {
            full.extend(segment::recover(&folder, named, &mut recovery)?);
        }
        let next = full.iter().map(|segment| segment.last).max().unwrap_or(0).saturating_add(1);
        let incarnation = folder::random()?;
        let (current, spare, names_pending) = (None, None, true);
        let mut journal = Self { folder, config, incarnation, full, current, spare, next, names_pending };
        match journal.prepare() {
            Ok(()) | Err(JournalError::DiskFull(_)) => Ok((journal, recovery)),
            Err(error) => Err(error),
        }
    }

    /// Adds a record. No allocation and no system call; the record outlives the process from here on.
    ///
    /// `Full`: nothing was written, and no sequence number is used up.
    #[inline]
    pub fn append(&mut self, kind: Kind, payload: &[u8]) -> Result<Sequence, JournalError> {
        let max = payload_max(self.config.segment_bytes);
        if payload.len() > max {
            return Err(JournalError::TooLarge { bytes: payload.len(), max });
        }
        let sequence = self.next;
        let appended = |current: &mut Segment| current.append(kind.0.get(), sequence, payload);
        if !self.current.as_mut().is_some_and(appended) {
            let mut spare = self.spare.take().ok_or(JournalError::Full)?;
            spare.append(kind.0.get(), sequence, payload);
            // `prepare` has reserved the place.
            self.full.extend(self.current.replace(spare));
        }
        self.next += 1;
        Ok(Sequence(sequence))
    }

    /// Makes the next segment ready, if there is none and the bytes allow it. To be called now and then, away
    /// from the request path: it calls the system.
    pub fn prepare(&mut self) -> Result<(), JournalError> {
        self.full.reserve(1);
        let segment_bytes = self.config.segment_bytes;
        if self.spare.is_none() && self.bytes() + segment_bytes as u64 <= self.config.total_bytes {
            self.spare = Some(Segment::create(&mut self.folder, self.incarnation, segment_bytes)?);
            self.names_pending = true;
        }
        Ok(())
    }

    /// What its segments take of the disk.
    pub fn bytes(&self) -> u64 {
        self.segments().chain(&self.spare).map(|segment| segment.disk_bytes).sum()
    }

    /// The most that one record may hold, in bytes.
    pub fn payload_max(&self) -> usize {
        payload_max(self.config.segment_bytes)
    }

    /// The number that the next record will get.
    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.next)
    }

    /// Waits until the disk has every record appended so far: they outlive a loss of power.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let Self { folder, full, current, .. } = self;
        full.iter_mut().chain(current).try_for_each(|segment| segment.sync(folder))?;
        if self.names_pending {
            self.folder.sync()?;
            self.names_pending = false;
        }
        Ok(())
    }

    /// The records from that number on, oldest first. Copies one segment at a time.
    ///
    /// An error is given once for a segment that cannot be read any more, and its records are passed over.
    pub fn read_from(&self, sequence: Sequence) -> Records<'_> {
        let segments = self.segments().filter(|segment| segment.last >= segment.first.max(sequence.0));
        Records {
            folder: &self.folder,
            segments: segments.collect(),
            from: sequence.0,
            loaded: VecDeque::new(),
        }
    }

    /// Gives the segments back to the disk whose records are all at or before that number.
    pub fn release_until(&mut self, sequence: Sequence) -> Result<(), JournalError> {
        while let Some(segment) = self.full.front().filter(|segment| segment.last <= sequence.0) {
            self.folder.remove(&segment.named.name)?;
            self.full.pop_front();
        }
        Ok(())
    }

    /// Whether `release_until` would give anything back.
    pub fn releases(&self, sequence: Sequence) -> bool {
        self.full.front().is_some_and(|segment| segment.last <= sequence.0)
    }

    /// Keeps other processes out for as long as it lives.
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

/// The records of a journal; see [`Journal::read_from`].
pub struct Records<'a> {
    folder: &'a Folder,
    segments: VecDeque<&'a Segment>,
    from: u64,
    loaded: VecDeque<Record>,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Each turn takes a segment.
        while self.loaded.is_empty() {
            let segment = self.segments.pop_front()?;
            let (bytes, scan) = match segment.load(self.folder, self.from) {
                Ok(loaded) => loaded,
                Err(error) => return Some(Err(error)),
            };
            self.loaded.extend(scan.records.into_iter().filter_map(|found| {
                let kind = Kind(NonZeroU8::new(found.kind)?);
                let payload = bytes[found.payload].to_vec();
                Some(Record { source: segment.source, sequence: Sequence(found.sequence), kind, payload })
            }));
        }
        self.loaded.pop_front().map(Ok)
    }
}
