//! What workers count, on its way to the store: over the journal, so that neither an outage of the store nor a
//! kill of the process loses or doubles a count.

use std::collections::BTreeMap;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::base::Phase;
use crate::journal::usage::{self, Batch, COLLECT_BACKLOG_MS, COLLECT_MS, Outbox, SYNC_MS, Usage};
use crate::journal::{self, JournalError};
use crate::server::Door;
use crate::store::{Counts, Store, StoreError, UsageBatch, UsageKey, UsageRow};

/// The journal's folder in the data directory.
const FOLDER: &str = "usage";

/// For the store to take one batch; after that it counts as away. A batch has some 500 rows, each a round trip.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two tries while the store is away.
const RETRY: Duration = Duration::from_secs(1);

/// For the last batches to reach the store when the gateway ends; what does not waits for the next start.
const FAREWELL: Duration = Duration::from_secs(2);

/// Gateways of one client each that may count in one data directory: a client starts one, and people have some clients.
const PRIVATE_MAX: usize = 64;

/// Opens the journal. Without room on the disk the gateway serves all the same, and counts nothing.
///
/// A folder is for one process at a time. Of the gateways that clients start for themselves there may be several, beside
/// the one that listens: each takes a folder that is free, and what an earlier one left there is handed on.
pub fn open(data_dir: &Path, workers: usize, door: &Door) -> Result<Option<(Usage, Outbox)>, JournalError> {
    if *door == Door::Public {
        return open_folder(data_dir.join(FOLDER), workers);
    }
    let mut folders = (0..PRIVATE_MAX).map(|number| data_dir.join(format!("{FOLDER}-stdio-{number}")));
    let is_taken = |opened: &Result<_, _>| matches!(opened, Err(JournalError::Locked(_)));
    let free =
        folders.find_map(|folder| Some(open_folder(folder, workers)).filter(|opened| !is_taken(opened)));
    free.unwrap_or_else(|| Err(JournalError::Locked(data_dir.to_owned())))
}

fn open_folder(folder: PathBuf, workers: usize) -> Result<Option<(Usage, Outbox)>, JournalError> {
    let config = usage::Config {
        folder,
        workers,
        slots: usage::SLOTS,
        segment_bytes: journal::SEGMENT_BYTES,
        total_bytes: journal::TOTAL_BYTES,
    };
    match Usage::open(&config) {
        Ok((usage, outbox, recovery)) => {
            for damage in &recovery.damage {
                tracing::warn!(?damage, "a part of the usage journal is lost");
            }
            Ok(Some((usage, outbox)))
        }
        Err(error @ JournalError::DiskFull { .. }) => {
            tracing::error!(%error, "usage is not counted: make room and start again");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Hands counts on until the gateway has ended: `ended` is moved when the workers have.
pub async fn hand_on(outbox: Outbox, store: Store, mut ended: watch::Receiver<Phase>) {
    let mut flow =
        Flow { outbox: Some(outbox), store, collected: None, synced: None, refused: None, failed: false };
    let mut tick = interval(Duration::from_millis(COLLECT_MS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut more = false;
    loop {
        tokio::select! {
            biased;
            _ = ended.changed() => {
                // What is left waits for the next start.
                let _ = timeout(FAREWELL, async { while flow.turn(true).await {} }).await;
                return;
            }
            () = ready(()), if more => more = flow.turn(false).await,
            _ = tick.tick() => more = flow.turn(false).await,
        }
    }
}

struct Flow {
    /// Away while a blocking thread has it.
    outbox: Option<Outbox>,
    store: Store,
    collected: Option<Instant>,
    synced: Option<Instant>,
    /// When the store last took nothing.
    refused: Option<Instant>,
    /// Whether the journal could not be written, the last time.
    failed: bool,
}

impl Flow {
    /// Does what is due; all of it, the last time. Hands on one batch at most, so that it is never long away from the
    /// rest; true where there may be another.
    async fn turn(&mut self, last: bool) -> bool {
        let is_due = |since: Option<Instant>, pace: Duration| {
            last || since.is_none_or(|since| since.elapsed() >= pace)
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
        let wrote = self
            .with_outbox(move |outbox| {
                let collected = if collects { outbox.collect(unix_ms()) } else { Ok(()) };
                let synced = if syncs { outbox.sync() } else { Ok(()) };
                // What does not fit waits in the tables.
                collected
                    .or_else(|error| if matches!(error, JournalError::Full) { Ok(()) } else { Err(error) })?;
                synced
            })
            .await;
        // Told once, not five times a second onto a disk that may be full.
        let failed = wrote.is_err();
        match wrote {
            Err(error) if !self.failed => {
                tracing::error!(%error, "usage could not be written to the journal; it waits in the tables of the workers");
            }
            Ok(()) if self.failed => tracing::info!("usage is written to the journal again"),
            _ => {}
        }
        self.failed = failed;
        delivers && self.deliver().await
    }

    /// Hands on the oldest batch that is safe on disk; false when there is none, or the store takes none.
    async fn deliver(&mut self) -> bool {
        let batch = match self.with_outbox(Outbox::pending).await {
            Ok(pending) => pending.into_iter().next(),
            Err(error) => {
                tracing::error!(%error, "a part of the usage journal is lost");
                return false;
            }
        };
        let Some(batch) = batch else { return false };
        let sequence = batch.sequence;
        let applied = timeout(STORE_TIMEOUT, self.store.apply_usage(rows_of(&batch))).await;
        let away = match applied {
            Ok(Ok(_)) => None,
            Ok(Err(error @ StoreError::Invalid(_))) => {
                // It would be refused again for ever, and everything behind it with it.
                tracing::error!(%error, "the store refuses a batch of usage: its counts are lost");
                None
            }
            // Away, or something that somebody can mend: a password, a right, a table.
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some("it did not answer in time".to_owned()),
        };
        if let Some(error) = away {
            if self.refused.replace(Instant::now()).is_none() {
                tracing::warn!(error, "the store takes no usage; it is kept in the journal until it does");
            }
            return false;
        }
        if self.refused.take().is_some() {
            tracing::info!("the store takes usage again");
        }
        if let Err(error) = self.with_outbox(move |outbox| outbox.applied(sequence)).await {
            tracing::error!(%error, "the usage journal could not be made shorter");
            return false;
        }
        true
    }

    /// Away from this thread, for it waits for the disk.
    async fn with_outbox<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Outbox) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let Some(mut outbox) = self.outbox.take() else {
            return Err(JournalError::Config("the journal was lost with the thread that had it"));
        };
        let worked = spawn_blocking(move || {
            let result = work(&mut outbox);
            (outbox, result)
        });
        match worked.await {
            Ok((outbox, result)) => {
                self.outbox = Some(outbox);
                result
            }
            Err(_panicked) => Err(JournalError::Config("the thread that had the journal has panicked")),
        }
    }
}

/// As the store takes it: rows of the same names, from different workers, are one.
fn rows_of(batch: &Batch) -> UsageBatch {
    let at = batch.until_unix_ms / 1000;
    let mut rows: BTreeMap<UsageKey, Counts> = BTreeMap::new();
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
