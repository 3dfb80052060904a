//! Waiting for what happens elsewhere.

use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// How often to look. Each look may be a request.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until that holds, and says how long it took.
#[track_caller]
pub fn until(what: &str, holds: impl FnMut() -> bool) -> Duration {
    until_within(what, PATIENCE, holds)
}

/// As [`until`], for what has to hold in less time.
#[track_caller]
pub fn until_within(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < within, "{what}: not within {within:?}");
        thread::park_timeout(LOOK);
    }
    begun.elapsed()
}
