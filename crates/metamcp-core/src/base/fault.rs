use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use bytes::Bytes;

/// Something that ended a request otherwise than asked for: whose doing, how far it reaches, what it is.
///
/// It has two texts: [`Fault::for_client`] says what to do and holds no address, credential or internal;
/// `Display` with its source is for the log.
#[derive(Debug)]
pub struct Fault {
    /// Whose doing it is.
    pub origin: FaultOrigin,
    /// How far it reaches.
    pub scope: FaultScope,
    /// What it is: also the label of its counter.
    pub kind: FaultKind,
    /// The raw JSON id of the request, when it was read before the fault.
    pub id: Option<Bytes>,
    /// Raw JSON for the error's `data`.
    pub data: Option<Bytes>,
    text: Cow<'static, str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Whose doing a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOrigin {
    /// The peer in front of the gateway.
    Client,
    /// The gateway itself.
    Gateway,
    /// A server behind it.
    Upstream,
}

/// How far a fault reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultScope {
    /// This request; the connection goes on.
    Request,
    /// The connection cannot be used any more.
    Connection,
}

/// What went wrong. A closed set: `server/reply/reply.rs` turns each into a status and a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The body is not JSON.
    Parse,
    /// JSON, but no JSON-RPC message.
    InvalidRequest,
    /// Params that a request of the method cannot have.
    MalformedParams,
    /// A name, URI or cursor that leads nowhere.
    InvalidParams,
    /// No such method; the Modern era says it by HTTP status too.
    UnknownMethod,
    /// No such method, within a Legacy session.
    UnknownMethodInSession,
    /// Header and body disagree, or a header is missing.
    HeaderMismatch,
    /// A revision that is not spoken here.
    UnsupportedVersion,
    /// The client did not declare what the request cannot do without.
    MissingCapability,
    /// A server speaks only the revisions of the other era.
    EraMismatch,
    /// No or no valid credential.
    Unauthenticated,
    /// A foreign Origin or Host.
    Forbidden,
    /// No such path or endpoint.
    NotFound,
    /// A path that does not take this HTTP method.
    MethodNotAllowed,
    /// The client does not take what is answered here.
    NotAcceptable,
    /// The body is no JSON by its own word.
    UnsupportedMedia,
    /// The body is over the cap.
    TooLarge,
    /// The body did not come in time.
    BodyTimeout,
    /// The body broke off.
    BodyIncomplete,
    /// A request that needs a session came without one.
    SessionMissing,
    /// A session id that is unknown, ended, or another's.
    SessionUnknown,
    /// The key has as much under way as it may.
    TooManyInFlight,
    /// The gateway or one upstream has as much under way as it may.
    Overloaded,
    /// A upstream that cannot be reached.
    Unreachable,
    /// A upstream that did not answer in time.
    TimedOut,
    /// A upstream that broke off.
    ConnectionLost,
    /// A upstream that answered what is no answer.
    InvalidResponse,
    /// A upstream that refuses the gateway's credentials.
    UpstreamRefused,
    /// The gateway is stopping.
    ShuttingDown,
    /// A mistake of ours.
    Internal,
}

impl Fault {
    /// The client's doing; `text` is for the client.
    #[cold]
    pub fn client(kind: FaultKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultOrigin::Client, kind, text.into())
    }

    /// The gateway's own doing; `text` is for the client.
    #[cold]
    pub fn gateway(kind: FaultKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultOrigin::Gateway, kind, text.into())
    }

    /// A upstream's doing; `text` is for the client.
    #[cold]
    pub fn upstream(kind: FaultKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultOrigin::Upstream, kind, text.into())
    }

    fn new(origin: FaultOrigin, kind: FaultKind, text: Cow<'static, str>) -> Self {
        Self { origin, scope: FaultScope::Request, kind, id: None, data: None, text, source: None }
    }

    /// With the error it comes from, for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With the raw id of the request it answers.
    #[must_use]
    pub fn with_id(mut self, id: Option<Bytes>) -> Self {
        self.id = self.id.or(id);
        self
    }

    /// With raw JSON for the error's `data`.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// The connection cannot be used any more.
    #[must_use]
    pub fn closing_connection(mut self) -> Self {
        self.scope = FaultScope::Connection;
        self
    }

    /// What the client is told.
    pub fn for_client(&self) -> &str {
        &self.text
    }
}

impl FaultKind {
    /// All of them, each at its [`index`](Self::index).
    pub const ALL: [Self; 30] = [
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
        Self::Overloaded,
        Self::Unreachable,
        Self::TimedOut,
        Self::ConnectionLost,
        Self::InvalidResponse,
        Self::UpstreamRefused,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// Its place among all.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The counter's label.
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
            Self::Overloaded => "overloaded",
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.origin, self.kind.label(), self.text)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
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
    fn every_kind_is_at_its_place() {
        for (at, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), at, "{}", kind.label());
        }
        assert_eq!(FaultKind::Internal.index() + 1, FaultKind::ALL.len(), "the last one is among them");
    }
}
