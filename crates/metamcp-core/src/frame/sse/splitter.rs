//! Removes from a stream the fields that only its sender understands.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use super::BYTE_ORDER_MARK;
use super::retry::parse_milliseconds;

/// The longest `id` or `retry` that is kept. Real ones have under a hundred bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// Longer events are passed on in parts, so that they need not be buffered.
const PART_BYTES: usize = 64 << 10;

/// An event or a part of one, without `id`, `retry` and comments. Lines end with line feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPart {
    /// Complete lines, except where a long event is split.
    pub bytes: Bytes,
    /// Whether it is the start of the event.
    pub begins: bool,
    /// Whether it is the end of the event.
    pub ends: bool,
}

/// Splits a stream into its events, without the fields that only the sender understands. Comments and events without data are
/// dropped.
///
/// Every byte is read once and copied once. At most 64 KiB of an event are buffered.
#[derive(Debug, Default)]
pub struct EventSplitter {
    /// The part of the current event that was not passed on.
    out: BytesMut,
    line: LineKind,
    /// The start of a line whose kind is unknown, or the value of a removed field.
    buffered: Vec<u8>,
    /// The last byte was a carriage return. A line feed that follows belongs to it.
    after_cr: bool,
    /// A line of the stream has ended, so that no byte order mark can follow.
    is_begun: bool,
    event: EventState,
    id: Option<Bytes>,
    retry: Option<u64>,
    last_id: Option<Bytes>,
}

/// The state of the current event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum EventState {
    /// It has no data yet.
    #[default]
    NoData,
    HasData,
    /// A part of it was passed on.
    Split,
}

/// The kind of the current line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LineKind {
    /// No line decided it yet.
    #[default]
    Unknown,
    /// A field that is passed on.
    Forwarded,
    /// A comment, which is dropped.
    Comment,
    /// `id` or `retry`: removed, and its value kept.
    Removed,
}

impl EventSplitter {
    /// Creates a splitter at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a splitter between two events of a stream, where a byte order mark has no meaning (WHATWG HTML, 9.2.6).
    pub fn mid_stream() -> Self {
        Self { is_begun: true, ..Self::default() }
    }

    /// Takes the id of the last complete event that had one. Empty if the sender reset it.
    pub fn take_id(&mut self) -> Option<Bytes> {
        self.last_id.take()
    }

    /// Takes the last `retry` in milliseconds.
    pub fn take_retry(&mut self) -> Option<u64> {
        self.retry.take()
    }

    /// Reads the next chunk, and appends the parts that are complete to `parts`.
    pub fn feed(&mut self, mut chunk: &[u8], parts: &mut Vec<EventPart>) {
        if std::mem::take(&mut self.after_cr) && chunk.first() == Some(&b'\n') {
            chunk = &chunk[1..];
        }
        while !chunk.is_empty() {
            let Some(end) = memchr2(b'\n', b'\r', chunk) else {
                self.read_line_bytes(chunk, parts);
                return;
            };
            self.read_line_bytes(&chunk[..end], parts);
            self.end_line(parts);
            let is_pair = chunk[end] == b'\r' && chunk.get(end + 1) == Some(&b'\n');
            self.after_cr = chunk[end] == b'\r' && end + 1 == chunk.len();
            chunk = &chunk[end + 1 + usize::from(is_pair)..];
        }
    }

