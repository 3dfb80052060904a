use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::batch::SpooledBatch;
use super::{CallCounts, Config, OTHER, UsageSpool, UsageTables, WorkerCounters};
use crate::journal::tests::{Folder, crash};
use crate::journal::{DamageKind, JournalError, Record, RecordKind, Recovery, Sequence};

/// A store that remembers the last sequence of each source and what it applied, across processes.
#[derive(Default)]
struct Database {
    last: HashMap<u128, Sequence>,
    totals: HashMap<[String; 3], CallCounts>,
    batches: u64,
}

impl Database {
    fn apply(&mut self, batch: &SpooledBatch) {
        let last = self.last.entry(batch.source).or_default();
        if *last < batch.sequence {
            *last = batch.sequence;
            self.batches += 1;
            for row in batch.rows() {
                let names = [row.key, row.server, row.tool].map(str::to_owned);
                let total = self.totals.entry(names).or_default();
                *total = total.sum(row.count);
            }
        }
    }

    fn sum(&self) -> CallCounts {
        self.totals.values().copied().fold(CallCounts::default(), CallCounts::sum)
    }

    fn calls(&self, key: &str) -> u64 {
        self.totals.iter().filter(|(names, _)| names[0] == key).map(|(_, count)| count.calls).sum()
    }

    /// Delivers everything that is left.
    fn drain(&mut self, outbox: &mut UsageSpool) {
        for _ in 0..100 {
            let is_all = collect(outbox, 0);
            outbox.sync().expect("the disk works");
            deliver(outbox, |batch| self.apply(batch));
            if is_all {
                return;
            }
        }
        panic!("it does not come to an end");
    }
}

/// Returns false if the journal is full. What was not collected stays in the tables.
fn collect(outbox: &mut UsageSpool, now_unix_ms: u64) -> bool {
    match outbox.collect(now_unix_ms) {
        Ok(()) => true,
        Err(JournalError::Full) => false,
        Err(error) => panic!("the journal does not work: {error}"),
    }
}

/// Delivers the batches that are safe on disk.
fn deliver(outbox: &mut UsageSpool, mut sink: impl FnMut(&SpooledBatch)) {
    loop {
        let pending = outbox.pending_batches().expect("the journal works");
        let Some(last) = pending.last().map(|batch| batch.sequence) else { return };
        pending.iter().for_each(&mut sink);
        outbox.acknowledge(last).expect("the disk works");
    }
}

fn config(folder: &Folder, workers: usize, slots: usize) -> Config {
    let folder = folder.path().to_owned();
    Config { folder, workers, slots, segment_bytes: 4096, total_bytes: 3 * 4096 }
}

fn open(folder: &Folder, workers: usize, slots: usize) -> (UsageTables, UsageSpool, Recovery) {
    UsageTables::open(&config(folder, workers, slots)).expect("it opens")
}

fn count(n: u64) -> CallCounts {
    CallCounts { calls: 1, errors: n % 2, bytes_in: 100 + n, bytes_out: 1000 * n, millis: n }
}

fn call(counters: &WorkerCounters, key: &str) {
    counters.slot(key, "server", "tool").add(count(1));
}

/// One process in miniature: labels come and go, more than there are slots; batches fill segments; the sink
/// receives them; the process ends.
fn life(folder: &Folder, database: &RefCell<Database>, begun: &Cell<CallCounts>, added: &Cell<CallCounts>) {
    let mut n = 0;
    for _ in 0..2 {
        let (usage, mut outbox, _) = open(folder, 2, 3);
        let counters = [0, 1].map(|worker| usage.worker(worker).expect("it is free"));
        for round in 0..5 {
            for worker in &counters {
                let key = format!("key {}", round / 2);
                let slot = worker.slot(&key, &"s".repeat(60), &"t".repeat(100 * (round % 3)));
                n += 1;
                begun.set(begun.get().sum(count(n)));
                slot.add(count(n));
                added.set(added.get().sum(count(n)));
            }
            outbox.collect(n).expect("there is room");
            if round % 2 == 0 {
                outbox.sync().expect("the disk works");
            }
            deliver(&mut outbox, |batch| {
                crash::crash_point();
                database.borrow_mut().apply(batch);
                crash::crash_point();
            });
        }
    }
}

