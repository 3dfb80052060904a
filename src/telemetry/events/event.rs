//! What is told of an event.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use metamcp_core::base::{EventKind, KeyId, ServerName, Severity};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::telemetry::records::{CallOutcome, CallRecord, TargetKind, endpoint_name};

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

    /// The members of the event as JSON after `{`, so that the log can put its id in front while it holds its lock, and the rest is
    /// made before: its type, its time, whom it is about, and the members of its kind in `data`.
    pub(super) fn json_members(&self) -> Vec<u8> {
        let time = i64::try_from(self.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let members = EventMembers {
            kind: self.kind.as_str(),
            timestamp: format!("{:.3}", time.unwrap_or(Timestamp::MAX)),
            severity: self.severity.as_str(),
            server: self.server.as_ref().map(ServerName::as_str),
            endpoint: self.endpoint.as_deref(),
            key_id: self.key.as_ref().map(KeyId::as_str),
            data: &self.data,
        };
        let mut json = Vec::with_capacity(EVENT_BYTES);
        // Neither memory nor a map of texts can fail.
        let _ = serde_json::to_writer(&mut json, &members);
        json.split_off(1)
    }
}

/// Most events of calls are not longer.
const EVENT_BYTES: usize = 512;

#[derive(Serialize)]
struct EventMembers<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    data: &'a Map<String, Value>,
}

const fn severity_of(outcome: CallOutcome) -> Severity {
    match outcome {
        CallOutcome::Answer | CallOutcome::Disconnect => Severity::Info,
        CallOutcome::Error | CallOutcome::Refusal => Severity::Warning,
    }
}
