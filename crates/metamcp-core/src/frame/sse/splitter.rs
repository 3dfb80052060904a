//! Taking the sender's own ids out of a stream.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Of an id or a `retry`, as much as is kept: real ones have under a hundred bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// An event that is longer is handed out in parts, so that nobody has to hold it.
const PART_BYTES: usize = 64 << 10;

/// An event without its `id`, its `retry` and its comments, or a part of one. Lines end with line feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPart {
    /// Whole lines but for where a long event is parted.
    pub bytes: Bytes,
    /// Whether the event begins with it.
    pub begins: bool,
    /// Whether the event ends with it.
    pub ends: bool,
}

/// Reads a stream as its chunks come, and gives its events without what only their sender understands. What says nothing
/// (an event without data, a comment) is left out.
///
/// Every byte is looked at once, and copied once. An event is never held beyond 64 KiB.
#[derive(Debug, Default)]
pub struct EventSplitter {
    /// Of the event so far, what was not handed out.
    out: BytesMut,
    line: Line,
    /// The first bytes of a line whose kind is not known, or the value of one that is taken out.
    held: Vec<u8>,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_cr: bool,
    /// Some line of this stream has ended: a byte order mark can no longer come.
    is_begun: bool,
    event: Event,
    id: Option<Bytes>,
    retry: Option<u64>,
    last_id: Option<Bytes>,
}

/// What an event is so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It has no data.
    #[default]
    Silent,
    /// It has.
    Speaks,
    /// Likewise, and a part of it was handed out.
    Parted,
}

/// What a line is, as far as its bytes tell.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Not known yet.
    #[default]
    Begun,
    /// Passed on.
    Passes,
    /// Left out.
    Comment,
    /// Taken out, and its value kept.
    Own,
}

impl EventSplitter {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where an event of a stream has ended: a byte order mark is none here (WHATWG HTML, 9.2.6).
    pub fn mid_stream() -> Self {
        Self { is_begun: true, ..Self::default() }
    }

    /// The sender's id of the last event that ended, when one ended with an id since this was asked. Empty takes it back.
    pub fn take_id(&mut self) -> Option<Bytes> {
        self.last_id.take()
    }

    /// The last `retry`, in milliseconds, since this was asked.
    pub fn take_retry(&mut self) -> Option<u64> {
        self.retry.take()
    }

    /// Takes the next chunk, and adds what is ready to `parts`.
    pub fn feed(&mut self, mut chunk: &[u8], parts: &mut Vec<EventPart>) {
        if std::mem::take(&mut self.after_cr) && chunk.first() == Some(&b'\n') {
            chunk = &chunk[1..];
        }
        while !chunk.is_empty() {
            let Some(end) = memchr2(b'\n', b'\r', chunk) else {
                self.take(chunk, parts);
                return;
            };
            self.take(&chunk[..end], parts);
            self.end_line(parts);
            let is_pair = chunk[end] == b'\r' && chunk.get(end + 1) == Some(&b'\n');
            self.after_cr = chunk[end] == b'\r' && end + 1 == chunk.len();
            chunk = &chunk[end + 1 + usize::from(is_pair)..];
        }
    }

