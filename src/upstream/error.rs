use std::error::Error;
use std::fmt;

use metamcp_core::base::{Fault, FaultKind, ServerName};

/// What went wrong with a upstream, and how far the request had come.
#[derive(Debug)]
pub struct UpstreamError {
    /// Where it went wrong.
    pub stage: FailureStage,
    /// What may be told to everybody.
    told: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// How far a request had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureStage {
    /// Waiting for a place among the requests under way.
    QueueTimeout,
    /// The queue itself was full.
    QueueFull,
    /// It was not asked: it could not be reached again and again a moment ago.
    BreakerOpen,
    /// Finding its address.
    Resolve,
    /// It is at a private address, and may not be.
    PrivateAddress,
    /// Opening the connection.
    Connect,
    /// The same, for which this machine has no port left, or no file.
    LocalPortsExhausted,
    /// Its program did not start.
    ProcessStart,
    /// The TLS handshake.
    Tls,
    /// Within the connect timeout, none of these ended.
    ConnectTimeout,
    /// Its event stream did not say where messages go (MCP 2024-11-05).
    NoEndpoint,
    /// Its event stream sends messages elsewhere than to the server itself.
    ForeignEndpoint,
    /// The connection was gone before a byte of the request was written.
    NotSent,
    /// The request was written, at least in part; it may have run.
    NoResponse,
    /// Written, and no answer in time; it may have run.
    FirstByteTimeout,
    /// The answer broke off.
    BodyIncomplete,
    /// The answer went silent.
    BodyIdle,
    /// The answer is larger than may be held.
    ResponseTooLarge,
    /// The answer is not what the protocol asks for.
    InvalidResponse,
}

impl FailureStage {
    /// Whether it is the server that failed, rather than that there was no room for a request or no leave to ask.
    pub fn is_server_fault(self) -> bool {
        !matches!(
            self,
            Self::QueueTimeout
                | Self::QueueFull
                | Self::BreakerOpen
                | Self::PrivateAddress
                | Self::LocalPortsExhausted
        )
    }

    /// For those who look after a server.
    pub fn text(self) -> &'static str {
        match self {
            Self::QueueTimeout | Self::QueueFull => "waiting for a place",
            Self::BreakerOpen => "left alone",
            Self::Resolve => "finding its address",
            Self::PrivateAddress => "leave to connect",
            Self::Connect | Self::LocalPortsExhausted | Self::ConnectTimeout => "connecting",
            Self::NoEndpoint | Self::ForeignEndpoint => "opening the event stream",
            Self::ProcessStart => "starting",
            Self::Tls => "TLS handshake",
            Self::NotSent => "sending",
            Self::NoResponse | Self::FirstByteTimeout => "waiting for an answer",
            Self::BodyIncomplete | Self::BodyIdle => "reading the answer",
            Self::ResponseTooLarge | Self::InvalidResponse => "understanding the answer",
        }
    }
}

impl UpstreamError {
    /// With the error it comes from.
    #[cold]
    pub fn new(stage: FailureStage, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { stage, told: None, source: Some(source.into()) }
    }

    /// When there is none.
    #[cold]
    pub fn from_stage(stage: FailureStage) -> Self {
        Self { stage, told: None, source: None }
    }

    /// A program that did not start. `why` is told to everybody, so nothing that it printed, none of its arguments and
    /// nothing of its environment is in it; `said` to those who administer.
    #[cold]
    pub fn not_started(why: impl Into<String>, said: Option<String>) -> Self {
        Self { stage: FailureStage::ProcessStart, told: Some(why.into()), source: said.map(Into::into) }
    }

    /// Why, as far as everybody may know.
    pub fn public_detail(&self) -> Option<&str> {
        self.told.as_deref()
    }

    /// Whether the upstream cannot have seen the request.
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
                | FailureStage::ProcessStart
                | FailureStage::Tls
                | FailureStage::ConnectTimeout
                | FailureStage::NoEndpoint
                | FailureStage::ForeignEndpoint
                | FailureStage::NotSent
        )
    }

    /// As the fault that ends a request.
    #[cold]
    pub fn into_fault(self, server: &ServerName) -> Fault {
        let (kind, what) = match self.stage {
            FailureStage::QueueTimeout | FailureStage::QueueFull => {
                (FaultKind::Overloaded, "has too many calls under way, try again")
            }
            FailureStage::Resolve | FailureStage::Connect | FailureStage::Tls | FailureStage::NotSent => {
                (FaultKind::Unreachable, "cannot be reached")
            }
            FailureStage::LocalPortsExhausted => (
                FaultKind::Overloaded,
                "cannot be connected to, for no local port or file is free: set its idle_connections_max to its \
                 in_flight_max, widen net.ipv4.ip_local_port_range, or allow more open files",
            ),
            FailureStage::ProcessStart => (FaultKind::Unreachable, "did not start"),
            FailureStage::BreakerOpen => (
                FaultKind::Unreachable,
                "could not be reached again and again and is left alone for a moment",
            ),
            FailureStage::PrivateAddress => (
                FaultKind::Unreachable,
                "leads to a private address, which its definition does not allow (allow_private)",
            ),
            FailureStage::ConnectTimeout => (FaultKind::Unreachable, "does not accept connections"),
            FailureStage::NoEndpoint => (
                FaultKind::Unreachable,
                "did not say in time where messages go (event `endpoint`), as servers of the type sse do",
            ),
            FailureStage::ForeignEndpoint => (
                FaultKind::InvalidResponse,
                "sends messages to another origin than its own (event `endpoint`), which is refused",
            ),
            FailureStage::FirstByteTimeout => (FaultKind::TimedOut, "did not answer in time"),
            FailureStage::BodyIdle => (FaultKind::TimedOut, "went silent"),
            FailureStage::NoResponse | FailureStage::BodyIncomplete => {
                (FaultKind::ConnectionLost, "broke off the connection")
            }
            FailureStage::ResponseTooLarge => (FaultKind::InvalidResponse, "answered more than may be held"),
            FailureStage::InvalidResponse => (FaultKind::InvalidResponse, "answered what is no MCP message"),
        };
        let why = match (self.stage, self.public_detail()) {
            (FailureStage::ProcessStart, told) => format!(": {}", told.unwrap_or("its program failed")),
            _ => String::new(),
        };
        let fate = if self.is_undelivered() { "did not run" } else { "may have run" };
        Fault::upstream(kind, format!("server `{server}` {what}{why}; the call {fate}")).with_source(self)
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.stage)?;
        if let Some(told) = &self.told {
            write!(f, ": {told}")?;
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
