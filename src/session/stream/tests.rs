use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::{advance, sleep};

use super::*;
use crate::auth::{KeyId, parse_encryption_key};
use crate::journal::tests::Folder;
use crate::session::SessionKey;
use metamcp_core::frame::{EventReader, EventPart};
use metamcp_core::protocol::{ClientCapabilities, Revision};

const KEPT_FOR: Duration = Duration::from_mins(5);
const ALMOST: Duration = Duration::from_secs(299);

struct Bench {
    _folder: Folder,
    streams: Arc<ResumableStreams>,
}

fn bench(bytes_max: usize, stream_bytes_max: usize) -> Bench {
    let folder = Folder::new();
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let sealer = Arc::new(Sealer::new(&parse_encryption_key(key).unwrap()).unwrap());
    let config =
        StreamsConfig { bytes_max, stream_bytes_max, retention: KEPT_FOR, poll_after: Duration::ZERO };
    let streams = ResumableStreams::open(folder.path(), config, sealer).unwrap();
    Bench { _folder: folder, streams }
}

fn seal(key: &str, session: u8) -> SessionClaims {
    SessionClaims {
        key_id: KeyId::parse(key).unwrap(),
        revision: Revision::V2025_11_25,
        capabilities: ClientCapabilities::from_byte(0),
        created_s: 1,
        key: SessionKey([session; 16]),
        scope: "e/x".into(),
    }
}

fn mine() -> SessionClaims {
    seal("AAAAAAAAAAAA", 1)
}

fn part(data: &str) -> EventPart {
    EventPart { bytes: format!("data: {data}\n\n").into(), begins: true, ends: true }
}

/// Writes an event for which there is room.
#[track_caller]
fn put(writer: &StreamWriter, data: &str) {
    assert_eq!(writer.push(&part(data)).now_or_never(), Some(Ok(())));
}

/// What a client has read: data, and the last id.
#[derive(Debug, Default, PartialEq)]
struct Had {
    data: Vec<String>,
    id: Option<Bytes>,
    end: Option<ReadOutcome>,
}

/// Reads what there is.
fn read(reader: &mut StreamReader) -> Had {
    let (mut had, mut events) = (Had::default(), EventReader::new());
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(next) = reader.poll_next(&mut context) {
        match next {
            ReadOutcome::Events(bytes) => events.push(bytes),
            ReadOutcome::Silence => had.data.push(":".into()),
            end => {
                had.end = Some(end);
                break;
            }
        }
        while let Some(event) = events.next().unwrap() {
            had.id = event.id.or(had.id);
            had.data.push(String::from_utf8(event.data.unwrap().to_vec()).unwrap());
        }
    }
    had
}

impl Had {
    #[track_caller]
    fn check(&self, data: &[&str], end: Option<&ReadOutcome>) -> Bytes {
        assert_eq!(
            (self.data.iter().map(String::as_str).collect::<Vec<_>>(), self.end.as_ref()),
            (data.to_vec(), end)
        );
        self.id.clone().unwrap_or_default()
    }
}

