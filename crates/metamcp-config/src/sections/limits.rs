//! `[limits]`: limits per key.

/// Limits that apply to every key. A key may have stricter ones of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Requests in flight for one key, event streams included.
    pub key_in_flight_max: usize,
}
