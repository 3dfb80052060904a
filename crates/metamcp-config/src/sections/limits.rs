//! `[limits]`: limits per key, and of the process.

/// Limits that apply to every key, which may have stricter ones of its own, and to the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Requests in flight for one key. Long-lived event streams are counted by the next limit instead.
    pub key_in_flight_max: usize,
    /// Long-lived event streams of one key: GET streams, `subscriptions/listen` and framed streams.
    pub key_event_streams_max: usize,
    /// Bytes that messages held in memory may take, of all keys and servers together.
    pub memory_max: usize,
}
