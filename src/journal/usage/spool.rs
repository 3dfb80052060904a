//! Moves counts from the tables into the journal, and from there to the sink.

use std::sync::Arc;

use super::batch::{BATCH_RECORD_KIND, BatchBuilder, SpooledBatch};
use super::count::CallCounts;
use super::labels::CounterLabels;
use super::table::Table;
use crate::journal::error::JournalError;
use crate::journal::log::Journal;
use crate::journal::record::Sequence;

/// Spools counts: from the tables into batches in the journal, which the sink fetches and acknowledges. Owned by one
/// background thread, because it waits for the disk.
///
/// Invariant: `applied <= synced < journal.next_sequence()`.
pub struct UsageSpool {
    journal: Journal,
    tables: Vec<TrackedTable>,
    /// The sink has all batches up to this one.
    applied: Sequence,
    /// All batches up to this one are on disk, together with the counters they were made of.
    synced: Sequence,
    collected_ms: Option<u64>,
}

/// A table, and how much of it is in the journal.
struct TrackedTable {
    table: Arc<Table>,
    journaled: Vec<CallCounts>,
    /// Slots whose `base` is behind `journaled`.
    behind: Vec<usize>,
    /// No worker uses the table. It is deleted once all of it is in the journal.
    retired: bool,
}

/// The size limit of a record. Larger ones would save nothing, and the sink has to hold one in memory.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Batches taken from the journal at a time: 4 MiB.
const PENDING_MAX: usize = 64;

impl UsageSpool {
    pub(super) fn new(journal: Journal, tables: &[Arc<Table>], retired: Vec<Table>) -> Self {
        let track = |table: Arc<Table>, retired| {
            let journaled = table.bases();
            TrackedTable { table, journaled, behind: Vec::new(), retired }
        };
        let live = tables.iter().map(|table| track(Arc::clone(table), false));
        let retired = retired.into_iter().map(|table| track(Arc::new(table), true));
        let tables = live.chain(retired).collect();
        let (applied, synced) = (Sequence(0), Sequence(0));
        Self { journal, tables, applied, synced, collected_ms: None }
    }

    /// Writes what was counted since the last call into the journal.
    ///
    /// `Full`: what did not fit stays in the tables until the next call.
    pub fn collect(&mut self, now_unix_ms: u64) -> Result<(), JournalError> {
        let from = self.collected_ms.replace(now_unix_ms).unwrap_or(0);
        let bytes_max = self.journal.payload_max().min(BATCH_BYTES_MAX);
        let mut builder = BatchBuilder::new(from, now_unix_ms, bytes_max);
        for at in 0..self.tables.len() {
            for slot in 0..self.tables[at].journaled.len() {
                let tracked = &self.tables[at];
                let Some((labels, live)) = tracked.unjournaled(slot) else { continue };
                let (table, before) = (tracked.table.id(), tracked.journaled[slot]);
                if !builder.fits(&labels) {
                    self.commit(builder)?;
                    builder = BatchBuilder::new(from, now_unix_ms, bytes_max);
                }
                builder.push((at, table), slot, &labels, before, live);
            }
        }
        self.commit(builder)
    }

    fn commit(&mut self, mut builder: BatchBuilder) -> Result<(), JournalError> {
        if builder.rows.is_empty() {
            return self.journal.prepare();
        }
        // A full disk is reported once the current segment is full as well.
        let prepared = self.journal.prepare();
        match self.journal.append(BATCH_RECORD_KIND, builder.payload()) {
            Err(JournalError::Full) => return prepared.and(Err(JournalError::Full)),
            appended => appended?,
        };
        for (at, slot, total) in builder.rows {
            self.tables[at].journaled[slot] = total;
            self.tables[at].behind.push(slot);
        }
        Ok(())
    }

