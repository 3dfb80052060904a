//! What is told of an event.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use metamcp_core::base::{KeyId, ServerName};
use serde_json::{Map, Value, json};

use crate::telemetry::records::{CallOutcome, CallRecord, TargetKind, endpoint_name};

/// What happened, which also is the type of its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A program of a server was started.
    ServerStarted,
    /// A program was ended by the gateway, for instance because nobody used it.
    ServerStopped,
    /// A program ended by itself, or could not be started.
    ServerFailed,
    /// A program was started after one of the same server had failed.
    ServerRestarted,
    /// Requests do not reach the server, or its lists cannot be fetched.
    ServerUnhealthy,
    ServerHealthy,
    /// The server lists other tools than before.
    ServerToolsChanged,
    /// Requests to the server fail at once for a while.
    ServerBreakerOpened,
    ServerBreakerClosed,
    CallStarted,
    CallEnded,
    KeyCreated,
    /// Its grants, limits, name or expiry.
    KeyChanged,
    /// Revoked, deleted, or no longer valid for another reason than its expiry.
    KeyRevoked,
    ConfigurationReloaded,
    /// Other servers or endpoints are served than before, whoever changed them.
    ConfigurationChanged,
    /// Changed files have a mistake; the last configuration stays in force.
    ConfigurationRefused,
}

/// How much an operator should care. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// Something that happened, before it is logged.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: EventKind,
    pub severity: Severity,
    /// In milliseconds since the Unix epoch.
    pub unix_ms: u64,
    pub server: Option<ServerName>,
    /// The name of the endpoint, or `servers/NAME` for a server of its own.
    pub endpoint: Option<Box<str>>,
    pub key: Option<KeyId>,
    /// Members that only this kind of event has.
    pub data: Map<String, Value>,
}

/// When in a call an event happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEvent {
    Started,
    Ended,
}

/// Texts from servers and files are cut, so that an event is small.
const TEXT_BYTES_MAX: usize = 512;

impl EventKind {
    pub const ALL: [Self; 17] = [
        Self::ServerStarted,
        Self::ServerStopped,
        Self::ServerFailed,
        Self::ServerRestarted,
        Self::ServerUnhealthy,
        Self::ServerHealthy,
        Self::ServerToolsChanged,
        Self::ServerBreakerOpened,
        Self::ServerBreakerClosed,
        Self::CallStarted,
        Self::CallEnded,
        Self::KeyCreated,
        Self::KeyChanged,
        Self::KeyRevoked,
        Self::ConfigurationReloaded,
        Self::ConfigurationChanged,
        Self::ConfigurationRefused,
    ];

    /// The group and the name within it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerStarted => "server.started",
            Self::ServerStopped => "server.stopped",
            Self::ServerFailed => "server.failed",
            Self::ServerRestarted => "server.restarted",
            Self::ServerUnhealthy => "server.unhealthy",
            Self::ServerHealthy => "server.healthy",
            Self::ServerToolsChanged => "server.tools_changed",
            Self::ServerBreakerOpened => "server.breaker_opened",
            Self::ServerBreakerClosed => "server.breaker_closed",
            Self::CallStarted => "call.started",
            Self::CallEnded => "call.ended",
            Self::KeyCreated => "key.created",
            Self::KeyChanged => "key.changed",
            Self::KeyRevoked => "key.revoked",
            Self::ConfigurationReloaded => "configuration.reloaded",
            Self::ConfigurationChanged => "configuration.changed",
            Self::ConfigurationRefused => "configuration.refused",
        }
    }

    pub const fn severity(self) -> Severity {
        match self {
            Self::ServerFailed | Self::ServerUnhealthy | Self::ConfigurationRefused => Severity::Error,
            Self::ServerRestarted | Self::ServerBreakerOpened => Severity::Warning,
            _ => Severity::Info,
        }
    }

    /// Whether it is about one call. These are logged only while somebody reads them.
    pub const fn is_of_call(self) -> bool {
        matches!(self, Self::CallStarted | Self::CallEnded)
    }
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Event {
    /// An event that happens now, of the severity of its kind.
    pub fn now(kind: EventKind) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self {
            kind,
            severity: kind.severity(),
            unix_ms,
            server: None,
            endpoint: None,
            key: None,
            data: Map::new(),
        }
    }

    pub fn of_server(kind: EventKind, server: &ServerName) -> Self {
        Self { server: Some(server.clone()), ..Self::now(kind) }
    }

    pub fn of_key(kind: EventKind, key: KeyId) -> Self {
        Self { key: Some(key), ..Self::now(kind) }
    }

    /// An event of a call, which has what is recorded of it at that time.
    pub fn of_call(when: CallEvent, record: &CallRecord) -> Self {
        let call = &record.call;
        let mut event = Self::now(match when {
            CallEvent::Started => EventKind::CallStarted,
            CallEvent::Ended => EventKind::CallEnded,
        });
        event.server.clone_from(&record.server);
        event.endpoint = call.scope.as_deref().map(|scope| endpoint_name(scope).into());
        event.key = Some(call.identity.key_id());
        let target = call.target.as_ref().map(|target| {
            let label = match target.kind {
                TargetKind::Tool => "tool",
                TargetKind::Prompt => "prompt",
                TargetKind::Resource => "uri",
            };
            (label, json!(target.name))
        });
        event = event
            .with("request_id", record.request_id.to_string())
            .with("method", call.method.as_ref())
            .with_some(target);
        match when {
            CallEvent::Started => event.with("bytes_in", call.bytes_in),
            CallEvent::Ended => {
                event.severity = severity_of(record.outcome);
                event
                    .with("outcome", record.outcome.as_str())
                    .with_some(record.error.map(|error| ("error", json!(error))))
                    .with("duration_ms", record.duration_ms)
                    .with("bytes_in", call.bytes_in)
                    .with("bytes_out", record.bytes_out)
            }
        }
    }

    /// Adds a member. Long texts are cut.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(mut text) => {
                text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
                Value::String(text)
            }
            value => value,
        };
        self.data.insert(name.to_owned(), value);
        self
    }

    fn with_some(self, member: Option<(&str, Value)>) -> Self {
        match member {
            Some((name, value)) => self.with(name, value),
            None => self,
        }
    }

    /// The event as one JSON object: its type, its time, whom it is about, and the members of its kind in `data`.
    pub(super) fn to_json(&self, id: &str) -> String {
        let time = i64::try_from(self.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let mut object = json!({
            "id": id,
            "type": self.kind.as_str(),
            "timestamp": format!("{:.3}", time.unwrap_or(Timestamp::MAX)),
            "severity": self.severity.as_str(),
            "data": self.data,
        });
        for (name, value) in [
            ("server", self.server.as_ref().map(ServerName::as_str).map(Cow::from)),
            ("endpoint", self.endpoint.as_deref().map(Cow::from)),
            ("key_id", self.key.as_ref().map(|key| key.as_str().to_owned().into())),
        ] {
            if let Some(value) = value {
                object[name] = json!(value);
            }
        }
        object.to_string()
    }
}

const fn severity_of(outcome: CallOutcome) -> Severity {
    match outcome {
        CallOutcome::Answer | CallOutcome::Disconnect => Severity::Info,
        CallOutcome::Error | CallOutcome::Refusal => Severity::Warning,
    }
}
