//! Legacy sessions.

use std::time::Duration;

/// Bounds of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// From `initialize` on; afterwards the id is refused with 404 and the client opens another.
    pub lifetime: Duration,
    /// Soft state unused for this long is dropped; the id stays valid and the state is rebuilt.
    pub idle_timeout: Duration,
    /// Soft states held at once, over all keys.
    pub sessions_max: usize,
    /// Between two comments on an otherwise silent event stream: shorter than the idle timeout of the
    /// usual load balancers (60 s).
    pub keep_alive: Duration,
}
