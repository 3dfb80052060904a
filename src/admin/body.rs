//! The body of a response of the control plane.

use std::pin::Pin;

use bytes::Bytes;

use super::events::CallEvents;
use crate::limits::Permit;
use metamcp_store::auth::Identity;

/// The body of a response.
pub enum ControlPlaneBody {
    /// A complete body. The permit is held until it is sent.
    Whole(Bytes, Option<Permit>),
    /// The events of an in-flight call, and who called. A client that does not read them does not keep the call: it ends from
    /// outside with the credential.
    Events(Pin<Box<CallEvents>>, Identity),
}
