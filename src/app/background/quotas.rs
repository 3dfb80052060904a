//! Tells the counters of quotas what they did not count: what other gateways and earlier processes used, and what this
//! process counted before the key had a quota.
//!
//! What a key used is the total of the store, what the journal and the tables of workers have beyond it, and its calls in
//! flight. Its counters have the last, and a part of the others (`QuotaCounters::in_usage`). The rest is told to them, anew at
//! each refresh: workers learn of a new quota one after the other, and calls that began without it end long after.
//!
//! Nothing is delivered between the reading of the store and of the journal, so that a call is in one of them.
//!
//! While the store is away, the last values stay. A process that starts meanwhile takes those of a snapshot on disk, and
//! adds what the journal has beyond it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::journal::Sequence;
use crate::journal::usage::{CallCounts, SpooledBatch, UsageSpool};
use crate::limits::{BaseUpdate, KeyUsage, Limits};
use metamcp_core::base::{KeyId, unix_seconds};
use metamcp_store::auth::{Authenticator, SnapshotFile, SnapshotWriter};
use metamcp_store::store::{KeyTotals, Period, UsedAmount};

/// The file in the data directory with what was used, as last read from a database server.
const SNAPSHOT: &str = "quotas.sealed";

/// Time between two looks at what others used. A gateway may admit so much longer what another one has used up already.
const REFRESH: Duration = Duration::from_secs(1);

/// Time between two snapshots: each waits for the disk.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(10);

/// For the store to return the totals: one row for each key with a quota, day and month.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Times that the tables are read in one refresh, until no call ends meanwhile. Reading them takes much less than a
/// millisecond, so a later one nearly always succeeds; the next refresh reads them again.
const READS_MAX: usize = 8;

/// Keeps the counters of keys with a quota up to date. Belongs to the task that delivers usage.
pub struct QuotaSync {
    auth: Arc<Authenticator>,
    limits: Arc<Limits>,
    /// `None` if the store is in the data directory.
    snapshots: Option<Arc<SnapshotWriter<QuotaSnapshot>>>,
    written: Option<(Instant, QuotaSnapshot)>,
    /// Batches up to this one are of earlier processes.
    earlier: Sequence,
    /// Whether all of those are delivered.
    has_delivered_earlier: bool,
    /// The last batch that was delivered, by source and sequence.
    last_delivered: Option<(u128, u64)>,
    tracked: HashMap<KeyId, TrackedKey>,
    refreshed: Option<Instant>,
}

/// A key with a quota.
#[derive(Clone)]
struct TrackedKey {
    usage: Arc<KeyUsage>,
    /// `Replace` until the counters have the totals of the store.
    update: BaseUpdate,
}

/// The totals of the store, and the counters to be told.
pub struct QuotaRefresh {
    /// The time of the totals: Unix time in seconds.
    at: u64,
    totals: BTreeMap<String, KeyTotals>,
    keys: Vec<(KeyId, TrackedKey)>,
}

/// What was used, as last read from the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct QuotaSnapshot {
    /// Unix time in seconds.
    at: u64,
    /// The last batch of the journal that is part of it, by source and sequence.
    batch: Option<(u128, u64)>,
    keys: BTreeMap<String, KeyTotals>,
}

/// What some keys used beyond what the store has, in the day and the month of a time.
#[derive(Clone)]
struct UndeliveredUsage<'a> {
    /// Unix time in seconds.
    at: u64,
    /// By the id of the key, which is one with a quota.
    keys: HashMap<&'a str, KeyTotals>,
}

impl<'a> UndeliveredUsage<'a> {
    /// Nothing yet, for each of these keys.
    fn new(at: u64, keys: impl Iterator<Item = &'a KeyId>) -> Self {
        Self { at, keys: keys.map(|key_id| (key_id.as_str(), KeyTotals::default())).collect() }
    }

    /// Adds what a key used at a time. Other keys are skipped.
    fn add(&mut self, key: &str, unix_s: u64, amount: UsedAmount) {
        if let Some(totals) = self.keys.get_mut(key) {
            let amount = in_periods_of(self.at, unix_s, KeyTotals { day: amount, month: amount });
            *totals = sum(*totals, amount);
        }
    }

    /// Adds the rows of a batch.
    fn add_batch(&mut self, batch: &SpooledBatch) {
        let at = batch.until_unix_ms / 1000;
        for row in batch.rows() {
            self.add(row.key, at, used_amount(row.count));
        }
    }

    fn of(&self, key: &str) -> KeyTotals {
        self.keys.get(key).copied().unwrap_or_default()
    }
}

/// Of totals of one time, what counts in the day and the month of `at`. Either may be the later one: clocks are set back.
fn in_periods_of(at: u64, unix_s: u64, mut totals: KeyTotals) -> KeyTotals {
    for period in Period::ALL {
        if period.begin(unix_s) != period.begin(at) {
            *totals.of_mut(period) = UsedAmount::default();
        }
    }
    totals
}

