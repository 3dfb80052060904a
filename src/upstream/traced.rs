//! A trace on its way to a server that has no header fields: what would have stood there is said in the message itself,
//! where the specification has a place for it (MCP 2026-07-28, basic: `traceparent`, `tracestate` and `baggage` of `_meta`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;

use super::shim::rewritten;
use metamcp_core::frame::{Envelope, MessageKind, Scanner, Span, json_string};

/// The fields of a request that tell of its trace, as they go over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFields(Vec<u8>);

/// Their names; in `_meta` they are called the same.
const NAMES: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// What is said in them all together, at most: the head that they come with is not bigger than some of these.
const BYTES_MAX: usize = 16 << 10;

impl TraceFields {
    /// Those among these lines.
    pub fn of(lines: &[u8]) -> Self {
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        let is_one = |line: &&[u8]| NAMES.iter().any(|name| value(line, name).is_some());
        Self(lines.filter(is_one).collect::<Vec<_>>().concat())
    }

    /// As lines of a head.
    pub fn lines(&self) -> &[u8] {
        &self.0
    }

    /// The message with all of it in its `_meta`, unless that says it already, or nobody could tell of what.
    pub fn put_into(&self, message: Bytes) -> Bytes {
        let names_trace =
            self.lines().split(|byte| *byte == b'\n').any(|line| value(line, NAMES[0]).is_some());
        if !names_trace || self.0.len() > BYTES_MAX {
            return message;
        }
        let members = self.members();
        if members.is_empty() {
            return message;
        }
        // Whoever gets it says what is wrong with one that cannot be read.
        let Ok(envelope) = Scanner::new().scan(&message) else { return message };
        match place(&message, &envelope) {
            Some((at, before, behind)) => {
                let said = [before, &members, behind].concat();
                rewritten(&message, &[(Span { start: at, end: at }, &said)])
            }
            None => message,
        }
    }

    /// As members of an object.
    fn members(&self) -> Vec<u8> {
        let mut members = Vec::with_capacity(self.0.len());
        for line in self.0.split(|byte| *byte == b'\n') {
            for name in NAMES {
                let Some(text) = value(line, name).and_then(|value| str::from_utf8(value).ok()) else {
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

/// The value of a field of that name.
fn value<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b": ")?;
    Some(value.trim_ascii_end())
}

/// Where in a message members of `_meta` are to be put, with what has to stand before and behind them.
fn place(message: &[u8], envelope: &Envelope) -> Option<(u32, &'static [u8], &'static [u8])> {
    if !matches!(envelope.kind, MessageKind::Request | MessageKind::Notification) {
        return None;
    }
    let params = &envelope.params;
    if let Some(meta) = params.meta.object {
        let said = meta.slice(message);
        let is_said = NAMES.iter().any(|name| memmem::find(said, name.as_bytes()).is_some());
        return (!is_said).then(|| (meta.start + 1, &b""[..], comma(said)));
    }
    if let Some(object) = params.object {
        let said = object.slice(message);
        // Something else than an object may stand there.
        let is_there = memmem::find(said, b"_meta").is_some() && has_meta(said);
        let behind = if comma(said).is_empty() { &b"}"[..] } else { &b"},"[..] };
        return (!is_there).then_some((object.start + 1, b"\"_meta\":{", behind));
    }
    // A message has members, so there is one in front.
    let end = message.iter().rposition(|byte| *byte == b'}')?;
    Some((u32::try_from(end).ok()?, b",\"params\":{\"_meta\":{", b"}}"))
}

/// Whether an object has a member of that name, whatever it is. What is nested too deep to be read is left as it is.
fn has_meta(object: &[u8]) -> bool {
    let members = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(object);
    members.map_or(true, |members| members.contains_key("_meta"))
}

/// What has to stand behind members that are put at the beginning of an object.
fn comma(object: &[u8]) -> &'static [u8] {
    let is_empty = object[1..].trim_ascii_start().starts_with(b"}");
    if is_empty { b"" } else { b"," }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &str, message: &str, expected: &str) {
        let fields = TraceFields::of(lines.as_bytes());
        let found = fields.put_into(Bytes::copy_from_slice(message.as_bytes()));
        assert_eq!(String::from_utf8_lossy(&found), expected);
        let read: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
        assert_eq!(read["jsonrpc"], "2.0", "{expected}");
    }

    #[test]
    fn what_headers_say_is_said_in_the_message() {
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
        let told = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"_meta":{{{both}}}}}}}"#);
        check(lines, bare, &told);
        check("", bare, bare);
        // A value that is no text says nothing that a message could say.
        let meta = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"x":1}}}"#;
        let fields = TraceFields::of(b"traceparent: \xff\r\n");
        assert_eq!(fields.put_into(Bytes::from_static(meta.as_bytes())), meta);
        check("baggage: a=b\r\n", bare, bare);
        check(&format!("traceparent: {}\r\n", "x".repeat(BYTES_MAX)), bare, bare);
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        check(lines, answer, answer);
        let nonsense = Bytes::from_static(b"{");
        assert_eq!(TraceFields::of(lines.as_bytes()).put_into(nonsense.clone()), nonsense);
    }
}
