//! The kinds of calls that clients send.

/// What a client does. Numbers are stored in the ledger, so the order is that of [`Kind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A call that is answered with JSON.
    Plain,
    /// A list of tools; executes nothing.
    List,
    /// A call that is answered on an event stream, after progress.
    Stream,
    /// A call during which the server asks the client for input.
    Ask,
    /// A call that the client cancels once it has begun.
    Cancel,
    /// A call whose client leaves: before the request is complete, before the response, or within it.
    Leave,
    /// A call whose client breaks the stream and resumes it (Legacy; a Modern client has no such thing).
    Resume,
    /// One of several calls in a JSON-RPC batch (Legacy, revision 2025-03-26).
    Batch,
    /// One of several calls on a framed stream.
    Frame,
    /// A call over REST.
    Execute,
    /// The event stream of a session, read for a while (Legacy); executes nothing.
    Listen,
    /// The session is ended while a call is in flight (Legacy).
    EndSession,
    /// A call that is answered later: its task is looked at until it is completed, or cancelled.
    Task,
    /// One of two calls in flight under the same id: in two sessions (Legacy), or in two requests (Modern).
    Twin,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Plain,
        Self::List,
        Self::Stream,
        Self::Ask,
        Self::Cancel,
        Self::Leave,
        Self::Resume,
        Self::Batch,
        Self::Frame,
        Self::Execute,
        Self::Listen,
        Self::EndSession,
        Self::Task,
        Self::Twin,
    ];

    /// How often each is drawn.
    pub const WEIGHTS: &[(Self, u64)] = &[
        (Self::Plain, 40),
        (Self::List, 5),
        (Self::Stream, 12),
        (Self::Ask, 6),
        (Self::Cancel, 3),
        (Self::Leave, 6),
        (Self::Resume, 4),
        (Self::Batch, 2),
        (Self::Frame, 3),
        (Self::Execute, 6),
        (Self::Listen, 2),
        (Self::EndSession, 1),
        (Self::Task, 5),
        (Self::Twin, 3),
    ];

    /// The same for a long run, in which most calls are cheap.
    pub const WEIGHTS_LONG: &[(Self, u64)] = &[
        (Self::Plain, 860),
        (Self::List, 20),
        (Self::Stream, 40),
        (Self::Ask, 10),
        (Self::Cancel, 4),
        (Self::Leave, 10),
        (Self::Resume, 6),
        (Self::Batch, 6),
        (Self::Frame, 12),
        (Self::Execute, 20),
        (Self::Listen, 2),
        (Self::EndSession, 1),
        (Self::Task, 4),
        (Self::Twin, 4),
    ];

    /// Whether the server executes something that must not be repeated.
    pub fn executes(self) -> bool {
        !matches!(self, Self::List | Self::Listen)
    }

    /// Whether the server answers a call with that number on an event stream.
    pub fn is_stream(self, number: u32) -> bool {
        match self {
            Self::Stream | Self::Ask | Self::Cancel | Self::Leave | Self::Resume | Self::EndSession => true,
            Self::Batch | Self::Frame | Self::Execute | Self::Twin => number.is_multiple_of(4),
            Self::Plain | Self::List | Self::Listen | Self::Task => false,
        }
    }

    /// Whether the server waits between the events of such a call: its client is to cancel, leave or resume it.
    pub fn is_paced(self) -> bool {
        matches!(self, Self::Cancel | Self::Leave | Self::Resume | Self::EndSession)
    }

    /// Several calls of this kind are sent together.
    pub fn is_group(self) -> bool {
        self.group_max() > 1
    }

    /// How many calls are sent together.
    pub fn group_max(self) -> u32 {
        match self {
            Self::Batch | Self::Frame => 6,
            Self::Twin => 2,
            _ => 1,
        }
    }
}
