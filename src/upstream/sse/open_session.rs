//! Opening a session: an event stream, its `endpoint` event, and `initialize` sent there.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::call::SseCall;
use super::open_stream::{OpenStream, StreamOpening, is_server_failure, open_stream};
use super::session::{CallKind, CallLocation, SseHub, SseSession};
use metamcp_core::frame::Envelope;
use metamcp_http::UpstreamRequest;
use metamcp_http::multiplex::{LocalResponse, new_session_id};
use metamcp_http::{FailureStage, UpstreamError};

/// A call waits for a back-off of up to this long, and fails at once if it is longer.
const BACKOFF_WAIT_MAX: Duration = Duration::from_secs(2);

impl SseHub {
    /// Opens a session on an event stream of its own, and sends `initialize`.
    pub async fn open_session(self: Rc<Self>, mut call: SseCall, message: Bytes, envelope: Envelope) {
        let opened = tokio::select! {
            biased;
            () = call.reply.closed() => return,
            opened = self.open_stream(&call.request) => opened,
        };
        if call.reply.is_closed() {
            // The cancellation may have arrived before there was a session to close. A later one finds its
            // location.
            return;
        }
        let outcome = match opened {
            Ok((began, StreamOpening::Open(stream))) => match new_session_id() {
                Ok(id) => {
                    let OpenStream { endpoint, body, reader } = *stream;
                    let session = SseSession::new(&self, id, endpoint, call.number, began);
                    let location = CallLocation::Opening(Rc::downgrade(&session));
                    self.call_locations.borrow_mut().insert(call.number, location);
                    spawn_local(Rc::clone(&session).read(body, reader));
                    return session.send_call(call, &message, &envelope, CallKind::Initialize);
                }
                Err(error) => Err(error),
            },
            // Passed on as it is: the status says what is wrong, such as missing credentials.
            Ok((_, StreamOpening::Refused(status, error))) => {
                Ok(LocalResponse { status, ..LocalResponse::from_message(error) })
            }
            Err(error) => Err(error),
        };
        call.respond(outcome);
    }

    /// Opens an event stream after the back-off. Also returns when the attempt began.
    async fn open_stream(
        &self,
        request: &UpstreamRequest,
    ) -> Result<(Instant, StreamOpening), UpstreamError> {
        let wait = self.failures.borrow().wait(Instant::now());
        if wait > BACKOFF_WAIT_MAX {
            let failures = self.failures.borrow().count();
            let text =
                format!("failed {failures} times in a row; the next attempt is in {} s", wait.as_secs());
            return Err(UpstreamError::new(FailureStage::Connect, text));
        }
        sleep(wait).await;
        if !self.has_room() {
            return Err(UpstreamError::new(FailureStage::QueueFull, "the server has too many sessions"));
        }
        let began = Instant::now();
        // Once to connect, which is bounded by itself, and as long again for the first event.
        let limit = self.connect_timeout() * 2;
        let timed_out = |_elapsed| {
            Err(UpstreamError::new(
                FailureStage::NoEndpoint,
                "the event stream sent no event `endpoint` in time",
            ))
        };
        let opened = timeout(limit, open_stream(&self.http, &self.target.url, request))
            .await
            .unwrap_or_else(timed_out);
        match &opened {
            Ok(StreamOpening::Refused(status, _)) if is_server_failure(*status) => {
                self.record_failure(began, &format!("HTTP {}", status.as_u16()));
            }
            Ok(_) => {}
            Err(error) => self.record_failure(began, &error.to_string()),
        }
        opened.map(|opened| (began, opened))
    }
}
