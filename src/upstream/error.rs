use std::error::Error;
use std::fmt;

use crate::base::{Fault, Kind, ServerName};

/// What went wrong with a upstream, and how far the request had come.
#[derive(Debug)]
pub struct UpstreamError {
    /// Where it went wrong.
    pub stage: Stage,
    /// What may be told to everybody.
    told: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// How far a request had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a place among the requests under way.
    Queue,
    /// The queue itself was full.
    QueueFull,
    /// It was not asked: it could not be reached again and again a moment ago.
    LeftAlone,
    /// Finding its address.
    Resolve,
    /// It is at a private address, and may not be.
    Private,
    /// Opening the connection.
    Connect,
    /// The same, for which this machine has no port left, or no file.
    NoPort,
    /// Its program did not start.
    Start,
    /// The TLS handshake.
    Tls,
    /// Within the connect timeout, none of these ended.
    ConnectTimeout,
    /// Its event stream did not say where messages go (MCP 2024-11-05).
    NoEndpoint,
    /// Its event stream sends messages elsewhere than to the server itself.
    ForeignEndpoint,
    /// The connection was gone before a byte of the request was written.
    Unsent,
    /// The request was written, at least in part; it may have run.
    Sent,
    /// Written, and no answer in time; it may have run.
    FirstByteTimeout,
    /// The answer broke off.
    Body,
    /// The answer went silent.
    BodyIdle,
    /// The answer is larger than may be held.
    TooLarge,
    /// The answer is not what the protocol asks for.
    Nonsense,
}

impl Stage {
    /// Whether it is the server that failed, rather than that there was no room for a request or no leave to ask.
    pub fn is_servers(self) -> bool {
        !matches!(self, Self::Queue | Self::QueueFull | Self::LeftAlone | Self::Private | Self::NoPort)
    }

    /// For those who look after a server.
    pub fn text(self) -> &'static str {
        match self {
            Self::Queue | Self::QueueFull => "waiting for a place",
            Self::LeftAlone => "left alone",
            Self::Resolve => "finding its address",
            Self::Private => "leave to connect",
            Self::Connect | Self::NoPort | Self::ConnectTimeout => "connecting",
            Self::NoEndpoint | Self::ForeignEndpoint => "opening the event stream",
            Self::Start => "starting",
            Self::Tls => "TLS handshake",
            Self::Unsent => "sending",
            Self::Sent | Self::FirstByteTimeout => "waiting for an answer",
            Self::Body | Self::BodyIdle => "reading the answer",
            Self::TooLarge | Self::Nonsense => "understanding the answer",
        }
    }
}

impl UpstreamError {
    /// With the error it comes from.
    #[cold]
    pub fn new(stage: Stage, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { stage, told: None, source: Some(source.into()) }
    }

    /// When there is none.
    #[cold]
    pub fn bare(stage: Stage) -> Self {
        Self { stage, told: None, source: None }
    }

    /// A program that did not start. `why` is told to everybody, so nothing that it printed, none of its arguments and
    /// nothing of its environment is in it; `said` to those who administer.
    #[cold]
    pub fn not_started(why: impl Into<String>, said: Option<String>) -> Self {
        Self { stage: Stage::Start, told: Some(why.into()), source: said.map(Into::into) }
    }

    /// Why, as far as everybody may know.
    pub fn told(&self) -> Option<&str> {
        self.told.as_deref()
    }

    /// Whether the upstream cannot have seen the request.
    pub fn undelivered(&self) -> bool {
        matches!(
            self.stage,
            Stage::Queue
                | Stage::QueueFull
                | Stage::LeftAlone
                | Stage::Resolve
                | Stage::Private
                | Stage::Connect
                | Stage::NoPort
                | Stage::Start
                | Stage::Tls
                | Stage::ConnectTimeout
                | Stage::NoEndpoint
                | Stage::ForeignEndpoint
                | Stage::Unsent
        )
    }

    /// As the fault that ends a request.
    #[cold]
    pub fn into_fault(self, server: &ServerName) -> Fault {
        let (kind, what) = match self.stage {
            Stage::Queue | Stage::QueueFull => (Kind::Overloaded, "has too many calls under way, try again"),
            Stage::Resolve | Stage::Connect | Stage::Tls | Stage::Unsent => {
                (Kind::Unreachable, "cannot be reached")
            }
            Stage::NoPort => (
                Kind::Overloaded,
                "cannot be connected to, for no local port or file is free: set its idle_connections_max to its \
                 in_flight_max, widen net.ipv4.ip_local_port_range, or allow more open files",
            ),
            Stage::Start => (Kind::Unreachable, "did not start"),
            Stage::LeftAlone => {
                (Kind::Unreachable, "could not be reached again and again and is left alone for a moment")
            }
            Stage::Private => (
                Kind::Unreachable,
                "leads to a private address, which its definition does not allow (allow_private)",
            ),
            Stage::ConnectTimeout => (Kind::Unreachable, "does not accept connections"),
            Stage::NoEndpoint => (
                Kind::Unreachable,
                "did not say in time where messages go (event `endpoint`), as servers of the type sse do",
            ),
            Stage::ForeignEndpoint => (
                Kind::BadAnswer,
                "sends messages to another origin than its own (event `endpoint`), which is refused",
            ),
            Stage::FirstByteTimeout => (Kind::TimedOut, "did not answer in time"),
            Stage::BodyIdle => (Kind::TimedOut, "went silent"),
            Stage::Sent | Stage::Body => (Kind::Broken, "broke off the connection"),
            Stage::TooLarge => (Kind::BadAnswer, "answered more than may be held"),
            Stage::Nonsense => (Kind::BadAnswer, "answered what is no MCP message"),
        };
        let why = match (self.stage, self.told()) {
            (Stage::Start, told) => format!(": {}", told.unwrap_or("its program failed")),
            _ => String::new(),
        };
        let fate = if self.undelivered() { "did not run" } else { "may have run" };
        Fault::upstream(kind, format!("server `{server}` {what}{why}; the call {fate}")).because(self)
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
