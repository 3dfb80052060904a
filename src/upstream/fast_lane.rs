//! HTTP/1.1 with a upstream, as far as answers have a usual shape: a body of a length that was said, or in chunks.
//! What has any other shape is hyper's, from its first byte.
//!
//! Invariant: what is read here, hyper would read in the same way. The parser is the same.

use std::future::{Future as _, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::answer::{BodySource, ResponseHead};
use super::chunked::{Chunked, Malformed};
use super::stream::Stream;
use super::wire::SendError;
use super::{FailureStage, UpstreamError};
use crate::runtime::with_scratch;
use metamcp_core::protocol::header;

/// The beginning of an answer.
pub enum Begun {
    /// Of the usual shape.
    Usual {
        head: ResponseHead,
        body: BodySource,
        /// Whether nothing came behind the answer.
        clean: bool,
    },
    /// Of another; all that came.
    Unusual(Bytes),
}

/// A usual head has a dozen fields.
const FIELDS_MAX: usize = 32;

/// A head that is longer than this is not usual.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Of which more is to come than this is read into a buffer of its own, and not copied from this thread's.
const LARGE_BYTES_MIN: usize = 16 << 10;

/// What is read at once of it: all that a client that does not read makes the gateway hold of an answer, but for what is
/// in the kernel.
const LARGE_READ_BYTES: usize = 64 << 10;

/// Sends a request and waits for the beginning of its answer, which may come before all is written: then the
/// rest of the request is given back as well.
///
/// Not cancel safe: the stream is to be closed.
pub async fn exchange(
    stream: &mut Stream,
    request: Vec<u8>,
) -> Result<(Begun, Option<Unwritten>), SendError> {
    let mut request = Unwritten { bytes: request, written: 0, flushed: false };
    let mut came = BytesMut::new();
    let begun = poll_fn(|cx| {
        let failed = request.write(stream, cx).err();
        if failed.is_some() && request.written == 0 {
            return Poll::Ready(Err(SendError::Unsent));
        }
        // Who takes no more of a request may have answered it before.
        loop {
            match poll_begin(stream, &mut came, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(begun))) => return Poll::Ready(Ok(begun)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SendError::Sent(error))),
            }
        }
        match failed {
            Some(error) => {
                Poll::Ready(Err(SendError::Sent(UpstreamError::new(FailureStage::NoResponse, error))))
            }
            None => Poll::Pending,
        }
    })
    .await?;
    Ok((begun, (!request.flushed).then_some(request)))
}

/// Reads once; `None` while the head is not whole.
fn poll_begin(
    stream: &mut Stream,
    came: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Begun>, UpstreamError>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        let read = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
        read.map_err(|error| UpstreamError::new(FailureStage::NoResponse, error))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(UpstreamError::from_stage(FailureStage::NoResponse)));
        }
        if came.is_empty()
            && let Some(begun) = begin(buffer.filled())
        {
            return Poll::Ready(Ok(Some(begun)));
        }
        came.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(begin(came)))
    })
}

/// A request of which not all was written.
pub struct Unwritten {
    bytes: Vec<u8>,
    written: usize,
    flushed: bool,
}

impl Unwritten {
    /// Writes what can be written now.
    pub fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if !self.flushed
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            flushed?;
            self.flushed = true;
        }
        Ok(())
    }

    /// Writes on while the answer is read; nothing is left of it when it is done, or the upstream takes no more.
    pub fn write_on(rest: &mut Option<Self>, stream: &mut Stream, cx: &mut Context<'_>) {
        if let Some(unwritten) = rest
            && (unwritten.write(stream, cx).is_err() || unwritten.flushed)
        {
            *rest = None;
        }
    }
}

/// More of a body: at most `left` bytes, none at the end of the stream. A large part is read into `buffer`, whose memory is
/// used again when the part before has been passed on.
pub fn poll_more(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    left: u64,
    buffer: &mut BytesMut,
) -> Poll<io::Result<Bytes>> {
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left >= LARGE_BYTES_MIN {
        let room = left.min(LARGE_READ_BYTES);
        buffer.reserve(room);
        ready!(pin!(stream.read_buf(&mut buffer.limit(room))).poll(cx))?;
        return Poll::Ready(Ok(buffer.split().freeze()));
    }
    with_scratch(|scratch| {
        let room = left.min(scratch.len());
        let mut buffer = ReadBuf::new(&mut scratch[..room]);
        Pin::new(stream)
            .poll_read(cx, &mut buffer)
            .map(|read| read.map(|()| Bytes::copy_from_slice(buffer.filled())))
    })
}

/// More of a body in chunks, none at the end of the stream, and whether all that came belongs to it. What came of chunk
/// sizes alone is nothing yet.
pub fn poll_chunks(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    chunked: &mut Chunked,
) -> Poll<Result<(Bytes, bool), UpstreamError>> {
    with_scratch(|scratch| {
        loop {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            read.map_err(|error| UpstreamError::new(FailureStage::BodyIncomplete, error))?;
            let came = buffer.filled();
            if came.is_empty() {
                return Poll::Ready(Ok((Bytes::new(), true)));
            }
            let (data, is_all) = decode(chunked, came)?;
            if !data.is_empty() || chunked.is_ended() {
                return Poll::Ready(Ok((data, is_all)));
            }
        }
    })
}

