//! Errors of requests to a server.

use std::error::Error;
use std::fmt;

use metamcp_core::base::{Fault, FaultKind, OutOfMemory, ServerName};
use metamcp_core::frame::SseError;

/// Why a request to a server failed, and how far it got.
#[derive(Debug)]
pub struct UpstreamError {
    pub stage: FailureStage,
    /// What everybody may read.
    public_detail: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// How far a request got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureStage {
    /// It waited too long for a permit among the server's in-flight calls.
    QueueTimeout,
    /// The queue for those permits was full.
    QueueFull,
    /// It was not attempted: the circuit breaker is open after repeated failures.
    BreakerOpen,
    /// Resolving the server's name.
    Resolve,
    /// The address is private, which the server's definition does not allow.
    PrivateAddress,
    Connect,
    /// Opening the connection, for lack of a local port or file descriptor.
    LocalPortsExhausted,
    /// All processes of the server's program that may run were in use for too long.
    ProcessLimit,
    /// Starting the server's program.
    ProcessStart,
    Tls,
    /// None of these ended within the connect timeout.
    ConnectTimeout,
    /// The server's event stream did not name an endpoint for messages (MCP 2024-11-05).
    NoEndpoint,
    /// The server's event stream directs messages to another origin.
    ForeignEndpoint,
    /// The connection was lost before a byte of the request was written.
    NotSent,
    /// The request was written, at least in part, and the connection was lost; the call may have run.
    NoResponse,
    /// The request was written and no response came in time; the call may have run.
    FirstByteTimeout,
    /// The client cancelled the call, so the server owes no response (MCP 2025-11-25, cancellation).
    Cancelled,
    /// The response ended before it was complete.
    BodyIncomplete,
    /// The response body stalled for too long.
    BodyIdle,
    /// A message of the response took too long, though bytes arrived.
    MessageTimeout,
    /// The response is larger than the limit.
    ResponseTooLarge,
    /// There is no memory for the response.
    OutOfMemory,
    /// The response is not what the protocol requires.
    InvalidResponse,
}

/// Why there is no response on a connection.
pub enum SendError {
    /// No byte of the request was written.
    NotSent,
    /// The server may have read the request and run it.
    Failed(UpstreamError),
}

impl FailureStage {
    /// Whether the server failed, rather than a limit or a rule of the gateway.
    pub fn is_server_fault(self) -> bool {
        !matches!(
            self,
            Self::QueueTimeout
                | Self::QueueFull
                | Self::BreakerOpen
                | Self::PrivateAddress
                | Self::LocalPortsExhausted
                | Self::Cancelled
                | Self::ProcessLimit
                | Self::OutOfMemory
        )
    }

    /// Returns the value of `stage` in the admin API.
    pub fn text(self) -> &'static str {
        match self {
            Self::QueueTimeout | Self::QueueFull | Self::ProcessLimit => "waiting for a place",
            Self::BreakerOpen => "left alone",
            Self::Resolve => "finding its address",
            Self::PrivateAddress => "leave to connect",
            Self::Connect | Self::LocalPortsExhausted | Self::ConnectTimeout => "connecting",
            Self::NoEndpoint | Self::ForeignEndpoint => "opening the event stream",
            Self::ProcessStart => "starting",
            Self::Tls => "TLS handshake",
            Self::NotSent => "sending",
            Self::NoResponse | Self::FirstByteTimeout | Self::Cancelled => "waiting for an answer",
            Self::BodyIncomplete | Self::BodyIdle | Self::MessageTimeout | Self::OutOfMemory => {
                "reading the answer"
            }
            Self::ResponseTooLarge | Self::InvalidResponse => "understanding the answer",
        }
    }

    /// Returns the kind of fault that a client sees, and what the server did, as the rest of a sentence.
    fn describe(self) -> (FaultKind, &'static str) {
        match self {
            Self::QueueTimeout | Self::QueueFull => {
                (FaultKind::Overloaded, "has too many calls in flight, try again")
            }
            Self::Resolve | Self::Connect | Self::Tls | Self::NotSent => {
                (FaultKind::Unreachable, "cannot be reached")
            }
            Self::LocalPortsExhausted => (
                FaultKind::Overloaded,
                "cannot be connected to, because no local port or file descriptor is free: set its \
                 idle_connections_max to its in_flight_max, widen net.ipv4.ip_local_port_range, or allow more open files",
            ),
            Self::ProcessLimit => (
                FaultKind::Overloaded,
                "has as many processes as it may have (processes_max), and all are in use; try again",
            ),
            Self::ProcessStart => (FaultKind::Unreachable, "did not start"),
            Self::BreakerOpen => (
                FaultKind::Unreachable,
                "could not be reached several times in a row and is not called for a moment",
            ),
            Self::PrivateAddress => (
                FaultKind::Unreachable,
                "leads to a private address, which its definition does not allow (allow_private)",
            ),
            Self::ConnectTimeout => (FaultKind::Unreachable, "did not accept a connection in time"),
            Self::NoEndpoint => (
                FaultKind::Unreachable,
                "did not send the event `endpoint` in time, as servers of the type sse must",
            ),
            Self::ForeignEndpoint => (
                FaultKind::InvalidResponse,
                "sent an event `endpoint` that leads to another origin than its own, which is refused",
            ),
            Self::Cancelled => (FaultKind::ConnectionLost, "was told that the client cancelled the call"),
            Self::FirstByteTimeout => (FaultKind::TimedOut, "did not answer in time"),
            Self::BodyIdle => (FaultKind::TimedOut, "went silent"),
            Self::MessageTimeout => (FaultKind::TimedOut, "did not complete its answer in time"),
            Self::NoResponse | Self::BodyIncomplete => {
                (FaultKind::ConnectionLost, "broke off the connection")
            }
            Self::ResponseTooLarge => {
                (FaultKind::InvalidResponse, "sent a response that is larger than the limit")
            }
            Self::OutOfMemory => (
                FaultKind::OutOfMemory,
                "sent a response for which the gateway has no memory left (limits.memory_max)",
            ),
            Self::InvalidResponse => {
                (FaultKind::InvalidResponse, "sent a response that is not an MCP message")
            }
        }
    }
}

