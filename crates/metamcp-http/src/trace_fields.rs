//! The trace of a request, for servers that receive no header fields: the fields then go into the message
//! itself, where the specification has a place for them (MCP 2026-07-28, basic: `traceparent`, `tracestate`
//! and `baggage` of `_meta`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;

use super::multiplex::splice;
use metamcp_core::frame::{Envelope, MessageKind, Scanner, Span, json_string};

/// The header fields of a request's trace, as they go over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFields(Vec<u8>);

/// The names of the fields, and of the members of `_meta`.
const NAMES: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Bytes of all fields together. A request head is bounded as well, by more than this.
const BYTES_MAX: usize = 16 << 10;

impl TraceFields {
    /// Takes the fields of the trace from the lines of a head.
    pub fn from_header_block(lines: &[u8]) -> Self {
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        let is_trace = |line: &&[u8]| NAMES.iter().any(|name| field_value(line, name).is_some());
        Self(lines.filter(is_trace).collect::<Vec<_>>().concat())
    }

    /// Returns the fields as lines of a head.
    pub fn header_lines(&self) -> &[u8] {
        &self.0
    }

    /// Adds the fields to the message's `_meta`, unless it has any of them, or there is no `traceparent`,
    /// without which the other fields mean nothing.
    pub fn add_to_message(&self, message: Bytes) -> Bytes {
        let has_parent =
            self.0.split(|byte| *byte == b'\n').any(|line| field_value(line, NAMES[0]).is_some());
        if !has_parent || self.0.len() > BYTES_MAX {
            return message;
        }
        let members = self.to_members();
        if members.is_empty() {
            return message;
        }
        // The recipient reports what is wrong with a message that cannot be read.
        let Ok(envelope) = Scanner::new().scan(&message) else { return message };
        match find_insertion(&message, &envelope) {
            Some(Insertion { at, before, after }) => {
                let inserted = [before, &members, after].concat();
                splice(&message, &[(Span { start: at, end: at }, &inserted)])
            }
            None => message,
        }
    }

    /// Encodes the fields as members of a JSON object.
    fn to_members(&self) -> Vec<u8> {
        let mut members = Vec::with_capacity(self.0.len());
        for line in self.0.split(|byte| *byte == b'\n') {
            for name in NAMES {
                let Some(text) = field_value(line, name).and_then(|value| str::from_utf8(value).ok()) else {
                    continue;
                };
                if !members.is_empty() {
                    members.push(b',');
                }
                members.extend_from_slice(&json_string(name));
                members.push(b':');
                members.extend_from_slice(&json_string(text));
            }
        }
        members
    }
}

/// Returns the value if the line is a field of that name.
fn field_value<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b": ")?;
    Some(value.trim_ascii_end())
}

/// Where to insert members of `_meta` into a message, and the bytes that must surround them.
struct Insertion {
    at: u32,
    before: &'static [u8],
    after: &'static [u8],
}

fn find_insertion(message: &[u8], envelope: &Envelope) -> Option<Insertion> {
    if !matches!(envelope.kind, MessageKind::Request | MessageKind::Notification) {
        return None;
    }
    let params = &envelope.params;
    if let Some(meta) = params.meta.object {
        let object = meta.slice(message);
        let has_trace = NAMES.iter().any(|name| memmem::find(object, name.as_bytes()).is_some());
        return (!has_trace).then(|| Insertion {
            at: meta.start + 1,
            before: b"",
            after: separator_before(object),
        });
    }
    if let Some(span) = params.object {
        let object = span.slice(message);
        // `_meta` may be something other than an object.
        let has_meta = memmem::find(object, b"_meta").is_some() && has_meta_member(object);
        let after = if separator_before(object).is_empty() { &b"}"[..] } else { &b"},"[..] };
        return (!has_meta).then_some(Insertion { at: span.start + 1, before: b"\"_meta\":{", after });
    }
    // A message has members, so a comma is needed.
    let end = message.iter().rposition(|byte| *byte == b'}')?;
    Some(Insertion { at: u32::try_from(end).ok()?, before: b",\"params\":{\"_meta\":{", after: b"}}" })
}

/// Whether an object has a member `_meta` of any type. An object nested too deep to be parsed counts as
/// having one, so that it is left unchanged.
fn has_meta_member(object: &[u8]) -> bool {
    let members = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(object);
    members.map_or(true, |members| members.contains_key("_meta"))
}

/// Returns the comma needed between new members and the first of an object, if it has any.
fn separator_before(object: &[u8]) -> &'static [u8] {
    let is_empty = object[1..].trim_ascii_start().starts_with(b"}");
    if is_empty { b"" } else { b"," }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &str, message: &str, expected: &str) {
        let fields = TraceFields::from_header_block(lines.as_bytes());
        let found = fields.add_to_message(Bytes::copy_from_slice(message.as_bytes()));
        assert_eq!(String::from_utf8_lossy(&found), expected);
        let read: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
        assert_eq!(read["jsonrpc"], "2.0", "{expected}");
    }

    #[test]
    fn header_fields_go_into_the_message() {
        let lines = "mcp-name: x\r\ntraceparent: 00-1\r\nbaggage: a=\"b\\\r\ntracestatement: x\r\n";
        let (t, b) = (r#""traceparent":"00-1""#, r#""baggage":"a=\"b\\""#);
        let both = format!("{t},{b}");
        for (before, after) in [
            (
                r#""params":{"_meta":{"x":1},"a":2}"#,
                format!(r#""params":{{"_meta":{{{both},"x":1}},"a":2}}"#),
            ),
            (r#""params":{"_meta":{ }}"#, format!(r#""params":{{"_meta":{{{both} }}}}"#)),
            (r#""params":{"a":2}"#, format!(r#""params":{{"_meta":{{{both}}},"a":2}}"#)),
            (r#""params":{}"#, format!(r#""params":{{"_meta":{{{both}}}}}"#)),
            // What the client wrote there stays.
            (
                r#""params":{"_meta":{"traceparent":"00-2"}}"#,
                r#""params":{"_meta":{"traceparent":"00-2"}}"#.into(),
            ),
            (r#""params":{"_meta":null}"#, r#""params":{"_meta":null}"#.into()),
            (r#""params":{"_meta":1,"a":"_meta"}"#, r#""params":{"_meta":1,"a":"_meta"}"#.into()),
            (
                r#""params":{"a":{"_meta":1}}"#,
                format!(r#""params":{{"_meta":{{{both}}},"a":{{"_meta":1}}}}"#),
            ),
        ] {
            let whole = |part: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m",{part}}}"#);
            check(lines, &whole(before), &whole(&after));
        }
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let with_trace =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"_meta":{{{both}}}}}}}"#);
        check(lines, bare, &with_trace);
        check("", bare, bare);
        // A value that is not UTF-8 cannot be a JSON string.
        let meta = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"x":1}}}"#;
        let fields = TraceFields::from_header_block(b"traceparent: \xff\r\n");
        assert_eq!(fields.add_to_message(Bytes::from_static(meta.as_bytes())), meta);
        check("baggage: a=b\r\n", bare, bare);
        check(&format!("traceparent: {}\r\n", "x".repeat(BYTES_MAX)), bare, bare);
        let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        check(lines, response, response);
        let invalid = Bytes::from_static(b"{");
        assert_eq!(TraceFields::from_header_block(lines.as_bytes()).add_to_message(invalid.clone()), invalid);
    }
}
