//! Delivers what workers count to the store. It goes through the journal, so that neither an outage of the
//! store nor a kill of the process loses a count or counts twice.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metamcp_core::base::{OutageLine, OutageLog, ShutdownPhase};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::quotas::QuotaSync;
use super::usage_journal::{OpenJournal, open_folder, public_folders};
use crate::journal::usage::{COLLECT_BACKLOG_MS, COLLECT_MS, SYNC_MS, SpooledBatch, UsageSpool};
use crate::journal::{self, FolderUse, JournalError};
use crate::runtime::{BlockingError, run_blocking};
use metamcp_store::store::{Store, StoreError, UsageBatch, UsageCounts, UsageKey, UsageRow};

/// For the store to accept one batch, which has some 500 rows and one round trip for each. After that the
/// store counts as unreachable.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// For the store to accept what earlier processes left, at a start with keys that have a quota. Clients wait for it.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts while the store is unreachable.
const RETRY: Duration = Duration::from_secs(1);

/// For the last batches to reach the store at shutdown; the rest waits for the next start.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at what other processes left. One that was replaced delivers its own counts before it ends, so there
/// is something only after a kill or an outage of the store.
const LEFTOVERS_POLL: Duration = Duration::from_secs(2);

/// Delivers what other gateways left in their folders: predecessors, and those that were killed while there were several.
/// Until `workers_ended` changes.
pub async fn deliver_leftovers(
    data_dir: PathBuf,
    store: Store,
    mut workers_ended: watch::Receiver<ShutdownPhase>,
) {
    let mut tick = interval(LEFTOVERS_POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Folders that had a user when they were last looked at, or were never looked at.
    let mut pending: BTreeSet<PathBuf> = public_folders(&data_dir).collect();
    loop {
        tokio::select! {
            biased;
            _ = workers_ended.changed() => return,
            _ = tick.tick() => {}
        }
        for folder in public_folders(&data_dir).filter(|folder| folder.exists()) {
            let is_used =
                matches!(journal::find_use(&folder), Ok(FolderUse::InUse { .. } | FolderUse::HandedOver));
            let is_done = !is_used && (!pending.contains(&folder) || deliver_folder(&folder, &store).await);
            if is_done {
                pending.remove(&folder);
            } else {
                pending.insert(folder);
            }
        }
    }
}

/// Delivers all that is in a folder that no process uses; false if some of it stays.
async fn deliver_folder(folder: &Path, store: &Store) -> bool {
    let opened = folder.to_owned();
    match run_blocking(move || open_folder(opened, 1)).await {
        Ok(Ok(Some(OpenJournal { spool, .. }))) => {
            let mut delivery = UsageDelivery::new(Some(spool), store.clone());
            delivery.write_journal(true, true).await;
            while delivery.deliver_oldest().await {}
            delivery.refused.is_none() && !delivery.has_write_failed
        }
        // Another process was faster.
        Ok(Err(JournalError::Locked { .. })) => false,
        Ok(Err(error)) => {
            tracing::error!(%error, "usage that another process left is not delivered");
            true
        }
        _ => false,
    }
}

/// Delivers counts until `workers_ended` changes, then delivers the rest within `SHUTDOWN_TIMEOUT`.
pub async fn deliver(mut delivery: UsageDelivery, mut workers_ended: watch::Receiver<ShutdownPhase>) {
    let mut tick = interval(Duration::from_millis(COLLECT_MS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_more = false;
    loop {
        tokio::select! {
            biased;
            _ = workers_ended.changed() => {
                // What remains is delivered at the next start.
                let _ = timeout(SHUTDOWN_TIMEOUT, delivery.finish()).await;
                return;
            }
            () = ready(()), if has_more => has_more = delivery.step(false).await,
            _ = tick.tick() => has_more = delivery.step(false).await,
        }
    }
}

/// Moves counts from the workers' tables to the store.
pub struct UsageDelivery {
    /// `None` while a blocking thread has it, and if there is no journal: the disk was full.
    outbox: Option<UsageSpool>,
    has_journal: bool,
    store: Store,
    /// `None` if the counts are of another process, whose quotas are not this one's.
    quotas: Option<QuotaSync>,
    store_timeout: Duration,
    collected: Option<Instant>,
    synced: Option<Instant>,
    /// When the store last failed to accept a batch; `None` once it accepts one.
    refused: Option<Instant>,
    /// Whether the last write to the journal failed.
    has_write_failed: bool,
    journal_outage: OutageLog,
    store_outage: OutageLog,
}

impl UsageDelivery {
    pub fn new(outbox: Option<UsageSpool>, store: Store) -> Self {
        Self {
            has_journal: outbox.is_some(),
            outbox,
            store,
            quotas: None,
            store_timeout: STORE_TIMEOUT,
            collected: None,
            synced: None,
            refused: None,
            has_write_failed: false,
            journal_outage: OutageLog::default(),
            store_outage: OutageLog::default(),
        }
    }

    /// Reads what keys with a quota have used, before anything is counted, and keeps their counters up to date from then on.
    /// Delivers first what earlier processes left, so that the store has all of it; without the store, the last snapshot and
    /// the journal must do.
    ///
    /// Not cancel safe: dropping it may lose the journal.
    pub async fn prepare(&mut self, mut quotas: QuotaSync) {
        if self.has_journal {
            let last = self.with_outbox(|outbox| {
                // A full journal keeps the rest in the tables, which count too.
                let _ = outbox.collect(unix_ms());
                outbox.sync()?;
                Ok(outbox.last_sequence())
            });
            match last.await {
                Ok(last) => quotas.set_earlier(last),
                Err(error) => {
                    tracing::error!(%error, "cannot write usage to the journal; counts stay in memory");
                }
            }
        }
        let has_quotas = quotas.has_quotas();
        let delivers = self.has_journal && quotas.is_store_there();
        self.quotas = Some(quotas);
        if !has_quotas {
            return;
        }
        let begun = Instant::now();
        self.store_timeout = START_TIMEOUT;
        while delivers && begun.elapsed() < START_TIMEOUT && self.deliver_oldest().await {}
        self.store_timeout = STORE_TIMEOUT;
        if !self.refresh_quotas().await
            && let (Some(quotas), Some(outbox)) = (&mut self.quotas, &self.outbox)
        {
            quotas.estimate(outbox);
        }
    }

    /// Delivers everything, as far as the store accepts it.
    async fn finish(&mut self) {
        while self.step(true).await {}
        if let Some(quotas) = &mut self.quotas
            && self.refused.is_none()
            && quotas.has_quotas()
        {
            quotas.expire_snapshot();
            self.refresh_quotas().await;
        }
    }

    /// Tells the counters of quotas what they did not count. Returns false if that is not known.
    async fn refresh_quotas(&mut self) -> bool {
        let Some(quotas) = &mut self.quotas else { return false };
        quotas.track();
        if let Some(outbox) = &self.outbox {
            quotas.note_earlier_delivered(outbox);
        }
        let Some(refresh) = quotas.read_totals().await else { return false };
        let applied = if self.has_journal {
            self.with_outbox(move |outbox| {
                refresh.apply(Some(outbox));
                Ok(refresh)
            })
            .await
        } else {
            refresh.apply(None);
            Ok(refresh)
        };
        // If the journal was lost, the last values stay.
        if let (Some(quotas), Ok(refresh)) = (&mut self.quotas, applied) {
            quotas.finish_refresh(refresh);
            return true;
        }
        false
    }

    fn is_refresh_due(&self) -> bool {
        self.quotas.as_ref().is_some_and(QuotaSync::is_due)
    }

    /// Does what is due, or everything if `is_last`. Delivers at most one batch, so that the other work is
    /// never delayed for long; returns whether there may be another.
    async fn step(&mut self, is_last: bool) -> bool {
        if !self.has_journal {
            if self.is_refresh_due() {
                self.refresh_quotas().await;
            }
            return false;
        }
        let is_due = |since: Option<Instant>, pace: Duration| {
            is_last || since.is_none_or(|since| since.elapsed() >= pace)
        };
        let pace = if self.refused.is_some() { COLLECT_BACKLOG_MS } else { COLLECT_MS };
        let collects = is_due(self.collected, Duration::from_millis(pace));
        let syncs = is_due(self.synced, Duration::from_millis(SYNC_MS));
        let delivers = is_due(self.refused, RETRY);
        if collects {
            self.collected = Some(Instant::now());
        }
        if syncs {
            self.synced = Some(Instant::now());
        }
        self.write_journal(collects, syncs).await;
        let has_more = delivers && self.deliver_oldest().await;
        // After a failure, the store may have a batch that does not count as delivered.
        if self.refused.is_none() && self.is_refresh_due() {
            self.refresh_quotas().await;
        }
        has_more
    }

    /// Moves what workers counted into the journal, and makes it durable.
    async fn write_journal(&mut self, collects: bool, syncs: bool) {
        let written = self
            .with_outbox(move |outbox| {
                let collected = if collects { outbox.collect(unix_ms()) } else { Ok(()) };
                let synced = if syncs { outbox.sync() } else { Ok(()) };
                // Counts that do not fit stay in the workers' tables.
                collected
                    .or_else(|error| if matches!(error, JournalError::Full) { Ok(()) } else { Err(error) })?;
                synced
            })
            .await;
        self.has_write_failed = written.is_err();
        self.log_write(written);
    }

    /// Not five lines a second to a disk that may be full, or nearly.
    fn log_write(&mut self, written: Result<(), JournalError>) {
        let now = Instant::now().into_std();
        match written {
            Err(error) => match self.journal_outage.fail(now) {
                Some(OutageLine::Begin) => {
                    tracing::error!(%error, "cannot write usage to the journal; counts stay in memory");
                }
                Some(OutageLine::Continue { failures }) => tracing::error!(
                    %error, failures, "usage still cannot always be written to the journal; counts stay in memory"
                ),
                None => {}
            },
            Ok(()) if self.journal_outage.succeed(now).is_some() => {
                tracing::info!("usage is written to the journal again");
            }
            Ok(()) => {}
        }
    }

    /// Delivers the oldest batch that is synced to disk. Returns false if there is none or the store does not
    /// accept it.
    async fn deliver_oldest(&mut self) -> bool {
        let batch = match self.with_outbox(UsageSpool::pending_batches).await {
            Ok(pending) => pending.into_iter().next(),
            Err(error) => {
                tracing::error!(%error, "part of the usage journal is lost");
                return false;
            }
        };
        let Some(batch) = batch else { return false };
        let sequence = batch.sequence;
        let applied = timeout(self.store_timeout, self.store.apply_usage(to_store_batch(&batch))).await;
        let failure = match applied {
            Ok(Ok(_)) => {
                self.quotas.iter_mut().for_each(|quotas| quotas.note_delivered(&batch));
                None
            }
            Ok(Err(error @ StoreError::Invalid(_))) => {
                // The store would reject it forever, and block everything behind it.
                tracing::error!(%error, "the store rejects a usage batch; its counts are lost");
                None
            }
            // Unreachable, or something an operator can repair: a password, a privilege, a table.
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some("it did not answer in time".to_owned()),
        };
        if let Some(error) = failure {
            let now = Instant::now();
            self.refused = Some(now);
            match self.store_outage.fail(now.into_std()) {
                Some(OutageLine::Begin) => {
                    tracing::warn!(error, "cannot deliver usage to the store; keeping it in the journal");
                }
                Some(OutageLine::Continue { failures }) => tracing::warn!(
                    error,
                    failures,
                    "usage still cannot always be delivered to the store; keeping it in the journal"
                ),
                None => {}
            }
            return false;
        }
        self.refused = None;
        if self.store_outage.succeed(Instant::now().into_std()).is_some() {
            tracing::info!("usage is delivered to the store again");
        }
        if let Err(error) = self.with_outbox(move |outbox| outbox.acknowledge(sequence)).await {
            tracing::error!(%error, "cannot truncate the usage journal");
            return false;
        }
        true
    }

    /// Runs `work` on a blocking thread, since it waits for the disk.
    async fn with_outbox<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut UsageSpool) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let Some(mut outbox) = self.outbox.take() else {
            return Err(JournalError::Config("the journal was lost with the thread that used it"));
        };
        let worked = run_blocking(move || {
            let result = work(&mut outbox);
            (outbox, result)
        });
        match worked.await {
            Ok((outbox, result)) => {
                self.outbox = Some(outbox);
                result
            }
            Err(BlockingError::Panicked) => {
                Err(JournalError::Config("the thread that used the journal has panicked"))
            }
            Err(BlockingError::Stopped) => Err(JournalError::Config("the gateway is stopping")),
        }
    }
}

/// Converts a batch to the store's form, in which rows of different workers with the same key are summed.
fn to_store_batch(batch: &SpooledBatch) -> UsageBatch {
    let at = batch.until_unix_ms / 1000;
    let mut rows: BTreeMap<UsageKey, UsageCounts> = BTreeMap::new();
    for row in batch.rows() {
        let key = UsageKey {
            hour: at,
            key_id: row.key.to_owned(),
            server: row.server.to_owned(),
            tool: row.tool.to_owned(),
        };
        let sum = rows.entry(key).or_default();
        sum.calls += row.count.calls;
        sum.errors += row.count.errors;
        sum.bytes_in += row.count.bytes_in;
        sum.bytes_out += row.count.bytes_out;
        sum.milliseconds += row.count.millis;
    }
    let rows = rows.into_iter().map(|(key, counts)| UsageRow { key, counts }).collect();
    UsageBatch { source: format!("{:032x}", batch.source), sequence: batch.sequence.0, at, rows }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
