//! A connection as one reader passes it to the next.

use bytes::BytesMut;

use crate::server::http1::activity::{ActiveRequest, HttpVersion};
use crate::server::http1::socket::Socket;
use crate::server::reply::response_writer::ResponseWriter;

/// A connection between two readers.
pub struct ConnectionTransfer {
    pub socket: Socket,
    /// Bytes that were read and not processed.
    pub unprocessed: BytesMut,
    /// The protocol, if it is known.
    pub protocol: Option<HttpVersion>,
    /// Whether the request that comes next, or is in flight, arrived before the one in front of it was
    /// answered.
    pub is_pipelined: bool,
}

/// An event stream that its connection carries until it ends.
pub struct DetachedStream {
    /// The remaining response, head and body.
    pub writing: ResponseWriter,
    /// Held until the last byte is written.
    pub active: ActiveRequest,
}
