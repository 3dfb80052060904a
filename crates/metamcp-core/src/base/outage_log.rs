//! Decides which lines a condition that begins and ends gets in the log.

use std::time::{Duration, Instant};

/// While a condition goes on, it is logged once in this time.
const SUMMARY_INTERVAL: Duration = Duration::from_hours(1);

/// The first time without a failure that a second recovery needs. A disk that is nearly full fails every other write: that is
/// one condition that goes on, not many that end. It doubles with each failure that follows soon, to [`SUMMARY_INTERVAL`].
const SETTLE_MIN: Duration = Duration::from_mins(1);

/// Logs something that fails and works again: one line when it begins to fail, one when it works again, and one an hour
/// while it goes on. If it fails again within an hour, its next recovery is believed only after some time without a failure.
/// So something that fails and works in turn gets a few lines, and then one an hour.
#[derive(Debug, Default)]
pub struct OutageLog {
    /// What was logged last, unless that it works.
    outage: Option<LoggedOutage>,
    /// How long it must work before that is logged.
    settle: Duration,
    recovered: Option<Instant>,
}

#[derive(Debug)]
struct LoggedOutage {
    began: Instant,
    failed: Instant,
    logged: Instant,
    /// Since the last line.
    failures: u64,
}

/// A line about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageLine {
    Begin,
    /// It still fails, at least now and then: so many times since the last line.
    Continue {
        failures: u64,
    },
}

impl OutageLog {
    /// Notes a failure; returns the line to log.
    pub fn fail(&mut self, now: Instant) -> Option<OutageLine> {
        let Some(outage) = &mut self.outage else {
            let is_soon =
                self.recovered.is_some_and(|at| now.saturating_duration_since(at) < SUMMARY_INTERVAL);
            self.settle =
                if is_soon { (self.settle * 2).clamp(SETTLE_MIN, SUMMARY_INTERVAL) } else { Duration::ZERO };
            self.outage = Some(LoggedOutage { began: now, failed: now, logged: now, failures: 0 });
            return Some(OutageLine::Begin);
        };
        outage.failed = now;
        outage.failures += 1;
        if now.saturating_duration_since(outage.logged) < SUMMARY_INTERVAL {
            return None;
        }
        outage.logged = now;
        Some(OutageLine::Continue { failures: std::mem::take(&mut outage.failures) })
    }

    /// Notes a success; returns the time since the outage began if it is to be logged that it works again.
    pub fn succeed(&mut self, now: Instant) -> Option<Duration> {
        let settle = self.settle;
        let has_settled = |outage: &mut LoggedOutage| now.saturating_duration_since(outage.failed) >= settle;
        let outage = self.outage.take_if(has_settled)?;
        self.recovered = Some(now);
        Some(now.saturating_duration_since(outage.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds outcomes, each at so many seconds after the start and `true` for a success. Returns the lines: `-` it fails, `+` it
    /// works again, a number: it still fails, with the failures since the last line.
    fn lines(outcomes: impl IntoIterator<Item = (u64, bool)>) -> String {
        let (mut log, start, mut lines) = (OutageLog::default(), Instant::now(), String::new());
        for (after_s, works) in outcomes {
            let now = start + Duration::from_secs(after_s);
            match works {
                true if log.succeed(now).is_some() => lines.push('+'),
                true => {}
                false => match log.fail(now) {
                    Some(OutageLine::Begin) => lines.push('-'),
                    Some(OutageLine::Continue { failures }) => lines.push_str(&failures.to_string()),
                    None => {}
                },
            }
        }
        lines
    }

    #[test]
    fn a_change_is_logged_at_once() {
        assert_eq!(lines([(0, true), (1, false), (2, false), (3, true), (4, true)]), "-+");
        let rare = (0..5).flat_map(|day| [(day * 86_400, false), (day * 86_400 + 1, true)]);
        assert_eq!(lines(rare), "-+-+-+-+-+");
    }

    #[test]
    fn a_long_outage_is_logged_once_an_hour() {
        let day = (0..86_400).map(|second| (second, false));
        assert_eq!(lines(day), format!("-{}", "3600".repeat(23)));
    }

    #[test]
    fn what_fails_and_works_in_turn_is_logged_once_an_hour() {
        let lines_per_day = |period_s: u64| {
            let day = (0..86_400).map(|second| (second, second % period_s != 0));
            lines(day).chars().filter(|line| "+-".contains(*line)).count()
        };
        // One outage, one recovery, one outage; with longer periods a few more until the recovery must take longer.
        assert_eq!([2, 30, 59, 61, 200, 3599].map(lines_per_day), [3, 3, 3, 5, 7, 15]);
    }

    #[test]
    fn a_recovery_that_lasts_is_logged() {
        let outcomes = [(0, false), (1, true), (2, false), (3, true), (61, true), (62, true)];
        assert_eq!(lines(outcomes), "-+-+");
    }
}
