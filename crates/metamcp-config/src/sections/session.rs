//! Settings of sessions.

use std::time::Duration;

use super::streams::StreamsConfig;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Counted from `initialize`. Afterwards the id is answered with 404, and the client opens another session.
    pub lifetime: Duration,
    /// State that was unused for this long is dropped. The id stays valid, and the state is rebuilt on the next use.
    pub idle_timeout: Duration,
    /// Sessions held in memory at once, over all keys.
    pub sessions_max: usize,
    /// `None` disables resumable streams.
    pub streams: Option<StreamsConfig>,
}
