//! Usage counters by key, server and tool, exact to the unit over outages of the store and kills of the
//! process.
//!
//! Each worker has a memory-mapped table of counters and adds to it with plain stores. The [`UsageSpool`]
//! periodically writes the increments as a batch into the journal, and hands batches to a sink until the sink
//! has them.
//!
//! Invariants:
//! - A table's counters only rise. For each of them `base <= journaled <= live`. `live` is what was added, `base` is
//!   stored next to it in the table, and `journaled` is the greater of `base` and the totals in the records that are
//!   still in the journal. So the part that is in no record yet is always `live - journaled`, even after a kill at any
//!   instruction: an add that was completed is neither lost nor counted twice.
//! - Each row of a batch has the slot's total next to the increment. `base` is advanced once the record is on disk, and a
//!   record is released only once the sink has it and `base` is on disk.
//! - A batch reaches the sink at least once, always under the same (source, sequence), in order. A sink that stores the
//!   last sequence of each source in the same transaction applies it exactly once.
//! - A slot gets new labels only while no one holds it and `live == base`.
//!
//! A loss of power loses counts that are in no synced record (those of about [`SYNC_MS`]), and never counts
//! any twice. Nothing is lost while the journal is full: the difference grows in the table until there is
//! room.
//!
//! Does not know: what a key is, the store, or clocks: the caller passes the time.

mod batch;
mod count;
mod labels;
mod spool;
mod table;
mod usage_tables;
mod worker;
#[cfg(test)]
mod tests;

pub use batch::{SpooledBatch, SpooledRow};
pub use count::CallCounts;
pub use labels::OTHER;
pub use spool::UsageSpool;
pub use usage_tables::{COLLECT_BACKLOG_MS, COLLECT_MS, Config, SLOTS, SYNC_MS, UsageTables};
pub use worker::{CounterSlot, WorkerCounters};
