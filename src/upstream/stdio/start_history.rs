//! Whether the processes of a server start slowly, as far as recent starts tell.

use std::cell::Cell;
use std::time::Duration;

/// Remembers a slow start for a number of later ones.
#[derive(Debug, Default)]
pub struct StartHistory {
    /// How many more starts the last slow one is remembered for.
    remembered_for: Cell<u32>,
}

/// A wait that a user notices. Programs for Node.js or Python take longer to start, compiled ones do not.
const SLOW_START: Duration = Duration::from_millis(200);

/// A slow start is remembered for so many later ones, whose time is mostly not known, because spares are used. After that,
/// one session waits for a start, which tells whether they are still slow.
const REMEMBERED_STARTS: u32 = 64;

/// A fast start counts for so many of unknown time: after four of them, slow ones are forgotten. The first start after a
/// boot is often the only slow one.
const FAST_START_WEIGHT: u32 = 16;

impl StartHistory {
    /// Notes a start, and how long it took if that is known.
    pub fn note(&self, time: Option<Duration>) {
        let before = self.remembered_for.get();
        self.remembered_for.set(match time {
            Some(time) if time >= SLOW_START => REMEMBERED_STARTS,
            Some(_fast) => before.saturating_sub(FAST_START_WEIGHT),
            None => before.saturating_sub(1),
        });
    }

    /// Whether the next start is likely to be slow.
    pub fn is_slow(&self) -> bool {
        self.remembered_for.get() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Option<Duration> = Some(Duration::from_millis(50));
    const SLOW: Option<Duration> = Some(SLOW_START);

    #[track_caller]
    fn check(starts: &[(usize, Option<Duration>)], expected: bool) {
        let history = StartHistory::default();
        for (count, time) in starts {
            (0..*count).for_each(|_| history.note(*time));
        }
        assert_eq!(history.is_slow(), expected, "{starts:?}");
    }

    #[test]
    fn a_slow_start_is_forgotten_when_later_ones_are_fast() {
        check(&[], false);
        check(&[(9, FAST)], false);
        check(&[(1, SLOW)], true);
        check(&[(1, SLOW), (3, FAST)], true);
        check(&[(1, SLOW), (4, FAST)], false);
        check(&[(1, SLOW), (3, FAST), (1, SLOW), (3, FAST)], true);
        check(&[(1, SLOW), (63, None)], true);
        check(&[(1, SLOW), (64, None)], false);
        check(&[(1, SLOW), (64, None), (1, SLOW)], true);
    }
}
