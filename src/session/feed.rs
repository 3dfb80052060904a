//! A long event stream from a backend, taken up again when it breaks: what a Legacy server sends outside
//! of calls, and what a Modern one sends to a subscription.
//!
//! It is no task: it is read, and asks again, while whoever takes its events polls it. Most are silent for days, so it holds
//! no more than it needs at the moment.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::{Sleep, sleep};

use super::upstream::Ready;
use crate::auth::KeyId;
use crate::backend::{Answered, BackendError, Lane, Outgoing, Pool, Quiet};
use crate::frame::{Event, EventReader};
use crate::protocol::{Era, header};

/// The stream of one backend.
pub struct Feed {
    pool: Rc<Pool>,
    source: Source,
    state: State,
    /// Boxed: few servers tell any.
    last_event_id: Option<Box<HeaderValue>>,
    /// Milliseconds.
    backoff_ms: u32,
    /// Whether it is taken up again after a regular end.
    resumes: bool,
}

/// How the stream is asked for.
pub enum Source {
    /// GET within a Legacy session.
    Legacy(Arc<Ready>),
    /// POST of `subscriptions/listen`.
    Modern(Box<Listen>),
}

/// `subscriptions/listen` of one server.
pub struct Listen {
    /// The whole message.
    pub message: Bytes,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The key on whose behalf; none for the gateway's own.
    pub owner: Option<KeyId>,
}

enum State {
    /// It is to be asked for.
    Begun,
    Asking(Pin<Box<dyn Future<Output = Result<Box<Answered>, BackendError>>>>),
    Open(Open),
    /// Until it is asked for again.
    Waiting(Pin<Box<Sleep>>),
}

/// What comes of a backend.
struct Open {
    stream: Quiet,
    /// While some of an event is here.
    reader: Option<Box<EventReader>>,
    /// Whether some of it has been read.
    is_begun: bool,
}

/// Why there is nothing more to come.
#[derive(Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// The server has no such stream: 405, or 404 to a Modern request.
    Unsupported,
    /// The server does not know the session any more.
    SessionLost,
    /// It ended, and is not to be taken up again.
    Ended,
}

/// The first wait before a broken stream is asked for again, in milliseconds; it doubles up to [`BACKOFF_MAX_MS`].
const BACKOFF_MIN_MS: u32 = 500;

/// No backend is asked more often than this for long, whatever its `retry` says. Milliseconds.
const BACKOFF_MAX_MS: u32 = 30_000;

impl Feed {
    /// Asks for nothing yet. `resumes`: taken up again whenever it ends; else only what is sent until the
    /// first end.
    pub fn new(pool: Rc<Pool>, source: Source, resumes: bool) -> Self {
        Self { pool, source, state: State::Begun, last_event_id: None, backoff_ms: BACKOFF_MIN_MS, resumes }
    }

