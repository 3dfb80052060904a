use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::num::NonZeroU32;

use bytes::Bytes;

use super::memory::OutOfMemory;
use super::printable::Printable;
use super::request_id::RequestId;

/// Why a request failed: who caused it, what it affects, and what it is.
///
/// A fault has two texts. [`Fault::for_client`] tells the client what to do; it has no address, credential or internal detail.
/// `Display`, with the source, is for the log.
#[derive(Debug)]
pub struct Fault {
    pub origin: FaultOrigin,
    pub scope: FaultScope,
    /// Also the label of its counter.
    pub kind: FaultKind,
    /// The raw JSON id of the request, if it was read before the fault occurred.
    pub id: Option<Bytes>,
    /// Raw JSON for the member `data` of the JSON-RPC error.
    pub data: Option<Bytes>,
    /// The id of the message in logs and records. Without one, it gets an id where it is answered.
    /// Boxed, as most faults have none and each is moved through many functions.
    pub request_id: Option<Box<RequestId>>,
    /// How many seconds the client should wait. `None` for what the kind implies.
    pub retry_after_s: Option<NonZeroU32>,
    text: Cow<'static, str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Who caused a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOrigin {
    Client,
    Gateway,
    /// An MCP server behind the gateway.
    Upstream,
}

/// What a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultScope {
    /// Only this request; the connection stays usable.
    Request,
    /// The connection, which must be closed.
    Connection,
}

/// The kind of a fault. A closed set: the server maps each kind to an HTTP status and a JSON-RPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The body is not JSON.
    Parse,
    /// The body is JSON, but not a JSON-RPC message.
    InvalidRequest,
    /// The params are not valid for the method.
    MalformedParams,
    /// A name, URI or cursor that does not exist.
    InvalidParams,
    /// Unknown method. In the Modern era it has an HTTP status of its own.
    UnknownMethod,
    /// Unknown method in a Legacy session.
    UnknownMethodInSession,
    /// A header is missing, or contradicts the body.
    HeaderMismatch,
    /// A protocol revision that the gateway does not support.
    UnsupportedVersion,
    /// The client did not declare a capability that the request needs.
    MissingCapability,
    /// The server supports only revisions of the other era.
    EraMismatch,
    /// The credential is missing or invalid.
    Unauthenticated,
    /// The Origin or Host is not allowed.
    Forbidden,
    /// Unknown path or endpoint.
    NotFound,
    /// The path does not support the HTTP method.
    MethodNotAllowed,
    /// The client does not accept the content type of the response.
    NotAcceptable,
    /// The content type of the body is not JSON.
    UnsupportedMedia,
    /// The body is too large.
    TooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body ended before it was complete.
    BodyIncomplete,
    /// A request that needs a session has none.
    SessionMissing,
    /// The session is unknown, ended, or belongs to another key.
    SessionUnknown,
    /// The key has reached its limit of requests in flight.
    TooManyInFlight,
    /// The key has used up a quota.
    QuotaExceeded,
    /// The gateway or an upstream has reached its limit of requests in flight.
    Overloaded,
    /// There is no memory for the message.
    OutOfMemory,
    /// The upstream cannot be reached.
    Unreachable,
    /// The upstream did not respond in time.
    TimedOut,
    /// The connection to the upstream ended before the response was complete.
    ConnectionLost,
    /// The upstream sent an invalid response.
    InvalidResponse,
    /// The upstream refused the gateway's credentials.
    UpstreamRefused,
    /// The gateway is shutting down.
    ShuttingDown,
    /// A bug of the gateway.
    Internal,
}

