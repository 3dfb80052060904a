//! What the gateway keeps for all servers.

use std::sync::Arc;

use super::stdio::BehaviorStore;
use crate::telemetry::events::EventLog;

/// What the gateway keeps for all servers.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// What programs were seen to do.
    pub behavior: Arc<BehaviorStore>,
    /// Where servers tell what happens to them. `None` for a server that is only tried.
    pub events: Option<Arc<EventLog>>,
}