    /// From where the client says it was broken off.
    #[must_use]
    pub fn after(mut self, last_event_id: Option<Box<HeaderValue>>) -> Self {
        self.last_event_id = last_event_id;
        self
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, FeedEnd> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next event. After an end there is nothing more to ask.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, FeedEnd>> {
        loop {
            self.state = match &mut self.state {
                State::Begun => {
                    let (pool, request) = (Rc::clone(&self.pool), self.request());
                    State::Asking(Box::pin(async move { pool.send(&request, Lane::Stream).await }))
                }
                State::Asking(asking) => {
                    let answered = ready!(asking.as_mut().poll(cx));
                    if let Source::Legacy(ready) = &self.source {
                        ready.settle_stream();
                    }
                    match self.opened(answered) {
                        Ok(Some(open)) => State::Open(open),
                        Ok(None) => self.wait(),
                        Err(end) => return Poll::Ready(Err(end)),
                    }
                }
                State::Open(open) => match ready!(open.poll_event(cx)) {
                    Some(event) => {
                        self.note(&event);
                        return Poll::Ready(Ok(event));
                    }
                    None if self.resumes => self.wait(),
                    None => return Poll::Ready(Err(FeedEnd::Ended)),
                },
                State::Waiting(waiting) => {
                    ready!(waiting.as_mut().poll(cx));
                    State::Begun
                }
            };
        }
    }

    /// What an event says of the stream itself.
    fn note(&mut self, event: &Event) {
        if let Some(retry_ms) = event.retry {
            let retry_ms = u32::try_from(retry_ms).unwrap_or(u32::MAX);
            self.backoff_ms = retry_ms.clamp(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
        } else if event.data.is_some() {
            self.backoff_ms = BACKOFF_MIN_MS;
        }
        if let Some(id) = &event.id {
            self.last_event_id = HeaderValue::from_bytes(id).ok().map(Box::new);
        }
    }

    /// What is answered, as far as it is a stream; `None`: to be asked again.
    fn opened(&self, answered: Result<Box<Answered>, BackendError>) -> Result<Option<Open>, FeedEnd> {
        let Ok(answered) = answered else { return Ok(None) };
        let Answered { head, body } = *answered;
        if head.status.is_success() && head.is_event_stream() {
            return Ok(Some(Open { stream: body.quiet(), reader: None, is_begun: false }));
        }
        self.refused(head.status).map(|()| None)
    }

    /// Whether a refusal is for good.
    fn refused(&self, status: StatusCode) -> Result<(), FeedEnd> {
        match (&self.source, status) {
            (_, StatusCode::METHOD_NOT_ALLOWED) => Err(FeedEnd::Unsupported),
            (Source::Legacy(ready), StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
                if ready.session_id.is_some() =>
            {
                Err(FeedEnd::SessionLost)
            }
            // A success that is no event stream answers the request otherwise; so does any other 4xx but
            // those that pass.
            (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT) => Ok(()),
            (_, status) if status.is_server_error() => Ok(()),
            _ => Err(FeedEnd::Unsupported),
        }
    }

    fn request(&self) -> Outgoing {
        let mut request = match &self.source {
            Source::Legacy(ready) => {
                let mut request = Outgoing::get();
                ready.write_headers(&mut request);
                request
            }
            Source::Modern(listen) => {
                let Listen { message, headers, owner } = &**listen;
                let mut request = Outgoing::whole(message.clone());
                request.set_era(Era::Modern);
                request.set_owner(*owner);
                for (name, value) in headers {
                    request.add(name, value);
                }
                request
            }
        };
        if let Some(id) = &self.last_event_id {
            request.set(&header::LAST_EVENT_ID, id);
        }
        request
    }

    /// Longer each time.
    fn wait(&mut self) -> State {
        let backoff = Duration::from_millis(self.backoff_ms.into());
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MAX_MS);
        State::Waiting(Box::pin(sleep(backoff)))
    }
}

impl Open {
    /// The next event; `None` at the end of the stream, regular or not.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(reader) = &mut self.reader {
                match reader.next() {
                    Ok(Some(event)) => return Poll::Ready(Some(event)),
                    Ok(None) if reader.is_at_rest() => {
                        self.is_begun = true;
                        self.reader = None;
                    }
                    Ok(None) => {}
                    Err(_too_long) => return Poll::Ready(None),
                }
            }
            let Some(Ok(chunk)) = ready!(self.stream.poll_chunk(cx)) else { return Poll::Ready(None) };
            let begin = || if self.is_begun { EventReader::going_on() } else { EventReader::new() };
            self.reader.get_or_insert_with(|| Box::new(begin())).push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::backend::shim::stream;

    const STREAM: &str =
        "\u{feff}id: 1\r\ndata: a\r\n\r\n: c\n\ndata: b\r\rdata: \u{feff}c\n\n\u{feff}data: d\n\n";

    /// The events of a stream that comes in two pieces, and whether something is held when it is silent.
    fn read(at: usize) -> (Vec<Event>, bool) {
        let (outlet, events) = stream();
        let mut open = Open { stream: Quiet::Told(events), reader: None, is_begun: false };
        let (mut cx, mut read) = (Context::from_waker(Waker::noop()), Vec::new());
        for piece in [&STREAM[..at], &STREAM[at..]] {
            assert!(outlet.put(Bytes::copy_from_slice(piece.as_bytes())));
            while let Poll::Ready(event) = open.poll_event(&mut cx) {
                read.push(event.expect("it has not ended"));
            }
        }
        let is_held = open.reader.is_some();
        drop(outlet);
        assert_eq!(open.poll_event(&mut cx), Poll::Ready(None));
        (read, is_held)
    }

    #[test]
    fn a_silent_stream_holds_nothing_however_it_came() {
        let (whole, _) = read(0);
        let data: Vec<_> = whole.iter().map(|event| event.data.as_deref()).collect();
        assert_eq!(data, [Some(&b"a"[..]), None, Some(b"b"), Some("\u{feff}c".as_bytes()), None]);
        for at in (0..=STREAM.len()).filter(|at| STREAM.is_char_boundary(*at)) {
            let (events, is_held) = read(at);
            let said = |events: &[Event]| -> Vec<_> {
                events.iter().map(|event| (event.data.clone(), event.id.clone())).collect()
            };
            assert_eq!((said(&events), is_held), (said(&whole), false), "cut at {at}");
        }
    }
}
