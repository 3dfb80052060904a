//! What waits for an answer on one channel: calls of clients, and requests of the server.

use bytes::Bytes;
use metamcp_core::protocol::{CallsById, CallsByNumber};

/// The in-flight calls of one channel, by the numbers under which the server knows them. A call gets a number
/// because every client counts from 0; the response gets the client's id back, exactly as it was written.
pub type PendingCalls<C> = CallsByNumber<CallEntry<C>>;

/// An in-flight call, with the client's own identifiers.
pub struct CallEntry<C> {
    /// The client's raw id.
    pub id: Bytes,
    /// The client's raw progress token, if it sent one.
    pub token: Option<Bytes>,
    pub call: C,
}

/// The server's requests that wait for a response. `O` identifies the client that got the request.
pub type ServerRequests<O> = CallsById<O, REQUESTS_MAX>;

/// Requests of one server that its clients have not answered.
const REQUESTS_MAX: usize = 256;

/// The longest id of a server's request, in bytes. Ids are numbers or UUIDs; longer ones would only take memory.
pub const REQUEST_ID_BYTES_MAX: usize = 1 << 10;

/// The error text of one more.
pub const TOO_MANY_REQUESTS: &str =
    "too many of your requests wait for a response; wait for some responses, or cancel some requests";
