//! HTTP/1.1 with a server, for responses of the common shape: a body with a Content-Length, or chunked. hyper
//! reads any other response from its first byte.
//!
//! Invariant: hyper would read what is read here in the same way. Both use the same parser. What `HeadCheck` refuses is
//! left to hyper.

use std::future::{Future as _, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, StatusCode};
use memchr::memchr_iter;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::body_source::BodySource;
use super::chunked::{ChunkedDecoder, MalformedChunk};
use super::pending_write::PendingWrite;
use super::response_head::ResponseHead;
use super::stream::Stream;
use super::tls_alert::stage_before_response;
use crate::error::{FailureStage, SendError, UpstreamError};
use crate::io::with_scratch;
use metamcp_core::http1::is_misspelt_framing_field;
use metamcp_core::protocol::header;

/// The beginning of a response.
pub enum ResponseStart {
    Parsed {
        head: ResponseHead,
        body: BodySource,
        /// Whether no byte came after the response.
        is_clean: bool,
    },
    /// A response that hyper is to read, with all bytes received of it.
    Unsupported(Bytes),
}

/// A common head has a dozen fields.
const FIELDS_MAX: usize = 32;

/// Longer heads are hyper's.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// A body with at least this much to come is read into a buffer of its own, rather than copied from this
/// thread's scratch buffer.
const LARGE_BYTES_MIN: usize = 16 << 10;

/// Read at once of such a body. This is all that the gateway holds of a response whose client does not read,
/// except for what is in the kernel.
const LARGE_READ_BYTES: usize = 64 << 10;

/// Sends a request and waits for the beginning of its response. When that comes before the request is written
/// completely, the rest of the request is returned with it.
///
/// Not cancel safe: the stream must be closed.
pub async fn exchange(
    stream: &mut Stream,
    request: Vec<u8>,
) -> Result<(ResponseStart, Option<PendingWrite>), SendError> {
    let mut request = PendingWrite::new(request);
    let mut received = BytesMut::new();
    let start = poll_fn(|cx| {
        let write_error = request.write(stream, cx).err();
        if write_error.is_some() && request.is_untouched() {
            return Poll::Ready(Err(SendError::NotSent));
        }
        // A server that takes no more of a request may have answered it before.
        loop {
            match poll_start(stream, &mut received, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(start))) => return Poll::Ready(Ok(start)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SendError::Failed(error))),
            }
        }
        match write_error {
            Some(error) => {
                Poll::Ready(Err(SendError::Failed(UpstreamError::new(FailureStage::NoResponse, error))))
            }
            None => Poll::Pending,
        }
    })
    .await?;
    Ok((start, request.into_rest()))
}

/// Reads once. `None` while the head is incomplete.
fn poll_start(
    stream: &mut Stream,
    received: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<ResponseStart>, UpstreamError>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        let read = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
        if let Err(error) = read {
            let is_first = received.is_empty();
            let stage = if is_first { stage_before_response(&error) } else { FailureStage::NoResponse };
            return Poll::Ready(Err(UpstreamError::new(stage, error)));
        }
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(UpstreamError::from_stage(FailureStage::NoResponse)));
        }
        if received.is_empty()
            && let Some(start) = parse_start(buffer.filled())
        {
            return Poll::Ready(Ok(Some(start)));
        }
        received.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(parse_start(received)))
    })
}

/// Reads more of a body with a Content-Length: at most `left` bytes, none at the end of the stream. A large
/// part is read into `buffer`, whose memory is reused once the part before was passed on.
pub fn poll_sized_body(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    left: u64,
    buffer: &mut BytesMut,
) -> Poll<io::Result<Bytes>> {
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left >= LARGE_BYTES_MIN {
        let limit = left.min(LARGE_READ_BYTES);
        buffer.reserve(limit);
        ready!(pin!(stream.read_buf(&mut buffer.limit(limit))).poll(cx))?;
        return Poll::Ready(Ok(buffer.split().freeze()));
    }
    with_scratch(|scratch| {
        let limit = left.min(scratch.len());
        let mut buffer = ReadBuf::new(&mut scratch[..limit]);
        Pin::new(stream)
            .poll_read(cx, &mut buffer)
            .map(|read| read.map(|()| Bytes::copy_from_slice(buffer.filled())))
    })
}

/// Reads more of a chunked body, none at the end of the stream, and whether all bytes received belong to the
/// body. Reads on while nothing but chunk headers arrives.
pub fn poll_chunked_body(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    decoder: &mut ChunkedDecoder,
) -> Poll<Result<(Bytes, bool), UpstreamError>> {
    with_scratch(|scratch| {
        loop {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            read.map_err(|error| UpstreamError::new(FailureStage::BodyIncomplete, error))?;
            let received = buffer.filled();
            if received.is_empty() {
                return Poll::Ready(Ok((Bytes::new(), true)));
            }
            let (data, is_all_body) = decode(decoder, received)?;
            if !data.is_empty() || decoder.is_ended() {
                return Poll::Ready(Ok((data, is_all_body)));
            }
        }
    })
}

