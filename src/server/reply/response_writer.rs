//! Writes a response to an HTTP/1.1 connection (RFC 9112, sections 4 to 7).

use std::io::{IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use http::StatusCode;
use http::header::CONNECTION;
use http_body::Body as _;

use super::body::ResponseBody;
use super::reply::Reply;
use crate::server::http1::activity::{ConnectionActivity, ConnectionOrder};
use crate::server::http1::date::Date;
use crate::server::http1::socket::ResponseSink;
use metamcp_core::base::write_decimal;
use metamcp_store::auth::Identity;

/// A response that is being written.
pub struct ResponseWriter {
    body: ResponseBody,
    framing: Framing,
    /// The head, chunk sizes and small pieces of the body to write.
    out: Vec<u8>,
    written: usize,
    /// A large piece of the body, written after `out` without copying it.
    piece: Bytes,
    /// Whether nothing more of the body is taken.
    ended: bool,
    /// Whether the body failed. The connection then closes without the end of the response, behind all that came before.
    failed: bool,
    /// Whether the connection closes after the response.
    closes: bool,
}

/// The rest of an event stream whose received events are all written.
pub struct KeepAliveTimer {
    body: ResponseBody,
    closes: bool,
}

/// How the end of the body is marked.
#[derive(Clone, Copy)]
enum Framing {
    /// The number of bytes left.
    Length(u64),
    Chunked,
}

/// Ready pieces are gathered up to this size, so that many small events cost one write.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// Larger pieces are not copied, since that costs more than writing a second slice. A chunk is copied as long
/// as it can be gathered: its line end would otherwise need a write of its own, which costs more.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// If at least this many bytes follow, a write may be delayed for them. With fewer, a slow server would delay
/// a part of the response by up to 200 ms (tcp(7), `TCP_CORK`).
const MORE_BYTES_MIN: u64 = 16 << 10;

/// The usual size of a response head.
const HEAD_BYTES_USUAL: usize = 256;

impl ResponseWriter {
    /// Starts writing a response. `is_last`: whether the connection ends with it.
    pub fn new(reply: Reply, date: &Date, is_last: bool) -> Self {
        let Reply { status, content_type, headers, body } = reply;
        let length = body.size_hint().exact();
        let here = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(GATHERED_BYTES_MAX);
        let mut out = Vec::with_capacity(HEAD_BYTES_USUAL + here.min(PIECE_BYTES_MIN));
        if status == StatusCode::OK {
            out.put_slice(b"HTTP/1.1 200 OK\r\n");
        } else {
            let reason = status.canonical_reason().unwrap_or_default();
            // Writing to a Vec cannot fail.
            let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_str());
        }
        if let Some(value) = content_type {
            out.put_slice(b"content-type: ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
        for (name, value) in headers.iter().flat_map(|headers| headers.iter()) {
            out.put_slice(name.as_str().as_bytes());
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
        let mut closes = headers.is_some_and(|headers| headers.contains_key(CONNECTION));
        if !closes && is_last {
            closes = true;
            out.put_slice(b"connection: close\r\n");
        }
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        match framing {
            Framing::Length(length) => {
                out.put_slice(b"content-length: ");
                write_decimal(&mut out, length);
                out.put_slice(b"\r\n");
            }
            Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        }
        out.put_slice(b"date: ");
        out.put_slice(date);
        out.put_slice(b"\r\n\r\n");
        let ended = length == Some(0);
        let body = if ended { ResponseBody::empty() } else { body };
        Self { body, framing, out, written: 0, piece: Bytes::new(), ended, failed: false, closes }
    }

    /// Whether it is an event stream.
    pub fn is_stream(&self) -> bool {
        self.body.is_stream()
    }

    /// Whose credential the rest of the body needs, if it ends with it.
    pub fn owner(&self) -> Option<&Identity> {
        self.body.owner()
    }

    /// Whether the body's sender ends it with a last event when the credential ends.
    pub fn ends_with_credential(&self) -> bool {
        self.body.ends_with_credential()
    }

    /// Whether everything received is written, and an unknown amount follows.
    pub fn is_silent(&self) -> bool {
        !self.ended
            && self.out.is_empty()
            && self.piece.is_empty()
            && matches!(self.framing, Framing::Chunked)
    }

    /// Reduces a silent response to less memory. Unwritten bytes would be lost.
    pub fn keep_alive_timer(self) -> KeepAliveTimer {
        KeepAliveTimer { body: self.body, closes: self.closes }
    }

    /// Writes what is available. At the end, returns whether another request may follow.
    pub fn poll(
        &mut self,
        socket: &mut impl ResponseSink,
        activity: &ConnectionActivity,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        loop {
            self.gather(cx);
            if self.written == self.out.len() && self.piece.is_empty() {
                // A silent stream holds no buffer.
                self.out = Vec::new();
                self.written = 0;
                let flushed = Pin::new(&mut *socket).poll_flush(cx);
                // Over TLS a small response is buffered by the session, and waits here for the client to
                // read.
                activity.note_write(flushed.is_ready());
                return match flushed {
                    Poll::Ready(Err(_)) => Poll::Ready(false),
                    Poll::Ready(Ok(())) if self.failed => Poll::Ready(false),
                    Poll::Ready(Ok(())) if self.ended => Poll::Ready(
                        !self.closes && activity.current_order(cx.waker()) == ConnectionOrder::Continue,
                    ),
                    _ => Poll::Pending,
                };
            }
            let slices = [&self.out[self.written..], &self.piece[..]].map(IoSlice::new);
            let polled = match &slices {
                both if self.has_more() => socket.poll_write_on(cx, both),
                [only, none] | [none, only] if none.is_empty() => Pin::new(&mut *socket).poll_write(cx, only),
                both => Pin::new(&mut *socket).poll_write_vectored(cx, both),
            };
            activity.note_write(polled.is_ready());
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(count)) => {
                    activity.note_progress();
                    self.advance(count);
                }
            }
        }
    }

    /// Takes the available part of the body.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.piece.is_empty() && self.out.len() < GATHERED_BYTES_MAX {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.end(),
                Poll::Ready(Some(Err(_broken))) => self.fail(),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    if !bytes.is_empty() && !self.append(bytes) {
                        self.fail();
                    } else if self.body.is_end_stream() {
                        self.end();
                    }
                }
            }
        }
    }

    /// Whether much of a body of known length follows.
    fn has_more(&self) -> bool {
        matches!(self.framing, Framing::Length(left) if left >= MORE_BYTES_MIN)
    }

    /// Appends a piece. Returns false if it exceeds the announced length.
    fn append(&mut self, bytes: Bytes) -> bool {
        let is_chunked = match &mut self.framing {
            Framing::Length(left) => {
                let Some(less) = left.checked_sub(bytes.len() as u64) else { return false };
                *left = less;
                false
            }
            Framing::Chunked => {
                let _ = write!(self.out, "{:x}\r\n", bytes.len());
                true
            }
        };
        let is_gathered = is_chunked && self.out.len() + bytes.len() < GATHERED_BYTES_MAX;
        if bytes.len() >= PIECE_BYTES_MIN && !is_gathered {
            self.piece = bytes;
            return true;
        }
        self.out.put_slice(&bytes);
        if is_chunked {
            self.out.put_slice(b"\r\n");
        }
        true
    }

    /// Ends the body. If it is shorter than announced, it has failed.
    fn end(&mut self) {
        self.ended = true;
        // Release what the request holds before the client can know that it was answered.
        self.body = ResponseBody::empty();
        match self.framing {
            Framing::Length(left) => self.failed = left > 0,
            Framing::Chunked => {
                // After a piece, its own line end comes first. Both are written when the piece is.
                if self.piece.is_empty() {
                    self.out.put_slice(b"0\r\n\r\n");
                }
            }
        }
    }

    /// Takes no more of a body that failed.
    #[cold]
    fn fail(&mut self) {
        (self.ended, self.failed) = (true, true);
        self.body = ResponseBody::empty();
    }

    fn advance(&mut self, mut count: usize) {
        let out = count.min(self.out.len() - self.written);
        self.written += out;
        count -= out;
        if self.piece.is_empty() {
            if self.written == self.out.len() {
                // This makes room for more. The available part of the body does not wake the task a second
                // time.
                self.out.clear();
                self.written = 0;
            }
            return;
        }
        self.piece.advance(count);
        if self.piece.is_empty() {
            self.out.clear();
            self.written = 0;
            self.piece = Bytes::new();
            if matches!(self.framing, Framing::Chunked) {
                let is_last = self.ended && !self.failed;
                self.out.put_slice(if is_last { b"\r\n0\r\n\r\n".as_slice() } else { b"\r\n" });
            }
        }
    }
}

