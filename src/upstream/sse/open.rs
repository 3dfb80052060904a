//! How a session comes to be: an event stream, what it says of where messages go, and `initialize` there.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::super::shim::{Backoff, LocalResponse};
use super::super::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamPool, UpstreamRequest, UpstreamResponse,
};
use super::endpoint;
use super::hub::{Hub, Way, answer};
use super::link::{Link, What};
use super::server::Call;
use metamcp_core::frame::{Envelope, EventReader};

/// A wait for the next try up to this long is waited out by the call; a longer one is told.
const BACKOFF_WAITED: Duration = Duration::from_secs(2);

/// What a stream may say before it says where messages go: comments, as servers send to keep a connection
/// alive.
const PREFACE_BYTES_MAX: usize = 64 << 10;

/// The body of a refusal; bigger ones are no JSON-RPC errors.
pub const ERROR_BYTES_MAX: usize = 64 << 10;

/// What an opened stream is, or how the server refused it.
pub enum Opened {
    /// Where messages go, and what is still to be read.
    Stream(Box<(PathAndQuery, UpstreamBody, EventReader)>),
    /// An answer other than a success.
    Refused(StatusCode, Bytes),
}

/// Streams that could not be opened, and when the next may be.
#[derive(Default)]
pub struct Failures {
    backoff: Backoff,
    last: Option<Instant>,
}

impl Failures {
    /// Those without a success between them.
    pub fn in_a_row(&self) -> u32 {
        self.backoff.failures()
    }

    /// A try failed that began then. Those that were under way when another failed are one failure with it: a
    /// hundred clients that come at once count no more than one.
    fn note(&mut self, began: Instant) {
        if self.last.is_some_and(|last| began <= last) {
            return;
        }
        self.last = Some(Instant::now());
        self.backoff.fail(Duration::ZERO);
    }
}

impl Hub {
    /// Opens a session, on an event stream of its own.
    pub async fn open(self: Rc<Self>, mut call: Call, message: Bytes, envelope: Envelope) {
        let opened = tokio::select! {
            biased;
            () = call.reply.closed() => return,
            opened = self.connect(&call.request) => opened,
        };
        if call.reply.is_closed() {
            // That it was given up may have been told before there was anything to close. Told later, it
            // finds the way.
            return;
        }
        let outcome = match opened {
            Ok((began, Opened::Stream(stream))) => match session_id() {
                Ok(session) => {
                    let (endpoint, events, reader) = *stream;
                    let link = Link::new(&self, session, endpoint, (call.number, began));
                    self.ways.borrow_mut().insert(call.number, Way::Opening(Rc::downgrade(&link)));
                    spawn_local(Rc::clone(&link).read(events, reader));
                    return link.ask(call, &message, &envelope, What::Initialize);
                }
                Err(error) => Err(error),
            },
            // As it said it: the status tells what is wrong, credentials for one.
            Ok((_, Opened::Refused(status, said))) => {
                Ok(LocalResponse { status, ..LocalResponse::from_message(said) })
            }
            Err(error) => Err(error),
        };
        answer(call, outcome);
    }

    /// An event stream that said where messages go, and when that was begun.
    async fn connect(&self, request: &UpstreamRequest) -> Result<(Instant, Opened), UpstreamError> {
        let wait = self.failures.borrow().backoff.wait(Instant::now());
        if wait > BACKOFF_WAITED {
            let failures = self.failures.borrow().in_a_row();
            let text =
                format!("it failed {failures} times in a row; the next try is in {} s", wait.as_secs());
            return Err(UpstreamError::new(FailureStage::Connect, text));
        }
        sleep(wait).await;
        if !self.has_room() {
            return Err(UpstreamError::new(FailureStage::QueueFull, "it has as many sessions as may be"));
        }
        let began = Instant::now();
        // Once to connect, which is bounded by itself, and as long again for the first event.
        let patience = self.pool.upstream().config.connect_timeout * 2;
        let silent =
            |_elapsed| Err(UpstreamError::new(FailureStage::NoEndpoint, "its event stream says nothing"));
        let opened = timeout(patience, dial(&self.pool, &self.url, request)).await.unwrap_or_else(silent);
        match &opened {
            Ok(Opened::Refused(status, _)) if is_failure(*status) => {
                self.note_failure(began, &format!("HTTP {}", status.as_u16()));
            }
            Ok(_) => {}
            Err(error) => self.note_failure(began, &error.to_string()),
        }
        opened.map(|opened| (began, opened))
    }

    /// A try to open a session failed, of which the next is not to come at once.
    pub fn note_failure(&self, began: Instant, why: &str) {
        tracing::warn!(server = %self.name, why, "no session can be opened");
        self.failures.borrow_mut().note(began);
    }

    /// A session was opened: what failed before is forgotten.
    pub fn note_success(&self) {
        *self.failures.borrow_mut() = Failures::default();
    }
}

/// Whether a status says that the server is unwell. Others may have to do with what this one client sent,
/// which is not to keep the next from trying.
pub fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Opens an event stream, and reads as far as it says where messages go. Cancel safe: dropping it closes the
/// stream.
pub async fn dial(
    pool: &Rc<UpstreamPool>,
    url: &Url,
    request: &UpstreamRequest,
) -> Result<Opened, UpstreamError> {
    let get = UpstreamRequest::get().with_fields_of(request);
    let UpstreamResponse { head, body: mut stream } = *pool.send(&get, RequestKind::Stream).await?;
    if !head.status.is_success() {
        let said = stream.collect(ERROR_BYTES_MAX).await.unwrap_or_default();
        return Ok(Opened::Refused(head.status, said));
    }
    let nothing = |why: &str| UpstreamError::new(FailureStage::NoEndpoint, why);
    if !head.is_event_stream() || head.is_encoded {
        return Err(nothing("it answered a GET with what is no event stream"));
    }
    let (mut reader, mut seen_bytes) = (EventReader::new(), 0);
    loop {
        while let Some(event) =
            reader.next().map_err(|error| UpstreamError::new(FailureStage::NoEndpoint, error))?
        {
            if event.event_name.as_deref() == Some(ENDPOINT) {
                let endpoint = endpoint::resolve(url, event.data.as_deref().unwrap_or_default())?;
                return Ok(Opened::Stream(Box::new((endpoint, stream, reader))));
            }
        }
        if seen_bytes > PREFACE_BYTES_MAX {
            return Err(nothing("its event stream says much, and not where messages go"));
        }
        let chunk = stream.chunk().await.ok_or_else(|| nothing("its event stream ended at once"))??;
        seen_bytes += chunk.len();
        reader.push(chunk);
    }
}

/// The name of the event that says where messages go.
pub const ENDPOINT: &[u8] = b"endpoint";

fn session_id() -> Result<HeaderValue, UpstreamError> {
    let mut random = [0; 16];
    let failed = |error: String| UpstreamError::new(FailureStage::NotSent, error);
    getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
    let text = format!("{:032x}", u128::from_be_bytes(random));
    HeaderValue::from_str(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_fail_together_fail_once() {
        let mut failures = Failures::default();
        let began = Instant::now();
        sleep(Duration::from_secs(1)).await;
        (0..100).for_each(|_| failures.note(began));
        assert_eq!(failures.in_a_row(), 1);
        assert!(failures.backoff.wait(Instant::now()) <= Duration::from_millis(500));
        sleep(Duration::from_secs(1)).await;
        failures.note(Instant::now());
        assert_eq!(failures.in_a_row(), 2);
    }
}
