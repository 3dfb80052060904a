//! What makes a server of another transport look like a Streamable HTTP server to the rest of the gateway: a
//! POST, GET or DELETE in, an answer out.
//!
//! Invariants: an answer is never left out because a client is slow; ids that a server sees are never used
//! twice on one of its connections, and the client's own come back as they were written.
//!
//! Does not know: how the server is spoken to.

mod backoff;
mod mailbox;
mod outlet;
mod reply;
mod rewrite;
mod table;

pub use outlet::{EventSink, EventSource, event_channel, event_channel_with_capacity};
pub use reply::{CallGuard, CallOutcome, HttpOperation, LocalBody, LocalResponse};

pub(super) use backoff::Backoff;
pub(super) use mailbox::Mailbox;
pub(super) use rewrite::{event, flatten, replace, rewritten};
pub(super) use table::{CallEntry, CallTable, IdMatch};