impl Default for KeepAliveTimer {
    fn default() -> Self {
        Self { body: ResponseBody::empty(), closes: true }
    }
}

impl From<KeepAliveTimer> for ResponseWriter {
    fn from(KeepAliveTimer { body, closes }: KeepAliveTimer) -> Self {
        let framing = Framing::Chunked;
        let (out, piece) = (Vec::new(), Bytes::new());
        Self { body, framing, out, written: 0, piece, ended: false, failed: false, closes }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::Waker;

    use tokio::io::AsyncWrite;

    use super::super::body::{BodyError, BodySource};
    use super::*;
    use crate::telemetry::metrics::Operation;

    /// Sizes around each bound.
    const SIZES: [usize; 6] =
        [0, 1, PIECE_BYTES_MIN - 1, PIECE_BYTES_MIN, GATHERED_BYTES_MAX, GATHERED_BYTES_MAX + 1];

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

    fn writing(pieces: &[Bytes; 3], framing: Framing) -> ResponseWriter {
        ResponseWriter {
            body: ResponseBody::pieces(pieces.clone()),
            framing,
            out: HEAD.to_vec(),
            written: 0,
            piece: Bytes::new(),
            ended: false,
            failed: false,
            closes: false,
        }
    }

    /// The bytes that a socket receives if it takes `at_a_time` bytes per write; `None` if the body failed.
    fn take_all(writing: ResponseWriter, at_a_time: usize) -> Option<Vec<u8>> {
        let (taken, failed) = take(writing, at_a_time);
        (!failed).then_some(taken)
    }

    /// The bytes that a socket receives if it takes `at_a_time` bytes per write, and whether the body failed.
    fn take(mut writing: ResponseWriter, at_a_time: usize) -> (Vec<u8>, bool) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        loop {
            writing.gather(&mut cx);
            let waiting = [&writing.out[writing.written..], &writing.piece].concat();
            if waiting.is_empty() {
                assert!(writing.ended, "nothing to be written, and no end");
                return (taken, writing.failed);
            }
            let count = waiting.len().min(at_a_time);
            taken.extend_from_slice(&waiting[..count]);
            writing.advance(count);
        }
    }

