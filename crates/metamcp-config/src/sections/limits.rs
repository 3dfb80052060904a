//! `[limits]`: limits per key.

/// Limits that apply to every key. A key may have stricter ones of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Requests in flight for one key. Long-lived event streams are counted by the next limit instead.
    pub key_in_flight_max: usize,
    /// Long-lived event streams of one key: GET streams, `subscriptions/listen` and framed streams.
    pub key_event_streams_max: usize,
}
