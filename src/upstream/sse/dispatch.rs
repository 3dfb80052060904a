//! The task that owns the event streams of one server: it takes the calls of the workers and dispatches them to
//! sessions.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::call::SseCall;
use super::session::{CallKind, CallLocation, SseHub, SseSession};
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{McpMethod, code};
use metamcp_http::FailureStage;
use metamcp_http::multiplex::{HttpOperation, LocalResponse, event_channel, known_method, raw_id};

/// Between two sweeps for idle connections, which are kept for some seconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A session without calls and listeners for this long was abandoned: the gateway ends those of its clients
/// earlier. Its client, if there still is one, gets another session with its next call.
const IDLE_TIMEOUT: Duration = Duration::from_hours(24);

impl SseHub {
    /// Dispatches calls until no worker can send any more, then closes all streams. Runs in a `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut calls: mpsc::Receiver<SseCall>,
        mut cancellations: mpsc::UnboundedReceiver<u64>,
    ) {
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                call = calls.recv() => match call {
                    Some(call) => self.dispatch(call),
                    None => break,
                },
                Some(number) = cancellations.recv() => self.cancel(number),
                _ = sweep.tick() => self.sweep(),
            }
        }
        for session in self.all_sessions() {
            session.close(FailureStage::NoResponse);
        }
    }

    /// Dispatches a call. All errors are reported to the call itself.
    fn dispatch(self: &Rc<Self>, call: SseCall) {
        match call.request.operation() {
            (HttpOperation::Post(message), session) => self.dispatch_message(call, message, session.as_ref()),
            (HttpOperation::Get, Some(session)) => match self.find_session(&session) {
                Some(session) => self.listen(call, &session),
                None => call.respond(Ok(LocalResponse::from_status(StatusCode::NOT_FOUND))),
            },
            (HttpOperation::Delete, Some(session)) => {
                let status = match self.find_session(&session) {
                    Some(session) => {
                        session.close(FailureStage::BodyIncomplete);
                        StatusCode::NO_CONTENT
                    }
                    None => StatusCode::NOT_FOUND,
                };
                call.respond(Ok(LocalResponse::from_status(status)));
            }
            (HttpOperation::Get | HttpOperation::Delete, None) => {
                call.respond(Ok(LocalResponse::from_status(StatusCode::METHOD_NOT_ALLOWED)));
            }
        }
    }

    fn dispatch_message(self: &Rc<Self>, call: SseCall, message: Bytes, session: Option<&HeaderValue>) {
        let scanned = self.scanner.borrow_mut().scan(&message);
        match (scanned, session) {
            (Ok(envelope), Some(session)) => self.dispatch_in_session(call, &message, &envelope, session),
            (Ok(envelope), None) => self.dispatch_without_session(call, message, envelope),
            (Err(refused), _) => {
                let id = refused.id.map_or(&b""[..], |id| id.span.slice(&message));
                let text = refused.error.to_string();
                let response =
                    LocalResponse::from_error(StatusCode::BAD_REQUEST, id, refused.error.code(), &text);
                call.respond(Ok(response));
            }
        }
    }

    /// Cancels a call whose client no longer waits for it.
    fn cancel(&self, number: u64) {
        let location = self.call_locations.borrow_mut().remove(&number);
        match location {
            Some(CallLocation::InFlight(session, number)) => {
                if let Some(session) = session.upgrade() {
                    session.cancel_abandoned(number);
                }
            }
            Some(CallLocation::ClientStream(session)) => {
                if let Some(session) = session.upgrade() {
                    session.close_client_stream(number);
                }
            }
            // The client never learned of its session.
            Some(CallLocation::Opening(session)) => {
                if let Some(session) = session.upgrade() {
                    session.close(FailureStage::NoResponse);
                }
            }
            // The call has ended, or has not begun; in that case it finds its reply channel closed.
            None => {}
        }
    }

    fn all_sessions(&self) -> Vec<Rc<SseSession>> {
        self.sessions.borrow().values().map(Rc::clone).collect()
    }

    /// Opens the event stream of a client.
    fn listen(&self, call: SseCall, session: &Rc<SseSession>) {
        if call.reply.is_closed() {
            // It would replace a stream that is read.
            return;
        }
        let (sink, source) = event_channel();
        session.open_client_stream(call.number, sink);
        let location = CallLocation::ClientStream(Rc::downgrade(session));
        self.call_locations.borrow_mut().insert(call.number, location);
        call.respond(Ok(LocalResponse::from_events(source)));
    }

    fn dispatch_in_session(&self, call: SseCall, message: &Bytes, envelope: &Envelope, id: &HeaderValue) {
        let Some(session) = self.find_session(id) else {
            return call.respond(Ok(LocalResponse::from_status(StatusCode::NOT_FOUND)));
        };
        match envelope.kind {
            MessageKind::Request => session.send_call(call, message, envelope, CallKind::Call),
            MessageKind::Response | MessageKind::Error => {
                let is_expected =
                    envelope.id.is_some_and(|id| session.take_server_request(id.span.slice(message)));
                if is_expected {
                    session.forward(call, message.clone());
                } else {
                    tracing::debug!(server = %self.target.name, "client responded to an unknown request");
                    call.respond(Ok(LocalResponse::from_status(StatusCode::ACCEPTED)));
                }
            }
            MessageKind::Notification if known_method(message, envelope) == Some(McpMethod::Cancelled) => {
                if let Some(id) = envelope.params.request_id {
                    session.cancel(&call.request, message, id.span);
                }
                call.respond(Ok(LocalResponse::from_status(StatusCode::ACCEPTED)));
            }
            MessageKind::Notification => session.forward(call, message.clone()),
        }
    }

    fn dispatch_without_session(self: &Rc<Self>, call: SseCall, message: Bytes, envelope: Envelope) {
        if envelope.kind != MessageKind::Request {
            return call.respond(Ok(LocalResponse::from_status(StatusCode::ACCEPTED)));
        }
        if known_method(&message, &envelope) == Some(McpMethod::Initialize) {
            spawn_local(Rc::clone(self).open_session(call, message, envelope));
            return;
        }
        let id = raw_id(&message, &envelope);
        let response =
            LocalResponse::from_error(StatusCode::BAD_REQUEST, id, code::LEGACY_TRANSPORT, NO_SESSION);
        call.respond(Ok(response));
    }

    /// Closes idle connections and abandoned sessions.
    fn sweep(&self) {
        self.http.sweep();
        let now = Instant::now();
        for session in self.all_sessions() {
            if session.is_idle_for(now, IDLE_TIMEOUT) {
                tracing::debug!(server = %self.target.name, "closing an abandoned session");
                session.close(FailureStage::NoResponse);
            }
        }
    }
}

/// Mentions nothing of the Modern era, so that a client that speaks both eras falls back to a session.
const NO_SESSION: &str =
    "this server is spoken to in sessions, of revision 2024-11-05; send `initialize` first";