fn zip(one: KeyTotals, other: KeyTotals, with: impl Fn(UsedAmount, UsedAmount) -> UsedAmount) -> KeyTotals {
    KeyTotals { day: with(one.day, other.day), month: with(one.month, other.month) }
}

fn sum(one: KeyTotals, other: KeyTotals) -> KeyTotals {
    zip(one, other, UsedAmount::plus)
}

fn difference(one: KeyTotals, other: KeyTotals) -> KeyTotals {
    zip(one, other, UsedAmount::minus)
}

impl QuotaSync {
    /// `data_dir` is where snapshots are kept; `None` if the store cannot be away.
    pub fn new(auth: Arc<Authenticator>, limits: Arc<Limits>, data_dir: Option<&Path>) -> Self {
        let file = data_dir.map(|folder| SnapshotFile::for_quotas(folder.join(SNAPSHOT)));
        let snapshots = file.map(|file| SnapshotWriter::new(file, Arc::clone(auth.sealer())));
        Self {
            auth,
            limits,
            snapshots,
            written: None,
            earlier: Sequence(0),
            has_delivered_earlier: true,
            last_delivered: None,
            tracked: HashMap::new(),
            refreshed: None,
        }
    }

    /// Says which batches are of earlier processes. Before anything is counted.
    pub fn set_earlier(&mut self, last: Sequence) {
        (self.earlier, self.has_delivered_earlier) = (last, false);
    }

    /// Whether the store may be asked: it answered when the keys were read.
    pub fn is_store_there(&self) -> bool {
        self.auth.health().outage.is_none()
    }

    pub fn has_quotas(&self) -> bool {
        !self.tracked.is_empty() || !self.auth.keys_with_quotas().is_empty()
    }

    /// Notes whether the store has the batches of earlier processes. Until then, its totals are incomplete.
    pub fn note_earlier_delivered(&mut self, outbox: &UsageSpool) {
        self.has_delivered_earlier = self.has_delivered_earlier || outbox.is_delivered(self.earlier);
    }

    /// Notes that the store has a batch now.
    pub fn note_delivered(&mut self, batch: &SpooledBatch) {
        self.last_delivered = Some((batch.source, batch.sequence.0));
    }

    /// Whether it is time to refresh the counters, and there is a key with a quota.
    pub fn is_due(&self) -> bool {
        self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) && self.has_quotas()
    }

    /// Tracks the keys that have a quota now.
    pub fn track(&mut self) {
        let keys: HashSet<KeyId> = self.auth.keys_with_quotas().into_iter().collect();
        self.tracked.retain(|key_id, _| keys.contains(key_id));
        for key_id in keys {
            let new = || TrackedKey { usage: self.limits.key_usage(key_id), update: BaseUpdate::Replace };
            self.tracked.entry(key_id).or_insert_with(new);
        }
    }

    /// Reads from the store what was used. `None` if it did not answer, or does not have everything that earlier processes
    /// counted.
    pub async fn read_totals(&mut self) -> Option<QuotaRefresh> {
        self.refreshed = Some(Instant::now());
        if !self.has_delivered_earlier || self.tracked.is_empty() {
            return None;
        }
        let at = unix_seconds();
        let totals = timeout(READ_TIMEOUT, self.auth.store().key_totals(at)).await.ok()?.ok()?;
        let keys = self.tracked.iter().map(|(key_id, key)| (*key_id, key.clone())).collect();
        Some(QuotaRefresh { at, totals: totals.into_iter().collect(), keys })
    }

    /// Notes that the counters have been told.
    pub fn finish_refresh(&mut self, refresh: QuotaRefresh) {
        self.tracked.values_mut().for_each(|key| key.update = BaseUpdate::Raise);
        let batch = self.last_delivered;
        self.write_snapshot(QuotaSnapshot { at: refresh.at, batch, keys: refresh.totals });
    }

    fn write_snapshot(&mut self, snapshot: QuotaSnapshot) {
        let Some(writer) = &self.snapshots else { return };
        let is_due = self.written.as_ref().is_none_or(|(at, written)| {
            at.elapsed() >= SNAPSHOT_INTERVAL
                && (&written.keys, written.batch) != (&snapshot.keys, snapshot.batch)
        });
        if is_due {
            writer.enqueue(snapshot.clone());
            self.written = Some((Instant::now(), snapshot));
        }
    }

    /// Makes the next refresh write a snapshot: the process ends.
    pub fn expire_snapshot(&mut self) {
        (self.written, self.refreshed) = (None, None);
    }

    /// Without the store: counts what the last snapshot and the journal have.
    pub fn estimate(&mut self, outbox: &UsageSpool) {
        let now = unix_seconds();
        let snapshot = self.read_snapshot();
        let mut undelivered = UndeliveredUsage::new(now, self.tracked.keys());
        outbox.visit_undelivered(Sequence(0), |batch| {
            if snapshot.batch == Some((batch.source, batch.sequence.0)) {
                // The snapshot has all batches up to this one.
                undelivered = UndeliveredUsage::new(now, self.tracked.keys());
            } else {
                undelivered.add_batch(batch);
            }
        });
        for (key_id, key) in &self.tracked {
            let known = snapshot.keys.get(key_id.as_str()).copied().unwrap_or_default();
            let known = in_periods_of(now, snapshot.at, known);
            let base = sum(known, undelivered.of(key_id.as_str()));
            key.usage.quota().set_base(&base, now, BaseUpdate::Replace);
        }
        let keys = self.tracked.len();
        tracing::warn!(
            keys,
            "quotas start from the last snapshot and the usage journal, because the store does not answer"
        );
    }

    fn read_snapshot(&self) -> QuotaSnapshot {
        let Some(writer) = &self.snapshots else { return QuotaSnapshot::default() };
        match writer.file().read(self.auth.sealer()) {
            Ok(snapshot) => snapshot.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "cannot read what keys with a quota used; counting the journal alone");
                QuotaSnapshot::default()
            }
        }
    }
}

