//! Why a request failed.

use std::fmt::{self, Display};

/// Characters of a server's text that an error keeps.
const DETAIL_CHARS_MAX: usize = 300;

/// The kind of a failure. A closed set, but for the codes that servers choose. Reports use the `Display` form as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The connection could not be established.
    Connect,
    /// An HTTP status other than 200.
    Status(u16),
    Rpc(i64),
    /// A result with `isError`, or one that is not complete.
    ErrorResult,
    /// A response to another request.
    WrongId,
    /// The canary of another request.
    ForeignCanary,
    /// The request's canary is not in the response.
    LostCanary,
    /// Two responses to one request.
    Duplicate,
    /// Fewer bytes, list entries or progress notifications than required.
    TooShort,
    /// Not a valid MCP message.
    Malformed,
    /// The response ended before it was complete.
    Truncated,
    /// No response in time.
    Timeout,
    /// The request was due, but could not be sent because all connections were waiting for responses.
    Unsent,
    /// The server closed an idle connection or event stream.
    IdleClosed,
    /// All kinds over the number that is counted separately.
    Other,
}

impl ErrorKind {
    /// Whether the failure is a bug of the target under any load.
    pub fn is_wrong_response(self) -> bool {
        use ErrorKind::{Duplicate, ForeignCanary, LostCanary, Malformed, TooShort, Truncated, WrongId};
        matches!(self, WrongId | ForeignCanary | LostCanary | Duplicate | TooShort | Malformed | Truncated)
    }
}

impl Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Rpc(code) => return write!(f, "JSON-RPC error {code}"),
            Self::ErrorResult => "result is an error",
            Self::WrongId => "wrong id",
            Self::ForeignCanary => "foreign canary",
            Self::LostCanary => "canary lost",
            Self::Duplicate => "answered twice",
            Self::TooShort => "too short",
            Self::Malformed => "malformed",
            Self::Truncated => "cut",
            Self::Timeout => "timeout",
            Self::Unsent => "not sent",
            Self::IdleClosed => "idle one dropped",
            Self::Other => "other",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    pub kind: ErrorKind,
    /// For people. It may quote the server, and so whatever the server was sent.
    pub detail: String,
}

impl RequestError {
    /// Truncates the detail to 300 characters.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        Self { kind, detail }
    }

    /// Appends the first bytes of what was received.
    pub fn with_excerpt(kind: ErrorKind, text: &str, received: &[u8]) -> Self {
        let received = String::from_utf8_lossy(&received[..received.len().min(DETAIL_CHARS_MAX)]);
        Self::new(kind, format!("{text}: {received}"))
    }
}
