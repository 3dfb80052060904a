use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::journal::events::BLOCK_BYTES;
use crate::journal::tests::Folder;
use crate::session::claims::{SessionClaims, SessionKey};
use metamcp_config::sections::StreamsConfig;
use metamcp_core::base::{CHARGED_BYTES_MIN, KeyId, MemoryAccount, MemoryCharge};
use metamcp_core::frame::{EventPart, EventReader};
use metamcp_core::protocol::{ClientCapabilities, Revision};
use metamcp_store::auth::{Sealer, parse_encryption_key};

const RETENTION: Duration = Duration::from_mins(5);
const ALMOST: Duration = Duration::from_secs(299);

struct Fixture {
    _folder: Folder,
    streams: Arc<ResumableStreams>,
}

fn new_fixture(bytes_max: usize, stream_bytes_max: usize) -> Fixture {
    let folder = Folder::new();
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let sealer = Arc::new(Sealer::new(&parse_encryption_key(key).unwrap()).unwrap());
    let config =
        StreamsConfig { bytes_max, stream_bytes_max, retention: RETENTION, poll_after: Duration::ZERO };
    let streams = ResumableStreams::open(folder.path(), config, sealer, Box::leak(Box::default())).unwrap();
    Fixture { _folder: folder, streams }
}

fn claims(key: &str, session: u8) -> SessionClaims {
    SessionClaims {
        key_id: KeyId::parse(key).unwrap(),
        revision: Revision::V2025_11_25,
        capabilities: ClientCapabilities::from_byte(0),
        created_s: 1,
        key: SessionKey([session; 16]),
        scope: "e/x".into(),
    }
}

fn own_claims() -> SessionClaims {
    claims("AAAAAAAAAAAA", 1)
}

fn part(data: &str) -> EventPart {
    EventPart { bytes: format!("data: {data}\n\n").into(), begins: true, ends: true }
}

/// Writes an event for which there is room, without waiting.
#[track_caller]
fn put(writer: &StreamWriter, data: &str) {
    assert_eq!(writer.push(&part(data)).now_or_never(), Some(Ok(())));
}

/// What a client has read: the data of each event, and the last id.
#[derive(Debug, Default, PartialEq)]
struct Received {
    data: Vec<String>,
    id: Option<Bytes>,
    end: Option<ReadOutcome>,
}

/// Reads everything that is available.
fn read(reader: &mut StreamReader) -> Received {
    let (mut received, mut events) = (Received::default(), EventReader::new());
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(next) = reader.poll_next(&mut context) {
        match next {
            ReadOutcome::Events(bytes) => events.push(bytes),
            ReadOutcome::KeepAlive => received.data.push(":".into()),
            end => {
                received.end = Some(end);
                break;
            }
        }
        while let Some(event) = events.next().unwrap() {
            received.id = event.id.or(received.id);
            received.data.push(String::from_utf8(event.data.unwrap().to_vec()).unwrap());
        }
    }
    received
}

impl Received {
    #[track_caller]
    fn check(&self, data: &[&str], end: Option<&ReadOutcome>) -> Bytes {
        assert_eq!(
            (self.data.iter().map(String::as_str).collect::<Vec<_>>(), self.end.as_ref()),
            (data.to_vec(), end)
        );
        self.id.clone().unwrap_or_default()
    }
}

/// Resumes a stream after an event id, which must belong to it.
#[track_caller]
fn resume(fixture: &Fixture, stream: &Arc<ResumableStream>, id: &[u8]) -> Result<StreamReader, ResumeError> {
    let event_id = fixture.streams.parse_event_id(&own_claims(), id).expect("the id belongs to the session");
    assert!(stream.matches(&event_id) && fixture.streams.is_from_this_process(&event_id));
    StreamReader::resume(stream, event_id.sequence)
}

