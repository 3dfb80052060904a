//! One HTTP/1.1 connection to a backend.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::answer::{Body, Head};
use super::fast_lane::{self, Begun};
use super::general::General;
use super::outgoing::Outgoing;
use super::stream::Stream;
use super::{Backend, BackendError, Stage};

/// An established connection.
pub struct Wire {
    engine: Engine,
    /// Whether something came behind an answer, or it came before the request was written.
    spoilt: bool,
    idle_since: Instant,
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
    pub fn new(stream: Stream) -> Self {
        Self { engine: Engine::FastLane(stream), spoilt: false, idle_since: Instant::now() }
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// Not cancel safe: it is to be dropped, which tells the backend to stop.
    pub async fn send(&mut self, request: &Outgoing, backend: &Backend) -> Result<(Head, Body), SendError> {
        let is_usual = backend.config.fast_lane && request.body_bytes() <= REQUEST_BYTES_MAX;
        // Taken out, so that whatever ends this early leaves nothing to be used again. What is not usual is
        // boxed, so that it does not make every request's future bigger.
        match std::mem::replace(&mut self.engine, Engine::None) {
            Engine::FastLane(mut stream) if is_usual => {
                match fast_lane::exchange(&mut stream, &request.render(backend)).await? {
                    Begun::Usual { head, first, left, clean } => {
                        self.engine = Engine::FastLane(stream);
                        self.spoilt = !clean;
                        Ok((head, Body::of_length(first, left)))
                    }
                    Begun::Unusual(came) => {
                        let adopted = Box::pin(General::adopt(stream, came)).await;
                        let (general, response) = adopted.map_err(SendError::Sent)?;
                        self.engine = Engine::General(general);
                        Ok(Body::of_response(response))
                    }
                }
            }
            Engine::FastLane(stream) => {
                let general = Box::pin(General::new(stream)).await.map_err(|_| SendError::Unsent)?;
                Box::pin(self.ask(general, request, backend)).await
            }
            Engine::General(general) => Box::pin(self.ask(general, request, backend)).await,
            Engine::None => Err(SendError::Unsent),
        }
    }

    async fn ask(
        &mut self,
        mut general: General,
        request: &Outgoing,
        backend: &Backend,
    ) -> Result<(Head, Body), SendError> {
        let response = general.send(request.to_http(backend)).await?;
        self.engine = Engine::General(general);
        Ok(Body::of_response(response))
    }

    /// More of a body of which `left` bytes are to come; none when the backend closed.
    pub fn poll_more(&mut self, cx: &mut Context<'_>, left: u64) -> Poll<Result<Bytes, BackendError>> {
        let Engine::FastLane(stream) = &mut self.engine else {
            return Poll::Ready(Err(BackendError::bare(Stage::Body)));
        };
        fast_lane::poll_more(stream, cx, left)
            .map(|read| read.map_err(|error| BackendError::new(Stage::Body, error)))
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

    /// After a response: whether another request may follow, as far as the runtime knows what came.
    pub fn is_reusable(&mut self) -> bool {
        match &mut self.engine {
            // Silent, that is: neither closed, nor spoken to out of turn.
            Engine::FastLane(_) if self.spoilt => false,
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
    Sent(BackendError),
}
