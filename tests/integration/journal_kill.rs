//! Usage over kill -9: a process that counts is killed at random places, again and again, and every call that
//! it had told of is there in the end, once.
//!
//! The process is this test, started again with a word in its arguments that says where to work.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use metamcp::journal::JournalError;
use metamcp::journal::usage::{CallCounts, Config, SpooledBatch, UsageSpool, UsageTables, WorkerCounters};

const KILLS: u32 = 200;

/// What each of the two workers says before it counts, and after; and how many calls that are. The second is
/// mostly found counting, the first in between.
const WORKERS: [(u8, u8, u64); 2] = [(b'B', b'D', 1), (b'b', b'd', 64)];

const CALL: CallCounts = CallCounts { calls: 1, errors: 1, bytes_in: 3, bytes_out: 5, millis: 7 };

/// In the arguments of a child, before its folder.
const CHILD: &str = "journal-child:";

const NAME: &str = "journal_kill::usage_is_exact_over_kills";

/// The store: a file of what was applied, one write for each batch, which a kill does not cut.
struct Store {
    file: File,
    last: HashMap<u128, u64>,
    sum: CallCounts,
}

/// Source, sequence, and the five sums.
const ROW_BYTES: usize = 16 + 8 + 5 * 8;

impl Store {
    fn open(path: &Path) -> Self {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).expect("it opens");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("it reads");
        let mut store = Self { file, last: HashMap::new(), sum: CallCounts::default() };
        assert!(bytes.len().is_multiple_of(ROW_BYTES));
        for row in bytes.chunks_exact(ROW_BYTES) {
            let source = u128::from_le_bytes(row[..16].try_into().expect("16 bytes"));
            let word = |at: usize| u64::from_le_bytes(row[16 + at * 8..][..8].try_into().expect("8 bytes"));
            let earlier = store.last.insert(source, word(0));
            assert!(earlier.is_none_or(|earlier| earlier < word(0)));
            let [calls, errors, bytes_in, bytes_out, millis] = [1, 2, 3, 4, 5].map(word);
            store.sum = store.sum.sum(CallCounts { calls, errors, bytes_in, bytes_out, millis });
        }
        store
    }

    fn apply(&mut self, batch: &SpooledBatch) {
        let sequence = batch.sequence.0;
        if self.last.get(&batch.source).is_some_and(|last| *last >= sequence) {
            return;
        }
        let sum = batch.rows().fold(CallCounts::default(), |sum, row| sum.sum(row.count));
        let CallCounts { calls, errors, bytes_in, bytes_out, millis } = sum;
        let mut row = batch.source.to_le_bytes().to_vec();
        let words = [sequence, calls, errors, bytes_in, bytes_out, millis];
        row.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.file.write_all(&row).expect("it can be written");
        self.last.insert(batch.source, sequence);
        self.sum = self.sum.sum(sum);
    }

    /// All that is safe on disk.
    fn take(&mut self, outbox: &mut UsageSpool) {
        loop {
            let pending = outbox.pending_batches().expect("the journal works");
            let Some(last) = pending.last().map(|batch| batch.sequence) else { return };
            for batch in &pending {
                self.apply(batch);
            }
            outbox.acknowledge(last).expect("the disk works");
        }
    }

    fn drain(&mut self, outbox: &mut UsageSpool) {
        // The journal may be full at first.
        for _ in 0..10 {
            let is_all = collect(outbox, 0);
            outbox.sync().expect("the disk works");
            self.take(outbox);
            if is_all {
                return;
            }
        }
        panic!("it does not come to an end");
    }
}