fn is_between(least: CallCounts, found: CallCounts, most: CallCounts) -> bool {
    least.max(found) == found && found.max(most) == most
}

/// Kills the process after any store, and the next process while it recovers. No completed count is lost,
/// none is applied twice, and at most the whole of an incomplete one is applied.
#[test]
fn a_death_after_any_step_neither_loses_nor_doubles() {
    let mut steps = 0;
    loop {
        let folder = Folder::new();
        let database = RefCell::new(Database::default());
        let (begun, added) = (Cell::default(), Cell::default());
        let died = crash::crashes_after(steps, || life(&folder, &database, &begun, &added));
        let died_again = crash::crashes_after(steps % 89, || {
            let (_, mut outbox, _) = open(&folder, 1, 3);
            outbox.collect(0).expect("there is room");
            outbox.sync().expect("the disk works");
        });
        let (_, mut outbox, recovery) = open(&folder, 2, 3);
        database.borrow_mut().drain(&mut outbox);
        let found = database.borrow().sum();
        assert!(
            is_between(added.get(), found, begun.get()),
            "after {steps} steps ({died_again}): {found:?}, added {:?}, begun {:?}",
            added.get(),
            begun.get(),
        );
        assert_eq!(recovery.files_dropped, 0, "{recovery:?}");
        assert!(recovery.damage.iter().all(|damage| damage.kind == DamageKind::Unfinished), "{recovery:?}");
        if !died {
            break;
        }
        steps += 1;
    }
    assert!(steps > 500, "only {steps} places to die at");
}

#[test]
fn workers_count_while_it_is_collected() {
    const CALLS: u64 = 100_000;
    let folder = Folder::new();
    let (usage, mut outbox, _) = open(&folder, 2, 8);
    let mut database = Database::default();
    std::thread::scope(|scope| {
        let workers = [0, 1].map(|worker| {
            let usage = &usage;
            scope.spawn(move || {
                let counters = usage.worker(worker).expect("it is free");
                for n in 0..CALLS {
                    // More labels than slots, each used for a while.
                    call(&counters, &format!("key {}", n / 1000 % 20));
                }
            })
        });
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            database.drain(&mut outbox);
        }
    });
    database.drain(&mut outbox);
    let sum = database.sum();
    assert_eq!((sum.calls, sum.millis, sum.bytes_in), (2 * CALLS, 2 * CALLS, 2 * CALLS * 101));
    // No count was added under the label of another.
    assert!((0..20).all(|key| database.calls(&format!("key {key}")) <= CALLS / 10));
}

#[test]
fn a_slot_changes_its_name_only_when_it_is_idle_and_settled() {
    let folder = Folder::new();
    let (usage, mut outbox, _) = open(&folder, 1, 3);
    let counters = usage.worker(0).expect("it is free");
    let mut database = Database::default();
    let held = counters.slot("held", "server", "tool");
    call(&counters, "first");
    call(&counters, "second");
    database.drain(&mut outbox);
    assert_eq!((database.calls("first"), database.calls("second"), database.calls(OTHER)), (1, 0, 1));
    // The first label was not used since the sweep that found no slot for the second.
    call(&counters, "third");
    database.drain(&mut outbox);
    // The third label was used recently.
    call(&counters, "fourth");
    held.add(count(1));
    database.drain(&mut outbox);
    assert_eq!((database.calls("third"), database.calls("fourth"), database.calls("held")), (1, 0, 1));
    counters.slot(&"k".repeat(33), "server", "tool").add(count(1));
    database.drain(&mut outbox);
    assert_eq!(database.sum().calls, 6);
}

#[test]
fn a_slot_with_counts_on_their_way_keeps_its_name() {
    let folder = Folder::new();
    let (usage, mut outbox, _) = open(&folder, 1, 2);
    let counters = usage.worker(0).expect("it is free");
    let slot = counters.slot("first", "server", "tool");
    slot.add(count(1));
    // The first sweep. From here on the first label counts as unused.
    call(&counters, "second");
    outbox.collect(0).expect("there is room");
    outbox.sync().expect("the disk works");
    slot.add(count(1));
    drop(slot);
    call(&counters, "third");
    let mut database = Database::default();
    database.drain(&mut outbox);
    assert_eq!((database.calls("first"), database.calls("third"), database.calls(OTHER)), (2, 0, 2));
}

