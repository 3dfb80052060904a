//! What was approved of servers' tools, between the catalog, which sees them, and the store, which keeps it: off the path
//! of every request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::auth::Sealer;
use crate::base::ServerName;
use crate::catalog::{Catalog, Kept, Pins, RESTORE, ToKeep, told};
use crate::store::{Audit, Binder, Bound, NewPins, PinsRow, Seen, Store, StoreError};

/// What it takes.
pub struct Keeping {
    /// Bound.
    pub store: Store,
    pub sealer: Arc<Sealer>,
    pub catalog: Arc<Catalog>,
}

/// Between two tries to read or write what the store would not give or take.
const RETRY: Duration = Duration::from_secs(1);

/// Between two changes of one server that are written down. What changes meanwhile is one change; what is held back is so
/// at once.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// From the moment that what was kept of a server is found missing, to writing it again.
const RESTORE_AFTER: Duration = Duration::from_secs(5);

/// The same for a server that changes its tools all the time: so it fills neither the audit log nor the database.
const INTERVAL_MAX: Duration = Duration::from_mins(5);

/// Never ends while the store is watched.
pub async fn keep(keeping: Keeping, mut seen: watch::Receiver<Seen>) {
    let mut epoch = None;
    let mut written = Written::default();
    loop {
        let Seen { epochs, away, asked } = seen.borrow_and_update().clone();
        let is_behind = epoch != Some(epochs.servers);
        let could_not = if is_behind && asked && away.is_none() {
            let read = keeping.read().await;
            epoch = read.is_ok().then_some(epochs.servers);
            read.err().inspect(
                |error| tracing::warn!(%error, "what is approved of servers' tools could not be read"),
            )
        } else {
            None
        };
        if (away.is_some() || could_not.is_some()) && keeping.catalog.vetting().note_unread() {
            keeping.catalog.follow_vetting().await;
        }
        let is_late = keeping.write(&mut written, away.is_some()).await || epoch != Some(epochs.servers);
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = keeping.catalog.vetting().wanted() => {}
            () = sleep(RETRY), if is_late => {}
        }
    }
}

/// What was written and told last, by server.
#[derive(Default)]
struct Written(HashMap<ServerName, Last>);

struct Last {
    at: Instant,
    /// How long the next one waits.
    interval: Duration,
    /// What the store would not take.
    failed: Option<ToKeep>,
    /// Whether the next one is what was lost.
    restores: bool,
}

impl Keeping {
    async fn read(&self) -> Result<(), StoreError> {
        let vetting = self.catalog.vetting();
        let rows = self.store.tool_pins().await?;
        let kept = rows.iter().map(|row| {
            let known = vetting.kept(&row.server);
            (row.server.clone(), kept(row, &self.sealer, known))
        });
        vetting.read(kept.collect());
        self.catalog.follow_vetting().await;
        Ok(())
    }

    /// Whether something is left to be written. `is_away`: the store is not asked.
    async fn write(&self, written: &mut Written, is_away: bool) -> bool {
        let to_keep = self.catalog.vetting().to_keep();
        let mut is_left = false;
        for change in to_keep {
            let last = written.0.get(&change.server);
            // A server that is deleted leaves a moment later: of that nothing is to be kept.
            if change.action == Some(RESTORE) && last.is_none_or(|last| !last.restores) {
                let waits =
                    Last { at: Instant::now(), interval: RESTORE_AFTER, failed: None, restores: true };
                written.0.insert(change.server, waits);
                is_left = true;
                continue;
            }
            // One that failed is tried again as soon as it can be.
            if last.is_some_and(|last| last.failed.is_none() && last.at.elapsed() < last.interval) {
                is_left = true;
                continue;
            }
            if last.is_none_or(|last| last.failed.as_ref() != Some(&change)) {
                tell(&change);
            }
            let interval = last.map_or(INTERVAL_MIN, Last::next_interval);
            let server = change.server.clone();
            let is_done = !is_away && self.put(&change).await.is_some();
            if !is_done {
                self.catalog.vetting().note_unkept(&server);
            }
            self.catalog.follow_vetting().await;
            is_left |= !is_done;
            let failed = (!is_done).then_some(change);
            written.0.insert(server, Last { at: Instant::now(), interval, failed, restores: false });
        }
        is_left
    }

    /// `None`: the store would not take it.
    async fn put(&self, change: &ToKeep) -> Option<()> {
        let new = NewPins {
            server: change.server.as_str().to_owned(),
            pins: change.pins.to_json(),
            expect: change.expect,
            told: change.action.map(|action| (action, told(&change.changes))),
        };
        let outcome = match self.store.put_tool_pins(new, Audit::by(Audit::GATEWAY)).await {
            Ok(row) => Ok(Some(row)),
            // Another replica or an administrator was faster.
            Err(StoreError::Conflict | StoreError::Exists { .. }) => {
                self.store.tool_pins_of(change.server.as_str()).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(row) => {
                let vetting = self.catalog.vetting();
                let known = vetting.kept(change.server.as_str());
                let now = row.map(|row| kept(&row, &self.sealer, known));
                vetting.read_one(change.server.as_str(), now);
                Some(())
            }
            Err(error) => {
                let server = &change.server;
                tracing::warn!(%server, %error, "what is seen of its tools could not be written down");
                None
            }
        }
    }
}

impl Last {
    /// Twice as long, unless the server was quiet in between.
    fn next_interval(&self) -> Duration {
        if self.at.elapsed() > self.interval * 4 {
            INTERVAL_MIN
        } else {
            (self.interval * 2).min(INTERVAL_MAX)
        }
    }
}

/// What a row says. `known`: what it said before, which is gone by while it is only sealed anew by a version of
/// `ENCRYPTION_KEY` that this process will get with its next start.
pub fn kept(row: &PinsRow, sealer: &Sealer, known: Option<Kept>) -> Kept {
    if sealer.open_row(Bound::ToolPins(row)).is_some() {
        // What a later version wrote is not for this one to write over.
        return Pins::from_json(&row.pins).map_or(Kept::Foreign, |pins| Kept::Pins(pins, row.version));
    }
    if sealer.knows(row.seal.key_version) {
        return Kept::Altered(row.version);
    }
    match (known, Pins::from_json(&row.pins)) {
        (Some(Kept::Pins(known, version)), Some(pins)) if known == pins && version == row.version => {
            Kept::Pins(known, version)
        }
        _ => Kept::Foreign,
    }
}

/// In the log, by names alone: what a tool says of itself may be meant for whoever reads it.
fn tell(change: &ToKeep) {
    let ToKeep { server, action, changes, .. } = change;
    let names =
        || changes.iter().take(NAMED_MAX).map(|change| (&change.tool, &change.changed)).collect::<Vec<_>>();
    let count = changes.len();
    match action.unwrap_or_default() {
        "server.tools.hold" => tracing::warn!(
            %server, count, tools = ?names(),
            "tools are not as they were approved, and held back: see `keyadm servers approve`"
        ),
        RESTORE => tracing::error!(
            %server,
            "what was approved of its tools was taken out of the database; it is written there again"
        ),
        "server.tools.change" if changes.iter().any(|change| change.changed.is_some()) => {
            tracing::warn!(%server, count, tools = ?names(), "tools have changed");
        }
        _ => tracing::info!(%server, count, tools = ?names(), "tools are new"),
    }
}

/// Tools in one line of the log.
const NAMED_MAX: usize = 20;
