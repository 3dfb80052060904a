//! One HTTP/1.1 connection to a upstream.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead as _, ReadBuf};

use super::answer::{BodySource, ResponseHead};
use super::chunked::Chunked;
use super::fast_lane::{self, Begun, Unwritten};
use super::general::General;
use super::outgoing::UpstreamRequest;
use super::patience::ResponseTimer;
use super::stream::Stream;
use super::{FailureStage, Upstream, UpstreamError};

/// An established connection.
pub struct Wire {
    engine: Engine,
    /// What is to be written of the request while its answer is read.
    rest: Option<Unwritten>,
    /// Whether something came behind an answer, or it began before the request was written.
    spoilt: bool,
    idle_since: Instant,
    /// For the beginnings of its answers; lent to the one that is waited for.
    patience: Option<ResponseTimer>,
}

/// Who speaks on it.
enum Engine {
    /// We do, until an answer or a request is not of the usual shape.
    FastLane(Stream),
    /// hyper, for good.
    General(General),
    /// Nobody any more.
    None,
}

/// A request with a longer body is hyper's: it copies less, and reads while it writes.
const REQUEST_BYTES_MAX: usize = 32 << 10;

impl Wire {
    /// Wraps an established stream. Nothing is sent.
    pub fn new(stream: Stream, patience: ResponseTimer) -> Self {
        Self {
            engine: Engine::FastLane(stream),
            rest: None,
            spoilt: false,
            idle_since: Instant::now(),
            patience: Some(patience),
        }
    }

    /// Sends a request and waits for the head of its response, as long as is patient.
    ///
    /// Not cancel safe: it is to be dropped, which tells the upstream to stop.
    pub async fn send(
        &mut self,
        request: &UpstreamRequest,
        upstream: &Upstream,
    ) -> Result<(ResponseHead, BodySource), SendError> {
        let Some(mut patience) = self.patience.take() else { return Err(SendError::Unsent) };
        let sent = patience.wait(self.exchange(request, upstream)).await;
        self.patience = Some(patience);
        sent.unwrap_or_else(|| {
            Err(SendError::Sent(UpstreamError::from_stage(FailureStage::FirstByteTimeout)))
        })
    }

    async fn exchange(
        &mut self,
        request: &UpstreamRequest,
        upstream: &Upstream,
    ) -> Result<(ResponseHead, BodySource), SendError> {
        let is_usual = upstream.config.fast_lane && request.body_bytes() <= REQUEST_BYTES_MAX;
        // Taken out, so that whatever ends this early leaves nothing to be used again. What is not usual is
        // boxed, so that it does not make every request's future bigger.
        match std::mem::replace(&mut self.engine, Engine::None) {
            Engine::FastLane(mut stream) if is_usual => {
                let (begun, rest) = fast_lane::exchange(&mut stream, request.render(upstream)).await?;
                self.spoilt = rest.is_some();
                match begun {
                    Begun::Usual { head, body, clean } => {
                        self.engine = Engine::FastLane(stream);
                        self.rest = rest;
                        self.spoilt |= !clean;
                        Ok((head, body))
                    }
                    Begun::Unusual(came) => {
                        let adopted = Box::pin(General::adopt(stream, came, rest)).await;
                        let (general, response) = adopted.map_err(SendError::Sent)?;
                        self.engine = Engine::General(general);
                        Ok(BodySource::of_response(response))
                    }
                }
            }
            Engine::FastLane(stream) => {
                let general = Box::pin(General::new(stream)).await.map_err(|_| SendError::Unsent)?;
                Box::pin(self.ask(general, request, upstream)).await
            }
            Engine::General(general) => Box::pin(self.ask(general, request, upstream)).await,
            Engine::None => Err(SendError::Unsent),
        }
    }

    async fn ask(
        &mut self,
        mut general: General,
        request: &UpstreamRequest,
        upstream: &Upstream,
    ) -> Result<(ResponseHead, BodySource), SendError> {
        let response = general.send(request.to_http(upstream)).await?;
        self.engine = Engine::General(general);
        Ok(BodySource::of_response(response))
    }

