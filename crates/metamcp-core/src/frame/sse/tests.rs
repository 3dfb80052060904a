use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::base::{CHARGED_BYTES_MIN, ChargedBuffer, MemoryAccount, OutOfMemory};

/// Reads chunks. Returns the events, and whether the stream ended at a boundary.
fn read(chunks: &[&[u8]]) -> Result<(Vec<Event>, bool), SseError> {
    let mut reader = EventReader::new();
    let mut events = Vec::new();
    for chunk in chunks {
        reader.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = reader.next()? {
            events.push(event);
        }
    }
    Ok((events, reader.is_at_boundary()))
}

fn describe_event(event: &Event) -> String {
    let text =
        |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut told = Vec::new();
    for (name, value) in [("data", &event.data), ("id", &event.id), ("event", &event.event_name)] {
        told.extend(text(value).map(|value| format!("{name}={value:?}")));
    }
    told.extend(event.retry.map(|retry| format!("retry={retry}")));
    assert_eq!(event.is_comment_only, told.is_empty());
    if let Some(span) = event.data_span {
        assert_eq!(Some(span.slice(&event.raw)), event.data.as_deref());
    }
    told.join(" ")
}

/// The events without the part that depends on chunking: a line feed after a final carriage return.
fn comparable((events, at_boundary): (Vec<Event>, bool)) -> (Vec<(String, Vec<u8>)>, bool) {
    let events = events.iter().map(|event| {
        let raw = event.raw.strip_suffix(b"\r\n").or(event.raw.strip_suffix(b"\r")).unwrap_or(&event.raw);
        (describe_event(event), raw.to_vec())
    });
    (events.collect(), at_boundary)
}

/// Checks the events of a stream, for every way to split it.
fn check(stream: impl AsRef<[u8]>, expected: &[&str], at_boundary: bool) {
    let stream = stream.as_ref();
    let whole = read(&[stream]).expect("short enough");
    let told: Vec<String> = whole.0.iter().map(describe_event).collect();
    assert_eq!(
        (told, whole.1),
        (expected.iter().map(ToString::to_string).collect(), at_boundary),
        "{stream:?}"
    );
    check_cuts(stream);
}

fn check_cuts(stream: &[u8]) {
    let whole = read(&[stream]).expect("short enough");
    let raw: Vec<u8> = whole.0.iter().flat_map(|event| event.raw.to_vec()).collect();
    let unmarked = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(stream);
    assert!(unmarked.starts_with(&raw), "the raw events are the stream up to the last boundary");
    let whole = comparable(whole);
    for cut in 0..=stream.len() {
        let cut_in_two = read(&[&stream[..cut], &stream[cut..]]).expect("short enough");
        assert_eq!(comparable(cut_in_two), whole, "cut at {cut}: {stream:?}");
    }
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(comparable(read(&single).expect("short enough")), whole, "byte by byte: {stream:?}");
    check_boundaries(stream);
}

/// Checks that the tracker finds the same boundaries as the reader, for every way to split the stream.
fn check_boundaries(stream: &[u8]) {
    if stream.starts_with(b"\xef\xbb\xbf") {
        return; // the one thing that it reads differently
    }
    // A line feed after a carriage return may fall on either side of a cut.
    let ends: Vec<usize> = (0..=stream.len()).filter(|&end| ends_at_boundary(&stream[..end])).collect();
    for size in 1..=stream.len().min(7) {
        let mut tracker = BoundaryTracker::new();
        let mut fed = 0;
        for chunk in stream.chunks(size) {
            let passed = tracker.feed(chunk);
            let expected = ends.iter().rev().find(|&&end| end > fed && end <= fed + chunk.len());
            assert_eq!(fed + passed, expected.copied().unwrap_or(fed), "{size} at {fed}: {stream:?}");
            fed += chunk.len();
            assert_eq!(tracker.is_at_boundary(), ends.contains(&fed), "{size} at {fed}: {stream:?}");
        }
    }
}

fn ends_at_boundary(stream: &[u8]) -> bool {
    read(&[stream]).expect("short enough").1
}

