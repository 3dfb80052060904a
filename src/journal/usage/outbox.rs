//! From the tables into the journal, and from there to the sink.

use std::sync::Arc;

use super::batch::{Batch, Draft};
use super::count::Count;
use super::table::{Names, Table};
use super::{COLLECT_BACKLOG_MS, COLLECT_MS, KIND, SYNC_MS};
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
    synced_ms: Option<u64>,
    /// When the sink last refused.
    refused_ms: Option<u64>,
    deferrals: u64,
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

/// Why not all went through. Whatever it is, the next call tries again.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError<E> {
    /// The journal, or its disk.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The sink refused a batch; it gets the same one again.
    #[error("the usage could not be handed on: {0}")]
    Sink(E),
}

/// One record. Larger ones would save nothing, and a sink has to hold one.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Batches taken out of the journal at once: 4 MiB of them.
const PENDING_MAX: usize = 64;

/// From a refusal of the sink to the next attempt: each reads the waiting batches again.
const RETRY_MS: u64 = 1_000;

/// So many waiting batches mean that the sink is away. Together 16 MiB at most: a quarter of the journal.
const BACKLOG_MAX: u64 = 256;

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
        Self {
            journal,
            tables,
            applied,
            synced,
            collected_ms: None,
            synced_ms: None,
            refused_ms: None,
            deferrals: 0,
        }
    }

    /// Does what is due by now, milliseconds since 1970: to be called every [`COLLECT_MS`]. Each step is tried
    /// whatever becomes of the others; the first error is told. Gives how many batches the sink took.
    pub fn tick<E>(
        &mut self,
        now_unix_ms: u64,
        sink: impl FnMut(u128, Sequence, &Batch) -> Result<(), E>,
    ) -> Result<u64, OutboxError<E>> {
        let pace = if self.backlog() < BACKLOG_MAX { COLLECT_MS } else { COLLECT_BACKLOG_MS };
        let (mut collected, mut synced, mut delivered) = (Ok(()), Ok(()), Ok(0));
        if is_due(self.collected_ms, pace, now_unix_ms) {
            collected = self.collect(now_unix_ms);
        }
        if is_due(self.synced_ms, SYNC_MS, now_unix_ms) {
            self.synced_ms = Some(now_unix_ms);
            synced = self.sync();
        }
        if is_due(self.refused_ms, RETRY_MS, now_unix_ms) {
            delivered = self.deliver(sink);
            self.refused_ms = matches!(delivered, Err(OutboxError::Sink(_))).then_some(now_unix_ms);
        }
        self.not_full(collected)?;
        synced?;
        delivered
    }

    /// Does all of it at once, due or not: for an orderly end, when the workers have stopped. Gives how many batches
    /// the sink took.
    pub fn flush<E>(
        &mut self,
        now_unix_ms: u64,
        sink: impl FnMut(u128, Sequence, &Batch) -> Result<(), E>,
    ) -> Result<u64, OutboxError<E>> {
        let collected = self.collect(now_unix_ms);
        let synced = self.sync();
        let delivered = self.deliver(sink);
        self.not_full(collected)?;
        synced?;
        delivered
    }

    /// A full journal is no error: what did not go in waits in the tables.
    fn not_full(&mut self, collected: Result<(), JournalError>) -> Result<(), JournalError> {
        let full = matches!(collected, Err(JournalError::Full));
        self.deferrals += u64::from(full);
        if full { Ok(()) } else { collected }
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

    /// Hands on the batches that are safe on disk, in order, until there are none or one is refused.
    ///
    /// The sink may get a batch more than once, also from a later process, always with the same source and
    /// sequence: it must do nothing, and say Ok, when it has had this sequence, or a later one, of this source.
    pub fn deliver<E>(
        &mut self,
        mut sink: impl FnMut(u128, Sequence, &Batch) -> Result<(), E>,
    ) -> Result<u64, OutboxError<E>> {
        let mut count = 0;
        loop {
            let pending = self.pending()?;
            let Some(last) = pending.last().map(|batch| batch.sequence) else { return Ok(count) };
            for batch in &pending {
                if let Err(error) = sink(batch.source, batch.sequence, batch) {
                    // What it took before stays taken.
                    self.applied(Sequence(batch.sequence.0 - 1))?;
                    return Err(OutboxError::Sink(error));
                }
                count += 1;
            }
            self.applied(last)?;
        }
    }

    /// The next batches to apply, oldest first, a few at a time: for a sink that is not a closure.
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

    /// Records that the sink does not have yet.
    pub fn backlog(&self) -> u64 {
        self.journal.next_sequence().0.saturating_sub(self.applied.0 + 1)
    }

    /// How often the journal was full. Nothing is lost by it: what was counted stays in the tables for later.
    pub fn deferrals(&self) -> u64 {
        self.deferrals
    }

    /// What the journal takes of the disk, tables not counted.
    pub fn bytes(&self) -> u64 {
        self.journal.bytes()
    }
}

fn is_due(last: Option<u64>, pace: u64, now: u64) -> bool {
    // A clock that was set back must not stop it.
    last.is_none_or(|last| now < last || now - last >= pace)
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
