//! One HTTP/1.1 connection to a server.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead as _, ReadBuf};

use super::body_source::BodySource;
use super::chunked::ChunkedDecoder;
use super::encode::{RequestHeads, encode, to_hyper};
use super::fast_lane::{self, ResponseStart};
use super::hyper_connection::HyperConnection;
use super::pending_write::PendingWrite;
use super::response_head::ResponseHead;
use super::response_timer::ResponseTimer;
use super::stream::Stream;
use crate::error::{FailureStage, SendError, UpstreamError};
use crate::request::UpstreamRequest;

/// An established connection, used by one request at a time.
pub struct Connection {
    driver: Driver,
    /// What is left to write of the request while its response is read.
    rest: Option<PendingWrite>,
    /// Whether no further request may be sent: bytes came after a response, or a response began before the
    /// request was written completely.
    is_spoilt: bool,
    idle_since: Instant,
    /// For the heads of the responses; taken out while one is awaited.
    timer: Option<ResponseTimer>,
}

/// Who reads and writes on the stream.
enum Driver {
    /// The fast lane, until a request or response has another than the common shape.
    FastLane(Stream),
    /// hyper, from then on.
    Hyper(HyperConnection),
    Closed,
}

/// A request with a longer body is hyper's: hyper copies less, and reads while it writes.
const REQUEST_BYTES_MAX: usize = 32 << 10;

impl Connection {
    /// Wraps an established stream. Sends nothing.
    pub fn new(stream: Stream, timer: ResponseTimer) -> Self {
        Self {
            driver: Driver::FastLane(stream),
            rest: None,
            is_spoilt: false,
            idle_since: Instant::now(),
            timer: Some(timer),
        }
    }

    /// Sends a request and waits for the head of its response, as long as the response timer allows.
    /// `fast_lane`: whether responses of the common shape are read here rather than by hyper.
    ///
    /// Not cancel safe: the connection must then be dropped, which tells the server to stop.
    pub async fn send(
        &mut self,
        request: &UpstreamRequest,
        heads: &RequestHeads,
        fast_lane: bool,
    ) -> Result<(ResponseHead, BodySource), SendError> {
        let Some(mut timer) = self.timer.take() else { return Err(SendError::NotSent) };
        let response = timer.wait(self.exchange(request, heads, fast_lane)).await;
        self.timer = Some(timer);
        let timed_out = || SendError::Failed(UpstreamError::from_stage(FailureStage::FirstByteTimeout));
        response.unwrap_or_else(|| Err(timed_out()))
    }

    async fn exchange(
        &mut self,
        request: &UpstreamRequest,
        heads: &RequestHeads,
        fast_lane: bool,
    ) -> Result<(ResponseHead, BodySource), SendError> {
        let is_common = fast_lane && request.body_bytes() <= REQUEST_BYTES_MAX;
        // Taken out, so that an early return leaves nothing to be reused. The uncommon futures are boxed, so
        // that they do not make the future of every request bigger.
        match std::mem::replace(&mut self.driver, Driver::Closed) {
            Driver::FastLane(mut stream) if is_common => {
                let (start, rest) = fast_lane::exchange(&mut stream, encode(request, heads)).await?;
                self.is_spoilt = rest.is_some();
                match start {
                    ResponseStart::Parsed { head, body, is_clean } => {
                        self.driver = Driver::FastLane(stream);
                        self.rest = rest;
                        self.is_spoilt |= !is_clean;
                        Ok((head, body))
                    }
                    ResponseStart::Unsupported(received) => {
                        let taken_over = Box::pin(HyperConnection::take_over(stream, received, rest)).await;
                        let (connection, response) = taken_over.map_err(SendError::Failed)?;
                        self.driver = Driver::Hyper(connection);
                        Ok(BodySource::from_hyper(response))
                    }
                }
            }
            Driver::FastLane(stream) => {
                let connection =
                    Box::pin(HyperConnection::new(stream)).await.map_err(|_| SendError::NotSent)?;
                Box::pin(self.send_with_hyper(connection, request, heads)).await
            }
            Driver::Hyper(connection) => Box::pin(self.send_with_hyper(connection, request, heads)).await,
            Driver::Closed => Err(SendError::NotSent),
        }
    }

