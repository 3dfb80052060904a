//! From the tables into the journal, and from there to the sink.

use std::sync::Arc;

use super::KIND;
use super::batch::{Batch, Draft};
use super::count::Count;
use super::table::{Names, Table};
use crate::journal::{Journal, JournalError, Sequence};

/// Takes what the workers counted to where it is kept. Belongs to one background thread: it waits for the disk.
///
/// Invariant: `applied <= synced < journal.next_sequence()`.
pub struct Outbox {
    journal: Journal,
    tables: Vec<Tracked>,
    /// The sink has all up to it.
    applied: Sequence,
    /// The disk has all up to it, and the counters that it was made of.
    synced: Sequence,
    collected_ms: Option<u64>,
}

/// A table and how much of it is in the journal.
struct Tracked {
    table: Arc<Table>,
    journaled: Vec<Count>,
    /// Slots whose `base` is behind.
    unsettled: Vec<usize>,
    /// No worker has it; it goes when all of it is in the journal.
    retired: bool,
}

/// One record. Larger ones would save nothing, and a sink has to hold one.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Batches taken out of the journal at once: 4 MiB of them.
const PENDING_MAX: usize = 64;

impl Outbox {
    pub(super) fn new(journal: Journal, tables: &[Arc<Table>], retired: Vec<Table>) -> Self {
        let track = |table: Arc<Table>, retired| {
            let journaled = table.bases();
            Tracked { table, journaled, unsettled: Vec::new(), retired }
        };
        let live = tables.iter().map(|table| track(Arc::clone(table), false));
        let retired = retired.into_iter().map(|table| track(Arc::new(table), true));
        let tables = live.chain(retired).collect();
        let (applied, synced) = (Sequence(0), Sequence(0));
        Self { journal, tables, applied, synced, collected_ms: None }
    }

    /// Writes what was counted since the last time into the journal.
    ///
    /// `Full`: what did not go in stays in the tables, for the next time.
    pub fn collect(&mut self, now_unix_ms: u64) -> Result<(), JournalError> {
        let from = self.collected_ms.replace(now_unix_ms).unwrap_or(0);
        let bytes_max = self.journal.payload_max().min(BATCH_BYTES_MAX);
        let mut draft = Draft::new(from, now_unix_ms, bytes_max);
        for at in 0..self.tables.len() {
            for slot in 0..self.tables[at].journaled.len() {
                let tracked = &self.tables[at];
                let Some((names, live)) = tracked.news(slot) else { continue };
                let (table, before) = (tracked.table.id(), tracked.journaled[slot]);
                if !draft.fits(&names) {
                    self.commit(draft)?;
                    draft = Draft::new(from, now_unix_ms, bytes_max);
                }
                draft.push((at, table), slot, &names, before, live);
            }
        }
        self.commit(draft)
    }

    fn commit(&mut self, mut draft: Draft) -> Result<(), JournalError> {
        if draft.rows.is_empty() {
            return self.journal.prepare();
        }
        // A full disk is told when the segment in use is full as well.
        let prepared = self.journal.prepare();
        match self.journal.append(KIND, draft.payload()) {
            Err(JournalError::Full) => return prepared.and(Err(JournalError::Full)),
            appended => appended?,
        };
        for (at, slot, total) in draft.rows {
            self.tables[at].journaled[slot] = total;
            self.tables[at].unsettled.push(slot);
        }
        Ok(())
    }

    /// Waits until the disk has all batches, and the counters behind them. After that the sink gets them.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let last = Sequence(self.journal.next_sequence().0.saturating_sub(1));
        self.journal.sync()?;
        self.sync_tables()?;
        for Tracked { table, journaled, unsettled, .. } in &mut self.tables {
            if !unsettled.is_empty() {
                unsettled.drain(..).for_each(|slot| table.set_base(slot, journaled[slot]));
                table.note_settled();
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
        let done = |tracked: &Tracked| {
            tracked.retired && (0..tracked.journaled.len()).all(|slot| tracked.news(slot).is_none())
        };
        for tracked in self.tables.iter().filter(|tracked| done(tracked)) {
            folder.remove(tracked.table.name())?;
        }
        self.tables.retain(|tracked| !done(tracked));
        Ok(())
    }

    /// The next batches to hand on that are safe on disk, oldest first, a few at a time. They stay the next ones until
    /// they are said to be [`applied`](Self::applied).
    ///
    /// The sink may get a batch more than once, also from a later process, always with the same source and
    /// sequence: it must do nothing when it has had this sequence, or a later one, of this source.
    ///
    /// A segment that was damaged while in use is told once, and then passed over.
    pub fn pending(&mut self) -> Result<Vec<Batch>, JournalError> {
        let (mut found, mut passed) = (Vec::new(), self.applied);
        if self.applied >= self.synced {
            return Ok(found);
        }
        for record in self.journal.read_from(Sequence(self.applied.0 + 1)) {
            match record {
                Ok(record) if record.sequence > self.synced || found.len() >= PENDING_MAX => break,
                Ok(record) => {
                    passed = record.sequence;
                    found.extend(Batch::decode(record));
                }
                Err(JournalError::Damaged { path, last }) if found.is_empty() => {
                    self.applied(last)?;
                    return Err(JournalError::Damaged { path, last });
                }
                // Told when what stands before it is applied.
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            // Records that are no batches are nobody's.
            self.applied(passed)?;
        }
        Ok(found)
    }

    /// The sink has all batches up to this one.
    pub fn applied(&mut self, sequence: Sequence) -> Result<(), JournalError> {
        self.applied = self.applied.max(sequence);
        if self.journal.releases(self.applied) {
            // From here on only `base` knows what was in those records.
            self.sync_tables()?;
            self.journal.release_until(self.applied)?;
        }
        Ok(())
    }
}

impl Tracked {
    /// What a slot has that the journal does not. None also while its worker gives it another name: there
    /// is nothing new in it then.
    fn news(&self, slot: usize) -> Option<(Names, Count)> {
        let version = self.table.version(slot);
        let live = self.table.live(slot);
        if live == self.journaled[slot] || !version.is_multiple_of(2) {
            return None;
        }
        let names = self.table.names(slot).unwrap_or_else(Names::other);
        // Nothing read above may be younger than the version read below.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        (self.table.version(slot) == version).then_some((names, live))
    }
}
