//! Watches the store for changes made by any process.
//!
//! ```text
//! PostgreSQL: NOTIFY (a wake-up) ─────┐
//!             a poll every second ────┴─> read the epochs ─> publish them if they advanced
//! SQLite:     a poll every second ──────> anything written? ─> the same
//! ```
//!
//! A wake-up may be lost, late, duplicated or out of order: it only makes the next poll come sooner.

use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::epochs::Epochs;
use super::error::StoreError;
use super::handle::{Engine, Store};
use metamcp_core::base::{OutageLine, OutageLog, unix_seconds};

/// The state of the store as last seen by the watcher.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchState {
    /// Advance for each kind that may have changed, and never go back. When the database falls back to an older copy of
    /// itself, they continue from where they were.
    pub epochs: Epochs,
    /// `None` when the last poll succeeded.
    pub away: Option<StoreOutage>,
    /// Whether the store was polled at all. Until then nothing is known about it.
    pub asked: bool,
}

/// A period in which the store does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOutage {
    /// Unix time in seconds.
    pub since: u64,
    /// For operators; holds no password.
    pub reason: String,
}

impl StoreOutage {
    /// An outage that starts now.
    pub fn now(error: &StoreError) -> Self {
        Self { since: unix_seconds(), reason: error.to_string() }
    }
}

impl Store {
    /// Watches the store in a task of the current runtime, until the receiver is dropped. The first value, all zeros, dates
    /// from before the first poll.
    pub fn watch(&self) -> watch::Receiver<WatchState> {
        let (sender, receiver) = watch::channel(WatchState::default());
        let store = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = run(&store, &sender) => {}
                () = sender.closed() => {}
            }
        });
        receiver
    }
}

async fn run(store: &Store, sender: &watch::Sender<WatchState>) {
    let wake = Notify::new();
    match &store.engine {
        Engine::Sqlite(_) => poll(store, sender, &wake).await,
        Engine::Postgres(engine) => tokio::select! {
            () = poll(store, sender, &wake) => {}
            () = engine.listen(&wake) => {}
        },
    }
}

async fn poll(store: &Store, sender: &watch::Sender<WatchState>, wake: &Notify) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut stamp, mut monotonic) = (None, MonotonicEpochs::default());
    let mut outage = OutageLog::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = wake.notified() => {}
        }
        match read_changes(store, &mut stamp).await {
            Ok(Some(raw)) => publish(sender, &mut outage, Ok(monotonic.advance(raw))),
            Ok(None) => publish(sender, &mut outage, Ok(monotonic.published)),
            Err(error) => publish(sender, &mut outage, Err(&error)),
        }
        // Merges wake-ups that arrive in quick succession.
        sleep(PAUSE).await;
    }
}

/// Reads the epochs; `None` when nothing was written since the last time.
async fn read_changes(store: &Store, last: &mut Option<(i64, u64)>) -> Result<Option<Epochs>, StoreError> {
    let Engine::Sqlite(sqlite) = &store.engine else { return store.epochs().await.map(Some) };
    // Before the epochs: what is written in between is noticed the next time.
    let stamp = sqlite.change_stamp().await?;
    if *last == Some(stamp) {
        return Ok(None);
    }
    let epochs = store.epochs().await?;
    *last = Some(stamp);
    Ok(Some(epochs))
}

fn publish(sender: &watch::Sender<WatchState>, outage: &mut OutageLog, read: Result<Epochs, &StoreError>) {
    log_outage(outage, read.as_ref().err().copied());
    sender.send_if_modified(|seen| {
        let before = seen.clone();
        seen.asked = true;
        match read {
            Ok(epochs) => *seen = WatchState { epochs, away: None, asked: true },
            Err(error) => {
                let found = StoreOutage::now(error);
                let since = before.away.as_ref().map_or(found.since, |away| away.since);
                seen.away = Some(StoreOutage { since, ..found });
            }
        }
        *seen != before
    });
}

fn log_outage(outage: &mut OutageLog, error: Option<&StoreError>) {
    let now = Instant::now();
    let Some(reason) = error else {
        if let Some(outage) = outage.succeed(now) {
            tracing::info!(seconds = outage.as_secs(), "database available again");
        }
        return;
    };
    match outage.fail(now) {
        Some(OutageLine::Begin) => tracing::warn!(%reason, "database unavailable"),
        Some(OutageLine::Continue { failures }) => {
            tracing::warn!(%reason, failures, "database still unavailable, at least now and then");
        }
        None => {}
    }
}

/// Makes epochs monotonic: an epoch that goes back counts as a change.
#[derive(Debug, Default)]
struct MonotonicEpochs {
    raw: Epochs,
    published: Epochs,
}

impl MonotonicEpochs {
    fn advance(&mut self, raw: Epochs) -> Epochs {
        let (before, published) = (self.raw, self.published);
        let next = |raw: u64, before: u64, published: u64| match raw.checked_sub(before) {
            Some(more) => published + more,
            // The database went back to an older copy: a change as well.
            None => published + 1,
        };
        self.published = Epochs {
            keys: next(raw.keys, before.keys, published.keys),
            servers: next(raw.servers, before.servers, published.servers),
            endpoints: next(raw.endpoints, before.endpoints, published.endpoints),
            jwt_keys: next(raw.jwt_keys, before.jwt_keys, published.jwt_keys),
        };
        self.raw = raw;
        self.published
    }
}

/// How long a change may go unnoticed without a wake-up, and so how long a revoked key may still work.
const POLL: Duration = Duration::from_secs(1);

/// The pause between two reads, however many wake-ups there are.
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares what is published for the keys when these epochs are read one after the other.
    #[track_caller]
    fn check(raw: &[u64], expected: &[u64]) {
        let mut monotonic = MonotonicEpochs::default();
        let seen: Vec<_> = raw
            .iter()
            .map(|keys| monotonic.advance(Epochs { keys: *keys, ..Epochs::default() }).keys)
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn epochs_advance_with_every_change_and_never_go_back() {
        check(&[0, 0, 1, 5, 5], &[0, 0, 1, 5, 5]);
        check(&[7, 5, 5, 6, 7, 8], &[7, 8, 8, 9, 10, 11]);
        check(&[7, 0, 7], &[7, 8, 15]);
    }
}
