//! A record as a line of JSON.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::record::{CallRecord, TargetKind};
use crate::telemetry::traces::TraceId;
use metamcp_core::base::ServerName;

/// The members of a line, in their order. Members without a value are left out.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    key_id: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<&'a str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    duration_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

/// Appends a record as one JSON object without a line end.
pub fn write_record(line: &mut Vec<u8>, record: &CallRecord) {
    let call = &record.call;
    let named = |kind| call.target.as_ref().filter(|target| target.kind == kind).map(|target| &*target.name);
    let mut trace_id = String::new();
    for byte in call.trace.iter().flat_map(TraceId::bytes) {
        // Writing to a String cannot fail.
        let _ = write!(trace_id, "{byte:02x}");
    }
    let key_id = call.identity.key_id();
    let fields = Line {
        time: &format_time(record.began_unix_ms),
        key_id: key_id.as_str(),
        key: call.identity.name(),
        endpoint: call.scope.as_deref().map(endpoint_name),
        server: record.server.as_ref().map(ServerName::as_str),
        method: &call.method,
        tool: named(TargetKind::Tool),
        prompt: named(TargetKind::Prompt),
        uri: named(TargetKind::Resource),
        outcome: record.outcome.as_str(),
        error: record.error,
        duration_ms: record.duration_ms,
        bytes_in: call.bytes_in,
        bytes_out: record.bytes_out,
        request_id: &record.request_id.to_string(),
        id: call.id.as_deref().and_then(|id| serde_json::from_str(id).ok()),
        trace_id: (!trace_id.is_empty()).then_some(&*trace_id),
    };
    // Neither memory nor these types can fail.
    let _ = serde_json::to_writer(line, &fields);
}

/// RFC 3339 in UTC, with milliseconds. Times after the year 9999 become its end.
pub fn format_time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::MAX))
}

/// The endpoint's name, or `servers/NAME` for a server of its own, as in metrics.
pub fn endpoint_name(scope: &str) -> Cow<'_, str> {
    match scope.strip_prefix("s/") {
        Some(server) => format!("servers/{server}").into(),
        None => scope.strip_prefix("e/").unwrap_or(scope).into(),
    }
}
