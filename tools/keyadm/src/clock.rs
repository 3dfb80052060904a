//! The system clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