    /// Bytes within a line.
    fn take(&mut self, mut bytes: &[u8], parts: &mut Vec<EventPart>) {
        if self.line == Line::Begun {
            // A byte order mark may stand before the first line.
            let decided = if self.is_begun { DECIDED_BYTES } else { BYTE_ORDER_MARK.len() + DECIDED_BYTES };
            let wanted = decided.saturating_sub(self.held.len());
            let (first, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend_from_slice(first);
            if self.held.len() < decided {
                return;
            }
            self.decide();
            bytes = rest;
        }
        match self.line {
            Line::Begun | Line::Comment => {}
            Line::Own => {
                let room = VALUE_BYTES_MAX.saturating_sub(self.held.len());
                self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Line::Passes => {
                for piece in bytes.chunks(PART_BYTES) {
                    self.out.extend_from_slice(piece);
                    self.hand_out_if_long(parts);
                }
            }
        }
    }

    /// The line's first bytes are here, or all of it.
    fn decide(&mut self) {
        if !self.is_begun && self.held.starts_with(BYTE_ORDER_MARK) {
            self.held.drain(..BYTE_ORDER_MARK.len());
        }
        self.is_begun = true;
        let name = self.held.split(|byte| *byte == b':').next().unwrap_or_default();
        self.line = match name {
            b"" if !self.held.is_empty() => Line::Comment,
            b"id" | b"retry" => Line::Own,
            _ => Line::Passes,
        };
        if name == b"data" && self.event == Event::Silent {
            self.event = Event::Speaks;
        }
        if self.line == Line::Passes {
            self.out.extend_from_slice(&self.held);
            self.held.clear();
        }
    }

    fn end_line(&mut self, parts: &mut Vec<EventPart>) {
        let mut is_blank = false;
        if self.line == Line::Begun {
            self.decide();
            is_blank = self.line == Line::Passes && self.ends_at_line();
        }
        let line = std::mem::take(&mut self.line);
        match line {
            _ if is_blank => self.end_event(parts),
            Line::Own => self.own_field(),
            Line::Passes => {
                self.out.extend_from_slice(b"\n");
                self.hand_out_if_long(parts);
            }
            Line::Begun | Line::Comment => {}
        }
        self.held.clear();
    }

    /// Whether nothing stands in the line that just ended: what was passed on ends with a line, or is nothing.
    fn ends_at_line(&self) -> bool {
        self.out.last().is_none_or(|last| *last == b'\n')
    }

    fn own_field(&mut self) {
        let colon = self.held.iter().position(|byte| *byte == b':');
        let value = colon.map_or(&b""[..], |colon| &self.held[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.held.starts_with(b"id") {
            // One with a NUL is none (WHATWG HTML, 9.2.6).
            if !value.contains(&0) && self.held.len() < VALUE_BYTES_MAX {
                self.id = Some(Bytes::copy_from_slice(value));
            }
        } else if let Some(retry) = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
            self.retry = Some(retry);
        }
    }

    fn end_event(&mut self, parts: &mut Vec<EventPart>) {
        if self.id.is_some() {
            self.last_id = self.id.take();
        }
        let is_empty =
            self.event == Event::Speaks && self.out.len() < PRIMING_BYTES_MAX && has_empty_data(&self.out);
        if self.event != Event::Silent && !is_empty {
            self.out.extend_from_slice(b"\n");
            self.hand_out(true, parts);
        }
        self.out.clear();
        self.event = Event::Silent;
    }

    /// Also where no data has come yet: who reads it takes an event without data for none.
    fn hand_out_if_long(&mut self, parts: &mut Vec<EventPart>) {
        if self.out.len() >= PART_BYTES {
            self.hand_out(false, parts);
        }
    }

    fn hand_out(&mut self, ends: bool, parts: &mut Vec<EventPart>) {
        let begins = std::mem::replace(&mut self.event, Event::Parted) != Event::Parted;
        parts.push(EventPart { bytes: self.out.split().freeze(), begins, ends });
    }
}

/// An event that only hands its id over has a name at most.
const PRIMING_BYTES_MAX: usize = 128;

fn has_empty_data(event: &[u8]) -> bool {
    let mut lines = event.split(|byte| *byte == b'\n');
    lines.all(|line| line.strip_prefix(b"data:").is_none_or(|value| value.trim_ascii().is_empty()))
}

/// So many bytes of a line tell what it is: those of `retry:`.
const DECIDED_BYTES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a stream joined, and the last id; the same however it is cut.
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
    fn what_is_held_is_bounded() {
        for line in ["event: a\n", "x\n", "data:1\n", "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"] {
            let (mut splitter, mut parts) = (EventSplitter::new(), Vec::new());
            for _ in 0..40_000 {
                splitter.feed(line.as_bytes(), &mut parts);
                assert!(splitter.out.len() + splitter.held.len() <= 2 * PART_BYTES, "{line:?}");
            }
            let handed: usize = parts.iter().map(|part| part.bytes.len()).sum();
            assert_eq!(handed + splitter.out.len(), 40_000 * line.len(), "{line:?}");
            assert_eq!(parts.iter().filter(|part| part.begins).count(), 1, "{line:?}");
        }
    }

    #[test]
    fn ids_and_comments_are_taken_out() {
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
        // What never ends is no event, and its id counts for nothing.
        check("data: 1\n\nid: 9\ndata: 2\n", &["data: 1\n\n"], None);
    }

    #[test]
    fn a_byte_order_mark_is_one_where_the_stream_begins() {
        let going_on = |stream: &str, expected: &[&str], id: Option<&str>| {
            check_from(EventSplitter::mid_stream, stream, expected, id);
        };
        going_on("id: 7\ndata: 1\n\n", &["data: 1\n\n"], Some("7"));
        going_on("\u{feff}data: 1\n\n", &[], None);
        going_on("\u{feff}data: 1\ndata: 2\n\n", &["\u{feff}data: 1\ndata: 2\n\n"], None);
        going_on("\u{feff}id: 7\ndata: 2\n\n", &["\u{feff}id: 7\ndata: 2\n\n"], None);
    }

    #[test]
    fn a_long_event_comes_in_parts() {
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
    fn retry_is_told_once() {
        let mut splitter = EventSplitter::new();
        splitter.feed(b"retry: 250\n\nretry: soon\n\n", &mut Vec::new());
        assert_eq!((splitter.take_retry(), splitter.take_retry()), (Some(250), None));
    }
}
