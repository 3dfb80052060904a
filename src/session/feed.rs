//! A long event stream from a backend, taken up again when it breaks: what a Legacy server sends outside
//! of calls, and what a Modern one sends to a subscription.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::sleep;

use super::upstream::Ready;
use crate::auth::KeyId;
use crate::backend::{Answer, Answered, Lane, Outgoing, Pool};
use crate::frame::{Event, EventReader};
use crate::protocol::{Era, header};

/// The stream of one backend.
pub struct Feed {
    pool: Rc<Pool>,
    source: Source,
    open: Option<Box<(Answer, EventReader)>>,
    last_event_id: Option<HeaderValue>,
    backoff: Duration,
    /// Whether it is taken up again after a regular end.
    resumes: bool,
}

/// How the stream is asked for.
pub enum Source {
    /// GET within a Legacy session.
    Legacy(Arc<Ready>),
    /// POST of `subscriptions/listen`.
    Modern {
        /// The whole message.
        message: Bytes,
        /// Its headers.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// The key on whose behalf; none for the gateway's own.
        owner: Option<KeyId>,
    },
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

/// The first wait before a broken stream is asked for again; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// No backend is asked more often than this for long, whatever its `retry` says.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

impl Feed {
    /// Asks for nothing yet. `resumes`: taken up again whenever it ends; else only what is sent until the
    /// first end.
    pub fn new(pool: Rc<Pool>, source: Source, resumes: bool) -> Self {
        Self { pool, source, open: None, last_event_id: None, backoff: BACKOFF_MIN, resumes }
    }

    /// From where the client says it was broken off.
    #[must_use]
    pub fn after(mut self, last_event_id: Option<HeaderValue>) -> Self {
        self.last_event_id = last_event_id;
        self
    }

    /// The next event. Not cancel safe: an event may be lost when it is dropped.
    pub async fn next(&mut self) -> Result<Event, FeedEnd> {
        loop {
            if self.open.is_none() {
                // Boxed: it is many times what an open stream has.
                Box::pin(self.connect()).await?;
            }
            match self.read().await {
                Some(event) => return Ok(event),
                None if self.resumes => self.open = None,
                None => return Err(FeedEnd::Ended),
            }
            Box::pin(self.wait()).await;
        }
    }

    /// The next event of the open stream; `None` at its end, regular or not.
    async fn read(&mut self) -> Option<Event> {
        let (answer, reader) = &mut **self.open.as_mut()?;
        loop {
            match reader.next() {
                Ok(Some(event)) => {
                    if let Some(retry_ms) = event.retry {
                        self.backoff = Duration::from_millis(retry_ms).clamp(BACKOFF_MIN, BACKOFF_MAX);
                    } else if event.data.is_some() {
                        self.backoff = BACKOFF_MIN;
                    }
                    if let Some(id) = &event.id {
                        self.last_event_id = HeaderValue::from_bytes(id).ok();
                    }
                    return Some(event);
                }
                Ok(None) => reader.push(answer.chunk().await?.ok()?),
                Err(_too_long) => return None,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), FeedEnd> {
        loop {
            let response = self.pool.send(&self.request(), Lane::Stream).await;
            if let Source::Legacy(ready) = &self.source {
                ready.settle_stream();
            }
            if let Ok(answered) = response {
                let Answered { head, body } = *answered;
                if head.status.is_success() && head.is_event_stream() {
                    self.open = Some(Box::new((body, EventReader::new())));
                    return Ok(());
                }
                self.refused(head.status)?;
            }
            self.wait().await;
        }
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
            Source::Modern { message, headers, owner } => {
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

    async fn wait(&mut self) {
        sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }
}