/// Takes the stream up behind that id, by which it is the writer's.
#[track_caller]
fn resume(bench: &Bench, stream: &Arc<ResumableStream>, id: &[u8]) -> Result<StreamReader, ResumeError> {
    let mark = bench.streams.parse_event_id(&mine(), id).expect("the id is one of ours");
    assert!(stream.is(&mark) && bench.streams.is_from_this_process(&mark));
    stream.attach(mark.sequence)
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_comes_and_then_what_comes() {
    let bench = bench(1 << 20, 1 << 16);
    let (writer, mut reader) = bench.streams.begin(&mine(), Some(Bytes::from_static(b"7")));
    put(&writer, "1");
    let first = read(&mut reader).check(&["1"], None);
    put(&writer, "2");
    let second = read(&mut reader).check(&["2"], None);
    put(&writer, "3");
    drop(reader);
    put(&writer, "4");
    let stream = Arc::clone(writer.stream());
    let mut again = resume(&bench, &stream, &first).unwrap();
    read(&mut again).check(&["2", "3", "4"], None);
    // Another takes over; the one before ends.
    let mut third = resume(&bench, &stream, &second).unwrap();
    assert_eq!(read(&mut again).end, Some(ReadOutcome::End));
    drop(again);
    put(&writer, "5");
    let last = read(&mut third).check(&["3", "4", "5"], None);
    assert!(writer.abandoned().now_or_never().is_none());
    writer.comment();
    read(&mut third).check(&[":"], None);
    writer.finish();
    assert_eq!(read(&mut third).end, Some(ReadOutcome::End));
    drop(third);
    read(&mut resume(&bench, &stream, &second).unwrap()).check(&["3", "4", "5"], Some(&ReadOutcome::End));
    assert_eq!(resume(&bench, &stream, &last).err(), Some(ResumeError::Complete));
    // A number that was never given.
    assert_eq!(stream.attach(6).err(), Some(ResumeError::Lost));
    assert_eq!(stream.attach(u64::MAX).err(), Some(ResumeError::Lost));
    // Not for ever.
    advance(ALMOST).await;
    bench.streams.expire();
    assert!(resume(&bench, &stream, &first).is_ok());
    advance(Duration::from_secs(2)).await;
    bench.streams.expire();
    assert_eq!(resume(&bench, &stream, &first).err(), Some(ResumeError::Lost));
    assert_eq!(bench.streams.bytes(), 0);
}

/// What nobody can come back for goes at once, else when nobody did in time.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_client_that_has_gone() {
    let bench = bench(1 << 20, 1 << 16);
    let begin = || bench.streams.begin(&mine(), None);
    // No id was told.
    let (writer, reader) = begin();
    assert!(writer.abandoned().now_or_never().is_none());
    drop(reader);
    assert!(writer.abandoned().now_or_never().is_some());
    // The first thing told was an id.
    let (writer, mut reader) = begin();
    reader.announce_id();
    let id = read(&mut reader).check(&[""], None);
    drop(reader);
    sleep(ALMOST).await;
    assert!(writer.abandoned().now_or_never().is_none());
    // Coming back counts anew.
    drop(resume(&bench, writer.stream(), &id).unwrap());
    sleep(ALMOST).await;
    assert!(writer.abandoned().now_or_never().is_none());
    sleep(Duration::from_secs(2)).await;
    assert!(writer.abandoned().now_or_never().is_some());
    // The call was cancelled.
    let (writer, mut reader) = begin();
    put(&writer, "1");
    read(&mut reader);
    writer.stream().cancel();
    assert!(writer.abandoned().now_or_never().is_none());
    drop(reader);
    assert!(writer.abandoned().now_or_never().is_some());
    // A writer that ends before its stream does.
    let (writer, mut reader) = begin();
    put(&writer, "1");
    let stream = Arc::clone(writer.stream());
    drop(writer);
    assert_eq!(read(&mut reader).end, Some(ReadOutcome::Lost));
    assert_eq!(stream.attach(0).err(), Some(ResumeError::Lost));
}

#[test]
fn an_id_leads_its_own_key_and_session_to_its_own_stream() {
    let bench = bench(1 << 20, 1 << 16);
    let (writer, mut reader) = bench.streams.begin(&mine(), Some(Bytes::from_static(b"\"x\"")));
    let (other, _reader) = bench.streams.begin(&mine(), None);
    put(&writer, "1");
    let id = read(&mut reader).id.unwrap();
    let mark = bench.streams.parse_event_id(&mine(), &id).unwrap();
    assert_eq!((mark.sequence, mark.request.as_deref()), (1, Some(&b"\"x\""[..])));
    assert!(writer.stream().is(&mark) && !other.stream().is(&mark) && !mark.is_over());
    // Another key, another session.
    assert_eq!(bench.streams.parse_event_id(&seal("BBBBBBBBBBBB", 1), &id), None);
    assert_eq!(bench.streams.parse_event_id(&seal("AAAAAAAAAAAA", 2), &id), None);
    // Cut off anywhere, or with a byte changed or put behind it.
    for at in 0..id.len() {
        assert_eq!(bench.streams.parse_event_id(&mine(), &id[..at]), None, "cut at {at}");
        let mut changed = id.to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let read = bench.streams.parse_event_id(&mine(), &changed);
        // The number may be another: of the client's own stream.
        assert!(read.is_none_or(|read| writer.stream().is(&read)), "changed at {at}");
    }
    for text in ["", ".", "1", "a.0000000000000001", &"A".repeat(10_000), "\u{e4}.0000000000000001"] {
        assert_eq!(bench.streams.parse_event_id(&mine(), text.as_bytes()), None, "{text}");
    }
    assert_eq!(bench.streams.parse_event_id(&mine(), &[&id[..], b"0"].concat()), None);
    assert_eq!(bench.streams.parse_event_id(&mine(), b"\xff.0000000000000001"), None);
    let line = writer.stream().loss_notice_line();
    let over = line.strip_prefix(b"id: ").and_then(|line| line.strip_suffix(b"\n")).unwrap();
    assert!(bench.streams.parse_event_id(&mine(), over).unwrap().is_over());
    // Another process with the same key knows whose it is, and that it has no such stream.
    let folder = Folder::new();
    let config = bench.streams.config().clone();
    let later = ResumableStreams::open(folder.path(), config, Arc::clone(&bench.streams.sealer)).unwrap();
    assert!(!later.is_from_this_process(&later.parse_event_id(&mine(), &id).unwrap()));
}