#[tokio::test(start_paused = true)]
async fn resuming_replays_missed_events_and_continues() {
    let fixture = new_fixture(1 << 20, 1 << 16);
    let (writer, mut reader) = fixture.streams.begin(&own_claims(), Some(Bytes::from_static(b"7")));
    put(&writer, "1");
    let first = read(&mut reader).check(&["1"], None);
    put(&writer, "2");
    let second = read(&mut reader).check(&["2"], None);
    put(&writer, "3");
    drop(reader);
    put(&writer, "4");
    let stream = Arc::clone(writer.stream());
    let mut again = resume(&fixture, &stream, &first).unwrap();
    read(&mut again).check(&["2", "3", "4"], None);
    // Another reader takes over, which ends the previous one.
    let mut third = resume(&fixture, &stream, &second).unwrap();
    assert_eq!(read(&mut again).end, Some(ReadOutcome::End));
    drop(again);
    put(&writer, "5");
    let last = read(&mut third).check(&["3", "4", "5"], None);
    assert!(writer.abandoned().now_or_never().is_none());
    writer.send_comment();
    read(&mut third).check(&[":"], None);
    writer.finish();
    assert_eq!(read(&mut third).end, Some(ReadOutcome::End));
    drop(third);
    read(&mut resume(&fixture, &stream, &second).unwrap()).check(&["3", "4", "5"], Some(&ReadOutcome::End));
    assert_eq!(resume(&fixture, &stream, &last).err(), Some(ResumeError::Complete));
    // A sequence that was never assigned.
    assert_eq!(StreamReader::resume(&stream, 6).err(), Some(ResumeError::Lost));
    assert_eq!(StreamReader::resume(&stream, u64::MAX).err(), Some(ResumeError::Lost));
    // The retention expires.
    advance(ALMOST).await;
    fixture.streams.expire();
    assert!(resume(&fixture, &stream, &first).is_ok());
    advance(Duration::from_secs(2)).await;
    fixture.streams.expire();
    assert_eq!(resume(&fixture, &stream, &first).err(), Some(ResumeError::Lost));
    assert_eq!(fixture.streams.bytes(), 0);
}

/// A stream that its client cannot resume is abandoned at once, any other when its retention expires.
#[tokio::test(start_paused = true)]
async fn a_stream_is_abandoned_when_its_client_cannot_return() {
    let fixture = new_fixture(1 << 20, 1 << 16);
    let begin = || fixture.streams.begin(&own_claims(), None);
    // The client has no id.
    let (writer, reader) = begin();
    assert!(writer.abandoned().now_or_never().is_none());
    drop(reader);
    assert!(writer.abandoned().now_or_never().is_some());
    // The client only has the announced id.
    let (writer, mut reader) = begin();
    reader.announce_id();
    let id = read(&mut reader).check(&[""], None);
    drop(reader);
    sleep(ALMOST).await;
    assert!(writer.abandoned().now_or_never().is_none());
    // Resuming restarts the retention.
    drop(resume(&fixture, writer.stream(), &id).unwrap());
    sleep(ALMOST).await;
    assert!(writer.abandoned().now_or_never().is_none());
    sleep(Duration::from_secs(2)).await;
    assert!(writer.abandoned().now_or_never().is_some());
    // The client cancelled the call.
    let (writer, mut reader) = begin();
    put(&writer, "1");
    read(&mut reader);
    writer.stream().cancel();
    assert!(writer.abandoned().now_or_never().is_none());
    drop(reader);
    assert!(writer.abandoned().now_or_never().is_some());
    // The writer is dropped before the stream ends.
    let (writer, mut reader) = begin();
    put(&writer, "1");
    let stream = Arc::clone(writer.stream());
    drop(writer);
    assert_eq!(read(&mut reader).end, Some(ReadOutcome::Lost));
    assert_eq!(StreamReader::resume(&stream, 0).err(), Some(ResumeError::Lost));
}

