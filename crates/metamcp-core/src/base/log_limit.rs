//! A limit on lines of the log.

use std::time::{Duration, Instant};

/// Limits how many lines of one kind are logged in each interval, so that what others cause does not fill the log.
#[derive(Debug)]
pub struct LogLimit {
    lines_max: u32,
    interval: Duration,
    /// When the current interval began.
    began: Option<Instant>,
    /// Lines logged since then.
    logged: u32,
    /// Lines that were not logged since the last one that was.
    suppressed: u64,
}

impl LogLimit {
    /// Creates a limit of `lines_max` lines in each `interval`.
    pub const fn new(lines_max: u32, interval: Duration) -> Self {
        Self { lines_max, interval, began: None, logged: 0, suppressed: 0 }
    }

    /// Asks to log a line. Returns how many lines were suppressed since the last one, or `None` if this one is suppressed.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= self.interval) {
            (self.began, self.logged) = (Some(now), 0);
        }
        if self.logged == self.lines_max {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_limit_are_counted() {
        let mut limit = LogLimit::new(2, Duration::from_secs(1));
        let start = Instant::now();
        let mut check = |milliseconds: u64, expected: Option<u64>| {
            assert_eq!(limit.admit(start + Duration::from_millis(milliseconds)), expected, "{milliseconds}");
        };
        check(0, Some(0));
        check(10, Some(0));
        check(20, None);
        check(999, None);
        check(1000, Some(2));
        check(1001, Some(0));
        check(1002, None);
        check(5000, Some(1));
    }
}
