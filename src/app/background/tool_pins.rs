//! Synchronizes tool pins between the catalog, which compares listed tools with them, and the store, which
//! keeps them. Runs independently of requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::field::debug;

use crate::catalog::{Catalog, PinsUpdate, RESTORE_ACTION, StoredPins};
use metamcp_core::base::{LogList, ServerName};
use metamcp_store::auth::Sealer;
use metamcp_store::store::{
    Audit, NewToolPins, RowSealer, SealedRow, Store, StoreError, ToolPinsRow, WatchState,
};
use metamcp_store::tool_pins::{PinChange, ToolPins, summarize_changes};

/// The two sides to synchronize.
pub struct PinSync {
    /// Must be able to seal rows (`Store::bound_by`).
    pub store: Store,
    pub sealer: Arc<Sealer>,
    pub catalog: Arc<Catalog>,
}

/// Between two attempts to read or write while the store fails.
const RETRY: Duration = Duration::from_secs(1);

/// Between two writes for one server. Changes in between are written as one; tools are held back at once in
/// any case.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The longest such interval, reached by a server that changes its tools all the time: it must fill neither
/// the audit log nor the database.
const INTERVAL_MAX: Duration = Duration::from_mins(5);

/// From the moment a server's pins are found missing in the store until they are written again.
const RESTORE_DELAY: Duration = Duration::from_secs(5);

/// Synchronizes both sides until the watch of the store ends.
pub async fn sync(sync: PinSync, mut seen: watch::Receiver<WatchState>) {
    let mut epoch = None;
    let mut history = WriteHistory::default();
    loop {
        let WatchState { epochs, away, asked } = seen.borrow_and_update().clone();
        let is_behind = epoch != Some(epochs.servers);
        let read_error = if is_behind && asked && away.is_none() {
            let read = sync.read().await;
            epoch = read.is_ok().then_some(epochs.servers);
            read.err().inspect(|error| tracing::warn!(%error, "cannot read tool pins from the store"))
        } else {
            None
        };
        if (away.is_some() || read_error.is_some()) && sync.catalog.approvals().note_store_unreadable() {
            sync.catalog.apply_approvals().await;
        }
        let is_behind = sync.write(&mut history, away.is_some()).await || epoch != Some(epochs.servers);
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = sync.catalog.approvals().update_pending() => {}
            () = sleep(RETRY), if is_behind => {}
        }
    }
}

/// The last write for each server.
#[derive(Default)]
struct WriteHistory(HashMap<ServerName, LastWrite>);

struct LastWrite {
    at: Instant,
    /// The time until the next write.
    interval: Duration,
    /// The change that the store did not accept.
    failed: Option<PinsUpdate>,
    /// Whether this entry only delays a restore.
    delays_restore: bool,
}

impl PinSync {
    async fn read(&self) -> Result<(), StoreError> {
        let approvals = self.catalog.approvals();
        let rows = self.store.tool_pins().await?;
        let kept = rows.iter().map(|row| {
            let known = approvals.stored_pins(&row.server);
            (row.server.clone(), kept(row, &self.sealer, known))
        });
        approvals.load_all(kept.collect());
        self.catalog.apply_approvals().await;
        Ok(())
    }

    /// Writes what is due; returns whether something is left. `is_away` means that the store is unreachable
    /// and not asked.
    async fn write(&self, history: &mut WriteHistory, is_away: bool) -> bool {
        let changes = self.catalog.approvals().pending_updates();
        let mut has_more = false;
        for change in changes {
            let last = history.0.get(&change.server);
            // A deleted server loses its pins just before it leaves the topology; those must not be restored.
            if change.action == Some(RESTORE_ACTION) && last.is_none_or(|last| !last.delays_restore) {
                let delay = LastWrite {
                    at: Instant::now(),
                    interval: RESTORE_DELAY,
                    failed: None,
                    delays_restore: true,
                };
                history.0.insert(change.server, delay);
                has_more = true;
                continue;
            }
            // A failed write is repeated without an interval.
            if last.is_some_and(|last| last.failed.is_none() && last.at.elapsed() < last.interval) {
                has_more = true;
                continue;
            }
            if last.is_none_or(|last| last.failed.as_ref() != Some(&change)) {
                log_change(&change);
            }
            let interval = last.map_or(INTERVAL_MIN, LastWrite::next_interval);
            let server = change.server.clone();
            let is_done = !is_away && self.put(&change).await.is_some();
            if !is_done {
                self.catalog.approvals().note_write_failed(&server);
            }
            self.catalog.apply_approvals().await;
            has_more |= !is_done;
            let failed = (!is_done).then_some(change);
            let write = LastWrite { at: Instant::now(), interval, failed, delays_restore: false };
            history.0.insert(server, write);
        }
        has_more
    }

