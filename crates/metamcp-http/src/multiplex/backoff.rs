//! When a failing server is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// Consecutive failures, and the wait that follows from them.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
    retry_at: Option<Instant>,
}

/// The longest wait after the first failure. Each further failure doubles it.
const WAIT_MIN: Duration = Duration::from_millis(500);

/// A server that works again is noticed within half a minute.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A server that worked for this long before it failed did not fail to start.
const STABLE_AFTER: Duration = Duration::from_mins(1);

/// Half a second doubled this often exceeds half a minute.
const DOUBLINGS_MAX: u32 = 6;

impl Backoff {
    /// Counts a failure now, of a server that worked for `ran`.
    pub fn fail(&mut self, ran: Duration) {
        let mut jitter = [0];
        // Without random bytes all wait equally long, which does no harm.
        let _ = getrandom::fill(&mut jitter);
        self.fail_at(Instant::now(), ran, jitter[0]);
    }

    /// `jitter`: any number, so that servers that failed together are not tried together.
    fn fail_at(&mut self, now: Instant, ran: Duration, jitter: u8) {
        if ran >= STABLE_AFTER {
            self.failures = 0;
        }
        let doubled = WAIT_MIN.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        // Half of it to all of it.
        let percent = (u32::from(u8::MAX) + u32::from(jitter)) * 100 / (2 * u32::from(u8::MAX));
        self.retry_at = Some(now + doubled.min(WAIT_MAX) * percent / 100);
    }

    /// Returns how long to wait from `now` on.
    pub fn wait(&self, now: Instant) -> Duration {
        self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Returns the number of consecutive failures.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Resets the failures if the server has worked for long enough.
    pub fn note_running(&mut self, ran: Duration) {
        if ran >= STABLE_AFTER {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn doubles_and_resets() {
        let start = Instant::now();
        let check = |runs_s: &[u64], jitter: u8, expected_ms: u64| {
            let mut backoff = Backoff::default();
            for run in runs_s {
                backoff.fail_at(start, Duration::from_secs(*run), jitter);
            }
            assert_eq!(backoff.wait(start).as_millis(), u128::from(expected_ms), "{runs_s:?} {jitter}");
            assert_eq!(backoff.wait(start + WAIT_MAX), Duration::ZERO);
        };
        check(&[], 0, 0);
        check(&[0], 0, 250);
        check(&[0], u8::MAX, 500);
        check(&[0, 0], u8::MAX, 1000);
        check(&[0; 6], u8::MAX, 16_000);
        check(&[0; 7], u8::MAX, 30_000);
        check(&[0; 1000], u8::MAX, 30_000);
        check(&[0, 0, 59], u8::MAX, 2000);
        check(&[0, 0, 60], u8::MAX, 500);
        let mut backoff = Backoff::default();
        backoff.fail_at(start, Duration::ZERO, 0);
        backoff.note_running(STABLE_AFTER / 2);
        assert_eq!(backoff.failures(), 1);
        backoff.note_running(STABLE_AFTER);
        assert_eq!(backoff.failures(), 0);
    }
}