/// An event longer than blocks and pieces, read while it is written.
#[test]
fn a_long_event_passes_in_parts() {
    let bench = bench(1 << 20, 1 << 20);
    let (writer, mut reader) = bench.streams.begin(&mine(), None);
    put(&writer, "first");
    let id = read(&mut reader).check(&["first"], None);
    let text = "x".repeat(100_000);
    let begun = EventPart { bytes: format!("data: {text}").into(), begins: true, ends: false };
    assert_eq!(writer.push(&begun).now_or_never(), Some(Ok(())));
    assert_eq!(read(&mut reader).data, Vec::<String>::new());
    writer.comment();
    assert_eq!(read(&mut reader).data, Vec::<String>::new());
    let ended = EventPart { bytes: Bytes::from_static(b"y\n\n"), begins: false, ends: true };
    assert_eq!(writer.push(&ended).now_or_never(), Some(Ok(())));
    // Once more, all of it.
    let mut again = resume(&bench, writer.stream(), &id).unwrap();
    let last = read(&mut again).check(&[&format!("{text}y")], None);
    put(&writer, "last");
    read(&mut resume(&bench, writer.stream(), &last).unwrap()).check(&["last"], None);
    // One that is not whole is given up with its stream.
    assert_eq!(writer.push(&begun).now_or_never(), Some(Ok(())));
    let mut torn = resume(&bench, writer.stream(), &last).unwrap();
    read(&mut torn).check(&["last"], None);
    drop(writer);
    assert_eq!(read(&mut torn).end, Some(ReadOutcome::Torn));
}

/// Writes until somebody has to wait; gives how many events were written.
fn fill(writer: &StreamWriter, data: &str) -> usize {
    let mut count = 0;
    while writer.push(&part(data)).now_or_never() == Some(Ok(())) {
        count += 1;
        assert!(count < 10_000, "there is no bound");
    }
    count
}

#[test]
fn a_stream_keeps_so_much_and_no_more() {
    let bench = bench(1 << 20, 16 * BLOCK_BYTES);
    let data = "x".repeat(1000);
    let (writer, mut reader) = bench.streams.begin(&mine(), None);
    put(&writer, &data);
    let first = read(&mut reader).id.unwrap();
    // Nobody reads: what is written waits.
    let written = fill(&writer, &data);
    assert!((40..64).contains(&written), "{written}");
    assert_eq!(bench.streams.bytes(), 16 * BLOCK_BYTES);
    // Nor does it go while the client is away.
    drop(reader);
    assert_eq!(fill(&writer, &data), 0);
    let mut again = resume(&bench, writer.stream(), &first).unwrap();
    assert_eq!(read(&mut again).data.len(), written);
    // What was read makes room, so a client that reads gets any number of events; it cannot go back that far.
    for _ in 0..500 {
        put(&writer, &data);
        assert_eq!(read(&mut again).data.len(), 1);
    }
    assert_eq!(bench.streams.bytes(), 16 * BLOCK_BYTES);
    assert_eq!(resume(&bench, writer.stream(), &first).err(), Some(ResumeError::Lost));
}

