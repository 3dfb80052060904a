use std::num::NonZeroU8;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Config, DamageKind, Journal, JournalError, Record, RecordKind, Recovery, Sequence};

pub(crate) mod crash;

/// A new folder, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // In memory where the system has such a place: these tests wait for the disk very often.
        let shared = PathBuf::from("/dev/shm");
        let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let path = parent.join(format!("metamcp-journal-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn config(&self) -> Config {
        Config { folder: self.0.clone(), segment_bytes: 4096, total_bytes: 4 * 4096 }
    }

    fn open(&self) -> (Journal, Recovery) {
        Journal::open(self.config()).expect("it opens")
    }

    pub(crate) fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
        files.sort();
        files
    }

    /// Replaces all segments by these.
    fn put(&self, segments: &[(&str, &[u8])]) {
        for old in self.files("segment") {
            std::fs::remove_file(old).expect("it is there");
        }
        for (name, bytes) in segments {
            std::fs::write(self.0.join(name), bytes).expect("it can be written");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

const KIND: RecordKind = RecordKind(NonZeroU8::new(7).unwrap());

/// Payloads of many lengths, zero included.
fn payload(n: u64) -> Vec<u8> {
    (0..n * 5 % 61).map(|at| u8::try_from((at * 7 + n) % 251).expect("it is small")).collect()
}

fn all(journal: &Journal, from: u64) -> Vec<Record> {
    journal.read_from(Sequence(from)).map(|record| record.expect("it reads")).collect()
}

fn fill(journal: &mut Journal, records: u64) {
    for _ in 0..records {
        let next = journal.next_sequence();
        assert_eq!(journal.append(KIND, &payload(next.0)).expect("there is room"), next);
        journal.prepare().expect("the disk has room");
    }
}

/// Whether the records are the written ones, in order.
fn are_written(records: &[Record]) -> bool {
    records.iter().all(|record| record.kind == KIND && record.payload == payload(record.sequence.0))
        && records.windows(2).all(|pair| pair[0].sequence < pair[1].sequence)
}

#[test]
fn what_was_appended_is_read_back_by_this_process_and_the_next() {
    let folder = Folder::new();
    let (mut journal, recovery) = folder.open();
    assert_eq!(recovery, Recovery::default());
    fill(&mut journal, 120);
    for from in [0, 1, 2, 60, 119, 120, 121] {
        let records = all(&journal, from);
        assert!(are_written(&records));
        assert_eq!(records.len() as u64, 121 - from.clamp(1, 121), "from {from}");
    }
    let before = all(&journal, 0);
    drop(journal);
    for _ in 0..3 {
        let (journal, recovery) = folder.open();
        assert_eq!((recovery.records, recovery.damage), (120, vec![]));
        assert_eq!(all(&journal, 0), before);
        assert_eq!(journal.next_sequence(), Sequence(121));
    }
    let (mut journal, _) = folder.open();
    fill(&mut journal, 1);
    let records = all(&journal, 120);
    assert_eq!(records.len(), 2);
    assert_ne!(records[0].source, records[1].source, "each opening is a source of its own");
}

#[test]
fn files_are_for_their_owner_only() {
    let folder = Folder::new();
    let journal = folder.open();
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    for file in folder.files("segment").iter().chain([&folder.path().join("lock")]) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(journal);
}

#[test]
fn a_second_opening_is_refused_while_the_first_lives() {
    let folder = Folder::new();
    let first = folder.open();
    let Err(JournalError::Locked { process, .. }) = Journal::open(folder.config()) else {
        panic!("it is locked")
    };
    // A lock of this process: in a container, the kernel may not say whose it is.
    assert!(process.is_none_or(|process| process == std::process::id()));
    drop(first);
    folder.open();
}

#[test]
fn full_is_an_error_and_ends_with_a_release() {
    let folder = Folder::new();
    let (mut journal, _) = folder.open();
    let big = vec![1; journal.payload_max()];
    assert!(matches!(journal.append(KIND, &[&big[..], &[1]].concat()), Err(JournalError::TooLarge { .. })));
    let mut appended = 0;
    while journal.append(KIND, &big).is_ok() {
        appended += 1;
        journal.prepare().expect("the disk has room");
    }
    assert_eq!((appended, journal.bytes()), (4, 4 * 4096));
    assert!(matches!(journal.append(KIND, &[]), Err(JournalError::Full)));
    assert!(!journal.can_release(Sequence(0)) && journal.can_release(Sequence(2)));
    journal.release_until(Sequence(2)).expect("files can be removed");
    assert_eq!(all(&journal, 0).iter().map(|record| record.sequence.0).collect::<Vec<_>>(), [3, 4]);
    journal.prepare().expect("the disk has room");
    assert_eq!(journal.append(KIND, &big).expect("there is room again"), Sequence(5));
}

#[test]
fn a_crash_loop_does_not_fill_the_journal() {
    let folder = Folder::new();
    for round in 1..=20 {
        let (mut journal, recovery) = folder.open();
        assert_eq!(recovery.records, round - 1);
        fill(&mut journal, 1);
        assert!(journal.bytes() <= 4 * 4096);
    }
}

#[test]
fn any_byte_may_flip_and_any_length_be_cut() {
    let folder = Folder::new();
    let (mut journal, _) = folder.open();
    fill(&mut journal, 30);
    let written = all(&journal, 0);
    drop(journal);
    let path = folder.files("segment")[0].clone();
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let bytes = std::fs::read(&path).expect("it is there");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("it holds records");
    // The end of each record, to check that all records before a fault are read.
    let ends: Vec<_> = written
        .iter()
        .scan(64, |end, record| {
            *end += 24 + record.payload.len().next_multiple_of(8);
            Some(*end)
        })
        .collect();
    let before = |damage: usize| ends.iter().take_while(|end| **end <= damage).count();
    for at in 0..used + 9 {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        folder.put(&[(&name, &flipped)]);
        let (journal, recovery) = folder.open();
        let records = all(&journal, 0);
        let expected = if at < 64 { 0 } else { before(at) };
        assert_eq!(records, written[..expected], "byte {at}");
        assert_eq!(recovery.damage.len(), 1, "byte {at}: {recovery:?}");
    }
    for length in 0..used + 2 {
        folder.put(&[(&name, &bytes[..length])]);
        let (journal, recovery) = folder.open();
        assert_eq!(all(&journal, 0), written[..before(length)], "cut at {length}");
        assert_eq!(recovery.damage.is_empty(), length == 0, "cut at {length}: {recovery:?}");
    }
}

#[test]
fn damage_is_told_apart() {
    let folder = Folder::new();
    let other = Folder::new();
    let segment = |folder: &Folder, records| {
        let (mut journal, _) = folder.open();
        fill(&mut journal, records);
        std::fs::read(&folder.files("segment")[0]).expect("it is there")
    };
    let (bytes, foreign) = (segment(&folder, 80), segment(&other, 3));
    let (name, copy) = ("0000000000000001.segment", "0000000000000009.segment");
    let changed = |range: std::ops::Range<usize>, to: u8| {
        let mut changed = bytes.clone();
        changed[range].fill(to);
        changed
    };
    let mut future = bytes.clone();
    future[4..6].copy_from_slice(&9_u16.to_le_bytes());
    future[56..60].fill(0);
    let crc = crc32fast::hash(&future[..64]);
    future[56..60].copy_from_slice(&crc.to_le_bytes());
    let unfinished = {
        let mut unfinished = vec![0; 4096];
        unfinished[..200].copy_from_slice(&bytes[..200]);
        unfinished
    };
    let check = |segments: &[(&str, &[u8])], expected: DamageKind, dropped: u64| {
        folder.put(segments);
        let (journal, recovery) = folder.open();
        let kinds: Vec<_> = recovery.damage.iter().map(|damage| damage.kind).collect();
        assert_eq!((kinds, recovery.files_dropped), (vec![expected], dropped));
        assert!(are_written(&all(&journal, 0)));
    };
    check(&[(name, &changed(1024..1536, 0))], DamageKind::Zeroed, 0);
    check(&[(name, &changed(1024..1536, 3))], DamageKind::Torn, 0);
    check(&[(name, &bytes[..1000])], DamageKind::Truncated, 0);
    check(&[(name, &future)], DamageKind::FutureVersion, 1);
    check(&[(name, &bytes), (copy, &bytes)], DamageKind::Duplicate, 1);
    check(&[(name, &foreign)], DamageKind::Foreign, 1);
    check(&[(name, &changed(0..64, 0))], DamageKind::Header, 1);
    // The first word of the record is stored last.
    let mut cut = unfinished.clone();
    let last = (64..200).step_by(8).rfind(|at| cut[*at..*at + 4] == *b"MREC").expect("a record");
    cut[last..last + 8].fill(0);
    check(&[(name, &cut)], DamageKind::Unfinished, 0);
}

#[test]
fn the_identity_outlives_its_file() {
    let folder = Folder::new();
    for damage in ["", "0123456789abcdef 00000000\n", "\u{0}"] {
        let (mut journal, _) = folder.open();
        fill(&mut journal, 1);
        let count = all(&journal, 0).len();
        drop(journal);
        std::fs::write(folder.path().join("lock"), damage).expect("it can be written");
        let (journal, recovery) = folder.open();
        assert_eq!((all(&journal, 0).len(), recovery.damage), (count, vec![]));
    }
}

#[test]
fn a_death_after_any_step_leaves_all_that_was_appended() {
    let mut steps = 0;
    loop {
        let folder = Folder::new();
        let mut appended = 0;
        let life = || {
            let (mut journal, _) = folder.open();
            for _ in 0..4 {
                let next = journal.next_sequence().0;
                journal.append(KIND, &payload(next)).expect("there is room");
                appended += 1;
            }
            drop(journal);
            let (mut journal, _) = folder.open();
            let next = journal.next_sequence().0;
            journal.append(KIND, &payload(next)).expect("there is room");
            appended += 1;
        };
        let died = crash::crashes_after(steps, life);
        let (journal, recovery) = folder.open();
        let records = all(&journal, 0);
        assert!(are_written(&records), "after {steps} steps");
        let count = records.len();
        assert!(count == appended || count == appended + 1, "after {steps}: {count} of {appended}");
        assert!(recovery.damage.iter().all(|damage| damage.kind == DamageKind::Unfinished), "{recovery:?}");
        if !died {
            break;
        }
        steps += 1;
    }
    assert!(steps > 40, "only {steps} places to die at");
}
