//! What workers count, on its way to the store: over the journal, so that neither an outage of the store nor a
//! kill of the process loses or doubles a count.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::base::Phase;
use crate::journal::usage::{self, Batch, COLLECT_BACKLOG_MS, COLLECT_MS, Outbox, SYNC_MS, Usage};
use crate::journal::{self, JournalError};
use crate::store::{Counts, Store, UsageBatch, UsageKey, UsageRow};

/// The journal's folder in the data directory.
const FOLDER: &str = "usage";

/// For the store to take one batch; after that it counts as away.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries while the store is away.
const RETRY: Duration = Duration::from_secs(1);

/// For the last batches to reach the store when the gateway ends; what does not waits for the next start.
const FAREWELL: Duration = Duration::from_secs(2);

/// Opens the journal. Without room on the disk the gateway serves all the same, and counts nothing.
pub fn open(data_dir: &Path, workers: usize) -> Result<Option<(Usage, Outbox)>, JournalError> {
    let config = usage::Config {
        folder: data_dir.join(FOLDER),
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
    let mut flow = Flow { outbox: Some(outbox), store, collected: None, synced: None, refused: None };
    let mut tick = interval(Duration::from_millis(COLLECT_MS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => flow.turn(false).await,
            _ = ended.changed() => {
                flow.turn(true).await;
                return;
            }
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
}

impl Flow {
    /// Does what is due; all of it, the last time.
    async fn turn(&mut self, last: bool) {
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
        if let Err(error) = wrote {
            tracing::error!(%error, "usage could not be written to the journal; it is kept in memory");
        }
        if !delivers {
            return;
        }
        let delivering = self.deliver();
        if last {
            // What is left waits for the next start.
            let _ = timeout(FAREWELL, delivering).await;
        } else {
            delivering.await;
        }
    }

    /// Hands on what is safe on disk, until there is none or the store takes no more.
    async fn deliver(&mut self) {
        loop {
            let pending = match self.with_outbox(Outbox::pending).await {
                Ok(pending) if pending.is_empty() => return,
                Ok(pending) => pending,
                Err(error) => return tracing::error!(%error, "a part of the usage journal is lost"),
            };
            for batch in pending {
                let sequence = batch.sequence;
                let applied = timeout(STORE_TIMEOUT, self.store.apply_usage(rows_of(&batch))).await;
                let error = match applied {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_elapsed) => Some("it did not answer in time".to_owned()),
                };
                if let Some(error) = error {
                    if self.refused.replace(Instant::now()).is_none() {
                        tracing::warn!(
                            error,
                            "the store takes no usage; it is kept in the journal until it does"
                        );
                    }
                    return;
                }
                if self.refused.take().is_some() {
                    tracing::info!("the store takes usage again");
                }
                if let Err(error) = self.with_outbox(move |outbox| outbox.applied(sequence)).await {
                    return tracing::error!(%error, "the usage journal could not be made shorter");
                }
            }
        }
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
    let mut rows: Vec<UsageRow> = batch
        .rows()
        .map(|row| UsageRow {
            key: UsageKey {
                hour: at,
                key_id: row.key.to_owned(),
                server: row.server.to_owned(),
                tool: row.tool.to_owned(),
            },
            counts: Counts {
                calls: row.count.calls,
                errors: row.count.errors,
                bytes_in: row.count.bytes_in,
                bytes_out: row.count.bytes_out,
                milliseconds: row.count.millis,
            },
        })
        .collect();
    rows.shrink_to_fit();
    UsageBatch { source: format!("{:032x}", batch.source), sequence: batch.sequence.0, at, rows }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
