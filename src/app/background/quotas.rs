//! Tells the counters of quotas what others used: other gateways, and earlier processes of this one.
//!
//! The store has what was delivered, of this process too. So what others used is the total of the store without what this
//! process delivered. Both are read between two deliveries, so that a call is in neither of them or in both.
//!
//! While the store is away, the last values stay. A process that starts meanwhile takes those of a snapshot on disk, and
//! adds what the journal has beyond it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::journal::Sequence;
use crate::journal::usage::{SpooledBatch, UsageSpool};
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

/// Keys whose deliveries are remembered. Beyond it, those without a quota are forgotten.
const KEYS_MAX: usize = 65_536;

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
    /// What this process counted and delivered, by key id.
    delivered: HashMap<String, PeriodTotals>,
    tracked: HashMap<KeyId, TrackedKey>,
    refreshed: Option<Instant>,
}

/// A key with a quota.
struct TrackedKey {
    usage: Arc<KeyUsage>,
    /// What this process counted of the key before it had a quota: the key's counters do not have it.
    uncounted: PeriodTotals,
    /// Whether the counters have the totals of the store.
    is_loaded: bool,
}

/// What was used in one day and one month.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeriodTotals {
    begins: [u64; Period::ALL.len()],
    totals: KeyTotals,
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

/// What the journal has of some keys.
pub type UndeliveredUsage = HashMap<String, PeriodTotals>;

impl PeriodTotals {
    /// Adds what was used at a time. What lies in an earlier day or month than the last does not count in it any more.
    pub fn add(&mut self, unix_s: u64, amount: UsedAmount) {
        for period in Period::ALL {
            let (begin, known) = (period.begin(unix_s), &mut self.begins[period as usize]);
            if begin > *known {
                *known = begin;
                *self.totals.of_mut(period) = UsedAmount::default();
            }
            if begin == *known {
                let sum = self.totals.of_mut(period);
                *sum = sum.plus(amount);
            }
        }
    }

    /// What counts in the day and month of a time.
    pub fn at(&self, unix_s: u64) -> KeyTotals {
        let mut totals = self.totals;
        for period in Period::ALL {
            if self.begins[period as usize] != period.begin(unix_s) {
                *totals.of_mut(period) = UsedAmount::default();
            }
        }
        totals
    }

    /// These totals, which are those of the time.
    pub fn from_totals(unix_s: u64, totals: KeyTotals) -> Self {
        Self { begins: Period::ALL.map(|period| period.begin(unix_s)), totals }
    }
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
            delivered: HashMap::new(),
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

    /// Batches up to this one are of earlier processes.
    pub fn earlier(&self) -> Sequence {
        self.earlier
    }

    /// Notes whether the store has the batches of earlier processes. Until then, its totals are incomplete.
    pub fn note_earlier_delivered(&mut self, outbox: &UsageSpool) {
        self.has_delivered_earlier = self.has_delivered_earlier || outbox.is_delivered(self.earlier);
    }

    /// Notes that the store has a batch now.
    pub fn note_delivered(&mut self, batch: &SpooledBatch) {
        self.last_delivered = Some((batch.source, batch.sequence.0));
        if batch.sequence <= self.earlier {
            return;
        }
        if self.delivered.len() >= KEYS_MAX {
            let tracked = &self.tracked;
            self.delivered.retain(|key, _| KeyId::parse(key).is_some_and(|id| tracked.contains_key(&id)));
        }
        add_batch(batch, |key, at, amount| {
            self.delivered.entry(key.to_owned()).or_default().add(at, amount);
        });
    }

