//! The counter tables of all workers, opened together with the journal that their batches go through.

use std::path::PathBuf;
use std::sync::Arc;

use super::batch::SpooledBatch;
use super::count::CallCounts;
use super::spool::UsageSpool;
use super::table::Table;
use super::worker::WorkerCounters;
use crate::journal::error::JournalError;
use crate::journal::log::{self, Journal};
use crate::journal::record::Sequence;
use crate::journal::recovery::Recovery;

/// How many workers count, and how much space that may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The journal's folder; created if it does not exist.
    pub folder: PathBuf,
    /// The number of tables: one for each worker.
    pub workers: usize,
    /// The (key, server, tool) combinations that a worker counts separately at a time, including the one for all others.
    /// Each takes 512 bytes.
    pub slots: usize,
    /// As in [`log::Config`], in bytes.
    pub segment_bytes: usize,
    /// As in [`log::Config`], in bytes.
    pub total_bytes: u64,
}

/// The default number of slots of a worker: half a MiB, enough for a thousand tools in use within seconds.
pub const SLOTS: usize = 1024;

/// Time between two batches. The sink lags behind by as much, and each batch costs it a transaction.
pub const COLLECT_MS: u64 = 200;

/// Time between two batches while the sink accepts none. Waiting loses no count, it only makes their time less precise.
pub const COLLECT_BACKLOG_MS: u64 = 60_000;

/// Time between two waits for the disk. After each, a worker's next store to a page causes a page fault.
pub const SYNC_MS: u64 = 1_000;

/// Each worker is a thread; no machine has more.
const WORKERS_MAX: usize = 4096;

/// 32 MiB for each worker.
const SLOTS_MAX: usize = 65_536;

/// The counter tables of all workers. Cheap to clone, so that each worker gets one.
#[derive(Clone)]
pub struct UsageTables {
    tables: Arc<[Arc<Table>]>,
}

impl UsageTables {
    /// Recovers what earlier processes left, and creates the tables that are missing.
    pub fn open(config: &Config) -> Result<(Self, UsageSpool, Recovery), JournalError> {
        if !(1..=WORKERS_MAX).contains(&config.workers) {
            return Err(JournalError::Config("there must be 1 to 4096 workers"));
        }
        if !(2..=SLOTS_MAX).contains(&config.slots) {
            return Err(JournalError::Config("a worker must have 2 to 65536 slots"));
        }
        let (mut journal, mut recovery) = Journal::open(log::Config {
            folder: config.folder.clone(),
            segment_bytes: config.segment_bytes,
            total_bytes: config.total_bytes,
        })?;
        let lock = journal.lock();
        let mut found = Table::recover_all(journal.folder(), &lock, &mut recovery)?;
        reconcile(&journal, &found);
        let usable = found.extract_if(.., |table| table.slots() == config.slots).take(config.workers);
        let mut tables: Vec<_> = usable.map(Arc::new).collect();
        while tables.len() < config.workers {
            tables.push(Arc::new(Table::create(journal.folder(), &lock, config.slots)?));
        }
        let outbox = UsageSpool::new(journal, &tables, found);
        Ok((Self { tables: tables.into() }, outbox, recovery))
    }

    /// The counters of one worker, numbered from zero. `None` when there is no such worker, or while they are in use: a
    /// counter has a single writer.
    pub fn worker(&self, number: usize) -> Option<WorkerCounters> {
        WorkerCounters::claim(self.tables.get(number)?)
    }
}

/// Raises the counters of recovered tables to the totals in the records of the journal.
fn reconcile(journal: &Journal, tables: &[Table]) {
    let mut totals: Vec<Vec<CallCounts>> = tables.iter().map(Table::bases).collect();
    // An unreadable segment was reported; its totals are in `base` if that was on disk.
    for record in journal.read_from(Sequence(0)).filter_map(Result::ok) {
        for (row, _) in SpooledBatch::decode(record).iter().flat_map(SpooledBatch::entries) {
            let at = tables.iter().position(|table| table.id() == row.table);
            let slot = usize::try_from(row.slot).ok();
            let total = at.zip(slot).and_then(|(at, slot)| totals[at].get_mut(slot));
            if let Some(total) = total {
                *total = total.max(CallCounts::from_words(row.totals));
            }
        }
    }
    for (table, totals) in tables.iter().zip(&totals) {
        table.reconcile(totals);
    }
}