    /// Writes one change; `None` if the store did not accept it.
    async fn put(&self, change: &PinsUpdate) -> Option<()> {
        let new = NewToolPins {
            server: change.server.as_str().to_owned(),
            pins: change.pins.to_json(),
            expect: change.expected_version,
            told: change.action.map(|action| (action, summarize_changes(&change.changes))),
        };
        let outcome = match self.store.put_tool_pins(new, Audit::by(Audit::GATEWAY)).await {
            Ok(row) => Ok(Some(row)),
            // Another replica or an administrator has written first; their pins are used.
            Err(StoreError::Conflict | StoreError::Exists { .. }) => {
                self.store.tool_pins_of(change.server.as_str()).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(row) => {
                let approvals = self.catalog.approvals();
                let known = approvals.stored_pins(change.server.as_str());
                let now = row.map(|row| kept(&row, &self.sealer, known));
                approvals.load(change.server.as_str(), now);
                Some(())
            }
            Err(error) => {
                let server = &change.server;
                tracing::warn!(%server, %error, "cannot write tool pins to the store");
                None
            }
        }
    }
}

impl LastWrite {
    /// Doubles the interval, unless the server was quiet in between.
    fn next_interval(&self) -> Duration {
        if self.at.elapsed() > self.interval * 4 {
            INTERVAL_MIN
        } else {
            (self.interval * 2).min(INTERVAL_MAX)
        }
    }
}

/// Reads the pins in a row. `known` are the pins it had before; they stay valid while the row changes only in
/// its seal, if that was made with a version of `ENCRYPTION_KEY` that this process does not have until it
/// restarts.
fn kept(row: &ToolPinsRow, sealer: &Sealer, known: Option<StoredPins>) -> StoredPins {
    if sealer.open_row(SealedRow::ToolPins(row)).is_some() {
        // Pins that a later version of metamcp wrote must not be overwritten.
        return ToolPins::from_json(&row.pins)
            .map_or(StoredPins::Foreign, |pins| StoredPins::Pins(pins, row.version));
    }
    if sealer.has_key_version(row.seal.key_version) {
        return StoredPins::Altered(row.version);
    }
    match (known, ToolPins::from_json(&row.pins)) {
        (Some(StoredPins::Pins(known, version)), Some(pins)) if known == pins && version == row.version => {
            StoredPins::Pins(known, version)
        }
        _ => StoredPins::Foreign,
    }
}

/// Logs a change by the names of the tools only: descriptions may contain instructions to the reader of the
/// log.
fn log_change(change: &PinsUpdate) {
    let PinsUpdate { server, action, changes, .. } = change;
    let tools: Vec<_> = changes.iter().take(LOGGED_TOOLS_MAX).map(log_name).collect();
    let tools = || debug(LogList(&tools));
    let count = changes.len();
    match action.unwrap_or_default() {
        "server.tools.hold" => tracing::warn!(
            %server, count, tools = tools(),
            "tools differ from what was approved and are quarantined: see `keyadm servers approve`"
        ),
        RESTORE_ACTION => tracing::error!(
            %server,
            "tool pins were deleted from the database; writing them again"
        ),
        "server.tools.change" if changes.iter().any(|change| change.changed.is_some()) => {
            tracing::warn!(%server, count, tools = tools(), "tools have changed");
        }
        _ => tracing::info!(%server, count, tools = tools(), "new tools"),
    }
}

/// `name`, or `name (description, title)` with the parts that have changed.
fn log_name(change: &PinChange) -> String {
    let tool = change.tool.escape_debug();
    change.changed.as_ref().map_or_else(|| tool.to_string(), |parts| format!("{tool} ({})", parts.join(", ")))
}

/// Tools named in one line of the log.
const LOGGED_TOOLS_MAX: usize = 20;