    #[track_caller]
    fn check(pieces: &[Bytes; 3], at_a_time: usize) {
        let body = pieces.concat();
        let length = Framing::Length(body.len() as u64);
        let whole = take_all(writing(pieces, length), at_a_time).expect("it is whole");
        assert!(whole == [HEAD, &body].concat(), "{at_a_time} bytes at a time");

        let mut chunked = HEAD.to_vec();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let whole = take_all(writing(pieces, Framing::Chunked), at_a_time).expect("it is whole");
        assert!(whole == chunked, "chunked, {at_a_time} bytes at a time");
    }

    #[test]
    fn partial_writes_give_the_same_bytes() {
        for first in SIZES {
            for second in SIZES {
                let piece = |byte: u8, bytes: usize| Bytes::from(vec![byte; bytes]);
                let pieces = [piece(b'a', first), piece(b'b', second), piece(b'c', 5)];
                for at_a_time in [7, 1000, PIECE_BYTES_MIN, PIECE_BYTES_MIN + 29, usize::MAX] {
                    check(&pieces, at_a_time);
                }
            }
        }
        let small = [b"one".as_slice(), b"", b"three"].map(Bytes::from_static);
        (1..40).for_each(|at_a_time| check(&small, at_a_time));
        let big = [1, PIECE_BYTES_MIN, 1].map(|bytes| Bytes::from(vec![b'x'; bytes]));
        check(&big, 1);
    }

    #[test]
    fn only_a_long_known_rest_is_announced() {
        let check = |left: u64, expected: bool| {
            assert_eq!(
                writing(&[const { Bytes::new() }; 3], Framing::Length(left)).has_more(),
                expected,
                "{left}"
            );
        };
        check(0, false);
        check(MORE_BYTES_MIN - 1, false);
        check(MORE_BYTES_MIN, true);
        assert!(!writing(&[const { Bytes::new() }; 3], Framing::Chunked).has_more());
    }

    /// A sink that takes `at_a_time` bytes per write, and records for each write whether more was announced.
    struct Noting {
        at_a_time: usize,
        taken: Vec<u8>,
        waits: Vec<bool>,
    }

    impl Noting {
        fn take(&mut self, slices: &[IoSlice<'_>], waits: bool) -> Poll<io::Result<usize>> {
            let before = self.taken.len();
            for slice in slices {
                self.taken.extend_from_slice(slice);
            }
            self.taken.truncate(before.saturating_add(self.at_a_time));
            self.waits.push(waits);
            Poll::Ready(Ok(self.taken.len() - before))
        }
    }

    impl ResponseSink for Noting {
        fn poll_write_on(&mut self, _: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.take(slices, true)
        }
    }