    /// Reads bytes of the current line.
    fn read_line_bytes(&mut self, mut bytes: &[u8], parts: &mut Vec<EventPart>) {
        if self.line == LineKind::Unknown {
            // A byte order mark may precede the first line.
            let needed =
                if self.is_begun { LINE_KIND_BYTES } else { BYTE_ORDER_MARK.len() + LINE_KIND_BYTES };
            let missing = needed.saturating_sub(self.buffered.len());
            let (first, rest) = bytes.split_at(missing.min(bytes.len()));
            self.buffered.extend_from_slice(first);
            if self.buffered.len() < needed {
                return;
            }
            self.classify_line();
            bytes = rest;
        }
        match self.line {
            LineKind::Unknown | LineKind::Comment => {}
            LineKind::Removed => {
                let room = VALUE_BYTES_MAX.saturating_sub(self.buffered.len());
                self.buffered.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            LineKind::Forwarded => {
                for part in bytes.chunks(PART_BYTES) {
                    self.out.extend_from_slice(part);
                    self.flush_if_long(parts);
                }
            }
        }
    }

    /// Determines the kind of the line from its first bytes, or from all of it.
    fn classify_line(&mut self) {
        if !self.is_begun && self.buffered.starts_with(BYTE_ORDER_MARK) {
            self.buffered.drain(..BYTE_ORDER_MARK.len());
        }
        self.is_begun = true;
        let name = self.buffered.split(|byte| *byte == b':').next().unwrap_or_default();
        self.line = match name {
            b"" if !self.buffered.is_empty() => LineKind::Comment,
            b"id" | b"retry" => LineKind::Removed,
            _ => LineKind::Forwarded,
        };
        if name == b"data" && self.event == EventState::NoData {
            self.event = EventState::HasData;
        }
        if self.line == LineKind::Forwarded {
            self.out.extend_from_slice(&self.buffered);
            self.buffered.clear();
        }
    }

    fn end_line(&mut self, parts: &mut Vec<EventPart>) {
        let mut is_blank = false;
        if self.line == LineKind::Unknown {
            self.classify_line();
            is_blank = self.line == LineKind::Forwarded && self.is_line_empty();
        }
        let line = std::mem::take(&mut self.line);
        match line {
            _ if is_blank => self.end_event(parts),
            LineKind::Removed => self.read_removed_field(),
            LineKind::Forwarded => {
                self.out.extend_from_slice(b"\n");
                self.flush_if_long(parts);
            }
            LineKind::Unknown | LineKind::Comment => {}
        }
        self.buffered.clear();
    }

    /// Whether the line that just ended is empty: the output is empty or ends with a line feed.
    fn is_line_empty(&self) -> bool {
        self.out.last().is_none_or(|last| *last == b'\n')
    }

    fn read_removed_field(&mut self) {
        let colon = self.buffered.iter().position(|byte| *byte == b':');
        let value = colon.map_or(&b""[..], |colon| &self.buffered[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.buffered.starts_with(b"id") {
            // An id with a NUL is ignored (WHATWG HTML, 9.2.6).
            if !value.contains(&0) && self.buffered.len() < VALUE_BYTES_MAX {
                self.id = Some(Bytes::copy_from_slice(value));
            }
        } else if let Some(retry) = parse_milliseconds(value) {
            self.retry = Some(retry);
        }
    }

    fn end_event(&mut self, parts: &mut Vec<EventPart>) {
        if self.id.is_some() {
            self.last_id = self.id.take();
        }
        let is_empty = self.event == EventState::HasData
            && self.out.len() < PRIMING_BYTES_MAX
            && has_empty_data(&self.out);
        if self.event != EventState::NoData && !is_empty {
            self.out.extend_from_slice(b"\n");
            self.flush(true, parts);
        }
        self.out.clear();
        self.event = EventState::NoData;
    }

    /// Passes on a part of a long event, even without data: the receiver ignores an event without data.
    fn flush_if_long(&mut self, parts: &mut Vec<EventPart>) {
        if self.out.len() >= PART_BYTES {
            self.flush(false, parts);
        }
    }

    fn flush(&mut self, ends: bool, parts: &mut Vec<EventPart>) {
        let begins = std::mem::replace(&mut self.event, EventState::Split) != EventState::Split;
        parts.push(EventPart { bytes: self.out.split().freeze(), begins, ends });
    }
}

/// The length of an event that only transfers an id; it has at most a name besides.
const PRIMING_BYTES_MAX: usize = 128;

fn has_empty_data(event: &[u8]) -> bool {
    let mut lines = event.split(|byte| *byte == b'\n');
    lines.all(|line| line.strip_prefix(b"data:").is_none_or(|value| value.trim_ascii().is_empty()))
}

/// The bytes that determine the kind of a line: the length of `retry:`.
const LINE_KIND_BYTES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the events and the last id of a stream, split at every offset.
    #[track_caller]
    fn check(stream: &str, expected: &[&str], id: Option<&str>) {
        check_from(EventSplitter::new, stream, expected, id);
    }

    #[track_caller]
    fn check_from(begin: fn() -> EventSplitter, stream: &str, expected: &[&str], id: Option<&str>) {
        for at in 0..=stream.len() {
            let (mut splitter, mut parts) = (begin(), Vec::new());
            splitter.feed(&stream.as_bytes()[..at], &mut parts);
            splitter.feed(&stream.as_bytes()[at..], &mut parts);
            let found: Vec<_> = parts.iter().map(|part| std::str::from_utf8(&part.bytes).unwrap()).collect();
            assert_eq!(found, expected, "{stream:?} cut at {at}");
            assert!(parts.iter().all(|part| part.begins && part.ends));
            assert_eq!(splitter.take_id().as_deref(), id.map(str::as_bytes), "{stream:?} cut at {at}");
        }
        let (mut splitter, mut parts) = (begin(), Vec::new());
        for byte in stream.as_bytes() {
            splitter.feed(std::slice::from_ref(byte), &mut parts);
        }
        assert_eq!(parts.len(), expected.len(), "{stream:?} byte by byte");
    }

    #[test]
    fn the_buffers_are_bounded() {
        for line in ["event: a\n", "x\n", "data:1\n", "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"] {
            let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
            for _ in 0..40_000 {
                splitter.feed(line.as_bytes(), &mut parts);
                assert!(splitter.out.len() + splitter.buffered.len() <= 2 * PART_BYTES, "{line:?}");
            }
            let flushed: usize = parts.iter().map(|part| part.bytes.len()).sum();
            assert_eq!(flushed + splitter.out.len(), 40_000 * line.len(), "{line:?}");
            assert_eq!(parts.iter().filter(|part| part.begins).count(), 1, "{line:?}");
        }
    }

    #[test]
    fn ids_and_comments_are_removed() {
        check("data: 1\n\n", &["data: 1\n\n"], None);
        check("id: 7\nevent: message\ndata: 1\n\n", &["event: message\ndata: 1\n\n"], Some("7"));
        check("event: message\r\nid: 7\r\ndata: 1\r\n\r\n", &["event: message\ndata: 1\n\n"], Some("7"));
        check("data: 1\rid:8\rdata: 2\r\r", &["data: 1\ndata: 2\n\n"], Some("8"));
        check("id: 1\ndata: \n\nid: 2\nevent: message\ndata\n\n", &[], Some("2"));
        check("retry: 5\n\n: hi\n\n\n\n", &[], None);
        check(": hi\ndata: 1\n: ho\n\n", &["data: 1\n\n"], None);
        check("\u{feff}data: 1\n\ndata: 2\n\n", &["data: 1\n\n", "data: 2\n\n"], None);
        check("\u{feff}\n: 1\n\u{feff}data: 1\n\n", &[], None);
        check("\u{feff}id: 3\ndata: 1\n\n", &["data: 1\n\n"], Some("3"));
        check("idea: x\nretry\nda: 1\ndata: id: 5\n\n", &["idea: x\nda: 1\ndata: id: 5\n\n"], None);
        check("id\ndata: 1\n\ndata: 2\n\n", &["data: 1\n\n", "data: 2\n\n"], Some(""));
        check("id: a\0b\ndata: 1\n\n", &["data: 1\n\n"], None);
        // An incomplete event is dropped with its id.
        check("data: 1\n\nid: 9\ndata: 2\n", &["data: 1\n\n"], None);
    }

    #[test]
    fn a_byte_order_mark_counts_only_at_the_start() {
        let check_mid_stream = |stream: &str, expected: &[&str], id: Option<&str>| {
            check_from(EventSplitter::mid_stream, stream, expected, id);
        };
        check_mid_stream("id: 7\ndata: 1\n\n", &["data: 1\n\n"], Some("7"));
        check_mid_stream("\u{feff}data: 1\n\n", &[], None);
        check_mid_stream("\u{feff}data: 1\ndata: 2\n\n", &["\u{feff}data: 1\ndata: 2\n\n"], None);
        check_mid_stream("\u{feff}id: 7\ndata: 2\n\n", &["\u{feff}id: 7\ndata: 2\n\n"], None);
    }

    #[test]
    fn long_events_are_split() {
        let long = format!("id: 1\ndata: {}\n\n", "x".repeat(3 * PART_BYTES));
        for chunk_bytes in [7, 5000, 1 << 20] {
            let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
            for chunk in long.as_bytes().chunks(chunk_bytes) {
                splitter.feed(chunk, &mut parts);
            }
            let joined: Vec<u8> = parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
            assert_eq!(joined.len(), long.len() - "id: 1\n".len());
            assert!(parts.len() >= 3 && parts[0].begins && parts.last().unwrap().ends);
            assert_eq!(parts.iter().filter(|part| part.begins || part.ends).count(), 2);
            assert_eq!(splitter.take_id().as_deref(), Some(&b"1"[..]));
        }
    }

    #[test]
    fn retry_is_taken_once() {
        let mut splitter = EventSplitter::new();
        splitter.feed(b"retry: 250\n\nretry: soon\n\n", &mut Vec::new());
        assert_eq!((splitter.take_retry(), splitter.take_retry()), (Some(250), None));
        splitter.feed(b"retry: 250\nretry: +5\n\n", &mut Vec::new());
        assert_eq!(splitter.take_retry(), Some(250), "digits alone are a number");
        splitter.feed(b"retry: 99999999999999999999\n\n", &mut Vec::new());
        assert_eq!(splitter.take_retry(), Some(u64::MAX));
    }
}