/// Hours without the store: the journal takes a bounded number of bytes, and afterwards every call is
/// counted.
#[test]
fn an_outage_costs_neither_counts_nor_the_disk() {
    let folder = Folder::new();
    let (usage, mut outbox, _) = open(&folder, 1, 16);
    let counters = usage.worker(0).expect("it is free");
    let mut was_full = false;
    for tick in 0..5_000_u64 {
        call(&counters, &format!("key {}", tick % 10));
        was_full |= !collect(&mut outbox, tick * 1000);
        outbox.sync().expect("the disk works");
        assert!(folder.files("segment").len() <= 3);
    }
    assert!(was_full, "the journal was to become full");
    let mut database = Database::default();
    database.drain(&mut outbox);
    assert_eq!((0..10).map(|key| database.calls(&format!("key {key}"))).sum::<u64>(), 5_000);
    assert_eq!(database.sum().bytes_in, 5_000 * 101);
}

#[test]
fn a_table_has_one_worker_at_a_time_and_survives_their_number() {
    let folder = Folder::new();
    let (usage, outbox, _) = open(&folder, 3, 8);
    let counters = usage.worker(2).expect("it is free");
    assert!(usage.worker(2).is_none() && usage.worker(3).is_none());
    let slot = counters.slot("key", "server", "tool");
    drop(counters);
    assert!(usage.worker(2).is_none(), "a slot is still held");
    slot.add(count(1));
    drop(slot);
    call(&usage.worker(2).expect("it is free again"), "key");
    drop((usage, outbox));
    let mut database = Database::default();
    for (workers, slots) in [(1, 8), (1, 4), (2, 4)] {
        let (usage, mut outbox, recovery) = open(&folder, workers, slots);
        assert_eq!(recovery.damage, vec![]);
        call(&usage.worker(0).expect("it is free"), "key");
        database.drain(&mut outbox);
        assert_eq!(folder.files("table").len(), workers);
    }
    assert_eq!(database.calls("key"), 5);
}

/// Arbitrary bytes in a table cause no panic and no count under an invented label, and the other slots stay
/// correct.
#[test]
fn damage_in_a_table_stays_where_it_is() {
    let folder = Folder::new();
    let (usage, outbox, _) = open(&folder, 1, 4);
    let counters = usage.worker(0).expect("it is free");
    call(&counters, "one");
    call(&counters, "two");
    drop((counters, usage, outbox));
    let table = folder.files("table")[0].clone();
    let bytes = std::fs::read(&table).expect("it is there");
    let remove = |extension| {
        for file in folder.files(extension) {
            std::fs::remove_file(file).expect("it is there");
        }
    };
    let found = |bytes: &[u8]| {
        remove("segment");
        remove("table");
        std::fs::write(&table, bytes).expect("it can be written");
        let (_, mut outbox, recovery) = open(&folder, 1, 4);
        let mut database = Database::default();
        database.drain(&mut outbox);
        assert!(database.totals.keys().all(|[key, ..]| ["one", "two", OTHER].contains(&key.as_str())));
        (database, recovery)
    };
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let (database, recovery) = found(&flipped);
        let slot = at / 512;
        assert_eq!(recovery.files_dropped, u64::from(at < 64), "byte {at}");
        if at >= 64 {
            // The slots follow the header and the common slot, in the order of their first use.
            assert!(slot == 2 || database.calls("one") == 1, "byte {at}");
            assert!(slot == 3 || database.calls("two") == 1, "byte {at}");
        }
    }
    for length in (0..bytes.len()).step_by(64) {
        let (database, recovery) = found(&bytes[..length]);
        assert_eq!((database.batches, recovery.files_dropped), (0, u64::from(length > 0)), "cut at {length}");
    }
}