    async fn send_with_hyper(
        &mut self,
        mut connection: HyperConnection,
        request: &UpstreamRequest,
        heads: &RequestHeads,
    ) -> Result<(ResponseHead, BodySource), SendError> {
        let response = connection.send(to_hyper(request, heads)).await?;
        self.driver = Driver::Hyper(connection);
        Ok(BodySource::from_hyper(response))
    }

    /// Reads more of a body with `left` bytes still to come. Returns no bytes if the server closed the
    /// connection.
    pub fn poll_sized_body(
        &mut self,
        cx: &mut Context<'_>,
        left: u64,
        buffer: &mut BytesMut,
    ) -> Poll<Result<Bytes, UpstreamError>> {
        let Driver::FastLane(stream) = &mut self.driver else {
            return Poll::Ready(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)));
        };
        PendingWrite::continue_write(&mut self.rest, stream, cx);
        fast_lane::poll_sized_body(stream, cx, left, buffer)
            .map(|read| read.map_err(|error| UpstreamError::new(FailureStage::BodyIncomplete, error)))
    }

    /// Reads more of a chunked body; none when it has ended, or the server closed.
    pub fn poll_chunked_body(
        &mut self,
        cx: &mut Context<'_>,
        decoder: &mut ChunkedDecoder,
    ) -> Poll<Result<Bytes, UpstreamError>> {
        let Driver::FastLane(stream) = &mut self.driver else {
            return Poll::Ready(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)));
        };
        PendingWrite::continue_write(&mut self.rest, stream, cx);
        let (bytes, is_all_body) = ready!(fast_lane::poll_chunked_body(stream, cx, decoder))?;
        self.is_spoilt |= !is_all_body;
        Poll::Ready(Ok(bytes))
    }

    /// Lets hyper read and write what it can.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::Hyper(connection) = &mut self.driver {
            connection.drive(cx);
        }
    }

    /// Whether hyper's connection was ended by the peer or an error.
    pub fn is_closed(&self) -> bool {
        match &self.driver {
            Driver::FastLane(_) => false,
            Driver::Hyper(connection) => connection.is_closed(),
            Driver::Closed => true,
        }
    }

    /// After a response: whether another request may follow, provided that nothing arrives meanwhile.
    pub fn can_be_pooled(&mut self) -> bool {
        match &mut self.driver {
            _ if self.is_spoilt => false,
            // Checked before it is used again; a check now would find no more.
            Driver::FastLane(_) => true,
            Driver::Hyper(connection) => connection.is_reusable(),
            Driver::Closed => false,
        }
    }

    /// Whether another request may follow, as far as the runtime knows what arrived.
    fn is_reusable(&mut self) -> bool {
        match &mut self.driver {
            _ if self.is_spoilt => false,
            // Silent: neither closed, nor has the server sent anything out of turn.
            Driver::FastLane(stream) => {
                let mut byte = [0];
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
            Driver::Hyper(connection) => connection.is_reusable(),
            Driver::Closed => false,
        }
    }

    /// Starts the idle clock.
    pub fn mark_idle(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// After idleness: whether the connection is young enough, still open, and nothing arrived out of turn.
    pub fn is_fresh(&mut self, now: Instant, age_max: Duration) -> bool {
        now.saturating_duration_since(self.idle_since) < age_max && self.is_reusable()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use hyper::body::Body as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// More than the smallest buffers of two sockets hold, but still a common size.
    const BODY_BYTES: usize = 31 << 10;

    /// Nothing here waits for anything but the other side.
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn heads() -> RequestHeads {
        RequestHeads::new("/mcp".parse().expect("a path"), "localhost".parse().expect("a value"), &[])
    }

    /// What a server does once it has begun to answer a request that it has not read.
    #[derive(Clone, Copy)]
    enum Reaction {
        /// Reads the whole request, and sends this.
        Send(&'static str),
        /// Reads nothing, and stays open.
        Stay,
        /// Reads nothing, and closes.
        Close,
    }

    impl Reaction {
        async fn serve(
            self,
            first: &str,
            mut stream: UnixStream,
            request_bytes: usize,
        ) -> Option<UnixStream> {
            stream.write_all(first.as_bytes()).await.expect("the beginning is sent");
            if let Self::Send(rest) = self {
                let mut request = vec![0; request_bytes];
                stream.read_exact(&mut request).await.expect("the whole request comes");
                stream.write_all(rest.as_bytes()).await.expect("the rest is sent");
            }
            Some(stream).filter(|_| !matches!(self, Self::Close))
        }
    }

    async fn read(connection: &mut Connection, body: BodySource) -> Vec<u8> {
        let mut whole = Vec::new();
        match body {
            BodySource::Ended => {}
            BodySource::Buffered(bytes) => whole.extend(bytes),
            BodySource::Length { first, mut left, mut buffer } => {
                whole.extend(first);
                while left > 0 {
                    let more =
                        std::future::poll_fn(|cx| connection.poll_sized_body(cx, left, &mut buffer)).await;
                    let more = more.expect("it goes on");
                    assert!(!more.is_empty(), "it broke off");
                    left -= more.len() as u64;
                    whole.extend(more);
                }
            }
            BodySource::Chunked { first, mut decoder } => {
                whole.extend(first);
                while !decoder.is_ended() {
                    let more =
                        std::future::poll_fn(|cx| connection.poll_chunked_body(cx, &mut decoder)).await;
                    let more = more.expect("it goes on");
                    assert!(!more.is_empty() || decoder.is_ended(), "it broke off");
                    whole.extend(more);
                }
            }
            BodySource::Events(_) => unreachable!("it came over a connection"),
            BodySource::Hyper(mut incoming) => loop {
                let frame = std::future::poll_fn(|cx| {
                    connection.drive(cx);
                    Pin::new(&mut incoming).poll_frame(cx)
                });
                match frame.await {
                    Some(frame) => whole.extend(frame.expect("it goes on").into_data().unwrap_or_default()),
                    None => break,
                }
            },
        }
        whole
    }

    /// Checks that the response arrives whole, and the request too if it is read, and that the connection is
    /// not reused.
    async fn check(first: &str, reaction: Reaction, status: u16, expected: &str) {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        socket2::SockRef::from(&near).set_send_buffer_size(4 << 10).expect("a small buffer");
        let (heads, request) = (heads(), UpstreamRequest::from_message(vec![b' '; BODY_BYTES].into()));
        let request_bytes = encode(&request, &heads).len();
        let mut connection = Connection::new(Stream::Unix(near), ResponseTimer::new(TIMEOUT));
        let sending = async {
            let Ok((head, body)) = connection.send(&request, &heads, true).await else {
                panic!("{first:?}: no response")
            };
            assert_eq!(head.status, status, "{first:?}");
            assert_eq!(read(&mut connection, body).await, expected.as_bytes(), "{first:?}");
            assert!(
                !connection.is_reusable(),
                "{first:?}: another request would follow one that was not written"
            );
        };
        let both = async { tokio::join!(sending, reaction.serve(first, far, request_bytes)) };
        tokio::time::timeout(TIMEOUT, both).await.unwrap_or_else(|_| panic!("{first:?}: both wait"));
    }

    #[tokio::test]
    async fn responses_that_begin_before_the_request_is_written() {
        const LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig";
        const LARGE_CHUNKED: &str =
            "HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n";
        check("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", Reaction::Send("done"), 200, "done").await;
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(chunked, Reaction::Send("4\r\ndone\r\n0\r\n\r\n"), 200, "done").await;
        for reaction in [Reaction::Stay, Reaction::Close] {
            check(LARGE, reaction, 413, "big").await;
            check(LARGE_CHUNKED, reaction, 413, "big").await;
        }
    }
}
