//! A record as a line of JSON.
//!
//! Written by hand and not by a derived serializer, because every recorded call pays for it.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::record::{CallRecord, TargetKind};
use metamcp_core::base::{ServerName, write_decimal, write_hex};

/// Formats records, and keeps the text that the records of one second have in common.
#[derive(Debug, Default)]
pub struct RecordFormatter {
    second: u64,
    /// The time of `second` up to the milliseconds; empty before the first record.
    time: String,
}

const MS_PER_S: u64 = 1_000;

/// The length of a time up to its seconds: `2026-07-28T12:00:00`.
const SECONDS_END: usize = 19;

impl RecordFormatter {
    /// Appends a record as one JSON object without a line end. Members without a value are left out.
    pub fn write(&mut self, line: &mut Vec<u8>, record: &CallRecord) {
        let call = &record.call;
        line.extend_from_slice(br#"{"time":""#);
        self.write_time(line, record.began_unix_ms);
        line.extend_from_slice(br#"","key_id":"#);
        write_string(line, call.identity.key_id().as_str());
        write_text(line, br#","key":"#, Some(call.identity.name()));
        write_text(line, br#","endpoint":"#, call.scope.as_deref().map(endpoint_name).as_deref());
        write_text(line, br#","server":"#, record.server.as_ref().map(ServerName::as_str));
        write_text(line, br#","method":"#, Some(&call.method));
        let target = call.target.as_ref().map(|target| (target.kind, &*target.name));
        if let Some((kind, name)) = target {
            write_text(line, target_label(kind), Some(name));
        }
        write_text(line, br#","outcome":"#, Some(record.outcome.as_str()));
        write_text(line, br#","error":"#, record.error);
        for (label, number) in [
            (&br#","duration_ms":"#[..], record.duration_ms),
            (br#","bytes_in":"#, call.bytes_in),
            (br#","bytes_out":"#, record.bytes_out),
        ] {
            line.extend_from_slice(label);
            write_decimal(line, number);
        }
        line.extend_from_slice(br#","request_id":""#);
        record.request_id.append_to(line);
        line.push(b'"');
        if let Some(id) = call.id.as_deref().filter(|id| is_json(id)) {
            line.extend_from_slice(br#","id":"#);
            line.extend_from_slice(id.as_bytes());
        }
        if let Some(trace) = &call.trace {
            line.extend_from_slice(br#","trace_id":""#);
            for byte in trace.bytes() {
                write_hex(line, u64::from(*byte), 2);
            }
            line.push(b'"');
        }
        line.push(b'}');
    }

    /// RFC 3339 in UTC, with milliseconds. Times after the year 9999 become its end.
    fn write_time(&mut self, line: &mut Vec<u8>, unix_ms: u64) {
        let (second, ms) = (unix_ms / MS_PER_S, unix_ms % MS_PER_S);
        if self.time.is_empty() || self.second != second {
            let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
            (self.second, self.time) = (second, format!("{:.0}", time.unwrap_or(Timestamp::MAX)));
        }
        line.extend_from_slice(self.time.get(..SECONDS_END).unwrap_or(&self.time).as_bytes());
        let digit = |value: u64| b'0' + u8::try_from(value % 10).unwrap_or_default();
        line.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
    }
}

fn target_label(kind: TargetKind) -> &'static [u8] {
    match kind {
        TargetKind::Tool => br#","tool":"#,
        TargetKind::Prompt => br#","prompt":"#,
        TargetKind::Resource => br#","uri":"#,
    }
}

fn write_text(line: &mut Vec<u8>, label: &[u8], text: Option<&str>) {
    if let Some(text) = text {
        line.extend_from_slice(label);
        write_string(line, text);
    }
}

fn write_string(line: &mut Vec<u8>, text: &str) {
    // Nearly no name has a character that is escaped.
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        // Neither memory nor a text can fail.
        let _ = serde_json::to_writer(line, text);
        return;
    }
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

/// Whether a raw id can be a member. Most are short numbers.
fn is_json(id: &str) -> bool {
    let is_number = !id.is_empty() && !id.starts_with('0') && id.bytes().all(|byte| byte.is_ascii_digit());
    is_number || serde_json::from_str::<&RawValue>(id).is_ok()
}

/// The endpoint's name, or `servers/NAME` for a server of its own, as in metrics.
pub fn endpoint_name(scope: &str) -> Cow<'_, str> {
    match scope.strip_prefix("s/") {
        Some(server) => format!("servers/{server}").into(),
        None => scope.strip_prefix("e/").unwrap_or(scope).into(),
    }
}