    /// More of a body of which `left` bytes are to come; none when the upstream closed.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        left: u64,
        buffer: &mut BytesMut,
    ) -> Poll<Result<Bytes, UpstreamError>> {
        let Engine::FastLane(stream) = &mut self.engine else {
            return Poll::Ready(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)));
        };
        Unwritten::write_on(&mut self.rest, stream, cx);
        fast_lane::poll_more(stream, cx, left, buffer)
            .map(|read| read.map_err(|error| UpstreamError::new(FailureStage::BodyIncomplete, error)))
    }

    /// More of a body in chunks; none when it has ended, or the upstream closed.
    pub fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunked: &mut Chunked,
    ) -> Poll<Result<Bytes, UpstreamError>> {
        let Engine::FastLane(stream) = &mut self.engine else {
            return Poll::Ready(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)));
        };
        Unwritten::write_on(&mut self.rest, stream, cx);
        let (bytes, is_all) = ready!(fast_lane::poll_chunks(stream, cx, chunked))?;
        self.spoilt |= !is_all;
        Poll::Ready(Ok(bytes))
    }

    /// Lets hyper read and write what it can.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Engine::General(general) = &mut self.engine {
            general.drive(cx);
        }
    }

    /// Whether hyper's connection was ended by the peer or an error.
    pub fn is_closed(&self) -> bool {
        match &self.engine {
            Engine::FastLane(_) => false,
            Engine::General(general) => general.is_closed(),
            Engine::None => true,
        }
    }

    /// After a response: whether another request may follow it, if nothing comes meanwhile.
    pub fn may_rest(&mut self) -> bool {
        match &mut self.engine {
            _ if self.spoilt => false,
            // Looked at before it is used: to look twice finds no more.
            Engine::FastLane(_) => true,
            Engine::General(general) => general.is_reusable(),
            Engine::None => false,
        }
    }

    /// Whether another request may follow, as far as the runtime knows what came.
    fn is_reusable(&mut self) -> bool {
        match &mut self.engine {
            _ if self.spoilt => false,
            // Silent, that is: neither closed, nor spoken to out of turn.
            Engine::FastLane(stream) => {
                let mut byte = [0];
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
            Engine::General(general) => general.is_reusable(),
            Engine::None => false,
        }
    }

    /// Starts the idle clock.
    pub fn rest(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// After idleness: whether it is young enough, and neither closed nor spoken to out of turn meanwhile.
    pub fn is_fresh(&mut self, now: Instant, age_max: Duration) -> bool {
        now.saturating_duration_since(self.idle_since) < age_max && self.is_reusable()
    }
}

/// Why there is no response.
pub enum SendError {
    /// Nothing was written.
    Unsent,
    /// It may have been read and run.
    Sent(UpstreamError),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::body::Body as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::super::{Config, EraChoice, ServerAddress, TlsRoots, ToolPinPolicy, UpstreamId};
    use super::*;
    use metamcp_core::base::ServerName;

    /// More than the smallest buffers of two sockets hold, and still usual.
    const BODY_BYTES: usize = 31 << 10;

    /// Nothing here waits for anything but the other side.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn upstream() -> Arc<Upstream> {
        let patience = Duration::from_mins(1);
        let config = Config {
            name: ServerName::new("a").expect("valid"),
            address: ServerAddress::Unix { socket: "/nowhere".into(), path: "/mcp".into() },
            headers: Vec::new(),
            era: EraChoice::Auto,
            connect_timeout: patience,
            first_byte_timeout: patience,
            stream_idle_timeout: patience,
            in_flight_max: 1,
            queue_timeout: patience,
            queue_max: 1,
            idle_connections_max: 1,
            idle_age_max: patience,
            fast_lane: true,
            private_addresses: true,
            may_be_sse: false,
            has_breaker: true,
            alias: None,
            changed_tools: ToolPinPolicy::Warn,
        };
        let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
        Upstream::new(UpstreamId(0), config, &roots).expect("the address is valid")
    }

    /// What a upstream does after it has begun to answer a request that it has not read.
    #[derive(Clone, Copy)]
    enum Then {
        /// Reads the whole request, and sends this.
        Send(&'static str),
        /// Reads nothing.
        Stay,
        /// Reads nothing.
        Close,
    }

    impl Then {
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

    async fn read(wire: &mut Wire, body: BodySource) -> Vec<u8> {
        let mut whole = Vec::new();
        match body {
            BodySource::Ended => {}
            BodySource::Last(bytes) => whole.extend(bytes),
            BodySource::Begun(first, mut left, mut buffer) => {
                whole.extend(first);
                while left > 0 {
                    let more = std::future::poll_fn(|cx| wire.poll_more(cx, left, &mut buffer)).await;
                    let more = more.expect("it goes on");
                    assert!(!more.is_empty(), "it broke off");
                    left -= more.len() as u64;
                    whole.extend(more);
                }
            }
            BodySource::Chunks(first, mut chunked) => {
                whole.extend(first);
                while !chunked.is_ended() {
                    let more = std::future::poll_fn(|cx| wire.poll_chunks(cx, &mut chunked)).await;
                    let more = more.expect("it goes on");
                    assert!(!more.is_empty() || chunked.is_ended(), "it broke off");
                    whole.extend(more);
                }
            }
            BodySource::Told(_) => unreachable!("it came over a wire"),
            BodySource::General(mut incoming) => loop {
                let frame = std::future::poll_fn(|cx| {
                    wire.drive(cx);
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

    /// The answer comes whole, so does the request where it is read, and no other request follows it.
    async fn check(first: &str, then: Then, status: u16, expected: &str) {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        socket2::SockRef::from(&near).set_send_buffer_size(4 << 10).expect("a small buffer");
        let (upstream, request) = (upstream(), UpstreamRequest::from_message(vec![b' '; BODY_BYTES].into()));
        let request_bytes = request.render(&upstream).len();
        let mut wire = Wire::new(Stream::Unix(near), ResponseTimer::new(PATIENCE));
        let asking = async {
            let Ok((head, body)) = wire.send(&request, &upstream).await else {
                panic!("{first:?}: no answer")
            };
            assert_eq!(head.status, status, "{first:?}");
            assert_eq!(read(&mut wire, body).await, expected.as_bytes(), "{first:?}");
            assert!(!wire.is_reusable(), "{first:?}: another request would follow one that was not written");
        };
        let both = async { tokio::join!(asking, then.serve(first, far, request_bytes)) };
        tokio::time::timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("{first:?}: both wait"));
    }

    #[tokio::test]
    async fn answers_that_begin_before_the_request_was_written() {
        const LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig";
        const LARGE_CHUNKED: &str =
            "HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n";
        check("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", Then::Send("done"), 200, "done").await;
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(chunked, Then::Send("4\r\ndone\r\n0\r\n\r\n"), 200, "done").await;
        for then in [Then::Stay, Then::Close] {
            check(LARGE, then, 413, "big").await;
            check(LARGE_CHUNKED, then, 413, "big").await;
        }
    }
}