/// What of it is data, and whether all of it belongs to the body.
fn decode(chunked: &mut Chunked, came: &[u8]) -> Result<(Bytes, bool), UpstreamError> {
    let mut data = BytesMut::with_capacity(came.len());
    let taken = chunked
        .decode(came, &mut data)
        .map_err(|Malformed| UpstreamError::from_stage(FailureStage::BodyIncomplete))?;
    Ok((data.freeze(), taken == came.len()))
}

/// Reads what came; `None` while the head is not whole.
fn begin(came: &[u8]) -> Option<Begun> {
    let unusual = || Begun::Unusual(Bytes::copy_from_slice(came));
    let (usual, rest) = match read_head(came) {
        Ok(None) if came.len() > HEAD_BYTES_MAX => return Some(unusual()),
        Ok(None) => return None,
        Err(Unusual) => return Some(unusual()),
        Ok(Some(usual)) => {
            let rest = &came[usual.head_bytes..];
            (usual, rest)
        }
    };
    let (body, clean) = match usual.framing {
        Framing::Length(length) => {
            let here = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            let first = Bytes::copy_from_slice(&rest[..here]);
            (BodySource::of_length(first, length - here as u64), here == rest.len())
        }
        Framing::Chunked => {
            let mut chunked = Box::new(Chunked::default());
            // What is malformed hyper would say so of, when it comes to it.
            let Ok((first, is_all)) = decode(&mut chunked, rest) else { return Some(unusual()) };
            (BodySource::in_chunks(first, chunked), is_all)
        }
    };
    Some(Begun::Usual { head: usual.head, body, clean })
}

struct Usual {
    head: ResponseHead,
    head_bytes: usize,
    framing: Framing,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// A head of another shape than the usual.
#[derive(Debug, PartialEq, Eq)]
struct Unusual;

fn read_head(came: &[u8]) -> Result<Option<Usual>, Unusual> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, came, &mut fields)
        .map_err(|_| Unusual)?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    // These have no body, or are not the last answer, or end the connection.
    let status = response.code.filter(|code| (200..600).contains(code) && !matches!(code, 204 | 205 | 304));
    if response.version != Some(1) || head_bytes > HEAD_BYTES_MAX {
        return Err(Unusual);
    }
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Unusual)?;
    let mut head = ResponseHead { status, content_type: None, session_id: None, is_encoded: false };
    let mut framing = None;
    let mut encoding = None;
    for field in response.headers.iter() {
        let name = field.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            10 if is("connection") && !field.value.eq_ignore_ascii_case(b"keep-alive") => {
                return Err(Unusual);
            }
            12 if is("content-type") => once(&mut head.content_type, || content_type(field.value))?,
            14 if is("content-length") => {
                once(&mut framing, || header::parse_content_length(field.value).map(Framing::Length))?;
            }
            14 if is("mcp-session-id") => {
                once(&mut head.session_id, || HeaderValue::from_bytes(field.value).ok())?;
            }
            16 if is("content-encoding") => once(&mut encoding, || Some(field.value))?,
            7 if is("upgrade") => return Err(Unusual),
            17 if is("transfer-encoding") => {
                let is_chunked = field.value.eq_ignore_ascii_case(b"chunked");
                once(&mut framing, || is_chunked.then_some(Framing::Chunked))?;
            }
            _ => {}
        }
    }
    head.is_encoded = encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
    let framing = framing.ok_or(Unusual)?;
    Ok(Some(Usual { head, head_bytes, framing }))
}

/// A field that stands once and has a value of its kind.
fn once<T>(place: &mut Option<T>, value: impl FnOnce() -> Option<T>) -> Result<(), Unusual> {
    if place.is_some() {
        return Err(Unusual);
    }
    *place = Some(value().ok_or(Unusual)?);
    Ok(())
}

