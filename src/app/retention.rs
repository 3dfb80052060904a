//! Takes out of the store what is older than it is to be kept, away from every request.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::base::unix_s;
use crate::store::{Retention, Retired, Store, StoreError};

/// Between two looks for what is old. What is kept for days may stay an hour longer.
const POLL: Duration = Duration::from_hours(1);

/// A start asks enough of the store.
const FIRST: Duration = Duration::from_secs(3);

/// Between two bites: administration and usage go on meanwhile.
const PAUSE: Duration = Duration::from_millis(250);

/// Never ends.
pub async fn keep(store: Store, retention: Retention) {
    let mut poll = interval_at(Instant::now() + FIRST, POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        match retire(&store, &retention).await {
            Ok(Retired { doubted: true, .. }) => tracing::warn!(
                "what is old is left in the database: nothing was written for as long as it is kept, so either nobody was \
                 there or the clock is ahead, which `date` shows"
            ),
            Ok(Retired { usage: 0, audit: 0, sources: 0, .. }) => {}
            Ok(Retired { usage, audit, sources, .. }) => {
                tracing::info!(
                    usage,
                    audit,
                    sources,
                    "took out of the database what is older than it is to be kept"
                );
            }
            // Another gateway is at it, or the store is away, which is said aloud by the one who watches it.
            Err(error) if error.is_away() => {
                tracing::debug!(%error, "what is old is left in the database for now");
            }
            Err(error) => tracing::error!(%error, "what is old cannot be taken out of the database"),
        }
    }
}

/// All of it, a little at a time.
async fn retire(store: &Store, retention: &Retention) -> Result<Retired, StoreError> {
    let mut all = Retired::default();
    loop {
        let some = store.retire(retention, unix_s()).await?;
        all.usage += some.usage;
        all.audit += some.audit;
        all.sources += some.sources;
        all.doubted |= some.doubted;
        if !some.more {
            return Ok(all);
        }
        sleep(PAUSE).await;
    }
}
