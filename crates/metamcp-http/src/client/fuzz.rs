//! The body of the fuzz target for chunked responses. It panics if an invariant does not hold.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metamcp_core::http1::fuzz::parse_strict_body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunked::{ChunkedDecoder, MalformedChunk};
use super::request_body::RequestBody;

/// The data of a body, the bytes that it takes, and whether it has ended.
type Body = Result<(Vec<u8>, usize, bool), MalformedChunk>;

/// Places at which an input is cut.
const CUTS: usize = 32;

/// Decodes a body, whole and in pieces. Whatever the strict grammar of requests accepts is accepted alike, and whatever
/// is accepted hyper accepts alike.
pub fn chunked_response(body: &[u8]) {
    let whole = decode([body]);
    for at_a_time in [1, 2, 7] {
        assert_eq!(decode(body.chunks(at_a_time)), whole, "{at_a_time} bytes at a time");
    }
    // A long body is cut at a few places only, for a bounded time.
    for at in (0..body.len()).step_by(1 + body.len() / CUTS) {
        assert_eq!(decode([&body[..at], &body[at..]]), whole, "cut at {at}");
    }
    let ended = whole.ok().filter(|(.., is_ended)| *is_ended).map(|(data, bytes, _)| (data, bytes));
    if let Some((data, bytes)) = &ended {
        let theirs = read_with_hyper(&body[..*bytes]);
        assert_eq!(theirs.as_deref(), Some(&data[..]), "what hyper reads");
        // A byte less is not the whole body to hyper either.
        assert_eq!(read_with_hyper(&body[..bytes - 1]), None, "where hyper ends");
    }
    // The limits of extensions and trailers refuse some that the grammar accepts.
    if let Some(strict) = parse_strict_body(body).filter(|_| body.len() < LIMITS_BYTES_MIN) {
        assert_eq!(ended, Some(strict), "what the grammar says");
    }
}

/// The least of the limits: two bytes for each of a hundred trailers.
const LIMITS_BYTES_MIN: usize = 200;

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Body {
    let (mut decoder, mut data, mut taken) = (ChunkedDecoder::default(), BytesMut::new(), 0);
    for piece in pieces {
        if decoder.is_ended() {
            break;
        }
        let count = decoder.decode(piece, &mut data)?;
        assert!(count == piece.len() || decoder.is_ended(), "bytes are left before the end");
        taken += count;
    }
    Ok((data.to_vec(), taken, decoder.is_ended()))
}

/// The data that a client of hyper reads of a body; `None` if it refuses it or waits for more.
fn read_with_hyper(body: &[u8]) -> Option<Vec<u8>> {
    let bytes = [RESPONSE_HEAD, body].concat();
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(handshake) = pin!(http1::handshake(TokioIo::new(ScriptedStream::new(bytes)))).poll(cx)
    else {
        panic!("a handshake of HTTP/1.1 does not wait");
    };
    let (mut sender, mut connection) = handshake.expect("a handshake of HTTP/1.1 does not fail");
    let request = http::Request::new(RequestBody::empty());
    let mut response = pin!(sender.send_request(request));
    let mut is_open = true;
    let mut drive =
        |cx: &mut Context<'_>| is_open = is_open && Pin::new(&mut connection).poll(cx).is_pending();
    let mut incoming = poll_often(|cx| {
        drive(cx);
        response.as_mut().poll(cx)
    })?
    .ok()?
    .into_body();
    let mut data = Vec::new();
    loop {
        let frame = poll_often(|cx| {
            drive(cx);
            Pin::new(&mut incoming).poll_frame(cx)
        })?;
        match frame {
            None => return Some(data),
            Some(frame) => data.extend_from_slice(&frame.ok()?.into_data().unwrap_or_default()),
        }
    }
}

const RESPONSE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Polls until it is ready, or as often as it takes hyper to make progress with what is there.
fn poll_often<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let cx = &mut Context::from_waker(Waker::noop());
    (0..POLLS_MAX).find_map(|_| match poll(cx) {
        Poll::Ready(ready) => Some(ready),
        Poll::Pending => None,
    })
}

/// The request, the head, and the body take a poll each.
const POLLS_MAX: usize = 8;

/// A connection that takes what is written, and then gives these bytes and nothing more.
struct ScriptedStream {
    response: Bytes,
    is_written: bool,
}

impl ScriptedStream {
    fn new(response: Vec<u8>) -> Self {
        Self { response: response.into(), is_written: false }
    }
}

impl AsyncRead for ScriptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.response.is_empty() || !self.is_written {
            return Poll::Pending;
        }
        let count = self.response.len().min(buffer.remaining());
        buffer.put_slice(&self.response.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedStream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_written = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn hyper_reads_a_body() {
        let read = |body: &str| super::read_with_hyper(body.as_bytes());
        assert_eq!(read("3\r\nabc\r\n0\r\nX: 1\r\n\r\n"), Some(b"abc".to_vec()));
        assert_eq!(read("3\r\nabc\r\n0\r\n\r"), None);
        assert_eq!(read("3\r\nabcd\r\n0\r\n\r\n"), None);
    }

    #[test]
    fn corpus() {
        metamcp_core::fuzz::run_corpus("chunked_response", super::chunked_response);
    }
}
