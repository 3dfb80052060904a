//! Why a request has no response from the endpoint, in words that the client's user can act on.

use http::StatusCode;

use metamcp_core::protocol::{Era, code};
use metamcp_http::{FailureStage, UpstreamError};

/// Why a request has no response from the endpoint. The texts go to the client: they contain no address and no
/// credential.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(
        "the endpoint cannot be reached, so the request did not run: check its URL, and that it is running"
    )]
    Unreachable,
    #[error(
        "no local port or file descriptor is free for a connection to the endpoint, so the request did not run: try again \
         in a minute"
    )]
    NoPort,
    #[error(
        "the TLS handshake with the endpoint failed, so the request did not run: check the URL, and that this machine \
         trusts the endpoint's certificate authority"
    )]
    Tls,
    #[error(
        "the endpoint did not respond in time, and the request may have run: try again, or raise the timeout (--timeout)"
    )]
    TimedOut,
    /// The connection or the event stream ended before the response.
    #[error(
        "the endpoint closed the connection before it responded, and the request may have run: check its effect before \
         you repeat it"
    )]
    ConnectionLost,
    /// The endpoint answered HTTP 401.
    #[error(
        "the endpoint rejected the credential (HTTP 401): check the key (METAMCP_KEY, --key-file or --key), and that \
         it is active"
    )]
    Unauthenticated,
    /// HTTP 404 or 405 outside a session.
    #[error("there is no MCP endpoint at that URL (HTTP {}): check its path, which usually ends in /mcp", .0.as_u16())]
    NoEndpoint(StatusCode),
    /// The endpoint answered HTTP 413.
    #[error(
        "the endpoint does not accept a message of this size (HTTP 413), so the request did not run: send less at once, or \
         raise the endpoint's limit (in metamcp: server.body_bytes_max)"
    )]
    MessageTooLarge,
    /// HTTP 429 or 503.
    #[error("the endpoint is overloaded (HTTP {}): try again later", .0.as_u16())]
    Busy(StatusCode),
    /// The endpoint answered with a redirect.
    #[error("the endpoint has moved (HTTP {}) and redirects are not followed: write its new URL", .0.as_u16())]
    Moved(StatusCode),
    /// Any other status that is not a success.
    #[error("the endpoint responded with HTTP {} and no reason: its log may have one", .0.as_u16())]
    Status(StatusCode),
    /// A successful status with a body that is not a response.
    #[error("the endpoint's response is not an MCP message: check that the URL is that of an MCP endpoint")]
    NotMcp,
    #[error("the endpoint's response is larger than 32 MiB, the most that is held here: ask for less")]
    ResponseTooLarge,
    /// The session was lost and could not be opened again.
    #[error("the endpoint has lost the session, and a new one could not be opened: restart the client")]
    SessionLost,
    #[error(
        "the client's input has ended before this was answered, and it may have run: keep the input open until all \
         requests are answered, those of the endpoint too"
    )]
    InputEnded,
    /// The limits of `ClientRequests`.
    #[error("too many requests are in flight (at most 4096, with 64 MiB): wait for responses")]
    TooManyRequests,
    #[error("the protocol version in _meta is not a valid header value: write a date, as in 2026-07-28")]
    InvalidVersion,
}

impl RequestError {
    /// The error for a response without a JSON-RPC error in it.
    pub fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthenticated,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Self::NoEndpoint(status),
            StatusCode::PAYLOAD_TOO_LARGE => Self::MessageTooLarge,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Self::Busy(status),
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Self::TimedOut,
            _ if status.is_redirection() => Self::Moved(status),
            _ if status.is_success() => Self::NotMcp,
            _ => Self::Status(status),
        }
    }

    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable | Self::NoPort | Self::TimedOut | Self::ConnectionLost | Self::Busy(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::CONFLICT,
            _ => false,
        }
    }

    /// The JSON-RPC error code that clients of an era know. In the Modern era a transport must not define codes
    /// of its own (MCP 2026-07-28, error codes).
    pub fn code(&self, era: Era) -> i32 {
        match (self, era) {
            (Self::TooManyRequests | Self::InvalidVersion, _) => code::INVALID_REQUEST,
            (_, Era::Legacy) => code::LEGACY_TRANSPORT,
            (_, Era::Modern) => code::INTERNAL,
        }
    }
}

impl From<UpstreamError> for RequestError {
    fn from(error: UpstreamError) -> Self {
        match error.stage {
            FailureStage::LocalPortsExhausted => Self::NoPort,
            FailureStage::BreakerOpen
            | FailureStage::Resolve
            | FailureStage::PrivateAddress
            | FailureStage::ProcessStart
            | FailureStage::Connect
            | FailureStage::ConnectTimeout
            | FailureStage::NotSent => Self::Unreachable,
            FailureStage::Tls => Self::Tls,
            FailureStage::FirstByteTimeout | FailureStage::BodyIdle | FailureStage::MessageTimeout => {
                Self::TimedOut
            }
            FailureStage::NoResponse | FailureStage::BodyIncomplete | FailureStage::Cancelled => {
                Self::ConnectionLost
            }
            FailureStage::ResponseTooLarge | FailureStage::OutOfMemory => Self::ResponseTooLarge,
            FailureStage::InvalidResponse | FailureStage::NoEndpoint | FailureStage::ForeignEndpoint => {
                Self::NotMcp
            }
            FailureStage::QueueTimeout | FailureStage::QueueFull | FailureStage::ProcessLimit => {
                Self::TooManyRequests
            }
        }
    }
}