/// False when the journal was full: what did not go in waits in the tables.
fn collect(outbox: &mut UsageSpool, now_unix_ms: u64) -> bool {
    match outbox.collect(now_unix_ms) {
        Ok(()) => true,
        Err(JournalError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

/// What the parent knows that a child counted: at least, and at most.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    done: u64,
    begun: u64,
}

fn open(folder: &Path) -> (UsageTables, UsageSpool) {
    let folder = folder.join("journal");
    let config = Config { folder, workers: 2, slots: 4, segment_bytes: 16 << 10, total_bytes: 64 << 10 };
    let (usage, outbox, recovery) = UsageTables::open(&config).expect("it opens");
    assert_eq!(recovery.files_dropped, 0, "{recovery:?}");
    (usage, outbox)
}

/// Counts on two threads, writes batches and hands them on, until it is killed.
fn count_for_ever(folder: &Path) {
    let (usage, mut outbox) = open(folder);
    let mut store = Store::open(&folder.join("store"));
    // Half of them find the store away for all their lives.
    let away = std::process::id() % 2 == 1;
    let tell = |word: u8| {
        // Without a parent there is nothing to do.
        std::io::stderr().write_all(&[word]).unwrap_or_else(|_| std::process::exit(0));
    };
    let work = |worker: usize| {
        let counters = usage.worker(worker).expect("it is free");
        let (begin, done, calls) = WORKERS[worker];
        for round in 0_u64.. {
            tell(begin);
            (0..calls).for_each(|n| call(&counters, round / 50 + n % 2));
            tell(done);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(0));
        scope.spawn(|| work(1));
        loop {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
            let now = u64::try_from(now.as_millis()).expect("a while yet");
            collect(&mut outbox, now);
            outbox.sync().expect("the disk works");
            if !away {
                store.take(&mut outbox);
            }
        }
    });
}

/// More names than slots, changing as it goes.
fn call(counters: &WorkerCounters, name: u64) {
    counters.slot(&format!("key {}", name % 20), "server", "tool").add(CALL);
}

/// Lets a child count until it has said so many words, or for a time when it is to say none, kills it, and gives what it had told until then.
fn count_until_killed(folder: &Path, words: usize, micros: u64) -> Told {
    let program = std::env::current_exe().expect("this test is a program");
    let mut child = Command::new(program)
        .args(["--exact", NAME, &format!("{CHILD}{}", folder.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut pipe = child.stderr.take().expect("it is piped");
    let mut said = vec![0; words];
    pipe.read_exact(&mut said).expect("it counts for ever");
    if words == 0 {
        // While it starts and recovers, which takes a few milliseconds.
        let started = Instant::now();
        while started.elapsed() < Duration::from_micros(micros) {}
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it has died");
    // What it said before it died.
    pipe.read_to_end(&mut said).expect("it reads");
    let mut told = Told::default();
    for word in said {
        let worker = WORKERS.iter().find(|(begin, done, _)| word == *begin || word == *done);
        let (begin, _, calls) = worker.unwrap_or_else(|| panic!("a child says {word}"));
        *(if word == *begin { &mut told.begun } else { &mut told.done }) += calls;
    }
    told
}

#[test]
fn usage_is_exact_over_kills() {
    if let Some(folder) =
        std::env::args().find_map(|argument| argument.strip_prefix(CHILD).map(str::to_owned))
    {
        return count_for_ever(Path::new(&folder));
    }
    // In memory where the system has such a place: the fewer waits for a disk, the more places to die at.
    let shared = PathBuf::from("/dev/shm");
    let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
    let folder = parent.join(format!("metamcp-journal-kill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let mut random = u64::from(std::process::id()) | 1;
    println!("seed {random}");
    let (mut least, mut most, mut exact) = (0, 0, 0);
    for kill in 0..KILLS {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let words = if kill % 3 == 0 { 0 } else { usize::try_from(random % 2000).expect("it is small") };
        let told = count_until_killed(&folder, words, random % 10_000);
        least += told.done;
        most += told.begun;
        let found = if kill % 2 == 0 { drain(&folder) } else { continue };
        // The parts of a call are added one by one, `calls` last.
        let parts = [found.calls, found.errors, found.bytes_in / 3, found.bytes_out / 5, found.millis / 7];
        assert!(
            parts.iter().all(|part| (least..=most).contains(part)),
            "{least}..={most}: {found:?}, kill {kill}"
        );
        // From here on it is known: the next kill is judged by itself.
        exact += found.calls - least;
        (least, most) = (found.calls, found.calls.max(parts.into_iter().max().unwrap_or(0)));
    }
    let sum = drain(&folder);
    assert!((least..=most).contains(&sum.calls));
    println!("{} calls; {exact} of them were under way at a kill", sum.calls);
    drop(std::fs::remove_dir_all(&folder));
}

/// What the store has when it has everything.
fn drain(folder: &Path) -> CallCounts {
    let (_, mut outbox) = open(folder);
    let mut store = Store::open(&folder.join("store"));
    store.drain(&mut outbox);
    store.sum
}
