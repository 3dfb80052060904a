//! The closed sets that operations and event streams are counted by.

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationOutcome {
    /// A response was passed on. Its content is not read: a JSON-RPC error from the server counts as an answer.
    Answer,
    /// The gateway responded with an error of its own, or the server refused the request by HTTP status.
    Error,
    /// The client disconnected before the response was complete.
    Disconnect,
}

/// The outcomes, and [`STREAMED_ANSWER`].
pub(super) const OUTCOMES: usize = 4;

/// The index of answers that arrived in several chunks. They are counted apart because their time to first byte is recorded
/// separately; that of a whole answer is its duration.
pub(super) const STREAMED_ANSWER: usize = 3;

impl OperationOutcome {
    /// The values of the label `outcome`, by index.
    pub(super) const NAMES: [&str; OUTCOMES] = ["ok", "error", "gone", "ok"];
}

/// What an event stream to a client carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The response to a call.
    Call,
    /// Messages that servers send outside of calls, in a Legacy session.
    Session,
    /// The notifications that a Modern client subscribed to.
    Subscription,
}

pub(super) const STREAM_KINDS: usize = 3;

impl StreamKind {
    /// The values of the label `kind`, by index.
    pub(super) const NAMES: [&str; STREAM_KINDS] = ["call", "session", "subscription"];
}
