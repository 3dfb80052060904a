//! The cost of counting a request, and of appending a record.

use std::hint::black_box;
use std::num::NonZeroU8;
use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use metamcp::journal::usage::{self, CallCounts, UsageTables};
use metamcp::journal::{Config, Journal, JournalError, RecordKind, SEGMENT_BYTES, TOTAL_BYTES};

/// A temporary folder that is removed at the end.
struct TempFolder(PathBuf);

impl TempFolder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("metamcp-bench-{name}-{}", std::process::id())))
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // If it fails, the folder is left in the system's temporary folder.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn append(criterion: &mut Criterion) {
    let folder = TempFolder::new("append");
    let config = Config { folder: folder.0.clone(), segment_bytes: SEGMENT_BYTES, total_bytes: TOTAL_BYTES };
    let (mut journal, _) = Journal::open(config).expect("the folder can be made");
    let kind = RecordKind(NonZeroU8::MIN);
    let payload = [7; 64];
    criterion.bench_function("journal_append_64b", |bencher| {
        bencher.iter(|| match journal.append(kind, black_box(&payload)) {
            Ok(sequence) => sequence,
            // About once in fifty thousand appends; the new file is part of the cost.
            Err(JournalError::Full) => {
                let last = journal.next_sequence();
                journal.release_until(last).expect("files can be removed");
                journal.prepare().expect("the disk has room");
                last
            }
            Err(error) => panic!("{error}"),
        });
    });
}

fn add(criterion: &mut Criterion) {
    let folder = TempFolder::new("usage");
    let (usage, _outbox, _) = UsageTables::open(&usage::Config {
        folder: folder.0.clone(),
        workers: 1,
        slots: usage::SLOTS,
        segment_bytes: SEGMENT_BYTES,
        total_bytes: TOTAL_BYTES,
    })
    .expect("the folder can be made");
    let counters = usage.worker(0).expect("nobody else has it");
    let tools: Vec<_> = (0..500).map(|tool| format!("list_pull_request_reviews_{tool}")).collect();
    let count = CallCounts { calls: 1, errors: 0, bytes_in: 180, bytes_out: 2_000, millis: 3 };
    let slot = counters.slot("abcdefghijkl", "github", &tools[0]);
    criterion.bench_function("usage_add", |bencher| bencher.iter(|| slot.add(black_box(count))));
    let mut next = tools.iter().cycle();
    criterion.bench_function("usage_find_slot_and_add", |bencher| {
        bencher.iter(|| {
            let tool = next.next().map_or("", String::as_str);
            counters.slot(black_box("abcdefghijkl"), "github", tool).add(black_box(count));
        });
    });
}

criterion_group!(benches, append, add);
criterion_main!(benches);
