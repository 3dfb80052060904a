//! What can go wrong on the way to an endpoint, told so that the one before the client can do something about
//! it.

use http::StatusCode;

use crate::protocol::{Era, code};
use crate::upstream::{Stage, UpstreamError};

/// Why a request has no answer of the endpoint's. The texts go to the client: they hold no address and no
/// credential.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It was not delivered.
    #[error(
        "the endpoint cannot be reached, so the request did not run: check its URL, and whether it is there"
    )]
    Unreachable,
    /// Likewise, for the lack of a local port.
    #[error(
        "no local port or file is free for a connection to the endpoint, so the request did not run: try again in a minute"
    )]
    NoPort,
    /// Likewise.
    #[error(
        "the endpoint's certificate or its TLS is not accepted, so the request did not run: check the URL, and \
         the certificate authorities of this machine"
    )]
    Tls,
    /// Silence.
    #[error(
        "the endpoint did not answer in time, and the request may have run: try again, or wait for longer (--timeout)"
    )]
    TimedOut,
    /// The connection, or the stream, ended too early.
    #[error(
        "the endpoint broke off before it had answered, and the request may have run: find out before you repeat it"
    )]
    BrokenOff,
    /// 401.
    #[error(
        "the endpoint refuses the credential (HTTP 401): check the key (METAMCP_KEY, --key-file or --key), and that \
         it was not switched off"
    )]
    Unauthenticated,
    /// 404 or 405 outside a session.
    #[error("there is no MCP endpoint at that URL (HTTP {}): check its path, which usually ends in /mcp", .0.as_u16())]
    NoEndpoint(StatusCode),
    /// 413.
    #[error(
        "the endpoint does not take a message of that size (HTTP 413), so the request did not run: send less at once, or \
         have its bound raised (of a metamcp: server.body_bytes_max)"
    )]
    TooLong,
    /// 429, 503.
    #[error("the endpoint has too much to do (HTTP {}): try again later", .0.as_u16())]
    Busy(StatusCode),
    /// 3xx.
    #[error("the endpoint is somewhere else now (HTTP {}): write its new URL, which is not followed", .0.as_u16())]
    Moved(StatusCode),
    /// Any other status that is no success.
    #[error("the endpoint answered HTTP {} without saying why; its log may tell more", .0.as_u16())]
    Status(StatusCode),
    /// A success that is no answer.
    #[error("the endpoint answered what is no MCP message: check that the URL is that of an MCP endpoint")]
    NotMcp,
    /// More than is held.
    #[error("the endpoint answered more than may be held here (32 MiB): ask for less")]
    TooLarge,
    /// The session was lost and could not be opened again.
    #[error("the endpoint has lost the session, and another could not be opened: start the client again")]
    SessionLost,
    /// The client's input has ended, and with it what there is to wait for.
    #[error(
        "the client's input has ended before this was answered, and it may have run: keep the input open until all is \
         answered, the endpoint's own questions too"
    )]
    InputEnded,
    /// The client's doing.
    #[error("more requests are under way than may be at once (4096, with 64 MiB): wait for answers")]
    TooMany,
    /// Likewise.
    #[error("the protocol version in _meta is not one that a header can hold: write a date, as 2026-07-28")]
    BadVersion,
}

impl Trouble {
    /// Of an answer that has no JSON-RPC error in it.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthenticated,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Self::NoEndpoint(status),
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLong,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Self::Busy(status),
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Self::TimedOut,
            _ if status.is_redirection() => Self::Moved(status),
            _ if status.is_success() => Self::NotMcp,
            _ => Self::Status(status),
        }
    }

    /// Whether the same may go well a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable | Self::NoPort | Self::TimedOut | Self::BrokenOff | Self::Busy(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::CONFLICT,
            _ => false,
        }
    }

    /// The error code that clients of an era know. In the Modern era no code of a transport may be made up
    /// (MCP 2026-07-28, error codes).
    pub fn code(&self, era: Era) -> i32 {
        match (self, era) {
            (Self::TooMany | Self::BadVersion, _) => code::INVALID_REQUEST,
            (_, Era::Legacy) => code::LEGACY_TRANSPORT,
            (_, Era::Modern) => code::INTERNAL,
        }
    }
}

impl From<UpstreamError> for Trouble {
    fn from(error: UpstreamError) -> Self {
        match error.stage {
            Stage::NoPort => Self::NoPort,
            Stage::LeftAlone
            | Stage::Resolve
            | Stage::Private
            | Stage::Start
            | Stage::Connect
            | Stage::ConnectTimeout
            | Stage::Unsent => Self::Unreachable,
            Stage::Tls => Self::Tls,
            Stage::FirstByteTimeout | Stage::BodyIdle => Self::TimedOut,
            Stage::Sent | Stage::Body => Self::BrokenOff,
            Stage::TooLarge => Self::TooLarge,
            Stage::Nonsense | Stage::NoEndpoint | Stage::ForeignEndpoint => Self::NotMcp,
            Stage::Queue | Stage::QueueFull => Self::TooMany,
        }
    }
}