/// Returns the data in `received`, and whether all of it belongs to the body.
fn decode(decoder: &mut ChunkedDecoder, received: &[u8]) -> Result<(Bytes, bool), UpstreamError> {
    let mut data = BytesMut::with_capacity(received.len());
    let decoded = decoder
        .decode(received, &mut data)
        .map_err(|MalformedChunk| UpstreamError::from_stage(FailureStage::BodyIncomplete))?;
    Ok((data.freeze(), decoded == received.len()))
}

/// Parses what was received so far. `None` while the head is incomplete.
fn parse_start(received: &[u8]) -> Option<ResponseStart> {
    let unsupported = || ResponseStart::Unsupported(Bytes::copy_from_slice(received));
    let (parsed, rest) = match parse_head(received) {
        Ok(None) if received.len() > HEAD_BYTES_MAX => return Some(unsupported()),
        Ok(None) => return None,
        Err(UnsupportedHead) => return Some(unsupported()),
        Ok(Some(parsed)) => {
            let rest = &received[parsed.head_bytes..];
            (parsed, rest)
        }
    };
    let (body, is_clean) = match parsed.framing {
        BodyFraming::Length(length) => {
            let available = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            let first = Bytes::copy_from_slice(&rest[..available]);
            (BodySource::from_length(first, length - available as u64), available == rest.len())
        }
        BodyFraming::Chunked => {
            let mut decoder = Box::new(ChunkedDecoder::default());
            // hyper reports what is malformed, when it reads that far.
            let Ok((first, is_all_body)) = decode(&mut decoder, rest) else { return Some(unsupported()) };
            (BodySource::from_chunked(first, decoder), is_all_body)
        }
    };
    Some(ResponseStart::Parsed { head: parsed.head, body, is_clean })
}

struct ParsedHead {
    head: ResponseHead,
    head_bytes: usize,
    framing: BodyFraming,
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyFraming {
    Length(u64),
    Chunked,
}

/// A head that hyper is to parse.
#[derive(Debug, PartialEq, Eq)]
struct UnsupportedHead;

fn parse_head(received: &[u8]) -> Result<Option<ParsedHead>, UnsupportedHead> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, received, &mut fields)
        .map_err(|_| UnsupportedHead)?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    // A line feed alone ends a line for httparse too.
    if !memchr_iter(b'\n', &received[..head_bytes]).all(|at| at > 0 && received[at - 1] == b'\r') {
        return Err(UnsupportedHead);
    }
    // The others have no body, or are not the final response, or end the connection.
    let status = response.code.filter(|code| (200..600).contains(code) && !matches!(code, 204 | 205 | 304));
    if response.version != Some(1) || head_bytes > HEAD_BYTES_MAX {
        return Err(UnsupportedHead);
    }
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(UnsupportedHead)?;
    let mut head = ResponseHead { status, content_type: None, session_id: None, is_encoded: false };
    let mut framing = None;
    let mut encoding = None;
    for field in response.headers.iter() {
        let name = field.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            10 if is("connection") && !field.value.eq_ignore_ascii_case(b"keep-alive") => {
                return Err(UnsupportedHead);
            }
            12 if is("content-type") => set_once(&mut head.content_type, || content_type(field.value))?,
            14 if is("content-length") => {
                set_once(&mut framing, || {
                    header::parse_content_length(field.value).map(BodyFraming::Length)
                })?;
            }
            14 if is("mcp-session-id") => {
                set_once(&mut head.session_id, || HeaderValue::from_bytes(field.value).ok())?;
            }
            16 if is("content-encoding") => set_once(&mut encoding, || Some(field.value))?,
            7 if is("upgrade") => return Err(UnsupportedHead),
            17 if is("transfer-encoding") => {
                let is_chunked = field.value.eq_ignore_ascii_case(b"chunked");
                set_once(&mut framing, || is_chunked.then_some(BodyFraming::Chunked))?;
            }
            _ if is_misspelt_framing_field(name.as_bytes()) => return Err(UnsupportedHead),
            _ => {}
        }
    }
    head.is_encoded = encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
    let framing = framing.ok_or(UnsupportedHead)?;
    Ok(Some(ParsedHead { head, head_bytes, framing }))
}

/// Sets a field that may appear once, if its value is valid.
fn set_once<T>(field: &mut Option<T>, value: impl FnOnce() -> Option<T>) -> Result<(), UnsupportedHead> {
    if field.is_some() {
        return Err(UnsupportedHead);
    }
    *field = Some(value().ok_or(UnsupportedHead)?);
    Ok(())
}

