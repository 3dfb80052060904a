//! Why a message is rejected, in words that its sender can act on.

use crate::frame::span::IdSpan;

/// The objects of a message whose member names are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageObject {
    Envelope,
    Params,
    Meta,
    Ref,
}

impl std::fmt::Display for MessageObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Envelope => "the message",
            Self::Params => "params",
            Self::Meta => "params._meta",
            Self::Ref => "params.ref",
        })
    }
}

/// Why a message was rejected. The texts are for its sender, and contain nothing of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not one complete JSON value in UTF-8.
    #[error("Parse error: the body is not one complete JSON value in UTF-8 without a byte order mark")]
    Syntax,
    /// 4 GiB or more.
    #[error("Invalid Request: the message is too long")]
    TooLong,
    /// Nested deeper than [`DEPTH_MAX`](crate::frame::DEPTH_MAX).
    #[error("Invalid Request: objects and arrays are nested deeper than 64; flatten the message")]
    Depth,
    /// A batch, where a single message is expected.
    #[error("Invalid Request: batches are not accepted; send each message in a request of its own")]
    Batch,
    /// Not a batch, or one of an invalid size, where a batch is expected.
    #[error("Invalid Request: a batch is an array of 1 to 64 messages")]
    BatchSize,
    /// Neither an object nor an array.
    #[error("Invalid Request: a message is a JSON object")]
    NotObject,
    /// More than [`MEMBERS_MAX`](crate::frame::MEMBERS_MAX) members.
    #[error("Invalid Request: more than 64 members in {object}")]
    Members { object: MessageObject },
    /// Two members of the same name. Parsers disagree on which of them counts.
    #[error("Invalid Request: a member is written twice in {object}; send each once")]
    Duplicate { object: MessageObject },
    /// A name that case-insensitive parsers read as another one.
    #[error("Invalid Request: a name in {object} differs from `{member}` only in case; write it `{member}`")]
    CaseVariant {
        /// The name that the message should use.
        member: &'static str,
        object: MessageObject,
    },
    /// A lone surrogate in a name, or in a string that routing depends on.
    #[error("Invalid Request: a string in {object} holds half of a surrogate pair (\\ud800 to \\udfff)")]
    Surrogate { object: MessageObject },
    /// `jsonrpc` is missing or not "2.0".
    #[error("Invalid Request: `jsonrpc` must be \"2.0\"")]
    Version,
    /// Neither a request, nor a notification, nor a response.
    #[error("Invalid Request: a message has either `method`, or `result`, or `error`, and just one of them")]
    Shape,
    /// A request with `id: null`.
    #[error("Invalid Request: the id of a request is a string or an integer, never null")]
    NullId,
    /// A result without an id.
    #[error("Invalid Request: a result needs the id of its request")]
    NoId,
    /// A value of the wrong type where routing depends on it.
    #[error("{}: `{member}` in {object} must be {expected}", self.title())]
    Type {
        member: &'static str,
        object: MessageObject,
        /// The expected type in words.
        expected: &'static str,
    },
}

impl ScanError {
    /// The JSON-RPC error code, <https://www.jsonrpc.org/specification#error_object>.
    pub fn code(&self) -> i32 {
        match self {
            Self::Syntax => -32700,
            Self::Type {
                object: MessageObject::Params | MessageObject::Meta | MessageObject::Ref, ..
            } => -32602,
            _ => -32600,
        }
    }

    fn title(self) -> &'static str {
        if self.code() == -32602 { "Invalid params" } else { "Invalid Request" }
    }
}

/// A rejected message, with its id if that is unambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ScanRejection {
    pub error: ScanError,
    /// The id for the response, as a span of the message. `None`: respond with `null`.
    pub id: Option<IdSpan>,
}
