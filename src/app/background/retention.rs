//! Deletes rows from the store when their retention period is over, in small steps.

use std::time::Duration;

use metamcp_core::base::unix_seconds;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use metamcp_config::sections::RetentionPolicy;
use metamcp_store::store::{PruneReport, Store, StoreError};

/// Retention periods are days, so an hour more does not matter.
const POLL: Duration = Duration::from_hours(1);

/// The first run; startup itself keeps the store busy enough.
const FIRST_DELAY: Duration = Duration::from_secs(3);

/// Between two steps, so that administration and usage delivery can go on meanwhile.
const STEP_PAUSE: Duration = Duration::from_millis(250);

/// Enforces the retention periods: every hour, and at once when they change. Never ends.
pub async fn enforce(store: Store, mut retention: watch::Receiver<RetentionPolicy>) {
    let mut poll = interval_at(Instant::now() + FIRST_DELAY, POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = poll.tick() => {}
            // An error means that no reload can follow.
            Ok(()) = retention.changed() => {}
        }
        let retention = retention.borrow_and_update().clone();
        match retire_all(&store, &retention).await {
            Ok(PruneReport { doubted: true, .. }) => tracing::warn!(
                "retention skipped: nothing was written for longer than the retention period, so either the gateway was \
                 unused or the clock is ahead; check it with `date`"
            ),
            Ok(PruneReport { usage: 0, audit: 0, sources: 0, .. }) => {}
            Ok(PruneReport { usage, audit, sources, .. }) => {
                tracing::info!(usage, audit, sources, "deleted rows past their retention period");
            }
            // Another gateway is doing it, or the store is unreachable, which its watch reports.
            Err(error) if error.is_away() => {
                tracing::debug!(%error, "retention postponed");
            }
            Err(error) => tracing::error!(%error, "cannot delete rows past their retention period"),
        }
    }
}

/// Deletes everything that is due, step by step.
async fn retire_all(store: &Store, retention: &RetentionPolicy) -> Result<PruneReport, StoreError> {
    let mut total = PruneReport::default();
    loop {
        let step = store.retire(retention, unix_seconds()).await?;
        total.usage += step.usage;
        total.audit += step.audit;
        total.sources += step.sources;
        total.doubted |= step.doubted;
        if !step.more {
            return Ok(total);
        }
        sleep(STEP_PAUSE).await;
    }
}