#[test]
fn an_event_id_is_valid_for_its_own_key_session_and_stream() {
    let fixture = new_fixture(1 << 20, 1 << 16);
    let (writer, mut reader) = fixture.streams.begin(&own_claims(), Some(Bytes::from_static(b"\"x\"")));
    let (other, _reader) = fixture.streams.begin(&own_claims(), None);
    put(&writer, "1");
    let id = read(&mut reader).id.unwrap();
    let event_id = fixture.streams.parse_event_id(&own_claims(), &id).unwrap();
    assert_eq!((event_id.sequence, event_id.request_id.as_deref()), (1, Some(&b"\"x\""[..])));
    assert!(
        writer.stream().matches(&event_id)
            && !other.stream().matches(&event_id)
            && !event_id.is_loss_notice()
    );
    // Another key, another session.
    assert_eq!(fixture.streams.parse_event_id(&claims("BBBBBBBBBBBB", 1), &id), None);
    assert_eq!(fixture.streams.parse_event_id(&claims("AAAAAAAAAAAA", 2), &id), None);
    // Truncated at any offset, or with a byte changed or appended.
    for at in 0..id.len() {
        assert_eq!(fixture.streams.parse_event_id(&own_claims(), &id[..at]), None, "cut at {at}");
        let mut changed = id.to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let read = fixture.streams.parse_event_id(&own_claims(), &changed);
        // A changed digit may give another sequence of the same stream.
        assert!(read.is_none_or(|read| writer.stream().matches(&read)), "changed at {at}");
    }
    for text in ["", ".", "1", "a.0000000000000001", &"A".repeat(10_000), "\u{e4}.0000000000000001"] {
        assert_eq!(fixture.streams.parse_event_id(&own_claims(), text.as_bytes()), None, "{text}");
    }
    assert_eq!(fixture.streams.parse_event_id(&own_claims(), &[&id[..], b"0"].concat()), None);
    assert_eq!(fixture.streams.parse_event_id(&own_claims(), b"\xff.0000000000000001"), None);
    let line = writer.stream().loss_notice_line();
    let over = line.strip_prefix(b"id: ").and_then(|line| line.strip_suffix(b"\n")).unwrap();
    assert!(fixture.streams.parse_event_id(&own_claims(), over).unwrap().is_loss_notice());
    // Another process with the same key can open the id, and sees that the stream is not its own.
    let folder = Folder::new();
    let config = fixture.streams.config().as_ref().clone();
    let later = ResumableStreams::open(
        folder.path(),
        config,
        Arc::clone(&fixture.streams.sealer),
        fixture.streams.memory,
    )
    .unwrap();
    assert!(!later.is_from_this_process(&later.parse_event_id(&own_claims(), &id).unwrap()));
}

/// An event that is longer than a block and than one read, and is read while it is written.
#[test]
fn a_long_event_is_read_in_parts() {
    let fixture = new_fixture(1 << 20, 1 << 20);
    let (writer, mut reader) = fixture.streams.begin(&own_claims(), None);
    put(&writer, "first");
    let id = read(&mut reader).check(&["first"], None);
    let text = "x".repeat(100_000);
    let begun = EventPart { bytes: format!("data: {text}").into(), begins: true, ends: false };
    assert_eq!(writer.push(&begun).now_or_never(), Some(Ok(())));
    assert_eq!(read(&mut reader).data, Vec::<String>::new());
    writer.send_comment();
    assert_eq!(read(&mut reader).data, Vec::<String>::new());
    let ended = EventPart { bytes: Bytes::from_static(b"y\n\n"), begins: false, ends: true };
    assert_eq!(writer.push(&ended).now_or_never(), Some(Ok(())));
    // Resuming replays the whole event.
    let mut again = resume(&fixture, writer.stream(), &id).unwrap();
    let last = read(&mut again).check(&[&format!("{text}y")], None);
    put(&writer, "last");
    read(&mut resume(&fixture, writer.stream(), &last).unwrap()).check(&["last"], None);
    // An incomplete event is lost with its stream.
    assert_eq!(writer.push(&begun).now_or_never(), Some(Ok(())));
    let mut truncated = resume(&fixture, writer.stream(), &last).unwrap();
    read(&mut truncated).check(&["last"], None);
    drop(writer);
    assert_eq!(read(&mut truncated).end, Some(ReadOutcome::Truncated));
}

/// Writes events until the writer would have to wait. Returns how many were written.
fn fill(writer: &StreamWriter, data: &str) -> usize {
    let mut count = 0;
    while writer.push(&part(data)).now_or_never() == Some(Ok(())) {
        count += 1;
        assert!(count < 10_000, "there is no bound");
    }
    count
}