    /// Waits until all batches, and the counters they were made of, are on disk. Then the sink may have them.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let last = Sequence(self.journal.next_sequence().0.saturating_sub(1));
        self.journal.sync()?;
        self.sync_tables()?;
        for TrackedTable { table, journaled, behind, .. } in &mut self.tables {
            if !behind.is_empty() {
                behind.drain(..).for_each(|slot| table.set_base(slot, journaled[slot]));
                table.note_base_advanced();
            }
        }
        self.synced = last;
        self.drop_retired()
    }

    fn sync_tables(&mut self) -> Result<(), JournalError> {
        let folder = self.journal.folder();
        self.tables.iter().try_for_each(|tracked| tracked.table.sync(folder))
    }

    fn drop_retired(&mut self) -> Result<(), JournalError> {
        let folder = self.journal.folder();
        let done = |tracked: &TrackedTable| {
            tracked.retired && (0..tracked.journaled.len()).all(|slot| tracked.unjournaled(slot).is_none())
        };
        for tracked in self.tables.iter().filter(|tracked| done(tracked)) {
            folder.remove(tracked.table.name())?;
        }
        self.tables.retain(|tracked| !done(tracked));
        Ok(())
    }

    /// The number of the last batch in the journal.
    pub fn last_sequence(&self) -> Sequence {
        Sequence(self.journal.next_sequence().0.saturating_sub(1))
    }

    /// Whether the sink has all batches up to this one.
    pub fn is_delivered(&self, sequence: Sequence) -> bool {
        // An earlier process may have delivered everything, and no record is left of it.
        let next = || self.journal.read_from(Sequence(self.applied.0 + 1)).find_map(Result::ok);
        self.applied >= sequence || next().is_none_or(|record| record.sequence > sequence)
    }

    /// Visits the batches after this one that the sink may not have yet.
    pub fn visit_undelivered(&self, after: Sequence, mut visit: impl FnMut(&SpooledBatch)) {
        let from = after.max(self.applied).0 + 1;
        // An unreadable segment is reported when it is to be delivered.
        for record in self.journal.read_from(Sequence(from)).filter_map(Result::ok) {
            SpooledBatch::decode(record).iter().for_each(&mut visit);
        }
    }

    /// Visits what was counted, by key, and is in no batch yet.
    pub fn visit_uncollected(&self, mut visit: impl FnMut(&str, CallCounts)) {
        for tracked in &self.tables {
            for slot in 0..tracked.journaled.len() {
                if let Some((labels, live)) = tracked.unjournaled(slot) {
                    visit(labels.parts()[0], live.since(tracked.journaled[slot]));
                }
            }
        }
    }

    /// The next few batches for the sink that are safely on disk, oldest first. The same batches are returned until they
    /// are acknowledged with `applied`.
    ///
    /// The sink may get a batch more than once, also from a later process, and always with the same source and sequence.
    /// It must ignore a batch if it has applied this sequence, or a later one, of this source.
    ///
    /// A segment that was damaged while in use is reported once and then skipped.
    pub fn pending_batches(&mut self) -> Result<Vec<SpooledBatch>, JournalError> {
        let (mut found, mut last_read) = (Vec::new(), self.applied);
        if self.applied >= self.synced {
            return Ok(found);
        }
        for record in self.journal.read_from(Sequence(self.applied.0 + 1)) {
            match record {
                Ok(record) if record.sequence > self.synced || found.len() >= PENDING_MAX => break,
                Ok(record) => {
                    last_read = record.sequence;
                    found.extend(SpooledBatch::decode(record));
                }
                Err(JournalError::Damaged { path, last }) if found.is_empty() => {
                    self.acknowledge(last)?;
                    return Err(JournalError::Damaged { path, last });
                }
                // Reported once the batches before it are acknowledged.
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            // Records that are not batches have no reader.
            self.acknowledge(last_read)?;
        }
        Ok(found)
    }

    /// Acknowledges all batches up to this one: the sink has applied them.
    pub fn acknowledge(&mut self, sequence: Sequence) -> Result<(), JournalError> {
        self.applied = self.applied.max(sequence);
        if self.journal.can_release(self.applied) {
            // Once the records are released, only `base` remembers their counts.
            self.sync_tables()?;
            self.journal.release_until(self.applied)?;
        }
        Ok(())
    }
}

impl TrackedTable {
    /// The labels and counters of a slot that has counts which are not in the journal. `None` if it has none, which is also
    /// the case while its worker changes the labels.
    fn unjournaled(&self, slot: usize) -> Option<(CounterLabels, CallCounts)> {
        let version = self.table.version(slot);
        let live = self.table.live(slot);
        if live == self.journaled[slot] || !version.is_multiple_of(2) {
            return None;
        }
        let labels = self.table.labels(slot).unwrap_or_else(CounterLabels::other);
        // Everything above must be read before the version below.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        (self.table.version(slot) == version).then_some((labels, live))
    }
}
