//! What one owner of a connection hands to the next.

use bytes::BytesMut;

use crate::server::http1::activity::{Active, Speaks};
use crate::server::http1::socket::Socket;
use crate::server::reply::response_writer::Writing;

/// A connection between two of those that serve it.
pub struct Link {
    /// The stream of bytes.
    pub socket: Socket,
    /// What was read and not used.
    pub ahead: BytesMut,
    /// The protocol, when it is known.
    pub speaks: Option<Speaks>,
}

/// An event stream, to which its connection belongs until its end.
pub struct Detached {
    /// What is left of it, head and body.
    pub writing: Writing,
    /// Until the last byte.
    pub active: Active,
}
