//! Resources that a request holds until its response has passed.

use super::refuser::ServerRequestRefuser;
use crate::limits::Permit;
use crate::server::mcp::meter::Meter;
use crate::server::mcp::tasks::TaskIdTranslation;
use crate::session::CallGuard;
use crate::upstream::UpstreamId;
use metamcp_store::auth::Identity;

/// Resources that a request holds until the last byte of its response has passed.
pub struct RequestResources {
    pub _permit: Option<Permit>,
    /// The session's record of the call, which knows whether the client cancelled it.
    pub in_flight: Option<CallGuard>,
    /// Counts usage and the outcome.
    pub meter: Option<Meter>,
    /// The owner of the call: its event stream ends when the key is revoked.
    pub identity: Identity,
    /// The server of a subscription. The stream ends when this server is removed, and when the gateway
    /// drains.
    pub subscription: Option<UpstreamId>,
    /// The translation of task ids, if the server supports tasks.
    pub tasks: Option<Box<TaskIdTranslation>>,
    /// Refuses requests of the server, if the client cannot be asked.
    pub refuser: Option<Box<ServerRequestRefuser>>,
}

impl RequestResources {
    /// The resources that every call holds.
    pub fn new(permit: Option<Permit>, identity: Identity) -> Self {
        Self {
            _permit: permit,
            in_flight: None,
            meter: None,
            identity,
            subscription: None,
            tasks: None,
            refuser: None,
        }
    }
}
