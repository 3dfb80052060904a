//! The body of a response of the control plane.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;

use crate::limits::Permit;
use metamcp_store::auth::Identity;

/// The body of a response.
pub enum ControlPlaneBody {
    /// A complete body. The permit is held until it is sent.
    Whole(Bytes, Option<Permit>),
    /// A stream, and who reads it. A client that does not read does not keep it: it ends from outside with the credential.
    Stream(EventBody, Identity),
}

/// Events that are sent until a side ends the stream.
pub type EventBody = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;