impl Fault {
    /// Creates a fault caused by the client. `text` is sent to the client.
    #[cold]
    pub fn client(kind: FaultKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultOrigin::Client, kind, text.into())
    }

    /// Creates a fault caused by the gateway. `text` is sent to the client.
    #[cold]
    pub fn gateway(kind: FaultKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultOrigin::Gateway, kind, text.into())
    }

    /// Creates a fault caused by an upstream. `text` is sent to the client.
    #[cold]
    pub fn upstream(kind: FaultKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultOrigin::Upstream, kind, text.into())
    }

    fn new(origin: FaultOrigin, kind: FaultKind, text: Cow<'static, str>) -> Self {
        Self {
            origin,
            scope: FaultScope::Request,
            kind,
            id: None,
            data: None,
            request_id: None,
            retry_after_s: None,
            text,
            source: None,
        }
    }

    /// Adds the error that caused it, for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the raw id of the request, unless there is one already.
    #[must_use]
    pub fn with_id(mut self, id: Option<Bytes>) -> Self {
        self.id = self.id.or(id);
        self
    }

    /// Adds the id of the message in logs and records.
    #[must_use]
    pub fn with_request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = Some(Box::new(request_id));
        self
    }

    /// Adds raw JSON for the member `data` of the error.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Adds how many seconds the client should wait.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = NonZeroU32::new(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }

    /// Extends it to the connection, which is closed after the response.
    #[must_use]
    pub fn closing_connection(mut self) -> Self {
        self.scope = FaultScope::Connection;
        self
    }

    /// The text for the client.
    pub fn for_client(&self) -> &str {
        &self.text
    }
}

impl FaultKind {
    /// All kinds, in the order of their [`index`](Self::index).
    pub const ALL: [Self; 32] = [
        Self::Parse,
        Self::InvalidRequest,
        Self::MalformedParams,
        Self::InvalidParams,
        Self::UnknownMethod,
        Self::UnknownMethodInSession,
        Self::HeaderMismatch,
        Self::UnsupportedVersion,
        Self::MissingCapability,
        Self::EraMismatch,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::UnsupportedMedia,
        Self::TooLarge,
        Self::BodyTimeout,
        Self::BodyIncomplete,
        Self::SessionMissing,
        Self::SessionUnknown,
        Self::TooManyInFlight,
        Self::QuotaExceeded,
        Self::Overloaded,
        Self::OutOfMemory,
        Self::Unreachable,
        Self::TimedOut,
        Self::ConnectionLost,
        Self::InvalidResponse,
        Self::UpstreamRefused,
        Self::ShuttingDown,
        Self::Internal,
    ];

    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label of its counter.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::InvalidRequest => "invalid_request",
            Self::MalformedParams => "malformed_params",
            Self::InvalidParams => "invalid_params",
            Self::UnknownMethod | Self::UnknownMethodInSession => "unknown_method",
            Self::HeaderMismatch => "header_mismatch",
            Self::UnsupportedVersion => "unsupported_version",
            Self::MissingCapability => "missing_capability",
            Self::EraMismatch => "other_era",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotAcceptable => "not_acceptable",
            Self::UnsupportedMedia => "unsupported_media",
            Self::TooLarge => "too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyIncomplete => "body_broken",
            Self::SessionMissing => "session_missing",
            Self::SessionUnknown => "session_unknown",
            Self::TooManyInFlight => "too_many",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Overloaded => "overloaded",
            Self::OutOfMemory => "out_of_memory",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::ConnectionLost => "broken",
            Self::InvalidResponse => "bad_answer",
            Self::UpstreamRefused => "backend_refused",
            Self::ShuttingDown => "stopping",
            Self::Internal => "internal",
        }
    }
}

/// For the log: one line, whatever clients and servers wrote.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printable(&self.text))?;
        if let Some(source) = &self.source {
            write!(f, ": {}", Printable(&source.to_string()))?;
        }
        Ok(())
    }
}

/// A request that is refused before it ran.
impl From<OutOfMemory> for Fault {
    #[cold]
    fn from(error: OutOfMemory) -> Self {
        Self::gateway(FaultKind::OutOfMemory, error.to_string())
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_match_the_order() {
        for (index, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index, "{}", kind.label());
        }
        assert_eq!(FaultKind::Internal.index() + 1, FaultKind::ALL.len(), "ALL has the last kind");
    }

    #[test]
    fn a_fault_is_one_line_of_the_log() {
        let source = std::io::Error::other("b\r\nc");
        let fault = Fault::upstream(FaultKind::Internal, "a\n\u{1b}[31m").with_source(source);
        let line = fault.to_string();
        assert_eq!(line, "a\\n\\u{1b}[31m: b\\r\\nc");
        assert_eq!(fault.for_client(), "a\n\u{1b}[31m", "clients get JSON, which has its own escapes");
    }
}
