//! How much each key used of each tool, exact to the unit over outages of the store and kills of the process.
//!
//! Each worker has a mapped table of counters and adds to it with plain stores. Now and then the [`Outbox`]
//! writes what came since as a batch into the journal, and hands batches to a sink until it has them.
//!
//! Invariants:
//! - A table's counters only rise. For each of them `base <= journaled <= live`, where `live` is what was
//!   added, `base` stands beside it in the table, and `journaled` is the greater of `base` and the totals in
//!   the records that are still in the journal. So what is in no record yet is always `live - journaled`, after
//!   a kill at any instruction too: an add that was finished is neither lost nor doubled.
//! - Each row of a batch has the slot's total beside what is new. `base` follows when the record is on disk,
//!   and a record is given up only when the sink has it and `base` is on disk.
//! - A batch reaches the sink at least once, always under the same (source, sequence), in order. A sink that
//!   remembers the last sequence of each source in the same transaction applies it exactly once.
//! - A slot gets another name only while nobody holds it and `live == base`.
//!
//! Counts that are in no synced record when the power fails are lost (about [`SYNC_MS`]), never doubled.
//! Nothing is lost while the journal is full: the difference grows in the table until there is room.
//!
//! Does not know: what a key is, the store, or clocks: the caller gives the time.

mod batch;
mod count;
mod outbox;
mod table;
mod worker;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

pub use batch::{Batch, Row};
pub use count::Count;
pub use outbox::Outbox;
pub use worker::{Counters, Slot};

use super::log::{self, Journal};
use super::{JournalError, Kind, Recovery, Sequence};
use table::Table;

/// How many workers count, and how much room that may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The journal's folder; made when it is not there.
    pub folder: PathBuf,
    /// Tables, one for each worker.
    pub workers: usize,
    /// (key, server, tool) that a worker counts apart at once, the one for all others included; 512 bytes each.
    pub slots: usize,
    /// As of [`super::Config`].
    pub segment_bytes: usize,
    /// As of [`super::Config`].
    pub total_bytes: u64,
}

/// What stands for a key, server or tool that is not told apart: too long a name, or no slot left. None of
/// them can have that name: it has parentheses.
pub const OTHER: &str = "(other)";

/// A name to count under: itself, or [`OTHER`] where it is not to be told. One with blanks or control characters is no
/// name of a tool (MCP 2026-07-28, tools).
pub fn told(name: &str) -> &str {
    let is_plain = name.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if is_plain { name } else { OTHER }
}

/// Slots of a worker, when nothing else is said: half a MiB. A thousand tools in use within seconds.
pub const SLOTS: usize = 1024;

/// From one batch to the next: the sink is that far behind, and a batch costs it a transaction.
pub const COLLECT_MS: u64 = 200;

/// The same while the sink takes nothing: no count is lost by waiting, only its time is told more coarsely.
pub const COLLECT_BACKLOG_MS: u64 = 60_000;

/// From one wait for the disk to the next. Each makes a worker's next store into a page fault once.
pub const SYNC_MS: u64 = 1_000;

/// Each worker is a thread; no machine has more.
const WORKERS_MAX: usize = 4096;

/// 32 MiB a worker.
const SLOTS_MAX: usize = 65_536;

/// The records that batches are kept in.
const KIND: Kind = Kind(std::num::NonZeroU8::MIN);

/// The tables of all workers. Cheap to clone, to be handed to each of them.
#[derive(Clone)]
pub struct Usage {
    tables: Arc<[Arc<Table>]>,
}

impl Usage {
    /// Finds what earlier processes left, and makes what is missing.
    pub fn open(config: &Config) -> Result<(Self, Outbox, Recovery), JournalError> {
        if !(1..=WORKERS_MAX).contains(&config.workers) {
            return Err(JournalError::Config("1 to 4096 workers can count"));
        }
        if !(2..=SLOTS_MAX).contains(&config.slots) {
            return Err(JournalError::Config("a worker has 2 to 65536 slots"));
        }
        let (mut journal, mut recovery) = Journal::open(log::Config {
            folder: config.folder.clone(),
            segment_bytes: config.segment_bytes,
            total_bytes: config.total_bytes,
        })?;
        let lock = journal.lock();
        let mut found = Table::recover_all(journal.folder(), &lock, &mut recovery)?;
        settle(&journal, &found);
        let usable = found.extract_if(.., |table| table.slots() == config.slots).take(config.workers);
        let mut tables: Vec<_> = usable.map(Arc::new).collect();
        while tables.len() < config.workers {
            tables.push(Arc::new(Table::create(journal.folder(), &lock, config.slots)?));
        }
        let outbox = Outbox::new(journal, &tables, found);
        Ok((Self { tables: tables.into() }, outbox, recovery))
    }

    /// The counters of one worker, numbered from zero. None when there is no such worker, or while another
    /// has them: a counter has one writer.
    pub fn worker(&self, number: usize) -> Option<Counters> {
        Counters::take(self.tables.get(number)?)
    }
}

/// Moves the counters to where the records in the journal say that they were.
fn settle(journal: &Journal, tables: &[Table]) {
    let mut totals: Vec<Vec<Count>> = tables.iter().map(Table::bases).collect();
    // A segment that cannot be read was reported; its totals are in `base` when it was on disk.
    for record in journal.read_from(Sequence(0)).filter_map(Result::ok) {
        for (row, _) in Batch::decode(record).iter().flat_map(Batch::entries) {
            let at = tables.iter().position(|table| table.id() == row.table);
            let slot = usize::try_from(row.slot).ok();
            let total = at.zip(slot).and_then(|(at, slot)| totals[at].get_mut(slot));
            if let Some(total) = total {
                *total = total.max(Count::from_words(row.totals));
            }
        }
    }
    for (table, totals) in tables.iter().zip(&totals) {
        table.settle(totals);
    }
}
