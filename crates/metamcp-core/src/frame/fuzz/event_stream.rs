//! Event streams: the cuts between chunks make no difference, and the readers of such streams agree.

use bytes::Bytes;

use crate::frame::{BoundaryTracker, DataReader, Event, EventReader, EventSplitter, write_event};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Ids of this length are dropped by [`EventSplitter`] alone.
const LONG_ID_BYTES: usize = 1000;

/// Places at which an input is cut.
const CUTS: usize = 32;

/// Reads a stream with each reader, whole and in pieces.
pub fn event_stream(stream: &[u8]) {
    let whole = EventsSeen::read([stream]);
    whole.check(stream);
    for at_a_time in [1, 2, 7] {
        assert_eq!(EventsSeen::read(stream.chunks(at_a_time)), whole, "{at_a_time} bytes at a time");
    }
    // A long stream is cut at a few places only, for a bounded time.
    for at in (0..stream.len()).step_by(1 + stream.len() / CUTS) {
        assert_eq!(EventsSeen::read([&stream[..at], &stream[at..]]), whole, "cut at {at}");
    }
    message(stream);
}

/// What the readers see of a stream.
#[derive(Debug, PartialEq)]
struct EventsSeen {
    events: Vec<Event>,
    /// Behind the last event.
    boundary: usize,
    is_at_boundary: bool,
    /// What [`EventSplitter`] passes on, joined.
    passed: Vec<u8>,
    last_id: Option<Bytes>,
    retry: Option<u64>,
}

impl EventsSeen {
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut reader, mut tracker, mut splitter) =
            (EventReader::new(), BoundaryTracker::new(), EventSplitter::new());
        let (mut events, mut parts, mut boundary, mut before) = (Vec::new(), Vec::new(), 0, 0);
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(event) = reader.next().expect("the input is shorter than the limit of an event") {
                events.push(comparable(event));
            }
            let end = tracker.feed(piece);
            assert!(end <= piece.len());
            boundary = if end > 0 { before + end } else { boundary };
            before += piece.len();
            splitter.feed(piece, &mut parts);
        }
        let passed = parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
        let is_at_boundary = tracker.is_at_boundary();
        let (last_id, retry) = (splitter.take_id(), splitter.take_retry());
        Self { events, boundary, is_at_boundary, passed, last_id, retry }
    }

    fn check(&self, stream: &[u8]) {
        let text = stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(stream);
        let joined = self.events.iter().flat_map(|event| without_line_end(&event.raw).to_vec());
        let ends = |bytes: &[u8]| bytes.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')).count();
        assert!(joined.eq(self.kept(text)), "the events are the stream");
        assert!(ends(&self.passed) <= ends(stream), "nothing is added");
        // A mark before a blank line hides that line from the tracker.
        if text.len() == stream.len() {
            let events: usize = self.events.iter().map(|event| event.raw.len()).sum();
            assert!(events <= self.boundary && self.boundary <= events + self.events.len());
            assert_eq!(self.is_at_boundary, self.boundary == stream.len());
        }
        self.check_data(stream);
        self.check_passed(stream);
    }

    /// The reader of long events finds the same data, but for the line feeds between lines.
    fn check_data(&self, stream: &[u8]) {
        let mut found = Vec::new();
        DataReader::new().push(stream, |data| found.extend_from_slice(data));
        let is_text = |byte: &u8| *byte != b'\n';
        found.retain(is_text);
        let data = self.events.iter().flat_map(|event| event.data.clone().unwrap_or_default());
        let data: Vec<u8> = data.filter(is_text).collect();
        // It reads the event that is incomplete, too.
        assert!(found.starts_with(&data));
        if self.boundary == stream.len() {
            assert_eq!(found, data);
        }
    }

    /// The bytes of the events in the stream, each without the end of its blank line.
    fn kept(&self, mut text: &[u8]) -> Vec<u8> {
        let mut kept = Vec::new();
        for event in &self.events {
            let length = without_line_end(&event.raw).len();
            kept.extend_from_slice(&text[..length]);
            let end = if text[length..].starts_with(b"\r\n") { 2 } else { 1 };
            text = &text[length + end..];
        }
        kept
    }

    /// A client reads the same events from what is passed on, but for the ids and for those without text.
    fn check_passed(&self, stream: &[u8]) {
        // Whoever passes them on writes an id before each, so a mark among them is not at the start of a stream.
        let again = events_of(EventReader::mid_stream(), &self.passed);
        let texts = |events: &[Event]| -> Vec<_> {
            let text = |event: &Event| {
                let data = event.data.clone().filter(|data| !data.trim_ascii().is_empty())?;
                Some((data, event.event_name.clone()))
            };
            events.iter().filter_map(text).collect()
        };
        assert_eq!(texts(&again), texts(&self.events));
        assert!(again.iter().all(|event| event.id.is_none() && event.retry.is_none()));
        if stream.len() < LONG_ID_BYTES {
            let last_id = self.events.iter().filter_map(|event| event.id.clone()).next_back();
            assert_eq!(self.last_id, last_id);
        }
        // The splitter takes a `retry` from an event that is incomplete, too.
        if self.boundary == stream.len() {
            let retry = self.events.iter().filter_map(|event| event.retry).next_back();
            assert_eq!(self.retry, retry);
        }
    }
}

fn events_of(mut reader: EventReader, stream: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    reader.push(Bytes::copy_from_slice(stream));
    while let Ok(Some(event)) = reader.next() {
        events.push(event);
    }
    events
}

/// The event without what depends on the cuts: where a chunk ends between a carriage return and its line feed, the line feed
/// belongs to no event.
fn comparable(event: Event) -> Event {
    let is_span_right =
        event.data_span.is_none_or(|span| Some(span.slice(&event.raw)) == event.data.as_deref());
    assert!(is_span_right, "the span is that of the data");
    let raw = event.raw.clone();
    let raw = if raw.ends_with(b"\r\n") { raw.slice(..raw.len() - 1) } else { raw };
    Event { raw, ..event }
}

/// Without the end of the blank line that ends the event.
fn without_line_end(raw: &[u8]) -> &[u8] {
    let text = raw.strip_suffix(b"\n").unwrap_or(raw);
    if text.len() < raw.len() {
        text.strip_suffix(b"\r").unwrap_or(text)
    } else {
        raw.strip_suffix(b"\r").unwrap_or(raw)
    }
}

/// A message that is written as an event is read as it was, with its line breaks as line feeds.
fn message(message: &[u8]) {
    let event = write_event(message);
    let events = events_of(EventReader::new(), &event);
    let [read] = events.as_slice() else { panic!("it is one event") };
    let lines: Vec<_> = message.split(|byte| matches!(byte, b'\n' | b'\r')).collect();
    assert_eq!(read.data.as_deref(), Some(&lines.join(&b'\n')[..]));
    assert_eq!(read.raw, event);
}