#[test]
fn events() {
    check("", &[], true);
    check("data: a\n\n", &[r#"data="a""#], true);
    check("data:a\r\n\r\n", &[r#"data="a""#], true);
    check("data:  a \r\r", &[r#"data=" a ""#], true);
    check("data: a\ndata\ndata:b\r\n\n", &[r#"data="a\n\nb""#], true);
    check("data\n\n", &[r#"data="""#], true);
    check("data:\ndata:\n\n", &[r#"data="\n""#], true);
    check("data: a\n\ndata: b\n\ndata: c", &[r#"data="a""#, r#"data="b""#], false);
    check("data: a\n", &[], false);
    check("data: a\n\r\n:x\n\n\n", &[r#"data="a""#, "", ""], true);
    check(
        "event: message\nid: 7\nretry: 10\ndata: {\"a\":\":\"}\n\n",
        &[r#"data="{\"a\":\":\"}" id="7" event="message" retry=10"#],
        true,
    );
    check("id: 1\nid\ndata:x\n\n", &[r#"data="x" id="""#], true);
    check("id: 1\nid: a\0b\n\n", &[r#"id="1""#], true);
    check("id: \0\n\n", &[""], true);
    check(
        "retry: 0\n\nretry: -1\n\nretry: 1.5\n\nretry:\n\nretry: 99999999999999999999\n\n",
        &["retry=0", "", "", "", "retry=18446744073709551615"],
        true,
    );
    check(": ping\n\n", &[""], true);
    check(" data: a\nDATA: b\ndatum: c\n\n", &[""], true);
    check("\u{feff}data: a\n\n\u{feff}data: b\n\n", &[r#"data="a""#, ""], true);
    check("\u{feff}\u{feff}data: a\n\n", &[""], true);
    check("\u{feff}\n\ndata: a\n\n", &["", "", r#"data="a""#], true);
    check(b"\xef\xbbdata: a\n\n", &[""], true);
    check(b"data: \xff\xfe\n\n", &["data=\"\u{fffd}\u{fffd}\""], true);
    check("data: a\r\n\r", &[r#"data="a""#], true);
    check("data: a\r\n\r\ndata: b\r\r\n\n", &[r#"data="a""#, r#"data="b""#, ""], true);
    check("data: 1\n".repeat(300) + "\n", &[&format!("data={:?}", vec!["1"; 300].join("\n"))], true);
}

#[test]
fn an_event_within_one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"id: 1\ndata: abc\n\ndata: def\n\n");
    let mut reader = EventReader::new();
    reader.push(chunk.clone());
    let first = reader.next().expect("short").expect("whole");
    assert_eq!(first.raw.as_ptr(), chunk.as_ptr());
    assert_eq!(first.data.expect("data").as_ptr(), chunk[12..].as_ptr());
    let second = reader.next().expect("short").expect("whole");
    assert_eq!(second.raw.as_ptr(), chunk[17..].as_ptr());
    assert_eq!(reader.next(), Ok(None));
    assert!(reader.is_at_boundary());
}

#[test]
fn pushing_before_the_last_chunk_was_read() {
    let mut reader = EventReader::new();
    for chunk in ["data: a\r", "\n\r", "\ndata: b", "\n\n"] {
        reader.push(Bytes::from_static(chunk.as_bytes()));
    }
    let mut told = Vec::new();
    while let Some(event) = reader.next().expect("short") {
        told.push(describe_event(&event));
    }
    assert_eq!(told, [r#"data="a""#, r#"data="b""#]);
}

#[test]
fn length_is_bounded() {
    let line = Bytes::from("data: ".to_owned() + &"x".repeat(1 << 20) + "\n");
    let mut reader = EventReader::new();
    for _ in 0..3 {
        reader.push(line.clone());
        assert_eq!(reader.next(), Ok(None));
    }
    reader.push(line.clone());
    assert_eq!(reader.next(), Err(SseError::TooLong));
    reader.push(Bytes::from_static(b"\n\ndata: a\n\n"));
    assert_eq!(reader.next(), Err(SseError::TooLong));

    let exact = |len: usize| "data: ".to_owned() + &"x".repeat(len - 8) + "\n\n";
    assert_eq!(read(&[exact(EVENT_BYTES_MAX).as_bytes()]).map(|read| read.0.len()), Ok(1));
    assert_eq!(read(&[exact(EVENT_BYTES_MAX + 1).as_bytes()]).err(), Some(SseError::TooLong));
    let endless = "x".repeat(EVENT_BYTES_MAX + 1);
    assert_eq!(read(&[endless.as_bytes()]).err(), Some(SseError::TooLong));
}

/// Pieces that exercise the edges of the rules.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => Just(b"\n".to_vec()),
        3 => Just(b"\r".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        2 => Just(b"data: x".to_vec()),
        1 => Just(b"data".to_vec()),
        1 => Just(b"id: 1".to_vec()),
        1 => Just(b"event:e".to_vec()),
        1 => Just(b":".to_vec()),
        1 => Just(b"\xef\xbb\xbf".to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// The events that a browser would dispatch: the standard's algorithm, line by line, without chunks.
fn reference_events(stream: &[u8]) -> Vec<String> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let unified = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = unified.split('\n').collect();
    lines.pop(); // not ended
    let (mut events, mut data) = (Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if line.is_empty() {
            if !data.is_empty() {
                events.push(std::mem::take(&mut data).join("\n"));
            }
        } else if name == "data" {
            data.push(value.strip_prefix(' ').unwrap_or(value));
        }
    }
    events
}

proptest! {
    #[test]
    fn chunk_borders_do_not_matter(stream in stream()) {
        check_cuts(&stream);
    }

    #[test]
    fn data_is_read_as_browsers_do(stream in stream()) {
        let (events, _) = read(&[&stream]).expect("short enough");
        let data: Vec<_> =
            events.iter().filter_map(|event| event.data.as_ref()).map(|data| String::from_utf8_lossy(data)).collect();
        prop_assert_eq!(data, reference_events(&stream));
    }
}

#[test]
fn messages_are_written_as_events() {
    let check = |message: &str, expected: &str| {
        let event = write_event(message.as_bytes());
        assert_eq!(event, expected);
        let mut reader = EventReader::new();
        reader.push(event);
        let data = reader.next().unwrap().unwrap().data.unwrap();
        let plain = |text: &[u8]| -> Vec<u8> {
            text.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect()
        };
        assert_eq!(plain(&data), plain(message.as_bytes()), "it reads as it was");
    };
    check("{}", "event: message\ndata: {}\n\n");
    check("{\n\"a\":1}", "event: message\ndata: {\ndata: \"a\":1}\n\n");
    check("{\r\"a\":1}", "event: message\ndata: {\ndata: \"a\":1}\n\n");
}

#[test]
fn an_incomplete_event_is_charged_for() {
    let account: &'static MemoryAccount = Box::leak(Box::default());
    account.set_bytes_max(8 * CHARGED_BYTES_MIN);
    let chunk = Bytes::from(vec![b'x'; CHARGED_BYTES_MIN]);
    let reader = || {
        let mut reader = EventReader::new();
        reader.partial = ChargedBuffer::with_charge(account.charge());
        reader.push("data: ".into());
        assert_eq!(reader.next(), Ok(None));
        reader
    };
    // An event that is complete has its charge until the last part of it is dropped.
    let mut complete = reader();
    for _ in 0..2 {
        complete.push(chunk.clone());
        assert_eq!(complete.next(), Ok(None));
    }
    complete.push("\n\n".into());
    let data = complete.next().expect("it is read").and_then(|event| event.data).expect("data");
    drop(complete);
    assert!(data.len() == 2 * chunk.len() && account.charged_bytes() >= data.len());
    drop(data);
    assert_eq!(account.charged_bytes(), 0);
    // One that is too much for the memory there is ends the stream.
    let mut endless = reader();
    let error = (0..16).find_map(|_| {
        endless.push(chunk.clone());
        endless.next().err()
    });
    assert_eq!(error, Some(SseError::OutOfMemory(OutOfMemory)));
    assert_eq!((endless.next().err(), account.charged_bytes()), (error, 0));
}

#[test]
fn joined_lines_of_data_are_charged_for() {
    const LINE_BYTES: usize = 4 * CHARGED_BYTES_MIN;
    let line = ["data: ", &"x".repeat(LINE_BYTES), "\n"].concat();
    let check = |steps: usize, lines: usize, expected: Result<usize, SseError>| {
        let account: &'static MemoryAccount = Box::leak(Box::new(MemoryAccount::new()));
        account.set_bytes_max(steps * CHARGED_BYTES_MIN);
        let mut reader = EventReader::new();
        reader.partial = ChargedBuffer::with_charge(account.charge());
        // In one chunk, which is not copied: only what is joined is charged for.
        reader.push((line.repeat(lines) + "\n").into());
        let event = reader.next().map(|event| event.and_then(|event| event.data).expect("data"));
        let charged = account.charged_bytes();
        assert_eq!(event.as_ref().map(Bytes::len).map_err(|error| *error), expected, "{steps} {lines}");
        assert_eq!(charged >= LINE_BYTES, event.is_ok() && lines > 1, "{steps} {lines}");
        drop(event);
        assert_eq!(account.charged_bytes(), 0, "{steps} {lines}");
    };
    check(1, 1, Ok(LINE_BYTES));
    check(1000, 3, Ok(3 * LINE_BYTES + 2));
    check(8, 3, Err(SseError::OutOfMemory(OutOfMemory)));
}