#[test]
fn hostile_bytes_are_no_batch() {
    let folder = Folder::new();
    let (usage, mut outbox, _) = open(&folder, 1, 4);
    call(&usage.worker(0).expect("it is free"), "key");
    outbox.collect(0).expect("there is room");
    outbox.sync().expect("the disk works");
    let batch = outbox.pending_batches().expect("it reads").remove(0);
    let (mut journal, _) = {
        drop((usage, outbox));
        crate::journal::Journal::open(crate::journal::Config {
            folder: folder.path().to_owned(),
            segment_bytes: 4096,
            total_bytes: 3 * 4096,
        })
        .expect("it opens")
    };
    let good = journal.read_from(Sequence(0)).next().expect("it is there").expect("it reads");
    assert_eq!(SpooledBatch::decode(good.clone()), Some(batch));
    for at in 0..good.payload.len() {
        for bit in 0..8 {
            let mut payload = good.payload.clone();
            payload[at] ^= 1 << bit;
            // Decoding may succeed, with other numbers; it must not panic.
            let batch = SpooledBatch::decode(Record { payload, ..good.clone() });
            assert!(batch.is_none_or(|batch| batch.rows().count() <= 1));
        }
        let payload = good.payload[..at].to_vec();
        assert_eq!(SpooledBatch::decode(Record { payload, ..good.clone() }), None, "cut at {at}");
    }
    // Records of other kinds in the same journal are skipped.
    journal.append(RecordKind(std::num::NonZeroU8::MAX), b"not a batch").expect("there is room");
    drop(journal);
    let (_, mut outbox, _) = open(&folder, 1, 4);
    let mut database = Database::default();
    database.drain(&mut outbox);
    assert_eq!((database.batches, outbox.pending_batches().expect("it reads")), (1, vec![]));
}

type Files = std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>;

fn files(folder: &Folder) -> Files {
    let paths = [folder.files("segment"), folder.files("table")].concat();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("it reads"))).collect()
}

/// A power failure: for each file, the disk has what was synced, or everything. Nothing counted before the
/// last sync is lost, and nothing is counted twice.
#[test]
fn a_loss_of_power_loses_what_came_last_and_doubles_nothing() {
    for rounds in 0..24 {
        for choice in 0..32_u32 {
            let folder = Folder::new();
            let mut database = Database::default();
            let (usage, mut outbox, _) = open(&folder, 1, 4);
            let counters = usage.worker(0).expect("it is free");
            let (mut added, mut safe) = (0, 0);
            let mut on_disk = files(&folder);
            for round in 0..=rounds {
                for n in 0..3 {
                    counters.slot(&"k".repeat(20 + n), "server", &"t".repeat(200)).add(count(1));
                    added += 1;
                    outbox.collect(0).expect("there is room");
                }
                if round % 3 == 0 {
                    outbox.sync().expect("the disk works");
                    (on_disk, safe) = (files(&folder), added);
                }
                deliver(&mut outbox, |batch| database.apply(batch));
            }
            // A segment is only removed when the tables are on disk.
            let now = files(&folder);
            let gone = on_disk.keys().any(|path| !now.contains_key(path));
            drop((counters, usage, outbox));
            let paths: std::collections::BTreeSet<_> = on_disk.keys().chain(now.keys()).cloned().collect();
            for (at, path) in paths.iter().enumerate() {
                let is_table = path.extension().is_some_and(|extension| extension == "table");
                let new = choice & 1 << (at % 5) != 0 || is_table && gone;
                match if new { now.get(path) } else { on_disk.get(path) } {
                    Some(bytes) => std::fs::write(path, bytes).expect("it can be written"),
                    None => drop(std::fs::remove_file(path)),
                }
            }
            let (usage, mut outbox, _) = open(&folder, 1, 4);
            database.drain(&mut outbox);
            let calls = database.sum().calls;
            assert!((safe..=added).contains(&calls), "{safe} <= {calls} <= {added}: {rounds}, {choice:b}");
            let counters = usage.worker(0).expect("it is free");
            for n in 0..3 {
                counters.slot(&"k".repeat(20 + n), "server", &"t".repeat(200)).add(count(1));
            }
            database.drain(&mut outbox);
            assert_eq!(database.sum().calls, calls + 3, "{rounds}, {choice:b}");
        }
    }
}