/// Avoids an allocation for `application/json`, which nearly every response has.
fn content_type(value: &[u8]) -> Option<HeaderValue> {
    if value == header::JSON.as_bytes() {
        return Some(HeaderValue::from_static(header::JSON));
    }
    HeaderValue::from_bytes(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, body framing, and whether the body is encoded; `None` while the head is incomplete.
    type Expected = Result<Option<(u16, BodyFraming, bool)>, UnsupportedHead>;

    #[track_caller]
    fn check(received: &[u8], expected: &Expected) {
        let read = parse_head(received);
        let got = read.map(|read| {
            read.map(|ParsedHead { head, head_bytes, framing }| {
                assert_eq!(&received[head_bytes - 4..head_bytes], b"\r\n\r\n");
                (head.status.as_u16(), framing, head.is_encoded)
            })
        });
        assert_eq!(got, *expected, "{}", received.escape_ascii());
    }

    fn head(status: &str, lines: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\n{lines}\r\n").into()
    }

    #[test]
    fn common_heads() {
        use BodyFraming::Length;

        let common = head("200 OK", "Content-Type: application/json\r\nContent-Length: 12\r\n");
        check(&common, &Ok(Some((200, Length(12), false))));
        for at in 0..common.len() {
            check(&common[..at], &Ok(None));
        }
        let rows = [
            ("200", "content-length:7\r\n", (200, Length(7), false)),
            ("202 Accepted", "CONTENT-LENGTH:\t0\t\r\nConnection: keep-alive\r\n", (202, Length(0), false)),
            ("404 Not Found", "Content-Length: 007\r\nX-Any: \u{e9}\r\n", (404, Length(7), false)),
            ("599 x", "Content-Length: 999999999999999\r\n", (599, Length(999_999_999_999_999), false)),
            ("200 OK", "Content-Encoding: Identity\r\nContent-Length: 1\r\n", (200, Length(1), false)),
            ("200 OK", "Content-Encoding: gzip\r\nContent-Length: 1\r\n", (200, Length(1), true)),
            ("200 OK", "Transfer-Encoding: Chunked\r\n", (200, BodyFraming::Chunked, false)),
        ];
        for (status, lines, expected) in rows {
            check(&head(status, lines), &Ok(Some(expected)));
        }
    }

    #[test]
    fn heads_left_to_hyper() {
        for status in
            ["100 Continue", "101 Switching", "199 x", "204 No Content", "205 x", "304 x", "600 x", "2x0"]
        {
            check(&head(status, "Content-Length: 0\r\n"), &Err(UnsupportedHead));
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
            "Content-Length: 1\nX: 1\r\n",
            "Content-Length: 1\r\n\n",
            "Content-Length: 1\r\nTransfer_Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent_Length: 2\r\n",
            "Content-Length: 1\r\nConnection: close\r\n",
            "Content-Length: 1\r\nConnection: keep-alive, close\r\n",
            "Content-Length: 1\r\nUpgrade: h2c\r\n",
            "Content-Length: 1\r\nContent-Type: a\r\nContent-Type: a\r\n",
            "Content-Length: 1\r\nMcp-Session-Id: a\r\nmcp-session-id: b\r\n",
            "Content-Length: 1\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        ] {
            check(&head("200 OK", lines), &Err(UnsupportedHead));
        }
        for version in ["HTTP/1.0", "HTTP/2.0", "http/1.1", "ICY"] {
            check(format!("{version} 200 OK\r\nContent-Length: 1\r\n\r\n").as_bytes(), &Err(UnsupportedHead));
        }
        let many = "X: x\r\n".repeat(FIELDS_MAX) + "Content-Length: 1\r\n";
        check(&head("200 OK", &many), &Err(UnsupportedHead));
        let long = format!("Content-Length: 1\r\nX: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
        check(&head("200 OK", &long), &Err(UnsupportedHead));
        assert!(matches!(
            parse_start(&head("200 OK", &long)[..=HEAD_BYTES_MAX]),
            Some(ResponseStart::Unsupported(_))
        ));
    }

    #[test]
    fn bodies_after_a_head() {
        #[track_caller]
        fn check(lines: &str, body: &str, expected: (&str, Option<u64>, bool)) {
            let received = [&head("200 OK", lines), body.as_bytes()].concat();
            let Some(ResponseStart::Parsed { body: source, is_clean, .. }) = parse_start(&received) else {
                panic!("{body:?} is common")
            };
            let (first, left) = match source {
                BodySource::Ended => (Bytes::new(), Some(0)),
                BodySource::Buffered(first) => (first, Some(0)),
                BodySource::Length { first, left, .. } => (first, Some(left)),
                BodySource::Chunked { first, .. } => (first, None),
                BodySource::Hyper(_) | BodySource::Events(_) => panic!("{body:?} is read here"),
            };
            assert_eq!(
                (&first[..], left, is_clean),
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
        assert!(matches!(parse_start(&malformed), Some(ResponseStart::Unsupported(_))));
    }
}
