//! What can be wrong with a message, told so that its sender can put it right.

use crate::frame::span::IdSpan;

/// The objects of a message in which names are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageObject {
    /// The message itself.
    Envelope,
    /// `params`.
    Params,
    /// `params._meta`.
    Meta,
    /// `params.ref`.
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

/// Why a message was refused. The texts are meant for its sender and hold nothing of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON: syntax, encoding, or cut short.
    #[error("Parse error: the body is not one complete JSON value in UTF-8 without a byte order mark")]
    Syntax,
    /// 4 GiB and more.
    #[error("Invalid Request: the message is too long")]
    TooLong,
    /// Objects and arrays within each other, deeper than [`DEPTH_MAX`](crate::frame::DEPTH_MAX).
    #[error("Invalid Request: objects and arrays are nested deeper than 64; flatten the message")]
    Depth,
    /// An array at the top.
    #[error("Invalid Request: batches are not accepted; send each message in a request of its own")]
    Batch,
    /// A batch was asked for and the message is not one, or an empty one.
    #[error("Invalid Request: a batch is an array of 1 to 64 messages")]
    BatchSize,
    /// A scalar at the top.
    #[error("Invalid Request: a message is a JSON object")]
    NotObject,
    /// More than [`MEMBERS_MAX`](crate::frame::MEMBERS_MAX) members.
    #[error("Invalid Request: more than 64 members in {place}")]
    Members {
        /// The object.
        place: MessageObject,
    },
    /// Two members of one name: readers disagree on which of them counts.
    #[error("Invalid Request: a member is written twice in {place}; send each once")]
    Duplicate {
        /// The object.
        place: MessageObject,
    },
    /// A name that some readers take for another one.
    #[error("Invalid Request: a name in {place} differs from `{member}` only in case; write it `{member}`")]
    CaseVariant {
        /// The name as it should be.
        member: &'static str,
        /// The object.
        place: MessageObject,
    },
    /// Half of a surrogate pair in a name or in a string that routing depends on.
    #[error("Invalid Request: a string in {place} holds half of a surrogate pair (\\ud800 to \\udfff)")]
    Surrogate {
        /// The object.
        place: MessageObject,
    },
    /// `jsonrpc` is missing or something else.
    #[error("Invalid Request: `jsonrpc` must be \"2.0\"")]
    Version,
    /// Neither a request nor a notification nor a response.
    #[error("Invalid Request: a message has either `method`, or `result`, or `error`, and just one of them")]
    Shape,
    /// A request with `id: null`.
    #[error("Invalid Request: the id of a request is a string or an integer, never null")]
    NullId,
    /// A result without an id.
    #[error("Invalid Request: a result needs the id of its request")]
    NoId,
    /// A value of the wrong type where routing depends on it.
    #[error("{}: `{member}` in {place} must be {expected}", self.title())]
    Type {
        /// Its name.
        member: &'static str,
        /// The object it stands in.
        place: MessageObject,
        /// What should stand there.
        expected: &'static str,
    },
}

impl ScanError {
    /// The JSON-RPC error code, <https://www.jsonrpc.org/specification#error_object>.
    pub fn code(&self) -> i32 {
        match self {
            Self::Syntax => -32700,
            Self::Type {
                place: MessageObject::Params | MessageObject::Meta | MessageObject::Ref, ..
            } => -32602,
            _ => -32600,
        }
    }

    fn title(self) -> &'static str {
        if self.code() == -32602 { "Invalid params" } else { "Invalid Request" }
    }
}

/// A message that was refused, with its id where that could still be read beyond doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ScanRejection {
    /// What is wrong with it.
    pub error: ScanError,
    /// The id to answer with, as a place in the refused message. None: answer with `null`.
    pub id: Option<IdSpan>,
}