/// Nearly every answer has this one.
fn content_type(value: &[u8]) -> Option<HeaderValue> {
    if value == header::JSON.as_bytes() {
        return Some(HeaderValue::from_static(header::JSON));
    }
    HeaderValue::from_bytes(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, how the body ends, and whether it is packed; or whether more is to come.
    type Expected = Result<Option<(u16, Framing, bool)>, Unusual>;

    #[track_caller]
    fn check(came: &[u8], expected: &Expected) {
        let read = read_head(came);
        let got = read.map(|read| {
            read.map(|Usual { head, head_bytes, framing }| {
                assert_eq!(&came[head_bytes - 4..head_bytes], b"\r\n\r\n");
                (head.status.as_u16(), framing, head.is_encoded)
            })
        });
        assert_eq!(got, *expected, "{}", came.escape_ascii());
    }

    fn head(status: &str, lines: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\n{lines}\r\n").into()
    }

    #[test]
    fn usual_heads() {
        use Framing::Length;

        let usual = head("200 OK", "Content-Type: application/json\r\nContent-Length: 12\r\n");
        check(&usual, &Ok(Some((200, Length(12), false))));
        for at in 0..usual.len() {
            check(&usual[..at], &Ok(None));
        }
        let rows = [
            ("200", "content-length:7\r\n", (200, Length(7), false)),
            ("202 Accepted", "CONTENT-LENGTH:\t0\t\r\nConnection: keep-alive\r\n", (202, Length(0), false)),
            ("404 Not Found", "Content-Length: 007\r\nX-Any: \u{e9}\r\n", (404, Length(7), false)),
            ("599 x", "Content-Length: 999999999999999\r\n", (599, Length(999_999_999_999_999), false)),
            ("200 OK", "Content-Encoding: Identity\r\nContent-Length: 1\r\n", (200, Length(1), false)),
            ("200 OK", "Content-Encoding: gzip\r\nContent-Length: 1\r\n", (200, Length(1), true)),
            ("200 OK", "Transfer-Encoding: Chunked\r\n", (200, Framing::Chunked, false)),
        ];
        for (status, lines, expected) in rows {
            check(&head(status, lines), &Ok(Some(expected)));
        }
    }

    #[test]
    fn what_is_for_hyper() {
        for status in
            ["100 Continue", "101 Switching", "199 x", "204 No Content", "205 x", "304 x", "600 x", "2x0"]
        {
            check(&head(status, "Content-Length: 0\r\n"), &Err(Unusual));
        }
        for lines in [
            "",
            "Content-Length:\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 1\r\n",
            "Content-Length: 1000000000000000\r\n",
            "Content-Length: 1\r\ncontent-length: 1\r\n",
            "Content-Length : 1\r\n",
            "Content-Length: 1\r\n folded\r\n",
            "Content-Length: 1\r\nX: \u{0}\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\ntransfer-encoding: identity\r\n",
            "Content-Length: 1\r\nConnection: close\r\n",
            "Content-Length: 1\r\nConnection: keep-alive, close\r\n",
            "Content-Length: 1\r\nUpgrade: h2c\r\n",
            "Content-Length: 1\r\nContent-Type: a\r\nContent-Type: a\r\n",
            "Content-Length: 1\r\nMcp-Session-Id: a\r\nmcp-session-id: b\r\n",
            "Content-Length: 1\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        ] {
            check(&head("200 OK", lines), &Err(Unusual));
        }
        for version in ["HTTP/1.0", "HTTP/2.0", "http/1.1", "ICY"] {
            check(format!("{version} 200 OK\r\nContent-Length: 1\r\n\r\n").as_bytes(), &Err(Unusual));
        }
        let many = "X: x\r\n".repeat(FIELDS_MAX) + "Content-Length: 1\r\n";
        check(&head("200 OK", &many), &Err(Unusual));
        let long = format!("Content-Length: 1\r\nX: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
        check(&head("200 OK", &long), &Err(Unusual));
        assert!(matches!(begin(&head("200 OK", &long)[..=HEAD_BYTES_MAX]), Some(Begun::Unusual(_))));
    }

    #[test]
    fn what_comes_behind_a_head() {
        #[track_caller]
        fn check(lines: &str, body: &str, expected: (&str, Option<u64>, bool)) {
            let came = [&head("200 OK", lines), body.as_bytes()].concat();
            let Some(Begun::Usual { body: begun, clean, .. }) = begin(&came) else {
                panic!("{body:?} is usual")
            };
            let (first, left) = match begun {
                BodySource::Ended => (Bytes::new(), Some(0)),
                BodySource::Last(first) => (first, Some(0)),
                BodySource::Begun(first, left, _) => (first, Some(left)),
                BodySource::Chunks(first, _) => (first, None),
                BodySource::General(_) | BodySource::Told(_) => panic!("{body:?} is read here"),
            };
            assert_eq!(
                (&first[..], left, clean),
                (expected.0.as_bytes(), expected.1, expected.2),
                "{body:?}"
            );
        }
        let length = "Content-Length: 4\r\n";
        check(length, "", ("", Some(4), true));
        check(length, "abc", ("abc", Some(1), true));
        check(length, "abcd", ("abcd", Some(0), true));
        check(length, "abcdX", ("abcd", Some(0), false));
        check(length, "abcdHTTP/1.1 200 OK\r\n", ("abcd", Some(0), false));
        let chunked = "Transfer-Encoding: chunked\r\n";
        check(chunked, "", ("", None, true));
        check(chunked, "4\r\nab", ("ab", None, true));
        check(chunked, "2\r\nab\r\n2\r\ncd\r\n", ("abcd", None, true));
        check(chunked, "2\r\nab\r\n0\r\n\r\n", ("ab", Some(0), true));
        check(chunked, "0\r\n\r\n", ("", Some(0), true));
        check(chunked, "2\r\nab\r\n0\r\n\r\nX", ("ab", Some(0), false));
        let malformed = [&head("200 OK", chunked), b"x\r\n".as_slice()].concat();
        assert!(matches!(begin(&malformed), Some(Begun::Unusual(_))));
    }
}