    /// Whether it is time for [`Self::refresh`], and there is a key with a quota.
    pub fn is_due(&self) -> bool {
        self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) && self.has_quotas()
    }

    /// Begins to track the keys that have a quota now, and forgets the others. `undelivered` returns what this process
    /// counted of some keys and did not deliver yet.
    pub fn track(&mut self, undelivered: impl FnOnce(&[KeyId]) -> UndeliveredUsage) {
        let keys = self.auth.keys_with_quotas();
        self.tracked.retain(|key_id, _| keys.contains(key_id));
        let new: Vec<_> = keys.into_iter().filter(|key_id| !self.tracked.contains_key(key_id)).collect();
        if new.is_empty() {
            return;
        }
        let (undelivered, now) = (undelivered(&new), unix_seconds());
        for key_id in new {
            let usage = self.limits.key_usage(key_id);
            let of = |counts: &HashMap<String, PeriodTotals>| {
                counts.get(key_id.as_str()).map(|totals| totals.at(now)).unwrap_or_default()
            };
            let counted = sum(of(&self.delivered), of(&undelivered));
            // Read last: a call that ends meanwhile must not look like one from before.
            let uncounted = difference(counted, usage.quota().local(now));
            let uncounted = PeriodTotals::from_totals(now, uncounted);
            self.tracked.insert(key_id, TrackedKey { usage, uncounted, is_loaded: false });
        }
    }

    /// Reads from the store what was used, and tells it to the counters. Returns false if the store did not answer.
    pub async fn refresh(&mut self) -> bool {
        self.refreshed = Some(Instant::now());
        if !self.has_delivered_earlier || self.tracked.is_empty() {
            return false;
        }
        let now = unix_seconds();
        let Ok(Ok(totals)) = timeout(READ_TIMEOUT, self.auth.store().key_totals(now)).await else {
            return false;
        };
        let totals: BTreeMap<String, KeyTotals> = totals.into_iter().collect();
        for (key_id, key) in &mut self.tracked {
            let own = self.delivered.get(key_id.as_str()).map(|delivered| delivered.at(now));
            let own = difference(own.unwrap_or_default(), key.uncounted.at(now));
            let total = totals.get(key_id.as_str()).copied().unwrap_or_default();
            let update = if key.is_loaded { BaseUpdate::Raise } else { BaseUpdate::Replace };
            key.usage.quota().set_base(&difference(total, own), now, update);
            key.is_loaded = true;
        }
        self.write_snapshot(QuotaSnapshot { at: now, batch: self.last_delivered, keys: totals });
        true
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
        let mut undelivered = UndeliveredUsage::new();
        outbox.visit_undelivered(Sequence(0), |batch| {
            if snapshot.batch == Some((batch.source, batch.sequence.0)) {
                // The snapshot has all batches up to this one.
                undelivered.clear();
            } else {
                add_batch(batch, |key, at, amount| {
                    undelivered.entry(key.to_owned()).or_default().add(at, amount);
                });
            }
        });
        for (key_id, key) in &self.tracked {
            let known = snapshot.keys.get(key_id.as_str()).copied().unwrap_or_default();
            let known = PeriodTotals::from_totals(snapshot.at, known).at(now);
            let more = undelivered.get(key_id.as_str()).map(|more| more.at(now)).unwrap_or_default();
            key.usage.quota().set_base(&sum(known, more), now, BaseUpdate::Replace);
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

/// What the journal and the tables have of some keys, after the batches of earlier processes.
pub fn find_undelivered(outbox: &UsageSpool, earlier: Sequence, keys: &[KeyId]) -> UndeliveredUsage {
    let mut found: UndeliveredUsage =
        keys.iter().map(|key| (key.as_str().to_owned(), PeriodTotals::default())).collect();
    outbox.visit_undelivered(earlier, |batch| {
        add_batch(batch, |key, at, amount| {
            if let Some(totals) = found.get_mut(key) {
                totals.add(at, amount);
            }
        });
    });
    let now = unix_seconds();
    outbox.visit_uncollected(|key, count| {
        if let Some(totals) = found.get_mut(key) {
            totals.add(now, UsedAmount { calls: count.calls, bytes: count.bytes_in + count.bytes_out });
        }
    });
    found
}

/// Adds the rows of a batch to the totals of their keys.
fn add_batch(batch: &SpooledBatch, mut add: impl FnMut(&str, u64, UsedAmount)) {
    let at = batch.until_unix_ms / 1000;
    for row in batch.rows() {
        let bytes = row.count.bytes_in.saturating_add(row.count.bytes_out);
        add(row.key, at, UsedAmount { calls: row.count.calls, bytes });
    }
}