#[test]
fn a_stream_retains_a_bounded_amount() {
    let fixture = new_fixture(1 << 20, 16 * BLOCK_BYTES);
    let data = "x".repeat(1000);
    let (writer, mut reader) = fixture.streams.begin(&own_claims(), None);
    put(&writer, &data);
    let first = read(&mut reader).id.unwrap();
    // No client reads, so the writer stops at the bound.
    let written = fill(&writer, &data);
    assert!((40..64).contains(&written), "{written}");
    assert_eq!(fixture.streams.bytes(), 16 * BLOCK_BYTES);
    // Unread blocks are not released while the client is away.
    drop(reader);
    assert_eq!(fill(&writer, &data), 0);
    let mut again = resume(&fixture, writer.stream(), &first).unwrap();
    assert_eq!(read(&mut again).data.len(), written);
    // Read blocks are released, so a client that reads gets any number of events, but cannot resume from an old one.
    for _ in 0..500 {
        put(&writer, &data);
        assert_eq!(read(&mut again).data.len(), 1);
    }
    assert_eq!(fixture.streams.bytes(), 16 * BLOCK_BYTES);
    assert_eq!(resume(&fixture, writer.stream(), &first).err(), Some(ResumeError::Lost));
}

#[test]
fn streams_give_way_in_order() {
    let fixture = new_fixture(80 * BLOCK_BYTES, 16 * BLOCK_BYTES);
    let data = "x".repeat(1000);
    let filled = || {
        let (writer, mut reader) = fixture.streams.begin(&own_claims(), None);
        put(&writer, &data);
        read(&mut reader);
        fill(&writer, &data);
        (writer, reader)
    };
    let [mut oldest, (left, left_reader), (unread, unread_reader), mut ended, mut read_all] =
        [(); 5].map(|()| filled());
    assert_eq!(fixture.streams.bytes(), 80 * BLOCK_BYTES);
    read(&mut read_all.1);
    let streams = [&unread, &ended.0].map(|writer| Arc::clone(writer.stream()));
    let [unread_stream, ended_stream] = streams;
    ended.0.finish();
    unread.finish();
    drop((left_reader, unread_reader));
    let is_lost =
        |stream: &Arc<ResumableStream>| StreamReader::resume(stream, 0).err() == Some(ResumeError::Lost);
    // First, an ended stream without a reader.
    let more = filled();
    assert!(is_lost(&unread_stream));
    assert!(!left.stream().is_closed());
    // Then the live stream whose client left.
    let more = (more, filled());
    assert!(left.stream().is_closed() && left.abandoned().now_or_never().is_some());
    assert_eq!(left.push(&part("late")).now_or_never(), Some(Err(StreamClosed)));
    // Then read blocks of a live stream.
    let (next, _reader) = fixture.streams.begin(&own_claims(), None);
    put(&next, &data);
    assert!(!read_all.0.stream().is_closed() && !oldest.0.stream().is_closed());
    put(&read_all.0, "on");
    read(&mut read_all.1).check(&["on"], None);
    // Then an ended stream with a reader, which learns of the loss.
    fill(&next, &data);
    assert_eq!(read(&mut ended.1).end, Some(ReadOutcome::Lost));
    assert!(is_lost(&ended_stream) && !oldest.0.stream().is_closed());
    // Then the largest live stream, the oldest of several.
    let (last, _reader) = fixture.streams.begin(&own_claims(), None);
    fill(&last, &data);
    assert_eq!(read(&mut oldest.1).end, Some(ReadOutcome::Lost));
    assert!(fixture.streams.bytes() <= 80 * BLOCK_BYTES);
    drop(more);
}

/// Streams whose blocks are charged to an account of 1 MiB, which calls them when it is short.
fn short_of_memory() -> Fixture {
    let fixture = new_fixture(1 << 20, 1 << 20);
    fixture.streams.memory.set_bytes_max(1 << 20);
    let reclaimer = Arc::downgrade(&fixture.streams);
    fixture.streams.memory.set_reclaimer(reclaimer);
    fixture
}