impl QuotaRefresh {
    /// Tells the counters what they did not count. `outbox` has what is not delivered; `None` if usage is not counted. Waits
    /// for the disk.
    pub fn apply(&self, outbox: Option<&UsageSpool>) {
        let mut journaled = UndeliveredUsage::new(self.at, self.keys.iter().map(|(key_id, _)| key_id));
        if let Some(outbox) = outbox {
            outbox.visit_undelivered(Sequence(0), |batch| journaled.add_batch(batch));
        }
        let mut in_usage = self.in_usage();
        for read in 0..READS_MAX {
            let mut undelivered = journaled.clone();
            if let Some(outbox) = outbox {
                outbox.visit_uncollected(|key, count| undelivered.add(key, self.at, used_amount(count)));
            }
            // Read after the tables: so what is told is never too much, and exact if no call ended meanwhile.
            let before = std::mem::replace(&mut in_usage, self.in_usage());
            self.set_bases(&undelivered, &in_usage, read == 0);
            if in_usage == before {
                return;
            }
        }
    }

    /// What the counters of each key and usage both have.
    fn in_usage(&self) -> Vec<KeyTotals> {
        self.keys.iter().map(|(_, key)| key.usage.quota().in_usage(self.at)).collect()
    }

    fn set_bases(&self, undelivered: &UndeliveredUsage<'_>, in_usage: &[KeyTotals], is_first: bool) {
        for ((key_id, key), in_usage) in self.keys.iter().zip(in_usage) {
            let delivered = self.totals.get(key_id.as_str()).copied().unwrap_or_default();
            let base = difference(sum(delivered, undelivered.of(key_id.as_str())), *in_usage);
            let update = if is_first { key.update } else { BaseUpdate::Raise };
            key.usage.quota().set_base(&base, self.at, update);
        }
    }
}

fn used_amount(count: CallCounts) -> UsedAmount {
    UsedAmount { calls: count.calls, bytes: count.bytes_in.saturating_add(count.bytes_out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the middle of a month: 2023-11-14, 12:00 UTC.
    const NOON: u64 = 1_699_963_200;
    const DAY: u64 = 86_400;

    /// Calls at these times give this day and this month at noon.
    #[track_caller]
    fn check(times: &[u64], expected: [u64; 2]) {
        let key = KeyId::ANONYMOUS;
        let mut undelivered = UndeliveredUsage::new(NOON, std::iter::once(&key));
        for at in times {
            undelivered.add(key.as_str(), *at, UsedAmount { calls: 1, bytes: 10 });
            undelivered.add("another", *at, UsedAmount { calls: 1, bytes: 10 });
        }
        let KeyTotals { day, month } = undelivered.of(key.as_str());
        assert_eq!([day.calls, month.calls], expected, "{times:?}");
        assert_eq!([day.bytes, month.bytes], expected.map(|calls| calls * 10), "{times:?}");
    }

    #[test]
    fn usage_counts_in_the_periods_of_the_time_asked_for() {
        check(&[], [0, 0]);
        check(&[NOON, NOON + 1], [2, 2]);
        check(&[NOON - DAY, NOON], [1, 2]);
        check(&[NOON - 40 * DAY, NOON], [1, 1]);
        // The clock was ahead and was set back.
        check(&[NOON + 40 * DAY, NOON], [1, 1]);
        check(&[NOON + DAY, NOON, NOON - 1], [2, 3]);
    }
}