#[test]
fn who_gives_room_when_there_is_none() {
    let bench = bench(80 * BLOCK_BYTES, 16 * BLOCK_BYTES);
    let data = "x".repeat(1000);
    let filled = || {
        let (writer, mut reader) = bench.streams.begin(&mine(), None);
        put(&writer, &data);
        read(&mut reader);
        fill(&writer, &data);
        (writer, reader)
    };
    let [mut oldest, (left, left_reader), (unread, unread_reader), mut ended, mut read_all] =
        [(); 5].map(|()| filled());
    assert_eq!(bench.streams.bytes(), 80 * BLOCK_BYTES);
    read(&mut read_all.1);
    let streams = [&unread, &ended.0].map(|writer| Arc::clone(writer.stream()));
    let [unread_stream, ended_stream] = streams;
    ended.0.finish();
    unread.finish();
    drop((left_reader, unread_reader));
    let is_lost = |stream: &Arc<ResumableStream>| stream.attach(0).err() == Some(ResumeError::Lost);
    // One that ended and that nobody reads goes first.
    let more = filled();
    assert!(is_lost(&unread_stream));
    assert!(!left.stream().is_over());
    // Then the one whose client has gone.
    let more = (more, filled());
    assert!(left.stream().is_over() && left.abandoned().now_or_never().is_some());
    assert_eq!(left.push(&part("late")).now_or_never(), Some(Err(StreamClosed)));
    // Then what was read already, of one that goes on.
    let (next, _reader) = bench.streams.begin(&mine(), None);
    put(&next, &data);
    assert!(!read_all.0.stream().is_over() && !oldest.0.stream().is_over());
    put(&read_all.0, "on");
    read(&mut read_all.1).check(&["on"], None);
    // Then one that ended while it is read, whose client is told.
    fill(&next, &data);
    assert_eq!(read(&mut ended.1).end, Some(ReadOutcome::Lost));
    assert!(is_lost(&ended_stream) && !oldest.0.stream().is_over());
    // Then the oldest of the biggest.
    let (last, _reader) = bench.streams.begin(&mine(), None);
    fill(&last, &data);
    assert_eq!(read(&mut oldest.1).end, Some(ReadOutcome::Lost));
    assert!(bench.streams.bytes() <= 80 * BLOCK_BYTES);
    drop(more);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_told_by_what_the_client_has() {
    // How a stream ends, whether its client has all there is by then, and what that client is told.
    type End = fn(&ResumableStream);
    let rows: [(End, bool, bool, ReadOutcome); 4] = [
        (ResumableStream::lose, false, true, ReadOutcome::Lost),
        (ResumableStream::abort, false, true, ReadOutcome::Torn),
        (ResumableStream::lose, true, true, ReadOutcome::End),
        (ResumableStream::lose, true, false, ReadOutcome::Lost),
    ];
    for (end, is_finished, has_all, told) in rows {
        let bench = bench(1 << 20, 1 << 20);
        let (writer, mut reader) = bench.streams.begin(&mine(), None);
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

/// Who waits for room is woken by whatever gives it, or shows that there is nobody to write for.
#[test]
fn who_waits_for_room_is_woken() {
    type Move = fn(&mut Option<StreamReader>);
    let rows: [(Move, Option<Result<(), StreamClosed>>); 4] = [
        (|_| (), None),
        (|reader| assert!(!read(reader.as_mut().unwrap()).data.is_empty()), Some(Ok(()))),
        (|reader| reader.as_ref().unwrap().stream().lose(), Some(Err(StreamClosed))),
        // What nobody reads is kept, as far as there is room.
        (|reader| drop(reader.take()), Some(Ok(()))),
    ];
    for (number, (happens, expected)) in rows.into_iter().enumerate() {
        let bench = bench(1 << 20, 1 << 20);
        let data = "x".repeat(1000);
        let (writer, reader) = bench.streams.begin(&mine(), None);
        fill(&writer, &data);
        let mut reader = Some(reader);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let part = part(&data);
        let mut late = Box::pin(writer.push(&part));
        assert!(late.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{number}");
        happens(&mut reader);
        assert_eq!(woken.0.load(Ordering::Relaxed), expected.is_some(), "{number}");
        assert_eq!(late.as_mut().now_or_never(), expected, "{number}");
    }
}

/// Whether it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream of which nothing was written holds nothing of what was; one that answers a call begins all its ids alike.
#[test]
fn a_stream_is_small_as_long_as_nothing_was_written() {
    let bench = bench(1 << 20, 1 << 16);
    let label = |reader: &mut StreamReader| {
        let id = read(reader).id.expect("an id was told");
        String::from_utf8(id.split(|byte| *byte == b'.').next().unwrap().to_vec()).unwrap()
    };
    for (request, is_alike) in [(None, false), (Some(Bytes::from_static(b"7")), true)] {
        let (writer, mut reader) = bench.streams.begin(&mine(), request);
        reader.announce_id();
        let told = label(&mut reader);
        assert_eq!(writer.stream().state().written.is_some(), is_alike);
        put(&writer, "1");
        let first = label(&mut reader);
        put(&writer, "2");
        assert_eq!((first == told, label(&mut reader)), (is_alike, first));
        assert!(writer.stream().state().written.is_some());
    }
}