/// Takes the memory that nothing else has, up to the soft limit.
fn take_the_rest(memory: &'static MemoryAccount) -> Vec<MemoryCharge> {
    let mut charges = Vec::new();
    while !memory.is_short() {
        let mut charge = memory.charge();
        charge.resize_own(CHARGED_BYTES_MIN).expect("there is memory");
        charges.push(charge);
    }
    charges
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_reads_give_way_to_other_messages() {
    let fixture = short_of_memory();
    let (streams, memory) = (&fixture.streams, fixture.streams.memory);
    let data = "x".repeat(20_000);
    let begin = |events: usize| {
        let (writer, mut reader) = streams.begin(&own_claims(), Some(Bytes::from_static(b"7")));
        for _ in 0..events {
            put(&writer, &data);
            read(&mut reader);
        }
        (writer, reader)
    };
    let [(ended, ended_reader), (small, small_reader), (large, large_reader)] = [4, 3, 5].map(begin);
    let (with_reader, mut reader) = begin(4);
    let [ended_stream, with_reader_stream] = [&ended, &with_reader].map(|writer| Arc::clone(writer.stream()));
    ended.finish();
    drop((ended_reader, small_reader, large_reader));
    let gone = || {
        let live = [&small, &large].map(|writer| writer.stream().is_closed());
        (StreamReader::resume(&ended_stream, 0).is_err(), live, with_reader_stream.retained_blocks() < 4)
    };
    assert_eq!(gone(), (false, [false; 2], false));
    let held = take_the_rest(memory);
    // One after the other, as far as others need it.
    let mut needed = Vec::new();
    let mut need = || {
        let mut charge = memory.charge();
        charge.resize(60_000).map(|()| needed.push(charge))
    };
    assert_eq!((need(), gone()), (Ok(()), (true, [false; 2], false)));
    assert_eq!((need(), gone()), (Ok(()), (true, [false, true], false)));
    while need().is_ok() {}
    assert_eq!(gone(), (true, [true; 2], true));
    // Whoever reads goes on.
    assert!(!with_reader.stream().is_closed());
    drop((held, needed));
    put(&with_reader, "on");
    read(&mut reader).check(&["on"], None);
    assert_eq!(large.push(&part("late")).now_or_never(), Some(Err(StreamClosed)));
}

/// A client that stays connected and does not read cannot keep the memory that others need.
#[tokio::test(start_paused = true)]
async fn events_that_a_connected_client_does_not_read_give_way_in_the_end() {
    let fixture = short_of_memory();
    let memory = fixture.streams.memory;
    let data = "x".repeat(20_000);
    let [(live, mut live_reader), (ended, mut ended_reader), (read_late, mut late_reader)] =
        [(); 3].map(|()| {
            let (writer, reader) = fixture.streams.begin(&own_claims(), Some(Bytes::from_static(b"7")));
            (0..5).for_each(|_| put(&writer, &data));
            (writer, reader)
        });
    let streams = [&live, &ended, &read_late].map(|writer| Arc::clone(writer.stream()));
    let lost = || streams.each_ref().map(|stream| stream.state().phase == state::StreamPhase::Lost);
    ended.finish();
    let held = take_the_rest(memory);
    let mut needed = Vec::new();
    let mut need = || {
        let mut charge = memory.charge();
        charge.resize(60_000).map(|()| needed.push(charge)).is_ok()
    };
    assert!(!need(), "they may be about to read");
    sleep(eviction::READER_PATIENCE / 2).await;
    read(&mut late_reader);
    put(&read_late, &data);
    sleep(eviction::READER_PATIENCE / 2).await;
    // What was read, then one after the other, as far as others need it.
    assert_eq!((need(), lost()), (true, [false; 3]));
    assert_eq!((need(), lost()), (true, [false, true, false]));
    while need() {}
    assert_eq!(lost(), [true, true, false]);
    let ends = [&mut live_reader, &mut ended_reader, &mut late_reader].map(|reader| read(reader).end);
    assert_eq!(ends, [Some(ReadOutcome::OutOfMemory), Some(ReadOutcome::Lost), None]);
    drop(held);
}

/// What happens while a stream waits for memory that others hold, and how the write ends.
#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_memory_for_a_bounded_time() {
    type Move = fn(&mut Vec<MemoryCharge>, &mut Option<StreamReader>);
    type Row = (Move, Duration, Result<(), StreamClosed>, Option<ReadOutcome>);
    let rows: [Row; 3] = [
        (|held, _| held.clear(), Duration::from_secs(1), Ok(()), None),
        (|_, reader| drop(reader.take()), Duration::from_secs(1), Err(StreamClosed), None),
        (|_, _| (), writer::MEMORY_TIMEOUT, Err(StreamClosed), Some(ReadOutcome::OutOfMemory)),
    ];
    for (number, (happens, waits, expected, end)) in rows.into_iter().enumerate() {
        let fixture = short_of_memory();
        let (writer, reader) = fixture.streams.begin(&own_claims(), Some(Bytes::from_static(b"7")));
        let mut reader = Some(reader);
        let mut held = take_the_rest(fixture.streams.memory);
        // More than is free of charge. One event fills a block.
        let parts = vec![part(&"x".repeat(BLOCK_BYTES - 96)); 9];
        let begun = Instant::now();
        let write = writer.push_all(parts);
        let happen = async {
            sleep(Duration::from_secs(1)).await;
            happens(&mut held, &mut reader);
        };
        let (written, ()) = tokio::join!(write, happen);
        let waited = begun.elapsed();
        assert_eq!(written, expected, "{number}");
        assert!(waited >= waits && waited < waits + Duration::from_secs(1), "{number}: {waited:?}");
        if let Some(mut reader) = reader {
            assert_eq!(read(&mut reader).end, end, "{number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_loss_depends_on_what_was_read() {
    // How a stream is lost, whether it had ended, whether everything was read, and the outcome.
    type End = fn(&ResumableStream);
    let rows: [(End, bool, bool, ReadOutcome); 4] = [
        (ResumableStream::discard, false, true, ReadOutcome::Lost),
        (ResumableStream::abort, false, true, ReadOutcome::Truncated),
        (ResumableStream::discard, true, true, ReadOutcome::End),
        (ResumableStream::discard, true, false, ReadOutcome::Lost),
    ];
    for (end, is_finished, has_all, told) in rows {
        let fixture = new_fixture(1 << 20, 1 << 20);
        let (writer, mut reader) = fixture.streams.begin(&own_claims(), None);
        put(&writer, "1");
        let stream = Arc::clone(writer.stream());
        if has_all {
            read(&mut reader);
        }
        if is_finished {
            writer.finish();
        }
        end(&stream);
        assert_eq!(read(&mut reader).end, Some(told));
    }
}

/// A waiting writer is woken by whatever makes room or closes the stream.
#[test]
fn a_writer_that_waits_for_room_is_woken() {
    type Move = fn(&mut Option<StreamReader>);
    let rows: [(Move, Option<Result<(), StreamClosed>>); 4] = [
        (|_| (), None),
        (|reader| assert!(!read(reader.as_mut().unwrap()).data.is_empty()), Some(Ok(()))),
        (|reader| reader.as_ref().unwrap().stream().discard(), Some(Err(StreamClosed))),
        // Unread events are retained as long as there is room.
        (|reader| drop(reader.take()), Some(Ok(()))),
    ];
    for (number, (happens, expected)) in rows.into_iter().enumerate() {
        let fixture = new_fixture(1 << 20, 1 << 20);
        let data = "x".repeat(1000);
        let (writer, reader) = fixture.streams.begin(&own_claims(), None);
        fill(&writer, &data);
        let mut reader = Some(reader);
        let woken = Arc::new(WakeFlag::default());
        let waker = Waker::from(Arc::clone(&woken));
        let part = part(&data);
        let mut late = Box::pin(writer.push(&part));
        assert!(late.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{number}");
        happens(&mut reader);
        assert_eq!(woken.0.load(Ordering::Relaxed), expected.is_some(), "{number}");
        assert_eq!(late.as_mut().now_or_never(), expected, "{number}");
    }
}

/// Records whether it was woken.
#[derive(Default)]
struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream without events has no log, unless it answers a call: then all its ids have the same label.
#[test]
fn a_stream_without_events_is_small() {
    let fixture = new_fixture(1 << 20, 1 << 16);
    let label = |reader: &mut StreamReader| {
        let id = read(reader).id.expect("an id was sent");
        String::from_utf8(id.split(|byte| *byte == b'.').next().unwrap().to_vec()).unwrap()
    };
    for (request, is_alike) in [(None, false), (Some(Bytes::from_static(b"7")), true)] {
        let (writer, mut reader) = fixture.streams.begin(&own_claims(), request);
        reader.announce_id();
        let told = label(&mut reader);
        assert_eq!(writer.stream().state().log.is_some(), is_alike);
        put(&writer, "1");
        let first = label(&mut reader);
        put(&writer, "2");
        assert_eq!((first == told, label(&mut reader)), (is_alike, first));
        assert!(writer.stream().state().log.is_some());
    }
}