    impl AsyncWrite for Noting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.take(&[IoSlice::new(bytes)], false)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.take(slices, false)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Checks how many writes announce more and how many do not, for a response in these pieces.
    #[track_caller]
    fn check_waits(sizes: [usize; 3], at_a_time: usize, expected: (usize, usize)) {
        let pieces = sizes.map(|bytes| Bytes::from(vec![b'x'; bytes]));
        let body = pieces.concat();
        let mut writing = writing(&pieces, Framing::Length(body.len() as u64));
        let mut socket = Noting { at_a_time, taken: Vec::new(), waits: Vec::new() };
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(writing.poll(&mut socket, &ConnectionActivity::new(), &mut cx), Poll::Ready(true));
        assert!(socket.taken == [HEAD, &body].concat(), "{sizes:?} {at_a_time}");
        let waits = socket.waits.iter().take_while(|waits| **waits).count();
        let sends = socket.waits[waits..].iter().take_while(|waits| !**waits).count();
        assert_eq!((waits, sends), expected, "{sizes:?} {at_a_time}");
        assert_eq!(waits + sends, socket.waits.len(), "{sizes:?} {at_a_time}: one of the last waits");
    }

    #[test]
    fn the_last_write_announces_no_more() {
        let (half, more) = (512 << 10, usize::try_from(MORE_BYTES_MIN).expect("it is small"));
        check_waits([half, half, 0], usize::MAX, (1, 1));
        check_waits([half, half - 1, 1], usize::MAX, (1, 2));
        check_waits([half, half, 0], half / 2 + HEAD.len(), (2, 2));
        check_waits([half, more, 0], usize::MAX, (1, 1));
        check_waits([half, more - 1, 0], usize::MAX, (0, 2));
        check_waits([half, 0, 0], half, (0, 2));
        check_waits([5, 6, 7], 4, (0, 10));
    }

    #[test]
    fn small_pieces_are_one_write() {
        let check = |sizes: [usize; 3], expected: usize| {
            let mut writing = writing(&sizes.map(|bytes| Bytes::from(vec![b'x'; bytes])), Framing::Chunked);
            let mut socket = Noting { at_a_time: usize::MAX, taken: Vec::new(), waits: Vec::new() };
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(writing.poll(&mut socket, &ConnectionActivity::new(), &mut cx), Poll::Ready(true));
            assert_eq!(socket.waits, vec![false; expected], "{sizes:?}");
        };
        check([1, 2, 3], 1);
        check([PIECE_BYTES_MIN, 0, 0], 1);
        check([PIECE_BYTES_MIN, PIECE_BYTES_MIN, 1], 1);
        check([GATHERED_BYTES_MAX - 100, 0, 0], 1);
        // The end of the body follows a piece that is not copied.
        check([GATHERED_BYTES_MAX, 0, 0], 2);
    }

    #[test]
    fn a_full_buffer_is_written_before_more_is_added() {
        for at_a_time in [1000, usize::MAX] {
            let pieces = [b"one".as_slice(), b"two", b"three"].map(Bytes::from_static);
            let mut full = writing(&pieces, Framing::Chunked);
            full.out.resize(GATHERED_BYTES_MAX, b'x');
            let whole = take_all(full, at_a_time).expect("it is whole");
            assert!(whole.ends_with(b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"));
        }
    }

    /// Gives pieces, and then fails.
    struct Breaking(Vec<Bytes>);

    impl BodySource for Breaking {
        fn poll_bytes(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            let next = self.0.pop().ok_or_else(|| BodyError::from(io::Error::other("broken")));
            Poll::Ready(Some(next))
        }

        fn is_ended(&self) -> bool {
            false
        }

        fn length(&self) -> Option<u64> {
            None
        }

        fn is_event_stream(&self) -> bool {
            false
        }

        fn owner(&self) -> Option<&Identity> {
            None
        }

        fn count(&mut self, _: Operation) {}
    }

    #[test]
    fn what_came_before_a_body_fails_is_written() {
        for size in SIZES.into_iter().filter(|size| *size > 0) {
            let (first, second) = (Bytes::from(vec![b'x'; size]), Bytes::from_static(b"two"));
            let whole = [HEAD, format!("{size:x}\r\n").as_bytes(), &first, b"\r\n3\r\ntwo\r\n"].concat();
            for at_a_time in [1, 100, 1 << 20] {
                let source = Breaking(vec![second.clone(), first.clone()]);
                let body = ResponseBody::source(Box::new(source));
                let pieces = [Bytes::new(), Bytes::new(), Bytes::new()];
                let writing = ResponseWriter { body, ..writing(&pieces, Framing::Chunked) };
                assert!(take(writing, at_a_time) == (whole.clone(), true), "{size}, {at_a_time} at a time");
            }
        }
    }

    #[test]
    fn a_body_of_the_wrong_length_fails() {
        let pieces = [b"one".as_slice(), b"two", b"three"].map(Bytes::from_static);
        for length in [0, 1, 10, 12, 1 << 40] {
            assert_eq!(take_all(writing(&pieces, Framing::Length(length)), 7), None, "{length} said");
        }
        assert!(take_all(writing(&pieces, Framing::Length(11)), 7).is_some());
    }
}
