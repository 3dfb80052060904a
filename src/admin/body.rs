//! The body of a response of the control plane.

use std::pin::Pin;

use bytes::Bytes;

use super::events::CallEvents;
use crate::limits::Permit;

/// The body of a response.
pub enum ControlPlaneBody {
    /// A complete body. The permit is held until it is sent.
    Whole(Bytes, Option<Permit>),
    /// The events of an in-flight call.
    Events(Pin<Box<CallEvents>>),
}
