//! Settings of resumable streams.

use std::time::Duration;

/// Bounds on resumable streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamsConfig {
    /// Bytes retained by all streams.
    pub bytes_max: usize,
    /// Bytes retained by one stream.
    pub stream_bytes_max: usize,
    /// How long a stream is retained after it ended, or after its client left.
    pub retention: Duration,
    /// A connection whose client can come back is closed in the first silence after this time. Zero disables it.
    pub poll_after: Duration,
}
