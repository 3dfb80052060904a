//! Who may have how much at once.

/// Limits per key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Requests under way at once for one key, event streams included.
    pub key_in_flight_max: usize,
}
