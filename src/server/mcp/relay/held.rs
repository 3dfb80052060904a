//! What a request holds until its response has passed.

use crate::auth::Identity;
use crate::limits::Permit;
use crate::server::mcp::meter::Meter;
use crate::server::mcp::tasks::TaskPass;
use crate::session::CallGuard;
use crate::upstream::UpstreamId;

/// What a request holds until its answer has passed.
pub struct Held {
    /// The key's place.
    pub _permit: Option<Permit>,
    /// The session's note of the call.
    pub _in_flight: Option<CallGuard>,
    /// What counts it.
    pub meter: Option<Meter>,
    /// Whose it is: an event stream ends with its key.
    pub identity: Identity,
    /// The server of a subscription, when it is one: it ends with that too, and when the gateway drains.
    pub subscription: Option<UpstreamId>,
    /// What is done about tasks, where the server has them.
    pub tasks: Option<Box<TaskPass>>,
}

impl Held {
    /// What every call holds.
    pub fn new(permit: Option<Permit>, identity: Identity) -> Self {
        Self { _permit: permit, _in_flight: None, meter: None, identity, subscription: None, tasks: None }
    }
}
