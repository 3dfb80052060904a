use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the seconds since the Unix epoch, or 0 if the system clock is before it.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
