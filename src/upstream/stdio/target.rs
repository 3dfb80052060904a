//! What the configuration and the store say about a server that is a program.

use std::sync::Arc;
use std::time::Duration;

use super::behavior::BehaviorStore;
use crate::telemetry::events::EventLog;
use metamcp_config::server::{EraChoice, Program};
use metamcp_core::base::ServerName;

/// What running a server that is a program takes.
pub struct StdioTarget {
    pub name: ServerName,
    pub program: Program,
    /// The era from the configuration.
    pub era: EraChoice,
    /// How long a session waits for a process if as many run as may.
    pub queue_timeout: Duration,
    /// What programs were seen to do.
    pub behavior: Arc<BehaviorStore>,
    /// Where it is told what happens to processes.
    pub events: Option<Arc<EventLog>>,
}

#[cfg(test)]
impl StdioTarget {
    /// `cat` with default settings.
    pub fn sample() -> Self {
        Self {
            name: ServerName::new("a").expect("valid"),
            program: Program::sample(),
            era: EraChoice::Auto,
            queue_timeout: Duration::from_secs(5),
            behavior: Arc::default(),
            events: None,
        }
    }
}
