//! Learning that something changed, by this process or any other.
//!
//! ```text
//! PostgreSQL: NOTIFY (a wake-up) ──┐
//!             a poll each second ──┴─> read the epochs ─> publish what is greater
//! SQLite:     a poll each second ────> anything written at all? ─> the same
//! ```
//!
//! A wake-up may be lost, late, doubled or out of order: it only makes the next poll come sooner.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Engine, Epochs, Store, StoreError};
use metamcp_core::base::unix_seconds;

/// What is known of the store at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Greater than before for each kind that may have changed, and never less: when the database goes back, because
    /// an older copy of it took over, they count on from where they were.
    pub epochs: Epochs,
    /// `None`: it answered when it was last asked.
    pub away: Option<Away>,
    /// Whether it was asked at all. Until then nothing is known of it.
    pub asked: bool,
}

/// A store that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Seconds since 1970.
    pub since: u64,
    /// For whoever operates it; no password is in it.
    pub reason: String,
}

impl Away {
    /// Since now.
    pub fn now(error: &StoreError) -> Self {
        Self { since: unix_seconds(), reason: error.to_string() }
    }
}

impl Store {
    /// Watches the store from a task of the current runtime, as long as anybody holds the receiver. The first value,
    /// all zeros, is from before it was asked.
    pub fn watch(&self) -> watch::Receiver<Seen> {
        let (sender, receiver) = watch::channel(Seen::default());
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

async fn run(store: &Store, sender: &watch::Sender<Seen>) {
    let wake = Notify::new();
    match &store.engine {
        Engine::Sqlite(_) => poll(store, sender, &wake).await,
        Engine::Postgres(engine) => tokio::select! {
            () = poll(store, sender, &wake) => {}
            () = engine.listen(&wake) => {}
        },
    }
}

async fn poll(store: &Store, sender: &watch::Sender<Seen>, wake: &Notify) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut stamp, mut lift) = (None, Lift::default());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = wake.notified() => {}
        }
        match look(store, &mut stamp).await {
            Ok(Some(raw)) => publish(sender, Ok(lift.lift(raw))),
            Ok(None) => publish(sender, Ok(lift.lifted)),
            Err(error) => publish(sender, Err(&error)),
        }
        // Thousands of wake-ups at once are one.
        sleep(BREATH).await;
    }
}

/// `None`: nothing was written since the last time.
async fn look(store: &Store, last: &mut Option<(i64, u64)>) -> Result<Option<Epochs>, StoreError> {
    let Engine::Sqlite(sqlite) = &store.engine else { return store.epochs().await.map(Some) };
    // Before the epochs: what is written in between is seen the next time.
    let stamp = sqlite.stamp().await?;
    if *last == Some(stamp) {
        return Ok(None);
    }
    let epochs = store.epochs().await?;
    *last = Some(stamp);
    Ok(Some(epochs))
}

fn publish(sender: &watch::Sender<Seen>, read: Result<Epochs, &StoreError>) {
    sender.send_if_modified(|seen| {
        let before = seen.clone();
        seen.asked = true;
        match read {
            Ok(epochs) => *seen = Seen { epochs, away: None, asked: true },
            Err(error) => {
                let found = Away::now(error);
                let since = before.away.as_ref().map_or(found.since, |away| away.since);
                seen.away = Some(Away { since, ..found });
            }
        }
        match (&before.away, &seen.away) {
            (None, Some(away)) => tracing::warn!(reason = away.reason, "the database does not answer"),
            (Some(away), None) => {
                tracing::info!(seconds = unix_seconds().saturating_sub(away.since), "the database is back");
            }
            _ => {}
        }
        *seen != before
    });
}

/// Keeps counters from going back.
#[derive(Debug, Default)]
struct Lift {
    raw: Epochs,
    lifted: Epochs,
}

impl Lift {
    fn lift(&mut self, raw: Epochs) -> Epochs {
        let (before, lifted) = (self.raw, self.lifted);
        let next = |raw: u64, before: u64, lifted: u64| match raw.checked_sub(before) {
            Some(more) => lifted + more,
            // It went back: that is a change as well.
            None => lifted + 1,
        };
        self.lifted = Epochs {
            keys: next(raw.keys, before.keys, lifted.keys),
            servers: next(raw.servers, before.servers, lifted.servers),
            endpoints: next(raw.endpoints, before.endpoints, lifted.endpoints),
            jwt_keys: next(raw.jwt_keys, before.jwt_keys, lifted.jwt_keys),
        };
        self.raw = raw;
        self.lifted
    }
}

/// How long a change may stay unseen when no wake-up comes: how long a revoked key may still work.
const POLL: Duration = Duration::from_secs(1);

/// Between two reads, however many wake-ups there are.
const BREATH: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// What is published for the keys as these are read one after the other.
    #[track_caller]
    fn check(raw: &[u64], expected: &[u64]) {
        let mut lift = Lift::default();
        let seen: Vec<_> =
            raw.iter().map(|keys| lift.lift(Epochs { keys: *keys, ..Epochs::default() }).keys).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn counters_move_with_every_change_and_never_back() {
        check(&[0, 0, 1, 5, 5], &[0, 0, 1, 5, 5]);
        check(&[7, 5, 5, 6, 7, 8], &[7, 8, 8, 9, 10, 11]);
        check(&[7, 0, 7], &[7, 8, 15]);
    }
}