impl fmt::Display for FailureStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueTimeout => "queue timeout",
            Self::QueueFull => "queue full",
            Self::BreakerOpen => "circuit breaker open",
            Self::Resolve => "resolve",
            Self::PrivateAddress => "private address",
            Self::Connect => "connect",
            Self::LocalPortsExhausted => "no local port or file descriptor",
            Self::ProcessLimit => "process limit",
            Self::ProcessStart => "start",
            Self::Tls => "TLS handshake",
            Self::ConnectTimeout => "connect timeout",
            Self::NoEndpoint => "no endpoint",
            Self::ForeignEndpoint => "foreign endpoint",
            Self::NotSent => "not sent",
            Self::NoResponse => "no response",
            Self::FirstByteTimeout => "response timeout",
            Self::BodyIncomplete => "incomplete body",
            Self::BodyIdle => "body idle timeout",
            Self::Cancelled => "cancelled",
            Self::MessageTimeout => "message timeout",
            Self::ResponseTooLarge => "response too large",
            Self::OutOfMemory => "out of memory",
            Self::InvalidResponse => "invalid response",
        })
    }
}

impl UpstreamError {
    /// Creates an error with its cause.
    #[cold]
    pub fn new(stage: FailureStage, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { stage, public_detail: None, source: Some(source.into()) }
    }

    /// Creates an error without a cause.
    #[cold]
    pub fn from_stage(stage: FailureStage) -> Self {
        Self { stage, public_detail: None, source: None }
    }

    /// Creates the error of a program that did not start.
    ///
    /// Clients read `reason`, so it must not contain the program's output, arguments or environment.
    /// Administrators also read `last_output`.
    #[cold]
    pub fn start_failure(reason: impl Into<String>, last_output: Option<String>) -> Self {
        Self {
            stage: FailureStage::ProcessStart,
            public_detail: Some(reason.into()),
            source: last_output.map(Into::into),
        }
    }

    /// Whether the server cannot have seen the request.
    pub fn is_undelivered(&self) -> bool {
        matches!(
            self.stage,
            FailureStage::QueueTimeout
                | FailureStage::QueueFull
                | FailureStage::BreakerOpen
                | FailureStage::Resolve
                | FailureStage::PrivateAddress
                | FailureStage::Connect
                | FailureStage::LocalPortsExhausted
                | FailureStage::ProcessLimit
                | FailureStage::ProcessStart
                | FailureStage::Tls
                | FailureStage::ConnectTimeout
                | FailureStage::NoEndpoint
                | FailureStage::ForeignEndpoint
                | FailureStage::NotSent
        )
    }

    /// Converts it into the fault that ends a client's request.
    #[cold]
    pub fn into_fault(self, server: &ServerName) -> Fault {
        let (kind, description) = self.stage.describe();
        let reason = match (self.stage, &self.public_detail) {
            (FailureStage::ProcessStart, detail) => {
                format!(": {}", detail.as_deref().unwrap_or("its program failed"))
            }
            _ => String::new(),
        };
        let delivery = if self.is_undelivered() { "did not run" } else { "may have run" };
        let text = format!("server `{server}` {description}{reason}; the call {delivery}");
        let fault = Fault::upstream(kind, text);
        match self {
            // The text has the reason already.
            Self { stage: FailureStage::ProcessStart, source: Some(source), .. } => fault.with_source(source),
            Self { stage: FailureStage::ProcessStart, .. } => fault,
            error => fault.with_source(error),
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        if let Some(detail) = &self.public_detail {
            write!(f, ": {detail}")?;
        }
        let mut source = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl Error for UpstreamError {}

impl From<OutOfMemory> for UpstreamError {
    #[cold]
    fn from(error: OutOfMemory) -> Self {
        Self::new(FailureStage::OutOfMemory, error)
    }
}

impl From<SseError> for FailureStage {
    fn from(error: SseError) -> Self {
        match error {
            SseError::TooLong => Self::ResponseTooLarge,
            SseError::OutOfMemory(_) => Self::OutOfMemory,
        }
    }
}

impl From<SseError> for UpstreamError {
    #[cold]
    fn from(error: SseError) -> Self {
        Self::new(error.into(), error)
    }
}
