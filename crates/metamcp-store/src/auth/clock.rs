//! The two clocks that authentication reads.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Both clocks, read once for a request.
#[derive(Clone, Copy)]
pub struct ClockReading {
    pub instant: Instant,
    /// Unix time in seconds.
    pub unix_s: u64,
}

impl ClockReading {
    pub fn now() -> Self {
        // A clock set before 1970 counts as the end of time, so that no token or key outlives its expiry.
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        Self { instant: Instant::now(), unix_s }
    }
}
